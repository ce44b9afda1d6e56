//! Per-message tokens as a stranger makes them, from `spec/messages.md` alone: nothing of the
//! library is used here.

use ring::{aead, hkdf};

/// A cipher suite by its TLS name.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) code: u16,
    aead: &'static aead::Algorithm,
    hkdf: hkdf::Algorithm,
    pub(crate) secret_len: usize,
}

pub(crate) static SUITES: [Suite; 3] = [
    Suite {
        name: "TLS_AES_128_GCM_SHA256",
        code: 0x1301,
        aead: &aead::AES_128_GCM,
        hkdf: hkdf::HKDF_SHA256,
        secret_len: 32,
    },
    Suite {
        name: "TLS_AES_256_GCM_SHA384",
        code: 0x1302,
        aead: &aead::AES_256_GCM,
        hkdf: hkdf::HKDF_SHA384,
        secret_len: 48,
    },
    Suite {
        name: "TLS_CHACHA20_POLY1305_SHA256",
        code: 0x1303,
        aead: &aead::CHACHA20_POLY1305,
        hkdf: hkdf::HKDF_SHA256,
        secret_len: 32,
    },
];

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Suite {
    /// HKDF-Expand-Label of RFC 8446 7.1, without a context.
    fn expand(&self, secret: &[u8], label: &str, len: usize) -> Vec<u8> {
        let label = format!("tls13 {label}");
        let head = [0, len as u8, label.len() as u8];
        let info = [&head[..], label.as_bytes(), &[0]];
        let mut out = vec![0; len];
        hkdf::Prk::new_less_safe(self.hkdf, secret)
            .expand(&info, Length(len))
            .unwrap()
            .fill(&mut out)
            .unwrap();
        out
    }

    /// The secret of generation 0 in every vector: bytes 0x00.. for what the initiator sends, 0x80..
    /// for what the acceptor sends.
    pub(crate) fn first_secret(&self, from_acceptor: bool) -> Vec<u8> {
        let first = if from_acceptor { 0x80 } else { 0 };
        (first..).take(self.secret_len).collect()
    }

    /// Key and IV of a generation's secret.
    pub(crate) fn key(&self, secret: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let key = self.expand(secret, "key", self.aead.key_len());
        (key, self.expand(secret, "iv", 12))
    }
}

/// Everything one token is made from.
#[derive(Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) suite: &'static Suite,
    /// Type: 1 wrap, 2 MIC, 3 close.
    pub(crate) kind: u8,
    pub(crate) confidential: bool,
    pub(crate) from_acceptor: bool,
    pub(crate) generation: u32,
    pub(crate) sequence: u64,
    pub(crate) message: &'a [u8],
}

impl Token<'_> {
    /// The secret of its generation.
    pub(crate) fn secret(&self) -> Vec<u8> {
        (0..self.generation).fold(self.suite.first_secret(self.from_acceptor), |secret, _| {
            self.suite
                .expand(&secret, "traffic upd", self.suite.secret_len)
        })
    }

    pub(crate) fn header(&self) -> Vec<u8> {
        let flags = u8::from(self.confidential) | u8::from(self.from_acceptor) << 1;
        let mut header = vec![self.kind, flags, 0, 0];
        header.extend(self.generation.to_be_bytes());
        header.extend(self.sequence.to_be_bytes());
        header
    }

    pub(crate) fn nonce(&self, iv: &[u8]) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.sequence.to_be_bytes());
        nonce.iter_mut().zip(iv).for_each(|(byte, iv)| *byte ^= iv);
        nonce
    }

    pub(crate) fn make(&self) -> Vec<u8> {
        let (key, iv) = self.suite.key(&self.secret());
        let key = aead::UnboundKey::new(self.suite.aead, &key).unwrap();
        let nonce = aead::Nonce::assume_unique_for_key(self.nonce(&iv));
        let (mut aad, mut content) = (self.header(), Vec::new());
        if self.confidential {
            content.extend_from_slice(self.message);
        } else {
            aad.extend_from_slice(self.message);
        }
        let tag = aead::LessSafeKey::new(key)
            .seal_in_place_separate_tag(nonce, aead::Aad::from(&aad), &mut content)
            .unwrap();
        let body = if self.kind == 1 && !self.confidential {
            self.message
        } else {
            &content
        };
        [&self.header(), body, tag.as_ref()].concat()
    }
}

/// A state of the page's layout: that of `token`'s sender, about to make it.
pub(crate) fn sender_state(token: &Token<'_>) -> Vec<u8> {
    let suite = token.suite;
    let own = token.secret();
    let (key, iv) = suite.key(&own);
    let peer = suite.first_secret(!token.from_acceptor);
    let (peer_key, peer_iv) = suite.key(&peer);
    let messages = if token.generation == 0 {
        token.sequence
    } else {
        0
    };
    let mut out = Vec::new();
    varint(&mut out, suite.code.into());
    out.push(0x0e | u8::from(!token.from_acceptor));
    varint(&mut out, token.generation.into());
    bytes(&mut out, &own);
    bytes(&mut out, &[key, iv].concat());
    varint(&mut out, token.sequence);
    varint(&mut out, messages);
    varint(&mut out, messages * 16);
    varint(&mut out, 0);
    bytes(&mut out, &peer);
    bytes(&mut out, &[peer_key, peer_iv].concat());
    // Nothing received: next, both halves of seen, since, no previous key.
    out.extend([0; 5]);
    out
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
