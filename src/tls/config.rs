//! What the handshakes of one acceptor, or of one initiator, have in common.

use core::time::Duration;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{
    ClientSessionMemoryCache, Resumption, UnbufferedClientConnection, WebPkiServerVerifier,
};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Error;
use super::handshake::{Established, Handshake};
use super::provider::provider;
use super::sink::Sink;
use super::ticket::Sealer;
use crate::crypto::Suite;
use crate::status::Minor;

/// What both sides are told of the protocol.
pub(crate) struct Protocol<'a> {
    /// Most wanted first.
    pub(crate) suites: &'a [Suite],
    /// ALPN names, most wanted first; none: not negotiated.
    pub(crate) application_protocols: Vec<Vec<u8>>,
    /// How long a session can be resumed; none: it cannot.
    pub(crate) resumption: Option<Duration>,
}

/// Whether a server asks for client certificates, and which it accepts.
pub(crate) enum Clients {
    /// Not asked.
    None,
    /// Asked; one that is presented must be good.
    Optional(Arc<RootCertStore>),
    /// Asked, and the handshake fails without.
    Required(Arc<RootCertStore>),
}

/// The server's side.
pub(crate) struct Server {
    config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

/// Tickets a server sends in its own flight.
const TICKETS: usize = 2;
/// Servers whose tickets a client keeps.
const SERVERS: usize = 256;

impl Server {
    pub(crate) fn new(
        key: Arc<CertifiedKey>,
        clients: Clients,
        protocol: Protocol<'_>,
    ) -> Result<Self, Error> {
        let provider = provider(protocol.suites);
        //= spec/mechanism.md#client-certificate
        let (anchors, required) = match clients {
            Clients::None => (None, false),
            Clients::Optional(anchors) => (Some(anchors), false),
            Clients::Required(anchors) => (Some(anchors), true),
        };
        let clients = match anchors {
            None => None,
            Some(anchors) => {
                let builder =
                    WebPkiClientVerifier::builder_with_provider(anchors, provider.clone());
                let builder = match required {
                    true => builder,
                    false => builder.allow_unauthenticated(),
                };
                Some(builder.build().map_err(|_| NO_ANCHORS)?)
            }
        };
        let builder =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
        let builder = match &clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = protocol.application_protocols;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if let Some(lifetime) = protocol.resumption {
            let sealer = Sealer::new(lifetime).ok_or(NO_RANDOM)?;
            config.ticketer = Arc::new(sealer);
            config.send_tls13_tickets = TICKETS;
        }
        config.key_log = Arc::new(Sink);
        config.enable_secret_extraction = true;
        Ok(Self {
            config: Arc::new(config),
            clients,
        })
    }

    pub(crate) fn handshake(&self) -> Result<Box<Handshake<UnbufferedServerConnection>>, Error> {
        let connection = UnbufferedServerConnection::new(self.config.clone())?;
        Ok(Handshake::new(connection))
    }

    /// Asks again of a resumed session what was asked when it was made: whether the client's
    /// certificates, out of the ticket, are good now.
    ///
    /// Refused with the alert the peer is owed.
    //= spec/mechanism.md#resumption
    pub(crate) fn recheck(&self, session: &Established) -> Result<(), (Error, u8)> {
        let (true, Some(verifier)) = (session.resumed, &self.clients) else {
            return Ok(());
        };
        let verified = match session.peer_certificates.split_first() {
            Some((leaf, others)) => verifier
                .verify_client_cert(leaf, others, UnixTime::now())
                .map(drop),
            None if verifier.client_auth_mandatory() => Err(rustls::Error::NoCertificatesPresented),
            None => Ok(()),
        };
        verified.map_err(owed)
    }
}

/// The client's side.
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    servers: Arc<WebPkiServerVerifier>,
    resumption: bool,
}

impl Client {
    pub(crate) fn new(
        key: Option<Arc<CertifiedKey>>,
        anchors: Arc<RootCertStore>,
        protocol: Protocol<'_>,
    ) -> Result<Self, Error> {
        let provider = provider(protocol.suites);
        let servers = WebPkiServerVerifier::builder_with_provider(anchors, provider.clone())
            .build()
            .map_err(|_| NO_ANCHORS)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_webpki_verifier(servers.clone());
        let mut config = match key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocol.application_protocols;
        config.resumption = match protocol.resumption {
            Some(_) => Resumption::store(Arc::new(ClientSessionMemoryCache::new(SERVERS))),
            None => Resumption::disabled(),
        };
        config.key_log = Arc::new(Sink);
        config.enable_secret_extraction = true;
        Ok(Self {
            config: Arc::new(config),
            servers,
            resumption: protocol.resumption.is_some(),
        })
    }

    pub(crate) fn handshake(
        &self,
        server: ServerName<'static>,
    ) -> Result<Box<Handshake<UnbufferedClientConnection>>, Error> {
        let connection = UnbufferedClientConnection::new(self.config.clone(), server)?;
        Ok(Handshake::new(connection))
    }

    /// Whether tickets are wanted.
    pub(crate) fn resumption(&self) -> bool {
        self.resumption
    }

    /// Asks again of a resumed session what was asked when it was made: whether the server's
    /// certificates are good now, and `server`'s.
    ///
    /// Refused with the alert the peer is owed.
    //= spec/mechanism.md#resumption
    pub(crate) fn recheck(
        &self,
        session: &Established,
        server: &ServerName<'_>,
    ) -> Result<(), (Error, u8)> {
        if !session.resumed {
            return Ok(());
        }
        let Some((leaf, others)) = session.peer_certificates.split_first() else {
            return Err(owed(rustls::Error::NoCertificatesPresented));
        };
        self.servers
            .verify_server_cert(leaf, others, server, &[], UnixTime::now())
            .map(drop)
            .map_err(owed)
    }
}

/// An error of a verification, and the alert for it.
fn owed(error: rustls::Error) -> (Error, u8) {
    let alert = match &error {
        rustls::Error::InvalidCertificate(why) => AlertDescription::from(why.clone()),
        rustls::Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        _ => AlertDescription::HandshakeFailure,
    };
    (error.into(), alert.into())
}

/// That a server's own certificate is one for this host.
pub(crate) fn certified(leaf: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    webpki::EndEntityCert::try_from(leaf)
        .is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(host).is_ok())
}

const NO_ANCHORS: Error = Error::new(
    Minor::CredentialMissing,
    "there is no anchor to check certificates with",
);
const NO_RANDOM: Error = Error::new(Minor::System, "the system has no random bytes");
