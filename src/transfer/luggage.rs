//! What a server knows of a connection beside its context, sealed with it.

use core::fmt;
use core::ops::Deref;
use std::os::fd::OwnedFd;

use crate::codec::Framing;
use crate::context::Context;
use crate::secret::Scratch;
use crate::status::{Minor, Status};

/// Most bytes of luggage beside one context.
//= spec/token.md#laden
pub const MAX_LUGGAGE: usize = 65_536;

/// Bytes of the server's own that travel with a context, under the same seal: plaintext it has
/// read and not answered, where it is in its protocol. They lie in secret pages on both sides.
#[derive(Default)]
pub struct Luggage(Scratch);

impl Luggage {
    /// Nothing; takes no memory.
    pub fn none() -> Self {
        Self(Scratch::new())
    }

    /// These bytes.
    ///
    /// # Errors
    /// UNAVAILABLE (STATE_TOO_LARGE) when they are more than [`MAX_LUGGAGE`].
    pub fn new(bytes: &[u8]) -> Result<Self, Status> {
        if bytes.len() > MAX_LUGGAGE {
            return Err(Minor::StateTooLarge.into());
        }
        let mut scratch = Scratch::new();
        if !bytes.is_empty() {
            scratch = Scratch::with_capacity(bytes.len());
            scratch.extend_from_slice(bytes);
        }
        Ok(Self(scratch))
    }
}

impl Deref for Luggage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A live connection: its context, its socket, and what the server knows of it besides.
pub struct Laden<F: Framing> {
    /// The context.
    pub context: Context<F>,
    /// The socket its peer is at the other end of.
    pub socket: OwnedFd,
    /// What else is known of it.
    pub luggage: Luggage,
}

impl<F: Framing> fmt::Debug for Laden<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Laden")
            .field("context", &self.context)
            .field("luggage", &self.luggage.len())
            .finish_non_exhaustive()
    }
}
