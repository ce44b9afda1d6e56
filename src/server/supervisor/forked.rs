//! The processes that the supervisor forks: when one is replaced, and what a forked one becomes.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::ledger::keeper::Role as Member;
use crate::session::log;

use super::super::handshaker::Handshaker;
use super::super::link::Link;
use super::super::subprocess::Subprocess;
use super::super::zygote::{Bounds, Zygote};
use super::start::Common;
use super::stopping::Stopping;
use super::{Role, Supervisor, Turn};

/// What a forked process is to be, with its end of the link.
pub(in crate::server) enum Forked {
    Zygote(Link),
    /// And its connection to the keeper.
    Handshaker(Link, OwnedFd),
}

impl Supervisor {
    //= spec/processes.md#replaced
    pub(super) fn replace_ended(&mut self) -> Turn {
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
    pub(super) fn fork_zygote(&mut self) -> io::Result<Option<Forked>> {
        let link = self.zygote.fork(&self.poller, &mut self.keys)?;
        Ok(link.map(Forked::Zygote))
    }

    pub(super) fn fork_handshaker(&mut self) -> io::Result<Option<Forked>> {
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
    pub(super) fn become_one(self, forked: Forked) -> Role {
        let Self {
            poller,
            signals,
            listener,
            terms,
            session,
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
            session,
        };
        become_one(common, forked)
    }
}

/// In a forked process in which nothing of the supervisor is left: is what it was forked for.
pub(super) fn become_one(common: Common, forked: Forked) -> Role {
    let Common {
        signals,
        listener,
        terms,
        session,
    } = common;
    log::set_form(terms.log);
    match forked {
        Forked::Zygote(link) => {
            drop((listener, terms.load));
            let zygote = Zygote {
                link,
                signals,
                session,
                kind: terms.kind,
                hops: terms.hops,
                bounds: Bounds {
                    users: terms.users,
                    patience: terms.patience,
                    allowance: terms.allowance,
                },
            };
            zygote.run();
            Role::Done
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
