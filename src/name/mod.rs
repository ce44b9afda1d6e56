//! Names (RFC 2743 section 4): of targets, of users, of certificates' subjects, of nobody.
//!
//! A [`Name`] is canonical from construction on: what RFC 2743 2.4.14 calls canonicalising happens
//! when it is imported, so that two names are the same principal exactly when their bytes are the
//! same, and a name can be written into a log or an access list as it stands.
//!
//! Invariants: at most [`Name::LIMIT`] bytes; no control character, no character that shows
//! nothing or turns the text around; every construction, from text, from an exported name or from
//! a token, goes through the same checks.

mod certificate;
#[cfg(test)]
mod tests;

use core::fmt;
use core::net::IpAddr;

use rustls_pki_types::{DnsName, ServerName};
use serde::{Deserialize, Serialize, Serializer};

use crate::status::{Minor, Status};

/// The mechanism's object identifier, 1.3.6.1.4.1.32473.1.1, without DER tag and length.
//= spec/mechanism.md#oid
pub const MECHANISM: [u8; 10] = [0x2b, 6, 1, 4, 1, 0x81, 0xfd, 0x59, 1, 1];

/// Why a name was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// The bytes are no name of their type.
    Malformed,
    /// There is no such type of name here.
    UnknownType,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Status::from(*self).minor().fmt(f)
    }
}

impl core::error::Error for Defect {}

impl From<Defect> for Status {
    fn from(defect: Defect) -> Self {
        match defect {
            Defect::Malformed => Minor::NameMalformed.into(),
            Defect::UnknownType => Minor::NameTypeUnknown.into(),
        }
    }
}

/// The type of a name. Its number stands in exported names and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// `service@host`, or `service` alone for any host (RFC 2743 4.1): whom an initiator asks for.
    HostBasedService = 1,
    /// A user's name, UTF-8 (RFC 2743 4.2).
    User = 2,
    /// Nobody who wants to be known (RFC 2743 4.5).
    Anonymous = 3,
    /// What a certificate certifies, DER: its subject, or when that is empty, the first subject
    /// alternative name that can stand for it.
    Certificate = 4,
}

impl Kind {
    /// The name type's object identifier, without DER tag and length: those of RFC 2743 section 4,
    /// and 1.3.6.1.4.1.32473.1.2 for certificates.
    pub const fn oid(self) -> &'static [u8] {
        match self {
            Self::HostBasedService => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 1, 4],
            Self::User => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 1, 1],
            Self::Anonymous => &[0x2b, 6, 1, 5, 6, 3],
            Self::Certificate => &[0x2b, 6, 1, 4, 1, 0x81, 0xfd, 0x59, 1, 2],
        }
    }

    /// The kind with this object identifier. The older one of host-based services
    /// (1.3.6.1.5.6.2) is known too.
    pub fn from_oid(oid: &[u8]) -> Option<Self> {
        const OLD_SERVICE: [u8; 6] = [0x2b, 6, 1, 5, 6, 2];
        let kinds = [
            Self::HostBasedService,
            Self::User,
            Self::Anonymous,
            Self::Certificate,
        ];
        if oid == OLD_SERVICE {
            return Some(Self::HostBasedService);
        }
        kinds.into_iter().find(|kind| kind.oid() == oid)
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::HostBasedService),
            2 => Some(Self::User),
            3 => Some(Self::Anonymous),
            4 => Some(Self::Certificate),
            _ => None,
        }
    }
}

/// A principal's name, canonical.
///
/// ```
/// use baton::name::Name;
/// let name = Name::host_based_service("imap@Mail.Example.COM.")?;
/// assert_eq!(name.to_string(), "imap@mail.example.com");
/// assert_eq!(Name::import_exported(&name.export())?, name);
/// # Ok::<(), baton::name::Defect>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Raw<'_>")]
pub struct Name {
    kind: Kind,
    #[serde(serialize_with = "bytes")]
    bytes: Vec<u8>,
}

fn bytes<S: Serializer>(bytes: &[u8], encoder: S) -> Result<S::Ok, S::Error> {
    encoder.serialize_bytes(bytes)
}

