//! Who checks a peer's certificates, and what they are worth afterwards.
//!
//! The path to an anchor is checked by webpki in every case where there are anchors. What that
//! check says is final, unless the application has asked to be asked: then its word counts, in
//! both directions. Only its plain consent lets anybody in: a panic is a refusal.

use core::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Error;
use super::sink::tell;

/// What the certificates of a peer are worth. It has proved to own their key in every case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// A path leads to an anchor of this side (or there are no certificates).
    #[default]
    Checked,
    /// No path does, and the application's [`Validation`] accepted them.
    Accepted,
    /// No path does, nobody accepted them, and they were let pass for the application to decide.
    Unproved,
}

/// What a [`Validation`] is asked about.
pub struct Presented<'a> {
    leaf: &'a CertificateDer<'a>,
    others: &'a [CertificateDer<'a>],
    path: Result<(), Error>,
}

impl<'a> Presented<'a> {
    /// The certificates as the peer sent them, DER, leaf first: at least one, together at most
    /// 64 KiB.
    pub fn chain(&self) -> impl Iterator<Item = &'a [u8]> {
        let others = self.others.iter().map(|certificate| &**certificate);
        core::iter::once(&**self.leaf).chain(others)
    }

    /// What the check of the path said: of an acceptor's certificate also, whether it is for the
    /// target. Without anchors no path leads anywhere.
    ///
    /// # Errors
    /// Why the certificates are not good.
    pub fn path(&self) -> Result<(), &Error> {
        self.path.as_ref().copied()
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("certificates", &(1 + self.others.len()))
            .field("path", &self.path.is_ok())
            .finish()
    }
}

/// What a [`Validation`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The certificates are good, whatever the check of the path said.
    Accept,
    /// They are not, whatever the check of the path said.
    Refuse,
}

/// The application's word about a peer's certificates; it replaces that of the path's check.
///
/// It is asked in the middle of a handshake, on the thread that drives it, and again when a
/// session is resumed. A panic in it is a refusal. Who answers [`Decision::Accept`] without
/// looking at [`Presented::path`] lets in everybody who has made himself a certificate.
pub trait Validation: Send + Sync {
    /// Decides.
    fn validate(&self, presented: &Presented<'_>) -> Decision;
}

impl<F: Fn(&Presented<'_>) -> Decision + Send + Sync> Validation for F {
    fn validate(&self, presented: &Presented<'_>) -> Decision {
        self(presented)
    }
}

/// What is made of the answer of the path's check.
struct Judge {
    /// Let pass what nobody vouches for.
    pass: bool,
    validation: Option<Arc<dyn Validation>>,
}

impl Judge {
    //= spec/mechanism.md#validation
    fn judge(
        &self,
        path: Result<(), TlsError>,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<Standing, TlsError> {
        let standing = match (&path, &self.validation) {
            (Ok(()), _) => Standing::Checked,
            (Err(_), Some(_)) => Standing::Accepted,
            (Err(_), None) => Standing::Unproved,
        };
        let Some(validation) = &self.validation else {
            return match self.pass {
                true => Ok(standing),
                false => path.map(|()| standing),
            };
        };
        let presented = Presented {
            leaf,
            others,
            path: path.clone().map_err(Error::from),
        };
        match catch_unwind(AssertUnwindSafe(|| validation.validate(&presented))) {
            Ok(Decision::Accept) => Ok(standing),
            Ok(Decision::Refuse) | Err(_) => Err(path.err().unwrap_or(
                TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure),
            )),
        }
    }
}

/// Checks the certificates of clients.
pub(super) struct ClientCheck {
    /// None where there are no anchors.
    path: Option<Arc<dyn ClientCertVerifier>>,
    mandatory: bool,
    judge: Judge,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCheck {
    pub(super) fn new(
        path: Option<Arc<dyn ClientCertVerifier>>,
        mandatory: bool,
        pass: bool,
        validation: Option<Arc<dyn Validation>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self {
            path,
            mandatory,
            judge: Judge { pass, validation },
            algorithms,
        }
    }

    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Standing, TlsError> {
        let path = match &self.path {
            Some(path) => path.verify_client_cert(leaf, others, now).map(drop),
            None => Err(TlsError::InvalidCertificate(
                CertificateError::UnknownIssuer,
            )),
        };
        self.judge.judge(path, leaf, others)
    }
}

impl ClientCertVerifier for ClientCheck {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match &self.path {
            // Where others may do, nobody is told to keep his certificate back.
            Some(path) if !self.judge.pass => path.root_hint_subjects(),
            _ => &[],
        }
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let standing = self.check(leaf, others, now)?;
        tell(|captured| captured.standing = standing);
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for ClientCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCheck")
    }
}

/// Checks the certificates of servers.
pub(super) struct ServerCheck {
    path: Arc<WebPkiServerVerifier>,
    judge: Judge,
}

impl ServerCheck {
    pub(super) fn new(
        path: Arc<WebPkiServerVerifier>,
        validation: Option<Arc<dyn Validation>>,
    ) -> Self {
        let judge = Judge {
            pass: false,
            validation,
        };
        Self { path, judge }
    }

    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Standing, TlsError> {
        let path = self.path.verify_server_cert(leaf, others, server, &[], now);
        self.judge.judge(path.map(drop), leaf, others)
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let standing = self.check(leaf, others, server, now)?;
        tell(|captured| captured.standing = standing);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.path
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.path
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.path.supported_verify_schemes()
    }
}

impl fmt::Debug for ServerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCheck")
    }
}
