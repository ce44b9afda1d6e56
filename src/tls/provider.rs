//! What rustls computes with: ring, with the keys of records and of the schedule in secret pages.

use std::sync::Arc;

use rustls::crypto::cipher::{
    AeadKey as RawKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter,
    MessageEncrypter, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload,
    Tls13AeadAlgorithm, UnsupportedOperationError, make_tls13_aad,
};
use rustls::crypto::ring as stock;
use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom};
use rustls::{
    CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
};

use super::schedule::{SHA256, SHA384, Schedule};
use super::sink::tell;
use crate::crypto::{AeadKey, Suite, TAG};
use crate::secret::{self, Slot};

/// The provider with these suites, most wanted first, and the groups X25519 and P-256.
pub(super) fn provider(suites: &[Suite]) -> Arc<CryptoProvider> {
    let stock = stock::default_provider();
    Arc::new(CryptoProvider {
        cipher_suites: suites.iter().map(|suite| tls_suite(*suite)).collect(),
        kx_groups: vec![stock::kx_group::X25519, stock::kx_group::SECP256R1],
        secure_random: &Pool,
        ..stock
    })
}

fn tls_suite(suite: Suite) -> SupportedCipherSuite {
    SupportedCipherSuite::Tls13(match suite {
        Suite::Aes128Gcm => &AES_128,
        Suite::Aes256Gcm => &AES_256,
        Suite::ChaCha20Poly1305 => &CHACHA20,
    })
}

static AES_128: Tls13CipherSuite = with_our_keys(
    stock::cipher_suite::TLS13_AES_128_GCM_SHA256,
    &SHA256,
    &Aead(Suite::Aes128Gcm),
);
static AES_256: Tls13CipherSuite = with_our_keys(
    stock::cipher_suite::TLS13_AES_256_GCM_SHA384,
    &SHA384,
    &Aead(Suite::Aes256Gcm),
);
static CHACHA20: Tls13CipherSuite = with_our_keys(
    stock::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    &SHA256,
    &Aead(Suite::ChaCha20Poly1305),
);

/// A stock suite, but for where its keys live.
const fn with_our_keys(
    stock: SupportedCipherSuite,
    schedule: &'static Schedule,
    aead: &'static Aead,
) -> Tls13CipherSuite {
    let SupportedCipherSuite::Tls13(stock) = stock;
    Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: stock.common.suite,
            hash_provider: stock.common.hash_provider,
            confidentiality_limit: stock.common.confidentiality_limit,
        },
        hkdf_provider: schedule,
        aead_alg: aead,
        quic: None,
    }
}

#[derive(Debug)]
struct Pool;

impl SecureRandom for Pool {
    fn fill(&self, out: &mut [u8]) -> Result<(), GetRandomFailed> {
        secret::random(out).map_err(|_| GetRandomFailed)
    }
}

struct Aead(Suite);

impl Aead {
    fn key(&self, key: &RawKey, iv: &Iv) -> Key {
        // None when rustls gives a key that is not of the suite's length: nothing opens or seals.
        Key(AeadKey::new(self.0, key.as_ref(), iv.as_ref())
            .ok()
            .map(Slot::new))
    }
}

impl Tls13AeadAlgorithm for Aead {
    fn encrypter(&self, key: RawKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        tell(|captured| {
            let secret = &captured.expanding;
            captured.tx.install(secret, key.as_ref(), iv.as_ref());
        });
        Box::new(self.key(&key, &iv))
    }

    fn decrypter(&self, key: RawKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        tell(|captured| {
            let secret = &captured.expanding;
            captured.rx.install(secret, key.as_ref(), iv.as_ref());
        });
        Box::new(self.key(&key, &iv))
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: RawKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(match self.0 {
            Suite::Aes128Gcm => ConnectionTrafficSecrets::Aes128Gcm { key, iv },
            Suite::Aes256Gcm => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            Suite::ChaCha20Poly1305 => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
        })
    }
}

struct Key(Option<Slot<AeadKey>>);

impl MessageEncrypter for Key {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let length = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&[message.typ.into()]);
        let tag = self
            .0
            .as_ref()
            .and_then(|key| {
                key.seal(sequence, &make_tls13_aad(length), payload.as_mut())
                    .ok()
            })
            .ok_or(Error::EncryptError)?;
        payload.extend_from_slice(&tag);
        tell(|captured| captured.tx.records = sequence + 1);
        // RFC 8446 5.1: sealed records say TLS 1.2.
        Ok(OutboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            payload,
        ))
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        length + 1 + TAG
    }
}

impl MessageDecrypter for Key {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let aad = make_tls13_aad(message.payload.len());
        let opened = self
            .0
            .as_ref()
            .and_then(|key| key.open(sequence, &aad, &mut message.payload).ok())
            .ok_or(Error::DecryptError)?
            .len();
        message.payload.truncate(opened);
        tell(|captured| captured.rx.records = sequence + 1);
        message.into_tls13_unpadded_message()
    }
}
