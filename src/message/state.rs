//! The state of a context in message framing, as it travels in an interprocess token.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::keys::{Chain, Key};
use super::send::Sending;
use super::window::{WINDOW, Window};
use super::{BYTES_PER_KEY, HEADER, MAX_MESSAGE, MESSAGES_PER_KEY, Message, Services, State};
use crate::codec::{Defect, Framing, Sealed};
use crate::crypto::{Expanded, Suite};
use crate::secret::Slot;

const INITIATOR: u8 = 0x01;
const REPLAY: u8 = 0x02;
const SEQUENCE: u8 = 0x04;
const CONFIDENTIALITY: u8 = 0x08;
const CLOSED_HERE: u8 = 0x10;
const CLOSED_BY_PEER: u8 = 0x20;

/// What of a [`Message`] travels: borrowed from its pages on the way out, from the opened token on
/// the way in. It holds secrets, and so has no `Debug`.
//= spec/messages.md#state
#[derive(Serialize, Deserialize)]
pub struct Frozen<'a> {
    suite: u16,
    flags: u8,
    #[serde(borrow)]
    tx: FrozenChain<'a>,
    tx_sequence: u64,
    tx_messages: u32,
    tx_bytes: u64,
    rx: FrozenChain<'a>,
    rx_next: u64,
    rx_seen: [u128; 2],
    rx_since: u64,
    rx_previous: Option<Bytes<'a>>,
}

#[derive(Serialize, Deserialize)]
struct FrozenChain<'a> {
    generation: u32,
    #[serde(borrow)]
    secret: Bytes<'a>,
    key: Bytes<'a>,
}

/// Bytes that are encoded in one piece, where serde would take a slice member by member.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, encoder: S) -> Result<S::Ok, S::Error> {
        encoder.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(decoder).map(Self)
    }
}

impl<'a> FrozenChain<'a> {
    fn of(chain: &'a Chain, suite: Suite) -> Self {
        Self {
            generation: chain.generation,
            secret: Bytes(chain.secret(suite)),
            key: Bytes(chain.key.material(suite)),
        }
    }

    fn thaw(&self, suite: Suite) -> Result<Chain, Defect> {
        Chain::restore(suite, self.generation, self.secret.0, self.key.0).map_err(|_| Defect)
    }
}

impl Frozen<'_> {
    /// Whether a run of the rules leads to these counters.
    //= spec/messages.md#bounds
    fn is_possible(&self) -> bool {
        let (messages, earlier) = (u64::from(self.tx_messages), u64::from(self.tx.generation));
        let header = HEADER as u64;
        // Neither product overflows: 32 bits times 31.
        let counters = messages <= u64::from(MESSAGES_PER_KEY)
            && self.tx_bytes <= BYTES_PER_KEY
            && (messages * header..=messages * (header + MAX_MESSAGE as u64))
                .contains(&self.tx_bytes);
        let sequence = match self.tx_sequence.checked_sub(messages) {
            Some(before) if earlier == 0 => before == 0,
            Some(before) => before >= earlier,
            None => false,
        };
        let since = match self.rx.generation {
            0 => self.rx_since == 0,
            // Any number below `next`: a peer that breaks the rules decides how small it is.
            _ => self.rx_since < self.rx_next,
        };
        let closed = (self.flags & CLOSED_HERE == 0 || self.tx_sequence > 0)
            && (self.flags & CLOSED_BY_PEER == 0 || self.rx_next > 0);
        let kept = previous_is_kept(self.rx.generation, self.rx_since, self.rx_next);
        counters && sequence && since && closed && self.rx_previous.is_some() == kept
    }
}

/// Whether the key of the generation before the present one is still kept.
//= spec/messages.md#commit
#[inline]
pub(super) fn previous_is_kept(generation: u32, since: u64, next: u64) -> bool {
    generation > 0 && next.saturating_sub(since) < WINDOW
}

impl Sealed for Message {}

impl Framing for Message {
    type Frozen<'a> = Frozen<'a>;

    const CODE: u8 = 1;

    /// Always possible, but for the wiped copy in a forked process.
    fn freeze(&self) -> Option<Frozen<'_>> {
        if !self.state.is_here() {
            return None;
        }
        let (state, suite) = (&*self.state, self.suite);
        let bits = [
            (INITIATOR, self.initiator),
            (REPLAY, self.services.replay),
            (SEQUENCE, self.services.sequence),
            (CONFIDENTIALITY, self.services.confidentiality),
            (CLOSED_HERE, self.closed_here),
            (CLOSED_BY_PEER, self.closed_by_peer),
        ];
        Some(Frozen {
            suite: suite.code(),
            flags: bits
                .iter()
                .filter(|(_, set)| *set)
                .map(|(bit, _)| bit)
                .sum(),
            tx: FrozenChain::of(&state.tx.chain, suite),
            tx_sequence: state.tx.sequence,
            tx_messages: state.tx.messages,
            tx_bytes: state.tx.bytes,
            rx: FrozenChain::of(&state.rx, suite),
            rx_next: state.window.next(),
            rx_seen: state.window.seen(),
            rx_since: state.since,
            rx_previous: self
                .previous
                .as_ref()
                .map(|(key, _)| Bytes(key.material(suite))),
        })
    }

    /// Leaves wiping the stack to its caller ([`crate::secret::scrubbed`]), once for all it imports.
    fn thaw(frozen: Frozen<'_>) -> Result<Self, Defect> {
        let suite = Suite::from_code(frozen.suite).ok_or(Defect)?;
        let has = |bit| frozen.flags & bit != 0;
        let known = INITIATOR | REPLAY | SEQUENCE | CONFIDENTIALITY | CLOSED_HERE | CLOSED_BY_PEER;
        if has(!known) || !frozen.is_possible() {
            return Err(Defect);
        }
        let window = Window::restore(frozen.rx_next, frozen.rx_seen).ok_or(Defect)?;
        let previous = match &frozen.rx_previous {
            None => None,
            Some(material) => {
                let key = Key::restore(suite, material.0).map_err(|_| Defect)?;
                Some((Slot::new(key), Expanded::default()))
            }
        };
        let state = State {
            tx: Sending {
                chain: frozen.tx.thaw(suite)?,
                sequence: frozen.tx_sequence,
                messages: frozen.tx_messages,
                bytes: frozen.tx_bytes,
            },
            rx: frozen.rx.thaw(suite)?,
            window,
            since: frozen.rx_since,
        };
        Ok(Self {
            suite,
            initiator: has(INITIATOR),
            services: Services {
                replay: has(REPLAY),
                sequence: has(SEQUENCE),
                confidentiality: has(CONFIDENTIALITY),
            },
            closed_here: has(CLOSED_HERE),
            closed_by_peer: has(CLOSED_BY_PEER),
            state: Slot::new(state),
            previous,
            tx_key: Expanded::default(),
            rx_key: Expanded::default(),
        })
    }
}
