//! Who drives a port: threads of its own, the caller turn by turn, or whoever waits; and how that ends.
//!
//! Invariants: of a port without threads one thread at a time drives; a callback is told apart from
//! other calls, since it must not wait for the turn it is part of.

use core::cell::Cell;
use core::time::Duration;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::driver::{Driver, Polling, Rest};
use super::queue::Next;
use super::{Code, Completion, Error, Shared};
use crate::sys::process;

thread_local! {
    /// The port that may call the application back in this thread at this moment, or 0.
    static CALLING: Cell<usize> = const { Cell::new(0) };
}

/// Who drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Threads of the port's.
    Threads,
    /// The caller, turn by turn.
    Turns,
    /// Whoever waits.
    Waiters,
}

impl Shared {
    /// Starts a driver's thread. It is not joined but counted: a handle to a thread that is not
    /// there is nothing a forked process should drop.
    pub(super) fn start(&self, driver: Arc<Driver>, polling: Polling) -> std::io::Result<()> {
        let threads = self.threads.clone();
        let count = |change: isize| {
            move |threads: &(Mutex<usize>, Condvar)| {
                let mut running = threads.0.lock().unwrap_or_else(PoisonError::into_inner);
                *running = running.saturating_add_signed(change);
                threads.1.notify_all();
            }
        };
        count(1)(&self.threads);
        let queue = self.queue.clone();
        let thread = std::thread::Builder::new().name("baton-port".to_owned());
        let spawned = thread.spawn(move || {
            driver.run(&queue, polling);
            count(-1)(&threads);
        });
        if let Err(error) = spawned {
            count(-1)(&self.threads);
            return Err(error);
        }
        Ok(())
    }

    /// Ends the driving, and waits until it has ended, but for a turn of this thread, whose
    /// callback this is.
    pub(super) fn end_drivers(&self) {
        self.drivers.iter().for_each(|driver| driver.stop());
        let here = self.is_driven_here();
        let own = usize::from(here && self.mode == Mode::Threads);
        let (running, ended) = &*self.threads;
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        while *running > own {
            running = ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        drop(running);
        if !here {
            drop(
                self.polling
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(),
            );
        }
    }

    /// One turn of the driver that has no thread.
    pub(super) fn turn(&self, limit: Option<Duration>, rest: Rest) -> Result<(), Error> {
        let Ok(mut polling) = self.polling.try_lock() else {
            self.alive()?;
            return Err(Code::InvalidState.into());
        };
        // It is gone with the port.
        let polling = polling.as_mut().ok_or(Code::PortDestroyed)?;
        let turned = self.drivers[0].turn(&self.queue, polling, limit, rest);
        turned.map_err(|error| Error::of_system(&error))
    }

    //= spec/port.md#drivers
    pub(super) fn wait_driving(&self, timeout: Option<Duration>) -> Result<Completion, Error> {
        // A time that no clock reaches is for ever.
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut looked = false;
        loop {
            match self.queue.next(until, looked)? {
                Next::Take(completion) => return Ok(completion),
                Next::Drive(driving) => {
                    let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
                    let turned = self.turn(limit, Rest::Waiter);
                    if let Err(error) = turned {
                        self.queue.stop_driving(driving);
                        return Err(error);
                    }
                    looked = true;
                }
            }
        }
    }

    pub(super) fn is_driven_by_waiters(&self) -> bool {
        self.mode == Mode::Waiters
    }

    /// Does what may call the application back.
    pub(super) fn calling_back<T>(&self, call: impl FnOnce() -> T) -> T {
        /// The one before counts again, however it ended.
        struct Before(usize);
        impl Drop for Before {
            fn drop(&mut self) {
                CALLING.set(self.0);
            }
        }
        let _before = Before(CALLING.replace(core::ptr::from_ref(self).addr()));
        call()
    }

    /// Whether this is a callback of this port's.
    pub(super) fn is_called_back(&self) -> bool {
        CALLING.get() == core::ptr::from_ref(self).addr()
    }

    /// Whether this thread drives: in a callback, then.
    pub(super) fn is_driven_here(&self) -> bool {
        self.drivers.iter().any(|driver| driver.is_turned_here())
    }

    pub(super) fn post(&self, completion: Completion) {
        if self.queue.post(completion) {
            self.wake();
        }
    }

    /// Wakes the one driver that has no thread.
    pub(super) fn wake(&self) {
        self.drivers[0].wake();
    }

    /// That this is the process of the port.
    //= spec/port.md#fork
    pub(super) fn here(&self) -> Result<(), Code> {
        match self.born == process::word() {
            true => Ok(()),
            false => Err(Code::PortForked),
        }
    }

    /// That the port is not destroyed.
    pub(super) fn alive(&self) -> Result<(), Code> {
        match self.queue.is_destroyed() {
            true => Err(Code::PortDestroyed),
            false => Ok(()),
        }
    }

    pub(super) fn check(&self) -> Result<(), Code> {
        self.here()?;
        self.alive()
    }

    /// A number for a session.
    pub(super) fn draw(&self) -> u64 {
        self.drawn.fetch_add(1, Ordering::Relaxed)
    }

    /// The driver of a session.
    pub(super) fn driver(&self, session: u64) -> Arc<Driver> {
        let number = session % self.drivers.len() as u64;
        self.drivers[number as usize].clone()
    }
}
