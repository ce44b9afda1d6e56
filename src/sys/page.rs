//! The page of this process: everything that must start anew in a forked child.
//!
//! It is a page of the program's own zeroed data, marked `MADV_WIPEONFORK`: in a child it reads
//! zero, however the child was made (`fork`, or `clone` without the C library; a `vfork` child
//! shares its parent's memory, and so its page, until it executes). Zero is the starting state
//! of all that lies here, so a child starts with no lock held, no secret memory, no random
//! bytes left and no name. Nothing has to run at the fork.

use std::io;
use std::sync::atomic::AtomicU64;

use rustix::mm::{Advice, madvise};

use super::entropy::Pool;
use super::memory::Heap;
use super::process::OwnIdentity;

// The alignment is the largest page any supported machine has, so that the advice covers this
// value and no other.
#[cfg_attr(target_arch = "x86_64", repr(C, align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C, align(65536)))]
pub(super) struct Page {
    /// See [`super::process::word`]. Not zero: the page has been advised.
    pub(super) word: AtomicU64,
    pub(super) identity: OwnIdentity,
    pub(super) pool: Pool,
    pub(super) heap: Heap,
}

pub(super) static PAGE: Page = Page {
    word: AtomicU64::new(0),
    identity: OwnIdentity::new(),
    pool: Pool::new(),
    heap: Heap::new(),
};

/// Marks the page. Any number of threads may do this any number of times.
#[cold]
pub(super) fn advise() -> io::Result<()> {
    let start = (&raw const PAGE).cast_mut().cast();
    // SAFETY: The range is exactly the static's, whose alignment and so size are multiples of
    // the page size. The advice changes nothing in this process; in a child it makes the bytes
    // zero, and all of them are atomics, for which zero is a value.
    unsafe { madvise(start, size_of::<Page>(), Advice::LinuxWipeOnFork)? };
    Ok(())
}
