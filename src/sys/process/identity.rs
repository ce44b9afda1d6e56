//! Telling processes apart after their numbers were used again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{fstat, fstatfs, stat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};

use super::super::lock::Lock;
use super::super::page::PAGE;

/// What names one process for ever: no other process of this boot has the same.
///
/// The inode alone does where the kernel has it. Where not, number, start time and namespace do:
/// a number is not used again within the start time's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The process's number in its namespace.
    pub pid: u32,
    /// The inode of its pidfd, unique in one boot; 0 before Linux 6.9.
    pub inode: u64,
    /// When it started, in clock ticks (1/100 s) since boot: field 22 of `/proc/PID/stat`. 0 where
    /// the inode is known and this is not needed: it costs more than all the rest.
    pub started: u64,
    /// The inode of the process namespace in which `pid` counts.
    pub pid_namespace: u64,
}

impl Identity {
    /// This process's. The kernel is asked at the first call in a process, and not again.
    ///
    /// An error comes when `/proc` is not there.
    pub fn own() -> io::Result<Self> {
        PAGE.identity.get()
    }

    /// That of the process with this number in our namespace. `NotFound` when there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let inode = match open_pidfd(pid)? {
            Some(pidfd) => pidfd_inode(&pidfd)?,
            None => 0,
        };
        let started = if inode == 0 {
            stat_line(pid)?.started
        } else {
            0
        };
        Ok(Self {
            pid,
            inode,
            started,
            pid_namespace: pid_namespace()?,
        })
    }

    /// Whether the process still runs. A process that has ended and was not waited for does not.
    ///
    /// True also when it cannot be known: a number of another namespace, or no descriptor left to
    /// look with. False is certain.
    pub fn alive(&self) -> bool {
        self.looks_alive().unwrap_or(true)
    }

    fn looks_alive(&self) -> io::Result<bool> {
        if Self::own()?.pid_namespace != self.pid_namespace {
            return Ok(true);
        }
        match open_pidfd(self.pid) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
            Ok(None) => {}
            Ok(Some(pidfd)) => {
                if !pidfd_runs(&pidfd)? {
                    return Ok(false);
                }
                if self.inode != 0 {
                    return Ok(pidfd_inode(&pidfd)? == self.inode);
                }
            }
        }
        // A process hidden from us has no file: then the error says that it cannot be known.
        let found = stat_line(self.pid)?;
        if matches!(found.state, b'Z' | b'X') {
            return Ok(false);
        }
        // With an inode that we cannot compare, and no start time, a process of this number is all
        // there is to know.
        Ok(self.started == 0 || found.started == self.started)
    }
}

/// This process's identity, on the page that a child finds wiped.
pub(in crate::sys) struct OwnIdentity {
    lock: Lock,
    known: AtomicBool,
    pid: AtomicU64,
    inode: AtomicU64,
    started: AtomicU64,
    pid_namespace: AtomicU64,
}

impl OwnIdentity {
    pub(in crate::sys) const fn new() -> Self {
        Self {
            lock: Lock::new(),
            known: AtomicBool::new(false),
            pid: AtomicU64::new(0),
            inode: AtomicU64::new(0),
            started: AtomicU64::new(0),
            pid_namespace: AtomicU64::new(0),
        }
    }

    fn get(&self) -> io::Result<Identity> {
        super::supported()?;
        if !self.known.load(Acquire) {
            let _held = self.lock.hold();
            // A second thread that waited asks again, and stores the same.
            let own = Identity::of(super::pid())?;
            self.pid.store(u64::from(own.pid), Relaxed);
            self.inode.store(own.inode, Relaxed);
            self.started.store(own.started, Relaxed);
            self.pid_namespace.store(own.pid_namespace, Relaxed);
            self.known.store(true, Release);
        }
        Ok(Identity {
            pid: self.pid.load(Relaxed) as u32,
            inode: self.inode.load(Relaxed),
            started: self.started.load(Relaxed),
            pid_namespace: self.pid_namespace.load(Relaxed),
        })
    }
}

/// A descriptor of the process with this number: none before Linux 5.3 (or where a filter hides
/// the call), `NotFound` when there is no such process.
pub fn open_pidfd(pid: u32) -> io::Result<Option<OwnedFd>> {
    let number = to_pid(pid)?;
    match pidfd_open(number, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(Errno::SRCH) => Err(io::ErrorKind::NotFound.into()),
        // The number of a thread that does not lead a process, says a newer or an older kernel.
        Err(Errno::INVAL | Errno::NOENT) => Err(io::ErrorKind::NotFound.into()),
        Err(Errno::NOSYS | Errno::PERM) => match test_kill_process(number) {
            Err(Errno::SRCH) => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(None),
        },
        Err(error) => Err(error.into()),
    }
}

/// The inode of a pidfd: as long as the machine runs, of no other process. 0 before Linux 6.9,
/// where all pidfds have the same.
pub fn pidfd_inode(pidfd: impl AsFd) -> io::Result<u64> {
    /// `PID_FS_MAGIC` of `linux/magic.h`.
    const PIDFS: u64 = 0x5049_4446;
    let pidfd = pidfd.as_fd();
    if fstatfs(pidfd)?.f_type as u64 != PIDFS {
        return Ok(0);
    }
    Ok(fstat(pidfd)?.st_ino)
}

/// Whether the process of a pidfd still runs; one that has ended, waited for or not, does not.
pub fn pidfd_runs(pidfd: impl AsFd) -> io::Result<bool> {
    let pidfd: BorrowedFd<'_> = pidfd.as_fd();
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // A time-out of zero is not interrupted. Readable means ended.
    Ok(poll(&mut fds, Some(&now))? == 0)
}

fn to_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::NotFound.into())
}

fn pid_namespace() -> io::Result<u64> {
    Ok(stat("/proc/self/ns/pid")?.st_ino)
}

struct StatLine {
    state: u8,
    started: u64,
}

fn stat_line(pid: u32) -> io::Result<StatLine> {
    let line = std::fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&line).ok_or(io::ErrorKind::InvalidData.into())
}

/// proc_pid_stat(5): the second field, the program's name in parentheses, is chosen by the
/// program and may hold anything; the last parenthesis of the line ends it.
fn parse_stat(line: &[u8]) -> Option<StatLine> {
    let name_end = line.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(&line[name_end + 1..]).ok()?;
    // The state is field 3, the start time field 22.
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let started = fields.nth(22 - 3 - 1)?.parse().ok()?;
    Some(StatLine { state, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_program_name_does_not_move_the_fields() {
        let line = b"7 (a) Z 1 (b) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 99 0 0";
        let parsed = parse_stat(line).unwrap();
        assert_eq!((parsed.state, parsed.started), (b'S', 99));
        assert!(parse_stat(b"7 (a) S 1").is_none());
        assert!(parse_stat(b"").is_none());
    }
}
