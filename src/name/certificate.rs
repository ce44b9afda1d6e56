//! Names of certificates: DER in, one readable line out.

use core::fmt::{self, Write};
use core::net::{Ipv4Addr, Ipv6Addr};

use x509_parser::asn1_rs::{Any, Oid, Tag, ToDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

use super::{Defect, Name, shows};

/// The identifier octets of the general names that can stand for a subject (RFC 5280 4.2.1.6).
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;
/// The identifier octet of a distinguished name.
const SEQUENCE: u8 = 0x30;

/// The DER that stands for a certificate's holder.
pub(super) fn subject(certificate: &[u8]) -> Result<Vec<u8>, Defect> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| Defect::Malformed)?;
    if certificate.subject().iter().next().is_some() {
        return Ok(certificate.subject().as_raw().to_vec());
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Defect::Malformed)?
        .ok_or(Defect::Malformed)?;
    let names = &names.value.general_names;
    names.iter().find_map(general).ok_or(Defect::Malformed)
}

fn general(name: &GeneralName<'_>) -> Option<Vec<u8>> {
    let (tag, value) = match name {
        GeneralName::RFC822Name(email) => (EMAIL, email.as_bytes()),
        GeneralName::DNSName(name) => (DNS, name.as_bytes()),
        GeneralName::URI(uri) => (URI, uri.as_bytes()),
        GeneralName::IPAddress(address) => (IP, *address),
        _ => return None,
    };
    let mut der = vec![tag];
    match value.len() {
        short @ ..=0x7f => der.push(short as u8),
        long @ ..=0xff => der.extend_from_slice(&[0x81, long as u8]),
        long => {
            der.push(0x82);
            der.extend_from_slice(&u16::try_from(long).ok()?.to_be_bytes());
        }
    }
    der.extend_from_slice(value);
    Some(der)
}

/// That the bytes are one subject, whole and not empty, and can be displayed.
pub(super) fn check(der: &[u8]) -> Result<&[u8], Defect> {
    if der.len() > Name::LIMIT {
        return Err(Defect::Malformed);
    }
    let mut shown = String::new();
    display(der, &mut shown).map_err(|_| Defect::Malformed)?;
    if shown.is_empty() {
        return Err(Defect::Malformed);
    }
    Ok(der)
}

/// Writes a subject as RFC 4514 does, last part first, or an alternative name after its type.
/// An error when the bytes are neither.
pub(super) fn display(der: &[u8], out: &mut impl Write) -> fmt::Result {
    match der.first() {
        Some(&SEQUENCE) => match X509Name::from_der(der) {
            Ok(([], name)) => distinguished(&name, out),
            _ => Err(fmt::Error),
        },
        Some(&tag @ (EMAIL | DNS | URI | IP)) => match Any::from_der(der) {
            Ok(([], any)) => alternative(tag, any.data, out),
            _ => Err(fmt::Error),
        },
        _ => Err(fmt::Error),
    }
}

fn alternative(tag: u8, value: &[u8], out: &mut impl Write) -> fmt::Result {
    if tag == IP {
        if let Ok(four) = <[u8; 4]>::try_from(value) {
            return write!(out, "IP:{}", Ipv4Addr::from(four));
        }
        let sixteen = <[u8; 16]>::try_from(value).map_err(|_| fmt::Error)?;
        return write!(out, "IP:{}", Ipv6Addr::from(sixteen));
    }
    let kind = match tag {
        EMAIL => "email",
        DNS => "DNS",
        _ => "URI",
    };
    let text = core::str::from_utf8(value).map_err(|_| fmt::Error)?;
    // IA5String; a space would look like the end of the name.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(fmt::Error);
    }
    write!(out, "{kind}:{text}")
}

fn distinguished(name: &X509Name<'_>, out: &mut impl Write) -> fmt::Result {
    let parts: Vec<_> = name.iter().collect();
    for (i, part) in parts.iter().rev().enumerate() {
        if i > 0 {
            out.write_char(',')?;
        }
        for (j, attribute) in part.iter().enumerate() {
            if j > 0 {
                out.write_char('+')?;
            }
            let (kind, value) = (attribute.attr_type(), attribute.attr_value());
            match (short(kind), text(value)) {
                (Some(short), Some(text)) => {
                    write!(out, "{short}=")?;
                    escape(text, out)?;
                }
                // RFC 4514 2.4: a type without a name, or a value that is no text, in hexadecimal.
                _ => hexadecimal(kind, value, out)?,
            }
        }
    }
    Ok(())
}

/// The names RFC 4514 section 3 gives to attribute types.
fn short(kind: &Oid<'_>) -> Option<&'static str> {
    Some(match kind.as_bytes() {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        [0x55, 4, 6] => "C",
        [0x55, 4, 9] => "STREET",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        _ => return None,
    })
}

fn text<'a>(value: &Any<'a>) -> Option<&'a str> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            core::str::from_utf8(value.data).ok()
        }
        _ => None,
    }
}

fn hexadecimal(kind: &Oid<'_>, value: &Any<'_>, out: &mut impl Write) -> fmt::Result {
    write!(out, "{}=#", kind.to_id_string())?;
    let der = value.to_der_vec().map_err(|_| fmt::Error)?;
    der.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

fn escape(text: &str, out: &mut impl Write) -> fmt::Result {
    let last = text.chars().count().saturating_sub(1);
    for (i, c) in text.chars().enumerate() {
        let edge = (i == 0 && matches!(c, ' ' | '#')) || (i == last && c == ' ');
        if edge || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            out.write_char('\\')?;
            out.write_char(c)?;
        } else if shows(c) {
            out.write_char(c)?;
        } else {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                write!(out, "\\{byte:02x}")?;
            }
        }
    }
    Ok(())
}
