//! The supervisor: starts the other processes of the server and sees how each of them ends.
//!
//! Invariants: one thread, which waits for nothing but events; at most the planned number of
//! sessions; each session over here only when no process of it is left.
//!
//! SECURITY: it holds no private key but while it makes a development identity, no session's
//! keys, and reads nothing that a peer wrote. What its own processes tell it is checked as a
//! stranger's bytes are: whoever sends what makes no sense is killed and replaced.

// long: one loop, whose steps are read together.

mod beginning;
mod handshakers;
mod operators;
mod succession;

use operators::Operators;
use succession::Inherited;

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::Shutdown;
use rustix::process::{Signal, WaitOptions, wait};

use crate::ledger;
use crate::ledger::keeper::{Keeper, Options, Role as Member};
use crate::session::{Start, log};
use crate::succession::Program;
use crate::sys::signal::Watch;

use super::confine;
use super::handshaker::Handshaker;
use super::link::Link;
use super::poller::{Keys, Poller, Ready};
use super::reception::HANDSHAKE_LIMIT;
use super::sessions::{Pending, Sessions};
use super::subprocess::{Next, Subprocess};
use super::telling::{FromHandshaker, ToHandshaker};
use super::zygote::{Bounds, Zygote};
use super::{Error, Reload, Server, Terms};

/// How long sessions may go on after the first signal to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long they then have to obey.
const KILL_LIMIT: Duration = Duration::from_secs(1);
/// Messages of one process that are heard in one turn, so that nobody holds up the others.
const AT_ONCE: usize = 64;

/// What this process is when [`Serving::run`](super::Serving::run) comes back.
pub enum Role {
    /// The server, which has stopped.
    Stopped,
    /// What was the server: this process is it now.
    Succeeded(u32),
    /// A process of the server's own, which has done its part.
    Done,
    /// A process that is to run this session. Nothing of the server is left in it.
    Session(Box<Start>),
}

/// The domain within which sessions move: what is not used takes no memory.
pub(super) const KEPT: Options = Options {
    ledger: ledger::Options {
        capacity: 1 << 20,
        processes: 131_071,
        collect: true,
    },
    // What a handshaker may have established that no session has imported yet.
    quota: 4096,
    longest_transit: Duration::from_secs(60),
};

/// What a forked process is to be, with its end of the link.
pub(super) enum Forked {
    Zygote(Link),
    /// And its connection to the keeper.
    Handshaker(Link, OwnedFd),
}

/// A turn's outcome: go on, or leave the loop as another process.
type Turn = ControlFlow<Forked>;

pub(super) struct Supervisor {
    poller: Poller,
    keys: Keys,
    signals: Watch,
    signals_key: u64,
    listener: TcpListener,
    terms: Terms,
    reload: Option<Reload>,
    /// A handshaker of new terms, until it is ready or fails.
    candidate: Option<(Subprocess, Terms)>,
    /// Handshakers of old terms, while their handshakes go on.
    retiring: Vec<(Subprocess, Instant)>,
    zygote: Subprocess,
    /// Zygotes of the servers before this one: they fork nothing more, and wait for what they forked.
    earlier_zygotes: Vec<Subprocess>,
    handshaker: Subprocess,
    sessions: Sessions,
    /// Connections for which there was no process, or whose process died too early.
    unstarted: VecDeque<Pending>,
    retry: Option<Instant>,
    /// The candidate is to be forked at the end of the turn.
    fork_due: bool,
    /// What the handshaker was told last.
    accepting: bool,
    stopping: Stopping,
    keeper: Keeper,
    keeper_key: u64,
    operators: Operators,
    /// How a server that comes after this one is started.
    program: Option<Program>,
    /// A server that is to come after this one.
    successor: Option<succession::Coming>,
    /// It has begun.
    succeeded: Option<u32>,
}

#[derive(Clone, Copy)]
enum Stopping {
    No,
    /// Sessions may end by themselves until then.
    Waiting(Instant),
    /// They were told to end, and are killed then.
    Told(Instant),
}

