//! What the tests with real processes share: a board to write on, children, and their ends.
#![allow(dead_code)] // No test uses all of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use baton::ledger::{Claim, ContextId, Departure, Ledger, Options, Refusal};
use baton::sys::memory::Mapping;
use baton::sys::process::{Child, Fork, Signal, exit_now, fork};
use rustix::event::{PollFd, PollFlags, poll};

/// No deadline.
pub(crate) const NEVER: u64 = u64::MAX;

/// Words that the processes of a test share, to tell each other what happened.
pub(crate) struct Board(pub(crate) Mapping);

impl Board {
    pub(crate) fn new() -> Self {
        Self(Mapping::create_sealed("board", 4096).expect("memory"))
    }

    pub(crate) fn word(&self, place: usize) -> &AtomicU64 {
        &self.0.as_words()[place]
    }

    pub(crate) fn get(&self, place: usize) -> u64 {
        self.word(place).load(SeqCst)
    }

    pub(crate) fn set(&self, place: usize, value: u64) {
        self.word(place).store(value, SeqCst);
    }

    /// Counts one, and answers how many there are now.
    pub(crate) fn count(&self, place: usize) -> u64 {
        self.word(place).fetch_add(1, SeqCst) + 1
    }

    /// Lets others run until a word has come to `value`.
    pub(crate) fn wait(&self, place: usize, value: u64) {
        while self.get(place) < value {
            std::thread::yield_now();
        }
    }

    /// Four words.
    pub(crate) fn write_token(&self, place: usize, token: &Departure) {
        let (first, second) = token.id.split_at(8);
        self.set(place, token.index.into());
        self.set(place + 1, u64::from_ne_bytes(first.try_into().expect("8")));
        self.set(place + 2, u64::from_ne_bytes(second.try_into().expect("8")));
        self.set(place + 3, token.epoch);
    }

    pub(crate) fn token(&self, place: usize) -> Departure {
        let halves = [self.get(place + 1), self.get(place + 2)].map(u64::to_ne_bytes);
        let id: ContextId = halves.concat().try_into().expect("16");
        Departure {
            index: self.get(place) as u32,
            id,
            epoch: self.get(place + 3),
        }
    }
}

pub(crate) fn arrive(ledger: &Ledger, token: &Departure) -> Result<Claim, Refusal> {
    ledger.arrive(token.index, &token.id, token.epoch)
}

/// What the token of a departure that is about to be made will say.
pub(crate) fn promised(claim: &Claim) -> Departure {
    let epoch = claim.next_epoch().expect("far from the end");
    Departure {
        index: claim.index(),
        id: claim.id(),
        epoch,
    }
}

/// Runs `act` in a forked child, which ends with what it answers.
pub(crate) fn child(act: impl FnOnce() -> u8) -> Child {
    match fork().expect("a process") {
        // A panic must not go back to the harness, which is the parent's.
        Fork::Child => exit_now(catch_unwind(AssertUnwindSafe(act)).unwrap_or(101)),
        Fork::Parent(child) => child,
    }
}

pub(crate) fn code(mut child: Child) -> Option<i32> {
    child.wait().expect("its end").code()
}

pub(crate) fn killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(Signal::KILL.as_raw())
}

/// Waits until a child has ended, and leaves it a zombie.
pub(crate) fn until_ended(child: &Child) {
    let pidfd = child.pidfd().expect("Linux 5.3 or newer");
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).expect("its end");
}

pub(crate) fn options(capacity: u32, collect: bool) -> Options {
    Options {
        capacity,
        processes: 64,
        collect,
    }
}
