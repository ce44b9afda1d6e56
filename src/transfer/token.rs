//! An interprocess token as its holder sees it.

use core::fmt;
use std::os::fd::OwnedFd;

use crate::crypto::REST_NONCE;
use crate::ledger::{self, Domain};
use crate::status::{Minor, Status};

use super::format::{self, BUCKETS, Header, KEPT_TOKEN, TOKEN};

/// A sealed context on its way. Its bytes say nothing of it but version, key id and nonce (C5),
/// yet whoever may import it becomes its runner: pass it on, and keep it out of logs.
pub struct Token(Vec<u8>);

impl Token {
    pub(super) fn from_sealed(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// A token that was passed on. Whether it is one, only its import tells.
    ///
    /// # Errors
    /// DEFECTIVE_TOKEN when it does not begin as a token does, or has a size that none has.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, Status> {
        PublicHeader::read(&bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes, to be passed on.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, given away.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The kept domain at the other end of `socket`, as [`Domain::kept`], for a process that comes
    /// to import this token: its keeper is asked one time less.
    ///
    /// # Errors
    /// Those of [`Domain::kept`]. Whether the token can be imported, only its import tells.
    //= spec/keeper.md#hello
    pub fn join(&self, socket: OwnedFd) -> Result<Domain, ledger::Error> {
        let header = Header::read(&self.0, (TOKEN, KEPT_TOKEN)).ok();
        let handle = header.and_then(|header| header.handle);
        Domain::kept_for(socket, handle.as_ref())
    }

    /// What anyone may see of the token.
    pub fn public_header(&self) -> PublicHeader {
        let header = Header::read(&self.0, (TOKEN, KEPT_TOKEN)).ok();
        let (key, nonce) = header.map_or((0, [0; REST_NONCE]), |h| (h.key, h.nonce));
        PublicHeader {
            version: format::VERSION,
            key,
            nonce,
            size: self.0.len(),
        }
    }
}

impl AsRef<[u8]> for Token {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

/// What a token shows to anyone: nothing of this is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicHeader {
    /// The format's version.
    pub version: u8,
    /// Which of the domain's sealing keys it is sealed with.
    pub key: u64,
    /// The random nonce.
    pub nonce: [u8; REST_NONCE],
    /// Bytes in all.
    pub size: usize,
}

impl PublicHeader {
    /// Reads the header of a token of any version.
    ///
    /// # Errors
    /// DEFECTIVE_TOKEN when `bytes` do not begin as a token does, or a token of a known version
    /// has a size that none has.
    pub fn read(bytes: &[u8]) -> Result<Self, Status> {
        let header = Header::read(bytes, (TOKEN, KEPT_TOKEN))?;
        if header.version == format::VERSION && !BUCKETS.contains(&bytes.len()) {
            return Err(Minor::TokenMalformed.into());
        }
        Ok(Self {
            version: header.version,
            key: header.key,
            nonce: header.nonce,
            size: bytes.len(),
        })
    }
}

impl fmt::Display for PublicHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}, key {:016x}, nonce ", self.version, self.key)?;
        self.nonce
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, ", {} bytes", self.size)
    }
}
