//! What can go wrong, sorted by who finds it.

use std::{fmt, io};

use crate::status::{Minor, Status};

/// A ledger or a domain cannot be made, opened or used.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No entry is free. Nothing has changed.
    Full,
    /// No process slot is free.
    TooManyProcesses,
    /// The mapping is not a ledger or keyring of this version, or holds what cannot be; the text
    /// says which check failed.
    Damaged(&'static str),
    /// The domain's directory, files or descriptors are not what they must be; the text says
    /// which check failed.
    Refused(&'static str),
    /// This process has as many contexts as the domain's keeper allows it.
    Quota,
    /// The role of this process in a kept domain does not let it ask that, or not any more.
    NotPermitted,
    /// The domain's keeper is gone, has ended this process's connection, or did not answer.
    Keeper,
    /// All slots of the keyring are within their grace.
    KeysInUse,
    /// The operating system refused.
    System(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        match error {
            Error::Full => Minor::LedgerFull,
            Error::TooManyProcesses => Minor::TooManyProcesses,
            Error::Damaged(_) => Minor::LedgerDamaged,
            Error::Refused(_) => Minor::DomainRefused,
            Error::KeysInUse => Minor::KeysInUse,
            Error::Quota => Minor::QuotaUsedUp,
            Error::NotPermitted => Minor::RequestNotPermitted,
            Error::Keeper => Minor::KeeperSilent,
            Error::System(_) => Minor::System,
        }
        .into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Status::from(self).minor().text();
        match self {
            Self::Damaged(check) | Self::Refused(check) => write!(f, "{text}: {check}"),
            Self::System(error) => write!(f, "{text}: {error}"),
            Self::Full
            | Self::TooManyProcesses
            | Self::KeysInUse
            | Self::Quota
            | Self::NotPermitted
            | Self::Keeper => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(error) => Some(error),
            _ => None,
        }
    }
}

/// Why this process does not run the context of a [`Claim`](super::Claim) any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The claim is a copy: this process was forked from the one that runs the context.
    Forked,
    /// The domain's keeper revoked the context.
    Revoked,
    /// The context has ended otherwise.
    Ended,
    /// The keeper of the domain is gone, and every context of the domain with it.
    KeeperGone,
}

impl From<Lost> for Status {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Forked => Minor::ContextForked,
            Lost::Revoked => Minor::ContextRevoked,
            Lost::Ended => Minor::ContextEnded,
            Lost::KeeperGone => Minor::KeeperGone,
        }
        .into()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Status::from(*self).minor().text())
    }
}

impl std::error::Error for Lost {}

/// Why a context did not depart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// This process does not run it any more.
    Lost(Lost),
    /// The entry has used all its serials. The context goes on here.
    EpochsUsedUp,
    /// The first context of its bundle, whose key seals the bundle, did not depart. The context
    /// goes on here.
    Bundle,
    /// The role of this process in a kept domain does not let it export. The context goes on here.
    NotPermitted,
}

impl From<Stay> for Status {
    fn from(stay: Stay) -> Self {
        match stay {
            Stay::Lost(lost) => lost.into(),
            Stay::EpochsUsedUp => Minor::EpochsUsedUp.into(),
            Stay::Bundle => Minor::NotTransferable.into(),
            Stay::NotPermitted => Minor::RequestNotPermitted.into(),
        }
    }
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Status::from(*self).minor().text())
    }
}

impl std::error::Error for Stay {}

/// Why a context did not arrive. None of these changes the ledger, but that an expired context is
/// ended.
#[derive(Debug)]
pub enum Refusal {
    /// It has arrived before, or has departed again since.
    Spent,
    /// Its deadline has passed.
    Expired,
    /// It has ended.
    Ended,
    /// This ledger has never had it.
    Unknown,
    /// It is for another importer. A kept domain's keeper says so; elsewhere the token does.
    Importer,
    /// It is tied to another socket. A kept domain's keeper says so; elsewhere the token does.
    Socket,
    /// No key of this domain has sealed the token.
    Key,
    /// This process cannot take part.
    Local(Error),
}

impl From<&Refusal> for Status {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Spent => Minor::TokenSpent.into(),
            Refusal::Expired => Minor::TokenExpired.into(),
            Refusal::Ended => Minor::ContextEnded.into(),
            Refusal::Unknown => Minor::ContextUnknown.into(),
            Refusal::Importer => Minor::WrongImporter.into(),
            Refusal::Socket => Minor::WrongSocket.into(),
            Refusal::Key => Minor::TokenKey.into(),
            Refusal::Local(error) => error.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(error) => error.fmt(f),
            _ => f.write_str(Status::from(self).minor().text()),
        }
    }
}

impl std::error::Error for Refusal {}
