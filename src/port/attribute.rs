//! The attributes of environments and sessions: their values, their bounds, their errors.

use core::fmt;
use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

use super::Code;
use crate::context::Role;
use crate::cred::AcceptorCredential;
use crate::crypto::Suite;
use crate::establish::{AcceptorConfig, Framing, PROTOCOL, Passwords, Validation};
use crate::name::Name;

/// Whether acceptors want certificates of initiators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// None is asked for.
    #[default]
    None,
    /// One is asked for; a bad one is refused, and nobody needs one.
    Optional,
    /// Nobody gets in without a good one.
    Required,
    /// One is asked for, and any passes the handshake: the application decides, by
    /// [`Session::standing`](super::Session::standing) and
    /// [`Session::peer_chain`](super::Session::peer_chain).
    PassThrough,
}

/// From an application's id to its certificate and key, for either role; none when it has none.
/// Asked once, by [`Environment::init`](super::Environment::init). A panic in it is none.
pub trait Resolver: Send + Sync {
    /// Finds the credential.
    fn resolve(&self, application_id: &str) -> Option<AcceptorCredential>;
}

impl<F: Fn(&str) -> Option<AcceptorCredential> + Send + Sync> Resolver for F {
    fn resolve(&self, application_id: &str) -> Option<AcceptorCredential> {
        self(application_id)
    }
}

/// An attribute with its value.
#[derive(Clone)]
#[non_exhaustive]
pub enum Attribute {
    /// Which side of the handshake a session is.
    Role(Role),
    /// How a connection begins; none: an acceptor tells by the first byte.
    Framing(Option<Framing>),
    /// A PEM file with this side's certificate chain, leaf first.
    Certificate(PathBuf),
    /// A PEM file with the key of the certificate.
    Key(PathBuf),
    /// The application whose certificate and key are used, instead of files.
    ApplicationId(String),
    /// What finds an application's certificate and key.
    Resolver(Arc<dyn Resolver>),
    /// A PEM file with the authorities by which peers' certificates are checked.
    Anchors(PathBuf),
    /// Whom an initiator asks for: a host-based service with a host.
    Target(String),
    /// Whether acceptors want certificates.
    ClientAuthentication(ClientAuthentication),
    /// The application's last word about the peer's certificates.
    Validation(Arc<dyn Validation>),
    /// The longest a handshake may take.
    HandshakeTimeout(Duration),
    /// The longest a receive may take; none: for ever.
    ReadTimeout(Option<Duration>),
    /// Most bytes of a session that were given to be sent and the connection has not taken.
    UnsentLimit(usize),
    /// Whether sessions are resumed.
    Resumption(bool),
    /// How long after its handshake a session can be resumed.
    SessionTimeout(Duration),
    /// Application protocols (ALPN) of record framing, most wanted first.
    ApplicationProtocols(Vec<Vec<u8>>),
    /// Cipher suites, most wanted first.
    Suites(Vec<Suite>),
    /// Most sessions that live at once.
    SessionLimit(usize),
    /// Whether initiators that prove nothing get in, in message framing.
    Anonymous(bool),
    /// Who knows passwords (message framing), and how many attempts there are.
    Passwords(Arc<dyn Passwords>, u8),
    /// Bounds the lifetime of contexts; none: the certificates' validity alone does.
    Lifetime(Option<Duration>),
    /// The longest a send may take; none: for ever.
    SendTimeout(Option<Duration>),
    /// How long a handshake may have taken before it makes room for another, where as many sessions
    /// live as may; none: it never does.
    MakeRoomAfter(Option<Duration>),
    /// An acceptor's configuration as it was built, with everything that a builder can say, instead
    /// of the attributes that say how contexts are established.
    Configuration(Arc<AcceptorConfig>),
    /// Whether the application is told of an initiator's hello before it is answered
    /// ([`Operation::Hello`](super::Operation::Hello)).
    Hello(bool),
}

/// What is the same for every value of an attribute.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// The type of its value.
    pub value: &'static str,
    /// What holds when it is not set.
    pub default: &'static str,
    /// What it may be.
    pub bounds: &'static str,
    /// Whether a session can override it.
    pub session: bool,
    /// The error of a bad value.
    pub error: Code,
}

