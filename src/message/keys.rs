//! Keys and secrets of the generations. Everything here lives in a [`crate::secret::Slot`].

use zeroize::Zeroizing;

use crate::crypto::{self, AeadKey, Expanded, IV, MAX_KEY, MAX_SECRET, Refused, Suite};

/// Bytes of a generation's key and IV, as they travel.
pub(super) const fn key_len(suite: Suite) -> usize {
    suite.key_len() + IV
}

/// A secret on its way: wiped where it was.
pub(super) type Secret = Zeroizing<[u8; MAX_SECRET]>;

/// The key of one generation, as it travels: key and IV, [`key_len`] bytes, then zeros.
pub(super) struct Key([u8; MAX_KEY + IV]);

impl Key {
    /// Key and IV as they travelled. Refused when `material` is not [`key_len`] long.
    pub(super) fn restore(suite: Suite, material: &[u8]) -> Result<Self, Refused> {
        if material.len() != key_len(suite) {
            return Err(Refused);
        }
        let mut kept = [0; MAX_KEY + IV];
        kept[..material.len()].copy_from_slice(material);
        Ok(Self(kept))
    }

    /// The key of a generation's secret.
    //= spec/messages.md#keys
    fn derive(suite: Suite, secret: &[u8; MAX_SECRET]) -> Self {
        let mut material = [0; MAX_KEY + IV];
        let (key, rest) = material.split_at_mut(suite.key_len());
        let mut iv = [0; IV];
        crypto::traffic_key(suite, &secret[..suite.secret_len()], key, &mut iv);
        rest[..IV].copy_from_slice(&iv);
        Self(material)
    }

    /// Key and IV, as they travel.
    pub(super) fn material(&self, suite: Suite) -> &[u8] {
        &self.0[..key_len(suite)]
    }

    /// The expanded key, in `place`, which holds no other key's.
    //= spec/messages.md#nonce
    #[inline]
    pub(super) fn expanded<'a>(
        &self,
        suite: Suite,
        place: &'a mut Expanded,
    ) -> Result<&'a AeadKey, Refused> {
        let (key, iv) = self.material(suite).split_at(suite.key_len());
        place.of(suite, key, iv)
    }
}

/// One direction's generation: its number, the secret the later ones come from, its key.
pub(super) struct Chain {
    pub(super) generation: u32,
    secret: [u8; MAX_SECRET],
    pub(super) key: Key,
}

impl Chain {
    /// Generation 0. `secret` is [`Suite::secret_len`] bytes long, else it panics.
    pub(super) fn new(suite: Suite, secret: &[u8]) -> Self {
        assert!(
            secret.len() == suite.secret_len(),
            "a secret is as long as the suite's hash"
        );
        let mut padded = Secret::new([0; MAX_SECRET]);
        padded[..secret.len()].copy_from_slice(secret);
        Self::at(suite, 0, &padded)
    }

    /// A later generation, of its secret.
    pub(super) fn at(suite: Suite, generation: u32, secret: &Secret) -> Self {
        Self {
            generation,
            secret: **secret,
            key: Key::derive(suite, secret),
        }
    }

    /// A generation as it travelled. Refused when a length is not the suite's.
    pub(super) fn restore(
        suite: Suite,
        generation: u32,
        secret: &[u8],
        material: &[u8],
    ) -> Result<Self, Refused> {
        if secret.len() != suite.secret_len() {
            return Err(Refused);
        }
        let mut padded = [0; MAX_SECRET];
        padded[..secret.len()].copy_from_slice(secret);
        Ok(Self {
            generation,
            secret: padded,
            key: Key::restore(suite, material)?,
        })
    }

    /// The secret, as it travels.
    pub(super) fn secret(&self, suite: Suite) -> &[u8] {
        &self.secret[..suite.secret_len()]
    }

    /// The secrets of the generation `steps` (1 or more) ahead, and of the one before that.
    //= spec/messages.md#next
    pub(super) fn ahead(&self, suite: Suite, steps: u32) -> (Secret, Secret) {
        let mut secret = Secret::new(self.secret);
        let mut before = Secret::new([0; MAX_SECRET]);
        for _ in 0..steps {
            *before = *secret;
            let len = suite.secret_len();
            crypto::next_secret(suite, &before[..len], &mut secret[..len]);
        }
        (secret, before)
    }

    /// The key a secret of [`Chain::ahead`] gives.
    pub(super) fn key_of(suite: Suite, secret: &Secret) -> Key {
        Key::derive(suite, secret)
    }
}
