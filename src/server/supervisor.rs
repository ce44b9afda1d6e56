//! The supervisor: starts the other processes of the server and sees how each of them ends.
//!
//! Invariants: one thread, which waits for nothing but events; at most the planned number of
//! sessions; each session over here only when no process of it is left.
//!
//! SECURITY: it holds no private key but while it makes a development identity, no session's
//! keys, and reads nothing that a peer wrote. What its own processes tell it is checked as a
//! stranger's bytes are: whoever sends what makes no sense is killed and replaced.

mod handshakers;

use handshakers::Which;

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::net::Shutdown;
use rustix::process::{Signal, WaitOptions, wait};

use crate::ledger::Domain;
use crate::session::{Start, log, report};
use crate::sys::signal::Watch;

use super::confine;
use super::handshaker::Handshaker;
use super::link::Link;
use super::poller::{Keys, Poller, Ready};
use super::reception::MOST_HANDSHAKES;
use super::sessions::{Pending, Sessions};
use super::subprocess::{Next, Subprocess};
use super::telling::{FromHandshaker, FromZygote, ToHandshaker, ToZygote};
use super::zygote::Zygote;
use super::{Error, Reload, Server, Terms};

/// How long sessions may go on after the first signal to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long they then have to obey.
const KILL_LIMIT: Duration = Duration::from_secs(1);
/// Messages of one process that are heard in one turn, so that nobody holds up the others.
const AT_ONCE: usize = 64;
/// When a session for which there was no process is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What this process is when [`Serving::run`](super::Serving::run) comes back.
pub enum Role {
    /// The server, which has stopped.
    Stopped,
    /// A process of the server's own, which has done its part.
    Done,
    /// A process that is to run this session. Nothing of the server is left in it.
    Session(Box<Start>),
}

/// What a forked process is to be, with its end of the link.
pub(super) enum Forked {
    Zygote(Link),
    Handshaker(Link),
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
    /// The handshaker of old terms, while its handshakes go on.
    retiring: Option<(Subprocess, Instant)>,
    zygote: Subprocess,
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
    domain: Domain,
}

#[derive(Clone, Copy)]
enum Stopping {
    No,
    /// Sessions may end by themselves until then.
    Waiting(Instant),
    /// They were told to end, and are killed then.
    Told(Instant),
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::System(what, error)
}

/// Starts the processes. Comes back with the supervisor once the handshaker is ready, or, in a
/// forked process, with what that is to be.
//= spec/processes.md#start
pub(super) fn start(server: Server) -> Result<Result<Supervisor, Role>, Error> {
    confine::give_up_privileges().map_err(system("privileges"))?;
    // Processes that sessions leave behind become this one's children, to be waited for.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Error::System("child subreaper", error.into()))?;
    let mut keys = Keys::default();
    let signals_key = keys.draw();
    let poller = Poller::new().map_err(system("epoll"))?;
    poller
        .add(&server.signals, signals_key, EventFlags::IN)
        .map_err(system("epoll"))?;
    let (zygote, handshaker) = (Subprocess::new("zygote"), Subprocess::new("handshaker"));
    let mut supervisor = Supervisor {
        poller,
        keys,
        signals: server.signals,
        signals_key,
        listener: server.listener,
        terms: server.terms,
        reload: server.reload,
        candidate: None,
        retiring: None,
        zygote,
        handshaker,
        sessions: Sessions::default(),
        unstarted: VecDeque::new(),
        retry: None,
        fork_due: false,
        accepting: true,
        stopping: Stopping::No,
        domain: server.domain,
    };
    // The zygote first: it is forked from a process that has read no private key.
    if let Some(forked) = supervisor.fork_zygote().map_err(system("zygote"))? {
        return Ok(Err(supervisor.become_one(forked)));
    }
    if let Some(forked) = supervisor.fork_handshaker().map_err(system("handshaker"))? {
        return Ok(Err(supervisor.become_one(forked)));
    }
    supervisor.wait_until_ready()?;
    Ok(Ok(supervisor))
}

impl Supervisor {
    /// Serves until a signal stops it; or until this is another process.
    pub(super) fn run(mut self) -> Result<Role, Error> {
        while !self.is_done() {
            let limit = self.next_due();
            let limit = limit.map(|due| due.saturating_duration_since(Instant::now()));
            let ready = self.poller.wait(limit).map_err(system("epoll"))?;
            if let ControlFlow::Break(forked) = self.turn(&ready) {
                return Ok(self.become_one(forked));
            }
        }
        Ok(Role::Stopped)
    }