/// Waits, without limit, until one of these can be read.
fn wait_readable<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = fds
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
    Ok(())
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::System(what, error)
}

/// What every process of the server that is forked here starts from.
struct Common {
    signals: Watch,
    listener: TcpListener,
    terms: Terms,
}

/// What a supervisor is made of, before it is the server.
struct Own {
    poller: Poller,
    keys: Keys,
    common: Common,
    zygote: Subprocess,
    handshaker: Subprocess,
}

/// What it does besides serving.
struct More {
    reload: Option<Reload>,
    program: Option<Program>,
    operators: Operators,
}

impl Own {
    /// The supervisor, which goes on with what it has inherited.
    fn supervisor(self, inherited: Inherited, more: More) -> Result<Supervisor, Error> {
        let Self {
            poller,
            mut keys,
            common,
            zygote,
            handshaker,
        } = self;
        let Common {
            signals,
            listener,
            terms,
        } = common;
        let (signals_key, keeper_key) = (keys.draw(), keys.draw());
        let keeper = inherited.keeper;
        poller
            .add(&signals, signals_key, EventFlags::IN)
            .and_then(|()| poller.add(&keeper, keeper_key, EventFlags::IN))
            .map_err(system("epoll"))?;
        let until = Instant::now() + HANDSHAKE_LIMIT;
        let retiring = inherited.handshakers.into_iter();
        Ok(Supervisor {
            poller,
            keys,
            signals,
            signals_key,
            listener,
            terms,
            reload: more.reload,
            candidate: None,
            retiring: retiring.map(|one| (one, until)).collect(),
            zygote,
            earlier_zygotes: inherited.zygotes,
            handshaker,
            sessions: inherited.sessions,
            // What waits for a process is tried at once.
            retry: inherited.unstarted.front().map(|_| Instant::now()),
            unstarted: inherited.unstarted,
            fork_due: false,
            accepting: true,
            stopping: Stopping::No,
            keeper,
            keeper_key,
            operators: more.operators,
            program: more.program,
            successor: None,
            succeeded: None,
        })
    }
}

/// Starts the processes. Comes back with the supervisor once the handshaker is ready, or, in a
/// forked process, with what that is to be.
//= spec/processes.md#start
pub(super) fn start(server: Server) -> Result<Result<Supervisor, Role>, Error> {
    confine::give_up_privileges().map_err(system("privileges"))?;
    // Processes that sessions leave behind become this one's children, to be waited for.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Error::System("child subreaper", error.into()))?;
    let keeper = match server.domain {
        super::Kept::New(keeper) => keeper,
        super::Kept::After(_) => return succession::start_after(server),
    };
    let own = Own {
        poller: Poller::new().map_err(system("epoll"))?,
        keys: Keys::default(),
        common: Common {
            signals: server.signals,
            listener: server.listener,
            terms: server.terms,
        },
        zygote: Subprocess::new("zygote"),
        handshaker: Subprocess::new("handshaker"),
    };
    let more = More {
        reload: server.reload,
        program: server.program,
        operators: Operators::new(server.control, server.passed),
    };
    let mut supervisor = own.supervisor(Inherited::nothing(*keeper), more)?;
    // The zygote first: it is forked from a process that has read no private key.
    if let Some(forked) = supervisor.fork_zygote().map_err(system("zygote"))? {
        return Ok(Err(supervisor.become_one(forked)));
    }
    if let Some(forked) = supervisor.fork_handshaker().map_err(system("handshaker"))? {
        return Ok(Err(supervisor.become_one(forked)));
    }
    supervisor.wait_until_ready()?;
    supervisor.open_control()?;
    Ok(Ok(supervisor))
}

