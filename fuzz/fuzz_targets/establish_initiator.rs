//! A hostile acceptor: what our initiator makes of its bytes, in both framings, before the
//! handshake is finished and after.
//!
//! The first byte says which: 0 raw bytes in record framing, in pieces; 1 raw tokens in message
//! framing; 2 a real acceptor's tokens, altered on the way; 3 a real TLS server that says in the
//! tunnel what the input says. Held is: no panic, no output past its bound, no end without a
//! reason, and no context with who is not the target.

#![no_main]

#[path = "../parties.rs"]
#[macro_use]
mod parties;

use std::io::Write;
use std::sync::{Arc, OnceLock};

use baton::cred::Password;
use baton::establish::{Acceptor, Failed, INPUT_LIMIT, Initiator, Step, TOKEN_LIMIT};
use baton::flags::Flags;
use baton::message::Message;
use baton::record::Record;
use libfuzzer_sys::fuzz_target;
use parties::Input;
use rustls::{ServerConfig, ServerConnection};

/// What every step is held to.
fn held<S, F, A>(step: &Result<Step<S, F, A>, Failed>) {
    let output = match step {
        Ok(Step::Continue { output, .. } | Step::Done { output, .. }) => output,
        Ok(Step::Password(_)) => return,
        Err(failed) => {
            assert!(failed.reason.is_ascii() && failed.reason.len() <= 256);
            assert!(!failed.reason.is_empty());
            &failed.output
        }
    };
    assert!(output.len() <= TOKEN_LIMIT);
}

fn initiator() -> Initiator<Message> {
    Initiator::<Message>::new(parties::initiator(), parties::target()).expect("a target")
}

/// Our initiator behind its first step, and its flight without the header.
fn begun() -> (Initiator<Message>, Vec<u8>) {
    let Ok(Step::Continue { next, mut output }) = initiator().step(&[]) else {
        panic!("it speaks first")
    };
    let flight = output.iter().position(|byte| *byte == 0x16);
    output.drain(..flight.expect("a record"));
    (next, output)
}

fn records(input: &mut Input<'_>) {
    let piece = usize::from(input.byte()).max(1);
    let initiator = Initiator::<Record>::new(parties::initiator(), parties::target());
    let Ok(Step::Continue { next, .. }) = initiator.expect("a target").step(&[]) else {
        panic!("it speaks first")
    };
    let mut initiator = next;
    for part in input.take(INPUT_LIMIT).chunks(piece) {
        let step = initiator.step(part);
        held(&step);
        match step {
            Ok(Step::Continue { next, .. }) => initiator = next,
            Ok(Step::Done { .. }) => panic!("nobody can have finished"),
            Err(_) => return,
        }
    }
}

fn tokens(input: &mut Input<'_>) {
    let (mut initiator, _) = begun();
    while !input.0.is_empty() {
        let step = initiator.step(input.piece());
        held(&step);
        match step {
            Ok(Step::Continue { next, .. }) => initiator = next,
            Ok(_) => panic!("nobody can have finished"),
            Err(_) => return,
        }
    }
}

fn altered(input: &mut Input<'_>) {
    let mut acceptor = Acceptor::<Message>::new(parties::acceptor());
    let Ok(Step::Continue { next, output }) = initiator().step(&[]) else {
        panic!("it speaks first")
    };
    let (mut initiator, mut token) = (next, output);
    loop {
        let sent = match acceptor.step(&token) {
            Ok(Step::Continue { next, output }) => {
                acceptor = next;
                output
            }
            Ok(Step::Done { output, .. }) => {
                let mut token = output.clone();
                input.alter(&mut token);
                let step = initiator.step(&token);
                held(&step);
                assert_eq!(matches!(step, Ok(Step::Done { .. })), token == output);
                return;
            }
            Err(_) => panic!("a good token was refused"),
        };
        let mut altered = sent.clone();
        input.alter(&mut altered);
        let step = initiator.step(&altered);
        held(&step);
        match step {
            Ok(Step::Continue { next, output }) if sent == altered => {
                (initiator, token) = (next, output);
            }
            Ok(Step::Continue { next, .. }) => {
                // Some of a hello may be anything; what follows does not fit it.
                assert!(next.step(&sent).is_err());
                return;
            }
            Ok(_) => panic!("the acceptor has not finished"),
            Err(_) => return,
        }
    }
}

fn server(offers_us: bool) -> ServerConnection {
    static CONFIG: OnceLock<ServerConfig> = OnceLock::new();
    let make = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a version")
            .with_no_client_auth()
            .with_single_cert(vec![parties::certificate()], parties::key())
            .expect("a certificate and its key")
    };
    let mut config = CONFIG.get_or_init(make).clone();
    if offers_us {
        config.alpn_protocols = vec![b"baton/1".to_vec()];
    }
    ServerConnection::new(Arc::new(config)).expect("a server")
}

fn exchange(input: &mut Input<'_>) {
    let options = input.byte();
    let (next, flight) = begun();
    let mut server = server(options & 1 == 0);
    assert!(hears!(server, flight));
    let step = next.step(&sent!(server));
    held(&step);
    let Ok(Step::Continue { next, output }) = step else {
        assert!(options & 1 != 0, "a good flight was refused");
        return;
    };
    assert!(hears!(server, output));
    let mut initiator = next;
    for round in 0..8 {
        server.writer().write_all(&input.message()).expect("room");
        if options & 2 != 0 && round > 0 {
            server
                .refresh_traffic_keys()
                .expect("an established session");
        }
        if options & 4 != 0 {
            server.send_close_notify();
        }
        let mut token = sent!(server);
        if options & 8 != 0 {
            input.alter(&mut token);
        }
        let step = initiator.step(&token);
        held(&step);
        match step {
            Ok(Step::Done { finished, .. }) => {
                let facts = finished.facts();
                assert_eq!(facts.target_name, Some(parties::target()));
                let always = Flags::MUTUAL | Flags::INTEGRITY;
                assert!(facts.flags.contains(always) && facts.expires.is_some());
                return;
            }
            Ok(Step::Password(asked)) => {
                assert!(asked.attempts() > 0);
                let password = Password::new("ada", "right").expect("a password");
                let Ok((next, output)) = asked.answer(&password) else {
                    panic!("a password can be sent")
                };
                assert!(hears!(server, output));
                initiator = next;
            }
            Ok(Step::Continue { .. }) => panic!("an answer says something"),
            Err(_) => return,
        }
    }
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
