//! The supervisor: starts the other processes of the server and sees how each of them ends.
//!
//! Invariants: one thread, which waits for nothing but events; at most the planned number of
//! sessions; each session over here only when no process of it is left.
//!
//! SECURITY: it holds no private key but while it makes a development identity, no session's
//! keys, and reads nothing that a peer wrote. What its own processes tell it is checked as a
//! stranger's bytes are: whoever sends what makes no sense is killed and replaced.

mod beginning;
mod forked;
mod handshakers;
mod leftovers;
mod operators;
mod start;
mod stopping;
mod succession;

pub(super) use start::start;
#[cfg(any(test, feature = "fault"))]
pub(super) use succession::{Estate, Inherited, VERSION, inherit};

use forked::Forked;
use operators::Operators;
use start::system;
use stopping::Stopping;

use std::collections::VecDeque;
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions, wait};

use crate::ledger;
use crate::ledger::keeper::{Keeper, Options};
use crate::session::log;
use crate::succession::Program;
use crate::sys::signal::Watch;

use super::poller::{Keys, Poller, Ready};
use super::sessions::{Pending, Sessions};
use super::subprocess::Subprocess;
use super::{Error, Reload, RunSession, Terms};

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

/// A turn's outcome: go on, or leave the loop as another process.
type Turn = ControlFlow<Forked>;

pub(super) struct Supervisor {
    poller: Poller,
    keys: Keys,
    signals: Watch,
    signals_key: u64,
    listener: TcpListener,
    terms: Terms,
    session: RunSession,
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
            Stopping::Waiting(until) | Stopping::Told(until, _) => Some(until),
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
}
