//! Opening: what a peer may send, and how much of what carries nothing.

use super::Error;
use super::protocol::{Protocol, SEQUENCE_END};
use super::wire::{
    ALERT, APPLICATION_DATA, Alert, Front, HANDSHAKE, HEADER, KEY_UPDATE, MAX_CONTENT, MAX_INNER,
    MAX_MESSAGE, MESSAGE_HEADER, NEW_SESSION_TICKET, content, front, is_ticket,
};
use crate::secret::Scratch;

/// What came of the record at the front of the input.
pub(super) enum Step {
    /// So many bytes are missing.
    Incomplete(usize),
    /// Application data: so many bytes behind the header.
    Data(usize),
    /// Nothing for the application; a handshake message may have become whole.
    Nothing,
    /// The peer has closed its direction.
    Closed,
}

/// A handshake message that was whole.
pub(super) enum Message {
    Ticket(Vec<u8>),
    KeyUpdate,
}

/// What came since the last application data and carried none (`spec/records.md#flood`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fruitless {
    pub(super) key_updates: u8,
    pub(super) handshake: u8,
    pub(super) empty: u8,
    pub(super) warnings: u8,
}

impl Fruitless {
    /// The most of each.
    pub(super) const CAPS: Self = Self {
        key_updates: 32,
        handshake: 64,
        empty: 32,
        warnings: 4,
    };
}

/// Counts one more, to `cap`.
//= spec/records.md#flood
fn count(counter: &mut u8, cap: u8) -> Result<(), Error> {
    if *counter >= cap {
        return Err(Error::Flood);
    }
    *counter += 1;
    Ok(())
}

impl Protocol {
    /// Opens the record at the front of `input` where it lies; answers also how many bytes of
    /// `input` are done with.
    #[inline]
    pub(super) fn open(&mut self, input: &mut [u8]) -> Result<(usize, Step), Error> {
        //= spec/records.md#half-close
        if self.rx_closed {
            return Ok((input.len(), Step::Closed));
        }
        let length = match front(input)? {
            Front::Incomplete(needed) => return Ok((0, Step::Incomplete(needed))),
            Front::Record(length) => length,
        };
        let missing = length.saturating_sub(input.len());
        let Some(record) = input.get_mut(..length) else {
            return Ok((0, Step::Incomplete(missing)));
        };
        //= spec/records.md#key-limit-in
        let limit = u64::from(self.limits.received);
        if self.rx_sequence >= (2 * limit).min(SEQUENCE_END) {
            return Err(Error::KeyWornOut);
        }
        let (header, body) = record.split_at_mut(HEADER);
        //= spec/records.md#forged
        let rx = &self.keys.rx;
        let inner = self
            .rx_key
            .of(self.suite, rx.key(self.suite), rx.iv())
            .and_then(|key| key.open(self.rx_sequence, header, body))
            .map_err(|_| Error::Forged)?;
        self.rx_sequence += 1;
        if self.rx_sequence >= limit && !self.asked && !self.tx_closed {
            self.owes_request = true;
        }
        //= spec/records.md#length
        if inner.len() > MAX_INNER {
            return Err(Error::Overflow);
        }
        //= spec/records.md#padding-in
        let (kind, content_len) = content(inner).ok_or(Error::Unexpected)?;
        let content = &inner[..content_len];
        // RFC 8446 5.1: nothing between the records of one handshake message.
        //= spec/records.md#messages
        if kind != HANDSHAKE && !self.messages.is_empty() {
            return Err(Error::Unexpected);
        }
        //= spec/records.md#content-type
        let step = match kind {
            APPLICATION_DATA if content.is_empty() => {
                count(&mut self.fruitless.empty, Fruitless::CAPS.empty)?;
                Step::Nothing
            }
            APPLICATION_DATA => {
                self.fruitless = Fruitless::default();
                Step::Data(content_len)
            }
            HANDSHAKE | ALERT if content.is_empty() => return Err(Error::Unexpected),
            HANDSHAKE => {
                count(&mut self.fruitless.handshake, Fruitless::CAPS.handshake)?;
                self.messages.extend_from_slice(content);
                Step::Nothing
            }
            ALERT => self.take_alert(content_len, [content[0], content[content_len - 1]])?,
            _ => return Err(Error::Unexpected),
        };
        Ok((length, step))
    }

    //= spec/records.md#alert-in
    fn take_alert(&mut self, length: usize, [_level, description]: [u8; 2]) -> Result<Step, Error> {
        if length != 2 {
            return Err(Error::Malformed);
        }
        match Alert(description) {
            Alert::CLOSE_NOTIFY => {
                self.rx_closed = true;
                Ok(Step::Closed)
            }
            Alert::USER_CANCELED => {
                count(&mut self.fruitless.warnings, Fruitless::CAPS.warnings)?;
                Ok(Step::Nothing)
            }
            alert => Err(Error::PeerAlert(alert)),
        }
    }

    /// Takes the next whole handshake message out of what was collected.
    pub(super) fn next_message(&mut self) -> Result<Option<Message>, Error> {
        let Some(&kind) = self.messages.first() else {
            return Ok(None);
        };
        //= spec/records.md#messages
        if !(kind == KEY_UPDATE || kind == NEW_SESSION_TICKET && !self.server) {
            return Err(Error::Unexpected);
        }
        let Some(&[_, high, middle, low]) = self.messages.first_chunk::<MESSAGE_HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > MAX_MESSAGE || kind == KEY_UPDATE && length != 1 {
            return Err(Error::Malformed);
        }
        let whole = MESSAGE_HEADER + length;
        let Some(body) = self.messages.get(MESSAGE_HEADER..whole) else {
            return Ok(None);
        };
        if kind == KEY_UPDATE {
            let value = body[0];
            self.take_key_update(value)?;
            self.messages = Scratch::new();
            return Ok(Some(Message::KeyUpdate));
        }
        //= spec/records.md#ticket
        if !is_ticket(body) {
            return Err(Error::Malformed);
        }
        let ticket = body.to_vec();
        count(&mut self.fruitless.handshake, Fruitless::CAPS.handshake)?;
        self.messages.consume(whole);
        if self.messages.is_empty() {
            self.messages = Scratch::new();
        }
        Ok(Some(Message::Ticket(ticket)))
    }

    //= spec/records.md#key-update-in
    fn take_key_update(&mut self, value: u8) -> Result<(), Error> {
        // RFC 8446 5.1: messages do not span a change of keys.
        if self.messages.len() != MESSAGE_HEADER + 1 {
            return Err(Error::Unexpected);
        }
        if value > 1 {
            return Err(Error::Illegal);
        }
        match self.requests.checked_sub(1) {
            Some(left) => {
                self.requests = left;
                self.fruitless.handshake = self.fruitless.handshake.saturating_sub(1);
            }
            None => count(&mut self.fruitless.key_updates, Fruitless::CAPS.key_updates)?,
        }
        self.keys
            .rx
            .advance(self.suite)
            .map_err(|_| Error::UsedUp)?;
        self.rx_key.forget();
        self.rx_sequence = 0;
        self.asked = false;
        self.owes_request = false;
        self.owes_reply |= value == 1 && !self.tx_closed;
        Ok(())
    }
}

const _: () = assert!(
    MAX_CONTENT < MAX_INNER,
    "a full record has room for its content type"
);
