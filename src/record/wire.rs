//! Code points and sizes of RFC 8446 that a record can show.

use core::fmt;

/// Bytes of a record's header.
pub const HEADER: usize = 5;
/// Most bytes of content in one record.
pub const MAX_CONTENT: usize = 1 << 14;
/// Most bytes a header may announce: content, type, padding and tag together.
pub(super) const MAX_LENGTH: usize = MAX_CONTENT + 256;
/// Most bytes of content, type and padding.
pub(super) const MAX_INNER: usize = MAX_CONTENT + 1;

/// The first three bytes of every record this side sends: application data, TLS 1.2 for old eyes.
pub(super) const PROTECTED: [u8; 3] = [APPLICATION_DATA, 3, 3];

pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

pub(super) const NEW_SESSION_TICKET: u8 = 4;
pub(super) const KEY_UPDATE: u8 = 24;
/// Bytes in front of a handshake message's body: type and length.
pub(super) const MESSAGE_HEADER: usize = 4;
/// Most bytes of a handshake message's body.
pub(super) const MAX_MESSAGE: usize = 65_535;

/// An alert's description (RFC 8446 section 6), known or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Alert(pub u8);

macro_rules! alerts {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        impl Alert {
            $(#[doc = concat!("`", $text, "`.")] pub const $name: Self = Self($code);)*

            /// The RFC's name; "unknown" for a code it does not have.
            pub const fn name(self) -> &'static str {
                match self.0 { $($code => $text,)* _ => "unknown" }
            }
        }
    };
}

alerts! {
    CLOSE_NOTIFY = 0, "close_notify";
    UNEXPECTED_MESSAGE = 10, "unexpected_message";
    BAD_RECORD_MAC = 20, "bad_record_mac";
    RECORD_OVERFLOW = 22, "record_overflow";
    HANDSHAKE_FAILURE = 40, "handshake_failure";
    BAD_CERTIFICATE = 42, "bad_certificate";
    UNSUPPORTED_CERTIFICATE = 43, "unsupported_certificate";
    CERTIFICATE_REVOKED = 44, "certificate_revoked";
    CERTIFICATE_EXPIRED = 45, "certificate_expired";
    CERTIFICATE_UNKNOWN = 46, "certificate_unknown";
    ILLEGAL_PARAMETER = 47, "illegal_parameter";
    UNKNOWN_CA = 48, "unknown_ca";
    ACCESS_DENIED = 49, "access_denied";
    DECODE_ERROR = 50, "decode_error";
    DECRYPT_ERROR = 51, "decrypt_error";
    PROTOCOL_VERSION = 70, "protocol_version";
    INSUFFICIENT_SECURITY = 71, "insufficient_security";
    INTERNAL_ERROR = 80, "internal_error";
    INAPPROPRIATE_FALLBACK = 86, "inappropriate_fallback";
    USER_CANCELED = 90, "user_canceled";
    MISSING_EXTENSION = 109, "missing_extension";
    UNSUPPORTED_EXTENSION = 110, "unsupported_extension";
    UNRECOGNIZED_NAME = 112, "unrecognized_name";
    BAD_CERTIFICATE_STATUS_RESPONSE = 113, "bad_certificate_status_response";
    UNKNOWN_PSK_IDENTITY = 115, "unknown_psk_identity";
    CERTIFICATE_REQUIRED = 116, "certificate_required";
    NO_APPLICATION_PROTOCOL = 120, "no_application_protocol";
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// What the front of the input says about the record that begins there.
pub(super) enum Front {
    /// So many bytes of header are missing.
    Incomplete(usize),
    /// The whole record, header included, is so long.
    Record(usize),
}

/// Reads a record's header, as far as it is there.
#[inline]
pub(super) fn front(input: &[u8]) -> Result<Front, super::Error> {
    match *input {
        //= spec/records.md#outer-type
        [kind, ..] if kind != APPLICATION_DATA => Err(super::Error::Unexpected),
        [_, _, _, high, low, ..] => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            //= spec/records.md#length
            if length > MAX_LENGTH {
                Err(super::Error::Overflow)
            } else {
                Ok(Front::Record(HEADER + length))
            }
        }
        _ => Ok(Front::Incomplete(HEADER - input.len())),
    }
}

/// Finds the content type behind the content: answers it and the content's length.
///
/// Eight zeros at a time: the padding of a record is the peer's choice, up to all of it.
#[inline]
pub(super) fn content(inner: &[u8]) -> Option<(u8, usize)> {
    let mut end = inner.len();
    while let Some(eight) = inner[..end].last_chunk::<8>()
        && u64::from_ne_bytes(*eight) == 0
    {
        end -= 8;
    }
    let at = inner[..end].iter().rposition(|byte| *byte != 0)?;
    Some((inner[at], at))
}

/// Whether `body` has the shape of a NewSessionTicket (RFC 8446 4.6.1): lifetime 4, age_add 4,
/// nonce <0..255>, ticket <1..2^16-1>, extensions <0..2^16-2>, and nothing behind.
pub(super) fn is_ticket(body: &[u8]) -> bool {
    fn skip(bytes: &[u8], width: usize, least: usize) -> Option<&[u8]> {
        let length = bytes
            .get(..width)?
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if length < least {
            None
        } else {
            bytes.get(width + length..)
        }
    }
    body.get(8..)
        .and_then(|rest| skip(rest, 1, 0))
        .and_then(|rest| skip(rest, 2, 1))
        .and_then(|rest| skip(rest, 2, 0))
        .is_some_and(<[u8]>::is_empty)
}
