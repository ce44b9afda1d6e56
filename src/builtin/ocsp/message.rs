//! OCSP requests and responses (RFC 6960): bytes in, bytes out.
//!
//! Invariant: a response that is read is whole and strict DER, and has no critical extension that is
//! not known here; nothing is said yet about who signed it.

use super::der::{
    BIT_STRING, BOOLEAN, ENUMERATED, GENERALIZED_TIME, INTEGER, NULL, OBJECT_IDENTIFIER,
    OCTET_STRING, Reader, SEQUENCE, around, seconds, write,
};
use crate::crypto;

/// 1.3.14.3.2.26 and 2.16.840.1.101.3.4.2.1.
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
/// id-pkix-ocsp-basic and id-pkix-ocsp-nonce.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const NONCE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2];
/// Certificates of a response that are looked at.
const CERTIFICATES: usize = 8;

/// Of which certificate the status is asked: who has issued it, and its number.
pub(super) struct Identity<'a> {
    /// The issuer's name, DER.
    pub(super) name: &'a [u8],
    /// The issuer's key: the content of the bit string.
    pub(super) key: &'a [u8],
    /// The content of the integer.
    pub(super) serial: &'a [u8],
}

impl Identity<'_> {
    /// As responders are asked: with SHA-1, which names the issuer and proves nothing.
    fn written(&self) -> Vec<u8> {
        let algorithm = write(
            SEQUENCE,
            &[&write(OBJECT_IDENTIFIER, &[SHA1]), &write(NULL, &[])],
        );
        write(
            SEQUENCE,
            &[
                &algorithm,
                &write(OCTET_STRING, &[&crypto::sha1(self.name)]),
                &write(OCTET_STRING, &[&crypto::sha1(self.key)]),
                &write(INTEGER, &[self.serial]),
            ],
        )
    }

    /// A request for the status, with or without a nonce.
    //= spec/builtin.md#ocsp-request
    pub(super) fn request(&self, nonce: Option<&[u8]>) -> Vec<u8> {
        let list = write(SEQUENCE, &[&write(SEQUENCE, &[&self.written()])]);
        let extensions = nonce.map(|nonce| {
            let value = write(OCTET_STRING, &[&write(OCTET_STRING, &[nonce])]);
            let extension = write(SEQUENCE, &[&write(OBJECT_IDENTIFIER, &[NONCE]), &value]);
            write(around(2), &[&write(SEQUENCE, &[&extension])])
        });
        let extensions = extensions.unwrap_or_default();
        write(SEQUENCE, &[&write(SEQUENCE, &[&list, &extensions])])
    }

    fn is(&self, mut other: Reader<'_>) -> Option<bool> {
        let mut algorithm = other.within(SEQUENCE)?;
        let hash = algorithm.value(OBJECT_IDENTIFIER)?;
        if !algorithm.is_empty() && !algorithm.value(NULL)?.is_empty() {
            return None;
        }
        algorithm.end()?;
        let (name, key) = (other.value(OCTET_STRING)?, other.value(OCTET_STRING)?);
        let serial = other.value(INTEGER)?;
        other.end()?;
        let named = match hash {
            SHA1 => name == crypto::sha1(self.name) && key == crypto::sha1(self.key),
            SHA256 => name == crypto::sha256(&[self.name]) && key == crypto::sha256(&[self.key]),
            _ => false,
        };
        Some(named && serial == self.serial)
    }
}

/// What a responder says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Good,
    Revoked,
    Unknown,
}

/// Who says that he has signed.
pub(super) enum Responder<'a> {
    /// A name, DER.
    Name(&'a [u8]),
    /// The SHA-1 of his key.
    Key(&'a [u8]),
}

/// What is said of one certificate.
pub(super) struct Single<'a> {
    identity: Reader<'a>,
    pub(super) status: Status,
    /// Seconds since 1970.
    pub(super) this_update: u64,
    pub(super) next_update: Option<u64>,
}

impl Single<'_> {
    pub(super) fn is_of(&self, identity: &Identity<'_>) -> bool {
        identity.is(self.identity) == Some(true)
    }
}

/// A response that says something.
pub(super) struct Response<'a> {
    /// What is signed.
    pub(super) signed: &'a [u8],
    /// The content of the algorithm's identifier.
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    pub(super) certificates: Vec<&'a [u8]>,
    pub(super) responder: Responder<'a>,
    pub(super) singles: Vec<Single<'a>>,
    pub(super) nonce: Option<&'a [u8]>,
}

/// Why there is nothing to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    /// It cannot be read.
    Malformed,
    /// The responder has no answer; its word for why.
    Error(u8),
}