macro_rules! rows {
    ($($key:ident, $name:literal, $value:literal, $default:literal, $bounds:literal, $session:literal, $error:ident;)*) => {
        /// An attribute without its value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Key { $(#[doc = $name] $key,)* }

        impl Key {
            /// Every attribute.
            pub const ALL: &'static [Self] = &[$(Self::$key,)*];

            /// What is the same for every value of it.
            //= spec/port.md#attributes
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$key => Row {
                        name: $name,
                        value: $value,
                        default: $default,
                        bounds: $bounds,
                        session: $session,
                        error: Code::$error,
                    },)*
                }
            }
        }
    };
}

rows! {
    Role, "role", "acceptor, initiator", "acceptor", "an initiator has anchors, an acceptor a certificate", true, BadRole;
    Framing, "framing", "record, message, by the first byte", "record", "by the first byte: acceptors only", true, BadFraming;
    Certificate, "certificate", "file", "none", "PEM, 1 byte to 1 MiB, valid now", false, BadCertificate;
    Key, "key", "file", "none", "PEM, 1 byte to 1 MiB, the certificate's", false, BadKey;
    ApplicationId, "application-id", "text", "none", "1 to 256 bytes, known to the resolver", false, BadApplicationId;
    Resolver, "resolver", "callback", "none", "set where there is an application id", false, BadResolver;
    Anchors, "anchors", "file", "none", "PEM, 1 byte to 1 MiB", false, BadAnchors;
    Target, "target", "text", "none", "`service@host`", true, BadTarget;
    ClientAuthentication, "client-authentication", "none, optional, required, pass-through", "none", "optional and required: there are anchors", true, BadClientAuthentication;
    Validation, "validation", "callback", "none", "an acceptor asks for certificates", true, BadValidation;
    HandshakeTimeout, "handshake-timeout", "time", "10 s", "1 ms to 1 h", true, BadHandshakeTimeout;
    ReadTimeout, "read-timeout", "time or none", "none", "1 ms to 7 d", true, BadReadTimeout;
    UnsentLimit, "unsent-limit", "bytes", "256 KiB", "1 KiB to 16 MiB", true, BadUnsentLimit;
    Resumption, "resumption", "yes, no", "no", "a session: not more than its environment", true, BadResumption;
    SessionTimeout, "session-timeout", "time", "1 h", "1 s to 7 d", false, BadSessionTimeout;
    ApplicationProtocols, "application-protocols", "list of byte strings", "empty", "at most 16, each 1 to 255 bytes, not `baton/1`", true, BadApplicationProtocols;
    Suites, "suites", "list", "AES-256-GCM, AES-128-GCM, ChaCha20-Poly1305", "not empty, each once", true, BadSuites;
    SessionLimit, "session-limit", "number", "65536", "1 to 1000000", false, BadSessionLimit;
    Anonymous, "anonymous", "yes, no", "no", "somebody can get in by message framing", true, BadAnonymous;
    Passwords, "passwords", "callback, attempts", "none", "1 to 16 attempts", true, BadPasswords;
    Lifetime, "lifetime", "time or none", "none", "1 s to 10 years", true, BadLifetime;
    SendTimeout, "send-timeout", "time or none", "none", "1 ms to 7 d", true, BadSendTimeout;
    MakeRoomAfter, "make-room-after", "time or none", "none", "1 ms to 1 h", false, BadMakeRoomAfter;
    Configuration, "configuration", "configuration of acceptors", "none", "acceptors only", true, BadConfiguration;
    Hello, "hello", "yes, no", "no", "acceptors only", true, BadHello;
}

