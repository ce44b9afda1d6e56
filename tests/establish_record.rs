//! Establishment in record framing, both sides ours: every byte that belongs to the session is
//! there, however the bytes come in.

#![allow(clippy::unwrap_used, clippy::panic)]

mod parties;

use std::sync::Arc;
use std::time::Duration;

use baton::context::Context;
use baton::cred::{InitiatorCredential, Password};
use baton::crypto::Suite;
use baton::establish::{
    Acceptor, AcceptorConfigBuilder, ClientCertificates, Finished, INPUT_LIMIT, Initiator,
    InitiatorConfigBuilder, Step,
};
use baton::flags::Flags;
use baton::ledger::Domain;
use baton::record::{Read, Record};
use baton::status::{Major, Minor};
use parties::*;

fn run(configs: (AcceptorConfigBuilder, InitiatorConfigBuilder), piece: usize) -> Ends<Record> {
    let (acceptor, initiator) = build(configs);
    let initiator = Initiator::<Record>::new(initiator, target()).unwrap();
    records(Acceptor::new(acceptor), initiator, piece)
}

fn activate(finished: (Finished<Record>, Finished<Record>)) -> (Context<Record>, Context<Record>) {
    let domain = Domain::inherited(16).unwrap();
    (
        finished.0.activate(&domain).unwrap(),
        finished.1.activate(&domain).unwrap(),
    )
}

/// Sends `text` from one context to the other.
fn say(from: &mut Context<Record>, to: &mut Context<Record>, text: &[u8]) {
    let mut wire = from.take_output().unwrap();
    from.seal(text, &mut wire).unwrap();
    to.feed(&wire).unwrap();
    hear(to, text);
}

