//! The state of the record protocol, without any buffer of records: keys, sequence numbers, what
//! is owed, what is closed. Sealing is here, opening in [`super::open`].

use std::io::IoSlice;

use super::limits::Limits;
use super::open::Fruitless;
use super::wire::{
    ALERT, APPLICATION_DATA, Alert, HANDSHAKE, HEADER, KEY_UPDATE, MAX_CONTENT, MAX_INNER,
    PROTECTED,
};
use super::{Error, keys::Keys};
use crate::crypto::{Expanded, Suite, TAG};
use crate::secret::{Scratch, Slot};

/// The sequence number that is never used: 2^24.5, the bound of RFC 8446 5.5 for AES-GCM.
pub(super) const SEQUENCE_END: u64 = 23_726_566;
/// The highest sequence number that a handshake may hand over. Between it and the end there is room
/// for what closes a session.
pub(super) const SEQUENCE_START: u64 = 1 << 24;

pub(super) struct Protocol {
    pub(super) keys: Slot<Keys>,
    pub(super) tx_key: Expanded,
    pub(super) rx_key: Expanded,
    pub(super) suite: Suite,
    pub(super) server: bool,
    pub(super) limits: Limits,
    pub(super) tx_sequence: u64,
    pub(super) rx_sequence: u64,
    pub(super) tx_closed: bool,
    pub(super) rx_closed: bool,
    /// The peer asked for new keys and was not answered yet.
    pub(super) owes_reply: bool,
    /// The peer's key is old and the peer was not asked yet.
    pub(super) owes_request: bool,
    /// The peer was asked for new keys and has not moved since.
    pub(super) asked: bool,
    /// Requests of ours without an answer: so many of the peer's key updates are no flood. A peer
    /// may answer several at once, so this can stay above 0 for ever.
    pub(super) requests: u8,
    pub(super) fruitless: Fruitless,
    /// Handshake messages as they come together.
    pub(super) messages: Scratch,
}

impl Protocol {
    pub(super) fn new(keys: Keys, suite: Suite, server: bool, limits: Limits) -> Self {
        Self {
            keys: Slot::new(keys),
            tx_key: Expanded::default(),
            rx_key: Expanded::default(),
            suite,
            server,
            limits,
            tx_sequence: 0,
            rx_sequence: 0,
            tx_closed: false,
            rx_closed: false,
            owes_reply: false,
            owes_request: false,
            asked: false,
            requests: 0,
            fruitless: Fruitless::default(),
            messages: Scratch::new(),
        }
    }

    /// Whether a KeyUpdate must leave before the next record of data.
    pub(super) fn key_is_due(&self) -> bool {
        self.owes_reply || self.owes_request || self.tx_sequence >= u64::from(self.limits.records)
    }

    /// The length of a record with so much content.
    pub(super) fn record_len(&self, content: usize) -> usize {
        content.saturating_add(HEADER + 1 + self.padding(content) + TAG)
    }

    //= spec/records.md#padding-out
    fn padding(&self, content: usize) -> usize {
        match usize::from(self.limits.padding) {
            0 => 0,
            _ if content >= MAX_CONTENT => 0,
            block => (content + 1).next_multiple_of(block).min(MAX_INNER) - (content + 1),
        }
    }

    /// Seals what is owed: the reply, then the request.
    pub(super) fn settle(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.owes_reply {
            self.key_update(false, out)?;
        }
        if self.owes_request {
            self.key_update(true, out)?;
        }
        Ok(())
    }

