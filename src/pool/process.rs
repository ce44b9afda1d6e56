//! One worker: its process, its pipes, and how far it is.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use zeroize::Zeroize;

use crate::exit::{Family, Point, SessionIdentifier};
use crate::sys::process::{self, Child, Signal};
use crate::worker::{Lines, VERSION};

use super::configuration::Configuration;
use super::said::Said;

/// Where a worker's programs are found.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A worker's state, as `spec/exits.md` has it.
//= spec/exits.md#states
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not said hello.
    Starting,
    /// It holds no session.
    Free,
    /// A question is with it.
    Busy,
    /// It holds sessions, none of which asks anything.
    Held,
    /// It gets no new session.
    Recycling,
    /// It is to end.
    Ending,
}

/// How far it is.
pub(super) enum Stage {
    /// Not greeted; by then it has to be.
    Starting(Instant),
    /// It is asked.
    Serving,
    /// It gets no new session.
    Recycling,
    /// It is to end: what it is sent next, and when.
    Ending(Signal, Instant),
}

/// What of a worker is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What it is written to.
    Input = 0,
    /// What it answers.
    Output = 1,
    /// What it says to the log.
    Errors = 2,
    /// Its end.
    Process = 3,
}

impl Part {
    /// The key of a worker's part in the poller.
    pub(super) fn key(self, worker: u64) -> u64 {
        worker << 2 | self as u64
    }

    /// Which worker, and which part.
    pub(super) fn of(key: u64) -> (u64, Self) {
        let part = match key & 3 {
            0 => Self::Input,
            1 => Self::Output,
            2 => Self::Errors,
            _ => Self::Process,
        };
        (key >> 2, part)
    }
}

/// A worker's process and pipes.
pub(super) struct Worker {
    pub(super) number: u64,
    pub(super) child: Child,
    pub(super) input: Option<OwnedFd>,
    pub(super) output: Option<OwnedFd>,
    pub(super) errors: Option<OwnedFd>,
    /// Taken out while it is read.
    pub(super) lines: Option<Lines>,
    pub(super) said: Said,
    /// Lines that are not all written, and how much of the first one is.
    out: VecDeque<Vec<u8>>,
    written: usize,
    pub(super) stage: Stage,
    pub(super) families: Vec<Family>,
    pub(super) holds: u32,
    pub(super) sessions: HashSet<SessionIdentifier>,
    /// Questions with it.
    pub(super) asked: usize,
    /// Whether it was ever asked anything.
    pub(super) was_asked: bool,
    /// Questions it has answered.
    pub(super) answered: u64,
    /// Numbers whose deadline has passed.
    pub(super) late: HashSet<u64>,
    /// It closed a pipe: by then its process has ended, or it has only closed it.
    pub(super) closed: Option<Instant>,
    /// Its standard error is not read before.
    pub(super) quiet: Option<Instant>,
    /// Bytes it has written since it was to end.
    pub(super) ignored: usize,
}

/// How long a worker whose pipe has ended may take to end.
const CLOSING: Duration = Duration::from_millis(500);

