//! rustls as the peer. After a real handshake one of its two sides is taken over by a [`Record`];
//! the other stays rustls, and judges.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, Mutex, OnceLock};

use proptest::prelude::*;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, ConnectionTrafficSecrets,
    RootCertStore, ServerConfig, ServerConnection,
};

use super::*;

#[derive(Debug, Default)]
struct Log(Mutex<HashMap<String, Vec<u8>>>);

impl rustls::KeyLog for Log {
    fn log(&self, label: &str, _random: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().insert(label.into(), secret.to_vec());
    }
}

fn identity() -> &'static (CertificateDer<'static>, Vec<u8>) {
    static IDENTITY: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        (made.cert.der().clone(), made.signing_key.serialize_der())
    })
}

fn provider(suite: Suite) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider
        .cipher_suites
        .retain(|offered| u16::from(offered.suite()) == suite.code());
    Arc::new(provider)
}

/// rustls on one side.
pub(super) struct Peer(Connection);

impl Peer {
    pub(super) fn write(&mut self, data: &[u8]) {
        self.0.writer().write_all(data).unwrap();
    }

    pub(super) fn output(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut wire).unwrap();
        }
        wire
    }

    fn update_keys(&mut self) {
        self.0.refresh_traffic_keys().unwrap();
    }

    pub(super) fn close(&mut self) {
        self.0.send_close_notify();
    }

    /// What it reads in `wire`; whether we have closed.
    pub(super) fn feed(&mut self, mut wire: &[u8]) -> Result<(Vec<u8>, bool), rustls::Error> {
        let mut data = Vec::new();
        loop {
            if !wire.is_empty() {
                self.0.read_tls(&mut wire).unwrap();
            }
            self.0.process_new_packets()?;
            let closed = match self.0.reader().read_to_end(&mut data) {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    false
                }
            };
            if wire.is_empty() {
                return Ok((data, closed));
            }
        }
    }
}

/// A real handshake. Then the server (or the client) becomes a [`Record`], and the other stays.
pub(super) fn established(
    suite: Suite,
    server: bool,
    tickets: usize,
    limits: Limits,
) -> (Record, Peer) {
    let (certificate, key) = identity();
    let log = Arc::new(Log::default());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.clone()));
    let mut accept = ServerConfig::builder_with_provider(provider(suite))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    accept.enable_secret_extraction = true;
    accept.send_tls13_tickets = tickets;
    accept.key_log = log.clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut connect = ClientConfig::builder_with_provider(provider(suite))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    connect.enable_secret_extraction = true;
    let mut acceptor = Peer(ServerConnection::new(Arc::new(accept)).unwrap().into());
    let name = "localhost".try_into().unwrap();
    let mut initiator = Peer(
        ClientConnection::new(Arc::new(connect), name)
            .unwrap()
            .into(),
    );

    // Hello, the server's flight, Finished; what the server says behind it are its tickets.
    acceptor.feed(&initiator.output()).unwrap();
    initiator.feed(&acceptor.output()).unwrap();
    acceptor.feed(&initiator.output()).unwrap();
    let behind = acceptor.output();
    let (ours, mut theirs) = if server {
        (acceptor, initiator)
    } else {
        (initiator, acceptor)
    };
    if server {
        theirs.feed(&behind).unwrap();
    }
    let secrets = log.0.lock().unwrap();
    let (sent, received) = ("SERVER_TRAFFIC_SECRET_0", "CLIENT_TRAFFIC_SECRET_0");
    let (tx, rx) = if server {
        (sent, received)
    } else {
        (received, sent)
    };
    let extracted = ours.0.dangerous_extract_secrets().unwrap();
    assert_eq!(
        extracted.tx.0,
        u64::from(server && tickets > 0),
        "all tickets go in one record"
    );
    let record = Record::new(
        &Secrets {
            suite,
            server,
            tx_secret: &secrets[tx],
            rx_secret: &secrets[rx],
            tx_sequence: extracted.tx.0,
            rx_sequence: extracted.rx.0,
        },
        limits,
        if server { &[] } else { &behind },
    )
    .unwrap();
    for (direction, theirs) in [
        (&record.protocol.keys.tx, &extracted.tx.1),
        (&record.protocol.keys.rx, &extracted.rx.1),
    ] {
        let (key, iv) = match theirs {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref()),
            _ => unreachable!("no other suite was offered"),
        };
        assert_eq!(
            (direction.key(suite), direction.iv()),
            (key, iv),
            "what is derived is what rustls uses"
        );
    }
    (record, theirs)
}

fn alert_of(error: &rustls::Error) -> AlertDescription {
    match error {
        rustls::Error::AlertReceived(alert) => *alert,
        other => panic!("{other:?}"),
    }
}