/// A name as it is decoded, not yet checked.
//= spec/mechanism.md#name-state
#[derive(Deserialize)]
struct Raw<'a> {
    kind: Kind,
    #[serde(borrow)]
    bytes: &'a [u8],
}

impl TryFrom<Raw<'_>> for Name {
    type Error = Defect;

    fn try_from(raw: Raw<'_>) -> Result<Self, Defect> {
        Self::canonical(raw.kind, raw.bytes)
    }
}

impl Name {
    /// The most bytes of a name.
    pub const LIMIT: usize = 1024;
    /// The most bytes of a user's name.
    pub const USER_LIMIT: usize = 256;
    /// The most bytes of a service's name.
    pub const SERVICE_LIMIT: usize = 63;

    /// Imports a name of the given kind (RFC 2743 2.4.5) and makes it canonical: host names are
    /// turned to lower case and lose a final dot, addresses are written in their shortest form.
    ///
    /// # Errors
    /// BAD_NAME when the bytes are none of that kind: empty, too long, not UTF-8, with control or
    /// invisible characters, with a host that is neither a DNS name in ASCII nor an IP address, or
    /// for [`Kind::Certificate`], anything but the DER of one subject.
    //= spec/mechanism.md#names
    pub fn import(kind: Kind, bytes: &[u8]) -> Result<Self, Defect> {
        let canonical = match kind {
            Kind::HostBasedService => service(text(bytes)?)?.into_bytes(),
            Kind::User => user(text(bytes)?)?.into(),
            Kind::Anonymous if bytes.is_empty() || bytes == ANONYMOUS.as_bytes() => Vec::new(),
            Kind::Anonymous => return Err(Defect::Malformed),
            Kind::Certificate => certificate::check(bytes)?.into(),
        };
        Ok(Self {
            kind,
            bytes: canonical,
        })
    }

    /// Takes bytes that are canonical already, and refuses others.
    fn canonical(kind: Kind, bytes: &[u8]) -> Result<Self, Defect> {
        let name = Self::import(kind, bytes)?;
        if name.bytes == bytes {
            Ok(name)
        } else {
            Err(Defect::Malformed)
        }
    }

    /// `service@host`, or `service`: see [`Name::import`].
    ///
    /// # Errors
    /// BAD_NAME, as [`Name::import`].
    pub fn host_based_service(text: &str) -> Result<Self, Defect> {
        Self::import(Kind::HostBasedService, text.as_bytes())
    }

    /// A user's name: see [`Name::import`]. It is compared byte for byte; one text in two Unicode
    /// normal forms is two names.
    ///
    /// # Errors
    /// BAD_NAME, as [`Name::import`].
    pub fn user(text: &str) -> Result<Self, Defect> {
        Self::import(Kind::User, text.as_bytes())
    }

    /// Nobody who wants to be known.
    pub const fn anonymous() -> Self {
        Self {
            kind: Kind::Anonymous,
            bytes: Vec::new(),
        }
    }

    /// What a certificate (DER) certifies: its subject, or when that is empty, its first
    /// subject alternative name that is an e-mail address, a DNS name, a URI or an IP address.
    ///
    /// # Errors
    /// BAD_NAME when it has neither, or one that is no [`Name::import`] takes.
    pub fn of_certificate(der: &[u8]) -> Result<Self, Defect> {
        Self::import(Kind::Certificate, &certificate::subject(der)?)
    }

    /// The type of the name.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The canonical bytes: text, or the DER of a subject; empty for nobody.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The service of a host-based service.
    pub fn service(&self) -> Option<&str> {
        Some(self.parts()?.0)
    }

    /// The host of a host-based service, a DNS name in lower case or an IP address.
    pub fn host(&self) -> Option<&str> {
        self.parts()?.1
    }

