//! What the establishments of one acceptor, or of one initiator, have in common.

use core::time::Duration;
use std::sync::Arc;

use super::cache::WEEK;
use super::{PROTOCOL, Passwords, SessionCache, Validation};
use crate::cred::{AcceptorCredential, Anchors, InitiatorCredential};
use crate::crypto::Suite;
use crate::flags::Flags;
use crate::message::Services;
use crate::name::Name;
use crate::record::Limits;
use crate::status::Minor;
use crate::tls::{self, Client, Clients, Error, Protocol, Server};

/// The suites of a configuration that names none, most wanted first: rustls's own order.
//= spec/mechanism.md#tls
const SUITES: [Suite; 3] = [Suite::Aes256Gcm, Suite::Aes128Gcm, Suite::ChaCha20Poly1305];
/// The most passwords an initiator may try.
const ATTEMPTS_LIMIT: u8 = 16;

/// Whether an acceptor wants certificates of initiators.
#[derive(Clone, Debug, Default)]
pub enum ClientCertificates {
    /// None is asked for.
    #[default]
    None,
    /// One is asked for; a bad one is refused, and nobody needs one.
    Optional(Anchors),
    /// Nobody gets in without a good one.
    Required(Anchors),
    /// One is asked for, and any that is presented passes the handshake: the application decides,
    /// by [`Finished::standing`](super::Finished::standing) and
    /// [`Finished::peer_chain`](super::Finished::peer_chain). With anchors it is told what the check
    /// of the path said. Of a certificate that nobody vouches for the context takes no name.
    PassThrough(Option<Anchors>),
}

/// What both sides' configurations have in common.
struct Common {
    suites: Vec<Suite>,
    application_protocols: Vec<Vec<u8>>,
    resumption: Option<SessionCache>,
    validation: Option<Arc<dyn Validation>>,
    lifetime: Option<Duration>,
    services: Services,
    transferable: bool,
    limits: Limits,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            suites: SUITES.to_vec(),
            application_protocols: Vec::new(),
            resumption: None,
            validation: None,
            lifetime: None,
            services: Services {
                replay: true,
                sequence: true,
                confidentiality: true,
            },
            transferable: true,
            limits: Limits::default(),
        }
    }
}

impl Common {
    fn check(&self) -> Result<(), Error> {
        //= spec/mechanism.md#alpn
        let fits = |name: &Vec<u8>| (1..=255).contains(&name.len()) && name != PROTOCOL;
        if self.application_protocols.iter().all(fits) {
            Ok(())
        } else {
            Err(Error::new(
                Minor::FramingUnknown,
                "an application protocol's name is empty, too long, or this mechanism's own",
            ))
        }
    }

    fn record<R>(&self, resumption: Option<Arc<R>>) -> Protocol<'_, R> {
        Protocol {
            suites: &self.suites,
            application_protocols: self.application_protocols.clone(),
            resumption,
        }
    }

    fn message<R>(&self, resumption: Option<Arc<R>>) -> Protocol<'_, R> {
        Protocol {
            application_protocols: vec![PROTOCOL.to_vec()],
            ..self.record(resumption)
        }
    }

    /// The flags of RFC 2743 that the services are.
    fn flags(&self) -> Flags {
        let mut flags = Flags::MUTUAL | Flags::INTEGRITY;
        for (granted, flag) in [
            (self.services.replay, Flags::REPLAY),
            (self.services.sequence, Flags::SEQUENCE),
            (self.services.confidentiality, Flags::CONFIDENTIALITY),
        ] {
            if granted {
                flags |= flag;
            }
        }
        flags
    }
}

/// Flags that a side adds for itself, without telling the other.
pub(super) fn own_flags(transferable: bool) -> Flags {
    match transferable {
        true => Flags::PROTECTION_READY | Flags::TRANSFERABLE,
        false => Flags::PROTECTION_READY,
    }
}

