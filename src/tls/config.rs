//! What the handshakes of one acceptor, or of one initiator, have in common.

use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Error;
use super::asked::Asked;
use super::handshake::{Established, Handshake};
use super::provider::provider;
use super::sink::Sink;
use super::store::Store;
use super::ticket::Sealer;
use super::verify::{ClientCheck, ServerCheck, Standing, Validation};
use crate::crypto::Suite;
use crate::status::Minor;

/// What both sides are told of the protocol.
pub(crate) struct Protocol<'a, R> {
    /// Most wanted first.
    pub(crate) suites: &'a [Suite],
    /// ALPN names, most wanted first; none: not negotiated.
    pub(crate) application_protocols: Vec<Vec<u8>>,
    /// What keeps sessions to be resumed, a [`Sealer`] or a [`Store`]; none: they are not.
    pub(crate) resumption: Option<Arc<R>>,
}

/// Whether a server asks for client certificates, and which it accepts.
pub(crate) enum Clients {
    /// Not asked.
    None,
    /// Asked; one that is presented must be good.
    Optional(Arc<RootCertStore>),
    /// Asked, and the handshake fails without.
    Required(Arc<RootCertStore>),
    /// Asked, and any that is presented will do; the path is checked where there are anchors.
    PassThrough(Option<Arc<RootCertStore>>),
}

/// The server's side.
pub(crate) struct Server {
    config: Arc<ServerConfig>,
    clients: Option<Arc<ClientCheck>>,
}

/// Tickets a server sends in its own flight.
const TICKETS: usize = 2;

impl Server {
    pub(crate) fn new(
        key: Arc<CertifiedKey>,
        clients: Clients,
        validation: Option<Arc<dyn Validation>>,
        protocol: Protocol<'_, Sealer>,
    ) -> Result<Self, Error> {
        let provider = provider(protocol.suites);
        //= spec/mechanism.md#client-certificate
        let asked = match clients {
            Clients::None => None,
            Clients::Optional(anchors) => Some((Some(anchors), false, false)),
            Clients::Required(anchors) => Some((Some(anchors), true, false)),
            Clients::PassThrough(anchors) => Some((anchors, false, true)),
        };
        let clients = match asked {
            None => None,
            Some((anchors, mandatory, pass)) => {
                let path = |anchors| {
                    WebPkiClientVerifier::builder_with_provider(anchors, provider.clone())
                        .build()
                        .map_err(|_| NO_ANCHORS)
                };
                let path = anchors.map(path).transpose()?;
                let algorithms = provider.signature_verification_algorithms;
                let check = ClientCheck::new(path, mandatory, pass, validation, algorithms);
                Some(Arc::new(check))
            }
        };
        let builder =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
        let builder = match &clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Asked::new(key)));
        config.alpn_protocols = protocol.application_protocols;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if let Some(sealer) = protocol.resumption {
            config.ticketer = sealer;
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
    pub(crate) fn recheck(&self, session: &mut Established) -> Result<(), (Error, u8)> {
        let (true, Some(clients)) = (session.resumed, &self.clients) else {
            return Ok(());
        };
        let checked = match session.peer_certificates.split_first() {
            Some((leaf, others)) => clients.check(leaf, others, UnixTime::now()),
            None if clients.client_auth_mandatory() => Err(rustls::Error::NoCertificatesPresented),
            None => Ok(Standing::Checked),
        };
        session.standing = checked.map_err(owed)?;
        Ok(())
    }
}

/// The client's side.
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    servers: Arc<ServerCheck>,
    resumption: bool,
}

impl Client {
    pub(crate) fn new(
        key: Option<Arc<CertifiedKey>>,
        anchors: Arc<RootCertStore>,
        validation: Option<Arc<dyn Validation>>,
        protocol: Protocol<'_, Store>,
    ) -> Result<Self, Error> {
        let provider = provider(protocol.suites);
        let servers = WebPkiServerVerifier::builder_with_provider(anchors, provider.clone())
            .build()
            .map_err(|_| NO_ANCHORS)?;
        let servers = Arc::new(ServerCheck::new(servers, validation));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(servers.clone());
        let mut config = match key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocol.application_protocols;
        let resumption = protocol.resumption.is_some();
        config.resumption = match protocol.resumption {
            Some(store) => Resumption::store(store),
            None => Resumption::disabled(),
        };
        config.key_log = Arc::new(Sink);
        config.enable_secret_extraction = true;
        Ok(Self {
            config: Arc::new(config),
            servers,
            resumption,
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
        session: &mut Established,
        server: &ServerName<'_>,
    ) -> Result<(), (Error, u8)> {
        if !session.resumed {
            return Ok(());
        }
        let Some((leaf, others)) = session.peer_certificates.split_first() else {
            return Err(owed(rustls::Error::NoCertificatesPresented));
        };
        let checked = self.servers.check(leaf, others, server, UnixTime::now());
        session.standing = checked.map_err(owed)?;
        Ok(())
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