    fn wait_until_ready(&mut self) -> Result<(), Error> {
        loop {
            match self.handshaker.next::<FromHandshaker>() {
                Next::Message(FromHandshaker::Ready, _) => return Ok(()),
                Next::Message(FromHandshaker::Failed { text }, _) => {
                    return Err(Error::Handshaker(text));
                }
                Next::Message(FromHandshaker::Delivery { .. }, _) | Next::Broken(_) => {
                    return Err(Error::Handshaker("the handshaker did not start".to_owned()));
                }
                Next::Nothing => self.handshaker.wait_readable().map_err(system("poll"))?,
            }
        }
    }

    fn is_done(&self) -> bool {
        !matches!(self.stopping, Stopping::No) && self.sessions.is_empty()
    }

    /// When something is due although nothing happens.
    fn next_due(&self) -> Option<Instant> {
        let stop = match self.stopping {
            Stopping::No => None,
            Stopping::Waiting(until) | Stopping::Told(until) => Some(until),
        };
        if !matches!(self.stopping, Stopping::No) {
            // Nobody who ends now is replaced.
            return stop.into_iter().chain(self.retry).min();
        }
        let subprocesses = [self.zygote.due(), self.handshaker.due()];
        subprocesses
            .into_iter()
            .flatten()
            .chain(stop)
            .chain(self.retry)
            .chain(self.retiring.as_ref().map(|(_, until)| *until))
            .min()
    }

    fn turn(&mut self, ready: &[Ready]) -> Turn {
        let mut settle = false;
        for &(key, _) in ready {
            if key == self.signals_key {
                settle |= self.take_signals();
            } else if key == self.zygote.key() {
                settle |= self.hear_zygote();
            } else if let Some(which) = self.handshaker_of(key) {
                self.hear(which);
            } else if self.sessions.has(key) {
                self.sessions.read(key, &self.poller);
                settle = true;
            }
        }
        if settle {
            self.unstarted.extend(self.sessions.settle(&self.domain));
        }
        self.start_late(settle);
        self.press_on();
        self.replace_ended()?;
        self.regulate();
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
                Signal::HUP => self.reload(),
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
        self.hear_zygote();
        for which in [Which::Present, Which::Candidate, Which::Retiring] {
            self.hear(which);
        }
        let next = || rustix::io::retry_on_intr(|| wait(WaitOptions::NOHANG));
        while let Ok(Some((pid, status))) = next() {
            let process = pid.as_raw_pid().unsigned_abs();
            if self.zygote.has_ended(process, &self.poller) {
                self.sessions.zygote_ended();
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
                    .take_if(|(retiring, _)| retiring.has_ended(process, &self.poller));
            }
            let status = ExitStatus::from_raw(status.as_raw());
            self.sessions
                .ended(process, status, &self.domain, &self.poller);
        }
    }

