//! What the points of TLS ask: one type for each, with public fields whose limits are checked
//! where a question is written and where it is read.

use super::field::{Datum, Described, Fields, Kind, LARGEST, Limits, Shape};
use super::outputs::{
    BuildCaDnListOutput, CheckCertListOutput, ComputationOutput, GetCertListOutput,
    GetServerPublicKeyOutput, HandshakeDoneOutput, NoOutput, Output, SessionInitOutput,
};
use super::{Answer, Failure, Point, Unfit};

/// Types whose values are a few words.
macro_rules! words {
    ($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$doc])* $variant,)+
        }

        impl $type {
            /// The word on the wire.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl Kind for $type {
            const SHAPE: Shape = Shape::Text;

            fn lend(&self) -> Datum<'_> {
                Datum::Text(self.word().into())
            }

            fn take(datum: Datum<'_>) -> Option<Self> {
                match datum {
                    Datum::Text(word) => match &*word {
                        $($word => Some(Self::$variant),)+
                        _ => None,
                    },
                    _ => None,
                }
            }
        }
    };
}
pub(super) use words;

words! {
    /// Which side of the handshake the server is.
    Role {
        /// The peer began.
        #[default]
        Acceptor = "acceptor",
        /// The server began.
        Initiator = "initiator",
    }
}

words! {
    /// What is to be done with a private key.
    Operation {
        /// Sign.
        #[default]
        Sign = "sign",
    }
}

words! {
    /// Why a session ended.
    Cause {
        /// In good order.
        Closed = "closed",
        /// The handshake or the record layer failed.
        #[default]
        Failed = "failed",
        /// An exit refused.
        Refused = "refused",
        /// Its time was over.
        Expired = "expired",
        /// It was revoked.
        Revoked = "revoked",
        /// Its process died.
        Died = "died",
    }
}

pub(super) const WORD: Limits = Limits::new(1, 64);
pub(super) const ALPN: Limits = Limits::list(0, 32, (1, 255), 32 * 255);
pub(super) const CA_DN_LIST: Limits = Limits::list(0, 128, (1, 4096), 32_768);
pub(super) const CERT_LIST: Limits = Limits::list(1, 16, (1, 65_536), 131_072);
pub(super) const REFERENCE: Limits = Limits::new(1, 256);
pub(super) const PUBLIC_KEY: Limits = Limits::new(1, 16_384);
pub(super) const PEER_NAME: Limits = Limits::new(1, 1024);
pub(super) const COMPUTED: Limits = Limits::new(1, 8192);
const LABEL: Limits = Limits::new(0, 256);
const SERVER_NAME: Limits = Limits::new(1, 255);
const SCHEMES: Limits = Limits::list(0, 64, (0, 65_535), 0);
const NUMBER: Limits = Limits::new(0, 65_535);
const LARGE: Limits = Limits::new(0, LARGEST);

/// The input of a point.
pub trait Input: Described + Default + Into<Question> {
    /// The point.
    const POINT: Point;
    /// What its answers override.
    type Output: Described + Default + Into<Output>;
    /// The input of a question at this point; none at another.
    fn of(question: Question) -> Option<Self>;
}

