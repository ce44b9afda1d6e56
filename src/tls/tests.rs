use core::time::Duration;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SupportedCipherSuite};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::reader::Reader;
use super::sink::{Captured, Sink, capturing};
use super::*;
use crate::crypto::Suite;
use crate::secret::Slot;
use crate::status::Minor;

const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

struct Party {
    key: Arc<CertifiedKey>,
    anchors: Arc<RootCertStore>,
}

fn party() -> Party {
    named_party("somebody")
}

fn named_party(name: &str) -> Party {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.example".into()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let mut anchors = RootCertStore::empty();
    anchors.add(certificate.clone()).unwrap();
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = CertifiedKey::new(vec![certificate], private_key(&der).unwrap().signing);
    Party {
        key: Arc::new(key),
        anchors: Arc::new(anchors),
    }
}

fn protocol<R>(suites: &[Suite]) -> Protocol<'_, R> {
    Protocol {
        suites,
        application_protocols: Vec::new(),
        resumption: None,
    }
}

fn host() -> ServerName<'static> {
    ServerName::try_from("a.example").unwrap()
}

/// Both ends, driven until both have finished; each is given `piece` bytes at a time.
fn establish(server: &Server, client: &Client, piece: usize) -> (Established, Established) {
    let mut server = server.handshake().unwrap();
    let resumption = client.resumption();
    let mut client = client.handshake(host()).unwrap();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    client.advance(&[], &mut to_server).unwrap();
    let (mut server_done, mut client_done) = (false, false);
    while !(server_done && client_done) {
        for part in core::mem::take(&mut to_server).chunks(piece) {
            let progress = server.advance(part, &mut to_client).unwrap();
            server_done |= matches!(progress, Progress::Done(rest) if rest.is_empty());
        }
        for part in core::mem::take(&mut to_client).chunks(piece) {
            if client_done {
                break; // the server's tickets
            }
            let progress = client.advance(part, &mut to_server).unwrap();
            client_done |= matches!(progress, Progress::Done(_));
        }
    }
    let client = client.finish(resumption).unwrap();
    (server.finish(true).unwrap(), client)
}

#[test]
fn both_sides_come_to_the_same_secrets_in_every_suite() {
    let party = party();
    for suite in SUITES {
        let server =
            Server::new(party.key.clone(), Clients::None, None, protocol(&SUITES)).unwrap();
        let client = Client::new(None, party.anchors.clone(), None, protocol(&[suite])).unwrap();
        for piece in [1, 100, 1 << 20] {
            let (server, client) = establish(&server, &client, piece);
            assert_eq!((server.suite, client.suite), (suite, suite));
            assert_eq!(server.tx_secret(), client.rx_secret());
            assert_eq!(server.rx_secret(), client.tx_secret());
            assert_eq!(server.exporter_secret(), client.exporter_secret());
            assert_ne!(server.tx_secret(), server.rx_secret());
            assert_eq!(server.tx().0, client.rx().0);
            let (mut key, mut iv) = ([0; 32], [0; 12]);
            let key = &mut key[..suite.key_len()];
            crate::crypto::traffic_key(suite, server.tx_secret(), key, &mut iv);
            assert_eq!(server.tx().0, [&*key, &iv]);
            assert_eq!(server.tx_secret().len(), suite.secret_len());
            assert_eq!((server.tx().1, server.rx().1), (0, 0));
            assert_eq!(client.peer_certificates, party.key.cert);
            assert!(server.tickets.is_none() && !server.resumed);
        }
    }
}

