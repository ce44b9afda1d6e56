//! What an exit answers, in two layers that no value can confuse: whether the question was
//! answered, and what the answer is.
//!
//! Invariants: an [`Answer`] that lets anything happen ([`Verdict::Accepted`], or
//! [`Answer::Nothing`]) is only ever made from an exit's own valid answer. A [`Failure`] becomes
//! [`Answer::Fatal`] and nothing else, the default is a failure, and nothing leads back.

use core::fmt;

use super::UserContext;
use super::outputs::Output;

/// An exit's return code: whether the question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnCode {
    /// 1: use what the exit says.
    Done,
    /// 0: the server does it itself.
    Nothing,
    /// -1: the session is aborted.
    Fatal,
}

impl ReturnCode {
    /// The number on the wire.
    pub const fn number(self) -> i64 {
        match self {
            Self::Done => 1,
            Self::Nothing => 0,
            Self::Fatal => -1,
        }
    }

    /// The return code of this number; there are no others, and no default.
    pub const fn of(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::Done),
            0 => Some(Self::Nothing),
            -1 => Some(Self::Fatal),
            _ => None,
        }
    }
}

/// With return code 1, what the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 0.
    Good,
    /// -1, and there is a [`Reason`].
    Refused,
}

impl Status {
    /// The number on the wire.
    pub const fn number(self) -> i64 {
        match self {
            Self::Good => 0,
            Self::Refused => -1,
        }
    }

    /// The status of this number; there are no others, and no default.
    pub const fn of(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Good),
            -1 => Some(Self::Refused),
            _ => None,
        }
    }
}

/// Why an exit refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It cannot be read.
    DecodingError,
    /// Nobody that is trusted has issued it.
    UnknownCa,
    /// It fits no template of the profile.
    NoMatchingTemplate,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// A signature is wrong.
    BadSignature,
    /// The root is no good one.
    InvalidRoot,
    /// It is not for this use.
    KeyUsageNotGranted,
    /// It was revoked.
    Revoked,
    /// It is of a kind that is not supported.
    Unsupported,
    /// There is no path that is short enough.
    ChainTooLong,
    /// It is good, and may not come in.
    AccessDenied,
    /// Another reason.
    Internal,
}

/// A TLS alert's description, as RFC 8446 section 6 numbers and names it.
pub type AlertDescription = (u8, &'static str);

/// The alert of a session that fails for no fault of the peer.
pub const INTERNAL_ERROR: AlertDescription = (80, "internal_error");

impl Reason {
    /// The one table: reason, its name, and the alert the peer gets.
    //= spec/exits.md#reasons
    pub const TABLE: [(Self, &'static str, AlertDescription); 13] = [
        (Self::DecodingError, "decoding-error", (50, "decode_error")),
        (Self::UnknownCa, "unknown-ca", (48, "unknown_ca")),
        (
            Self::NoMatchingTemplate,
            "no-matching-template",
            (46, "certificate_unknown"),
        ),
        (Self::Expired, "expired", (45, "certificate_expired")),
        // RFC 8446 6.2: it "has expired or is not currently valid".
        (
            Self::NotYetValid,
            "not-yet-valid",
            (45, "certificate_expired"),
        ),
        (Self::BadSignature, "bad-signature", (42, "bad_certificate")),
        (Self::InvalidRoot, "invalid-root", (48, "unknown_ca")),
        (
            Self::KeyUsageNotGranted,
            "key-usage-not-granted",
            (43, "unsupported_certificate"),
        ),
        (Self::Revoked, "revoked", (44, "certificate_revoked")),
        (
            Self::Unsupported,
            "unsupported",
            (43, "unsupported_certificate"),
        ),
        // No way to an authority that is known was found within the bound.
        (Self::ChainTooLong, "chain-too-long", (48, "unknown_ca")),
        (Self::AccessDenied, "access-denied", (49, "access_denied")),
        (Self::Internal, "internal", INTERNAL_ERROR),
    ];

    fn row(self) -> (&'static str, AlertDescription) {
        let row = Self::TABLE.iter().find(|(reason, ..)| *reason == self);
        row.map_or(("internal", INTERNAL_ERROR), |(_, name, alert)| {
            (*name, *alert)
        })
    }

    /// Its name on the wire and in the log.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        let row = Self::TABLE.iter().find(|(_, known, _)| *known == name);
        row.map(|(reason, ..)| *reason)
    }

    /// The alert the peer gets.
    pub fn alert(self) -> AlertDescription {
        self.row().1
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a call is -1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The exit itself answered -1.
    Answered,
    /// The worker has ended.
    Died,
    /// The worker wrote what is no line of the protocol, or closed its output.
    Garbage,
    /// The worker answered for another session.
    WrongSession,
    /// The worker answered what was not asked, or was answered before.
    Unasked,
    /// The worker did not answer in time.
    Hung,
    /// No worker had room in time.
    Waited,
    /// Too many questions wait.
    Overloaded,
    /// No worker answers questions of this family.
    NotServed,
    /// The session has failed before.
    Ended,
    /// The question does not keep the limits of its point.
    Invalid,
    /// Nobody has answered.
    #[default]
    NoAnswer,
}

impl Failure {
    /// All of them.
    //= spec/exits.md#failures
    pub const ALL: [Self; 12] = [
        Self::Answered,
        Self::Died,
        Self::Garbage,
        Self::WrongSession,
        Self::Unasked,
        Self::Hung,
        Self::Waited,
        Self::Overloaded,
        Self::NotServed,
        Self::Ended,
        Self::Invalid,
        Self::NoAnswer,
    ];

    /// Its name in log and figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Died => "died",
            Self::Garbage => "garbage",
            Self::WrongSession => "wrong-session",
            Self::Unasked => "unasked",
            Self::Hung => "hung",
            Self::Waited => "waited",
            Self::Overloaded => "overloaded",
            Self::NotServed => "not-served",
            Self::Ended => "ended",
            Self::Invalid => "invalid",
            Self::NoAnswer => "no-answer",
        }
    }

    /// The alert the peer gets.
    pub const fn alert(self) -> AlertDescription {
        INTERNAL_ERROR
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "the exit answered -1",
            Self::Died => "the worker has ended",
            Self::Garbage => "the worker wrote garbage",
            Self::WrongSession => "the worker answered for another session",
            Self::Unasked => "the worker answered what it was not asked",
            Self::Hung => "the worker did not answer in time",
            Self::Waited => "no worker had room in time",
            Self::Overloaded => "too many questions wait",
            Self::NotServed => "no worker answers questions of this family",
            Self::Ended => "the session has failed before",
            Self::Invalid => "the question does not keep its limits",
            Self::NoAnswer => "nobody answered",
        })
    }
}

