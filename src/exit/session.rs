//! The session identifier and the user context: what every exit of one session has in common.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Unfit, decode_bytes};

/// Names one secured session: the same in every exit of it and after every hand-off.
///
/// 16 random bytes, written as 32 lower-case hexadecimal digits. It is not a secret: it stands in
/// log lines, and knowing it gives no right.
///
/// ```
/// use baton::exit::SessionIdentifier;
/// let session = SessionIdentifier::from([0xab; 16]);
/// assert_eq!(session.to_string(), "ab".repeat(16));
/// assert_eq!("ab".repeat(16).parse(), Ok(session));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionIdentifier([u8; 16]);

impl SessionIdentifier {
    /// The identifier of these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for SessionIdentifier {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl FromStr for SessionIdentifier {
    type Err = Unfit;

    /// Reads exactly 32 hexadecimal digits, of either case.
    fn from_str(text: &str) -> Result<Self, Unfit> {
        const WRONG: Unfit = Unfit::Impossible("session identifier");
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(WRONG);
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            for &digit in pair {
                let value = char::from(digit).to_digit(16).ok_or(WRONG)?;
                *byte = *byte << 4 | value as u8;
            }
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for SessionIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionIdentifier({self})")
    }
}

/// What the exits of a session leave for each other: empty at session-init, replaced by any exit
/// that answers 1, given to the next, carried through export and import.
///
/// At most [`UserContext::LIMIT`] bytes, which mean nothing here. An exit may keep a secret in
/// them: they are wiped when dropped or replaced, and `Debug` shows their number only.
///
/// ```
/// use baton::exit::UserContext;
/// let context = UserContext::new(b"step 2".to_vec())?;
/// assert_eq!(context.as_bytes(), b"step 2");
/// assert_eq!(format!("{context:?}"), "UserContext(6 bytes)");
/// # Ok::<(), baton::exit::Unfit>(())
/// ```
#[derive(Default)]
pub struct UserContext(Vec<u8>);

impl UserContext {
    /// The most bytes a user context has.
    pub const LIMIT: usize = 4096;

    /// Takes the bytes an exit left. Refused when there are more than [`UserContext::LIMIT`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, Unfit> {
        let context = Self(bytes);
        if context.0.len() > Self::LIMIT {
            return Err(Unfit::TooLong("user context", Self::LIMIT));
        }
        Ok(context)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for UserContext {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl fmt::Debug for UserContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserContext({} bytes)", self.0.len())
    }
}

impl Serialize for UserContext {
    fn serialize<S: Serializer>(&self, encoder: S) -> Result<S::Ok, S::Error> {
        encoder.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for UserContext {
    fn deserialize<D: Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
        decode_bytes(decoder, "user context", Self::LIMIT).map(Self)
    }
}