macro_rules! common_methods {
    () => {
        /// The cipher suites, most wanted first; an empty list is as none given. Default:
        /// AES-256-GCM, AES-128-GCM, ChaCha20-Poly1305, as rustls has them. (AES-128-GCM is some
        /// 10 % faster and has the smaller secrets.)
        pub fn suites(mut self, suites: &[Suite]) -> Self {
            self.common.suites = match suites {
                [] => SUITES.to_vec(),
                some => some.to_vec(),
            };
            self
        }

        /// The application protocols (ALPN) of record framing, most wanted first, each 1 to 255
        /// bytes long. Default: none, and nothing is negotiated.
        pub fn application_protocols(mut self, protocols: &[&[u8]]) -> Self {
            self.common.application_protocols =
                protocols.iter().map(|name| name.to_vec()).collect();
            self
        }

        /// Bounds the lifetime of contexts, which the certificates' validity bounds in any case.
        /// Default: nothing else does.
        pub fn lifetime(mut self, lifetime: Duration) -> Self {
            self.common.lifetime = Some(lifetime);
            self
        }

        /// Whether contexts may be exported. Default: they may.
        pub fn transferable(mut self, transferable: bool) -> Self {
            self.common.transferable = transferable;
            self
        }

        /// Asks the application about the peer's certificates: its word replaces that of the
        /// check of their path. Default: the check decides.
        pub fn validation(mut self, validation: Arc<dyn Validation>) -> Self {
            self.common.validation = Some(validation);
            self
        }

        /// Lets sessions be resumed by this cache, which can be shared with other configurations
        /// of the same credential. Default: they are not.
        ///
        /// An initiator's tickets, their secrets, and for the time of a context what takes new
        /// ones, lie in the ordinary heap, where rustls has them, and are inherited by a forked
        /// process. They open no past session; whoever has them can begin a session as this
        /// initiator.
        pub fn session_cache(mut self, cache: SessionCache) -> Self {
            self.common.resumption = Some(cache);
            self
        }

        /// Limits of the records of record framing.
        pub fn record_limits(mut self, limits: Limits) -> Self {
            self.common.limits = limits;
            self
        }
    };
}

/// How an acceptor establishes contexts, in either framing; shared by all its establishments.
pub struct AcceptorConfig {
    pub(super) credential: AcceptorCredential,
    pub(super) record: Server,
    pub(super) message: Server,
    cache: Option<SessionCache>,
    pub(super) anonymous: bool,
    asks: bool,
    pub(super) passwords: Option<Arc<dyn Passwords>>,
    pub(super) attempts: u8,
    pub(super) second_factor: bool,
    pub(super) targets: Vec<Name>,
    pub(super) lifetime: Option<Duration>,
    pub(super) flags: Flags,
    pub(super) transferable: bool,
    pub(super) limits: Limits,
}

impl AcceptorConfig {
    /// Whether initiators are asked for a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.asks
    }

    /// Begins a configuration. As it is, nobody gets in by message framing, and anybody by record
    /// framing.
    pub fn builder(credential: AcceptorCredential) -> AcceptorConfigBuilder {
        AcceptorConfigBuilder {
            credential,
            clients: ClientCertificates::None,
            anonymous: false,
            passwords: None,
            attempts: 1,
            second_factor: false,
            targets: Vec::new(),
            common: Common::default(),
        }
    }

    /// The cache by which sessions are resumed, if they are.
    pub(crate) fn cache(&self) -> Option<&SessionCache> {
        self.cache.as_ref()
    }

    /// Whether an initiator's target is this acceptor.
    //= spec/mechanism.md#target
    pub(super) fn is_target(&self, target: &Name) -> bool {
        if !self.targets.is_empty() {
            return self.targets.iter().any(|known| {
                let any_host = known.host().is_none() && known.service() == target.service();
                any_host || known.compare(target)
            });
        }
        let leaf = self.credential.0.key.end_entity_cert();
        match (leaf, target.server_name()) {
            (Ok(leaf), Some(host)) => tls::certified(leaf, &host),
            _ => false,
        }
    }
}

/// Makes an [`AcceptorConfig`].
#[must_use]
pub struct AcceptorConfigBuilder {
    credential: AcceptorCredential,
    clients: ClientCertificates,
    anonymous: bool,
    passwords: Option<Arc<dyn Passwords>>,
    attempts: u8,
    second_factor: bool,
    targets: Vec<Name>,
    common: Common,
}

impl AcceptorConfigBuilder {
    common_methods!();

    /// Whether initiators are asked for certificates. Default: they are not.
    pub fn client_certificates(mut self, clients: ClientCertificates) -> Self {
        self.clients = clients;
        self
    }

    /// Whether initiators that prove nothing and ask for it get in, in message framing. Default:
    /// they do not. In record framing [`AcceptorConfigBuilder::client_certificates`] decides.
    pub fn anonymous(mut self, admitted: bool) -> Self {
        self.anonymous = admitted;
        self
    }

    /// Lets initiators in by password (message framing), with so many attempts a connection: 1 to
    /// 16, a number outside is taken as the nearest inside. Who has a good certificate needs no
    /// password, unless [`AcceptorConfigBuilder::second_factor`] says so.
    pub fn passwords(mut self, passwords: Arc<dyn Passwords>, attempts: u8) -> Self {
        self.passwords = Some(passwords);
        self.attempts = attempts.clamp(1, ATTEMPTS_LIMIT);
        self
    }

    /// Whether a password is needed beside a certificate. Default: it is not.
    pub fn second_factor(mut self, needed: bool) -> Self {
        self.second_factor = needed;
        self
    }

    /// Whom initiators may ask for (message framing): host-based services, those without host
    /// for any host. Default: any service on a host that the certificate is valid for.
    pub fn targets(mut self, targets: &[Name]) -> Self {
        self.targets = targets.to_vec();
        self
    }