//= spec/builtin.md#ocsp-response
pub(super) fn read(bytes: &[u8]) -> Result<Response<'_>, Nothing> {
    let mut outer = Reader::new(bytes);
    let head = (|| {
        let mut response = outer.within(SEQUENCE)?;
        outer.end()?;
        let [status] = *response.value(ENUMERATED)? else {
            return None;
        };
        Some((status, response))
    })();
    match head.ok_or(Nothing::Malformed)? {
        (0, response) => successful(response).ok_or(Nothing::Malformed),
        (status, _) => Err(Nothing::Error(status)),
    }
}

fn successful(mut response: Reader<'_>) -> Option<Response<'_>> {
    let mut typed = Reader::new(response.alone(around(0), SEQUENCE)?);
    response.end()?;
    if typed.value(OBJECT_IDENTIFIER)? != BASIC {
        return None;
    }
    let mut basic = Reader::new(typed.value(OCTET_STRING)?);
    typed.end()?;
    let mut parts = basic.within(SEQUENCE)?;
    basic.end()?;
    let (data, signed) = parts.whole(SEQUENCE)?;
    let algorithm = parts.value(SEQUENCE)?;
    let signature = whole_octets(parts.value(BIT_STRING)?)?;
    let mut certificates = Vec::new();
    if let Some(mut around) = parts.maybe(around(0))? {
        let mut list = around.within(SEQUENCE)?;
        around.end()?;
        while !list.is_empty() {
            certificates.push(list.whole(SEQUENCE)?.1);
        }
        certificates.truncate(CERTIFICATES);
    }
    parts.end()?;

    let mut data = Reader::new(data);
    if let Some(mut version) = data.maybe(around(0))? {
        if version.value(INTEGER)? != [0] {
            return None;
        }
        version.end()?;
    }
    let responder = match data.tag()? {
        0xa1 => {
            let mut around = data.within(around(1))?;
            let (_, name) = around.whole(SEQUENCE)?;
            around.end()?;
            Responder::Name(name)
        }
        _ => Responder::Key(data.alone(around(2), OCTET_STRING)?),
    };
    seconds(data.value(GENERALIZED_TIME)?)?;
    let mut list = data.within(SEQUENCE)?;
    let mut singles = Vec::new();
    while !list.is_empty() {
        singles.push(single(list.within(SEQUENCE)?)?);
    }
    let nonce = extensions(data.maybe(around(1))?)?;
    data.end()?;
    Some(Response {
        signed,
        algorithm,
        signature,
        certificates,
        responder,
        singles,
        nonce,
    })
}

fn single(mut single: Reader<'_>) -> Option<Single<'_>> {
    let identity = single.within(SEQUENCE)?;
    let status = match single.tag()? {
        0x80 if single.value(0x80)?.is_empty() => Status::Good,
        0xa1 => {
            let mut revoked = single.within(0xa1)?;
            seconds(revoked.value(GENERALIZED_TIME)?)?;
            if let Some(mut reason) = revoked.maybe(around(0))? {
                reason.value(ENUMERATED)?;
                reason.end()?;
            }
            revoked.end()?;
            Status::Revoked
        }
        0x82 if single.value(0x82)?.is_empty() => Status::Unknown,
        _ => return None,
    };
    let this_update = seconds(single.value(GENERALIZED_TIME)?)?;
    let next_update = match single.maybe(around(0))? {
        Some(mut around) => {
            let time = seconds(around.value(GENERALIZED_TIME)?)?;
            around.end()?;
            Some(time)
        }
        None => None,
    };
    extensions(single.maybe(around(1))?)?;
    single.end()?;
    Some(Single {
        identity,
        status,
        this_update,
        next_update,
    })
}

/// Reads extensions; answers the nonce among them. None where one is critical that is not known.
#[allow(
    clippy::option_option,
    reason = "not there, and a defect, are two things"
)]
fn extensions(list: Option<Reader<'_>>) -> Option<Option<&[u8]>> {
    let mut nonce = None;
    let Some(mut around) = list else {
        return Some(None);
    };
    let mut list = around.within(SEQUENCE)?;
    around.end()?;
    while !list.is_empty() {
        let mut extension = list.within(SEQUENCE)?;
        let kind = extension.value(OBJECT_IDENTIFIER)?;
        let critical = extension.tag() == Some(BOOLEAN);
        // False is never written: it is what is not there.
        if critical && extension.value(BOOLEAN)? != [0xff] {
            return None;
        }
        let mut value = Reader::new(extension.value(OCTET_STRING)?);
        extension.end()?;
        match kind {
            NONCE if nonce.is_some() => return None,
            NONCE => {
                nonce = Some(value.value(OCTET_STRING)?);
                value.end()?;
            }
            _ if critical => return None,
            _ => {}
        }
    }
    Some(nonce)
}

/// The octets of a bit string that has whole ones.
pub(super) fn whole_octets(content: &[u8]) -> Option<&[u8]> {
    match content.split_first()? {
        (0, octets) => Some(octets),
        _ => None,
    }
}
