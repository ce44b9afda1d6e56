//! The header of the initial context token (RFC 2743 3.1).

use crate::name::MECHANISM;
use crate::status::Minor;
use crate::tls::Error;

const MALFORMED: Error = Error::new(
    Minor::ContextTokenMalformed,
    "the initial token has no header",
);

/// Puts the header before a first flight (at most 2^16 bytes).
//= spec/mechanism.md#header
pub(super) fn wrap(flight: &[u8]) -> Vec<u8> {
    let oid = [&[0x06, MECHANISM.len() as u8][..], &MECHANISM].concat();
    let length = (oid.len() + flight.len()) as u32;
    let bytes = length.to_be_bytes();
    let (count, length): (Option<u8>, &[u8]) = match length {
        0..=0x7f => (None, &bytes[3..]),
        0x80..=0xff => (Some(0x81), &bytes[3..]),
        0x100..=0xffff => (Some(0x82), &bytes[2..]),
        _ => (Some(0x83), &bytes[1..]),
    };
    let mut token = vec![0x60];
    token.extend(count);
    for part in [length, &oid, flight] {
        token.extend_from_slice(part);
    }
    token
}

/// Takes the header off.
//= spec/mechanism.md#header
pub(super) fn unwrap(token: &[u8]) -> Result<&[u8], Error> {
    let [0x60, first, rest @ ..] = token else {
        return Err(MALFORMED);
    };
    let (length, rest) = match *first {
        short @ ..=0x7f => (usize::from(short), rest),
        count @ 0x81..=0x83 => {
            let (bytes, rest) = rest
                .split_at_checked(usize::from(count - 0x80))
                .ok_or(MALFORMED)?;
            let length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            // The shortest form, and no other.
            let least = [0, 0x80, 0x100, 0x1_0000][bytes.len()];
            if length < least {
                return Err(MALFORMED);
            }
            (length, rest)
        }
        _ => return Err(MALFORMED),
    };
    let [0x06, oid_length, body @ ..] = rest else {
        return Err(MALFORMED);
    };
    // No OID in use is 128 bytes long.
    if length != rest.len() || *oid_length >= 0x80 {
        return Err(MALFORMED);
    }
    let (oid, flight) = body
        .split_at_checked(usize::from(*oid_length))
        .ok_or(MALFORMED)?;
    if oid != MECHANISM {
        return Err(Error::new(
            Minor::MechanismUnknown,
            "the initial token is another mechanism's",
        ));
    }
    Ok(flight)
}
