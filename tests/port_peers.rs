//! What peers do to a session over a completion port: slow bytes, garbage, forged records, hanging
//! up at any moment; and a context that leaves its session alive.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use baton::context::Context;
use baton::cred::{InitiatorCredential, Password};
use baton::establish::{
    Attempt, Finished, Framing, Initiator, InitiatorConfig, Step, TOKEN_LIMIT, Tokens, Verdict,
};
use baton::exit::UserData;
use baton::ledger::Domain;
use baton::message::Message;
use baton::port::{Amount, Attribute, Code, Live, Operation, Port, Session, SessionState};
use baton::record::{Read as Got, Record};
use baton::status::Minor;
use baton::transfer::{self, Export};
use portside::parties::target;
use portside::*;

fn initiator_config(place: &Place) -> Arc<InitiatorConfig> {
    Arc::new(
        InitiatorConfig::builder(place.authority.anchors())
            .build()
            .unwrap(),
    )
}

/// A client of our own over a blocking socket, which sends `piece` bytes at a time.
fn client(place: &Place, mut socket: &UnixStream, piece: usize) -> Context<Record> {
    let mut side = Initiator::<Record>::new(initiator_config(place), target()).unwrap();
    let mut heard = Vec::new();
    let finished: Finished<Record> = loop {
        let (next, output) = match side.step(&heard).unwrap() {
            Step::Continue { next, output } => (Some(next), output),
            Step::Done { finished, output } => {
                for part in output.chunks(piece) {
                    socket.write_all(part).unwrap();
                }
                break finished;
            }
            Step::Password(_) => panic!("none is asked for"),
        };
        for part in output.chunks(piece) {
            socket.write_all(part).unwrap();
        }
        side = next.unwrap();
        heard = vec![0; 4096];
        let count = socket.read(&mut heard).unwrap();
        assert!(count > 0);
        heard.truncate(count);
    };
    finished.activate(&Domain::inherited(4).unwrap()).unwrap()
}

#[test]
fn a_peer_may_send_a_byte_at_a_time() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let (ours, theirs) = sockets();
    let session = Session::open(&environment).unwrap();
    session.start_handshake(ours, 1).unwrap();
    let mut context = client(&place, &theirs, 1);
    assert!(next(&port).error.is_none());
    session.start_receive(vec![0; 5], Amount::Full, 2).unwrap();
    let mut sealed = Vec::new();
    context.seal(b"hello", &mut sealed).unwrap();
    for byte in sealed.chunks(1) {
        (&theirs).write_all(byte).unwrap();
    }
    assert_eq!(next(&port).data, b"hello");
}

#[test]
fn garbage_is_refused_with_an_alert_and_harms_nobody_else() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![Attribute::Anonymous(true)]);
    let (a, b) = meet(&port, &environment);
    for (framing, garbage, alert) in [
        (Some(Framing::Record), &b"GET / HTTP/1.0\r\n\r\n"[..], true),
        (Some(Framing::Record), &[0x16, 3, 1, 0, 4, 1, 0, 0, 0], true),
        (Some(Framing::Record), &[0xff; 70_000], true),
        (Some(Framing::Message), &[0xff; 70_000], false),
        (Some(Framing::Message), &[0, 0, 0, 2, 1, 1], false),
        (None, b"GET / HTTP/1.0\r\n\r\n", false),
        (None, &[0x16; 70_000], true),
    ] {
        let (ours, theirs) = sockets();
        let session = Session::open(&environment).unwrap();
        session.set(Attribute::Framing(framing)).unwrap();
        session.start_handshake(ours, 1).unwrap();
        let mut writer = theirs.try_clone().unwrap();
        let heard = std::thread::scope(|scope| {
            // It may hang up before it has everything.
            scope.spawn(move || drop(writer.write_all(garbage)));
            let mut heard = Vec::new();
            (&theirs).read_to_end(&mut heard).map(|_| heard)
        });
        let done = next(&port);
        assert_eq!(code(&done), Some(Code::HandshakeFailed));
        let error = done.error.unwrap();
        let minor = error.status().unwrap().minor();
        assert!(
            matches!(
                minor,
                Minor::ContextTokenMalformed
                    | Minor::ContextTokenTooLarge
                    | Minor::MechanismUnknown
            ),
            "{error}"
        );
        if alert {
            assert_eq!(heard.unwrap()[..2], [21, 3], "{error}");
        }
        assert_eq!(session.state(), SessionState::Failed);
    }
    talk(&port, &a, &b);
}

