//! The path from a leaf to an anchor, by webpki, and what webpki leaves to its callers: key usages
//! of issuers and leaf, the worth of anchors, the limit of the path, bounds on the search.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::exit::{Reason, Role};

use super::No;
use super::configuration::{Mistake, read_bounded};

/// Certificates a question has at most.
const MOST: usize = 16;
/// Different certificates above the leaf with one subject: each is a way to go on, and the ways
/// multiply.
const NAMESAKES: usize = 3;
/// Bytes of the largest file of anchors.
const LARGEST: u64 = 1 << 20;
/// Anchors at most.
const ANCHORS: usize = 256;

/// An authority that is trusted.
struct Anchor {
    certificate: CertificateDer<'static>,
    trust: TrustAnchor<'static>,
    /// Seconds since 1970, first and last.
    valid: (i64, i64),
    /// Whether it may sign certificates.
    authority: bool,
}

/// The authorities that are trusted, and the longest path to one of them.
pub(super) struct Paths {
    anchors: Vec<Anchor>,
    trust: Vec<TrustAnchor<'static>>,
    limit: usize,
}

/// Lists of revoked certificates, and whether each issuer must have one.
pub(super) struct Revocation<'a> {
    pub(super) lists: &'a [&'a CertRevocationList<'a>],
    pub(super) required: bool,
}

impl Paths {
    pub(super) fn read(files: &[PathBuf], limit: usize) -> Result<Self, Mistake> {
        let mut anchors = Vec::new();
        for path in files {
            let bytes = read_bounded(path, LARGEST)?;
            let bad = || Mistake::Anchor(path.clone());
            let before = anchors.len();
            for certificate in CertificateDer::pem_slice_iter(&bytes) {
                let certificate = certificate.map_err(|_| bad())?;
                anchors.push(anchor(&certificate).ok_or_else(bad)?);
            }
            if anchors.len() == before {
                return Err(bad());
            }
        }
        if anchors.len() > ANCHORS {
            let files = files.first().map_or(Path::new(""), PathBuf::as_path);
            return Err(Mistake::Anchor(files.to_owned()));
        }
        let trust = anchors.iter().map(|anchor| anchor.trust.clone()).collect();
        Ok(Self {
            anchors,
            trust,
            limit,
        })
    }

    /// Finds a path; answers the certificate of the leaf's issuer.
    //= spec/builtin.md#path
    pub(super) fn find(
        &self,
        list: &[Vec<u8>],
        time: u64,
        role: Role,
        revocation: &Revocation<'_>,
    ) -> Result<CertificateDer<'static>, No> {
        let (leaf, others) = bounded(list)?;
        let leaf = EndEntityCert::try_from(&leaf).map_err(|error| no(&error))?;
        let (others, unread) = readable(others)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(time));
        let usage = match role {
            Role::Acceptor => KeyUsage::client_auth(),
            Role::Initiator => KeyUsage::server_auth(),
        };
        // What a path that is good for webpki is not good for here.
        let worse: RefCell<Option<No>> = RefCell::default();
        let judge = |path: &VerifiedPath<'_>| {
            self.judge(path, time).map_err(|no| {
                worse.borrow_mut().get_or_insert(no);
                Error::UnknownIssuer
            })
        };
        let options = RevocationOptionsBuilder::new(revocation.lists).ok();
        let options = options.map(|options| {
            let unknown = match revocation.required {
                true => UnknownStatusPolicy::Deny,
                false => UnknownStatusPolicy::Allow,
            };
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(unknown)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let found = leaf.verify_for_usage(
            algorithms,
            &self.trust,
            &others,
            now,
            usage,
            options,
            Some(&judge),
        );
        match found {
            Ok(path) => match path.intermediate_certificates().next() {
                Some(issuer) => Ok(issuer.der().into_owned()),
                None => {
                    let anchor = self.those_of(path.anchor()).next();
                    let anchor = anchor.ok_or_else(|| No::unanswered("the anchor is gone"))?;
                    Ok(anchor.certificate.clone())
                }
            },
            Err(error) => Err(match (worse.into_inner(), error, unread) {
                // There was a path, and this is all that is wrong with it.
                (Some(no), ..) => no,
                (None, Error::UnknownIssuer, Some(unread)) => no(&unread),
                (None, Error::UnknownIssuer, None) => unknown(&leaf, &others),
                (None, error, _) => no(&error),
            }),
        }
    }

    /// The anchors of one name and key: the same authority may be there with several validities.
    fn those_of<'a>(&'a self, trust: &TrustAnchor<'_>) -> impl Iterator<Item = &'a Anchor> {
        let (subject, key) = (
            trust.subject.to_vec(),
            trust.subject_public_key_info.to_vec(),
        );
        self.anchors.iter().filter(move |anchor| {
            *anchor.trust.subject == *subject && *anchor.trust.subject_public_key_info == *key
        })
    }

    fn judge(&self, path: &VerifiedPath<'_>, time: u64) -> Result<(), No> {
        let above = path.intermediate_certificates().count();
        if above + 1 > self.limit {
            let text = format!("{} certificates, and {} are allowed", above + 1, self.limit);
            return Err(No::refused(Reason::ChainTooLong, text));
        }
        if !may_sign(&path.end_entity().der(), KeyOf::Leaf)? {
            let text = "the leaf's key may not sign";
            return Err(No::refused(Reason::KeyUsageNotGranted, text));
        }
        for certificate in path.intermediate_certificates() {
            if !may_sign(&certificate.der(), KeyOf::Authority)? {
                let text = "an authority's key may not sign certificates";
                return Err(No::refused(Reason::KeyUsageNotGranted, text));
            }
        }
        let time = i64::try_from(time).unwrap_or(i64::MAX);
        let good =
            |anchor: &Anchor| anchor.authority && anchor.valid.0 <= time && time <= anchor.valid.1;
        match self.those_of(path.anchor()).any(good) {
            true => Ok(()),
            false => Err(No::refused(
                Reason::InvalidRoot,
                "the anchor is out of its validity, or no authority",
            )),
        }
    }
}