/// Reads `text`, and whatever else is told before it.
fn hear(context: &mut Context<Record>, text: &[u8]) {
    let mut heard = vec![0; text.len()];
    let mut done = 0;
    while done < text.len() {
        match context.read(&mut heard[done..]).unwrap() {
            Read::Data(n) => done += n,
            Read::Ticket(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, text);
}

//= proves spec/mechanism.md#record-keys
//= proves spec/mechanism.md#tls-exporter
//= proves spec/mechanism.md#end-point
#[test]
fn a_session_goes_on_behind_its_handshake_in_every_suite() {
    let authority = Authority::new("authority");
    for suite in [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        for piece in [1, 7, 1 << 16] {
            let (acceptor, initiator) = configs(&authority);
            let configs = (
                acceptor.resumption(Duration::from_secs(60)),
                initiator.suites(&[suite]),
            );
            let ends = run(configs, piece);
            let late = ends.late.clone();
            assert!(!late.is_empty(), "tickets");
            let ends = ends.both();
            let facts = ends.0.facts();
            assert_eq!(facts.suite, suite.code());
            assert_eq!(facts.initiator_name, None);
            assert_eq!(facts.application_protocol, None);
            assert!(facts.flags.contains(Flags::MUTUAL | Flags::ANONYMOUS));
            assert_eq!(facts.end_point, ends.1.facts().end_point);
            assert_eq!(facts.end_point.as_ref().unwrap().len(), 32);
            let (mut acceptor, mut initiator) = activate(ends);
            initiator.feed(&late).unwrap();
            assert_eq!(
                acceptor.channel_binding().unwrap(),
                initiator.channel_binding().unwrap()
            );
            say(&mut initiator, &mut acceptor, b"from the initiator");
            say(&mut acceptor, &mut initiator, b"from the acceptor");
            initiator.key_update(true).unwrap();
            say(&mut initiator, &mut acceptor, b"under the next key");
            say(
                &mut acceptor,
                &mut initiator,
                b"answered under the next key",
            );
        }
    }
}

#[test]
fn an_application_protocol_is_agreed_on() {
    let authority = Authority::new("authority");
    let ends = |ours: &[&[u8]], theirs: &[&[u8]]| {
        let (acceptor, initiator) = configs(&authority);
        let configs = (
            acceptor.application_protocols(ours),
            initiator.application_protocols(theirs),
        );
        run(configs, 1 << 16)
    };
    let (acceptor, initiator) = ends(&[b"h2", b"http/1.1"], &[b"http/1.1"]).both();
    for finished in [acceptor, initiator] {
        let protocol = finished.facts().application_protocol.clone();
        assert_eq!(protocol.as_deref(), Some(&b"http/1.1"[..]));
    }
    let (acceptor, initiator) = ends(&[b"h2"], &[b"http/1.1"]).neither();
    assert_eq!(acceptor.status.minor(), Minor::FramingUnknown);
    assert_eq!(initiator.status.minor(), Minor::FramingUnknown);
}

/// Both sides before the initiator's last flight, and that flight.
fn before_the_last_flight(
    configs: (AcceptorConfigBuilder, InitiatorConfigBuilder),
) -> (Acceptor<Record>, Finished<Record>, Vec<u8>) {
    let (acceptor, initiator) = build(configs);
    let initiator = Initiator::<Record>::new(initiator, target()).unwrap();
    let Ok(Step::Continue { next, output }) = initiator.step(&[]) else {
        panic!()
    };
    let acceptor = Acceptor::<Record>::new(acceptor);
    let Ok(Step::Continue {
        next: acceptor,
        output,
    }) = acceptor.step(&output)
    else {
        panic!()
    };
    let Ok(Step::Done { finished, output }) = next.step(&output) else {
        panic!()
    };
    (acceptor, finished, output)
}

//= proves spec/mechanism.md#behind C2
#[test]
fn bytes_that_came_with_finished_are_not_lost() {
    let authority = Authority::new("authority");
    let domain = Domain::inherited(64).unwrap();
    let text = [&b"first"[..], &[b'x'; 20_000], b"last"].concat();
    // Cut the data behind Finished anywhere: some of it comes with Finished, the rest later.
    for cut in [0, 1, 4, 5, 26, 27, 1000, 16_406, 20_000, usize::MAX] {
        let (acceptor, finished, mut flight) = before_the_last_flight(configs(&authority));
        let mut initiator = finished.activate(&domain).unwrap();
        let mut data = Vec::new();
        initiator.seal(b"first", &mut data).unwrap();
        initiator.seal(&text[5..20_005], &mut data).unwrap();
        initiator.seal(b"last", &mut data).unwrap();
        let (now, later) = data.split_at(cut.min(data.len()));
        flight.extend_from_slice(now);
        let Ok(Step::Done { finished, output }) = acceptor.step(&flight) else {
            panic!()
        };
        assert!(output.is_empty(), "no tickets");
        let mut acceptor = finished.activate(&domain).unwrap();
        acceptor.feed(later).unwrap();
        hear(&mut acceptor, &text);
        say(&mut acceptor, &mut initiator, b"heard");
    }
}

//= proves spec/mechanism.md#behind
#[test]
fn more_than_a_step_takes_is_refused_not_lost() {
    let authority = Authority::new("authority");
    let (acceptor, _, mut flight) = before_the_last_flight(configs(&authority));
    flight.resize(INPUT_LIMIT + 1, 0);
    let failed = acceptor.step(&flight).err().unwrap();
    assert_eq!(failed.status.minor(), Minor::ContextTokenTooLarge);
}

//= proves spec/mechanism.md#tls
#[test]
fn a_change_cipher_spec_is_passed_over_during_the_handshake_only() {
    const CCS: [u8; 6] = [20, 3, 3, 0, 1, 1];
    let authority = Authority::new("authority");
    let domain = Domain::inherited(8).unwrap();
    let (acceptor, _, flight) = before_the_last_flight(configs(&authority));
    assert!(flight.starts_with(&CCS), "the initiator sends its own");
    assert!(matches!(acceptor.step(&flight), Ok(Step::Done { .. })));

    let (acceptor, _, flight) = before_the_last_flight(configs(&authority));
    let without = &flight[CCS.len()..];
    assert!(matches!(acceptor.step(without), Ok(Step::Done { .. })));

    let (acceptor, _, flight) = before_the_last_flight(configs(&authority));
    let behind = [&flight[..], &CCS].concat();
    let Ok(Step::Done { finished, .. }) = acceptor.step(&behind) else {
        panic!("it belongs to the session")
    };
    let mut context = finished.activate(&domain).unwrap();
    let error = context.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.minor(), Minor::RecordUnexpected);

    let (acceptor, _, flight) = before_the_last_flight(configs(&authority));
    let wrong = [&[20, 3, 3, 0, 1, 2], &flight[CCS.len()..]].concat();
    let failed = acceptor.step(&wrong).err().unwrap();
    assert_eq!(failed.status.minor(), Minor::HandshakeFailed);
    assert!(!failed.output.is_empty(), "an alert");
}

//= proves spec/mechanism.md#client-certificate
//= proves spec/mechanism.md#refusal
#[test]
fn a_client_certificate_is_asked_for_wanted_or_required() {
    let authority = Authority::new("authority");
    let ends = |clients: ClientCertificates, credential: InitiatorCredential| {
        let (acceptor, initiator) = configs(&authority);
        run(
            (
                acceptor.client_certificates(clients),
                initiator.credential(credential),
            ),
            1 << 16,
        )
    };
    let optional = || ClientCertificates::Optional(authority.anchors());
    let required = || ClientCertificates::Required(authority.anchors());
    let ada = || authority.client("ada").initiator();
    let nobody = InitiatorCredential::anonymous;
    for (clients, credential, name) in [
        (ClientCertificates::None, nobody(), None),
        (ClientCertificates::None, ada(), None),
        (optional(), nobody(), None),
        (optional(), ada(), Some("CN=ada")),
        (required(), ada(), Some("CN=ada")),
    ] {
        let (acceptor, _) = ends(clients, credential).both();
        let facts = acceptor.facts();
        let known = facts.initiator_name.as_ref().map(ToString::to_string);
        assert_eq!(known.as_deref(), name);
        assert_eq!(facts.flags.contains(Flags::ANONYMOUS), name.is_none());
    }

    let refused = |clients, credential, minor, alert: &str| {
        let ends = ends(clients, credential);
        let failed = ends.acceptor.err().unwrap();
        assert_eq!(failed.status.minor(), minor, "{failed}");
        // The initiator had finished when it was refused: it hears it as it reads.
        let domain = Domain::inherited(8).unwrap();
        let mut initiator = ends.initiator.unwrap().activate(&domain).unwrap();
        initiator.feed(&ends.late).unwrap();
        let error = initiator.read(&mut [0; 16]).unwrap_err();
        assert_eq!(error.minor(), Minor::PeerAlert);
        let told = initiator.failure().unwrap().to_string();
        assert!(told.contains(alert), "{told}");
    };
    let stranger = || Authority::new("stranger").client("ada").initiator();
    for clients in [optional(), required()] {
        refused(clients, stranger(), Minor::CertificateRefused, "(48)");
    }
    refused(required(), nobody(), Minor::CertificateMissing, "(116)");
}

//= proves spec/mechanism.md#resumption
#[test]
fn sessions_are_resumed_where_both_sides_want_it() {
    let authority = Authority::new("authority");
    for (ours, theirs) in [(true, true), (true, false), (false, true)] {
        let (mut acceptor, initiator) = configs(&authority);
        if ours {
            acceptor = acceptor.resumption(Duration::from_secs(3600));
        }
        let (acceptor, initiator) = build((acceptor, initiator.resumption(theirs)));
        let domain = Domain::inherited(64).unwrap();
        for round in 0..3 {
            let acceptor = Acceptor::<Record>::new(acceptor.clone());
            let initiator = Initiator::<Record>::new(initiator.clone(), target()).unwrap();
            let Ok(Step::Continue { next, output }) = initiator.step(&[]) else {
                panic!()
            };
            let Ok(Step::Continue {
                next: acceptor,
                output,
            }) = acceptor.step(&output)
            else {
                panic!()
            };
            let Ok(Step::Done { finished, output }) = next.step(&output) else {
                panic!()
            };
            let resumed = round > 0 && ours && theirs;
            assert_eq!(finished.facts().resumed, resumed);
            let Ok(Step::Done {
                finished: acceptor,
                output: tickets,
            }) = acceptor.step(&output)
            else {
                panic!()
            };
            assert_eq!(acceptor.facts().resumed, resumed);
            assert_eq!(!tickets.is_empty(), ours);
            // The acceptor's tickets come first, then what it says.
            let mut acceptor = acceptor.activate(&domain).unwrap();
            let mut stream = finished.activate(&domain).unwrap().over(Wire(tickets));
            acceptor.seal(b"said", &mut stream.socket_mut().0).unwrap();
            let mut heard = [0; 4];
            std::io::Read::read_exact(&mut stream, &mut heard).unwrap();
            assert_eq!(&heard, b"said");
        }
    }
}

/// What the other side sent; what is sent to it goes nowhere.
struct Wire(Vec<u8>);

impl std::io::Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let length = std::io::Read::read(&mut self.0.as_slice(), out)?;
        self.0.drain(..length);
        Ok(length)
    }
}

