//! Bytes in secret memory.

use std::ptr::NonNull;

use super::super::scrub::wipe;
use super::heap::{HEADER, cell_bytes, give, is_own, take};

/// A growable run of bytes in secret memory. What lies behind its length is always zero, so that
/// going back or growing leaves nothing behind.
///
/// [`crate::secret::Scratch`] is the public name, and says the rest.
pub struct Buffer {
    /// The cell, header included; dangling while `capacity` is 0.
    cell: NonNull<u8>,
    capacity: usize,
    len: usize,
}

// SAFETY: The bytes are owned, and reached only through the buffer's own borrow.
unsafe impl Send for Buffer {}
// SAFETY: A shared buffer only gives shared access to its bytes.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// An empty buffer that has no memory yet.
    pub const fn new() -> Self {
        Self {
            cell: NonNull::dangling(),
            capacity: 0,
            len: 0,
        }
    }

    /// An empty buffer with room for at least `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        if capacity == 0 {
            return Self::new();
        }
        // Too large for an address is too large for the heap, which ends the program.
        let bytes = cell_bytes(capacity.saturating_add(HEADER));
        Self {
            cell: take(bytes),
            capacity: bytes - HEADER,
            len: 0,
        }
    }

    /// Bytes in the buffer.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it can hold without moving.
    #[inline]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether the memory is this process's: in a forked child all bytes read zero and the answer
    /// is false, until the buffer grows.
    #[inline]
    pub fn is_here(&self) -> bool {
        // SAFETY: With a capacity, the cell is from `take` and not given back.
        self.capacity == 0 || unsafe { is_own(self.cell) }
    }

    /// The bytes.
    #[inline]
    pub const fn as_slice(&self) -> &[u8] {
        // SAFETY: Behind the header the cell has `capacity` initialized bytes, and `len` is not
        // larger; a dangling cell has a length of 0, for which any address that is not null does.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }

    /// The bytes, to change.
    #[inline]
    pub const fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: As for `as_slice`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }

    /// The first byte's address. A fork may turn the bytes into zeros, which bytes may be.
    #[inline]
    const fn start(&self) -> *mut u8 {
        if self.capacity == 0 {
            return self.cell.as_ptr();
        }
        // SAFETY: The cell is longer than its header.
        unsafe { self.cell.as_ptr().add(HEADER) }
    }

    /// Appends `bytes`.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let old = self.len;
        self.grow(bytes.len());
        self.as_mut_slice()[old..].copy_from_slice(bytes);
    }

    /// Appends `additional` zeros.
    #[inline]
    pub fn grow(&mut self, additional: usize) {
        self.reserve(additional);
        // Not larger than the capacity, which is at least that; the bytes are zero already.
        self.len += additional;
    }

    /// Makes room for `additional` bytes, in memory of this process.
    #[inline]
    pub fn reserve(&mut self, additional: usize) {
        if additional > self.capacity - self.len || !self.is_here() {
            self.relocate(additional);
        }
    }

    #[cold]
    fn relocate(&mut self, additional: usize) {
        let needed = self.len.saturating_add(additional);
        let mut new = Self::with_capacity(needed.max(self.capacity.saturating_mul(2)));
        new.len = self.len;
        new.as_mut_slice().copy_from_slice(self.as_slice());
        *self = new;
    }

    /// Keeps the first `len` bytes and wipes the others. Does nothing when there are not more.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            wipe(&mut self.as_mut_slice()[len..]);
            self.len = len;
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        if self.capacity == 0 {
            return;
        }
        // Also in a child, which may have written here.
        self.truncate(0);
        // SAFETY: The cell is from `take` with as many bytes, all behind the header are zero, and
        // the buffer is gone.
        unsafe { give(self.cell, self.capacity + HEADER) };
    }
}
