//! What the supervisor hears of handshakers: the present one, and while terms change, that of the
//! new terms and that of the old.

use std::time::Instant;

use crate::session::log;

use super::super::Terms;
use super::super::link::Broken;
use super::super::reception::HANDSHAKE_LIMIT;
use super::super::sessions::Pending;
use super::super::subprocess::{Next, Subprocess};
use super::super::telling::{FromHandshaker, ToHandshaker};
use super::{AT_ONCE, Supervisor};

/// Which of the handshakers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Present,
    Candidate,
    /// The one whose link has this key.
    Retiring(u64),
}

impl Supervisor {
    /// Whose link has this key.
    pub(super) fn handshaker_of(&self, key: u64) -> Option<Which> {
        let is = |one: &Subprocess| one.key() == key;
        if is(&self.handshaker) {
            Some(Which::Present)
        } else if self.candidate.as_ref().is_some_and(|(one, _)| is(one)) {
            Some(Which::Candidate)
        } else {
            let retiring = self.retiring.iter().any(|(one, _)| is(one));
            retiring.then_some(Which::Retiring(key))
        }
    }

    /// Each of them.
    pub(super) fn handshakers(&self) -> Vec<Which> {
        let retiring = self.retiring.iter();
        let retiring = retiring.map(|(one, _)| Which::Retiring(one.key()));
        [Which::Present, Which::Candidate]
            .into_iter()
            .chain(retiring)
            .collect()
    }

    fn retiring_under(&mut self, key: u64) -> Option<&mut Subprocess> {
        let mut retiring = self.retiring.iter_mut().map(|(one, _)| one);
        retiring.find(|one| one.key() == key)
    }

    pub(super) fn hear(&mut self, which: Which) {
        for _ in 0..AT_ONCE {
            let one = match which {
                Which::Present => Some(&mut self.handshaker),
                Which::Candidate => self.candidate.as_mut().map(|(one, _)| one),
                Which::Retiring(key) => self.retiring_under(key),
            };
            let Some(one) = one else { return };
            let broken = match one.next::<FromHandshaker>() {
                Next::Nothing => return,
                Next::Broken(broken) => broken,
                Next::Message(FromHandshaker::Loaded, fds) if fds.is_empty() => continue,
                Next::Message(FromHandshaker::Ready, fds) if fds.is_empty() => match which {
                    Which::Candidate => return self.take_over(),
                    Which::Present | Which::Retiring(_) => continue,
                },
                Next::Message(FromHandshaker::Tally(counted), fds) if fds.is_empty() => {
                    self.operators.tally.handshakes.add(&counted);
                    continue;
                }
                Next::Message(FromHandshaker::Failed { text }, fds) if fds.is_empty() => {
                    let text = text.escape_debug();
                    log::line(format_args!("{text}"));
                    if which == Which::Candidate {
                        return self.keep_old_terms(1);
                    }
                    // It has nothing more to say.
                    Broken::Gone
                }
                Next::Message(message, fds) => match Pending::delivered(message, fds) {
                    Some(pending) if !self.sessions.is_running(&pending) => {
                        self.begin(pending);
                        continue;
                    }
                    _ => Broken::Garbage,
                },
            };
            let poller = &self.poller;
            match which {
                Which::Present => self.handshaker.give_up(&broken, poller),
                Which::Candidate => {
                    if let Some((one, _)) = &mut self.candidate {
                        one.give_up(&broken, poller);
                    }
                    self.keep_old_terms(1);
                }
                // It is taken out at the end of the turn.
                Which::Retiring(key) => {
                    let retiring = self.retiring.iter_mut().map(|(one, _)| one);
                    let mut retiring = retiring.filter(|one| one.key() == key);
                    if let Some(one) = retiring.next() {
                        one.give_up(&broken, poller);
                    }
                }
            }
            return;
        }
    }

    /// Asks for new terms. They hold once a handshaker of theirs is ready, all of them, or none.
    //= spec/configuration.md#reload
    pub(super) fn reload(&mut self) {
        match self.reload.as_mut().map(|reload| reload()) {
            Some(Ok(terms)) => {
                if let Some((mut earlier, _)) = self.candidate.take() {
                    // What was asked for last counts.
                    earlier.retire(&self.poller);
                }
                self.candidate = Some((Subprocess::new("handshaker"), terms));
                self.fork_due = true;
            }
            Some(Err(mistakes)) => {
                for mistake in &mistakes {
                    log::line(format_args!("{mistake}"));
                }
                self.keep_old_terms(mistakes.len());
            }
            None => {}
        }
    }

    pub(super) fn keep_old_terms(&mut self, mistakes: usize) {
        log::line(format_args!(
            "configuration not taken over ({mistakes} wrong): the old one goes on"
        ));
        if let Some((mut candidate, _)) = self.candidate.take() {
            candidate.retire(&self.poller);
        }
    }

    /// The candidate is ready: from now on its terms hold.
    fn take_over(&mut self) {
        let Some((candidate, terms)) = self.candidate.take() else {
            return;
        };
        // What waited for room may have it now.
        self.retry = Some(Instant::now());
        let of_zygote = |terms: &Terms| {
            let Terms {
                kind,
                hops,
                users,
                patience,
                allowance,
                ..
            } = terms;
            (kind.clone(), *hops, users.clone(), *patience, *allowance)
        };
        if of_zygote(&self.terms) != of_zygote(&terms) {
            // Its successor starts what begins from then on; what it was told to start, it starts.
            self.zygote.retire(&self.poller);
        }
        log::set_form(terms.log);
        self.terms = terms;
        let mut old = std::mem::replace(&mut self.handshaker, candidate);
        old.send(&ToHandshaker::Accept { yes: false }, Vec::new());
        self.retiring.push((old, Instant::now() + HANDSHAKE_LIMIT));
        self.accepting = true;
        log::line(format_args!("configuration read: it holds from now on"));
    }
}