//= proves spec/port.md#close E3
#[test]
fn a_connection_that_is_closed_ends_what_is_pending() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    // At every byte of the handshake's first flights.
    let (mut hello, mut pieces) = (Vec::new(), 0);
    if let Ok(Step::Continue { output, .. }) =
        Initiator::<Record>::new(initiator_config(&place), target())
            .unwrap()
            .step(&[])
    {
        hello = output;
    }
    for end in (0..hello.len()).step_by(13).chain([hello.len()]) {
        let (ours, theirs) = sockets();
        let session = Session::open(&environment).unwrap();
        session.start_handshake(ours, end as u64).unwrap();
        (&theirs).write_all(&hello[..end]).unwrap();
        drop(theirs);
        let done = next(&port);
        assert_eq!(
            (done.tag, code(&done)),
            (end as u64, Some(Code::SocketClosed))
        );
        pieces += 1;
    }
    assert!(pieces > 10);
    // With data pending in both directions, cut without a word.
    let (ours, theirs) = sockets();
    let session = Session::open(&environment).unwrap();
    session.start_handshake(ours, 1).unwrap();
    let mut context = client(&place, &theirs, 1 << 20);
    assert!(next(&port).error.is_none());
    session
        .start_receive(vec![0; 100], Amount::Full, 2)
        .unwrap();
    let mut sealed = Vec::new();
    context.seal(b"half", &mut sealed).unwrap();
    (&theirs).write_all(&sealed).unwrap();
    let mut sends = 0;
    while session.start_send(vec![1; 60_000], 3).is_ok() {
        sends += 1;
    }
    drop(theirs);
    let mut ends = Vec::new();
    for _ in 0..=sends {
        ends.push(next(&port));
    }
    let received = ends
        .iter()
        .find(|end| end.operation == Operation::Receive)
        .unwrap();
    assert_eq!(
        (code(received), &received.data[..]),
        (Some(Code::SocketClosed), &b"half"[..])
    );
    let last = ends
        .iter()
        .rfind(|end| end.operation == Operation::Send)
        .unwrap();
    assert_eq!(code(last), Some(Code::SocketClosed));
    // And closed on this side.
    let (a, b) = meet(&port, &environment);
    a.start_receive(vec![0; 10], Amount::Full, 4).unwrap();
    a.close().unwrap();
    assert_eq!(code(&next(&port)), Some(Code::SessionClosed));
    assert_eq!(receive(&port, &b, 10), b"", "the peer was told");
}

#[test]
fn a_session_that_fails_tells_its_peer_and_its_worker() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let (ours, theirs) = sockets();
    let session = Session::open(&environment).unwrap();
    session.start_handshake(ours, 1).unwrap();
    let mut context = client(&place, &theirs, 1 << 20);
    assert!(next(&port).error.is_none());
    session.start_receive(vec![0; 10], Amount::Full, 2).unwrap();
    let mut sealed = Vec::new();
    context.seal(b"hello", &mut sealed).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    (&theirs).write_all(&sealed).unwrap();
    let done = next(&port);
    assert_eq!(code(&done), Some(Code::SessionFailed));
    assert_eq!(
        done.error.unwrap().status().unwrap().minor(),
        Minor::RecordForged
    );
    assert_eq!(session.state(), SessionState::Failed);
    let mut heard = Vec::new();
    (&theirs).read_to_end(&mut heard).unwrap();
    context.feed(&heard).unwrap();
    assert_eq!(
        context.read(&mut [0; 8]).unwrap_err().minor(),
        Minor::PeerAlert
    );
}

