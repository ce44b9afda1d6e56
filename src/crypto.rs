//! The cryptographic operations Baton uses, all of ring's but the sealing of what is at rest.
//!
//! Nothing here decides anything: which key, which nonce and which associated data are the
//! caller's. The invariant every caller keeps is that a key and a sequence number seal once.
//!
//! Sources: RFC 8446 section 7.1 (`HKDF-Expand-Label`, `Derive-Secret`), 7.3 (traffic keys),
//! 7.5 (exporters), 5.3 (nonces); draft-irtf-cfrg-xchacha-03 (XChaCha20-Poly1305).

use chacha20::{R20, hchacha};
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hkdf, hmac};

use crate::secret::{self, Depth, Slot};

/// Bytes of an AEAD tag, of every suite and at rest.
pub const TAG: usize = 16;
/// Bytes of an AEAD nonce or IV of every suite.
pub const IV: usize = 12;
/// The longest hash, and so the longest traffic secret: SHA-384.
pub const MAX_SECRET: usize = 48;
/// The longest traffic key.
pub const MAX_KEY: usize = 32;
/// Bytes of the nonce of what is sealed at rest.
pub const REST_NONCE: usize = 24;

/// Something did not open, or the system's random source failed. It carries nothing else, so
/// that no caller can make an oracle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// A TLS 1.3 cipher suite (RFC 8446 B.4): the AEAD and the hash of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// TLS_AES_128_GCM_SHA256.
    Aes128Gcm,
    /// TLS_AES_256_GCM_SHA384.
    Aes256Gcm,
    /// TLS_CHACHA20_POLY1305_SHA256.
    ChaCha20Poly1305,
}

impl Suite {
    /// The suite of a TLS code point.
    pub const fn from_code(code: u16) -> Option<Self> {
        match code {
            0x1301 => Some(Self::Aes128Gcm),
            0x1302 => Some(Self::Aes256Gcm),
            0x1303 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// The TLS code point.
    pub const fn code(self) -> u16 {
        match self {
            Self::Aes128Gcm => 0x1301,
            Self::Aes256Gcm => 0x1302,
            Self::ChaCha20Poly1305 => 0x1303,
        }
    }

    /// The IANA name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "TLS_AES_128_GCM_SHA256",
            Self::Aes256Gcm => "TLS_AES_256_GCM_SHA384",
            Self::ChaCha20Poly1305 => "TLS_CHACHA20_POLY1305_SHA256",
        }
    }

    /// Bytes of the hash and of every secret: 32 or 48.
    pub const fn secret_len(self) -> usize {
        match self {
            Self::Aes256Gcm => 48,
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes of a traffic key: 16 or 32.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    fn aead(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes256Gcm => hkdf::HKDF_SHA384,
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => hkdf::HKDF_SHA256,
        }
    }

    /// The suite's hash of `data`: [`Suite::secret_len`] bytes.
    pub fn hash(self, data: &[u8]) -> digest::Digest {
        digest::digest(self.hkdf().hmac_algorithm().digest_algorithm(), data)
    }
}

/// An expanded AEAD key and its IV. It belongs in a [`crate::secret::Slot`].
pub struct AeadKey {
    key: LessSafeKey,
    iv: [u8; IV],
}

impl AeadKey {
    /// Expands `key` ([`Suite::key_len`] bytes) and takes `iv` ([`IV`] bytes).
    ///
    /// Refused when a length is wrong.
    pub fn new(suite: Suite, key: &[u8], iv: &[u8]) -> Result<Self, Refused> {
        let key = UnboundKey::new(suite.aead(), key).map_err(|_| Refused)?;
        let iv = iv.try_into().map_err(|_| Refused)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv,
        })
    }

    /// The nonce of `sequence` (RFC 8446 5.3).
    #[inline]
    fn nonce(&self, sequence: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, s) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= s;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `in_out` where it lies and answers the tag.
    ///
    /// Refused when `in_out` is longer than the cipher can take in one piece (64 GiB for GCM).
    #[inline]
    pub fn seal(&self, sequence: u64, aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG], Refused> {
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(sequence), Aad::from(aad), in_out)
            .map_err(|_| Refused)?;
        tag.as_ref().try_into().map_err(|_| Refused)
    }

    /// Decrypts `in_out`, ciphertext and tag, where it lies; answers the plaintext.
    ///
    /// On refusal the content of `in_out` is unspecified (ring zeroes what it had decrypted).
    #[inline]
    pub fn open<'a>(
        &self,
        sequence: u64,
        aad: &[u8],
        in_out: &'a mut [u8],
    ) -> Result<&'a mut [u8], Refused> {
        self.key
            .open_in_place(self.nonce(sequence), Aad::from(aad), in_out)
            .map_err(|_| Refused)
    }
}

