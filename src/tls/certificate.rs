//! What is read off a certificate besides what the verification needs.

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::RsaSsaPssParams;

use crate::crypto::{Suite, sha256};

/// The seconds since 1970 between which a certificate is valid, both included; none when it
/// cannot be read. Times before 1970 count as 1970.
pub(crate) fn validity(der: &[u8]) -> Option<(u64, u64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let validity = certificate.validity();
    Some((
        seconds(validity.not_before.timestamp()),
        seconds(validity.not_after.timestamp()),
    ))
}

/// `tls-server-end-point` (RFC 5929 4.1): the certificate's hash by the hash of its own
/// signature, SHA-256 in place of MD5 and SHA-1. None for signatures that have no such hash
/// (Ed25519), for which the binding is undefined.
//= spec/mechanism.md#end-point
pub(crate) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let algorithm = &certificate.signature_algorithm;
    let pss;
    let oid = match algorithm.algorithm.as_bytes() {
        RSA_PSS => {
            pss = RsaSsaPssParams::try_from(algorithm.parameters.as_ref()?).ok()?;
            pss.hash_algorithm_oid().as_bytes().to_vec()
        }
        other => other.to_vec(),
    };
    let hash = HASHES.iter().find(|(known, _)| *known == oid)?.1;
    Some(match hash {
        Hash::Sha256 => sha256(&[der]).to_vec(),
        Hash::Sha384 => Suite::Aes256Gcm.hash(der).as_ref().to_vec(),
        Hash::Sha512 => super::key::sha512(der),
    })
}

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// RSASSA-PSS (RFC 8017 C): its hash stands in its parameters.
const RSA_PSS: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";

/// Signature and hash algorithms, by the content of their object identifiers.
const HASHES: &[(&[u8], Hash)] = &[
    // RSA PKCS #1 1.5 with MD5, SHA-1, SHA-256, SHA-384, SHA-512
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", Hash::Sha256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", Hash::Sha256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", Hash::Sha256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c", Hash::Sha384),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", Hash::Sha512),
    // ECDSA with SHA-1, SHA-256, SHA-384, SHA-512
    (b"\x2a\x86\x48\xce\x3d\x04\x01", Hash::Sha256),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x02", Hash::Sha256),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x03", Hash::Sha384),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x04", Hash::Sha512),
    // The hashes themselves, as the parameters of RSASSA-PSS name them
    (b"\x2b\x0e\x03\x02\x1a", Hash::Sha256),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x01", Hash::Sha256),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x02", Hash::Sha384),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x03", Hash::Sha512),
];