macro_rules! questions {
    ($($(#[$about:meta])* $type:ident -> $output:ident {
        $($(#[$doc:meta])* $how:ident $field:ident: $of:ty, $limits:expr;)*
    })+) => {
        /// A question: the point, and its input.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Question {
            $($(#[$about])* $type($type),)+
        }

        impl Question {
            /// Where it is asked.
            pub const fn point(&self) -> Point {
                match self {
                    $(Self::$type(_) => Point::$type,)+
                }
            }

            /// An input of a point, to be filled in.
            pub fn blank(point: Point) -> Self {
                match point {
                    $(Point::$type => Self::$type($type::default()),)+
                }
            }

            /// Goes through the fields of its input.
            pub fn describe<F: Fields>(&mut self, fields: &mut F) -> Result<(), F::Error> {
                match self {
                    $(Self::$type(input) => input.describe(fields),)+
                }
            }

            /// Refuses a question one of whose fields is out of its limits.
            pub fn check(&mut self) -> Result<(), Unfit> {
                match self {
                    $(Self::$type(input) => input.check(),)+
                }
            }
        }

        impl Output {
            /// The output of a point that overrides nothing, to be filled in.
            pub fn blank(point: Point) -> Self {
                match point {
                    $(Point::$type => <$output>::default().into(),)+
                }
            }
        }

        $(
            $(#[$about])*
            #[derive(Clone, Debug, Default, PartialEq, Eq)]
            pub struct $type {
                $($(#[$doc])* pub $field: $of,)*
            }

            impl Described for $type {
                fn describe<F: Fields>(&mut self, fields: &mut F) -> Result<(), F::Error> {
                    $(fields.$how(stringify!($field), &mut self.$field, &$limits)?;)*
                    Ok(())
                }
            }

            impl From<$type> for Question {
                fn from(input: $type) -> Self {
                    Self::$type(input)
                }
            }

            impl Input for $type {
                const POINT: Point = Point::$type;
                type Output = $output;

                fn of(question: Question) -> Option<Self> {
                    match question {
                        Question::$type(input) => Some(input),
                        _ => None,
                    }
                }
            }
        )+
    };
}

questions! {
    /// First of every session, once the peer's first flight is read.
    SessionInit -> SessionInitOutput {
        /// Which side the server is.
        field role: Role, WORD;
        /// The listener's name.
        field listener: String, LABEL;
        /// The security profile's name.
        field profile: String, LABEL;
        /// The peer's address and port.
        field remote: String, LABEL;
        /// The server's address and port.
        field local: String, LABEL;
        /// Whom the initiator asked for.
        optional server_name: Option<String>, SERVER_NAME;
        /// The protocols offered.
        field alpn: Vec<Vec<u8>>, ALPN;
    }

    /// Which authorities an acceptor names to its peer.
    BuildCaDnList -> BuildCaDnListOutput {
        /// Which side the server is.
        field role: Role, WORD;
        /// The profile's distinguished names, DER.
        field ca_dn_list: Vec<Vec<u8>>, CA_DN_LIST;
    }

    /// Which certificates to show to the peer.
    GetCertList -> GetCertListOutput {
        /// Which side the server is.
        field role: Role, WORD;
        /// Whom the initiator asked for.
        optional server_name: Option<String>, SERVER_NAME;
        /// The signature schemes the peer can verify.
        field signature_schemes: Vec<u16>, SCHEMES;
        /// The authorities the peer named, DER.
        field ca_dn_list: Vec<Vec<u8>>, CA_DN_LIST;
    }

    /// Whether the certificates that the peer has shown are good.
    CheckCertList -> CheckCertListOutput {
        /// Which side the server is.
        field role: Role, WORD;
        /// Whom an initiator wants to reach.
        optional server_name: Option<String>, SERVER_NAME;
        /// Seconds since 1970-01-01 00:00 UTC.
        field time: u64, LARGE;
        /// Certificates, DER, the leaf first.
        field cert_list: Vec<Vec<u8>>, CERT_LIST;
        /// What the peer stapled, DER.
        optional ocsp_response: Option<Vec<u8>>, Limits::new(1, 32_768);
    }

    /// An operation with a private key that lives in the exit.
    Computation -> ComputationOutput {
        /// Which side the server is.
        field role: Role, WORD;
        /// What is to be done.
        field operation: Operation, WORD;
        /// The signature scheme.
        field scheme: u16, NUMBER;
        /// Which key.
        field key_reference: String, REFERENCE;
        /// What is to be signed, not hashed yet.
        field data: Vec<u8>, COMPUTED;
    }

    /// The public key of the exit's private key.
    GetServerPublicKey -> GetServerPublicKeyOutput {
        /// Which side the server is.
        field role: Role, WORD;
        /// Which key.
        field key_reference: String, REFERENCE;
    }

    /// Tells the public key that the acceptor has shown.
    SetServerPublicKey -> NoOutput {
        /// Which side the server is.
        field role: Role, WORD;
        /// Whom the initiator wants to reach.
        optional server_name: Option<String>, SERVER_NAME;
        /// SubjectPublicKeyInfo, DER.
        field public_key: Vec<u8>, PUBLIC_KEY;
    }

    /// The handshake has ended well.
    HandshakeDone -> HandshakeDoneOutput {
        /// Which side the server is.
        field role: Role, WORD;
        /// The version of TLS: 772 is TLS 1.3.
        field version: u16, NUMBER;
        /// The cipher suite.
        field cipher_suite: u16, NUMBER;
        /// The protocol that was agreed to.
        optional alpn: Option<Vec<u8>>, Limits::new(1, 255);
        /// Whom the initiator asked for.
        optional server_name: Option<String>, SERVER_NAME;
        /// The name by which the peer is known.
        optional peer_name: Option<String>, PEER_NAME;
        /// Whether a ticket was used.
        field resumed: bool, WORD;
    }

    /// Last of every session.
    SessionEnd -> NoOutput {
        /// Which side the server is.
        field role: Role, WORD;
        /// Why it ended.
        field cause: Cause, WORD;
        /// How long it lasted, seconds.
        field seconds: u64, LARGE;
        /// Bytes of plaintext received.
        optional received: Option<u64>, LARGE;
        /// Bytes of plaintext sent.
        optional sent: Option<u64>, LARGE;
    }
}

/// An answer with an output of a type of its own, as one of any point.
impl<O: Into<Output>> From<Answer<O>> for Reply {
    fn from(answer: Answer<O>) -> Self {
        Self {
            answer: answer.map(Into::into),
            text: None,
        }
    }
}

/// An answer, and what the exit says about it to the log.
#[derive(Debug, Default)]
#[must_use]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// Text for the log, at most [`Reply::TEXT_LIMIT`] bytes.
    pub text: Option<String>,
}

impl Reply {
    /// The most bytes of the text.
    pub const TEXT_LIMIT: usize = 256;

    /// The same with a text for the log.
    pub fn saying(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self {
            answer: failure.into(),
            text: None,
        }
    }
}
