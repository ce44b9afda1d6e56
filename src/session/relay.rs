//! A job that passes the plaintext on: to a command on two pipes, or to a user's terminal.
//!
//! Invariants: nothing here waits, so that neither direction can hold up the other; each
//! direction ends by itself, and its end is passed on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::flow::Flow;

/// What a pipe, or a terminal, that is said to be writable takes without waiting.
const ATOMIC: usize = 4096;

/// Two descriptors beside the session's plaintext.
pub struct Relay {
    /// Where the peer's data go; none once that direction has ended.
    to: Option<OwnedFd>,
    /// Where the data for the peer come from; none once that direction has ended.
    from: Option<OwnedFd>,
    /// Bytes written at once.
    chunk: usize,
    /// Whether the peer's end is the end of both directions.
    until_peer_ends: bool,
}

impl Relay {
    //= spec/sessions.md#exec
    /// Starts `command` with the plaintext on its descriptors 0 and 1, and answers its process
    /// number too. Descriptor 2 is this process's.
    ///
    /// The command's parent is this process: whoever that is reparented to reaps it.
    ///
    /// # Errors
    /// The system's, of the pipes or of starting the command.
    pub fn to_command(command: &mut Command) -> io::Result<(Self, u32)> {
        let (their_input, to) = pipe_with(PipeFlags::CLOEXEC)?;
        let (from, their_output) = pipe_with(PipeFlags::CLOEXEC)?;
        // Our ends only: each end of a pipe has flags of its own.
        rustix::io::ioctl_fionbio(&to, true)?;
        rustix::io::ioctl_fionbio(&from, true)?;
        command
            .stdin(Stdio::from(their_input))
            .stdout(Stdio::from(their_output));
        let started = command.spawn();
        // The command's ends were in `command`: held here too, they would hide its end from us.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = started?.id();
        let relay = Self {
            to: Some(to),
            from: Some(from),
            chunk: usize::MAX,
            until_peer_ends: false,
        };
        Ok((relay, process))
    }

    /// Passes what is read from `from` to the peer, and what the peer sends to `to`. Neither
    /// descriptor's flags are changed: both may be shared with other programs.
    ///
    /// Its end is the peer's end, even if `from` would have more.
    pub fn between(from: OwnedFd, to: OwnedFd) -> Self {
        Self {
            to: Some(to),
            from: Some(from),
            chunk: ATOMIC,
            until_peer_ends: true,
        }
    }

    /// Moves what can be moved without waiting. Answers whether both directions have ended.
    pub fn work(&mut self, flow: &mut Flow) -> bool {
        self.deliver(flow);
        if self.to.is_none() && self.until_peer_ends {
            // Nobody is left to send to: what a user has yet to type is not waited for.
            self.from = None;
        }
        self.collect(flow);
        if self.from.is_none() {
            flow.job_ended = true;
        }
        self.to.is_none() && self.from.is_none()
    }

