//! Major and minor status (RFC 2743 1.2.1), and nothing that knows why.
//!
//! Errors live beside the code that finds them and map down to a [`Status`]: the major code is
//! the coarse answer a peer or a portable caller may act on, the minor code says which rule of
//! `spec/` was broken. Neither carries data of a message, a token or a key.

use core::fmt;

/// A routine error of RFC 2743 1.2.1.1 (names and values as RFC 2744 3.9.1 gives them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Major {
    /// The mechanism asked for is not this one.
    BadMech = 1 << 16,
    /// A name could not be parsed.
    BadName = 2 << 16,
    /// A name is of a type this mechanism does not have.
    BadNameType = 3 << 16,
    /// The channel bindings of the two sides differ.
    BadBindings = 4 << 16,
    /// A per-message token does not verify.
    BadMic = 6 << 16,
    /// No usable credential.
    NoCred = 7 << 16,
    /// There is no such context: never established, exported, spent, ended, or not this process's.
    NoContext = 8 << 16,
    /// A token is malformed, altered, or of an unknown key or version.
    DefectiveToken = 9 << 16,
    /// A credential is malformed.
    DefectiveCredential = 10 << 16,
    /// A credential is outside its validity.
    CredentialsExpired = 11 << 16,
    /// The context's lifetime is over.
    ContextExpired = 12 << 16,
    /// Something else; the minor code says what.
    Failure = 13 << 16,
    /// The quality of protection asked for does not exist.
    BadQop = 14 << 16,
    /// Policy forbids it: the wrong importer, a refused peer.
    Unauthorized = 15 << 16,
    /// Not possible in this state, or not offered.
    Unavailable = 16 << 16,
}

impl Major {
    /// The RFC 2744 name without its prefix, as it is written in `spec/`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadMech => "BAD_MECH",
            Self::BadName => "BAD_NAME",
            Self::BadNameType => "BAD_NAMETYPE",
            Self::BadBindings => "BAD_BINDINGS",
            Self::BadMic => "BAD_MIC",
            Self::NoCred => "NO_CRED",
            Self::NoContext => "NO_CONTEXT",
            Self::DefectiveToken => "DEFECTIVE_TOKEN",
            Self::DefectiveCredential => "DEFECTIVE_CREDENTIAL",
            Self::CredentialsExpired => "CREDENTIALS_EXPIRED",
            Self::ContextExpired => "CONTEXT_EXPIRED",
            Self::Failure => "FAILURE",
            Self::BadQop => "BAD_QOP",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
        }
    }

    /// The RFC 2744 value.
    pub const fn code(self) -> u32 {
        self as u32
    }
}

/// Supplementary information about a per-message token (RFC 2743 1.2.1.1): not errors by
/// themselves, the message was authentic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Supplementary {
    /// The token was seen before.
    pub duplicate: bool,
    /// The token is older than the replay window: it cannot be known whether it was seen.
    pub old: bool,
    /// A later token has been seen before this one.
    pub unsequenced: bool,
    /// At least one token before this one has not been seen.
    pub gap: bool,
}

impl Supplementary {
    /// The RFC 2744 bits.
    pub const fn code(self) -> u32 {
        (self.duplicate as u32) << 1
            | (self.old as u32) << 2
            | (self.unsequenced as u32) << 3
            | (self.gap as u32) << 4
    }

    /// Whether nothing is to be told.
    pub const fn is_empty(self) -> bool {
        self.code() == 0
    }
}

macro_rules! minors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $major:ident, $text:literal;)*) => {
        /// Which rule was broken; each has one text and one major code. Codes are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum Minor { $($(#[$doc])* #[doc = $text] $name = $code,)* }

        impl Minor {
            /// Every minor code, in order.
            pub const ALL: &'static [Minor] = &[$(Minor::$name,)*];

            /// One sentence for a person.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The major status this minor code comes with.
            pub const fn major(self) -> Major {
                match self { $(Self::$name => Major::$major,)* }
            }
        }
    };
}

