//! A lock that can live on a page the kernel wipes: all zero is unlocked.
//!
//! A forked child must never wait for a lock which a thread that does not exist there held at
//! the fork. On a wiped page the child finds every lock open, and what it guarded empty. The
//! standard library's locks do not promise what their bytes mean, so this one is ours: three
//! states over a futex, after U. Drepper, "Futexes are tricky" (2011), section 6.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use rustix::thread::futex;

const OPEN: u32 = 0;
const HELD: u32 = 1;
const WAITED_FOR: u32 = 2;

pub(super) struct Lock(AtomicU32);

/// Opens the lock when it goes.
pub(super) struct Held<'a>(&'a AtomicU32);

impl Lock {
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(OPEN))
    }

    /// Waits until the lock is open, and holds it.
    #[inline]
    pub(super) fn hold(&self) -> Held<'_> {
        if self
            .0
            .compare_exchange(OPEN, HELD, Acquire, Relaxed)
            .is_err()
        {
            self.wait();
        }
        Held(&self.0)
    }

    #[cold]
    fn wait(&self) {
        while self.0.swap(WAITED_FOR, Acquire) != OPEN {
            // Whatever the answer (woken, interrupted, no longer held), the swap decides.
            let _ = futex::wait(&self.0, futex::Flags::PRIVATE, WAITED_FOR, None);
        }
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.swap(OPEN, Release) == WAITED_FOR {
            let _ = futex::wake(self.0, futex::Flags::PRIVATE, 1);
        }
    }
}