/// A traffic key that is expanded at its first use, into secret memory of its own. Most contexts
/// that hop are idle: they never pay for the expansion, and are less than half as large without it.
#[derive(Default)]
pub struct Expanded(Option<Slot<AeadKey>>);

impl Expanded {
    /// The expanded key of `key` and `iv`: those of the first call until [`Expanded::forget`].
    ///
    /// Refused when a length is wrong.
    #[inline]
    pub fn of(&mut self, suite: Suite, key: &[u8], iv: &[u8]) -> Result<&AeadKey, Refused> {
        if self.0.is_none() {
            self.expand(suite, key, iv)?;
        }
        self.0.as_deref().ok_or(Refused)
    }

    #[cold]
    #[inline(never)]
    fn expand(&mut self, suite: Suite, key: &[u8], iv: &[u8]) -> Result<(), Refused> {
        let make = || AeadKey::new(suite, key, iv).map(Slot::new);
        self.0 = Some(secret::scrubbed(Depth::Derived, make)?);
        Ok(())
    }

    /// Wipes the expanded key: the next use expands the key it is given then.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// `HKDF-Expand-Label` of RFC 8446 7.1: fills `out`. `label` is given without its "tls13 "
/// prefix and is at most 249 bytes long; `context` at most 255; `out` at most 255 hashes.
///
/// # Panics
/// When one of these is longer: all three are this crate's constants, never input.
pub fn expand_label(suite: Suite, secret: &[u8], label: &[u8], context: &[u8], out: &mut [u8]) {
    assert!(label.len() <= 249 && context.len() <= 255 && out.len() <= 255 * 32);
    const PREFIX: &[u8] = b"tls13 ";
    let length = (out.len() as u16).to_be_bytes();
    let label_length = [(PREFIX.len() + label.len()) as u8];
    let context_length = [context.len() as u8];
    let info = [
        &length[..],
        &label_length,
        PREFIX,
        label,
        &context_length,
        context,
    ];
    let filled = hkdf::Prk::new_less_safe(suite.hkdf(), secret)
        .expand(&info, Length(out.len()))
        .and_then(|okm| okm.fill(out));
    assert!(filled.is_ok(), "lengths were checked above");
}

/// The traffic key and IV of a traffic secret (RFC 8446 7.3). `key` is [`Suite::key_len`] long.
pub fn traffic_key(suite: Suite, secret: &[u8], key: &mut [u8], iv: &mut [u8; IV]) {
    expand_label(suite, secret, b"key", &[], key);
    expand_label(suite, secret, b"iv", &[], iv);
}

/// The traffic secret that follows `secret` (RFC 8446 7.2), [`Suite::secret_len`] bytes into `next`.
pub fn next_secret(suite: Suite, secret: &[u8], next: &mut [u8]) {
    expand_label(suite, secret, b"traffic upd", &[], next);
}

/// `TLS-Exporter` of RFC 8446 7.5. `label` at most 249 bytes, `out` at most 8160.
///
/// # Panics
/// When one of these is longer.
pub fn exporter(
    suite: Suite,
    exporter_secret: &[u8],
    label: &[u8],
    context: &[u8],
    out: &mut [u8],
) {
    let mut derived = [0; MAX_SECRET];
    let derived = &mut derived[..suite.secret_len()];
    expand_label(
        suite,
        exporter_secret,
        label,
        suite.hash(b"").as_ref(),
        derived,
    );
    expand_label(
        suite,
        derived,
        b"exporter",
        suite.hash(context).as_ref(),
        out,
    );
    zeroize::Zeroize::zeroize(derived);
}

/// SHA-1: names things for protocols that know no other, and proves nothing.
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    out.copy_from_slice(hash.as_ref());
    out
}

