//! One value in secret memory.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::super::scrub::wipe_raw;
use super::heap::{ALIGN, HEADER, give, is_own, take};

/// What a cell of the heap holds: the header, then the value. `Content` is never made as such,
/// it is the layout of the memory behind a [`Cell`].
#[repr(C)]
struct Content<T> {
    header: [u64; HEADER / 8],
    value: T,
}

/// One value in secret memory: wiped when it goes, gone in a forked child.
///
/// [`crate::secret::Slot`] is the public name, and says the rest.
pub struct Cell<T: 'static> {
    content: NonNull<Content<T>>,
}

// SAFETY: The value is owned, and reached only through the cell's own borrow.
unsafe impl<T: Send> Send for Cell<T> {}
// SAFETY: A shared cell gives shared access to the value, and no more.
unsafe impl<T: Sync> Sync for Cell<T> {}

impl<T: 'static> Cell<T> {
    const FITS: () = {
        assert!(
            !std::mem::needs_drop::<T>(),
            "a secret is bytes: nothing runs when it is wiped"
        );
        assert!(
            align_of::<T>() <= ALIGN,
            "secret memory is aligned to 64 bytes"
        );
    };

    /// Moves `value` into secret memory, and wipes the place it was passed in.
    // Not inlined, so that this place exists: an argument this large is passed by its address.
    #[inline(never)]
    pub fn new(mut value: T) -> Self {
        const { Self::FITS };
        let content = take(size_of::<Content<T>>()).cast::<Content<T>>();
        // SAFETY: The cell is large and aligned enough for the content, and this call's alone.
        // The value is copied out of its place once; that place is then only bytes, since
        // nothing reads it again and no drop runs on a `T`.
        unsafe {
            (&raw mut (*content.as_ptr()).value).copy_from_nonoverlapping(&raw const value, 1);
            wipe_raw((&raw mut value).cast(), size_of::<T>());
        }
        Self { content }
    }

    /// Whether the value is here: false in a process forked from the one that made it.
    #[inline]
    pub fn is_here(&self) -> bool {
        // SAFETY: The cell is from `take`, and given back only by `drop`.
        unsafe { is_own(self.content.cast()) }
    }

    #[inline]
    fn check(&self) {
        if !self.is_here() {
            wiped();
        }
    }
}

impl<const N: usize> Cell<[u8; N]> {
    /// Zeros, to be filled in place: no copy of what is put there was ever elsewhere.
    pub fn zeroed() -> Self {
        // Everything behind the header of a fresh cell is zero, and zeros are a `[u8; N]`.
        Self {
            content: take(size_of::<Content<[u8; N]>>()).cast(),
        }
    }
}

/// The bytes are zeros, and zeros may be no value of the type: there is nothing to refer to.
#[cold]
#[inline(never)]
#[allow(clippy::panic)] // As an index out of bounds: the caller's own doing, see `Slot`.
fn wiped() -> ! {
    panic!("this secret belongs to the process that this one was forked from")
}

impl<T> Deref for Cell<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.check();
        // SAFETY: The value was written by `new` in this process (checked), and goes with `self`.
        unsafe { &self.content.as_ref().value }
    }
}

impl<T> DerefMut for Cell<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.check();
        // SAFETY: As for `deref`; the borrow is exclusive.
        unsafe { &mut self.content.as_mut().value }
    }
}

impl<T: 'static> Drop for Cell<T> {
    fn drop(&mut self) {
        if !self.is_here() {
            // A child's copy: it reads zero, nothing was ever written to it.
            return;
        }
        let content = self.content.as_ptr();
        // SAFETY: The value needs no drop and is not used again; the cell goes back as it was
        // taken, with all bytes behind its header zero.
        unsafe {
            let value = (&raw mut (*content).value).cast::<u8>();
            wipe_raw(
                value,
                size_of::<Content<T>>() - std::mem::offset_of!(Content<T>, value),
            );
            give(self.content.cast(), size_of::<Content<T>>());
        }
    }
}