impl Attribute {
    /// Which attribute it is.
    pub const fn key(&self) -> Key {
        match self {
            Self::Role(_) => Key::Role,
            Self::Framing(_) => Key::Framing,
            Self::Certificate(_) => Key::Certificate,
            Self::Key(_) => Key::Key,
            Self::ApplicationId(_) => Key::ApplicationId,
            Self::Resolver(_) => Key::Resolver,
            Self::Anchors(_) => Key::Anchors,
            Self::Target(_) => Key::Target,
            Self::ClientAuthentication(_) => Key::ClientAuthentication,
            Self::Validation(_) => Key::Validation,
            Self::HandshakeTimeout(_) => Key::HandshakeTimeout,
            Self::ReadTimeout(_) => Key::ReadTimeout,
            Self::UnsentLimit(_) => Key::UnsentLimit,
            Self::Resumption(_) => Key::Resumption,
            Self::SessionTimeout(_) => Key::SessionTimeout,
            Self::ApplicationProtocols(_) => Key::ApplicationProtocols,
            Self::Suites(_) => Key::Suites,
            Self::SessionLimit(_) => Key::SessionLimit,
            Self::Anonymous(_) => Key::Anonymous,
            Self::Passwords(..) => Key::Passwords,
            Self::Lifetime(_) => Key::Lifetime,
            Self::SendTimeout(_) => Key::SendTimeout,
            Self::MakeRoomAfter(_) => Key::MakeRoomAfter,
            Self::Configuration(_) => Key::Configuration,
            Self::Hello(_) => Key::Hello,
        }
    }

    /// Whether the value is one that the attribute can have, as far as it alone tells.
    fn fits(&self) -> bool {
        const MS: Duration = Duration::from_millis(1);
        const S: Duration = Duration::from_secs(1);
        let within =
            |time: &Duration, least, most| least <= *time && *time <= Duration::from_secs(most);
        match self {
            Self::Certificate(path) | Self::Key(path) | Self::Anchors(path) => {
                !path.as_os_str().is_empty()
            }
            Self::ApplicationId(id) => (1..=256).contains(&id.len()),
            Self::Target(target) => target_name(target).is_some(),
            Self::HandshakeTimeout(time) => within(time, MS, 3600),
            Self::ReadTimeout(time) | Self::SendTimeout(time) => {
                time.is_none_or(|time| within(&time, MS, WEEK))
            }
            Self::MakeRoomAfter(time) => time.is_none_or(|time| within(&time, MS, 3600)),
            Self::UnsentLimit(bytes) => (1 << 10..=16 << 20).contains(bytes),
            Self::SessionTimeout(time) => within(time, S, WEEK),
            Self::ApplicationProtocols(names) => {
                let fits = |name: &Vec<u8>| (1..=255).contains(&name.len()) && name != PROTOCOL;
                names.len() <= 16 && names.iter().all(fits)
            }
            Self::Suites(suites) => {
                let once = |at: usize| !suites[..at].contains(&suites[at]);
                !suites.is_empty() && (0..suites.len()).all(once)
            }
            Self::SessionLimit(number) => (1..=1_000_000).contains(number),
            Self::Passwords(_, attempts) => (1..=16).contains(attempts),
            Self::Lifetime(time) => time.is_none_or(|time| within(&time, S, 3652 * DAY)),
            // Bad only beside others.
            Self::Role(_)
            | Self::Framing(_)
            | Self::Resolver(_)
            | Self::ClientAuthentication(_)
            | Self::Validation(_)
            | Self::Resumption(_)
            | Self::Anonymous(_)
            | Self::Configuration(_)
            | Self::Hello(_) => true,
        }
    }
}

const DAY: u64 = 24 * 3600;
const WEEK: u64 = 7 * DAY;

/// The target, if it is one that an initiator can ask for.
pub(super) fn target_name(target: &str) -> Option<Name> {
    let name = Name::host_based_service(target).ok()?;
    name.server_name().is_some().then_some(name)
}

impl fmt::Debug for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attribute({})", self.key().row().name)
    }
}

