//! Whether a certificate was revoked, by those who have issued it: from a response that the peer has
//! stapled, from one that was heard before, or from a responder that is asked (RFC 6960).
//!
//! Invariants: a status counts only with the signature of the issuer, or of one whom the issuer has
//! named for it, over this very certificate, within its time; everything else is no answer.

mod asking;
mod cache;
mod der;
mod message;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::No;
use crate::crypto;
use crate::exit::Reason;
use asking::Asking;
use cache::Cache;
use der::{BIT_STRING, Reader, SEQUENCE};
use message::{Identity, Nothing, Responder, Response, Status, whole_octets};

/// id-kp-OCSPSigning.
const OCSP_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 9];
/// id-ad-ocsp.
const OCSP_ACCESS: &str = "1.3.6.1.5.5.7.48.1";
/// Bytes of the longest address of a responder.
pub(super) const LONGEST_ADDRESS: usize = 1024;
/// Bytes of a nonce (RFC 9654).
const NONCE: usize = 32;

/// How a responder is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// With the request as body.
    #[default]
    Post,
    /// With the request in the address, where it is not too long.
    Get,
}

/// Whether a request has a nonce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nonce {
    /// It has none.
    None,
    /// It has one, which a response may leave out, and must not change.
    #[default]
    Ask,
    /// It has one, and the response has the same.
    Required,
}

/// How revocation is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The responder's address, `http://...`, instead of those in certificates.
    pub responder: Option<String>,
    /// How it is asked.
    pub method: Method,
    /// Whether with a nonce.
    pub nonce: Nonce,
    /// How long an answer may take, 100 milliseconds to a minute.
    pub timeout: Duration,
    /// How long a responder that has failed is left alone, at most a minute.
    pub pause: Duration,
    /// How wrong the clocks may be, at most a day.
    pub skew: Duration,
    /// Statuses that are kept, at most 65,536.
    pub cache: usize,
    /// Whether a certificate for which nobody can be asked is not answered for.
    pub required: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            responder: None,
            method: Method::default(),
            nonce: Nonce::default(),
            timeout: Duration::from_secs(3),
            pause: Duration::from_secs(1),
            skew: Duration::from_secs(300),
            cache: 1024,
            required: true,
        }
    }
}

/// Who asks.
pub(super) struct Ocsp {
    settings: Settings,
    asking: Asking,
    cache: Cache,
}

/// What a response says, and until when, seconds since 1970; none: it says not.
type Said = (Status, Option<u64>);

impl Ocsp {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            asking: Asking::new(settings.method, settings.timeout, settings.pause),
            cache: Cache::new(settings.cache),
            settings: settings.clone(),
        }
    }

    /// That a leaf was not revoked. Its path is good already, and `issuer` is its issuer in it.
    //= spec/builtin.md#ocsp
    pub(super) fn check(
        &self,
        leaf: &[u8],
        issuer: &CertificateDer<'_>,
        stapled: Option<&[u8]>,
        time: u64,
    ) -> Result<(), No> {
        let unread = || No::unanswered("OCSP: the certificates cannot be read");
        let (_, read_leaf) = X509Certificate::from_der(leaf).map_err(|_| unread())?;
        let (_, read_issuer) = X509Certificate::from_der(issuer).map_err(|_| unread())?;
        let key = PublicKey::of(&read_issuer).ok_or_else(unread)?;
        let identity = Identity {
            name: read_issuer.subject().as_raw(),
            key: key.bits,
            serial: read_leaf.raw_serial(),
        };
        let name = crypto::sha256(&[
            &crypto::sha256(&[identity.name]),
            &crypto::sha256(&[read_issuer.public_key().raw]),
            identity.serial,
        ]);
        if let Some(status) = self.cache.find(&name, time) {
            return verdict(status);
        }
        let judge = Judge {
            identity: &identity,
            issuer,
            key: &key,
            time,
            skew: self.settings.skew.as_secs(),
        };
        let stapled = stapled.map(|bytes| judge.said(bytes, None));
        match stapled {
            Some(Ok((status @ (Status::Good | Status::Revoked), _))) => return verdict(status),
            // Who knows nothing of it may have been chosen for that.
            Some(Ok((Status::Unknown, _)) | Err(_)) | None => {}
        }
        let address = match &self.settings.responder {
            Some(address) => Some(address.clone()),
            None => responder_of(&read_leaf),
        };
        let Some(address) = address else {
            return match stapled {
                Some(Ok((status, _))) => verdict(status),
                Some(Err(why)) => Err(No::unanswered(format!("stapled OCSP response: {why}"))),
                None if self.settings.required => Err(No::unanswered("OCSP: nobody to ask")),
                None => Ok(()),
            };
        };
        let nonce = match self.settings.nonce {
            Nonce::None => None,
            Nonce::Ask | Nonce::Required => {
                let mut nonce = [0; NONCE];
                crypto::random(&mut nonce).map_err(|_| No::unanswered("no randomness"))?;
                Some(nonce)
            }
        };
        let nonce = nonce.as_ref().map(<[u8; NONCE]>::as_slice);
        let failed = |why: String| No::unanswered(format!("OCSP responder {address}: {why}"));
        let answer = self
            .asking
            .ask(&address, &identity.request(nonce))
            .map_err(failed)?;
        let expected = nonce.map(|nonce| (nonce, self.settings.nonce == Nonce::Required));
        let (status, until) = judge
            .said(&answer, expected)
            .map_err(|why| failed(why.to_owned()))?;
        if let (Status::Good | Status::Revoked, Some(until)) = (status, until) {
            self.cache.keep(name, status, until, time);
        }
        verdict(status)
    }
}