minors! {
    // 1..: contexts and the ledger
    ContextExported = 1, NoContext, "the context was exported and is no longer here";
    ContextForked = 2, NoContext, "the context belongs to the process this one was forked from";
    ContextRevoked = 3, NoContext, "the ledger no longer names this process as the context's runner";
    ContextEnded = 4, NoContext, "the context has ended";
    TokenSpent = 5, NoContext, "the token was imported before, or is older than the context's latest";
    TokenExpired = 6, NoContext, "the token was not imported before its deadline";
    NotEstablished = 7, Unavailable, "the context is not fully established";
    NotTransferable = 8, Unavailable, "the context cannot be transferred in its present state";
    LifetimeOver = 9, ContextExpired, "the context's lifetime is over";
    LedgerFull = 10, Failure, "the ledger has no free entry";
    LedgerDamaged = 11, Failure, "the ledger is not one, or is of another version";
    EpochsUsedUp = 12, Failure, "the ledger entry has used all its epochs";
    TooManyProcesses = 13, Failure, "the ledger has no free place for another process";
    DomainRefused = 14, Failure, "the domain's files are not this user's alone";
    KeysInUse = 15, Failure, "all sealing keys of the domain are within their grace";
    ContextUnknown = 16, NoContext, "the ledger has never had the context";
    KeeperGone = 17, NoContext, "the keeper of the domain is gone, and its contexts with it";
    KeeperSilent = 18, Failure, "the keeper of the domain does not answer this process";
    QuotaUsedUp = 19, Failure, "this process has as many contexts as the keeper allows it";
    RequestNotPermitted = 20, Unauthorized, "this process's role in the domain does not permit it";
    // 30..: interprocess tokens
    TokenMalformed = 30, DefectiveToken, "the token is not an interprocess token";
    TokenVersion = 31, DefectiveToken, "the token is of a version this program does not know";
    TokenKey = 32, DefectiveToken, "the token is sealed with a key this domain does not have";
    TokenAltered = 33, DefectiveToken, "the token does not open: altered, or of another domain";
    TokenState = 34, DefectiveToken, "the token opens, and holds a state that cannot be";
    TokenFraming = 35, Unavailable, "the token holds a context of the other framing";
    TokenBoot = 36, NoContext, "the token was made before this machine was started";
    WrongImporter = 37, Unauthorized, "the token is meant for another importer";
    WrongSocket = 38, Unauthorized, "the token is tied to another socket";
    StateTooLarge = 39, Unavailable, "the context's state does not fit a token";
    // 60..: establishing
    HandshakeFailed = 60, Failure, "the handshake failed";
    PeerRefused = 61, Unauthorized, "the peer refused";
    ContextTokenMalformed = 62, DefectiveToken, "the context token is malformed";
    ContextTokenTooLarge = 63, DefectiveToken, "the context token is larger than any can be";
    BindingsDiffer = 64, BadBindings, "the channel bindings of the two sides differ";
    CertificateRefused = 65, Unauthorized, "the peer's certificate was refused";
    CertificateMissing = 66, NoCred, "a certificate is required and none was presented";
    PasswordRefused = 67, Unauthorized, "the password was refused";
    PasswordMissing = 68, NoCred, "a password is required and there is none";
    NameMismatch = 69, Unauthorized, "the peer is not the target that was named";
    MechanismUnknown = 70, BadMech, "the token is for another mechanism";
    FramingUnknown = 71, Unavailable, "the peer does not speak this framing";
    AnonymousRefused = 72, Unauthorized, "anonymous initiators are not admitted here";
    // 90..: names and credentials
    NameMalformed = 90, BadName, "the name is malformed";
    NameTypeUnknown = 91, BadNameType, "names of this type are not known";
    CredentialMalformed = 92, DefectiveCredential, "the certificate or key cannot be used";
    CredentialExpired = 93, CredentialsExpired, "the certificate is outside its validity";
    CredentialMissing = 94, NoCred, "there is no credential for this use";
    // 120..: messages
    MessageMalformed = 120, DefectiveToken, "the message token is malformed";
    MessageForged = 121, BadMic, "the message token does not verify";
    MessageTooLarge = 122, Failure, "the message is larger than a message token can carry";
    SequenceUsedUp = 123, ContextExpired, "all sequence numbers are used";
    ClosedByPeer = 124, NoContext, "the peer has closed the context";
    ClosedHere = 125, NoContext, "the context was closed on this side";
    QopUnknown = 126, BadQop, "there is one quality of protection, the default";
    NotConfidential = 127, Unavailable, "the context does not offer confidentiality";
    BufferTooShort = 128, Failure, "the buffer has no room for a message token";
    // 150..: records
    RecordMalformed = 150, DefectiveToken, "the peer's record is malformed";
    RecordForged = 151, BadMic, "the peer's record does not open";
    RecordUnexpected = 152, DefectiveToken, "the peer sent a record that may not come here";
    RecordFlood = 153, Failure, "the peer sends records that carry nothing";
    PeerAlert = 154, Failure, "the peer ended the session with an alert";
    Truncated = 155, NoContext, "the connection ended without a close_notify";
    RecordMisused = 156, Unavailable, "the record call is not possible here, or a buffer or secret does not fit";
    // 180..: the machine
    System = 180, Failure, "the operating system refused";
    Injected = 181, Failure, "a fault was injected by a test";
}

impl Minor {
    /// The value shown to callers that count.
    pub const fn code(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What a call answers when it does not answer COMPLETE.
///
/// ```
/// use baton::status::{Major, Minor, Status};
/// let status = Status::from(Minor::TokenSpent);
/// assert_eq!(status.major(), Major::NoContext);
/// assert_eq!(status.to_string(), "NO_CONTEXT: the token was imported before, or is older than the context's latest");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(Minor);

impl Status {
    /// The coarse code.
    pub const fn major(self) -> Major {
        self.0.major()
    }

    /// The precise code.
    pub const fn minor(self) -> Minor {
        self.0
    }
}

impl From<Minor> for Status {
    fn from(minor: Minor) -> Self {
        Self(minor)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.major().name(), self.0.text())
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({} / {:?})", self.major().name(), self.0)
    }
}

impl core::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_codes_are_distinct_and_have_a_text() {
        for (i, minor) in Minor::ALL.iter().enumerate() {
            assert!(!minor.text().is_empty());
            assert!(
                Minor::ALL[..i]
                    .iter()
                    .all(|other| other.code() < minor.code())
            );
        }
    }

    #[test]
    fn supplementary_bits_are_those_of_rfc_2744() {
        let all = Supplementary {
            duplicate: true,
            old: true,
            unsequenced: true,
            gap: true,
        };
        assert_eq!(all.code(), 2 | 4 | 8 | 16);
        assert!(Supplementary::default().is_empty());
    }
}