    /// Seals a KeyUpdate and moves to the next key.
    //= spec/records.md#key-update-out
    pub(super) fn key_update(&mut self, request: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        self.control(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, u8::from(request)], out)?;
        self.keys
            .tx
            .advance(self.suite)
            .map_err(|_| Error::UsedUp)?;
        self.tx_key.forget();
        self.tx_sequence = 0;
        // Any KeyUpdate answers a request; only one that asks settles our own.
        self.owes_reply = false;
        if request {
            self.owes_request = false;
            self.asked = true;
            self.requests = self.requests.saturating_add(1);
        }
        Ok(())
    }

    /// Seals an alert. The level follows from the description and means nothing in TLS 1.3.
    pub(super) fn alert(&mut self, alert: Alert, out: &mut Vec<u8>) -> Result<(), Error> {
        let level = if matches!(alert, Alert::CLOSE_NOTIFY | Alert::USER_CANCELED) {
            1
        } else {
            2
        };
        self.control(ALERT, &[level, alert.0], out)
    }

    fn control(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.reserve(self.record_len(content.len()));
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        out.extend_from_slice(content);
        self.finish(kind, start, out)
    }

    /// Seals up to `most` bytes of data behind what is owed; answers how many.
    //= spec/records.md#key-limit-out
    //= spec/records.md#fragment
    pub(super) fn data(
        &mut self,
        data: &mut Gather<'_>,
        most: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        self.settle(out)?;
        let total = most.min(data.left);
        let fragment = usize::from(self.limits.fragment);
        let (whole, rest) = (total / fragment, total % fragment);
        // All at once, and before any plaintext stands in it: a buffer that grew in between would
        // leave plaintext behind in freed memory.
        out.reserve(whole * self.record_len(fragment) + self.record_len(rest));
        let mut left = total;
        while left > 0 {
            if self.tx_sequence >= u64::from(self.limits.records) {
                self.key_update(false, out)?;
            }
            let content = left.min(fragment);
            out.reserve(self.record_len(content));
            let start = out.len();
            out.extend_from_slice(&[0; HEADER]);
            data.move_into(out, content);
            self.finish(APPLICATION_DATA, start, out)?;
            left -= content;
        }
        Ok(total)
    }

    /// Makes a record of the content that stands at the end of `out` behind room for a header.
    fn finish(&mut self, kind: u8, start: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let content = out.len() - start - HEADER;
        out.push(kind);
        out.resize(out.len() + self.padding(content), 0);
        match self.seal(&mut out[start..]) {
            Ok(tag) => {
                out.extend_from_slice(&tag);
                Ok(())
            }
            Err(error) => {
                // What stands here is plaintext.
                out[start..].fill(0);
                out.truncate(start);
                Err(error)
            }
        }
    }

    /// Seals the record in `buffer`, whose content stands behind room for the header; answers its
    /// length.
    pub(super) fn data_in_place(
        &mut self,
        buffer: &mut [u8],
        content: usize,
    ) -> Result<usize, Error> {
        if content > usize::from(self.limits.fragment) {
            return Err(Error::Buffer);
        }
        let total = self.record_len(content);
        let (record, tag) = buffer
            .get_mut(..total)
            .and_then(|record| record.split_last_chunk_mut::<TAG>())
            .ok_or(Error::Buffer)?;
        let (kind, padding) = record[HEADER + content..]
            .split_first_mut()
            .ok_or(Error::Buffer)?;
        *kind = APPLICATION_DATA;
        padding.fill(0);
        *tag = self.seal(record)?;
        Ok(total)
    }

    /// Writes the header of the inner plaintext that follows its room, and encrypts that.
    #[inline]
    fn seal(&mut self, record: &mut [u8]) -> Result<[u8; TAG], Error> {
        //= spec/records.md#sequence
        if self.tx_sequence >= SEQUENCE_END {
            return Err(Error::UsedUp);
        }
        let (header, inner) = record.split_at_mut(HEADER);
        let [high, low] = ((inner.len() + TAG) as u16).to_be_bytes();
        header[..3].copy_from_slice(&PROTECTED);
        header[3..].copy_from_slice(&[high, low]);
        let tx = &self.keys.tx;
        let tag = self
            .tx_key
            .of(self.suite, tx.key(self.suite), tx.iv())
            .and_then(|key| key.seal(self.tx_sequence, header, inner))
            .map_err(|_| Error::UsedUp)?;
        self.tx_sequence += 1;
        Ok(tag)
    }
}

/// Several buffers read as one.
pub(super) struct Gather<'a> {
    slices: &'a [IoSlice<'a>],
    /// What was taken of the first slice.
    taken: usize,
    left: usize,
}

impl<'a> Gather<'a> {
    pub(super) fn new(slices: &'a [IoSlice<'a>]) -> Self {
        let left = slices
            .iter()
            .fold(0, |sum: usize, slice| sum.saturating_add(slice.len()));
        Self {
            slices,
            taken: 0,
            left,
        }
    }

    fn move_into(&mut self, out: &mut Vec<u8>, mut bytes: usize) {
        while let [first, rest @ ..] = self.slices
            && bytes > 0
        {
            let piece = &first[self.taken..];
            let piece = &piece[..piece.len().min(bytes)];
            out.extend_from_slice(piece);
            bytes -= piece.len();
            self.left -= piece.len();
            self.taken += piece.len();
            if self.taken == first.len() {
                (self.slices, self.taken) = (rest, 0);
            }
        }
    }
}
