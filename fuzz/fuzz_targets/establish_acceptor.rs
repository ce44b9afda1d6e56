//! A hostile initiator: what our acceptor makes of its bytes, in both framings, before its
//! handshake is finished and after.
//!
//! The first byte says which: 0 raw bytes in record framing, in pieces; 1 raw tokens in message
//! framing; 2 a real initiator's tokens, altered on the way; 3 a real TLS client that says in the
//! tunnel what the input says. Held is: no panic, no output past its bound, no end without a
//! reason, and no context for who was not let in.

#![no_main]

#[path = "../parties.rs"]
#[macro_use]
mod parties;

use std::io::Write;
use std::sync::{Arc, OnceLock};

use baton::establish::{Acceptor, Failed, INPUT_LIMIT, Initiator, Step, TOKEN_LIMIT};
use baton::message::Message;
use baton::record::Record;
use libfuzzer_sys::fuzz_target;
use parties::Input;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// What every step is held to.
fn held<S, F>(step: &Result<Step<S, F>, Failed>) {
    let output = match step {
        Ok(Step::Continue { output, .. } | Step::Done { output, .. }) => output,
        Ok(Step::Password(never)) => match *never {},
        Err(failed) => {
            assert!(failed.reason.is_ascii() && failed.reason.len() <= 256);
            assert!(!failed.reason.is_empty());
            &failed.output
        }
    };
    assert!(output.len() <= TOKEN_LIMIT);
}

fn records(input: &mut Input<'_>) {
    let piece = usize::from(input.byte()).max(1);
    let mut acceptor = Acceptor::<Record>::new(parties::acceptor());
    for part in input.take(INPUT_LIMIT).chunks(piece) {
        let step = acceptor.step(part);
        held(&step);
        match step {
            Ok(Step::Continue { next, .. }) => acceptor = next,
            Ok(Step::Done { .. }) => panic!("nobody can have finished"),
            Err(_) => return,
        }
    }
}

fn tokens(input: &mut Input<'_>) {
    let mut acceptor = Acceptor::<Message>::new(parties::acceptor());
    while !input.0.is_empty() {
        let step = acceptor.step(input.piece());
        held(&step);
        match step {
            Ok(Step::Continue { next, .. }) => acceptor = next,
            Ok(Step::Done { .. }) => panic!("nobody can have finished"),
            Err(_) => return,
        }
    }
}

fn altered(input: &mut Input<'_>) {
    let mut acceptor = Acceptor::<Message>::new(parties::acceptor());
    let initiator = Initiator::<Message>::new(parties::initiator(), parties::target());
    let mut initiator = initiator.expect("a target");
    let mut token = Vec::new();
    loop {
        let Ok(Step::Continue { next, output }) = initiator.step(&token) else {
            return;
        };
        (initiator, token) = (next, output);
        input.alter(&mut token);
        let step = acceptor.step(&token);
        held(&step);
        match step {
            Ok(Step::Continue { next, output }) => (acceptor, token) = (next, output),
            Ok(Step::Done { finished, output }) => {
                // A change_cipher_spec may be left out; then both sides have finished.
                assert!(finished.facts().initiator_name.is_none());
                assert!(matches!(initiator.step(&output), Ok(Step::Done { .. })));
                return;
            }
            Err(_) => return,
        }
    }
}

fn client(offers_us: bool) -> ClientConnection {
    static CONFIG: OnceLock<ClientConfig> = OnceLock::new();
    let make = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut anchors = RootCertStore::empty();
        anchors.add(parties::certificate()).expect("an anchor");
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a version")
            .with_root_certificates(anchors)
            .with_no_client_auth()
    };
    let mut config = CONFIG.get_or_init(make).clone();
    if offers_us {
        config.alpn_protocols = vec![b"baton/1".to_vec()];
    }
    let name = ServerName::try_from(parties::HOST).expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

fn header(flight: &[u8]) -> Vec<u8> {
    const OID: [u8; 12] = [0x06, 0x0a, 0x2b, 6, 1, 4, 1, 0x81, 0xfd, 0x59, 1, 1];
    let length = OID.len() + flight.len();
    let length = match length {
        0..=0x7f => vec![length as u8],
        0x80..=0xff => vec![0x81, length as u8],
        _ => [&[0x82][..], &(length as u16).to_be_bytes()].concat(),
    };
    [&[0x60], &length[..], &OID, flight].concat()
}

fn exchange(input: &mut Input<'_>) {
    let options = input.byte();
    let mut client = client(options & 1 == 0);
    let acceptor = Acceptor::<Message>::new(parties::acceptor());
    let Ok(Step::Continue { next, output }) = acceptor.step(&header(&sent!(client))) else {
        panic!("a good hello was refused")
    };
    assert!(hears!(client, output));
    let mut acceptor = next;
    for round in 0..5 {
        let message = input.message();
        client.writer().write_all(&message).expect("room");
        if options & 2 != 0 && round > 0 {
            client
                .refresh_traffic_keys()
                .expect("an established session");
        }
        if options & 4 != 0 {
            client.send_close_notify();
        }
        let mut token = sent!(client);
        if options & 8 != 0 {
            input.alter(&mut token);
        }
        let step = acceptor.step(&token);
        held(&step);
        match step {
            Ok(Step::Continue { next, output }) => {
                assert!(hears!(client, output));
                acceptor = next;
            }
            Ok(Step::Done { finished, .. }) => {
                let name = finished.facts().initiator_name.as_ref();
                assert!(name.is_none_or(|name| name.to_string() == "ada"));
                assert!(message.len() == 2048 && options & 1 == 0);
                return;
            }
            Err(_) => return,
        }
    }
    panic!("three passwords were allowed, and asked for once");
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    match input.byte() % 4 {
        0 => records(&mut input),
        1 => tokens(&mut input),
        2 => altered(&mut input),
        _ => exchange(&mut input),
    }
});