impl Worker {
    /// Starts the program.
    //= spec/exits.md#transport
    pub(super) fn start(
        number: u64,
        configuration: &Configuration,
        poller: &OwnedFd,
    ) -> io::Result<Self> {
        let (their_input, input) = pipe_with(PipeFlags::CLOEXEC)?;
        let (output, their_output) = pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, their_errors) = pipe_with(PipeFlags::CLOEXEC)?;
        // Our ends only: each end of a pipe has flags of its own.
        for ours in [&input, &output, &errors] {
            rustix::io::ioctl_fionbio(ours, true)?;
        }
        let mut command = Command::new(&configuration.program);
        command
            .args(&configuration.arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("BATON_EXITS", VERSION.to_string())
            .envs(
                configuration
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .current_dir("/")
            .stdin(Stdio::from(their_input))
            .stdout(Stdio::from(their_output))
            .stderr(Stdio::from(their_errors));
        let child = process::start(&mut command, configuration.bounds)?;
        // Its ends were in `command`: held here too, they would hide its end from us.
        drop(command);
        let worker = Self {
            number,
            child,
            input: Some(input),
            output: Some(output),
            errors: Some(errors),
            lines: Some(Lines::new(Point::LONGEST_LINE)),
            said: Said::new(),
            out: VecDeque::new(),
            written: 0,
            stage: Stage::Starting(Instant::now() + configuration.start_deadline),
            families: Vec::new(),
            holds: 0,
            sessions: HashSet::new(),
            asked: 0,
            was_asked: false,
            answered: 0,
            late: HashSet::new(),
            closed: None,
            quiet: None,
            ignored: 0,
        };
        match worker.watch(poller) {
            Ok(()) => Ok(worker),
            Err(error) => {
                let mut worker = worker;
                worker.close(true, poller);
                worker.signal(Signal::KILL);
                worker.wait(Instant::now() + CLOSING);
                Err(error)
            }
        }
    }

    fn watch(&self, poller: &OwnedFd) -> io::Result<()> {
        let add = |fd: Option<&OwnedFd>, part: Part| match fd {
            Some(fd) => self.add(poller, fd, part, EventFlags::IN),
            None => Ok(()),
        };
        add(self.output.as_ref(), Part::Output)?;
        add(self.errors.as_ref(), Part::Errors)?;
        match self.child.pidfd() {
            Some(pidfd) => self.add(poller, pidfd, Part::Process, EventFlags::IN),
            None => Ok(()),
        }
    }

    fn add(
        &self,
        poller: &OwnedFd,
        fd: impl AsFd,
        part: Part,
        flags: EventFlags,
    ) -> io::Result<()> {
        let data = EventData::new_u64(part.key(self.number));
        Ok(epoll::add(poller, fd, data, flags)?)
    }

    /// Its number as a process.
    pub(super) fn process_number(&self) -> u32 {
        self.child.pid()
    }

    /// Its state.
    pub(super) fn state(&self) -> State {
        match self.stage {
            Stage::Starting(_) => State::Starting,
            Stage::Serving if self.sessions.is_empty() => State::Free,
            Stage::Serving if self.asked > 0 => State::Busy,
            Stage::Serving => State::Held,
            Stage::Recycling => State::Recycling,
            Stage::Ending(..) => State::Ending,
        }
    }

    /// Whether it counts among those there are to be.
    pub(super) fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Starting(_) | Stage::Serving)
    }

    /// Sessions it has room for.
    pub(super) fn room(&self) -> usize {
        match self.stage {
            Stage::Serving => (self.holds as usize).saturating_sub(self.sessions.len()),
            _ => 0,
        }
    }

    /// When it is to be looked after.
    pub(super) fn due(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Starting(by) | Stage::Ending(_, by) => Some(by),
            _ => None,
        };
        [stage, self.closed, self.quiet].into_iter().flatten().min()
    }

    /// Writes a line, or keeps what does not fit; the line is wiped when it is written.
    pub(super) fn send(&mut self, line: Vec<u8>, poller: &OwnedFd) {
        let idle = self.out.is_empty();
        self.out.push_back(line);
        if idle
            && !self.flush()
            && let Some(input) = &self.input
        {
            // Where it cannot be waited for, the call's deadline ends it.
            let _ = self.add(poller, input, Part::Input, EventFlags::OUT);
        }
    }

    /// There is room in the pipe.
    pub(super) fn resume(&mut self, poller: &OwnedFd) {
        if self.flush()
            && let Some(input) = &self.input
        {
            let _ = epoll::delete(poller, input);
        }
    }

    /// Writes what fits. Answers whether all is written, or never will be.
    fn flush(&mut self) -> bool {
        while let (Some(line), Some(input)) = (self.out.front_mut(), &self.input) {
            match rustix::io::write(input, &line[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    if self.written == line.len() {
                        line.zeroize();
                        self.out.pop_front();
                        self.written = 0;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => {
                    self.has_closed();
                    return true;
                }
            }
        }
        true
    }

    /// It has closed a pipe. It may just be ending: then that is what is told.
    pub(super) fn has_closed(&mut self) {
        self.closed.get_or_insert(Instant::now() + CLOSING);
    }

    /// Closes pipes: its input, or all.
    pub(super) fn close(&mut self, all: bool, poller: &OwnedFd) {
        for line in &mut self.out {
            line.zeroize();
        }
        self.out.clear();
        self.written = 0;
        let (output, errors) = match all {
            true => (self.output.take(), self.errors.take()),
            false => (None, None),
        };
        for fd in [self.input.take(), output, errors].into_iter().flatten() {
            // It can only fail for a descriptor that is not in.
            let _ = epoll::delete(poller, &fd);
        }
        if all {
            (self.quiet, self.closed) = (None, None);
        }
    }

    /// Sends a signal to its process group. One that has ended is no error.
    pub(super) fn signal(&self, signal: Signal) {
        let told = self.child.kill_group(signal);
        // It may have left its group, for another one or one that is not its own.
        if told.is_err() || signal == Signal::KILL {
            let _ = self.child.kill(signal);
        }
    }

    /// Waits for one that was killed, no longer than until then.
    pub(super) fn wait(&mut self, by: Instant) {
        let _ = self.child.wait_until(by);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for line in &mut self.out {
            line.zeroize();
        }
    }
}