impl core::error::Error for Failure {}

/// What the answer of an exit that answered is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<O = Output> {
    /// Status 0. What the output overrides replaces the profile's values.
    Accepted(O),
    /// Status -1.
    Refused(Reason),
}

/// An exit's answer.
///
/// ```
/// use baton::exit::{Answer, CheckCertListOutput, Reason, Verdict};
/// // The responder says no: that is an answer.
/// let revoked = Answer::<CheckCertListOutput>::refused(Reason::Revoked);
/// assert_eq!(revoked.return_code().number(), 1);
/// // The responder cannot be reached: that is none.
/// let unreachable = Answer::<CheckCertListOutput>::fatal();
/// assert_eq!(unreachable.return_code().number(), -1);
/// // And where nobody said anything, it is none either.
/// assert!(matches!(Answer::<CheckCertListOutput>::default(), Answer::Fatal(_)));
/// ```
#[derive(Debug)]
#[must_use]
pub enum Answer<O = Output> {
    /// Return code 1.
    Done {
        /// The status, and what belongs to it.
        verdict: Verdict<O>,
        /// The session's new user context; none where it stays as it is.
        user_context: Option<UserContext>,
    },
    /// Return code 0: the server does it itself.
    Nothing,
    /// Return code -1, or no answer that could be used.
    Fatal(Failure),
}

impl<O> Answer<O> {
    /// 1, 0: done, with this output.
    pub const fn accepted(output: O) -> Self {
        Self::Done {
            verdict: Verdict::Accepted(output),
            user_context: None,
        }
    }

    /// 1, -1: done, and the answer is no.
    pub const fn refused(reason: Reason) -> Self {
        Self::Done {
            verdict: Verdict::Refused(reason),
            user_context: None,
        }
    }

    /// -1: the question could not be answered.
    pub const fn fatal() -> Self {
        Self::Fatal(Failure::Answered)
    }

    /// The same with a new user context; only return code 1 has one.
    pub fn with_user_context(self, context: UserContext) -> Self {
        match self {
            Self::Done { verdict, .. } => Self::Done {
                verdict,
                user_context: Some(context),
            },
            other => other,
        }
    }

    /// The outer layer.
    pub const fn return_code(&self) -> ReturnCode {
        match self {
            Self::Done { .. } => ReturnCode::Done,
            Self::Nothing => ReturnCode::Nothing,
            Self::Fatal(_) => ReturnCode::Fatal,
        }
    }

    /// The inner layer; none where there is none.
    pub const fn status(&self) -> Option<Status> {
        match self {
            Self::Done {
                verdict: Verdict::Accepted(_),
                ..
            } => Some(Status::Good),
            Self::Done {
                verdict: Verdict::Refused(_),
                ..
            } => Some(Status::Refused),
            _ => None,
        }
    }

    /// The alert with which the session ends; none where it goes on.
    pub fn alert(&self) -> Option<AlertDescription> {
        match self {
            Self::Done {
                verdict: Verdict::Refused(reason),
                ..
            } => Some(reason.alert()),
            Self::Fatal(failure) => Some(failure.alert()),
            _ => None,
        }
    }

    /// The same with another type of output: the layers stay.
    pub fn map<P>(self, change: impl FnOnce(O) -> P) -> Answer<P> {
        match self {
            Self::Done {
                verdict,
                user_context,
            } => Answer::Done {
                verdict: match verdict {
                    Verdict::Accepted(output) => Verdict::Accepted(change(output)),
                    Verdict::Refused(reason) => Verdict::Refused(reason),
                },
                user_context,
            },
            Self::Nothing => Answer::Nothing,
            Self::Fatal(failure) => Answer::Fatal(failure),
        }
    }
}

impl<O> Default for Answer<O> {
    /// Where nobody has answered, nobody comes in.
    fn default() -> Self {
        Self::Fatal(Failure::NoAnswer)
    }
}

impl<O> From<Failure> for Answer<O> {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}
