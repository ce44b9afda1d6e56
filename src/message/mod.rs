//! Message framing: what GSS peers send each other once a context is established.
//!
//! [`Message`] holds one context's keys, sequence numbers and replay window, and turns messages
//! into tokens and back; `spec/messages.md` has the format and the rules. It does no input or
//! output and knows nothing of names, lifetimes or processes.
//!
//! Invariants:
//! - a sequence number is spent before anything is sealed under it, so no number seals twice;
//! - nothing of the receiving state changes before a tag has verified;
//! - at most one present key per direction is kept, and for a while the one before it; earlier
//!   secrets and keys are gone.
//!
//! ```
//! use baton::crypto::Suite;
//! use baton::message::{Message, Services};
//!
//! // Both secrets come from the handshake; each side has them the other way round.
//! let services = Services { replay: true, sequence: true, confidentiality: true };
//! let mut initiator = Message::new(Suite::Aes128Gcm, true, &[1; 32], &[2; 32], services);
//! let mut acceptor = Message::new(Suite::Aes128Gcm, false, &[2; 32], &[1; 32], services);
//!
//! let mut token = initiator.wrap(true, b"hello")?;
//! let mut copy = token.clone();
//! let unwrapped = acceptor.unwrap(&mut token)?;
//! assert_eq!(unwrapped.message, b"hello");
//! assert!(unwrapped.confidential && unwrapped.supplementary.is_empty());
//!
//! // A second time it is authentic still, and told to be a duplicate: the caller decides.
//! assert!(acceptor.unwrap(&mut copy)?.supplementary.duplicate);
//! # Ok::<(), baton::message::Error>(())
//! ```

mod error;
mod header;
mod keys;
mod receive;
mod send;
mod state;
#[cfg(test)]
mod tests;
mod window;

pub use error::Error;
pub use header::Kind;
pub use state::Frozen;

use keys::{Chain, Key};
use send::Sending;
use window::Window;
use zeroize::Zeroizing;

use crate::crypto::{Expanded, Suite, TAG};
use crate::secret::{Depth, Slot, scrubbed};
use crate::status::Supplementary;

/// Bytes before the message in a wrap token.
pub const HEADER: usize = 16;
/// Bytes by which a wrap token is longer than its message: header and tag.
pub const OVERHEAD: usize = HEADER + TAG;
/// Bytes of a MIC token.
pub const MIC: usize = OVERHEAD;
/// Bytes of a close token.
pub const CLOSE: usize = OVERHEAD;
/// The most bytes of one message: 1 GiB.
pub const MAX_MESSAGE: usize = 1 << 30;

/// Tokens after which a sender moves to the next generation.
const MESSAGES_PER_KEY: u32 = 1 << 20;
/// Bytes, of headers and messages, before which it does so too.
const BYTES_PER_KEY: u64 = 1 << 36;
/// Generations past the present one that a receiver tries.
const AHEAD: u32 = 4;

/// The services granted to a context (RFC 2743 1.2.3 and 1.2.4), the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Services {
    /// Duplicates and tokens older than the window are told.
    pub replay: bool,
    /// Gaps and tokens out of order are told, and all that `replay` tells.
    pub sequence: bool,
    /// Messages may be encrypted.
    pub confidentiality: bool,
}

/// A message out of a wrap token.
#[derive(PartialEq, Eq)]
#[must_use]
pub struct Unwrapped<'a> {
    /// The message, where it lies in the token.
    pub message: &'a mut [u8],
    /// Whether it was encrypted.
    pub confidential: bool,
    /// Whether the token is a duplicate, old, out of order or behind a gap.
    ///
    /// The message is authentic whatever stands here; a caller that acts on messages and has no
    /// order of its own drops what is duplicate or old.
    pub supplementary: Supplementary,
}

impl core::fmt::Debug for Unwrapped<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The message itself is nobody's to log.
        let (length, told) = (self.message.len(), self.supplementary);
        write!(f, "Unwrapped({length} bytes, {told:?})")
    }
}

/// The protection state of one context in message framing.
///
/// All keys and secrets are in [`Slot`]s: wiped on drop, in forked children, and out of core dumps.
/// A key is expanded at its first use; the receiver's previous one is kept as long as it may be needed.
/// What a forked child has is no state any more: every call there is refused.
pub struct Message {
    suite: Suite,
    initiator: bool,
    services: Services,
    closed_here: bool,
    closed_by_peer: bool,
    state: Slot<State>,
    previous: Option<(Slot<Key>, Expanded)>,
    tx_key: Expanded,
    rx_key: Expanded,
}

struct State {
    tx: Sending,
    rx: Chain,
    window: Window,
    /// Number of the token that caused the move to the present receiving generation.
    since: u64,
}

impl Message {
    /// The state at the start of a context. `tx_secret` protects what this side sends, `rx_secret`
    /// what the peer sends; both are [`Suite::secret_len`] bytes long and are the caller's to wipe.
    ///
    /// # Panics
    /// When a secret is of another length: they come from the handshake's exporter, never from input.
    pub fn new(
        suite: Suite,
        initiator: bool,
        tx_secret: &[u8],
        rx_secret: &[u8],
        services: Services,
    ) -> Self {
        let state = scrubbed(Depth::Derived, || State::start(suite, tx_secret, rx_secret));
        Self {
            suite,
            initiator,
            services,
            closed_here: false,
            closed_by_peer: false,
            state,
            previous: None,
            tx_key: Expanded::default(),
            rx_key: Expanded::default(),
        }
    }

    /// The cipher suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The granted services.
    pub fn services(&self) -> Services {
        self.services
    }

    /// Whether [`Message::close`] was called.
    pub fn is_closed_here(&self) -> bool {
        self.closed_here
    }

    /// Whether the peer's close token was received.
    pub fn is_closed_by_peer(&self) -> bool {
        self.closed_by_peer
    }

    /// The largest message whose wrap token has at most `max_token` bytes (RFC 2743 2.2.7); 0 also
    /// when not even the empty message's has. Encrypting makes no difference.
    ///
    /// ```
    /// use baton::message::{MAX_MESSAGE, Message};
    /// assert_eq!(Message::wrap_size_limit(true, 1500), 1468);
    /// assert_eq!(Message::wrap_size_limit(false, usize::MAX), MAX_MESSAGE);
    /// ```
    //= spec/messages.md#size
    pub const fn wrap_size_limit(_confidential: bool, max_token: usize) -> usize {
        let room = max_token.saturating_sub(OVERHEAD);
        if room < MAX_MESSAGE {
            room
        } else {
            MAX_MESSAGE
        }
    }
}

impl State {
    /// Not inlined: the keys it leaves on the stack are below its caller, who wipes them.
    #[inline(never)]
    fn start(suite: Suite, tx_secret: &[u8], rx_secret: &[u8]) -> Slot<Self> {
        Slot::new(Self {
            tx: Sending {
                chain: Chain::new(suite, tx_secret),
                sequence: 0,
                messages: 0,
                bytes: 0,
            },
            rx: Chain::new(suite, rx_secret),
            window: Window::default(),
            since: 0,
        })
    }
}

/// The message behind the header, in one piece, as the AEAD wants it. The copy is wiped: the
/// message may be the caller's secret.
fn behind(header: &[u8], message: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut signed = Zeroizing::new(Vec::new());
    signed
        .try_reserve_exact(HEADER + message.len())
        .map_err(|_| Error::TooLarge)?;
    signed.extend_from_slice(header);
    signed.extend_from_slice(message);
    Ok(signed)
}
