//! TLS records after the handshake: raw bytes, records of a peer that has the keys and keeps no
//! rule, and hostile states.
//!
//! The input is one byte (suite, and which side), then steps: what to do (one byte), how much of
//! it (one byte, its low bits in the units of the step), and the bytes that belong to it. Held is,
//! at every step: a state that moved is the same state; what is kept is bounded; a real peer opens
//! everything that was sealed; what has failed stays failed and seals one alert.

#![no_main]

use baton::codec::{self, Framing};
use baton::crypto::{AeadKey, IV, Suite, next_secret, traffic_key};
use baton::record::{
    Error, Event, Frozen, HEADER, Limits, MAX_CONTENT, Padding, Read, Record, Secrets,
    TRANSFER_LIMIT,
};
use baton::secret::Scratch;
use libfuzzer_sys::fuzz_target;

/// The peer's keys, used for anything.
struct Forger {
    suite: Suite,
    secret: Vec<u8>,
    key: AeadKey,
    sequence: u64,
}

impl Forger {
    fn new(suite: Suite, secret: Vec<u8>) -> Self {
        let (mut key, mut iv) = (vec![0; suite.key_len()], [0; IV]);
        traffic_key(suite, &secret, &mut key, &mut iv);
        let key = AeadKey::new(suite, &key, &iv).expect("the lengths are the suite's");
        Self {
            suite,
            secret,
            key,
            sequence: 0,
        }
    }

    fn record(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut body = [content, &[kind], &vec![0; padding]].concat();
        let [high, low] = ((body.len() + 16) as u16).to_be_bytes();
        let mut record = vec![23, 3, 3, high, low];
        let tag = self.key.seal(self.sequence, &record, &mut body);
        self.sequence += 1;
        record.extend_from_slice(&body);
        record.extend_from_slice(&tag.expect("a record is short"));
        record
    }

    fn advance(&mut self) {
        let mut next = vec![0; self.suite.secret_len()];
        next_secret(self.suite, &self.secret, &mut next);
        *self = Self::new(self.suite, next);
    }
}

fn frozen(record: &Record) -> Option<Scratch> {
    let mut bytes = Scratch::with_capacity(1024);
    let state = record.freeze()?;
    codec::encode(&state, &mut bytes, 2 * TRANSFER_LIMIT).expect("a state has a bounded size");
    Some(bytes)
}

fn thawed(bytes: &[u8]) -> Option<Record> {
    let (state, _) = codec::decode::<Frozen<'_>>(bytes).ok()?;
    Record::thaw(state).ok()
}

/// The record under test, its forging peer, and a real peer that hears what it says.
struct Session {
    record: Record,
    forger: Forger,
    ear: Record,
    /// What the record was told to say, and is not heard yet.
    said: Vec<u8>,
    /// The ear has heard an alert or the end.
    deaf: bool,
}