/// SHA-256 of the pieces, one after the other.
pub fn sha256(pieces: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for piece in pieces {
        context.update(piece);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// SHA-256 of what comes in pieces over time.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Of nothing so far.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces, 32 bytes.
    pub fn finish(self) -> digest::Digest {
        self.0.finish()
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

/// A pseudo-random function: HMAC-SHA-256 (RFC 2104) under one key. It belongs in a
/// [`crate::secret::Slot`].
pub struct Prf(hmac::Key);

impl Prf {
    /// Under this key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The function of `input`: 32 bytes.
    pub fn of(&self, input: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.0, input).as_ref());
        out
    }
}

/// Whether two byte strings are equal, in time that depends on their lengths only.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .fold(0, |sum, (a, b)| sum | core::hint::black_box(a ^ b))
            == 0
}

/// Fills `out` from the system's random source: a system call each time.
pub fn random(out: &mut [u8]) -> Result<(), Refused> {
    SystemRandom::new().fill(out).map_err(|_| Refused)
}

/// The key of one message at rest: HChaCha20 of key and nonce head, then ring's
/// ChaCha20-Poly1305. The bytes are XChaCha20-Poly1305's, at a fifth of the reference's time.
fn rest_key(key: &[u8; 32], nonce: &[u8; REST_NONCE]) -> (LessSafeKey, Nonce) {
    let (head, tail) = nonce.split_at(16);
    let mut input = [0; 16];
    input.copy_from_slice(head);
    let mut subkey = hchacha::<R20>(&(*key).into(), &input.into());
    let mut short = [0; IV];
    short[4..].copy_from_slice(tail);
    let unbound = UnboundKey::new(&aead::CHACHA20_POLY1305, &subkey);
    zeroize::Zeroize::zeroize(subkey.as_mut_slice());
    let Ok(unbound) = unbound else {
        unreachable!("HChaCha20 gives 32 bytes")
    };
    (
        LessSafeKey::new(unbound),
        Nonce::assume_unique_for_key(short),
    )
}

/// Seals `in_out` where it lies with XChaCha20-Poly1305; `nonce` is random. Answers the tag.
pub fn seal_at_rest(
    key: &[u8; 32],
    nonce: &[u8; REST_NONCE],
    aad: &[u8],
    in_out: &mut [u8],
) -> Result<[u8; TAG], Refused> {
    let (key, nonce) = rest_key(key, nonce);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(aad), in_out)
        .map_err(|_| Refused)?;
    tag.as_ref().try_into().map_err(|_| Refused)
}

/// Opens what [`seal_at_rest`] sealed, ciphertext and tag, where it lies.
pub fn open_at_rest<'a>(
    key: &[u8; 32],
    nonce: &[u8; REST_NONCE],
    aad: &[u8],
    in_out: &'a mut [u8],
) -> Result<&'a mut [u8], Refused> {
    let (key, nonce) = rest_key(key, nonce);
    key.open_in_place(nonce, Aad::from(aad), in_out)
        .map_err(|_| Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20poly1305::{KeyInit, XChaCha20Poly1305, aead::AeadInOut};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sealing_at_rest_is_xchacha20_poly1305(
            key: [u8; 32], nonce: [u8; 24], aad: Vec<u8>, text: Vec<u8>,
        ) {
            let mut ours = text.clone();
            let tag = seal_at_rest(&key, &nonce, &aad, &mut ours).unwrap();
            let mut reference = text.clone();
            let reference_tag = XChaCha20Poly1305::new(&key.into())
                .encrypt_inout_detached(&nonce.into(), &aad, reference.as_mut_slice().into())
                .unwrap();
            prop_assert_eq!(&ours, &reference);
            prop_assert_eq!(&tag[..], reference_tag.as_slice());
            ours.extend_from_slice(&tag);
            prop_assert_eq!(open_at_rest(&key, &nonce, &aad, &mut ours).unwrap(), &text[..]);
        }
    }

    #[test]
    fn traffic_keys_are_those_of_rfc_8448() {
        // RFC 8448 section 3: server application traffic secret 0 and what follows from it.
        let secret = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
        let (mut key, mut iv) = ([0; 16], [0; IV]);
        traffic_key(Suite::Aes128Gcm, &secret, &mut key, &mut iv);
        assert_eq!(key[..], hex("9f02283b6c9c07efc26bb9f2ac92e356"));
        assert_eq!(iv[..], hex("cf782b88dd83549aadf1e984"));
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }
}