    //= spec/processes.md#stop
    fn stop(&mut self) {
        let sessions = self.sessions.len();
        match self.stopping {
            Stopping::No => {
                self.stopping = Stopping::Waiting(Instant::now() + STOP_LIMIT);
                // Nobody listens any more, whichever process has the listener.
                let _ = rustix::net::shutdown(&self.listener, Shutdown::Read);
                self.handshaker.send(&ToHandshaker::Stop, Vec::new());
                self.unstarted.clear();
                for one in [
                    self.candidate.take().map(|(one, _)| one),
                    self.retiring.take().map(|(one, _)| one),
                ] {
                    one.into_iter().for_each(|mut one| one.retire(&self.poller));
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

    // From handshake to session.

    /// Has a process started for a session. What cannot be started now is kept for later.
    fn begin(&mut self, pending: Pending) {
        let stopping = !matches!(self.stopping, Stopping::No);
        // More than a handshaker that obeys can deliver, or what it may not: an identifier twice.
        let beyond = self.unstarted.len() > 2 * MOST_HANDSHAKES;
        if stopping || beyond || self.sessions.is_running(&pending) {
            // Its connection closes; its context ends when the ledger is swept.
            return;
        }
        if self.sessions.len() >= self.terms.sessions || self.zygote.is_down() {
            self.unstarted.push_back(pending);
            return;
        }
        if let Err((pending, error)) = self.try_begin(pending) {
            log::of_session(
                pending.introduction.session(),
                format_args!(" has no process yet: {error}",),
            );
            self.unstarted.push_back(pending);
            self.retry = Some(Instant::now() + RETRY);
        }
    }

    #[allow(clippy::result_large_err)]
    fn try_begin(&mut self, pending: Pending) -> Result<(), (Pending, io::Error)> {
        let made = report::channel().and_then(|(reporter, reports)| {
            Ok((
                pending.socket.try_clone()?,
                OwnedFd::from(reporter),
                reports,
            ))
        });
        let (socket, reporter, reports) = match made {
            Ok(made) => made,
            Err(error) => return Err((pending, error)),
        };
        let key = self.keys.draw();
        if let Err(error) = self.poller.add(&reports, key, EventFlags::IN) {
            return Err((pending, error));
        }
        let order = ToZygote::Start {
            introduction: pending.introduction.clone(),
            parcel: pending.parcel.clone(),
        };
        self.sessions.ordered(key, pending, reports);
        self.zygote.send(&order, vec![socket, reporter]);
        Ok(())
    }

    /// Answers whether something may be over.
    fn hear_zygote(&mut self) -> bool {
        let mut settle = false;
        for _ in 0..AT_ONCE {
            match self.zygote.next::<FromZygote>() {
                Next::Nothing => return settle,
                Next::Broken(broken) => {
                    self.zygote.give_up(&broken, &self.poller);
                    return settle;
                }
                Next::Message(message, _) => match message {
                    FromZygote::Started { session, process } => {
                        self.sessions.started(session.into(), process);
                    }
                    FromZygote::NotStarted { session, error } => {
                        let error = io::Error::from_raw_os_error(error);
                        if let Some(pending) =
                            self.sessions.not_started(session.into(), &self.poller)
                        {
                            let session = pending.introduction.session();
                            log::of_session(session, format_args!(" has no process yet: {error}"));
                            self.unstarted.push_back(pending);
                            self.retry = Some(Instant::now() + RETRY);
                        }
                    }
                    FromZygote::Ended { process, status } => {
                        let status = ExitStatus::from_raw(status);
                        let domain = &self.domain;
                        self.sessions.ended(process, status, domain, &self.poller);
                        settle = true;
                    }
                },
            }
        }
        settle
    }

    /// Starts what could not be started before, when its time or a place has come.
    fn start_late(&mut self, settled: bool) {
        let due = self.retry.is_some_and(|retry| retry <= Instant::now());
        if !due && (!settled || self.retry.is_some()) {
            return;
        }
        self.retry = None;
        for _ in 0..self.unstarted.len() {
            if let Some(pending) = self.unstarted.pop_front() {
                self.begin(pending);
            }
        }
    }

    /// Tells the handshaker whether there is room for more.
    fn regulate(&mut self) {
        let room = self.unstarted.is_empty()
            && self.sessions.len() < self.terms.sessions
            && !self.zygote.is_full();
        if room != self.accepting {
            self.accepting = room;
            self.handshaker
                .send(&ToHandshaker::Accept { yes: room }, Vec::new());
        }
        self.zygote.watch_again(&self.poller);
        self.handshaker.watch_again(&self.poller);
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
            match candidate.fork(&self.poller, &mut self.keys) {
                Ok(Some(link)) => {
                    self.terms = terms;
                    return Turn::Break(Forked::Handshaker(link));
                }
                Ok(None) => self.candidate = Some((candidate, terms)),
                Err(error) => {
                    candidate.not_forked(&error);
                    self.keep_old_terms(1);
                }
            }
        }
        if let Some((mut old, _)) = self.retiring.take_if(|(_, until)| *until <= Instant::now()) {
            old.retire(&self.poller);
        }
        if self.zygote.is_due() {
            match self.fork_zygote() {
                Ok(Some(forked)) => return Turn::Break(forked),
                Ok(None) => self.retry = Some(Instant::now()),
                Err(error) => self.zygote.not_forked(&error),
            }
        }
        if self.handshaker.is_due() {
            match self.fork_handshaker() {
                Ok(Some(forked)) => return Turn::Break(forked),
                // A new one accepts until it is told otherwise.
                Ok(None) => self.accepting = true,
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
        let link = self.handshaker.fork(&self.poller, &mut self.keys)?;
        Ok(link.map(Forked::Handshaker))
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
            sessions,
            unstarted,
            domain,
            ..
        } = self;
        drop((poller, zygote, handshaker, candidate, retiring));
        drop((sessions, unstarted));
        log::set_form(terms.log);
        match forked {
            Forked::Zygote(link) => {
                drop(listener);
                let zygote = Zygote {
                    link,
                    signals,
                    kind: terms.kind,
                    hops: terms.hops,
                    domain,
                };
                zygote.run().map_or(Role::Done, Role::Session)
            }
            Forked::Handshaker(link) => {
                let handshaker = Handshaker {
                    listener,
                    domain,
                    link,
                };
                handshaker.run(terms.load);
                // Signals to stop are for the supervisor: until here they were kept from it.
                drop(signals);
                Role::Done
            }
        }
    }
}
