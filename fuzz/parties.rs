//! What the two establish targets share: the peers that are not fuzzed, one certificate, and how
//! the input is read.

use std::sync::{Arc, OnceLock};

use baton::cred::{AcceptorCredential, Anchors};
use baton::establish::{AcceptorConfig, Attempt, InitiatorConfig, Verdict};
use baton::exit::UserData;
use baton::name::Name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate for [`HOST`] until 2100, its own anchor; its key is nobody's but the fuzzer's.
pub const CERTIFICATE: &[u8] = include_bytes!("identity/certificate.pem");
const KEY: &[u8] = include_bytes!("identity/key.pem");
pub const HOST: &str = "mail.example";

pub fn target() -> Name {
    Name::host_based_service("imap@mail.example").expect("a name")
}

/// Lets anybody in, and `ada` with the password `right`; others may try three times.
pub fn acceptor() -> Arc<AcceptorConfig> {
    static CONFIG: OnceLock<Arc<AcceptorConfig>> = OnceLock::new();
    let make = || {
        let credential = AcceptorCredential::from_pem(CERTIFICATE, KEY).expect("a credential");
        let passwords = |attempt: &Attempt<'_>| match (attempt.user, attempt.password) {
            ("ada", "right") => {
                let mut user = UserData::default();
                user.set_user_name("ada").expect("a user name");
                Verdict::Accept(user)
            }
            ("eve", _) => Verdict::Deny,
            _ => Verdict::Again,
        };
        let config = AcceptorConfig::builder(credential)
            .anonymous(true)
            .passwords(Arc::new(passwords), 3)
            .resumption(std::time::Duration::from_secs(3600))
            .build();
        Arc::new(config.expect("a configuration"))
    };
    CONFIG.get_or_init(make).clone()
}

pub fn initiator() -> Arc<InitiatorConfig> {
    static CONFIG: OnceLock<Arc<InitiatorConfig>> = OnceLock::new();
    let make = || {
        let anchors = Anchors::from_pem(CERTIFICATE).expect("an anchor");
        let config = InitiatorConfig::builder(anchors).build();
        Arc::new(config.expect("a configuration"))
    };
    CONFIG.get_or_init(make).clone()
}

pub fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(CERTIFICATE).expect("a certificate")
}

pub fn key() -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(KEY).expect("a key")
}

/// The input, read from the front; behind its end stand zeros.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().map_or((0, &[][..]), |(b, r)| (*b, r));
        self.0 = rest;
        byte
    }

    pub fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A piece behind its length, two bytes.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = self.number();
        self.take(length)
    }

    /// A message of the exchange: how long it is made with zeros (one byte), and its bytes.
    pub fn message(&mut self) -> Vec<u8> {
        let length = [0, 64, 2048, 2049][usize::from(self.byte() % 4)];
        let mut message = self.piece().to_vec();
        if message.len() < length {
            message.resize(length, 0);
        }
        message
    }

    /// Does to a token what the input says: up to three changes.
    pub fn alter(&mut self, token: &mut Vec<u8>) {
        for _ in 0..self.byte() % 4 {
            let (what, at) = (self.byte(), self.number());
            let at = if token.is_empty() {
                0
            } else {
                at % token.len()
            };
            match what % 5 {
                0 if !token.is_empty() => token[at] ^= self.byte(),
                1 => token.truncate(at),
                2 => token.extend_from_slice(self.piece()),
                3 => drop(token.drain(..at)),
                _ => {
                    let piece = self.piece();
                    token.splice(at..at, piece.iter().copied());
                }
            }
        }
    }
}

/// What a rustls connection has to send.
#[macro_export]
macro_rules! sent {
    ($connection:expr) => {{
        let mut bytes = Vec::new();
        while $connection.wants_write() {
            $connection
                .write_tls(&mut bytes)
                .expect("a vector takes all");
        }
        bytes
    }};
}

/// Lets a rustls connection hear a token; whether it could.
#[macro_export]
macro_rules! hears {
    ($connection:expr, $token:expr) => {{
        let mut token = &$token[..];
        loop {
            if token.is_empty() {
                break true;
            }
            match $connection.read_tls(&mut token) {
                Ok(0) | Err(_) => break false,
                Ok(_) if $connection.process_new_packets().is_err() => break false,
                Ok(_) => {}
            }
        }
    }};
}