/// The certificates of the session that is resumed, as they are by then.
fn resumed(session: &mut Established, certificates: &[CertificateDer<'static>]) {
    session.resumed = true;
    session.peer_certificates = certificates.to_vec();
}

//= proves spec/mechanism.md#resumption
#[test]
fn a_session_is_not_resumed_for_whom_it_would_not_be_made() {
    const EXPIRED: u8 = 45;
    const UNKNOWN_CA: u8 = 48;
    const REQUIRED: u8 = 116;
    let (own, other) = (party(), named_party("somebody else"));
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.example".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let old = params.self_signed(&key).unwrap().der().clone();
    let mut anchors = RootCertStore::empty();
    anchors.add(own.key.cert[0].clone()).unwrap();
    anchors.add(old.clone()).unwrap();
    let anchors = Arc::new(anchors);

    let clients = Clients::Required(anchors.clone());
    let server = Server::new(own.key.clone(), clients, None, protocol(&SUITES)).unwrap();
    let client = Client::new(Some(own.key.clone()), anchors, None, protocol(&SUITES)).unwrap();
    let (mut at_server, mut at_client) = establish(&server, &client, 1 << 20);
    let told = |answer: Result<(), (Error, u8)>| {
        answer.map_err(|(error, alert)| (error.status().minor(), alert))
    };
    for (certificates, expected) in [
        (&own.key.cert[..], Ok(())),
        (&[old], Err((Minor::CertificateRefused, EXPIRED))),
        (
            &other.key.cert,
            Err((Minor::CertificateRefused, UNKNOWN_CA)),
        ),
        (&[], Err((Minor::CertificateMissing, REQUIRED))),
    ] {
        resumed(&mut at_server, certificates);
        assert_eq!(told(server.recheck(&mut at_server)), expected);
        resumed(&mut at_client, certificates);
        assert_eq!(told(client.recheck(&mut at_client, &host())), expected);
    }
    resumed(&mut at_client, &own.key.cert);
    let elsewhere = ServerName::try_from("b.example").unwrap();
    let refused = client.recheck(&mut at_client, &elsewhere).unwrap_err();
    assert_eq!(refused.0.status().minor(), Minor::NameMismatch);
}

#[test]
fn a_servers_tickets_are_counted() {
    let party = party();
    let lifetime = Duration::from_secs(60);
    let mut sealed = protocol(&SUITES);
    sealed.resumption = Some(Arc::new(Sealer::new(lifetime)));
    let mut stored = protocol(&SUITES);
    stored.resumption = Some(Arc::new(Store::new(lifetime)));
    let server = Server::new(party.key.clone(), Clients::None, None, sealed).unwrap();
    let client = Client::new(None, party.anchors.clone(), None, stored).unwrap();
    let (first, client_end) = establish(&server, &client, 1 << 20);
    assert_eq!((first.tx().1, first.resumed), (1, false));
    let mut tickets = client_end.tickets.unwrap();
    assert_eq!(
        tickets.take(b"no ticket").unwrap_err().status(),
        Minor::ContextTokenMalformed.into()
    );
}

/// The keys that live in secret pages compute what rustls's own provider does.
#[test]
fn a_stock_client_agrees_with_our_keys() {
    let party = party();
    for suite in rustls::crypto::ring::ALL_CIPHER_SUITES {
        let SupportedCipherSuite::Tls13(_) = suite;
        let server =
            Server::new(party.key.clone(), Clients::None, None, protocol(&SUITES)).unwrap();
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites = vec![*suite];
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(party.anchors.clone())
            .with_no_client_auth();
        let mut client = rustls::ClientConnection::new(Arc::new(config), host()).unwrap();
        let mut server = server.handshake().unwrap();
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut done = false;
        while !done {
            client.write_tls(&mut to_server).unwrap();
            let progress = server.advance(&to_server, &mut to_client).unwrap();
            done = matches!(progress, Progress::Done(b""));
            to_server.clear();
            client.read_tls(&mut to_client.as_slice()).unwrap();
            to_client.clear();
            client.process_new_packets().unwrap();
        }
        let server = server.finish(false).unwrap();
        let theirs = client
            .export_keying_material([0; 32], b"EXPORTER-test", Some(b"context"))
            .unwrap();
        let mut ours = [0; 32];
        let secret = server.exporter_secret();
        crate::crypto::exporter(
            server.suite,
            secret,
            b"EXPORTER-test",
            b"context",
            &mut ours,
        );
        assert_eq!(ours, theirs);
    }
}

#[test]
fn records_are_cut_wherever_the_input_is() {
    let records = [
        &[22, 3, 1, 0, 3, 1, 2, 3][..],
        &[20, 3, 3, 0, 1, 1],
        &[23, 3, 3, 0, 0],
    ];
    let all = records.concat();
    for piece in 1..all.len() {
        let mut reader = Reader::default();
        let mut seen = Vec::new();
        for mut part in all.chunks(piece) {
            while reader.take(&mut part).unwrap() {
                seen.push(reader.records().to_vec());
                reader.discard(usize::MAX);
            }
            assert!(part.is_empty());
        }
        assert_eq!(seen, records);
        assert!(reader.is_empty());
    }
}

#[test]
fn a_handshake_is_bounded_in_bytes_and_records() {
    let mut reader = Reader::default();
    let mut record = vec![0; 5 + 16000];
    record[..5].copy_from_slice(&[22, 3, 3, 0x3e, 0x80]);
    for _ in 0..8 {
        assert!(reader.take(&mut record.as_slice()).unwrap());
    }
    let error = reader.take(&mut record.as_slice()).unwrap_err();
    assert_eq!(error.status(), Minor::ContextTokenTooLarge.into());

    let mut reader = Reader::default();
    for _ in 0..reader::RECORDS_LIMIT {
        assert!(reader.take(&mut [22, 3, 3, 0, 1, 0].as_slice()).unwrap());
    }
    assert!(reader.take(&mut [22, 3, 3, 0, 1, 0].as_slice()).is_err());

    for wrong in [b"GET /", b"SSH-2", &[22, 2, 0, 0, 1], &[22, 3, 1, 0x41, 1]] {
        let error = Reader::default().take(&mut wrong.as_slice()).unwrap_err();
        assert_eq!(error.status(), Minor::ContextTokenMalformed.into());
    }
}

#[test]
fn what_is_no_handshake_is_answered_with_an_alert() {
    let party = party();
    let server = Server::new(party.key, Clients::None, None, protocol(&SUITES)).unwrap();
    let mut output = Vec::new();
    let mut handshake = server.handshake().unwrap();
    let error = handshake
        .advance(b"GET / HTTP/1.1\r\n\r\n", &mut output)
        .err()
        .unwrap();
    assert_eq!(error.reason(), "the peer sends no TLS records");
    // Fatal, decode_error (50).
    assert_eq!(output, [21, 3, 3, 0, 2, 2, 50]);
}

#[test]
fn a_handshake_within_another_has_its_own_secrets() {
    use rustls::KeyLog;
    let log = |secret: &[u8]| Sink.log("EXPORTER_SECRET", &[], secret);
    let captured = || Some(Slot::new(Captured::default()));
    let (mut outer, mut inner) = (captured(), captured());
    capturing(&mut outer, || {
        capturing(&mut inner, || log(b"inner"));
        log(b"outer");
    });
    log(b"nobody's");
    assert_eq!(outer.unwrap().exporter.as_bytes(), b"outer");
    assert_eq!(inner.unwrap().exporter.as_bytes(), b"inner");
}

#[test]
fn a_reason_is_one_line() {
    let text = format!("{}\n\u{202e}\x1b", "a".repeat(300));
    assert_eq!(printable(&text), "a".repeat(256));
    assert_eq!(printable("a\nb\u{1b}é"), r"a\nb\u{1b}\u{e9}");
}
