//! What a record call answers when it cannot do what was asked, sorted by whose fault it is.

use core::fmt;
use std::io;

use super::wire::Alert;
use crate::status::{Minor, Status};

/// Why a record call failed. Fatal ones poison the state ([`Error::is_fatal`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    // The peer's fault: fatal, the alert is in the output.
    /// A record or message that may not come here: `unexpected_message`.
    Unexpected,
    /// A record that does not open: `bad_record_mac`.
    Forged,
    /// A record longer than any may be: `record_overflow`.
    Overflow,
    /// A message or alert of the wrong shape: `decode_error`.
    Malformed,
    /// A KeyUpdate with a value that is neither 0 nor 1: `illegal_parameter`.
    Illegal,
    /// Too many records that carry nothing: `unexpected_message`.
    Flood,
    /// The peer would not move to a new key when it was asked: `internal_error`.
    KeyWornOut,
    // The peer's decision.
    /// The peer sent this fatal alert. Nothing is answered.
    PeerAlert(Alert),
    /// The connection ended without a close_notify. Not fatal: what this side sends may still arrive.
    Truncated,
    // This side's decision or fault.
    /// This side ended the session with this alert ([`super::Record::abort`]). Fatal.
    Aborted(Alert),
    /// This side has sent close_notify and wants to send.
    ClosedHere,
    /// Output is waiting that must leave before what is sealed in place.
    OutputFirst,
    /// Input that was fed is waiting and must be read before input is opened in place.
    InputFirst,
    /// The caller's buffer is too short, or the content too long for one record.
    Buffer,
    /// This is a forked copy: the session belongs to the process this one was forked from, and
    /// the keys are not here.
    Forked,
    /// The secrets do not fit the suite, a sequence number is beyond its end, or more input was
    /// handed over than is kept.
    Secrets,
    /// The key has no sequence number left, or ring refused to seal. Fatal.
    UsedUp,
}

impl Error {
    /// The alert that tells the peer, for an error that this side finds.
    pub const fn alert(self) -> Option<Alert> {
        match self {
            Self::Unexpected | Self::Flood => Some(Alert::UNEXPECTED_MESSAGE),
            Self::Forged => Some(Alert::BAD_RECORD_MAC),
            Self::Overflow => Some(Alert::RECORD_OVERFLOW),
            Self::Malformed => Some(Alert::DECODE_ERROR),
            Self::Illegal => Some(Alert::ILLEGAL_PARAMETER),
            Self::KeyWornOut | Self::UsedUp => Some(Alert::INTERNAL_ERROR),
            Self::Aborted(alert) => Some(alert),
            Self::PeerAlert(_)
            | Self::Truncated
            | Self::ClosedHere
            | Self::OutputFirst
            | Self::InputFirst
            | Self::Buffer
            | Self::Forked
            | Self::Secrets => None,
        }
    }

    /// Whether the state is poisoned: every later call answers this error again.
    pub const fn is_fatal(self) -> bool {
        matches!(self, Self::PeerAlert(_)) || self.alert().is_some()
    }

    /// The minor status.
    pub const fn minor(self) -> Minor {
        match self {
            Self::Unexpected => Minor::RecordUnexpected,
            Self::Forged => Minor::RecordForged,
            Self::Overflow | Self::Malformed | Self::Illegal => Minor::RecordMalformed,
            Self::Flood => Minor::RecordFlood,
            Self::KeyWornOut | Self::UsedUp => Minor::SequenceUsedUp,
            Self::PeerAlert(_) => Minor::PeerAlert,
            Self::Truncated => Minor::Truncated,
            Self::Aborted(_) | Self::ClosedHere => Minor::ClosedHere,
            Self::Forked => Minor::ContextForked,
            Self::OutputFirst | Self::InputFirst | Self::Buffer | Self::Secrets => {
                Minor::RecordMisused
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerAlert(alert) | Self::Aborted(alert) => {
                write!(f, "{}: {} ({})", self.minor().text(), alert.name(), alert.0)
            }
            _ => f.write_str(self.minor().text()),
        }
    }
}

impl core::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.minor().into()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::PeerAlert(_) | Error::Aborted(_) => io::ErrorKind::ConnectionAborted,
            Error::Truncated => io::ErrorKind::UnexpectedEof,
            Error::ClosedHere => io::ErrorKind::BrokenPipe,
            Error::OutputFirst | Error::InputFirst | Error::Buffer | Error::Secrets => {
                io::ErrorKind::InvalidInput
            }
            Error::UsedUp | Error::Forked => io::ErrorKind::Other,
            Error::Unexpected
            | Error::Forged
            | Error::Overflow
            | Error::Malformed
            | Error::Illegal
            | Error::Flood
            | Error::KeyWornOut => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