impl std::io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_password_has_no_place_in_record_framing() {
    let authority = Authority::new("authority");
    let credential = InitiatorCredential::from_password(Password::new("ada", "secret").unwrap());
    let (_, initiator) = build({
        let (acceptor, initiator) = configs(&authority);
        (acceptor, initiator.credential(credential))
    });
    let error = Initiator::<Record>::new(initiator, target()).err().unwrap();
    assert_eq!(error.status().major(), Major::NoCred);
}

//= proves spec/mechanism.md#limits
#[test]
fn a_peer_that_is_not_authenticated_is_bounded() {
    let authority = Authority::new("authority");
    let (acceptor, _) = build(configs(&authority));
    // A hello that never ends: the handshake message says 2^24 - 1 bytes, in records of 16 KiB.
    let mut record = vec![0; 5 + 16_384];
    record[..5].copy_from_slice(&[22, 3, 1, 0x40, 0]);
    record[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
    let feed = |records: &[&[u8]]| {
        let mut side = Acceptor::<Record>::new(acceptor.clone());
        for (sent, record) in records.iter().enumerate() {
            match side.step(record) {
                Ok(Step::Continue { next, .. }) => side = next,
                Ok(_) => panic!("nothing was finished"),
                Err(failed) => return (sent, failed),
            }
        }
        panic!("no end")
    };
    let (sent, failed) = feed(&[&record[..]; 20]);
    assert!(sent < 9, "{sent}");
    assert_eq!(failed.status.major(), Major::DefectiveToken, "{failed}");
    assert!(failed.output.starts_with(&[21, 3]), "an alert");

    // One byte of it in each record.
    let first: &[u8] = &[22, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
    let mut records = vec![first];
    records.resize(200, &[22, 3, 1, 0, 1, 0]);
    let (sent, failed) = feed(&records);
    assert_eq!(sent, 128);
    assert_eq!(failed.status.minor(), Minor::ContextTokenTooLarge);

    // Other protocols.
    for other in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"SSH-2.0-x\r\n",
        &[0x80, 0x2e, 1, 3, 1],
    ] {
        let (_, failed) = feed(&[other]);
        assert_eq!(failed.status.minor(), Minor::ContextTokenMalformed);
        assert_eq!(failed.output, [21, 3, 3, 0, 2, 2, 50], "decode_error");
    }
}

#[test]
fn a_peer_may_go_at_any_byte() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = build(configs(&authority));
    let first = Initiator::<Record>::new(initiator, target()).unwrap();
    let Ok(Step::Continue { output: hello, .. }) = first.step(&[]) else {
        panic!()
    };
    for length in 0..hello.len() {
        let side = Acceptor::<Record>::new(acceptor.clone());
        let Ok(Step::Continue { next, output }) = side.step(&hello[..length]) else {
            panic!("{length}")
        };
        assert!(output.is_empty());
        drop(next);
    }
    let (_, _, flight) = before_the_last_flight(configs(&authority));
    for length in (0..flight.len()).step_by(5) {
        let (side, _, flight) = before_the_last_flight(configs(&authority));
        let Ok(Step::Continue { next, .. }) = side.step(&flight[..length]) else {
            panic!("{length}")
        };
        drop(next);
    }
}

