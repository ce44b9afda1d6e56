//! Encoding of state that crosses a process: postcard, borrowed on both sides, so that a secret
//! is never copied to the heap on its way into or out of a token.

use serde::{Deserialize, Serialize};

use crate::secret::Scratch;

/// A state that was opened, and cannot be: a length, a number or an enumeration out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defect;

/// The state is larger than the bound its holder set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

struct Into<'a> {
    out: &'a mut Scratch,
    limit: usize,
}

impl postcard::ser_flavors::Flavor for Into<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() > self.limit.saturating_sub(self.out.len()) {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends `state` to `out`, which grows to at most `limit` bytes.
pub fn encode<T: Serialize>(state: &T, out: &mut Scratch, limit: usize) -> Result<(), TooLarge> {
    postcard::serialize_with_flavor(state, Into { out, limit }).map_err(|_| TooLarge)
}

/// Reads one state from the front of `bytes`; answers it and what follows it.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), Defect> {
    postcard::take_from_bytes(bytes).map_err(|_| Defect)
}

mod sealed {
    /// It cannot be named outside the crate: see [`super::Framing`].
    pub trait Sealed {}
}

pub(crate) use sealed::Sealed;

/// A framing's protection state: what of it travels, and how it is made again.
///
/// Implemented by [`crate::message::Message`] and [`crate::record::Record`] and, being sealed, by
/// nothing else: another program's framing would be shown every token's state before the ledger
/// is asked, and could keep it.
pub trait Framing: Sealed + Sized + 'static {
    /// What travels: secrets are borrowed from their pages, or from the opened token.
    type Frozen<'a>: Serialize + Deserialize<'a>
    where
        Self: 'a;

    /// The framing's code in a token: 1 message, 2 record.
    const CODE: u8;

    /// What travels. None when the present state cannot (see each framing).
    fn freeze(&self) -> Option<Self::Frozen<'_>>;

    /// Makes the state again, keys expanded. Checks every bound: the bytes were authentic, but
    /// the exporter may have been hostile.
    fn thaw(frozen: Self::Frozen<'_>) -> Result<Self, Defect>;
}
