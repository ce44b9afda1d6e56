//! The TLS 1.3 handshake, by rustls: its flights in and out as bytes, its secrets out at the end.
//!
//! Everything that knows rustls is here, so that another version of it changes this room and no
//! other. After the handshake rustls is dropped: the record layer is [`crate::record`]'s.
//!
//! Invariants:
//! - TLS 1.3 only, no early data, never our own handshake cryptography.
//! - rustls sees one complete record at a time and nothing behind Finished: what follows is
//!   returned untouched, and the sequence numbers are exact. (Bytes that rustls has taken in and
//!   not answered for are lost when it is dropped, and it does not say so.)
//! - A peer makes this side hold at most `reader::BYTES_LIMIT` bytes before it is
//!   authenticated, in at most `reader::RECORDS_LIMIT` records.
//! - The secrets a context is made of are captured into secret pages while rustls derives them,
//!   and used only when the keys rustls gives up at the end follow from them.
//! - A handshake goes on in the process it began in: a forked copy is refused before it touches
//!   a key.

pub(crate) mod certificate;
mod asked;
mod config;
mod handshake;
mod hello;
mod key;
mod provider;
pub(crate) mod reader;
mod schedule;
mod sink;
mod store;
#[cfg(test)]
mod tests;
mod ticket;
mod verify;

use core::fmt;
use std::borrow::Cow;

use rustls::{AlertDescription, CertificateError};

use crate::status::{Minor, Status};

pub(crate) use config::{Client, Clients, Protocol, Server, certified};
pub use handshake::Tickets;
pub(crate) use handshake::{Established, Handshake, Progress, Side};
pub use hello::Hello;
pub(crate) use hello::{Ear, Heard};
pub(crate) use key::{PrivateKey, private_key};
pub(crate) use store::Store;
pub(crate) use ticket::{Family, Sealer};
pub use verify::{Decision, Presented, Standing, Validation};

/// Why a handshake came to no good end: the rule that was broken, and a sentence for the log.
///
/// The sentence is one line of printable ASCII and at most 256 bytes, whatever the peer sent; it
/// holds no secret. The peer is told a TLS alert at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    minor: Minor,
    reason: Cow<'static, str>,
}

impl Error {
    pub(crate) const fn new(minor: Minor, reason: &'static str) -> Self {
        Self {
            minor,
            reason: Cow::Borrowed(reason),
        }
    }

    /// With a reason that a peer may have had a hand in.
    pub(crate) fn told(minor: Minor, reason: &str) -> Self {
        Self {
            minor,
            reason: printable(reason).into(),
        }
    }

    /// The status of the call.
    pub fn status(&self) -> Status {
        self.minor.into()
    }

    /// For the log.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl core::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.status()
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let minor = match &error {
            rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
                Minor::NameMismatch
            }
            rustls::Error::InvalidCertificate(_) => Minor::CertificateRefused,
            rustls::Error::NoCertificatesPresented => Minor::CertificateMissing,
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Minor::FramingUnknown
            }
            rustls::Error::AlertReceived(_) => Minor::PeerRefused,
            rustls::Error::InvalidMessage(_) | rustls::Error::PeerSentOversizedRecord => {
                Minor::ContextTokenMalformed
            }
            _ => Minor::HandshakeFailed,
        };
        Self::told(minor, &error.to_string())
    }
}

/// A text that a peer may have had a hand in, made fit for a log line.
//= spec/mechanism.md#refusal
fn printable(text: &str) -> String {
    const LIMIT: usize = 256;
    let mut line: String = text.chars().flat_map(char::escape_default).collect();
    line.truncate(LIMIT);
    line
}
