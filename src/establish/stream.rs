//! Tokens on a byte stream, and which framing a stream is in.

use crate::status::Minor;
use crate::tls::Error;

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Tokens behind their lengths.
    Message,
    /// TLS records.
    Record,
}

impl Framing {
    /// The framing of a connection, by the first byte the initiator sends; none when it can be
    /// neither's.
    //= spec/mechanism.md#first-byte
    pub const fn of(first: u8) -> Option<Self> {
        match first {
            0x00 => Some(Self::Message),
            0x16 => Some(Self::Record),
            _ => None,
        }
    }
}

/// The tokens of message framing in a byte stream, each behind its length in four bytes.
///
/// It holds at most one token that is not whole, and that only as far as it came in.
///
/// ```
/// use baton::establish::Tokens;
/// let mut stream = Tokens::frame(b"first");
/// stream.extend_from_slice(&Tokens::frame(b"second"));
/// let mut tokens = Tokens::new(100);
/// let mut input = &stream[..];
/// assert_eq!(tokens.next(&mut input)?.as_deref(), Some(&b"first"[..]));
/// assert_eq!(tokens.next(&mut input)?.as_deref(), Some(&b"second"[..]));
/// assert_eq!(tokens.next(&mut input)?, None);
/// # Ok::<(), baton::cred::Error>(())
/// ```
#[derive(Debug)]
pub struct Tokens {
    limit: usize,
    partial: Vec<u8>,
}

/// Bytes of a token's length.
const LENGTH: usize = 4;
/// The longest token there can be, so that its length begins with a zero byte.
const LONGEST: usize = (1 << 24) - 1;

impl Tokens {
    /// Reads tokens of at most `limit` bytes: [`super::TOKEN_LIMIT`] while establishing, the
    /// application's afterwards; never more than 2^24 - 1.
    pub const fn new(limit: usize) -> Self {
        let limit = if limit < LONGEST { limit } else { LONGEST };
        Self {
            limit,
            partial: Vec::new(),
        }
    }

    /// The token behind its length, as it is sent: at most 2^24 - 1 bytes; of a longer one,
    /// nothing.
    //= spec/mechanism.md#stream
    pub fn frame(token: &[u8]) -> Vec<u8> {
        if token.is_empty() || token.len() > LONGEST {
            return Vec::new();
        }
        let length = (token.len() as u32).to_be_bytes();
        [&length[..], token].concat()
    }

    /// Takes bytes from the front of `input` up to the end of a token; none when the input ends
    /// before. Call it until it answers none.
    ///
    /// # Errors
    /// DEFECTIVE_TOKEN when a token is announced that is empty or longer than the limit: nothing
    /// more can be read from the stream.
    //= spec/mechanism.md#stream
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.fill(input, LENGTH);
        let Some(length) = self.partial.first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 || length > self.limit {
            return Err(Error::new(
                Minor::ContextTokenTooLarge,
                "the peer announces a token longer than any can be",
            ));
        }
        self.fill(input, LENGTH + length);
        if self.partial.len() < LENGTH + length {
            return Ok(None);
        }
        let token = self.partial.split_off(LENGTH);
        self.partial.clear();
        Ok(Some(token))
    }

    /// Whether a token has begun and is not whole: the stream may not end here.
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Moves bytes until the token that is not whole has `length`.
    fn fill(&mut self, input: &mut &[u8], length: usize) {
        let missing = length.saturating_sub(self.partial.len());
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.partial.extend_from_slice(taken);
        *input = rest;
    }
}