fn anchor(certificate: &CertificateDer<'_>) -> Option<Anchor> {
    let trust = webpki::anchor_from_trusted_cert(certificate)
        .ok()?
        .to_owned();
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    let constraints = read.basic_constraints().ok()?;
    let usage = read.key_usage().ok()?;
    // Before version 3 a certificate could not say that it is an authority's.
    let authority = match constraints {
        Some(constraints) => constraints.value.ca,
        None => read.version().0 < 2,
    } && usage.is_none_or(|usage| usage.value.key_cert_sign());
    let valid = (
        read.validity().not_before.timestamp(),
        read.validity().not_after.timestamp(),
    );
    Some(Anchor {
        certificate: certificate.clone().into_owned(),
        trust,
        valid,
        authority,
    })
}

/// The leaf, and the others, each once.
//= spec/builtin.md#bounds
fn bounded(list: &[Vec<u8>]) -> Result<(CertificateDer<'_>, Vec<CertificateDer<'_>>), No> {
    let Some((leaf, rest)) = list.split_first() else {
        return Err(No::unanswered("no certificate in the question"));
    };
    if list.len() > MOST {
        let text = format!("{} certificates, and {MOST} are looked at", list.len());
        return Err(No::refused(Reason::ChainTooLong, text));
    }
    let mut others: Vec<CertificateDer<'_>> = Vec::new();
    for certificate in rest {
        if certificate != leaf && !others.iter().any(|other| **other == **certificate) {
            others.push(certificate.as_slice().into());
        }
    }
    Ok((leaf.as_slice().into(), others))
}

/// Those that can be read, and why the first one cannot that cannot.
fn readable(
    certificates: Vec<CertificateDer<'_>>,
) -> Result<(Vec<CertificateDer<'_>>, Option<Error>), No> {
    let (mut good, mut unread) = (Vec::new(), None);
    let mut subjects: Vec<Vec<u8>> = Vec::new();
    for certificate in certificates {
        match EndEntityCert::try_from(&certificate) {
            Ok(read) => subjects.push(read.subject().to_vec()),
            Err(error) => {
                unread.get_or_insert(error);
                continue;
            }
        }
        good.push(certificate);
    }
    let namesakes = |subject: &Vec<u8>| subjects.iter().filter(|other| *other == subject).count();
    match subjects
        .iter()
        .any(|subject| namesakes(subject) > NAMESAKES)
    {
        true => Err(No::refused(
            Reason::ChainTooLong,
            format!("more than {NAMESAKES} certificates of one authority"),
        )),
        false => Ok((good, unread)),
    }
}

