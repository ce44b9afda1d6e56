//! The subject of a certificate, attribute by attribute, as templates see it.
//!
//! Invariant: what is there as text is whole, without control characters, and at most 1024
//! characters; all else has none.

use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Characters of the longest value that is compared.
const LONGEST: usize = 1024;

/// One attribute.
pub(super) struct Attribute {
    /// The bytes of its type's object identifier.
    pub(super) kind: Vec<u8>,
    /// Its characters, where it is a text that can be compared.
    pub(super) text: Option<Vec<char>>,
}

/// The attributes of a certificate's subject in the order of RFC 4514: the last first, those of one
/// multi-valued name as they stand. None where the certificate cannot be read.
pub(super) fn attributes(certificate: &[u8]) -> Option<Vec<Attribute>> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let names: Vec<_> = certificate.subject().iter().collect();
    let attributes = names.iter().rev().flat_map(|name| name.iter());
    let read = attributes.map(|attribute| Attribute {
        kind: attribute.attr_type().as_bytes().to_vec(),
        text: text(attribute.attr_value()),
    });
    Some(read.collect())
}

//= spec/builtin.md#templates
fn text(value: &Any<'_>) -> Option<Vec<char>> {
    if value.header.is_constructed() {
        return None;
    }
    let bytes = value.data;
    // Four bytes are the most that one character takes.
    if bytes.len() > 4 * LONGEST {
        return None;
    }
    let text: Vec<char> = match value.tag() {
        Tag::Utf8String => core::str::from_utf8(bytes).ok()?.chars().collect(),
        Tag::PrintableString
        | Tag::NumericString
        | Tag::Ia5String
        | Tag::VisibleString
        | Tag::T61String => match bytes.is_ascii() {
            true => bytes.iter().map(|byte| char::from(*byte)).collect(),
            false => return None,
        },
        Tag::BmpString => units(bytes, |unit: [u8; 2]| u16::from_be_bytes(unit).into())?,
        Tag::UniversalString => units(bytes, u32::from_be_bytes)?,
        _ => return None,
    };
    let fine = text.len() <= LONGEST && !text.iter().any(|character| character.is_control());
    fine.then_some(text)
}

/// Characters of a fixed number of bytes. A surrogate is none.
fn units<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> u32) -> Option<Vec<char>> {
    let (units, []) = bytes.as_chunks::<N>() else {
        return None;
    };
    let characters = units.iter().map(|unit| char::from_u32(number(*unit)));
    characters.collect()
}
