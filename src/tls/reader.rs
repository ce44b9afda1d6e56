//! Cuts what a peer sends into records, so that rustls is shown one at a time.

use super::Error;
use crate::status::Minor;

/// The most bytes a peer may send for one handshake: two flights with a certificate chain of
/// 64 KiB, the longest rustls takes.
pub(crate) const BYTES_LIMIT: usize = 128 * 1024;
/// The most records they may come in.
pub(crate) const RECORDS_LIMIT: usize = 128;
/// Bytes of a record's header.
const HEADER: usize = 5;
/// Bytes of a flight that are made room for at once.
const USUAL: usize = 1024;
/// The longest payload that can be a record's: RFC 8446 5.2.
const PAYLOAD_LIMIT: usize = (1 << 14) + 256;

/// The records of a handshake as they come in.
#[derive(Default)]
pub(super) struct Reader {
    /// Complete records that rustls still needs, then at most one that is not complete.
    bytes: Vec<u8>,
    /// Where the incomplete one begins.
    complete: usize,
    /// Bytes and records seen so far.
    seen: (usize, usize),
}

impl Reader {
    /// Takes bytes from the front of `input` up to the end of one record; whether it is complete.
    ///
    /// Refused when the peer passes a limit, or sends what begins like no record.
    //= spec/mechanism.md#limits
    pub(super) fn take(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        self.fill(input, HEADER);
        let record = self.bytes.get(self.complete..).unwrap_or_default();
        let &[kind, major, _, high, low, ..] = record else {
            return Ok(false);
        };
        let payload = usize::from(u16::from_be_bytes([high, low]));
        if !(20..=23).contains(&kind) || major != 3 || payload > PAYLOAD_LIMIT {
            return Err(Error::new(
                Minor::ContextTokenMalformed,
                "the peer sends no TLS records",
            ));
        }
        let length = HEADER + payload;
        if self.seen.0 + length > BYTES_LIMIT || self.seen.1 == RECORDS_LIMIT {
            return Err(Error::new(
                Minor::ContextTokenTooLarge,
                "the peer's handshake is longer than any can be",
            ));
        }
        self.fill(input, length);
        if self.bytes.len() - self.complete < length {
            return Ok(false);
        }
        self.seen = (self.seen.0 + length, self.seen.1 + 1);
        self.complete = self.bytes.len();
        Ok(true)
    }

    /// Replaces the incomplete record with a header that no record has.
    pub(super) fn spoil(&mut self) {
        self.bytes.truncate(self.complete);
        self.bytes.extend_from_slice(&[0xff; HEADER]);
        self.complete = self.bytes.len();
    }

    /// Moves bytes until the incomplete record has `length`.
    fn fill(&mut self, input: &mut &[u8], length: usize) {
        let missing = length.saturating_sub(self.bytes.len() - self.complete);
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(input.len().min(USUAL));
        }
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.bytes.extend_from_slice(taken);
        *input = rest;
    }

    /// The complete records.
    pub(super) fn records(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.complete]
    }

    /// Forgets bytes at the front that rustls is done with.
    pub(super) fn discard(&mut self, count: usize) {
        let count = count.min(self.complete);
        self.bytes.drain(..count);
        self.complete -= count;
    }

    /// Whether no record is incomplete.
    pub(super) fn is_between_records(&self) -> bool {
        self.bytes.len() == self.complete
    }

    /// Whether nothing is held: between two records, with all answered for.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