//= spec/builtin.md#ocsp-verdict
fn verdict(status: Status) -> Result<(), No> {
    match status {
        Status::Good => Ok(()),
        Status::Revoked => Err(No::refused(Reason::Revoked, "OCSP: revoked")),
        Status::Unknown => Err(No::refused(
            Reason::UnknownCa,
            "OCSP: the responder does not know the certificate",
        )),
    }
}

/// The first address of a responder in a certificate that can be asked here.
fn responder_of(leaf: &X509Certificate<'_>) -> Option<String> {
    let access =
        leaf.extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityInfoAccess(access) => Some(access),
                _ => None,
            })?;
    access
        .accessdescs
        .iter()
        .find_map(|way| match &way.access_location {
            GeneralName::URI(address)
                if way.access_method.to_id_string() == OCSP_ACCESS && is_address(address) =>
            {
                Some((*address).to_owned())
            }
            _ => None,
        })
}

/// Whether a text is an address that is asked: plain HTTP, since the response is signed.
pub(super) fn is_address(text: &str) -> bool {
    text.len() <= LONGEST_ADDRESS
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && text
            .strip_prefix("http://")
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

/// A key, as signatures need it.
struct PublicKey<'a> {
    /// The content of the algorithm's identifier.
    algorithm: &'a [u8],
    /// The content of the bit string.
    bits: &'a [u8],
}

impl<'a> PublicKey<'a> {
    fn of(certificate: &'a X509Certificate<'a>) -> Option<Self> {
        let mut info = Reader::new(certificate.public_key().raw).within(SEQUENCE)?;
        let algorithm = info.value(SEQUENCE)?;
        let bits = whole_octets(info.value(BIT_STRING)?)?;
        Some(Self { algorithm, bits })
    }

    fn has_signed(&self, response: &Response<'_>) -> bool {
        webpki::ALL_VERIFICATION_ALGS.iter().any(|algorithm| {
            *algorithm.signature_alg_id() == *response.algorithm
                && *algorithm.public_key_alg_id() == *self.algorithm
                && algorithm
                    .verify_signature(self.bits, response.signed, response.signature)
                    .is_ok()
        })
    }

    fn is(&self, name: &[u8], responder: &Responder<'_>) -> bool {
        match responder {
            Responder::Name(said) => *said == name,
            Responder::Key(hash) => *hash == crypto::sha1(self.bits),
        }
    }
}

/// What a response must be about, and by whom.
struct Judge<'a> {
    identity: &'a Identity<'a>,
    issuer: &'a CertificateDer<'a>,
    key: &'a PublicKey<'a>,
    time: u64,
    skew: u64,
}

impl Judge<'_> {
    /// What a response says; the nonce it is to have, and whether it must.
    //= spec/builtin.md#ocsp-response
    fn said(&self, bytes: &[u8], nonce: Option<(&[u8], bool)>) -> Result<Said, &'static str> {
        let response = message::read(bytes).map_err(|nothing| match nothing {
            Nothing::Malformed => "no OCSP response",
            Nothing::Error(1) => "malformedRequest",
            Nothing::Error(2) => "internalError",
            Nothing::Error(3) => "tryLater",
            Nothing::Error(5) => "sigRequired",
            Nothing::Error(6) => "unauthorized",
            Nothing::Error(_) => "an error without a name",
        })?;
        match (nonce, response.nonce) {
            (Some((asked, _)), Some(answered)) if asked != answered => return Err("wrong nonce"),
            (Some((_, true)), None) => return Err("no nonce"),
            _ => {}
        }
        let single = response
            .singles
            .iter()
            .find(|single| single.is_of(self.identity));
        let single = single.ok_or("says nothing of the certificate")?;
        if single.this_update > self.time.saturating_add(self.skew) {
            return Err("from the future");
        }
        // Without a next update there is always something newer.
        let until = single.next_update.unwrap_or(single.this_update);
        if until < self.time.saturating_sub(self.skew) {
            return Err("out of date");
        }
        match self.is_signed(&response) {
            true => Ok((single.status, single.next_update)),
            false => Err("not signed by the issuer, or by one it has named for that"),
        }
    }

    //= spec/builtin.md#ocsp-signer
    fn is_signed(&self, response: &Response<'_>) -> bool {
        if self.key.is(self.identity.name, &response.responder) {
            return self.key.has_signed(response);
        }
        let mut certificates = response.certificates.iter();
        certificates.any(|certificate| {
            let Ok(([], read)) = X509Certificate::from_der(certificate) else {
                return false;
            };
            let Some(key) = PublicKey::of(&read) else {
                return false;
            };
            key.is(read.subject().as_raw(), &response.responder)
                && self.has_named(certificate)
                && key.has_signed(response)
        })
    }

    /// Whether the issuer itself has issued this certificate, for signing responses.
    fn has_named(&self, certificate: &[u8]) -> bool {
        let Ok(anchor) = webpki::anchor_from_trusted_cert(self.issuer) else {
            return false;
        };
        let certificate = CertificateDer::from(certificate);
        let Ok(signer) = EndEntityCert::try_from(&certificate) else {
            return false;
        };
        let anchors = [anchor];
        let now = UnixTime::since_unix_epoch(Duration::from_secs(self.time));
        let found = signer.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &[],
            now,
            KeyUsage::required(OCSP_SIGNING),
            None,
            None,
        );
        found.is_ok()
    }
}
