//! The 16 bytes every token starts with.

use super::{Error, HEADER, MAX_MESSAGE};
use crate::crypto::TAG;

const CONFIDENTIAL: u8 = 0x01;
const FROM_ACCEPTOR: u8 = 0x02;

/// The types of per-message tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Carries a message; for [`super::Message::unwrap`].
    Wrap = 1,
    /// Proves a message that travels elsewhere; for [`super::Message::verify_mic`].
    Mic = 2,
    /// Ends a direction; for [`super::Message::process`].
    Close = 3,
}

impl Kind {
    /// What a token claims to be, by its first byte; nothing is verified.
    ///
    /// ```
    /// use baton::message::Kind;
    /// assert_eq!(Kind::of(&[2, 0, 0]), Some(Kind::Mic));
    /// assert_eq!(Kind::of(&[]), None);
    /// ```
    pub fn of(token: &[u8]) -> Option<Self> {
        match token.first()? {
            1 => Some(Self::Wrap),
            2 => Some(Self::Mic),
            3 => Some(Self::Close),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) confidential: bool,
    pub(super) from_acceptor: bool,
    pub(super) generation: u32,
    pub(super) sequence: u64,
}

impl Header {
    //= spec/messages.md#header
    #[inline]
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let confidential = if self.confidential { CONFIDENTIAL } else { 0 };
        let from_acceptor = if self.from_acceptor { FROM_ACCEPTOR } else { 0 };
        bytes[0] = self.kind as u8;
        bytes[1] = confidential | from_acceptor;
        bytes[4..8].copy_from_slice(&self.generation.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    /// Reads the header of a whole token, which must be of `kind`.
    //= spec/messages.md#malformed
    #[inline]
    pub(super) fn parse(token: &[u8], kind: Kind) -> Result<Self, Error> {
        let (head, body) = token
            .split_first_chunk::<HEADER>()
            .ok_or(Error::Malformed)?;
        let [
            first,
            flags,
            0,
            0,
            g0,
            g1,
            g2,
            g3,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
        ] = *head
        else {
            return Err(Error::Malformed);
        };
        let header = Self {
            kind,
            confidential: flags & CONFIDENTIAL != 0,
            from_acceptor: flags & FROM_ACCEPTOR != 0,
            generation: u32::from_be_bytes([g0, g1, g2, g3]),
            sequence: u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        };
        let (most, known) = match kind {
            Kind::Wrap => (MAX_MESSAGE + TAG, CONFIDENTIAL | FROM_ACCEPTOR),
            Kind::Mic | Kind::Close => (TAG, FROM_ACCEPTOR),
        };
        if first != kind as u8
            || flags & !known != 0
            || !(TAG..=most).contains(&body.len())
            || header.sequence == u64::MAX
        {
            return Err(Error::Malformed);
        }
        Ok(header)
    }
}