#[derive(Clone, Copy)]
enum KeyOf {
    Leaf,
    Authority,
}

/// Whether a certificate's key usage, if it has one, has what its place needs.
fn may_sign(certificate: &[u8], key: KeyOf) -> Result<bool, No> {
    let unread = || No::refused(Reason::DecodingError, "a key usage that cannot be read");
    let (_, read) = X509Certificate::from_der(certificate).map_err(|_| unread())?;
    let usage = read.key_usage().map_err(|_| unread())?;
    Ok(usage.is_none_or(|usage| match key {
        KeyOf::Leaf => usage.value.digital_signature(),
        KeyOf::Authority => usage.value.key_cert_sign(),
    }))
}

/// No path leads to an anchor: whether one leads to a root nobody trusts.
fn unknown(leaf: &EndEntityCert<'_>, others: &[CertificateDer<'_>]) -> No {
    let others: Vec<EndEntityCert<'_>> = others
        .iter()
        .filter_map(|certificate| EndEntityCert::try_from(certificate).ok())
        .collect();
    let mut at = leaf;
    for _ in 0..=others.len() {
        if at.issuer() == at.subject() {
            let text = "the root is none that is trusted";
            return No::refused(Reason::InvalidRoot, text);
        }
        match others.iter().find(|other| other.subject() == at.issuer()) {
            Some(issuer) => at = issuer,
            None => break,
        }
    }
    No::refused(Reason::UnknownCa, "no path leads to an anchor")
}

/// What webpki's word is here.
//= spec/builtin.md#refusals
fn no(error: &Error) -> No {
    let reason = match error {
        Error::CertExpired { .. } => Reason::Expired,
        Error::CertNotValidYet { .. } => Reason::NotYetValid,
        Error::CertRevoked => Reason::Revoked,
        Error::InvalidSignatureForPublicKey | Error::SignatureAlgorithmMismatch => {
            Reason::BadSignature
        }
        #[allow(deprecated, reason = "a later webpki may still make it")]
        Error::RequiredEkuNotFound => Reason::KeyUsageNotGranted,
        Error::RequiredEkuNotFoundContext(_)
        | Error::EmptyEkuExtension
        | Error::CaUsedAsEndEntity
        | Error::EndEntityUsedAsCa
        | Error::NameConstraintViolation => Reason::KeyUsageNotGranted,
        Error::PathLenConstraintViolated
        | Error::MaximumPathDepthExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumSignatureChecksExceeded
        | Error::MaximumNameConstraintComparisonsExceeded => Reason::ChainTooLong,
        Error::UnknownIssuer | Error::CertDistrusted => Reason::UnknownCa,
        Error::CertNotValidForName(_) => Reason::NoMatchingTemplate,
        // A list that does not count is no answer.
        Error::UnknownRevocationStatus
        | Error::CrlExpired { .. }
        | Error::InvalidCrlNumber
        | Error::InvalidCrlSignatureForPublicKey
        | Error::IssuerNotCrlSigner
        | Error::UnsupportedCrlIssuingDistributionPoint
        | Error::UnsupportedCrlVersion
        | Error::UnsupportedDeltaCrl
        | Error::UnsupportedIndirectCrl
        | Error::UnsupportedRevocationReason
        | Error::UnsupportedRevocationReasonsPartitioning
        | Error::UnsupportedCrlSignatureAlgorithmContext(_)
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
            return No::unanswered(format!("revocation lists: {}", word(error)));
        }
        Error::UnsupportedCertVersion
        | Error::UnsupportedCriticalExtension
        | Error::UnsupportedNameType
        | Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Reason::Unsupported,
        _ => Reason::DecodingError,
    };
    No::refused(reason, word(error))
}

/// webpki's name for an error, without what stands in the certificates.
fn word(error: &Error) -> String {
    let text = format!("{error:?}");
    let end = text.find(|c: char| !c.is_ascii_alphanumeric());
    text[..end.unwrap_or(text.len())].to_owned()
}

/// Whether a leaf is for a server.
pub(super) fn is_for(leaf: &[u8], server: &rustls_pki_types::ServerName<'_>) -> Result<(), No> {
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|error| no(&error))?;
    leaf.verify_is_valid_for_subject_name(server)
        .map_err(|error| no(&error))
}
