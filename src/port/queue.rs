//! The queue of completions, and those who wait for them.
//!
//! Where no thread of the port's drives, one of those who wait does, and the others wait for it:
//! whoever leaves with a completion lets the next one drive.
//!
//! Invariants: it holds at most one completion for each operation that was started and each
//! environment that was closed, and [`EVENTS`] events. After its end nothing is handed to a waiter, and
//! everything that was not is handed to who ended it. Of those who wait at most one drives.

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
    /// Threads that wait to be notified.
    waiters: usize,
    /// One of those who wait drives.
    driving: bool,
    /// Who drives, or looks at the port's descriptor, sleeps, and is to be woken by what is posted.
    asleep: bool,
}

/// What one who waits does next, where no thread of the port's drives.
pub(super) enum Next<'a> {
    /// This has come.
    Take(Completion),
    /// Drive: nobody does.
    Drive(Driving<'a>),
}

/// The right to drive, of one thread.
pub(super) struct Driving<'a>(&'a Queue);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.0.state().driving = false;
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_destroyed(&self) -> bool {
        self.state().destroyed
    }

    /// Posts; after the end too, for who ended it. Whether the driver is to be woken.
    #[must_use = "a driver that sleeps has to be woken"]
    pub(super) fn post(&self, completion: Completion) -> bool {
        let state = self.state();
        self.push(state, completion)
    }

    fn push(&self, mut state: MutexGuard<'_, State>, completion: Completion) -> bool {
        state.ready.push_back(completion);
        let asleep = core::mem::take(&mut state.asleep);
        let waited_for = state.waiters > 0;
        drop(state);
        if waited_for {
            self.posted.notify_one();
        }
        asleep
    }

    /// Makes place for an event that will be posted.
    pub(super) fn admit_event(&self) -> Result<(), Code> {
        self.state().admit_event()
    }

    /// Posts an event. Whether the driver is to be woken.
    pub(super) fn post_event(&self, event: Completion) -> Result<bool, Code> {
        let mut state = self.state();
        state.admit_event()?;
        Ok(self.push(state, event))
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

    /// Tells the end of an environment, if somebody is to be told. Whether the driver is to be
    /// woken.
    //= spec/port.md#environment-end
    #[must_use = "a driver that sleeps has to be woken"]
    pub(super) fn end(&self, environment: u64, sessions: u64) -> bool {
        let mut state = self.state();
        match state.closing.remove(&environment) {
            Some(tag) => self.push(state, ended(tag, sessions, None)),
            None => false,
        }
    }

    //= spec/port.md#wait
    pub(super) fn wait(&self, timeout: Option<Duration>) -> Result<Completion, Error> {
        // A time that no clock reaches is for ever.
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.state();
        loop {
            if let Some(completion) = state.take()? {
                return Ok(completion);
            }
            state = self.sleep(state, until)?;
        }
    }

    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>, Error> {
        state.waiters += 1;
        let mut state = match until {
            None => self
                .posted
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    state.waiters -= 1;
                    return Err(Code::WaitTimeout.into());
                }
                let waited = self.posted.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.waiters -= 1;
        Ok(state)
    }

    /// For one who waits where no thread of the port's drives: waits for what comes next. `looked`
    /// once it has driven.
    //= spec/port.md#drivers
    pub(super) fn next(&self, until: Option<Instant>, looked: bool) -> Result<Next<'_>, Error> {
        let mut state = self.state();
        let next = loop {
            match state.take() {
                Ok(None) => {}
                Ok(Some(completion)) => break Ok(Next::Take(completion)),
                Err(destroyed) => break Err(destroyed.into()),
            }
            if looked && until.is_some_and(|until| until <= Instant::now()) {
                break Err(Code::WaitTimeout.into());
            }
            if !state.driving {
                state.driving = true;
                return Ok(Next::Drive(Driving(self)));
            }
            // Out of time: who drives will let another.
            state = self.sleep(state, until)?;
        };
        self.hand_over(&state);
        next
    }

    /// Lets another who waits drive on.
    fn hand_over(&self, state: &State) {
        if state.waiters > 0 && !state.driving {
            self.posted.notify_one();
        }
    }

    /// Drives no more, after an error.
    pub(super) fn stop_driving(&self, driving: Driving<'_>) {
        drop(driving);
        self.hand_over(&self.state());
    }

    /// Says that the driver will sleep, and is to be woken by what is posted; false when something
    /// is there already.
    pub(super) fn fall_asleep(&self) -> bool {
        let mut state = self.state();
        state.asleep = state.ready.is_empty() && !state.destroyed;
        state.asleep
    }

    /// Says that the driver is awake, and looks by itself.
    pub(super) fn wake_up(&self) {
        self.state().asleep = false;
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
    fn take(&mut self) -> Result<Option<Completion>, Code> {
        if self.destroyed {
            return Err(Code::PortDestroyed);
        }
        let completion = self.ready.pop_front();
        if completion
            .as_ref()
            .is_some_and(|completion| completion.operation == Operation::Event)
        {
            self.events -= 1;
        }
        Ok(completion)
    }

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