//= proves spec/mechanism.md#limits
#[test]
fn a_chain_of_a_hundred_certificates_is_looked_at_in_bounded_time() {
    let authority = Authority::new("authority");
    let strangers = Authority::new("strangers");
    let client = authority.client("ada");
    let others: String = (0..90).map(|_| strangers.client("x").chain).collect();
    let ends = |chain: &str| {
        let long = Identity {
            chain: format!("{chain}{others}"),
            key: client.key.clone(),
        };
        let (acceptor, initiator) = configs(&authority);
        let clients = ClientCertificates::Required(authority.anchors());
        let configs = (
            acceptor.client_certificates(clients),
            initiator.credential(long.initiator()),
        );
        run(configs, 1 << 16)
    };
    // Those behind the leaf are only looked at where they are needed.
    let (acceptor, _) = ends(&client.chain).both();
    let name = acceptor.facts().initiator_name.clone().unwrap();
    assert_eq!(name.to_string(), "CN=ada");
}

#[test]
fn a_full_ledger_gives_the_handshake_back() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = run(configs(&authority), 1 << 16).both();
    let small = Domain::inherited(1).unwrap();
    let first = acceptor.activate(&small).unwrap();
    let refused = initiator.activate(&small).err().unwrap();
    assert_eq!(refused.error.minor(), Minor::LedgerFull);
    let large = Domain::inherited(8).unwrap();
    let mut second = refused.finished.activate(&large).unwrap();
    let mut first = first;
    say(&mut first, &mut second, b"as if nothing had been");
}

#[test]
fn a_configuration_serves_many_at_once() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = build(configs(&authority));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (acceptor, initiator) = (Arc::clone(&acceptor), Arc::clone(&initiator));
            scope.spawn(move || {
                for _ in 0..5 {
                    let initiator = Initiator::<Record>::new(initiator.clone(), target()).unwrap();
                    let ends = records(Acceptor::new(acceptor.clone()), initiator, 1000).both();
                    let (mut acceptor, mut initiator) = activate(ends);
                    say(&mut initiator, &mut acceptor, b"hello");
                }
            });
        }
    });
}
