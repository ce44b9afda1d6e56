//! A live context seen as a stream of plaintext, whatever its framing.
//!
//! No descriptor is touched here: bytes of the connection in, bytes for the connection out.

use std::os::fd::BorrowedFd;

use crate::exit::SessionIdentifier;
use crate::ledger::Domain;
use crate::status::Status;
use crate::transfer::Export;

/// What a read of a [`Channel`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// So many bytes of plaintext, at least one.
    Data(usize),
    /// Nothing until more bytes of the connection come.
    More,
    /// The peer has said that nothing follows.
    Ended,
}

/// A context as a stream. Each operation fails as the context's does; after a failure only
/// [`Channel::close`] is of use.
pub trait Channel: Sized {
    /// The context in transit, with what of its connection's bytes is not part of the context.
    type Sealed;

    /// The framing's name, for people.
    const FRAMING: &'static str;

    /// The session identifier.
    fn session(&self) -> SessionIdentifier;

    /// Takes bytes of the connection, all of them. To be called when [`Channel::read`] wants more.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Status>;

    /// Opens into `out`, which is not empty.
    fn read(&mut self, out: &mut [u8]) -> Result<Opened, Status>;

    /// Seals `data` and appends what is to be sent to `out`.
    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Status>;

    /// Appends to `out` what the context itself has to send: answers to key updates, alerts.
    fn answer(&mut self, out: &mut Vec<u8>);

    /// Says that nothing follows in this direction; the other goes on.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Status>;

    /// Ends the context. What there is to say about it is appended to `out`.
    fn close(self, out: &mut Vec<u8>);

    /// Exports the context; it comes back with the reason when it cannot leave.
    // The large error is the point: it carries the context back.
    #[allow(clippy::result_large_err)]
    fn export(self, how: &Export) -> Result<Self::Sealed, (Self, Status)>;

    /// Imports the context beside the connection's `socket`. `sealed` stays as it is: as long as
    /// no import succeeds, another process can try.
    fn import(
        domain: &Domain,
        sealed: &Self::Sealed,
        socket: BorrowedFd<'_>,
    ) -> Result<Self, Status>;
}
