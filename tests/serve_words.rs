//! What the processes of a server tell each other, cut, lengthened, and claiming to be long: refused,
//! and never at the cost of the memory that was claimed.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use baton::server::forge::{Handed, KINDS, Told, read, samples};

/// The most that one message may cost: far more than any needs, far less than one may claim.
const MOST: usize = 8 << 20;
/// 2^60, as postcard writes a length.
const HUGE: [u8; 9] = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];

thread_local! {
    /// The largest piece of memory this thread has asked for.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Watching;

// SAFETY: everything is the system's allocator; what is noted needs no memory.
unsafe impl GlobalAlloc for Watching {
    // SAFETY: the caller's promise is passed on.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the caller's promise is passed on.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// What `work` answers, which asks for no large piece of memory.
fn within<T>(work: impl FnOnce() -> T) -> T {
    LARGEST.set(0);
    let answer = work();
    assert!(LARGEST.get() <= MOST, "{} bytes at once", LARGEST.get());
    answer
}

/// The sample with 2^60 in the place of what stands at each position, and instead of it.
fn enlarged(sample: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..sample.len()).flat_map(|at| {
        let longer = [&sample[..at], &HUGE, &sample[at + 1..]].concat();
        let mut over = sample.to_vec();
        for (byte, huge) in over[at..].iter_mut().zip(HUGE) {
            *byte = huge;
        }
        [longer, over]
    })
}

/// Every sample, and an estate.
fn all() -> Vec<(u8, Vec<u8>)> {
    let mut all = samples();
    all.push((KINDS - 1, Handed::new().unwrap().bytes));
    for kind in 0..KINDS {
        assert!(all.iter().any(|(of, _)| *of == kind), "no sample of {kind}");
    }
    all
}

//= proves spec/processes.md#link
//= proves spec/takeover.md#messages
#[test]
fn a_message_is_whole_or_none() {
    for (kind, sample) in all() {
        assert_eq!(read(kind, &sample).as_ref(), Some(&sample), "kind {kind}");
        for length in 0..sample.len() {
            assert_eq!(read(kind, &sample[..length]), None, "kind {kind}: {length}");
        }
        let longer = [&sample[..], b"\0"].concat();
        assert_eq!(read(kind, &longer), None, "kind {kind}");
    }
}

//= proves spec/processes.md#link
#[test]
fn a_length_that_is_only_claimed_costs_nothing() {
    for (kind, sample) in all() {
        for message in enlarged(&sample) {
            within(|| drop(read(kind, &message)));
        }
    }
}

//= proves spec/takeover.md#estate
#[test]
fn an_estate_is_taken_as_a_whole_or_not_at_all() {
    let handed = || Handed::new().unwrap();
    assert!(handed().take().unwrap());
    let mut less = handed();
    less.fds.pop();
    assert!(!less.take().unwrap());
    let mut more = handed();
    more.fds.push(more.fds[0].try_clone().unwrap());
    assert!(!more.take().unwrap());
    let whole = handed().bytes;
    for length in 0..whole.len() {
        let mut cut = handed();
        cut.bytes.truncate(length.min(cut.bytes.len() - 1));
        assert!(!cut.take().unwrap(), "{length}");
    }
    let mut longer = handed();
    longer.bytes.push(0);
    assert!(!longer.take().unwrap());
    for bytes in enlarged(&whole) {
        let mut changed = handed();
        changed.bytes = bytes;
        // It may mean something else, such as another time.
        within(|| changed.take().unwrap());
    }
}

//= proves spec/processes.md#session
#[test]
fn whatever_is_said_of_sessions_makes_no_more_of_them() {
    let mut told = Told::new().unwrap();
    for (kind, sample) in samples() {
        let texts = enlarged(&sample).chain([sample.clone()]);
        for text in texts {
            match kind {
                3 => told.zygote(&text),
                6 => (0..Told::SESSIONS).for_each(|session| told.session(session, &text)),
                _ => {}
            }
            assert!(told.settle().unwrap() <= usize::from(Told::SESSIONS));
        }
    }
    (0..Told::SESSIONS).for_each(|session| told.session(session, b""));
    told.zygote_ended(false);
    assert_eq!(told.settle().unwrap(), 0);
}
