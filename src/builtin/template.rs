//! Templates of subjects: `CN=*.example.org,O=Exam?le`.
//!
//! Invariant: matching takes at most the product of the lengths of pattern and value, each at most
//! 1024 characters; what is no text fits nothing.

use core::fmt;
use core::str::FromStr;

use super::subject::{Attribute, attributes};

/// Bytes of the longest template.
const LONGEST: usize = 1024;
/// Parts of the longest template.
const PARTS: usize = 16;

/// Types by their names, upper and lower case alike, and the bytes of their object identifiers.
const TYPES: [(&str, &[u8]); 14] = [
    ("CN", &[0x55, 4, 3]),
    ("SN", &[0x55, 4, 4]),
    ("serialNumber", &[0x55, 4, 5]),
    ("C", &[0x55, 4, 6]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("STREET", &[0x55, 4, 9]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("GN", &[0x55, 4, 42]),
    (
        "DC",
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
    ),
    (
        "UID",
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1],
    ),
    ("emailAddress", EMAIL),
    ("E", EMAIL),
];
const EMAIL: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// More than 1024 bytes, or more than 16 parts.
    TooLong,
    /// A part has no `=`, or nothing before it; its number, from 1.
    Part(usize),
    /// A part's type is none; its number.
    Type(usize),
    /// A `\` in front of anything but `*`, `?`, `\` and `,`; the part's number.
    Escape(usize),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "longer than {LONGEST} bytes or {PARTS} parts"),
            Self::Part(part) => write!(f, "part {part} is not TYPE=PATTERN"),
            Self::Type(part) => write!(f, "the type of part {part} is not known"),
            Self::Escape(part) => write!(f, "a \\ in part {part} stands before none of * ? \\ ,"),
        }
    }
}

impl core::error::Error for Unreadable {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// `*`.
    Many,
    /// `?`.
    One,
    Exactly(char),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// The bytes of an object identifier.
    kind: Vec<u8>,
    pattern: Vec<Token>,
}

/// What subjects are to look like.
///
/// ```
/// let template: baton::builtin::Template = "CN=*.example.org, O=Exam?le".parse()?;
/// # Ok::<(), baton::builtin::Unreadable>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl FromStr for Template {
    type Err = Unreadable;

    //= spec/builtin.md#templates
    fn from_str(text: &str) -> Result<Self, Unreadable> {
        if text.len() > LONGEST {
            return Err(Unreadable::TooLong);
        }
        let mut parts = Vec::new();
        let mut rest = Some(text);
        while let Some(text) = rest {
            let number = parts.len() + 1;
            if number > PARTS {
                return Err(Unreadable::TooLong);
            }
            let (kind, text) = text.split_once('=').ok_or(Unreadable::Part(number))?;
            let kind = kind.trim_start_matches(' ');
            if kind.is_empty() {
                return Err(Unreadable::Part(number));
            }
            let kind = object_identifier(kind).ok_or(Unreadable::Type(number))?;
            let (pattern, next) = tokens(text).ok_or(Unreadable::Escape(number))?;
            parts.push(Part { kind, pattern });
            rest = next;
        }
        Ok(Self(parts))
    }
}

/// A pattern, and what stands behind the comma that ends it.
fn tokens(text: &str) -> Option<(Vec<Token>, Option<&str>)> {
    let mut pattern = Vec::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        pattern.push(match character {
            ',' => return Some((pattern, text.get(at + 1..))),
            // Two in a row say no more than one.
            '*' if pattern.last() == Some(&Token::Many) => continue,
            '*' => Token::Many,
            '?' => Token::One,
            '\\' => match characters.next() {
                Some((_, meant @ ('*' | '?' | '\\' | ','))) => Token::Exactly(meant),
                _ => return None,
            },
            other => Token::Exactly(other),
        });
    }
    Some((pattern, None))
}

/// The bytes of the identifier of a type, named or in digits with dots.
fn object_identifier(name: &str) -> Option<Vec<u8>> {
    let known = TYPES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    if let Some((_, bytes)) = known {
        return Some(bytes.to_vec());
    }
    let arcs: Option<Vec<u32>> = name
        .split('.')
        .map(|arc| match arc.bytes().all(|byte| byte.is_ascii_digit()) {
            true => arc.parse().ok(),
            false => None,
        })
        .collect();
    let arcs = arcs?;
    let [first, second, rest @ ..] = &*arcs else {
        return None;
    };
    if *first > 2 || (*first < 2 && *second > 39) {
        return None;
    }
    let mut bytes = Vec::new();
    base_128(u64::from(*first) * 40 + u64::from(*second), &mut bytes);
    for arc in rest {
        base_128(u64::from(*arc), &mut bytes);
    }
    Some(bytes)
}

fn base_128(number: u64, out: &mut Vec<u8>) {
    let groups = (64 - number.leading_zeros()).div_ceil(7).max(1);
    for group in (0..groups).rev() {
        let more = if group > 0 { 0x80 } else { 0 };
        out.push((number >> (7 * group)) as u8 & 0x7f | more);
    }
}

impl Template {
    /// Whether the subject of a certificate (DER) fits; not where it cannot be read.
    pub fn fits(&self, certificate: &[u8]) -> bool {
        attributes(certificate).is_some_and(|attributes| self.fits_all(&attributes))
    }

    /// Whether these attributes fit, in the order of RFC 4514.
    pub(super) fn fits_all(&self, attributes: &[Attribute]) -> bool {
        self.0.iter().all(|part| {
            // Each type once, where its first part stands: all parts of it, all attributes of it.
            let parts = self.0.iter().filter(|other| other.kind == part.kind);
            let mut of_kind = attributes.iter().filter(|it| it.kind == part.kind);
            let fit = parts.into_iter().all(|part| {
                let value = of_kind.next().and_then(|it| it.text.as_deref());
                value.is_some_and(|value| matches(&part.pattern, value))
            });
            fit && of_kind.next().is_none()
        })
    }
}

/// Whether a value fits a pattern: what cannot go on goes back to the last `*`, which takes one
/// character more. Going back to an earlier one would gain nothing.
fn matches(pattern: &[Token], value: &[char]) -> bool {
    let (mut at, mut token) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while at < value.len() {
        let fits = match pattern.get(token) {
            Some(Token::Many) => {
                token += 1;
                back = Some((token, at));
                continue;
            }
            Some(Token::One) => true,
            Some(Token::Exactly(character)) => character.eq_ignore_ascii_case(&value[at]),
            None => false,
        };
        if fits {
            (at, token) = (at + 1, token + 1);
            continue;
        }
        let Some((after, from)) = back else {
            return false;
        };
        back = Some((after, from + 1));
        (at, token) = (from + 1, after);
    }
    pattern[token..].iter().all(|token| *token == Token::Many)
}
