//! What was received and not yet taken: ciphertext, and the plaintext of the one record that is
//! open. Both lie in one buffer in secret memory; a record is opened where it lies.
//!
//! Invariant: `plain.start <= plain.end <= cipher.start <= cipher.end <= bytes.len()`.

use core::ops::Range;

use super::wire::{HEADER, MAX_LENGTH};
use crate::secret::Scratch;

/// Most bytes kept: three full records.
pub(super) const LIMIT: usize = 3 * (HEADER + MAX_LENGTH);
/// What a buffer starts with, and what is given back as soon as it is empty.
const SMALL: usize = 4096;
/// Enough for one record of any length.
const MEDIUM: usize = HEADER + MAX_LENGTH;

pub(super) struct Input {
    bytes: Scratch,
    plain: Range<usize>,
    cipher: Range<usize>,
    /// The last read from the socket filled all the space there was: more is waiting there.
    filled_up: bool,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            bytes: Scratch::new(),
            plain: 0..0,
            cipher: 0..0,
            filled_up: false,
        }
    }

    /// A buffer with an open record's plaintext and the ciphertext behind it. Any lengths.
    pub(super) fn with(plain: &[u8], cipher: &[u8]) -> Self {
        let mut input = Self::new();
        if !(plain.is_empty() && cipher.is_empty()) {
            input.bytes = Scratch::with_capacity(plain.len() + cipher.len());
            input.bytes.extend_from_slice(plain);
            input.bytes.extend_from_slice(cipher);
            input.plain = 0..plain.len();
            input.cipher = plain.len()..plain.len() + cipher.len();
        }
        input
    }

    pub(super) fn plaintext(&self) -> &[u8] {
        &self.bytes[self.plain.clone()]
    }

    pub(super) fn ciphertext(&self) -> &[u8] {
        &self.bytes[self.cipher.clone()]
    }

    pub(super) fn ciphertext_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.cipher.clone()]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.cipher.is_empty()
    }

    /// The record at the front is done with.
    pub(super) fn skip(&mut self, record: usize) {
        self.cipher.start += record;
    }

    /// The record at the front was opened and its content is to be read.
    pub(super) fn opened(&mut self, record: usize, content: usize) {
        let start = self.cipher.start + HEADER;
        self.plain = start..start + content;
        self.skip(record);
    }

    /// So much of the plaintext was read.
    pub(super) fn read(&mut self, bytes: usize) {
        self.plain.start += bytes.min(self.plain.len());
    }

    /// Takes as much of `bytes` as there is room for; answers how much.
    //= spec/records.md#buffers
    pub(super) fn feed(&mut self, bytes: &[u8]) -> usize {
        self.make_room(bytes.len());
        let taken = bytes.len().min(LIMIT.saturating_sub(self.cipher.end));
        let (over, beyond) = bytes[..taken].split_at(taken.min(self.bytes.len() - self.cipher.end));
        self.bytes[self.cipher.end..][..over.len()].copy_from_slice(over);
        self.bytes.extend_from_slice(beyond);
        self.cipher.end += taken;
        taken
    }

    /// Room to read a socket into; empty only when complete records wait to be opened.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let size = match self.bytes.len() {
            0..SMALL => SMALL,
            SMALL..MEDIUM if self.filled_up => MEDIUM,
            MEDIUM..LIMIT if self.filled_up => LIMIT,
            size => size,
        };
        self.make_room(size);
        // A record that outgrew the buffer needs the next size, whatever the last read brought.
        let size = if self.cipher.end >= size { LIMIT } else { size };
        if size > self.bytes.len() {
            self.bytes.resize(size);
        }
        &mut self.bytes[self.cipher.end..]
    }

    /// So many bytes were read into [`Input::space`].
    pub(super) fn filled(&mut self, bytes: usize) {
        let space = self.bytes.len() - self.cipher.end;
        self.filled_up = bytes >= space;
        self.cipher.end += bytes.min(space);
    }

    /// Moves what is kept to the front, when what was read before it is at least as long: every
    /// byte moved is paid for by a byte that was read, however the records lie.
    fn make_room(&mut self, wanted: usize) {
        let front = if self.plain.is_empty() {
            self.cipher.start
        } else {
            self.plain.start
        };
        let kept = self.cipher.end - front;
        if front == 0 || (wanted <= self.bytes.len() - self.cipher.end && kept > 0) || kept > front
        {
            return;
        }
        self.bytes.copy_within(front..front + kept, 0);
        self.plain = if self.plain.is_empty() {
            0..0
        } else {
            0..self.plain.len()
        };
        self.cipher = self.cipher.start - front..kept;
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Drops everything that is kept.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Gives the buffer back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.is_empty() && !self.bytes.is_empty() {
            self.clear();
        }
    }

    /// Gives the buffer back if nothing is in it and it is cheap to get another.
    pub(super) fn release_small(&mut self) {
        if self.bytes.len() <= SMALL {
            self.release();
        }
    }
}
