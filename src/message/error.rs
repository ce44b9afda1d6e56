use core::fmt;

use crate::status::{Minor, Status};

/// Why a message was not protected, or a token not accepted. Nothing of it depends on a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    // The peer's, or of whoever is on the path.
    /// The token breaks the format; no key was used.
    Malformed,
    /// The token does not verify, or is of a generation that is not tried.
    Forged,
    /// The token was made by this side.
    Reflected,
    /// The peer has closed its direction.
    ClosedByPeer,
    // The caller's.
    /// The message is longer than [`super::MAX_MESSAGE`], or memory for its MIC is not to be had.
    TooLarge,
    /// The buffer is shorter than header and tag together.
    BufferTooShort,
    /// Encryption was asked of a context to which it was not granted.
    NotConfidential,
    /// This side has closed its direction.
    ClosedHere,
    /// The state is the copy in a forked process, and wiped.
    Forked,
    // Nobody's.
    /// All sequence numbers, or all generations, are used.
    UsedUp,
}

impl Error {
    /// The rule that was broken.
    pub const fn minor(self) -> Minor {
        match self {
            Self::Malformed => Minor::MessageMalformed,
            Self::Forged | Self::Reflected => Minor::MessageForged,
            Self::ClosedByPeer => Minor::ClosedByPeer,
            Self::TooLarge => Minor::MessageTooLarge,
            Self::BufferTooShort => Minor::BufferTooShort,
            Self::NotConfidential => Minor::NotConfidential,
            Self::ClosedHere => Minor::ClosedHere,
            Self::Forked => Minor::ContextForked,
            Self::UsedUp => Minor::SequenceUsedUp,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.minor().into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reflected => f.write_str("the message token was made by this side"),
            other => other.minor().fmt(f),
        }
    }
}

impl core::error::Error for Error {}
