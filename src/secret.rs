//! Values that are wiped: on drop, in forked children, and out of core dumps.
//!
//! A [`Slot`] holds one value, a [`Scratch`] bytes; both lie in pages that the kernel wipes in a
//! forked child, leaves out of core files, and locks into memory as far as `RLIMIT_MEMLOCK` goes
//! ([`unlocked`] says when that was not far enough; everything goes on, and secrets may reach
//! swap). Neither can be cloned, compared, printed or encoded.
//!
//! What the types cannot do is reach the copies a caller made on its way here: fill a slot in
//! place ([`Slot::zeroed`]), and do work with secrets on the stack within [`scrubbed`].

use std::io;
use std::ops::{Deref, DerefMut};

use crate::sys::{entropy, memory, scrub};

/// One value in secret memory.
///
/// `T` is plain data: it needs no drop (checked when compiled), and holds no reference shorter
/// than `'static`. Its alignment is at most 64 bytes. Making and dropping a slot costs some tens
/// of nanoseconds; it takes the size of `T` and 16 bytes, rounded up to the next 64 (to the
/// next quarter of a power of two above 4 KiB).
///
/// Without memory the program ends, as when a `Box` cannot be made.
///
/// # In a forked child
/// The memory reads zero, [`Slot::is_here`] is false, dropping does nothing, and looking at the
/// value panics: zeros may be no value of `T`. A reference taken before the fork must not be used
/// in the child.
///
/// ```
/// use baton::secret::Slot;
/// let mut key = Slot::<[u8; 32]>::zeroed();
/// key[0] = 7;
/// assert_eq!(key[0], 7);
/// assert!(key.is_here());
/// ```
///
/// A secret is not printed:
/// ```compile_fail
/// println!("{:?}", baton::secret::Slot::new([0u8; 32]));
/// ```
/// and is not a value that owns something:
/// ```compile_fail
/// baton::secret::Slot::new(vec![0u8; 32]);
/// ```
pub struct Slot<T: 'static>(memory::Cell<T>);

impl<T: 'static> Slot<T> {
    /// Moves `value` into secret memory, and wipes the place it was passed in.
    #[inline]
    pub fn new(value: T) -> Self {
        Self(memory::Cell::new(value))
    }

    /// Whether the value is here: false in a process forked from the one that made it.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.0.is_here()
    }
}

impl<const N: usize> Slot<[u8; N]> {
    /// Zeros, to be filled in place.
    pub fn zeroed() -> Self {
        Self(memory::Cell::zeroed())
    }
}

impl<T> Deref for Slot<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Slot<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Bytes in secret memory that can grow: for states on their way into and out of tokens.
///
/// Whatever it no longer holds is wiped at once: what was cut off, and what it moved from.
/// Dropping costs wiping the bytes it holds and some ten nanoseconds; freed memory is kept for
/// the next one.
///
/// Without memory the program ends, as when a `Vec` cannot grow: bound the size before.
///
/// In a forked child the bytes read zero, and its memory is the child's own once it grows.
///
/// ```
/// use baton::secret::Scratch;
/// let mut state = Scratch::with_capacity(1000);
/// state.extend_from_slice(b"secret");
/// state.resize(8);
/// assert_eq!(&state[..], b"secret\0\0");
/// state.consume(2);
/// assert_eq!(&state[..], b"cret\0\0");
/// ```
#[derive(Default)]
pub struct Scratch(memory::Buffer);

impl Scratch {
    /// An empty one that has no memory yet.
    pub const fn new() -> Self {
        Self(memory::Buffer::new())
    }

    /// An empty one with room for `capacity` bytes, or a little more.
    #[inline]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(memory::Buffer::with_capacity(capacity))
    }

    /// Bytes it can hold without moving.
    #[inline]
    pub const fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Makes room for `additional` bytes more.
    #[inline]
    pub fn reserve(&mut self, additional: usize) {
        self.0.reserve(additional);
    }

    /// Appends `bytes`.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Makes it `len` bytes long: what is added is zero, what is cut off is wiped.
    #[inline]
    pub fn resize(&mut self, len: usize) {
        match len.checked_sub(self.0.len()) {
            Some(more) => self.0.grow(more),
            None => self.0.truncate(len),
        }
    }

    /// Keeps the first `len` bytes and wipes the others, if there are more.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Wipes everything; the memory is kept.
    #[inline]
    pub fn clear(&mut self) {
        self.0.truncate(0);
    }

    /// Takes the first `len` bytes away (all, if there are fewer) and moves the others to the front.
    pub fn consume(&mut self, len: usize) {
        let len = len.min(self.0.len());
        let rest = self.0.len() - len;
        self.0.as_mut_slice().copy_within(len.., 0);
        self.0.truncate(rest);
    }
}

impl Deref for Scratch {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl DerefMut for Scratch {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }
}

/// Whether some secret of this process lies in memory that could not be locked, because
/// `RLIMIT_MEMLOCK` is too small, and so may reach swap. Once true it stays so. A forked child
/// starts anew.
pub fn unlocked() -> bool {
    memory::unlocked()
}

/// Fills `out` with random bytes from the kernel, most of the time without a system call: they
/// come from a pool in secret memory, are wiped there as they are given out, and are never given
/// out again, in a forked child neither.
///
/// An error is the kernel's: no `getrandom`, or a filter that forbids it. Then `out` holds
/// nothing to rely on.
#[inline]
pub fn random(out: &mut [u8]) -> io::Result<()> {
    entropy::fill(out)
}

/// How far down the stack work with secrets leaves copies of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Secrets that were sealed, opened and moved to their pages: 8 KiB, some ten nanoseconds.
    Moved,
    /// Secrets that others were derived from, or keys expanded of: 16 KiB.
    Derived,
    /// A whole handshake: 96 KiB, some microseconds.
    Handshake,
}

impl Depth {
    // Without optimisation every move of a key is a copy more, and reaches deeper.
    const fn bytes(self) -> usize {
        match self {
            Self::Handshake => 96 * 1024,
            Self::Moved | Self::Derived if cfg!(debug_assertions) => 64 * 1024,
            Self::Moved => 8 * 1024,
            Self::Derived => 16 * 1024,
        }
    }
}

/// Does `work`, and then overwrites the stack it used, as deep as `depth` says.
///
/// The work has a frame of its own, whatever the optimiser would rather have: nothing it leaves
/// can be above what is overwritten. Only its answer is: that is to hold no secret but in a
/// [`Slot`] or [`Scratch`].
///
/// ```
/// use baton::secret::{Depth, Slot, scrubbed};
/// let key = scrubbed(Depth::Moved, || Slot::new([7u8; 32]));
/// assert_eq!(key[0], 7);
/// ```
#[inline]
pub fn scrubbed<T>(depth: Depth, work: impl FnOnce() -> T) -> T {
    let answer = in_own_frame(work);
    scrub::scrub_stack(depth.bytes());
    answer
}

/// [`scrubbed`], when the answer says that the work is over: until then it goes on with what the
/// stack may still hold.
#[inline]
pub fn scrubbed_if<T>(
    depth: Depth,
    is_over: impl FnOnce(&T) -> bool,
    work: impl FnOnce() -> T,
) -> T {
    let answer = in_own_frame(work);
    if is_over(&answer) {
        scrub::scrub_stack(depth.bytes());
    }
    answer
}

#[inline(never)]
fn in_own_frame<T>(work: impl FnOnce() -> T) -> T {
    work()
}
