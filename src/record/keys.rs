//! The traffic secrets of a context and what is derived from them, together in one secret page.

use zeroize::Zeroize;

use crate::crypto::{self, IV, MAX_KEY, MAX_SECRET, Refused, Suite};
use crate::secret::{self, Depth};

/// Both directions. It lives in a [`secret::Slot`] and nowhere else.
pub(super) struct Keys {
    pub(super) tx: Direction,
    pub(super) rx: Direction,
}

/// One direction's secret, and its key and IV beside it: a hop carries all three, so that the
/// importer derives nothing.
pub(super) struct Direction {
    secret: [u8; MAX_SECRET],
    key: [u8; MAX_KEY],
    iv: [u8; IV],
}

impl Direction {
    /// Derives key and IV of `secret`. Refused when its length is not the suite's.
    pub(super) fn derive(suite: Suite, secret: &[u8]) -> Result<Self, Refused> {
        let mut key = [0; MAX_KEY];
        let mut iv = [0; IV];
        if secret.len() != suite.secret_len() {
            return Err(Refused);
        }
        crypto::traffic_key(suite, secret, &mut key[..suite.key_len()], &mut iv);
        let direction = Self::restore(suite, secret, &key[..suite.key_len()], &iv);
        key.zeroize();
        iv.zeroize();
        direction
    }

    /// Takes the three as they travelled. Refused when a length is not the suite's.
    pub(super) fn restore(
        suite: Suite,
        secret: &[u8],
        key: &[u8],
        iv: &[u8],
    ) -> Result<Self, Refused> {
        if secret.len() != suite.secret_len() || key.len() != suite.key_len() {
            return Err(Refused);
        }
        let mut direction = Self {
            secret: [0; MAX_SECRET],
            key: [0; MAX_KEY],
            iv: iv.try_into().map_err(|_| Refused)?,
        };
        direction.secret[..secret.len()].copy_from_slice(secret);
        direction.key[..key.len()].copy_from_slice(key);
        Ok(direction)
    }

    /// Moves to the next secret of RFC 8446 7.2; the old one is gone.
    pub(super) fn advance(&mut self, suite: Suite) -> Result<(), Refused> {
        // Deriving leaves copies on the stack, and a generation that is over must be gone.
        secret::scrubbed(Depth::Derived, || {
            let mut next = [0; MAX_SECRET];
            let length = suite.secret_len();
            crypto::next_secret(suite, &self.secret[..length], &mut next[..length]);
            *self = Self::derive(suite, &next[..length])?;
            Ok(())
        })
    }

    pub(super) fn secret(&self, suite: Suite) -> &[u8] {
        &self.secret[..suite.secret_len()]
    }

    pub(super) fn key(&self, suite: Suite) -> &[u8] {
        &self.key[..suite.key_len()]
    }

    pub(super) fn iv(&self) -> &[u8] {
        &self.iv
    }
}