impl Session {
    fn new(first: u8) -> Self {
        let suites = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
        let suite = suites[usize::from(first & 3).min(2)];
        let server = first & 4 != 0;
        let limits = match first & 8 {
            0 => Limits::default(),
            _ => Limits::default()
                .records(3)
                .received(3)
                .fragment(100)
                .padding(Padding::Block(32)),
        };
        let secret = |server: bool| vec![u8::from(server) + 1; suite.secret_len()];
        let side = |server, limits| {
            let secrets = Secrets {
                suite,
                server,
                tx_secret: &secret(server),
                rx_secret: &secret(!server),
                tx_sequence: 0,
                rx_sequence: 0,
            };
            Record::new(&secrets, limits, &[]).expect("these are the suite's secrets")
        };
        Self {
            record: side(server, limits),
            forger: Forger::new(suite, secret(!server)),
            ear: side(!server, Limits::default()),
            said: Vec::new(),
            deaf: false,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let kept = self.record.buffered();
        if let Ok(taken) = self.record.feed(bytes) {
            assert!(taken <= bytes.len());
            assert!(self.record.buffered() <= kept + taken);
        }
    }

    fn read(&mut self, length: usize) {
        let mut out = vec![0; length];
        match self.record.read(&mut out) {
            Ok(Read::Data(read)) => assert!(read <= length),
            Ok(Read::Incomplete { needed }) => assert!(needed > 0),
            Ok(Read::Ticket(ticket)) => assert!(!self.record.is_server() && ticket.len() <= 65_535),
            Ok(Read::Closed) => assert!(self.record.peer_closed()),
            Err(error) => assert_eq!(self.record.failed(), Some(error)),
        }
    }

    fn open(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        loop {
            let rest = bytes.len() - at;
            match self.record.open(&mut bytes[at..]) {
                Ok(opened) => {
                    assert!(opened.consumed <= rest);
                    at += opened.consumed;
                    match opened.event {
                        Event::Data(data) => assert!((1..=MAX_CONTENT).contains(&data.len())),
                        Event::Incomplete { needed } => {
                            assert!(needed > 0 && opened.consumed == 0);
                            return;
                        }
                        Event::Closed => return,
                        Event::Nothing | Event::KeyUpdated | Event::Ticket(_) => {}
                    }
                }
                Err(Error::InputFirst) => {
                    assert!(self.record.buffered() > 0);
                    return;
                }
                Err(error) => {
                    assert_eq!(self.record.failed(), Some(error));
                    return;
                }
            }
        }
    }

    fn write(&mut self, data: &[u8]) {
        if let Ok(taken) = self.record.write(data) {
            self.said.extend_from_slice(&data[..taken]);
        }
    }

    fn hop(&mut self) {
        let Some(before) = frozen(&self.record) else {
            return;
        };
        let moved = thawed(&before).expect("a state that travels arrives");
        let after = frozen(&moved).expect("and travels on");
        assert_eq!(before[..], after[..]);
        self.record = moved;
    }

    /// A real peer opens everything that is sent: whatever was done to the record, what it says
    /// is well said.
    fn listen(&mut self) {
        let wire = self.record.take_output();
        assert!(self.record.take_output().is_empty());
        let mut wire = &wire[..];
        let mut heard = Vec::new();
        let mut out = [0; 4096];
        while !self.deaf {
            wire = &wire[self.ear.feed(wire).unwrap_or(wire.len())..];
            match self.ear.read(&mut out) {
                Ok(Read::Data(length)) => heard.extend_from_slice(&out[..length]),
                Ok(Read::Ticket(_)) => unreachable!("no ticket is ever sent"),
                Ok(Read::Incomplete { .. }) if wire.is_empty() => break,
                Ok(Read::Incomplete { .. }) => {}
                Ok(Read::Closed) => self.deaf = true,
                Err(Error::PeerAlert(alert)) => {
                    assert_eq!(self.record.failed().and_then(Error::alert), Some(alert));
                    self.deaf = true;
                }
                // The record answers every update of its peer's, and may be told to make more.
                Err(Error::Flood) => self.deaf = true,
                Err(error) => unreachable!("a record sealed what does not open: {error:?}"),
            }
        }
        assert!(self.said.starts_with(&heard));
        self.said.drain(..heard.len());
        assert!(self.deaf || self.said.is_empty());
        // The ear's own answers go nowhere: the forger speaks for it.
        self.ear.take_output();
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, mut steps)) = input.split_first() else {
        return;
    };
    let mut session = Session::new(*first);
    while let [step, much, rest @ ..] = steps {
        let much = usize::from(*much);
        let (own, rest) = rest.split_at(much.min(rest.len()));
        // Steps that only need a number take no bytes.
        let (bytes, next) = match step % 12 {
            0..6 => (own, rest),
            _ => (&rest[..0], &steps[2..]),
        };
        match step % 12 {
            0 => session.feed(bytes),
            1..4 => {
                // A record of any type and length, whole or cut.
                let kind = [23, 22, 21][usize::from(step % 12) - 1];
                let (content, padding) = match step / 12 % 4 {
                    0 => (bytes.to_vec(), 0),
                    1 => (bytes.to_vec(), 1000),
                    2 => (bytes.repeat(16), 0),
                    _ => (bytes.repeat(64), 0),
                };
                let record = session.forger.record(kind, &content, padding);
                if kind == 22 && matches!(bytes, [24, 0, 0, 1, _]) {
                    session.forger.advance();
                }
                session.feed(&record);
            }
            4 => {
                let mut record = match bytes {
                    [kind, content @ ..] => session.forger.record(*kind, content, 0),
                    [] => vec![0; HEADER],
                };
                session.open(&mut record);
            }
            5 => {
                if let Some(mut record) = thawed(bytes) {
                    let _ = record.feed(bytes);
                    let _ = record.read(&mut [0; 100]);
                    let _ = record.write(b"data");
                    record.close_notify();
                    record.take_output();
                }
            }
            6 => session.read(much * 100),
            7 => session.hop(),
            8 => {
                let data = (0..much * 200).map(|i| (i + much) as u8);
                session.write(&data.collect::<Vec<_>>());
            }
            9 => {
                let closed = session.record.key_update(much & 1 != 0).is_err();
                assert!(!closed || session.record.closed() || session.record.failed().is_some());
            }
            10 => session.listen(),
            _ if much == 255 => session.record.close_notify(),
            _ => session.record.release_buffers(),
        }
        assert!(session.record.buffered() <= TRANSFER_LIMIT);
        steps = next;
    }
    session.listen();
});