    /// What to wait for: the descriptor to write to, and the one to read from.
    pub fn interest(&self, flow: &Flow) -> [Option<(BorrowedFd<'_>, PollFlags)>; 2] {
        // Without a flag asked for, the kernel still tells that the reader has gone.
        let write = if flow.inbox.is_empty() {
            PollFlags::empty()
        } else {
            PollFlags::OUT
        };
        let to = self.to.as_ref().map(|fd| (fd.as_fd(), write));
        let from = self.from.as_ref().filter(|_| flow.outbox.room() > 0);
        [to, from.map(|fd| (fd.as_fd(), PollFlags::IN))]
    }

    fn deliver(&mut self, flow: &mut Flow) {
        while let Some(to) = &self.to {
            let ready = readiness(to.as_fd(), PollFlags::OUT);
            if ready.intersects(PollFlags::ERR) {
                self.to = None;
                break;
            }
            if flow.inbox.is_empty() {
                if flow.peer_ended {
                    self.to = None;
                }
                break;
            }
            if !ready.intersects(PollFlags::OUT) {
                break;
            }
            let waiting = flow.inbox.as_slice();
            match rustix::io::write(to, &waiting[..waiting.len().min(self.chunk)]) {
                Ok(count) => flow.inbox.consume(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.to = None,
            }
        }
        if self.to.is_none() {
            // Nobody reads any more: what comes is dropped, so that the peer is not held up.
            flow.inbox.clear();
        }
    }

    fn collect(&mut self, flow: &mut Flow) {
        while let Some(from) = self.from.as_ref().filter(|_| flow.outbox.room() > 0) {
            if readiness(from.as_fd(), PollFlags::IN).is_empty() {
                break;
            }
            match rustix::io::read(from, flow.outbox.spare()) {
                Ok(0) => self.from = None,
                Ok(count) => flow.outbox.filled(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.from = None,
            }
        }
    }
}

/// What can be done with `fd` now; nothing, when the kernel does not say.
fn readiness(fd: BorrowedFd<'_>, wanted: PollFlags) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd, wanted)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut fds, Some(&now)) {
        Ok(_) => fds[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    /// Lets the relay do what it can; when that is nothing, waits until it can do something.
    fn turn(relay: &mut Relay, flow: &mut Flow) -> bool {
        let state = |flow: &Flow| (flow.inbox.len(), flow.outbox.len(), flow.job_ended);
        let before = state(flow);
        let over = relay.work(flow);
        if over || state(flow) != before {
            return over;
        }
        let waiting = relay.interest(flow);
        let mut fds: Vec<_> = waiting
            .iter()
            .flatten()
            .map(|(fd, f)| PollFd::from_borrowed_fd(*fd, *f))
            .collect();
        poll(&mut fds, None).unwrap();
        false
    }

    fn shell(script: &str) -> (Relay, u32) {
        Relay::to_command(Command::new("/bin/sh").args(["-c", script])).unwrap()
    }

    fn status(process: u32) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(process as i32);
        let (_, status) = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())
            .unwrap()
            .unwrap();
        status.exit_status()
    }

    #[test]
    fn a_command_that_writes_before_it_reads_does_not_lock_up() {
        // Both sides write more than the pipes hold, and read only afterwards.
        let (mut relay, process) = shell("head -c 1000000 /dev/zero; cat >/dev/null; exit 7");
        let mut flow = Flow::default();
        let (mut given, mut got) = (0, 0);
        loop {
            if given < 1_000_000 {
                given += flow.inbox.push(&[1; 4096]);
            } else {
                flow.peer_ended = true;
            }
            let over = turn(&mut relay, &mut flow);
            got += flow.outbox.len();
            flow.outbox.clear();
            if over {
                break;
            }
        }
        assert_eq!(got, 1_000_000);
        assert_eq!(status(process), Some(7));
    }

    #[test]
    fn the_peers_end_reaches_the_command_and_the_commands_end_the_peer() {
        let (mut relay, process) = shell("cat; echo after");
        let mut flow = Flow::default();
        flow.inbox.push(b"before\n");
        flow.peer_ended = true;
        while !turn(&mut relay, &mut flow) {}
        assert!(flow.job_ended);
        assert_eq!(flow.outbox.as_slice(), b"before\nafter\n");
        assert_eq!(status(process), Some(0));
    }

    #[test]
    fn a_command_may_close_its_output_and_go_on_reading() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut relay, process) = shell(&format!("exec >&-; cat >{}", file.path().display()));
        let mut flow = Flow::default();
        while !flow.job_ended {
            assert!(!turn(&mut relay, &mut flow));
        }
        flow.inbox.push(b"late");
        flow.peer_ended = true;
        while !turn(&mut relay, &mut flow) {}
        assert_eq!(status(process), Some(0));
        assert_eq!(std::fs::read(file.path()).unwrap(), b"late");
    }

    #[test]
    fn a_command_that_does_not_read_does_not_hold_up_the_peer() {
        let (mut relay, process) = shell("exec <&-; head -c 10 /dev/zero");
        let mut flow = Flow::default();
        let mut over = false;
        while !over {
            flow.inbox.push(&[0; 1024]);
            over = turn(&mut relay, &mut flow);
        }
        assert!(flow.inbox.is_empty());
        assert_eq!(flow.outbox.len(), 10);
        assert_eq!(status(process), Some(0));
    }

    #[test]
    fn a_command_that_is_not_there_is_an_error() {
        let error = Relay::to_command(&mut Command::new("/nonexistent/command"))
            .err()
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn shared_descriptors_are_never_waited_for() {
        // Blocking pipes, as a user's shell gives them: a full one and an empty one.
        let (their_end, to) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (from, their_other) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut relay = Relay::between(from, to);
        let mut flow = Flow::default();
        let mut given = 0;
        while flow.inbox.is_empty() {
            given += flow.inbox.push(&[7; 50_000]);
            assert!(!relay.work(&mut flow));
        }
        File::from(their_other).write_all(b"typed").unwrap();
        assert!(!relay.work(&mut flow));
        assert_eq!(flow.outbox.as_slice(), b"typed");
        assert!(flow.job_ended);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            File::from(their_end).read_to_end(&mut all).unwrap();
            all
        });
        flow.peer_ended = true;
        while !turn(&mut relay, &mut flow) {}
        assert_eq!(reader.join().unwrap().len(), given);
    }
}
