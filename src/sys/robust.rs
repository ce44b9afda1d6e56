//! A word in shared memory that the kernel changes when a thread ends, however it ends.
//!
//! It is a robust futex (`set_robust_list(2)`) that nobody waits for: the kernel walks the list of
//! a thread that ends, by itself, by a signal or by executing another program, and marks each
//! word that holds the thread's number. It does so before the thread's process closes its
//! descriptors: who has seen a connection of the process end finds the word marked.

use std::cell::Cell;
use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::thread::gettid;

use super::memory::Mapping;
use super::process;

/// `struct robust_list_head` of `linux/futex.h`, and the one node of its list.
#[repr(C)]
struct List {
    first: *const Node,
    /// From a node to its word.
    offset: libc::c_long,
    pending: *const Node,
    node: Node,
}

#[repr(C)]
struct Node {
    next: *const Node,
}

thread_local! {
    /// The word of the process in which this thread has a lifeline.
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// A word that holds this thread's number as long as the thread lives. One for each thread.
///
/// Dropping it marks the word as the thread's end would, and like that leaves it alone when the
/// thread [stands aside](Lifeline::stand_aside). It stays in its thread.
pub struct Lifeline {
    /// Owned; a raw pointer, because the kernel holds it as well.
    list: *mut List,
    futex: *const AtomicU32,
    word: *const AtomicU64,
    /// What the C library had registered for its own robust locks: this thread has none locked.
    before: (usize, usize),
    born: u64,
    number: u64,
}

/// What a word holds while its thread stands aside: nothing that a number could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aside(u64);

impl Aside {
    /// The high half of the word; not zero.
    pub const fn new(high: u32) -> Self {
        assert!(high != 0, "a word of zero is nobody's");
        Self((high as u64) << 32)
    }

    /// The whole word.
    pub const fn word(self) -> u64 {
        self.0
    }
}

/// Whether `word` still holds the number that [`Lifeline::number`] was.
#[inline]
pub fn lives(word: &AtomicU64, number: u64) -> bool {
    word.load(Acquire) == number
}

impl Lifeline {
    /// Puts this thread's number into word `at` of `mapping`, which must outlive the answer.
    /// `ResourceBusy` when the thread has a lifeline, the kernel's error when it has no robust
    /// futexes.
    ///
    /// The word is changed only by its low half, which is where the number and the mark are.
    pub fn tie(mapping: &Mapping, at: usize) -> io::Result<Self> {
        let word = mapping
            .as_words()
            .get(at)
            .ok_or(io::ErrorKind::InvalidInput)?;
        if TAKEN.replace(process::word()) == process::word() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Self::register(word).inspect_err(|_| TAKEN.set(0))
    }

    fn register(word: &AtomicU64) -> io::Result<Self> {
        let number = u64::from(gettid().as_raw_pid().unsigned_abs());
        let mut before: (usize, usize) = (0, 0);
        // SAFETY: The call writes a pointer and a size to the two places.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_get_robust_list,
                0,
                &raw mut before.0,
                &raw mut before.1,
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        word.store(number, Release);
        let low_half = usize::from(cfg!(target_endian = "big"));
        let futex = std::ptr::from_ref(word)
            .cast::<AtomicU32>()
            .wrapping_add(low_half);
        let list = Box::into_raw(Box::new(List {
            first: std::ptr::null(),
            offset: 0,
            pending: std::ptr::null(),
            node: Node {
                next: std::ptr::null(),
            },
        }));
        // SAFETY: The list was just made. It lives until `drop` has taken it back from the kernel,
        // which reads it, and changes the word it names: that is aligned, and in a mapping that
        // outlives this.
        let answer = unsafe {
            let node = &raw const (*list).node;
            (*list).first = node;
            (*list).offset = futex.addr().wrapping_sub(node.addr()) as libc::c_long;
            // The list is a ring: its last node points at the head.
            (*list).node.next = list.cast_const().cast();
            libc::syscall(
                libc::SYS_set_robust_list,
                list,
                std::mem::offset_of!(List, node),
            )
        };
        if answer != 0 {
            let error = io::Error::last_os_error();
            // SAFETY: The kernel has refused it: nobody else has it.
            drop(unsafe { Box::from_raw(list) });
            return Err(error);
        }
        Ok(Self {
            list,
            futex,
            word,
            before,
            born: process::word(),
            number,
        })
    }

    /// From now on the word holds `value`, which is no thread's number, and the thread's end does not
    /// change it: its low half is zero.
    pub fn stand_aside(&self, value: Aside) {
        self.store(value.0);
    }

    /// The word holds the thread's number again.
    pub fn stand_again(&self) {
        self.store(self.number);
    }

    fn store(&self, value: u64) {
        if self.born != process::word() {
            return;
        }
        // SAFETY: The word is in a mapping that outlives this, and only ever accessed as an atomic:
        // whole here, and by its low half where the kernel marks it.
        unsafe { (*self.word).store(value, Release) };
    }

    /// What the word holds as long as the thread lives.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if self.born != process::word() {
            // A child's copy: the kernel has forgotten the list at the fork.
            return;
        }
        // SAFETY: The word is in a mapping that outlives this, and only ever accessed as an atomic;
        // once the kernel has the old list again, nobody else has ours.
        unsafe {
            let _ = (*self.futex).compare_exchange(
                self.number as u32,
                libc::FUTEX_OWNER_DIED,
                Release,
                Relaxed,
            );
            if libc::syscall(libc::SYS_set_robust_list, self.before.0, self.before.1) == 0 {
                drop(Box::from_raw(self.list));
            }
        }
        TAKEN.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{Fork, Signal, fork};

    fn mapping() -> Mapping {
        Mapping::create_sealed("lifeline", 4096).unwrap()
    }

    #[test]
    fn a_thread_that_is_killed_has_its_word_marked() {
        let mapping = mapping();
        let (read, write) = io::pipe().unwrap();
        let mut child = match fork().unwrap() {
            Fork::Child => {
                let lifeline = Lifeline::tie(&mapping, 7).unwrap();
                std::mem::forget(lifeline);
                io::Write::write_all(&mut &write, b"!").unwrap();
                loop {
                    std::thread::park();
                }
            }
            Fork::Parent(child) => child,
        };
        io::Read::read_exact(&mut &read, &mut [0]).unwrap();
        let word = &mapping.as_words()[7];
        assert!(lives(word, u64::from(child.pid())));
        child.kill(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!lives(word, u64::from(child.pid())));
    }

    #[test]
    fn who_stands_aside_leaves_its_word_when_it_dies_and_can_come_back() {
        const ASIDE: Aside = Aside::new(1);
        let mapping = mapping();
        let word = &mapping.as_words()[5];
        for comes_back in [false, true] {
            let mut child = match fork().unwrap() {
                Fork::Child => {
                    let lifeline = Lifeline::tie(&mapping, 5).unwrap();
                    lifeline.stand_aside(ASIDE);
                    if comes_back {
                        lifeline.stand_again();
                    }
                    rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
                    process::exit_now(1);
                }
                Fork::Parent(child) => child,
            };
            child.wait().unwrap();
            let found = word.load(Acquire);
            assert_eq!(found == ASIDE.word(), !comes_back, "{found:x}");
            assert!(!lives(word, u64::from(child.pid())));
        }
    }

    #[test]
    fn a_dropped_lifeline_marks_its_word_and_makes_room_for_another() {
        let mapping = mapping();
        let lifeline = Lifeline::tie(&mapping, 3).unwrap();
        let number = lifeline.number();
        assert!(lives(&mapping.as_words()[3], number));
        assert!(Lifeline::tie(&mapping, 4).is_err(), "one for each thread");
        drop(lifeline);
        assert!(!lives(&mapping.as_words()[3], number));
        assert!(Lifeline::tie(&mapping, 4).is_ok());
    }
}
