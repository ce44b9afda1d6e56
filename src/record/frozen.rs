//! What of a record travels, and how it is made again (`spec/records.md#freeze`).

use serde::{Deserialize, Serialize};

use super::input::Input;
use super::keys::{Direction, Keys};
use super::limits::Limits;
use super::open::Fruitless;
use super::protocol::{Protocol, SEQUENCE_END};
use super::wire::MAX_CONTENT;
use super::{Record, TRANSFER_LIMIT};
use crate::codec::{Defect, Framing, Sealed};
use crate::crypto::Suite;
use crate::secret::Scratch;

/// A record's state, borrowed: from the record on its way out, from the opened token on its way in.
#[derive(Serialize, Deserialize)]
pub struct Frozen<'a> {
    suite: u16,
    server: bool,
    #[serde(borrow)]
    tx: FrozenDirection<'a>,
    rx: FrozenDirection<'a>,
    records: u32,
    received: u32,
    fragment: u16,
    padding: u16,
    tx_closed: bool,
    rx_closed: bool,
    owes_reply: bool,
    owes_request: bool,
    asked: bool,
    requests: u8,
    fruitless: [u8; 4],
    #[serde(borrow, with = "serde_bytes")]
    messages: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    plaintext: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    ciphertext: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    output: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct FrozenDirection<'a> {
    #[serde(borrow, with = "serde_bytes")]
    secret: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    key: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    iv: &'a [u8],
    sequence: u64,
}

impl<'a> FrozenDirection<'a> {
    fn of(direction: &'a Direction, suite: Suite, sequence: u64) -> Self {
        Self {
            secret: direction.secret(suite),
            key: direction.key(suite),
            iv: direction.iv(),
            sequence,
        }
    }

    fn thaw(&self, suite: Suite) -> Result<Direction, Defect> {
        if self.sequence >= SEQUENCE_END {
            return Err(Defect);
        }
        Direction::restore(suite, self.secret, self.key, self.iv).map_err(|_| Defect)
    }
}

impl Sealed for Record {}

impl Framing for Record {
    type Frozen<'a> = Frozen<'a>;

    const CODE: u8 = 2;

    /// None in a forked copy, after a fatal error, and while more than [`TRANSFER_LIMIT`] bytes are unread, unopened
    /// and unsent: read or send first. Any other state travels.
    //= spec/records.md#freeze
    fn freeze(&self) -> Option<Frozen<'_>> {
        self.check().ok()?;
        let protocol = &self.protocol;
        let suite = protocol.suite;
        let frozen = Frozen {
            suite: suite.code(),
            server: protocol.server,
            tx: FrozenDirection::of(&protocol.keys.tx, suite, protocol.tx_sequence),
            rx: FrozenDirection::of(&protocol.keys.rx, suite, protocol.rx_sequence),
            records: protocol.limits.records,
            received: protocol.limits.received,
            fragment: protocol.limits.fragment,
            padding: protocol.limits.padding,
            tx_closed: protocol.tx_closed,
            rx_closed: protocol.rx_closed,
            owes_reply: protocol.owes_reply,
            owes_request: protocol.owes_request,
            asked: protocol.asked,
            requests: protocol.requests,
            fruitless: protocol.fruitless.numbers(),
            messages: &protocol.messages,
            plaintext: self.input.plaintext(),
            ciphertext: self.input.ciphertext(),
            output: &self.output[self.sent..],
        };
        (frozen.kept() <= TRANSFER_LIMIT).then_some(frozen)
    }

    /// Checks every bound. It does not derive: key and IV come beside the secret. What moving
    /// them leaves on the stack is the caller's to wipe ([`crate::secret::scrubbed`]), once for all
    /// it imports.
    //= spec/records.md#thaw
    fn thaw(frozen: Frozen<'_>) -> Result<Self, Defect> {
        let suite = Suite::from_code(frozen.suite).ok_or(Defect)?;
        let Frozen {
            records,
            received,
            fragment,
            padding,
            ..
        } = frozen;
        let limits = Limits {
            records,
            received,
            fragment,
            padding,
        };
        let fruitless = Fruitless::from_numbers(frozen.fruitless).ok_or(Defect)?;
        let behind_the_end =
            frozen.rx_closed && !(frozen.messages.is_empty() && frozen.ciphertext.is_empty());
        let owed_for_nothing = frozen.tx_closed && (frozen.owes_reply || frozen.owes_request);
        if !limits.hold()
            || behind_the_end
            || owed_for_nothing
            || frozen.plaintext.len() > MAX_CONTENT
            || frozen.kept() > TRANSFER_LIMIT
        {
            return Err(Defect);
        }
        let keys = Keys {
            tx: frozen.tx.thaw(suite)?,
            rx: frozen.rx.thaw(suite)?,
        };
        let mut protocol = Protocol::new(keys, suite, frozen.server, limits);
        protocol.tx_sequence = frozen.tx.sequence;
        protocol.rx_sequence = frozen.rx.sequence;
        protocol.tx_closed = frozen.tx_closed;
        protocol.rx_closed = frozen.rx_closed;
        protocol.owes_reply = frozen.owes_reply;
        protocol.owes_request = frozen.owes_request;
        protocol.asked = frozen.asked;
        protocol.requests = frozen.requests;
        protocol.fruitless = fruitless;
        if !frozen.messages.is_empty() {
            protocol.messages = Scratch::with_capacity(frozen.messages.len());
            protocol.messages.extend_from_slice(frozen.messages);
        }
        let input = Input::with(frozen.plaintext, frozen.ciphertext);
        Ok(Self {
            protocol,
            input,
            output: frozen.output.to_vec(),
            sent: 0,
            failed: None,
        })
    }
}

impl Frozen<'_> {
    /// Bytes that travel beside the keys.
    fn kept(&self) -> usize {
        self.messages.len() + self.plaintext.len() + self.ciphertext.len() + self.output.len()
    }
}

impl Fruitless {
    fn numbers(self) -> [u8; 4] {
        [self.key_updates, self.handshake, self.empty, self.warnings]
    }

    /// None when one is above its cap.
    fn from_numbers(numbers: [u8; 4]) -> Option<Self> {
        let [key_updates, handshake, empty, warnings] = numbers;
        let within = numbers
            .iter()
            .zip(Self::CAPS.numbers())
            .all(|(number, cap)| *number <= cap);
        within.then_some(Self {
            key_updates,
            handshake,
            empty,
            warnings,
        })
    }
}