//= proves spec/records.md#ticket
#[test]
fn tickets_behind_finished_are_handed_out_on_clients() {
    for suite in SUITES {
        for tickets in [0, 1, 2, 5] {
            let (mut client, mut server) = established(suite, false, tickets, Limits::default());
            server.write(b"hello");
            let (data, told, _) = drain(&mut client, &server.output()).unwrap();
            assert_eq!((data, told.len()), (b"hello".to_vec(), tickets));
        }
    }
}

//= proves spec/records.md#forged
//= proves spec/records.md#outer-type
//= proves spec/records.md#alert-out
#[test]
fn the_peer_sees_the_alert_of_what_it_did() {
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(Spoil, AlertDescription); 4] = [
        (|wire| wire[20] ^= 1, AlertDescription::BadRecordMac),
        (
            |wire| wire.splice(0..0, [20, 3, 3, 0, 1, 1]).for_each(drop),
            AlertDescription::UnexpectedMessage,
        ),
        (|wire| wire[3] = 0x60, AlertDescription::RecordOverflow),
        (|wire| wire[0] = 22, AlertDescription::UnexpectedMessage),
    ];
    for server in [true, false] {
        for (spoil, expected) in cases {
            let (mut ours, mut theirs) =
                established(Suite::Aes128Gcm, server, 2, Limits::default());
            ours.write(b"before").unwrap();
            theirs.write(b"a record of some length");
            let mut wire = theirs.output();
            spoil(&mut wire);
            drain(&mut ours, &wire).unwrap_err();
            let error = theirs.feed(&ours.take_output()).unwrap_err();
            assert_eq!(alert_of(&error), expected);
        }
    }
}

//= proves spec/records.md#alert-in
#[test]
fn the_peers_alert_is_reported() {
    let (mut server, mut client) = established(Suite::Aes256Gcm, true, 0, Limits::default());
    client
        .feed(
            &[23, 3, 3, 0, 20]
                .iter()
                .copied()
                .chain([0; 20])
                .collect::<Vec<_>>(),
        )
        .unwrap_err();
    assert_eq!(
        drain(&mut server, &client.output()),
        Err(Error::PeerAlert(Alert::BAD_RECORD_MAC))
    );
}

//= proves spec/records.md#half-close
#[test]
fn closing_is_seen_on_both_sides_in_either_order() {
    for server in [true, false] {
        for first in [true, false] {
            let (mut ours, mut theirs) =
                established(Suite::Aes128Gcm, server, 2, Limits::default());
            ours.write(b"last").unwrap();
            theirs.write(b"words");
            if first {
                ours.close_notify();
                assert_eq!(
                    theirs.feed(ours.output()).unwrap(),
                    (b"last".to_vec(), true)
                );
            }
            theirs.close();
            let (data, _, closed) = drain(&mut ours, &theirs.output()).unwrap();
            assert_eq!((data, closed), (b"words".to_vec(), true));
            if !first {
                ours.close_notify();
                assert_eq!(
                    theirs.feed(ours.output()).unwrap(),
                    (b"last".to_vec(), true)
                );
            }
        }
    }
}