//= proves spec/port.md#detach E4
#[test]
fn a_session_gives_up_its_context_alive_to_be_exported() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![Attribute::Anonymous(true)]);
    let (ours, theirs) = sockets();
    let session = Session::open(&environment).unwrap();
    session.start_handshake(ours, 1).unwrap();
    let mut context = client(&place, &theirs, 1 << 20);
    assert!(next(&port).error.is_none());
    let identifier = session.identifier().unwrap();
    // Read in part, and in part not.
    let mut sealed = Vec::new();
    context.seal(b"read, unread", &mut sealed).unwrap();
    (&theirs).write_all(&sealed).unwrap();
    session.start_receive(vec![0; 50], Amount::Full, 2).unwrap();
    assert_eq!(refused(session.detach()), Code::AlreadyPending);
    assert_eq!(session.cancel(Operation::Receive).unwrap(), 1);
    let cancelled = next(&port);
    let rest = if cancelled.data.is_empty() {
        assert_eq!(receive(&port, &session, 6), b"read, ");
        &b"unread"[..]
    } else {
        assert_eq!(cancelled.data, b"read, unread");
        b""
    };
    let parts = session.detach().unwrap();
    assert_eq!(
        (session.state(), environment.sessions()),
        (SessionState::Closed, 0)
    );
    assert!(parts.unsent.is_empty());
    assert_eq!(parts.live.session(), identifier);
    let Live::Record(live) = parts.live else {
        panic!("record framing")
    };
    let domain = live.domain().clone();
    let token = live.export(&Export::default()).unwrap();
    let mut imported: Context<Record> = transfer::import(&domain, token.as_bytes(), None).unwrap();
    let mut buffer = [0; 50];
    match imported.read(&mut buffer).unwrap() {
        Got::Data(count) => assert_eq!(&buffer[..count], rest),
        _ => assert!(rest.is_empty()),
    }
    let mut sealed = Vec::new();
    imported.seal(b"from the importer", &mut sealed).unwrap();
    let mut socket = UnixStream::from(parts.socket);
    socket.write_all(&sealed).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    (&theirs).read_to_end(&mut heard).unwrap();
    context.feed(&heard).unwrap();
    assert_eq!(context.read(&mut buffer).unwrap(), Got::Data(17));
}

/// An initiator with a password, in message framing over a blocking socket. Whether it was let in.
fn with_password(place: &Place, mut socket: &UnixStream, text: &str) -> bool {
    let password = Password::new("ada", text).unwrap();
    let config = InitiatorConfig::builder(place.authority.anchors())
        .credential(InitiatorCredential::from_password(password))
        .build();
    let mut side = Initiator::<Message>::new(Arc::new(config.unwrap()), target()).unwrap();
    let (mut tokens, mut token) = (Tokens::new(TOKEN_LIMIT), Vec::new());
    loop {
        match side.step(&token) {
            Ok(Step::Continue { next, output }) => {
                socket.write_all(&Tokens::frame(&output)).unwrap();
                side = next;
            }
            Ok(Step::Done { .. }) => return true,
            Ok(Step::Password(_)) | Err(_) => return false,
        }
        token = loop {
            let mut heard = [0; 4096];
            let count = socket.read(&mut heard).unwrap();
            if count == 0 {
                return false;
            }
            if let Some(token) = tokens.next(&mut &heard[..count]).unwrap() {
                break token;
            }
        };
    }
}

//= proves spec/port.md#handshake E2
#[test]
fn passwords_are_asked_for_and_a_panic_among_them_is_a_refusal() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let passwords = |attempt: &Attempt<'_>| {
        assert_ne!(attempt.password, "tripping");
        let mut user = UserData::default();
        user.set_user_name(attempt.user).unwrap();
        match attempt.password {
            "right" => Verdict::Accept(user),
            _ => Verdict::Deny,
        }
    };
    let framing = Attribute::Framing(Some(Framing::Message));
    let passwords = Attribute::Passwords(Arc::new(passwords), 1);
    let environment = place.environment(&port, vec![framing, passwords]);
    for (text, expected) in [
        ("right", None),
        ("wrong", Some(Code::HandshakeFailed)),
        ("tripping", Some(Code::HandshakeFailed)),
        ("right", None),
    ] {
        let (ours, theirs) = sockets();
        let session = Session::open(&environment).unwrap();
        session.start_handshake(ours, 1).unwrap();
        assert_eq!(
            with_password(&place, &theirs, text),
            expected.is_none(),
            "{text}"
        );
        let done = next(&port);
        assert_eq!(code(&done), expected, "{text}");
        assert!(
            !format!("{done:?}").contains(text),
            "no password in an error"
        );
        if expected.is_none() {
            let named = session.facts(|facts| facts.initiator_name.is_some());
            assert!(named.unwrap());
        }
    }
}
