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
mod state;
#[cfg(test)]
mod tests;
mod window;

pub use error::Error;
pub use header::Kind;
pub use state::Frozen;

use header::Header;
use keys::{Chain, Key};
use window::Window;
use zeroize::Zeroizing;

use crate::crypto::{Suite, TAG};
use crate::secret::{Slot, scrub_stack};
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
#[derive(Debug, PartialEq, Eq)]
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

/// The protection state of one context in message framing.
///
/// All keys and secrets are in one [`Slot`]: wiped on drop, in forked children, and out of core
/// dumps. The key of the receiver's previous generation has a second one, as long as it is kept.
/// What a forked child has is no state any more: every call there is refused.
pub struct Message {
    suite: Suite,
    initiator: bool,
    services: Services,
    closed_here: bool,
    closed_by_peer: bool,
    state: Slot<State>,
    previous: Option<Slot<Key>>,
}

struct State {
    tx: Sending,
    rx: Chain,
    window: Window,
    /// Number of the token that caused the move to the present receiving generation.
    since: u64,
}

struct Sending {
    chain: Chain,
    /// The next number; 2^64 - 1 is never used.
    sequence: u64,
    /// Tokens under the present key.
    messages: u32,
    /// Bytes under the present key.
    bytes: u64,
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
        let state = State::start(suite, tx_secret, rx_secret);
        scrub_stack();
        Self {
            suite,
            initiator,
            services,
            closed_here: false,
            closed_by_peer: false,
            state,
            previous: None,
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

    /// Makes a wrap token of `message` (at most [`MAX_MESSAGE`] bytes; RFC 2743 2.3.3).
    ///
    /// Errors: those of [`Message::wrap_in_place`].
    pub fn wrap(&mut self, confidential: bool, message: &[u8]) -> Result<Vec<u8>, Error> {
        if message.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        let mut token = Vec::with_capacity(message.len() + OVERHEAD);
        token.extend_from_slice(&[0; HEADER]);
        token.extend_from_slice(message);
        token.extend_from_slice(&[0; TAG]);
        self.wrap_in_place(confidential, &mut token)?;
        Ok(token)
    }

    /// Makes a wrap token of the message that lies in `buffer` behind [`HEADER`] bytes and before
    /// 16 bytes, whose contents do not matter; nothing is copied. The whole buffer is the token.
    ///
    /// Errors, which leave buffer and state as they were: [`Error::BufferTooShort`] under
    /// [`OVERHEAD`] bytes; [`Error::TooLarge`]; [`Error::NotConfidential`] when encryption was not
    /// granted (it is never left out silently); [`Error::ClosedHere`]; [`Error::UsedUp`].
    pub fn wrap_in_place(&mut self, confidential: bool, buffer: &mut [u8]) -> Result<(), Error> {
        let Some((signed, tag)) = buffer.split_last_chunk_mut::<TAG>() else {
            return Err(Error::BufferTooShort);
        };
        let Some(len) = signed.len().checked_sub(HEADER) else {
            return Err(Error::BufferTooShort);
        };
        let header = self.number(Kind::Wrap, confidential, len)?;
        let (head, message) = signed.split_at_mut(HEADER);
        head.copy_from_slice(&header.encode());
        *tag = if confidential {
            //= spec/messages.md#wrap
            self.seal(&header, head, message)?
        } else {
            //= spec/messages.md#integrity
            self.seal(&header, signed, &mut [])?
        };
        Ok(())
    }

    /// Makes the MIC token of `message` (at most [`MAX_MESSAGE`] bytes; RFC 2743 2.3.1).
    ///
    /// The message is copied once, behind the header. Errors: as of [`Message::wrap_in_place`];
    /// [`Error::TooLarge`] also when there is no memory for the copy.
    pub fn get_mic(&mut self, message: &[u8]) -> Result<[u8; MIC], Error> {
        if message.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        // Memory first: a sequence number that is taken must be sent.
        let mut signed = behind(&[0; HEADER], message)?;
        //= spec/messages.md#mic
        let header = self.number(Kind::Mic, false, message.len())?;
        signed[..HEADER].copy_from_slice(&header.encode());
        let tag = self.seal(&header, &signed, &mut [])?;
        Ok(join(header.encode(), tag))
    }

    /// Makes the close token: nothing can be sent after it. Receiving goes on until the peer closes.
    ///
    /// Errors: [`Error::ClosedHere`] the second time; [`Error::UsedUp`].
    pub fn close(&mut self) -> Result<[u8; CLOSE], Error> {
        //= spec/messages.md#close
        let header = self.number(Kind::Close, false, 0)?;
        let tag = self.seal(&header, &header.encode(), &mut [])?;
        self.closed_here = true;
        Ok(join(header.encode(), tag))
    }

    /// Opens a wrap token where it lies (RFC 2743 2.3.4).
    ///
    /// Errors, which leave the state as it was: [`Error::Malformed`]; [`Error::Forged`];
    /// [`Error::Reflected`]; [`Error::ClosedByPeer`]. After an error the token's bytes are
    /// unspecified and are no message.
    pub fn unwrap<'a>(&mut self, token: &'a mut [u8]) -> Result<Unwrapped<'a>, Error> {
        let header = self.admit(token, Kind::Wrap)?;
        let end = token.len() - TAG;
        let (aad, in_out) = token.split_at_mut(if header.confidential { HEADER } else { end });
        let supplementary = self.verify(&header, aad, in_out)?;
        let message = &mut token[HEADER..end];
        Ok(Unwrapped {
            message,
            confidential: header.confidential,
            supplementary,
        })
    }

    /// Verifies a MIC token of `message` (RFC 2743 2.3.2). The supplementary status tells about the
    /// token's place, as in [`Unwrapped`].
    ///
    /// Errors: those of [`Message::unwrap`]; [`Error::TooLarge`] as in [`Message::get_mic`].
    pub fn verify_mic(&mut self, message: &[u8], mic: &[u8]) -> Result<Supplementary, Error> {
        let header = self.admit(mic, Kind::Mic)?;
        if message.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        let (head, tag) = mic.split_at(HEADER);
        let signed = behind(head, message)?;
        self.verify(&header, &signed, &mut tag_of(tag))
    }

    /// Takes the peer's close token (RFC 2743 2.2.4): from now on nothing is accepted from the peer.
    ///
    /// A gap in the supplementary status says that messages before it have not arrived. Errors:
    /// those of [`Message::unwrap`].
    pub fn process(&mut self, token: &[u8]) -> Result<Supplementary, Error> {
        let header = self.admit(token, Kind::Close)?;
        let (head, tag) = token.split_at(HEADER);
        let supplementary = self.verify(&header, head, &mut tag_of(tag))?;
        self.closed_by_peer = true;
        Ok(supplementary)
    }

    /// Takes the next sequence number for a token of `len` message bytes, after every check; moves
    /// to the next generation when it is time.
    #[inline]
    fn number(&mut self, kind: Kind, confidential: bool, len: usize) -> Result<Header, Error> {
        if !self.state.is_here() {
            return Err(Error::Forked);
        }
        //= spec/messages.md#closed
        if self.closed_here {
            return Err(Error::ClosedHere);
        }
        if len > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        if confidential && !self.services.confidentiality {
            return Err(Error::NotConfidential);
        }
        let state = &mut *self.state;
        //= spec/messages.md#sequence
        if state.tx.sequence == u64::MAX {
            return Err(Error::UsedUp);
        }
        let bytes = (HEADER + len) as u64;
        //= spec/messages.md#move
        if state.tx.messages >= MESSAGES_PER_KEY || state.tx.bytes + bytes > BYTES_PER_KEY {
            state.tx.move_on(self.suite)?;
            scrub_stack();
        }
        let header = Header {
            kind,
            confidential,
            from_acceptor: !self.initiator,
            generation: state.tx.chain.generation,
            sequence: state.tx.sequence,
        };
        state.tx.sequence += 1;
        state.tx.messages += 1;
        state.tx.bytes += bytes;
        Ok(header)
    }

    #[inline]
    fn seal(&self, header: &Header, aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG], Error> {
        let key = &self.state.tx.chain.key;
        key.seal(header.sequence, aad, in_out)
            .map_err(|_| Error::TooLarge)
    }

    /// Every check of a received token that needs no key.
    #[inline]
    fn admit(&self, token: &[u8], kind: Kind) -> Result<Header, Error> {
        if !self.state.is_here() {
            return Err(Error::Forked);
        }
        let header = Header::parse(token, kind)?;
        if header.confidential && !self.services.confidentiality {
            return Err(Error::Malformed);
        }
        //= spec/messages.md#reflection
        if header.from_acceptor != self.initiator {
            return Err(Error::Reflected);
        }
        if self.closed_by_peer {
            return Err(Error::ClosedByPeer);
        }
        Ok(header)
    }

    /// Opens `in_out` under the key of the token's generation; then, and only then, the state
    /// learns of the token.
    //= spec/messages.md#forged
    #[inline]
    fn verify(
        &mut self,
        header: &Header,
        aad: &[u8],
        in_out: &mut [u8],
    ) -> Result<Supplementary, Error> {
        let (token, present) = (header.generation, self.state.rx.generation);
        //= spec/messages.md#ahead
        if token == present {
            open(&self.state.rx.key, header, aad, in_out)?;
        } else if token > present && token - present <= AHEAD {
            let opened = self.open_ahead(token - present, header, aad, in_out);
            scrub_stack();
            opened?;
        } else if present.checked_sub(token) == Some(1) {
            open(
                self.previous.as_ref().ok_or(Error::Forged)?,
                header,
                aad,
                in_out,
            )?;
        } else {
            return Err(Error::Forged);
        }
        let state = &mut *self.state;
        let place = state.window.accept(header.sequence);
        //= spec/messages.md#supplementary
        let told = self.services.told(place);
        if self.previous.is_some()
            && !state::previous_is_kept(state.rx.generation, state.since, state.window.next())
        {
            self.previous = None;
        }
        Ok(told)
    }

    /// Opens a token of the generation `steps` past the present one, and makes that one present
    /// when it verifies. Not inlined: the keys it leaves on the stack are wiped by its caller.
    #[cold]
    #[inline(never)]
    fn open_ahead(
        &mut self,
        steps: u32,
        header: &Header,
        aad: &[u8],
        in_out: &mut [u8],
    ) -> Result<(), Error> {
        let suite = self.suite;
        let (secret, before) = self.state.rx.ahead(suite, steps);
        let next = Chain::at(suite, header.generation, &secret);
        open(&next.key, header, aad, in_out)?;
        //= spec/messages.md#commit
        let state = &mut *self.state;
        let last = core::mem::replace(&mut state.rx, next);
        let previous = if steps == 1 {
            last.key
        } else {
            Chain::key_of(suite, &before)
        };
        state.since = header.sequence;
        self.previous = Some(Slot::new(previous));
        Ok(())
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

impl Sending {
    /// Not inlined: the keys it leaves on the stack are wiped by its caller.
    #[cold]
    #[inline(never)]
    fn move_on(&mut self, suite: Suite) -> Result<(), Error> {
        //= spec/messages.md#last-generation
        let generation = self.chain.generation.checked_add(1).ok_or(Error::UsedUp)?;
        let (secret, _) = self.chain.ahead(suite, 1);
        self.chain = Chain::at(suite, generation, &secret);
        self.messages = 0;
        self.bytes = 0;
        Ok(())
    }
}

#[inline]
fn open(key: &Key, header: &Header, aad: &[u8], in_out: &mut [u8]) -> Result<(), Error> {
    key.open(header.sequence, aad, in_out)
        .map_err(|_| Error::Forged)
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

fn join(header: [u8; HEADER], tag: [u8; TAG]) -> [u8; OVERHEAD] {
    let mut token = [0; OVERHEAD];
    token[..HEADER].copy_from_slice(&header);
    token[HEADER..].copy_from_slice(&tag);
    token
}

/// A copy of a tag: opening wants to write where it reads.
fn tag_of(bytes: &[u8]) -> [u8; TAG] {
    let mut tag = [0; TAG];
    tag.copy_from_slice(bytes);
    tag
}