    /// The most that is granted of replay detection, sequencing and confidentiality (message
    /// framing). Default: everything.
    pub fn services(mut self, services: Services) -> Self {
        self.common.services = services;
        self
    }

    /// Lets sessions be resumed for so long, 1 second to 7 days (RFC 8446 4.6.1), by a cache of
    /// this configuration's own. Default: they are not.
    pub fn resumption(self, lifetime: Duration) -> Self {
        self.session_cache(SessionCache::new(lifetime))
    }

    /// Ends the configuration.
    ///
    /// # Errors
    /// UNAVAILABLE for an application protocol that cannot be.
    pub fn build(self) -> Result<AcceptorConfig, Error> {
        self.common.check()?;
        let clients = || match &self.clients {
            ClientCertificates::None => Clients::None,
            ClientCertificates::Optional(anchors) => Clients::Optional(anchors.0.clone()),
            ClientCertificates::Required(anchors) => Clients::Required(anchors.0.clone()),
            ClientCertificates::PassThrough(anchors) => {
                Clients::PassThrough(anchors.as_ref().map(|anchors| anchors.0.clone()))
            }
        };
        let key = &self.credential.0.key;
        let common = &self.common;
        let sealer = |message| Some(common.resumption.as_ref()?.sealer(message));
        let asked = || (clients(), common.validation.clone());
        let server = |(clients, validation), protocol| {
            Server::new(key.clone(), clients, validation, protocol)
        };
        let record = server(asked(), common.record(sealer(false)))?;
        let message = server(asked(), common.message(sealer(true)))?;
        Ok(AcceptorConfig {
            record,
            message,
            credential: self.credential,
            anonymous: self.anonymous,
            asks: !matches!(self.clients, ClientCertificates::None),
            passwords: self.passwords,
            attempts: self.attempts,
            second_factor: self.second_factor,
            targets: self.targets,
            lifetime: self.common.lifetime,
            flags: self.common.flags(),
            transferable: self.common.transferable,
            limits: self.common.limits,
            cache: self.common.resumption,
        })
    }
}

/// How an initiator establishes contexts, in either framing; shared by all its establishments,
/// which find each other's session tickets in it.
pub struct InitiatorConfig {
    pub(super) credential: InitiatorCredential,
    pub(super) record: Client,
    pub(super) message: Client,
    pub(super) lifetime: Option<Duration>,
    pub(super) flags: Flags,
    pub(super) transferable: bool,
    pub(super) limits: Limits,
}

impl InitiatorConfig {
    /// Begins a configuration: acceptors are checked by these anchors, and nothing is proved to
    /// them.
    pub fn builder(anchors: Anchors) -> InitiatorConfigBuilder {
        InitiatorConfigBuilder {
            anchors,
            credential: InitiatorCredential::anonymous(),
            common: Common::default(),
        }
    }
}

/// Makes an [`InitiatorConfig`].
#[must_use]
pub struct InitiatorConfigBuilder {
    anchors: Anchors,
    credential: InitiatorCredential,
    common: Common,
}

impl InitiatorConfigBuilder {
    common_methods!();

    /// What is proved to acceptors. Default: nothing.
    pub fn credential(mut self, credential: InitiatorCredential) -> Self {
        self.credential = credential;
        self
    }

    /// What is asked for of replay detection, sequencing and confidentiality (message framing).
    /// Default: everything.
    pub fn services(mut self, services: Services) -> Self {
        self.common.services = services;
        self
    }

    /// Whether acceptors' session tickets are kept and used, by a cache of this configuration's own
    /// (see [`InitiatorConfigBuilder::session_cache`]) and for as long as the acceptors say.
    /// Default: they are not.
    pub fn resumption(mut self, used: bool) -> Self {
        self.common.resumption = used.then(|| SessionCache::new(WEEK));
        self
    }

    /// Ends the configuration.
    ///
    /// # Errors
    /// UNAVAILABLE for an application protocol that cannot be.
    pub fn build(self) -> Result<InitiatorConfig, Error> {
        self.common.check()?;
        let key = || {
            let certified = self.credential.certified.as_ref()?;
            Some(certified.key.clone())
        };
        let anchors = &self.anchors.0;
        let common = &self.common;
        let store = |message| Some(common.resumption.as_ref()?.store(message));
        let client =
            |protocol| Client::new(key(), anchors.clone(), common.validation.clone(), protocol);
        let record = client(common.record(store(false)))?;
        let message = client(common.message(store(true)))?;
        Ok(InitiatorConfig {
            record,
            message,
            credential: self.credential,
            lifetime: self.common.lifetime,
            flags: self.common.flags(),
            transferable: self.common.transferable,
            limits: self.common.limits,
        })
    }
}
