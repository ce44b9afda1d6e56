//! What a call of the port, or an operation, answers when it does not succeed.
//!
//! Each code has one number and one text, and each attribute a code of its own. Reasons are for
//! the log: printable, bounded, and without a secret.

use core::fmt;

use crate::status::Status;

macro_rules! codes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// What is wrong. Codes are never reused.
        //= spec/port.md#errors
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum Code { $(#[doc = $text] $name = $code,)* }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// One sentence for a person.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The number.
            pub const fn number(self) -> u32 {
                self as u32
            }
        }
    };
}

codes! {
    // 1..: calls
    InvalidState = 1, "the call is not possible in this state";
    EnvironmentOnly = 2, "the attribute is the environment's alone, and no session overrides it";
    EnvironmentClosed = 3, "the environment was closed, and no session starts in it any more";
    SessionsFull = 4, "the environment has as many sessions as it may have";
    EventsFull = 5, "as many events were posted and not waited for as a port keeps";
    AlreadyPending = 6, "an operation of this kind is pending on the session";
    SendFull = 7, "the session has as many unsent bytes as it may have";
    BadBuffer = 8, "the buffer is empty, or longer than an operation takes";
    PortDestroyed = 9, "the port was destroyed";
    PortForked = 10, "the port belongs to the process this one was forked from";
    WaitTimeout = 11, "nothing was completed in the time";
    System = 12, "the operating system refused";
    // 30..: operations
    Cancelled = 30, "the operation was cancelled";
    HandshakeTimeout = 31, "the handshake took too long";
    ReadTimeout = 32, "the peer sent too little in the time";
    SocketClosed = 33, "the connection was closed before the operation was completed";
    SessionClosed = 34, "the session was closed before the operation was completed";
    HandshakeFailed = 35, "the handshake failed";
    SessionFailed = 36, "the session failed";
    NotActivated = 37, "the domain's ledger did not take the context";
    SendTimeout = 38, "the peer took too little in the time";
    MadeRoom = 39, "the handshake took long, and others waited for its place";
    // 100..: attributes
    BadRole = 100, "attribute role: a session of this role has no certificate or no anchors to begin with";
    BadFraming = 101, "attribute framing: only an acceptor can tell the framing by the first byte";
    BadCertificate = 102, "attribute certificate: no file with a certificate chain, valid now, is named";
    BadKey = 103, "attribute key: no file with the private key of the certificate is named";
    BadApplicationId = 104, "attribute application-id: the id is empty, too long, or names no credential";
    BadResolver = 105, "attribute resolver: there is an application id and nothing that resolves it";
    BadAnchors = 106, "attribute anchors: no file with certificates of authorities is named";
    BadTarget = 107, "attribute target: an initiator needs a host-based service with a host";
    BadClientAuthentication = 108, "attribute client-authentication: the mode needs anchors";
    BadValidation = 109, "attribute validation: an acceptor that asks for no certificates has none to validate";
    BadHandshakeTimeout = 110, "attribute handshake-timeout: not within 1 millisecond and 1 hour";
    BadReadTimeout = 111, "attribute read-timeout: not within 1 millisecond and 7 days";
    BadUnsentLimit = 112, "attribute unsent-limit: not within 1 KiB and 16 MiB";
    BadResumption = 113, "attribute resumption: a session cannot resume where its environment does not";
    BadSessionTimeout = 114, "attribute session-timeout: not within 1 second and 7 days";
    BadApplicationProtocols = 115, "attribute application-protocols: more than 16, or one that is empty, longer than 255 bytes or reserved";
    BadSuites = 116, "attribute suites: the list is empty, or names a suite twice";
    BadSessionLimit = 117, "attribute session-limit: not within 1 and 1000000";
    BadAnonymous = 118, "attribute anonymous: nobody could get in by message framing: no certificate, no password, no anonymity";
    BadPasswords = 119, "attribute passwords: not within 1 and 16 attempts";
    BadLifetime = 120, "attribute lifetime: not within 1 second and 10 years";
    BadSendTimeout = 121, "attribute send-timeout: not within 1 millisecond and 7 days";
    BadMakeRoomAfter = 122, "attribute make-room-after: not within 1 millisecond and 1 hour";
    BadConfiguration = 123, "attribute configuration: it is an acceptor's, and the role is not";
    BadHello = 124, "attribute hello: acceptors hear one, and the role is not";
}

/// An error of a call or an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: Code,
    status: Option<Status>,
    reason: Option<Box<str>>,
}

impl Error {
    /// With the reason of a failure below; at most 256 bytes, printable.
    pub(super) fn told(code: Code, status: Option<Status>, reason: &str) -> Self {
        let mut line: String = reason.chars().flat_map(char::escape_default).collect();
        line.truncate(256);
        let reason = (!line.is_empty()).then(|| line.into_boxed_str());
        Self {
            code,
            status,
            reason,
        }
    }

    pub(super) fn of_system(error: &std::io::Error) -> Self {
        Self::told(Code::System, None, &error.kind().to_string())
    }

    /// What is wrong.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The status of the establishment or the context, where it is that which failed.
    pub fn status(&self) -> Option<Status> {
        self.status
    }

    /// More of it, for the log: one line of printable ASCII, at most 256 bytes; empty when there
    /// is no more.
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }
}

impl From<Code> for Error {
    fn from(code: Code) -> Self {
        Self {
            code,
            status: None,
            reason: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.text())?;
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for Error {}
