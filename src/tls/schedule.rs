//! The key schedule's HKDF and HMAC for rustls, by ring, with every extracted key in secret pages.
//!
//! rustls keeps such keys in boxes of the ordinary heap and frees them as they are. From one of
//! them the traffic secrets of a session follow, so here each lives in a [`Slot`].

use ring::{hkdf, hmac};
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};

use super::sink::tell;
use crate::secret::Slot;

/// HKDF and HMAC with one hash.
pub(super) struct Schedule {
    hkdf: hkdf::Algorithm,
    hmac: hmac::Algorithm,
}

pub(super) static SHA256: Schedule = Schedule {
    hkdf: hkdf::HKDF_SHA256,
    hmac: hmac::HMAC_SHA256,
};
pub(super) static SHA384: Schedule = Schedule {
    hkdf: hkdf::HKDF_SHA384,
    hmac: hmac::HMAC_SHA384,
};

impl Schedule {
    fn hash_len(&self) -> usize {
        self.hmac.digest_algorithm().output_len()
    }

    fn extract(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        const ZEROES: [u8; OkmBlock::MAX_LEN] = [0; OkmBlock::MAX_LEN];
        let salt = salt.unwrap_or(&ZEROES[..self.hash_len()]);
        self.expander(hkdf::Salt::new(self.hkdf, salt).extract(secret))
    }

    fn expander(&self, key: hkdf::Prk) -> Box<dyn HkdfExpander> {
        Box::new(Expander {
            hash_len: self.hash_len(),
            key: Slot::new(key),
        })
    }
}

impl Hkdf for Schedule {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.extract(salt, &[0; OkmBlock::MAX_LEN][..self.hash_len()])
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        self.extract(salt, secret)
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        tell(|captured| captured.expanding.set(okm.as_ref()));
        self.expander(hkdf::Prk::new_less_safe(self.hkdf, okm.as_ref()))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        let key = hmac::Key::new(self.hmac, key.as_ref());
        Tag::new(hmac::sign(&key, message).as_ref())
    }
}

struct Expander {
    hash_len: usize,
    key: Slot<hkdf::Prk>,
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl HkdfExpander for Expander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        self.key
            .expand(info, Length(output.len()))
            .and_then(|key| key.fill(output))
            .map_err(|_| OutputLengthError)
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        let mut block = [0; OkmBlock::MAX_LEN];
        let output = &mut block[..self.hash_len];
        let filled = self.expand_slice(info, output);
        debug_assert!(filled.is_ok(), "one hash is never too long");
        let okm = OkmBlock::new(output);
        zeroize::Zeroize::zeroize(output);
        okm
    }

    fn hash_len(&self) -> usize {
        self.hash_len
    }
}