//= proves spec/records.md#key-limit-in
//= proves spec/records.md#key-limit-out
#[test]
fn keys_move_by_themselves_on_both_sides() {
    for suite in SUITES {
        let limits = Limits::default().records(3).received(4);
        let (mut ours, mut theirs) = established(suite, true, 0, limits);
        for round in 0..100u8 {
            ours.write(&[round]).unwrap();
            theirs.write(&[round]);
            assert_eq!(theirs.feed(&ours.take_output()).unwrap().0, [round]);
            assert_eq!(drain(&mut ours, &theirs.output()).unwrap().0, [round]);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Ours(usize),
    Theirs(usize),
    OurKeys(bool),
    TheirKeys,
    /// So many bytes of what is on the wire arrive here, and there.
    ArriveHere(usize),
    ArriveThere(usize),
    Read(usize),
    Hop,
    OurClose,
    TheirClose,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let size = || prop_oneof![4 => 1..100usize, 2 => 1..20_000usize, 1 => Just(1 << 14)];
    let act = prop_oneof![
        4 => size().prop_map(Act::Ours),
        4 => size().prop_map(Act::Theirs),
        1 => any::<bool>().prop_map(Act::OurKeys),
        1 => Just(Act::TheirKeys),
        6 => size().prop_map(Act::ArriveHere),
        6 => size().prop_map(Act::ArriveThere),
        5 => size().prop_map(Act::Read),
        5 => Just(Act::Hop),
    ];
    let closes = prop_oneof![
        Just(vec![]),
        Just(vec![Act::OurClose]),
        Just(vec![Act::TheirClose])
    ];
    (proptest::collection::vec(act, 1..120), closes, 0..120usize).prop_map(
        |(mut acts, close, at)| {
            let at = at.min(acts.len());
            acts.splice(at..at, close);
            acts
        },
    )
}

/// Everything in flight between a record and rustls, with what has been said and heard.
struct Session {
    ours: Record,
    theirs: Peer,
    to_us: Vec<u8>,
    to_them: Vec<u8>,
    said_here: Vec<u8>,
    said_there: Vec<u8>,
    heard_here: Vec<u8>,
    heard_there: Vec<u8>,
    they_closed: bool,
}

impl Session {
    fn act(&mut self, act: Act) {
        match act {
            Act::Ours(length) => {
                let data = stretch(self.said_here.len(), length);
                if !self.ours.closed() {
                    let taken = self.ours.write(&data).unwrap();
                    self.said_here.extend_from_slice(&data[..taken]);
                }
            }
            Act::Theirs(length) => {
                let data = stretch(self.said_there.len(), length);
                if !self.they_closed {
                    let length = self.theirs.0.writer().write(&data).unwrap();
                    self.said_there.extend_from_slice(&data[..length]);
                }
            }
            Act::OurKeys(request) => {
                let closed = self.ours.closed();
                assert_eq!(self.ours.key_update(request).is_err(), closed);
            }
            Act::TheirKeys => {
                if !self.they_closed {
                    self.theirs.update_keys();
                }
            }
            Act::ArriveHere(length) => {
                self.to_us.extend(self.theirs.output());
                let length = length.min(self.to_us.len());
                let taken = self.ours.feed(&self.to_us[..length]).unwrap();
                self.to_us.drain(..taken);
            }
            Act::ArriveThere(length) => {
                let length = length.min(self.ours.output().len());
                self.to_them
                    .extend_from_slice(&self.ours.output()[..length]);
                self.ours.sent(length);
                let (data, _) = self
                    .theirs
                    .feed(&std::mem::take(&mut self.to_them))
                    .unwrap();
                self.heard_there.extend(data);
            }
            Act::Read(length) => {
                let mut buffer = vec![0; length];
                if let Read::Data(length) = self.ours.read(&mut buffer).unwrap() {
                    self.heard_here.extend_from_slice(&buffer[..length]);
                }
            }
            Act::Hop => {
                let kept = self.ours.buffered() + self.ours.output().len();
                match hop(&self.ours) {
                    Some(moved) => self.ours = moved,
                    None => assert!(kept > TRANSFER_LIMIT),
                }
            }
            Act::OurClose => self.ours.close_notify(),
            Act::TheirClose => {
                self.theirs.close();
                self.they_closed = true;
            }
        }
    }
}

fn stretch(from: usize, length: usize) -> Vec<u8> {
    (from..from + length)
        .map(|i| (i * 7 + i / 251) as u8)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 96 } else { 512 }))]

    //= proves spec/records.md#freeze C2
    //= proves spec/records.md#order
    //= proves spec/records.md#key-update-in
    //= proves spec/records.md#key-update-out
    #[test]
    fn nothing_is_lost_between_us_and_a_real_peer(
        suite in proptest::sample::select(&SUITES[..]), server: bool, tickets in 0..4usize,
        block in prop_oneof![Just(0u16), 2..600u16], acts in acts(),
    ) {
        let limits = Limits::default().padding(Padding::Block(block)).records(50).received(40);
        let (ours, theirs) = established(suite, server, tickets, limits);
        let mut session = Session {
            ours, theirs, to_us: vec![], to_them: vec![], said_here: vec![], said_there: vec![],
            heard_here: vec![], heard_there: vec![], they_closed: false,
        };
        for act in acts {
            session.act(act);
        }
        // Let everything arrive.
        for _ in 0..40 {
            session.act(Act::ArriveHere(usize::MAX));
            session.act(Act::Read(1 << 16));
            session.act(Act::Read(1 << 16));
            session.act(Act::Hop);
            session.act(Act::ArriveThere(usize::MAX));
        }
        prop_assert!(session.heard_there == session.said_here, "they heard what we said");
        prop_assert!(session.heard_here == session.said_there, "we heard what they said");
    }
}

//= proves spec/records.md#freeze C2
#[test]
fn a_record_cut_at_each_byte_moves() {
    for suite in SUITES {
        for server in [true, false] {
            let (mut ours, mut theirs) = established(suite, server, 2, Limits::default());
            // A key update in the middle, so that some cuts lie in it and around it.
            theirs.write(b"first");
            theirs.update_keys();
            theirs.write(b", second");
            let wire = theirs.output();
            let mut heard = Vec::new();
            for byte in &wire {
                heard.extend(drain(&mut ours, &[*byte]).unwrap().0);
                ours = hop(&ours).unwrap();
                ours.write(b".").unwrap();
                ours = hop(&ours).unwrap();
            }
            assert_eq!(heard, b"first, second");
            let (data, _) = theirs.feed(&ours.take_output()).unwrap();
            assert_eq!(data, vec![b'.'; wire.len()]);
        }
    }
}