/// The attributes' values: those of an environment, or of a session.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) role: Role,
    pub(super) framing: Option<Framing>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) application_id: Option<String>,
    pub(super) resolver: Option<Arc<dyn Resolver>>,
    pub(super) anchors: Option<PathBuf>,
    pub(super) target: Option<String>,
    pub(super) client_authentication: ClientAuthentication,
    pub(super) validation: Option<Arc<dyn Validation>>,
    pub(super) handshake_timeout: Duration,
    pub(super) read_timeout: Option<Duration>,
    pub(super) unsent_limit: usize,
    pub(super) resumption: bool,
    pub(super) session_timeout: Duration,
    pub(super) application_protocols: Vec<Vec<u8>>,
    pub(super) suites: Vec<Suite>,
    pub(super) session_limit: usize,
    pub(super) anonymous: bool,
    pub(super) passwords: Option<(Arc<dyn Passwords>, u8)>,
    pub(super) lifetime: Option<Duration>,
    pub(super) send_timeout: Option<Duration>,
    pub(super) make_room_after: Option<Duration>,
    pub(super) configuration: Option<Arc<AcceptorConfig>>,
    pub(super) hello: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            role: Role::Acceptor,
            framing: Some(Framing::Record),
            certificate: None,
            key: None,
            application_id: None,
            resolver: None,
            anchors: None,
            target: None,
            client_authentication: ClientAuthentication::None,
            validation: None,
            handshake_timeout: Duration::from_secs(10),
            read_timeout: None,
            unsent_limit: 256 << 10,
            resumption: false,
            session_timeout: Duration::from_secs(3600),
            application_protocols: Vec::new(),
            suites: Vec::new(),
            session_limit: 65_536,
            anonymous: false,
            passwords: None,
            lifetime: None,
            send_timeout: None,
            make_room_after: None,
            configuration: None,
            hello: false,
        }
    }
}

impl Settings {
    /// Sets one; its own error when the value is out of its bounds.
    //= spec/port.md#attributes
    pub(super) fn set(&mut self, attribute: Attribute) -> Result<(), Code> {
        if !attribute.fits() {
            return Err(attribute.key().row().error);
        }
        match attribute {
            Attribute::Role(role) => self.role = role,
            Attribute::Framing(framing) => self.framing = framing,
            Attribute::Certificate(path) => self.certificate = Some(path),
            Attribute::Key(path) => self.key = Some(path),
            Attribute::ApplicationId(id) => self.application_id = Some(id),
            Attribute::Resolver(resolver) => self.resolver = Some(resolver),
            Attribute::Anchors(path) => self.anchors = Some(path),
            Attribute::Target(target) => self.target = Some(target),
            Attribute::ClientAuthentication(mode) => self.client_authentication = mode,
            Attribute::Validation(validation) => self.validation = Some(validation),
            Attribute::HandshakeTimeout(time) => self.handshake_timeout = time,
            Attribute::ReadTimeout(time) => self.read_timeout = time,
            Attribute::UnsentLimit(bytes) => self.unsent_limit = bytes,
            Attribute::Resumption(resumed) => self.resumption = resumed,
            Attribute::SessionTimeout(time) => self.session_timeout = time,
            Attribute::ApplicationProtocols(names) => self.application_protocols = names,
            Attribute::Suites(suites) => self.suites = suites,
            Attribute::SessionLimit(number) => self.session_limit = number,
            Attribute::Anonymous(admitted) => self.anonymous = admitted,
            Attribute::Passwords(passwords, attempts) => {
                self.passwords = Some((passwords, attempts));
            }
            Attribute::Lifetime(time) => self.lifetime = time,
            Attribute::SendTimeout(time) => self.send_timeout = time,
            Attribute::MakeRoomAfter(time) => self.make_room_after = time,
            Attribute::Configuration(config) => self.configuration = Some(config),
            Attribute::Hello(told) => self.hello = told,
        }
        Ok(())
    }
}

impl Settings {
    /// Whether handshakes with both are made with the same establishment.
    pub(super) fn same_establishment(&self, other: &Self) -> bool {
        fn same<T: ?Sized>(ours: Option<&Arc<T>>, theirs: Option<&Arc<T>>) -> bool {
            match (ours, theirs) {
                (None, None) => true,
                (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
                _ => false,
            }
        }
        let passwords = |settings: &'_ Self| settings.passwords.as_ref().map(|(_, most)| *most);
        self.role == other.role
            && self.framing == other.framing
            && self.client_authentication == other.client_authentication
            && self.resumption == other.resumption
            && self.application_protocols == other.application_protocols
            && self.suites == other.suites
            && self.anonymous == other.anonymous
            && self.lifetime == other.lifetime
            && passwords(self) == passwords(other)
            && same(self.configuration.as_ref(), other.configuration.as_ref())
            && same(self.validation.as_ref(), other.validation.as_ref())
            && same(
                self.passwords.as_ref().map(|(passwords, _)| passwords),
                other.passwords.as_ref().map(|(passwords, _)| passwords),
            )
    }
}
