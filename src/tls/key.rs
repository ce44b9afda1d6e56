//! Private keys of certificates: ECDSA and Ed25519 in secret pages, RSA as rustls keeps it.

use core::fmt;
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{AlgorithmIdentifier, PrivateKeyDer, SubjectPublicKeyInfoDer, alg_id};
use zeroize::Zeroizing;

use crate::secret::Slot;

/// Takes a private key: PKCS #8 or SEC 1 for ECDSA on P-256 or P-384, PKCS #8 for Ed25519,
/// PKCS #8 or PKCS #1 for RSA of 2048 to 8192 bits. None when it is none of these.
///
/// A process forked later holds no ECDSA or Ed25519 key, and the answer says so ([`PrivateKey::is_here`]): it
/// must load its own. An RSA key lies in the ordinary heap, which a forked process inherits.
pub(crate) fn private_key(der: &PrivateKeyDer<'_>) -> Option<PrivateKey> {
    let ed25519 = || match der {
        PrivateKeyDer::Pkcs8(der) => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).ok()?;
            Some(Key::new(Pair::Ed25519(pair), &ED25519))
        }
        _ => None,
    };
    let key = ecdsa(der, &P256)
        .or_else(|| ecdsa(der, &P384))
        .or_else(ed25519);
    match key {
        Some(key) => Some(PrivateKey {
            pair: Some(key.pair.clone()),
            signing: Arc::new(key),
        }),
        None => Some(PrivateKey {
            pair: None,
            signing: any_supported_type(der).ok()?,
        }),
    }
}

/// A private key, as rustls uses it.
#[derive(Clone)]
pub(crate) struct PrivateKey {
    pub(crate) signing: Arc<dyn SigningKey>,
    /// None for RSA.
    pair: Option<Arc<Slot<Pair>>>,
}

impl PrivateKey {
    /// Whether it is in this process, and not in the one this was forked from.
    //= spec/mechanism.md#one-process
    pub(crate) fn is_here(&self) -> bool {
        self.pair.as_ref().is_none_or(|pair| pair.is_here())
    }
}

/// SHA-512, for `tls-server-end-point` of certificates signed with it.
pub(super) fn sha512(data: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA512, data)
        .as_ref()
        .to_vec()
}

/// What the keys of one curve have in common.
struct Curve {
    algorithm: SignatureAlgorithm,
    scheme: SignatureScheme,
    identifier: AlgorithmIdentifier,
}

struct NistCurve {
    curve: Curve,
    signing: &'static EcdsaSigningAlgorithm,
    /// PKCS #8 (RFC 5958) before a SEC 1 key of the curve: version 0, id-ecPublicKey, the curve.
    head: &'static [u8],
}

static ED25519: Curve = Curve {
    algorithm: SignatureAlgorithm::ED25519,
    scheme: SignatureScheme::ED25519,
    identifier: alg_id::ED25519,
};
static P256: NistCurve = NistCurve {
    curve: Curve {
        algorithm: SignatureAlgorithm::ECDSA,
        scheme: SignatureScheme::ECDSA_NISTP256_SHA256,
        identifier: alg_id::ECDSA_P256,
    },
    signing: &ECDSA_P256_SHA256_ASN1_SIGNING,
    head: b"\x02\x01\0\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\
        \x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
};
static P384: NistCurve = NistCurve {
    curve: Curve {
        algorithm: SignatureAlgorithm::ECDSA,
        scheme: SignatureScheme::ECDSA_NISTP384_SHA384,
        identifier: alg_id::ECDSA_P384,
    },
    signing: &ECDSA_P384_SHA384_ASN1_SIGNING,
    head: b"\x02\x01\0\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\0\x22",
};

fn ecdsa(der: &PrivateKeyDer<'_>, on: &'static NistCurve) -> Option<Key> {
    let wrapped;
    let pkcs8 = match der {
        PrivateKeyDer::Pkcs8(der) => der.secret_pkcs8_der(),
        PrivateKeyDer::Sec1(der) => {
            // A private key of these curves is shorter than 256 bytes.
            let sec1 = der.secret_sec1_der();
            let octets = u8::try_from(sec1.len()).ok()?;
            let whole = u8::try_from(on.head.len() + 3 + sec1.len()).ok()?;
            let parts: [&[u8]; 4] = [&[0x30, 0x81, whole], on.head, &[0x04, 0x81, octets], sec1];
            wrapped = Zeroizing::new(parts.concat());
            &wrapped
        }
        _ => return None,
    };
    let pair = EcdsaKeyPair::from_pkcs8(on.signing, pkcs8, &SystemRandom::new()).ok()?;
    Some(Key::new(Pair::Ecdsa(pair), &on.curve))
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

#[derive(Clone)]
struct Key {
    pair: Arc<Slot<Pair>>,
    curve: &'static Curve,
    public: Arc<[u8]>,
}

impl Key {
    fn new(pair: Pair, curve: &'static Curve) -> Self {
        let public = match &pair {
            Pair::Ecdsa(pair) => pair.public_key().as_ref().into(),
            Pair::Ed25519(pair) => pair.public_key().as_ref().into(),
        };
        Self {
            pair: Arc::new(Slot::new(pair)),
            curve,
            public,
        }
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let offered = offered.contains(&self.curve.scheme);
        offered.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(public_key_to_spki(&self.curve.identifier, &self.public))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.curve.algorithm
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        if !self.pair.is_here() {
            return Err(Error::General(
                "the private key is in the process this one was forked from".into(),
            ));
        }
        let signature = match &**self.pair {
            Pair::Ecdsa(pair) => pair.sign(&SystemRandom::new(), message).ok(),
            Pair::Ed25519(pair) => Some(pair.sign(message)),
        };
        signature
            .map(|signature| signature.as_ref().to_vec())
            .ok_or_else(|| Error::General("signing failed".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.curve.scheme
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.curve.scheme)
    }
}