    /// The host of a host-based service, as a TLS client asks for it.
    pub fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.host()?.to_owned()).ok()
    }

    fn parts(&self) -> Option<(&str, Option<&str>)> {
        if self.kind != Kind::HostBasedService {
            return None;
        }
        let text = core::str::from_utf8(&self.bytes).ok()?;
        Some(match text.split_once('@') {
            Some((service, host)) => (service, Some(host)),
            None => (text, None),
        })
    }

    /// Whether both name the same principal (RFC 2743 2.4.3). Nobody is the same as nobody, not
    /// even as nobody else: two anonymous names never compare as equal.
    pub fn compare(&self, other: &Self) -> bool {
        self.kind != Kind::Anonymous && self == other
    }

    /// The exported form (RFC 2743 3.2), to be stored in access lists and compared there byte
    /// for byte: `04 01`, the length of the mechanism's OID with its DER header (2 bytes), the OID,
    /// the length of what follows (4 bytes), the kind's number, the canonical bytes.
    pub fn export(&self) -> Vec<u8> {
        //= spec/mechanism.md#exported-name
        let mut out = EXPORTED.to_vec();
        let length = self.bytes.len() as u32 + 1;
        out.extend_from_slice(&length.to_be_bytes());
        out.push(self.kind as u8);
        out.extend_from_slice(&self.bytes);
        out
    }

    /// Imports the exported form; only what [`Name::export`] writes is one.
    ///
    /// # Errors
    /// BAD_NAME; BAD_NAMETYPE for a name of another mechanism or of an unknown kind.
    pub fn import_exported(exported: &[u8]) -> Result<Self, Defect> {
        //= spec/mechanism.md#exported-name
        let [0x04, 0x01, rest @ ..] = exported else {
            return Err(Defect::Malformed);
        };
        let body = rest
            .strip_prefix(&EXPORTED[2..])
            .ok_or(Defect::UnknownType)?;
        let (length, body) = body.split_first_chunk::<4>().ok_or(Defect::Malformed)?;
        let (&kind, bytes) = body.split_first().ok_or(Defect::Malformed)?;
        if u32::from_be_bytes(*length) as usize != body.len() {
            return Err(Defect::Malformed);
        }
        Self::canonical(Kind::from_number(kind).ok_or(Defect::UnknownType)?, bytes)
    }
}

/// The name as RFC 2743 2.4.4 displays it: one line, without characters that could be taken for
/// something else. A certificate's subject is written as RFC 4514 does.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::HostBasedService | Kind::User => {
                f.write_str(core::str::from_utf8(&self.bytes).unwrap_or_default())
            }
            Kind::Anonymous => f.write_str(ANONYMOUS),
            Kind::Certificate => certificate::display(&self.bytes, f),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({:?}, {self})", self.kind)
    }
}

/// How nobody is displayed, and may be imported.
const ANONYMOUS: &str = "ANONYMOUS";

/// What every exported name of this mechanism begins with.
const EXPORTED: [u8; 16] = {
    let mut head = [0; 16];
    let oid = MECHANISM.len() as u8;
    (head[0], head[1], head[3], head[4], head[5]) = (4, 1, oid + 2, 6, oid);
    let mut i = 0;
    while i < MECHANISM.len() {
        head[6 + i] = MECHANISM[i];
        i += 1;
    }
    head
};

fn text(bytes: &[u8]) -> Result<&str, Defect> {
    core::str::from_utf8(bytes).map_err(|_| Defect::Malformed)
}

/// Whether a character may stand in a name that people read: not one that controls, shows
/// nothing, or turns the direction of what follows.
fn shows(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

fn user(text: &str) -> Result<&str, Defect> {
    let fits = (1..=Name::USER_LIMIT).contains(&text.len());
    if fits && text.trim() == text && text.chars().all(shows) {
        Ok(text)
    } else {
        Err(Defect::Malformed)
    }
}

fn service(text: &str) -> Result<String, Defect> {
    let (service, host) = match text.split_once('@') {
        Some((service, host)) => (service, Some(canonical_host(host)?)),
        None => (text, None),
    };
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let fits = (1..=Name::SERVICE_LIMIT).contains(&service.len());
    // A first letter or digit: a service's name may become a file's or an option's.
    let starts = service
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric);
    if !(fits && starts && service.bytes().all(letter)) {
        return Err(Defect::Malformed);
    }
    Ok(match host {
        Some(host) => format!("{service}@{host}"),
        None => service.to_owned(),
    })
}

fn canonical_host(host: &str) -> Result<String, Defect> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    match DnsName::try_from(host) {
        // A second final dot would be taken for the first.
        Ok(_) if !host.ends_with('.') => Ok(host.to_ascii_lowercase()),
        _ => Err(Defect::Malformed),
    }
}