impl Supervisor {
    /// Serves until a signal stops it; or until this is another process.
    pub(super) fn run(mut self) -> Result<Role, Error> {
        self.tell_service();
        while !self.is_done() {
            if let Some(process) = self.succeeded {
                return Ok(Role::Succeeded(process));
            }
            let due = self.next_due();
            let due = due.map(|due| due.saturating_duration_since(Instant::now()));
            let limit = due.into_iter().chain(self.keeper.due_in()).min();
            let ready = self.poller.wait(limit).map_err(system("epoll"))?;
            if let ControlFlow::Break(forked) = self.turn(&ready) {
                return Ok(self.become_one(forked));
            }
        }
        self.operators.control.close(&self.poller);
        Ok(Role::Stopped)
    }

    fn wait_until_ready(&mut self) -> Result<(), Error> {
        loop {
            match self.handshaker.next::<FromHandshaker>() {
                Next::Message(FromHandshaker::Ready, _) => return Ok(()),
                Next::Message(FromHandshaker::Loaded, _) => {}
                Next::Message(FromHandshaker::Failed { text }, _) => {
                    return Err(Error::Handshaker(text));
                }
                Next::Message(..) | Next::Broken(_) => {
                    return Err(Error::Handshaker("the handshaker did not start".to_owned()));
                }
                Next::Nothing => {
                    // It greets the keeper first.
                    let ends = self.handshaker.link().map(AsFd::as_fd);
                    wait_readable(ends.into_iter().chain([self.keeper.fd()]))
                        .map_err(system("poll"))?;
                    self.hear_members();
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        !matches!(self.stopping, Stopping::No) && self.sessions.is_empty()
    }

    /// Does what the members of the kept domain ask.
    fn hear_members(&mut self) {
        if let Err(error) = self.keeper.turn(Some(Duration::ZERO)) {
            log::line(format_args!("keeper: {error}"));
        }
        self.sessions.collect(&mut self.keeper);
    }

    /// When something is due although nothing happens.
    fn next_due(&self) -> Option<Instant> {
        let stop = match self.stopping {
            Stopping::No => None,
            Stopping::Waiting(until) | Stopping::Told(until) => Some(until),
        };
        if !matches!(self.stopping, Stopping::No) {
            // Nobody who ends now is replaced.
            let due = stop
                .into_iter()
                .chain(self.retry)
                .chain(self.sessions.due());
            return due.chain(self.operators.next_due()).min();
        }
        let subprocesses = [self.zygote.due(), self.handshaker.due()];
        subprocesses
            .into_iter()
            .flatten()
            .chain(stop)
            .chain(self.retry)
            .chain(self.sessions.due())
            .chain(self.retiring.iter().map(|(_, until)| *until))
            .chain(self.operators.next_due())
            .chain(self.successor.as_ref().map(succession::Coming::until))
            .min()
    }

    fn is_zygote(&self, key: u64) -> bool {
        let earlier = self.earlier_zygotes.iter();
        std::iter::once(&self.zygote)
            .chain(earlier)
            .any(|one| one.key() == key)
    }

    fn turn(&mut self, ready: &[Ready]) -> Turn {
        let mut settle = false;
        if self.keeper.due_in() == Some(Duration::ZERO) {
            self.hear_members();
        }
        for &(key, _) in ready {
            if key == self.signals_key {
                settle |= self.take_signals();
            } else if self.is_zygote(key) {
                settle |= self.hear_zygote(key);
            } else if let Some(which) = self.handshaker_of(key) {
                self.hear(which);
            } else if key == self.keeper_key {
                self.hear_members();
            } else if self.sessions.has(key) {
                self.sessions.read(key, &mut self.keeper, &self.poller);
                settle = true;
            } else if self.operators.control.has(key) {
                settle |= self.hear_operators(key);
            }
        }
        self.operators.control.expire(&self.poller);
        settle |= self.sessions.due().is_some_and(|due| due <= Instant::now());
        if settle {
            self.unstarted
                .extend(self.sessions.settle(&mut self.keeper));
            self.let_zygotes_go();
        }
        self.start_late(settle);
        self.press_on();
        self.press_successor();
        self.replace_ended()?;
        self.regulate();
        self.tell_service();
        // Last: what was heard before it is part of what it is given, and nothing is heard after.
        let coming = self.successor.as_ref().map(succession::Coming::key);
        if ready.iter().any(|(key, _)| Some(*key) == coming) {
            self.hear_successor();
        }
        Turn::Continue(())
    }

    // Signals and stopping.

    /// Answers whether a child has ended.
    fn take_signals(&mut self) -> bool {
        let mut child = false;
        // An error of the descriptor is told again by the poller.
        while let Ok(Some(signal)) = self.signals.next() {
            match signal {
                Signal::CHILD => child = true,
                Signal::USR2 => self.start_successor(),
                Signal::HUP => {
                    self.operators.service.reloading();
                    self.reload();
                }
                _ => self.stop(),
            }
        }
        if child {
            self.reap();
        }
        child
    }

    /// Waits for the children that have ended: the other processes of the server, and what sessions
    /// have left behind.
    fn reap(&mut self) {
        // What they have sent before they ended is as good as before.
        self.hear_zygote(self.zygote.key());
        for which in self.handshakers() {
            self.hear(which);
        }
        let next = || rustix::io::retry_on_intr(|| wait(WaitOptions::NOHANG));
        while let Ok(Some((pid, status))) = next() {
            let process = pid.as_raw_pid().unsigned_abs();
            let zygote = self.zygote.key();
            if self.zygote.has_ended(process, &self.poller) {
                self.sessions.zygote_ended(zygote, true);
            } else if !self.handshaker.has_ended(process, &self.poller) {
                let poller = &self.poller;
                let ended = self
                    .candidate
                    .as_mut()
                    .is_some_and(|(one, _)| one.has_ended(process, poller));
                if ended {
                    self.keep_old_terms(1);
                }
                self.retiring
                    .retain_mut(|(retiring, _)| !retiring.has_ended(process, &self.poller));
            }
            let status = ExitStatus::from_raw(status.as_raw());
            self.sessions
                .ended(process, status, &mut self.keeper, &self.poller);
        }
    }

    //= spec/processes.md#stop
    fn stop(&mut self) {
        let sessions = self.sessions.len();
        match self.stopping {
            Stopping::No => {
                self.stopping = Stopping::Waiting(Instant::now() + STOP_LIMIT);
                // Nobody listens any more, whichever process has the listener.
                if !self.operators.service.has_listener() {
                    let _ = rustix::net::shutdown(&self.listener, Shutdown::Read);
                }
                self.handshaker.send(&ToHandshaker::Stop, Vec::new());
                self.unstarted.clear();
                let candidate = self.candidate.take().map(|(one, _)| one);
                let retiring = self.retiring.drain(..).map(|(one, _)| one);
                for mut one in candidate.into_iter().chain(retiring) {
                    one.retire(&self.poller);
                }
                self.fork_due = false;
                log::line(format_args!(
                    "stopping: no new connections; {sessions} sessions have {} seconds",
                    STOP_LIMIT.as_secs()
                ));
            }
            Stopping::Waiting(_) => {
                self.stopping = Stopping::Told(Instant::now() + KILL_LIMIT);
                log::line(format_args!("stopping: ending {sessions} sessions"));
                self.sessions.kill(Signal::TERM);
            }
            Stopping::Told(_) => {}
        }
    }

    /// Ends what has not ended by itself in time.
    fn press_on(&mut self) {
        match self.stopping {
            Stopping::Waiting(until) if until <= Instant::now() => self.stop(),
            Stopping::Told(until) if until <= Instant::now() => {
                self.stopping = Stopping::Told(Instant::now() + KILL_LIMIT);
                self.sessions.kill(Signal::KILL);
            }
            _ => {}
        }
    }

    // The other processes.

    //= spec/processes.md#replaced
    fn replace_ended(&mut self) -> Turn {
        if !matches!(self.stopping, Stopping::No) {
            return Turn::Continue(());
        }
        if std::mem::take(&mut self.fork_due)
            && let Some((mut candidate, terms)) = self.candidate.take()
        {
            match self.fork_connected(&mut candidate) {
                Ok(Some(forked)) => {
                    self.terms = terms;
                    return Turn::Break(forked);
                }
                Ok(None) => self.candidate = Some((candidate, terms)),
                Err(error) => {
                    candidate.not_forked(&error);
                    self.keep_old_terms(1);
                }
            }
        }
        self.retiring.retain_mut(|(old, until)| {
            let goes_on = *until > Instant::now() && !old.is_down();
            if !goes_on {
                old.retire(&self.poller);
            }
            goes_on
        });
        if self.zygote.is_due() {
            match self.fork_zygote() {
                Ok(Some(forked)) => return Turn::Break(forked),
                Ok(None) => {
                    self.operators.tally.restarts.zygote += 1;
                    self.retry = Some(Instant::now());
                }
                Err(error) => self.zygote.not_forked(&error),
            }
        }
        if self.handshaker.is_due() {
            match self.fork_handshaker() {
                Ok(Some(forked)) => return Turn::Break(forked),
                // A new one accepts until it is told otherwise.
                Ok(None) => {
                    self.operators.tally.restarts.handshaker += 1;
                    self.operators.tally.handshakes.in_progress = 0;
                    self.accepting = true;
                }
                Err(error) => self.handshaker.not_forked(&error),
            }
        }
        Turn::Continue(())
    }

    /// In the new process, what it is to be.
    fn fork_zygote(&mut self) -> io::Result<Option<Forked>> {
        let link = self.zygote.fork(&self.poller, &mut self.keys)?;
        Ok(link.map(Forked::Zygote))
    }

    fn fork_handshaker(&mut self) -> io::Result<Option<Forked>> {
        let mut handshaker = std::mem::replace(&mut self.handshaker, Subprocess::new("handshaker"));
        let forked = self.fork_connected(&mut handshaker);
        self.handshaker = handshaker;
        forked
    }

    /// Forks a handshaker with a connection to the keeper.
    fn fork_connected(&mut self, handshaker: &mut Subprocess) -> io::Result<Option<Forked>> {
        let (_, keeper) = self.keeper.connect(Member::Handshaker)?;
        let link = handshaker.fork(&self.poller, &mut self.keys)?;
        Ok(link.map(|link| Forked::Handshaker(link, keeper)))
    }

    //= spec/processes.md#supervisor
    /// In a forked process: drops all that is the supervisor's, and is what it was forked for.
    fn become_one(self, forked: Forked) -> Role {
        let Self {
            poller,
            signals,
            listener,
            terms,
            zygote,
            handshaker,
            candidate,
            retiring,
            earlier_zygotes,
            sessions,
            unstarted,
            keeper,
            operators,
            successor,
            ..
        } = self;
        // First: it is dead here.
        drop(keeper);
        drop((operators, successor));
        drop((poller, zygote, handshaker, candidate, retiring));
        drop(earlier_zygotes);
        drop((sessions, unstarted));
        let common = Common {
            signals,
            listener,
            terms,
        };
        become_one(common, forked)
    }
}

/// In a forked process in which nothing of the supervisor is left: is what it was forked for.
fn become_one(common: Common, forked: Forked) -> Role {
    let Common {
        signals,
        listener,
        terms,
    } = common;
    log::set_form(terms.log);
    match forked {
        Forked::Zygote(link) => {
            drop(listener);
            let zygote = Zygote {
                link,
                signals,
                kind: terms.kind,
                hops: terms.hops,
                bounds: Bounds {
                    users: terms.users,
                    patience: terms.patience,
                    allowance: terms.allowance,
                },
            };
            zygote.run().map_or(Role::Done, Role::Session)
        }
        Forked::Handshaker(link, keeper) => {
            let handshaker = Handshaker {
                listener,
                keeper,
                link,
                users: terms.users,
                limits: terms.limits,
            };
            handshaker.run(terms.load);
            // Signals to stop are for the supervisor: until here they were kept from it.
            drop(signals);
            Role::Done
        }
    }
}
