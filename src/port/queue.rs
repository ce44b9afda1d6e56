//! The queue of completions, and those who wait for them.
//!
//! Invariants: it holds at most one completion for each operation that was started and each
//! environment that was closed, and [`EVENTS`] events. After its end nothing is handed to a waiter, and
//! everything that was not is handed to who ended it.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Code, Completion, Error, Operation};

/// Events that can have been posted and not waited for, the delayed ones among them.
pub const EVENTS: usize = 65_536;

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    posted: Condvar,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Completion>,
    /// Events posted and not waited for.
    events: usize,
    /// Environments that are closed and not at their end, with the caller's tag.
    closing: HashMap<u64, u64>,
    destroyed: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_destroyed(&self) -> bool {
        self.state().destroyed
    }

    /// Posts; after the end too, for who ended it.
    pub(super) fn post(&self, completion: Completion) {
        self.state().ready.push_back(completion);
        self.posted.notify_one();
    }

    /// Makes place for an event that will be posted.
    pub(super) fn admit_event(&self) -> Result<(), Code> {
        self.state().admit_event()
    }

    /// Posts an event.
    pub(super) fn post_event(&self, event: Completion) -> Result<(), Code> {
        let mut state = self.state();
        state.admit_event()?;
        state.ready.push_back(event);
        self.posted.notify_one();
        Ok(())
    }

    /// Remembers that an environment's end is to be told.
    pub(super) fn expect_end(&self, environment: u64, tag: u64) -> Result<(), Code> {
        let mut state = self.state();
        if state.destroyed {
            return Err(Code::PortDestroyed);
        }
        state.closing.insert(environment, tag);
        Ok(())
    }

    /// Tells the end of an environment, if somebody is to be told.
    //= spec/port.md#environment-end
    pub(super) fn end(&self, environment: u64, sessions: u64) {
        let mut state = self.state();
        if let Some(tag) = state.closing.remove(&environment) {
            state.ready.push_back(ended(tag, sessions, None));
            self.posted.notify_one();
        }
    }

    //= spec/port.md#wait
    pub(super) fn wait(&self, timeout: Option<Duration>) -> Result<Completion, Error> {
        // A time that no clock reaches is for ever.
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.state();
        loop {
            if state.destroyed {
                return Err(Code::PortDestroyed.into());
            }
            if let Some(completion) = state.ready.pop_front() {
                if completion.operation == Operation::Event {
                    state.events -= 1;
                }
                return Ok(completion);
            }
            state = match until {
                None => self
                    .posted
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Code::WaitTimeout.into());
                    }
                    let waited = self.posted.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Ends it: from now on nobody waits. False when it was ended before.
    pub(super) fn destroy(&self) -> bool {
        let before = core::mem::replace(&mut self.state().destroyed, true);
        self.posted.notify_all();
        !before
    }

    /// What nobody has waited for, after the end.
    //= spec/port.md#destroy
    pub(super) fn drain(&self) -> Vec<Completion> {
        let mut state = self.state();
        let closing = core::mem::take(&mut state.closing);
        let unended = closing
            .into_values()
            .map(|tag| ended(tag, 0, Some(Code::PortDestroyed.into())));
        let ready = core::mem::take(&mut state.ready);
        ready.into_iter().chain(unended).collect()
    }
}

impl State {
    fn admit_event(&mut self) -> Result<(), Code> {
        if self.destroyed {
            return Err(Code::PortDestroyed);
        }
        if self.events == EVENTS {
            return Err(Code::EventsFull);
        }
        self.events += 1;
        Ok(())
    }
}

fn ended(tag: u64, sessions: u64, error: Option<Error>) -> Completion {
    Completion {
        operation: Operation::Ended,
        tag,
        session: None,
        value: sessions,
        data: Vec::new(),
        error,
    }
}
