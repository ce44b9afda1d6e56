//! The rig: two records with the same secrets, a forger who has the peer's keys and keeps no rule,
//! and rustls as a peer that knows nothing of us.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod closing;
mod keys;
mod messages;
mod peer;
mod records;
mod stream;
mod transfer;

use super::wire::MESSAGE_HEADER;
use super::*;
use crate::codec::{self, Framing};
use crate::crypto::{AeadKey, IV, next_secret, traffic_key};
use crate::secret::Scratch;

const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

/// The secret that a client (false) or server (true) of a rig without a handshake seals with.
fn secret(suite: Suite, server: bool) -> Vec<u8> {
    vec![if server { 0x51 } else { 0xC1 }; suite.secret_len()]
}

fn side(suite: Suite, server: bool, limits: Limits) -> Record {
    let secrets = Secrets {
        suite,
        server,
        tx_secret: &secret(suite, server),
        rx_secret: &secret(suite, !server),
        tx_sequence: 0,
        rx_sequence: 0,
    };
    Record::new(&secrets, limits, &[]).unwrap()
}

/// A server and its client.
fn pair(suite: Suite) -> (Record, Record) {
    (
        side(suite, true, Limits::default()),
        side(suite, false, Limits::default()),
    )
}

/// One hop: the state through bytes and back.
fn hop(record: &Record) -> Option<Record> {
    let mut bytes = Scratch::with_capacity(0);
    codec::encode(&record.freeze()?, &mut bytes, 1 << 20).unwrap();
    let (frozen, rest) = codec::decode(&bytes).unwrap();
    assert!(rest.is_empty());
    Some(Record::thaw(frozen).unwrap())
}

/// Has one side's keys, and seals whatever it likes.
struct Forger {
    suite: Suite,
    secret: Vec<u8>,
    key: AeadKey,
    sequence: u64,
}

impl Forger {
    fn new(suite: Suite, server: bool) -> Self {
        Self::at(suite, &secret(suite, server))
    }

    fn at(suite: Suite, secret: &[u8]) -> Self {
        let (mut key, mut iv) = (vec![0; suite.key_len()], [0; IV]);
        traffic_key(suite, secret, &mut key, &mut iv);
        Self {
            suite,
            secret: secret.to_vec(),
            key: AeadKey::new(suite, &key, &iv).unwrap(),
            sequence: 0,
        }
    }

    /// A record of this whole inner plaintext.
    fn inner(&mut self, inner: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(inner.len() + TAG).unwrap().to_be_bytes();
        let mut record = vec![23, 3, 3, high, low];
        let mut body = inner.to_vec();
        let tag = self.key.seal(self.sequence, &record, &mut body).unwrap();
        self.sequence += 1;
        record.extend([body, tag.to_vec()].concat());
        record
    }

    fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        self.inner(&[content, &[kind]].concat())
    }

    fn key_update(&mut self, value: u8) -> Vec<u8> {
        let record = self.record(22, &[24, 0, 0, 1, value]);
        let mut next = vec![0; self.suite.secret_len()];
        next_secret(self.suite, &self.secret, &mut next);
        *self = Self::at(self.suite, &next);
        record
    }
}

/// A NewSessionTicket message with so long a ticket.
fn ticket(length: usize) -> Vec<u8> {
    let mut body = vec![0, 0, 28, 32, 1, 2, 3, 4, 2, 7, 7];
    body.extend((length as u16).to_be_bytes());
    body.extend(vec![0xAB; length]);
    body.extend([0, 0]);
    let mut message = (body.len() as u32 | 4 << 24).to_be_bytes().to_vec();
    message.extend(body);
    message
}

/// Data, tickets, and whether the peer has closed.
type Heard = (Vec<u8>, Vec<Vec<u8>>, bool);

/// Feeds `wire` and reads all there is.
fn drain(record: &mut Record, mut wire: &[u8]) -> Result<Heard, Error> {
    let (mut data, mut tickets) = (Vec::new(), Vec::new());
    let mut buffer = [0; 1000];
    loop {
        let fed = record.feed(wire)?;
        wire = &wire[fed..];
        match record.read(&mut buffer)? {
            Read::Data(length) => data.extend_from_slice(&buffer[..length]),
            Read::Ticket(ticket) => tickets.push(ticket),
            Read::Incomplete { needed } => {
                assert!(needed > 0);
                if wire.is_empty() {
                    return Ok((data, tickets, false));
                }
            }
            Read::Closed => return Ok((data, tickets, true)),
        }
    }
}

/// The error `record` meets in `wire`, and the alert that its peer then receives.
fn refusal(record: &mut Record, wire: &[u8], peer: &mut Record) -> (Error, Option<Alert>) {
    let error = drain(record, wire).expect_err("this input is to be refused");
    assert_eq!(record.failed(), Some(error));
    assert_eq!(drain(record, &[]), Err(error), "the state is poisoned");
    assert_eq!(record.seal(b"x", &mut Vec::new()), Err(error));
    assert_eq!(record.key_update(true), Err(error));
    record.close_notify();
    assert!(record.freeze().is_none());
    let output = record.take_output();
    assert!(record.take_output().is_empty());
    match drain(peer, &output) {
        Err(Error::PeerAlert(alert)) => (error, Some(alert)),
        Ok((data, tickets, false)) if data.is_empty() && tickets.is_empty() => (error, None),
        other => panic!("{other:?}"),
    }
}

/// What a server meets in records forged by its client.
fn server_meets(forge: impl FnOnce(&mut Forger) -> Vec<u8>) -> (Error, Option<Alert>) {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    let wire = forge(&mut Forger::new(Suite::Aes128Gcm, false));
    refusal(&mut server, &wire, &mut client)
}

fn client_meets(forge: impl FnOnce(&mut Forger) -> Vec<u8>) -> (Error, Option<Alert>) {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    let wire = forge(&mut Forger::new(Suite::Aes128Gcm, true));
    refusal(&mut client, &wire, &mut server)
}

const UNEXPECTED: (Error, Option<Alert>) = (Error::Unexpected, Some(Alert::UNEXPECTED_MESSAGE));
const MALFORMED: (Error, Option<Alert>) = (Error::Malformed, Some(Alert::DECODE_ERROR));
const OVERFLOW: (Error, Option<Alert>) = (Error::Overflow, Some(Alert::RECORD_OVERFLOW));
const FORGED: (Error, Option<Alert>) = (Error::Forged, Some(Alert::BAD_RECORD_MAC));
const FLOOD: (Error, Option<Alert>) = (Error::Flood, Some(Alert::UNEXPECTED_MESSAGE));
