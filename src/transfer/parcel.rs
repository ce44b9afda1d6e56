//! What one message between two processes carries.

use std::os::fd::OwnedFd;

use crate::codec::Framing;
use crate::ledger::Domain;
use crate::secret::Scratch;
use crate::status::{Minor, Status};

use super::{Laden, Token, unload};

/// A token or a bundle with its sockets, ready to be sent. The exporter keeps it, with its copies
/// of the sockets and without any key, until the importer has acknowledged: if that importer dies,
/// what it has not imported can be sent to another.
pub struct Parcel {
    bytes: Bytes,
    sockets: Vec<OwnedFd>,
}

enum Bytes {
    Token(Vec<u8>),
    Bundle(Scratch),
}

impl Parcel {
    /// A token with the socket it belongs to, if any.
    pub fn new(token: Token, socket: Option<OwnedFd>) -> Self {
        Self {
            bytes: Bytes::Token(token.into_bytes()),
            sockets: socket.into_iter().collect(),
        }
    }

    pub(super) fn from_bundle(sealed: Scratch, sockets: Vec<OwnedFd>) -> Self {
        Self {
            bytes: Bytes::Bundle(sealed),
            sockets,
        }
    }

    /// The sealed bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Token(bytes) => bytes,
            Bytes::Bundle(bytes) => bytes,
        }
    }

    /// Imports here what can still be imported of a laden bundle that came back: what its importer
    /// has had is spent, and refused.
    ///
    /// # Errors
    /// As [`unload`]; DEFECTIVE_TOKEN (malformed) for a parcel that is none.
    pub fn take_back<F: Framing>(
        self,
        domain: &Domain,
    ) -> Result<Vec<Result<Laden<F>, Status>>, Status> {
        match self.bytes {
            Bytes::Bundle(mut sealed) => unload(domain, &mut sealed, self.sockets),
            Bytes::Token(_) => Err(Minor::TokenMalformed.into()),
        }
    }

    /// The sockets, in the order of the contexts.
    pub fn sockets(&self) -> &[OwnedFd] {
        &self.sockets
    }
}

impl core::fmt::Debug for Parcel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "Parcel({} bytes, {} sockets)",
            self.as_bytes().len(),
            self.sockets.len()
        )
    }
}
