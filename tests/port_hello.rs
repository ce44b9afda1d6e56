//! Sessions whose application hears the initiator's hello before it says how it is answered.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use baton::context::Role;
use baton::establish::{Framing, Hello};
use baton::ledger::Domain;
use baton::port::{
    Amount, Attribute, ClientAuthentication, Code, Completion, Environment, Operation, Port,
    Session, SessionState,
};
use baton::record::Alert;
use portside::*;

fn hearing(port: &Port, place: &Place, framing: Option<Framing>) -> Environment {
    let attributes = vec![
        Attribute::Hello(true),
        Attribute::Framing(framing),
        Attribute::ClientAuthentication(ClientAuthentication::Optional),
    ];
    place.environment(port, attributes)
}

/// An initiator that offers a protocol.
fn peer(port: &Port, place: &Place, framing: Framing) -> Session {
    place.keep("client", &place.authority.client("alice"));
    let clients = place.open(port, "client");
    for attribute in [
        Attribute::Role(Role::Initiator),
        Attribute::Framing(Some(framing)),
        Attribute::ApplicationProtocols(vec![b"one".to_vec(), b"two".to_vec()]),
    ] {
        clients.set(attribute).unwrap();
    }
    clients.init().unwrap();
    Session::open(&clients).unwrap()
}

/// The acceptor, once it has heard.
fn heard(port: &Port) -> (Session, Hello) {
    let Completion {
        operation,
        tag,
        session,
        error,
        ..
    } = next(port);
    assert_eq!((operation, tag, error), (Operation::Hello, 1, None));
    let session = session.unwrap();
    assert_eq!(session.state(), SessionState::Heard);
    assert!(session.is_pending(Operation::Handshake));
    let invalid = [
        refused(session.start_handshake(sockets().0, 9)),
        refused(session.start_receive(vec![0], Amount::Some, 9)),
        refused(session.start_send(vec![0], 9)),
        refused(session.detach()),
    ];
    assert_eq!(invalid, [Code::InvalidState; 4]);
    let hello = session.hello().unwrap();
    (session, hello)
}

//= proves spec/port.md#hello E1 E2
#[test]
fn a_hello_is_heard_and_answered_as_the_application_says_then() {
    for port in [Port::new().unwrap(), Port::driven_by_waiters().unwrap()] {
        for framing in [Framing::Record, Framing::Message] {
            let place = Place::new();
            let environment = hearing(&port, &place, None);
            let acceptor = Session::open(&environment).unwrap();
            let (ours, theirs) = sockets();
            acceptor.start_handshake(ours, 1).unwrap();
            assert_eq!(refused(acceptor.go_on()), Code::InvalidState, "not heard");
            assert_eq!(acceptor.hello(), None);
            let initiator = peer(&port, &place, framing);
            initiator.start_handshake(theirs, 2).unwrap();

            let (acceptor, hello) = heard(&port);
            assert_eq!(hello.server_name.as_deref(), Some(parties::HOST));
            assert!(hello.suites.contains(&0x1302) && hello.signature_schemes.contains(&0x0403));
            let offers = hello.application_protocols;
            let message = framing == Framing::Message;
            assert_eq!(offers[0], if message { &b"baton/1"[..] } else { b"one" });
            let protocols = Attribute::ApplicationProtocols(vec![b"two".to_vec()]);
            acceptor.set(protocols).unwrap();
            acceptor.go_on().unwrap();
            assert_eq!(refused(acceptor.go_on()), Code::InvalidState, "twice");

            for _ in 0..2 {
                let done = next(&port);
                assert_eq!((done.operation, done.error), (Operation::Handshake, None));
            }
            let agreed = acceptor.facts(|facts| facts.application_protocol.clone());
            let two = (!message).then(|| b"two".to_vec());
            assert_eq!(agreed.unwrap().filter(|_| !message), two);
            talk(&port, &acceptor, &initiator);
        }
    }
}

/// A hello that comes byte by byte is heard when it is whole, and no byte of it is lost.
//= proves spec/port.md#hello E2
#[test]
fn a_hello_may_come_in_pieces() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = hearing(&port, &place, Some(Framing::Record));
    let acceptor = Session::open(&environment).unwrap();
    let (ours, mut between) = sockets();
    let (mut told, theirs) = sockets();
    acceptor.start_handshake(ours, 1).unwrap();
    let initiator = peer(&port, &place, Framing::Record);
    initiator.start_handshake(theirs, 2).unwrap();
    let mut bytes = [0; 4096];
    let count = told.read(&mut bytes).unwrap();
    for byte in &bytes[..count - 1] {
        between.write_all(&[*byte]).unwrap();
    }
    assert_eq!(
        port.wait(Some(Duration::ZERO)).unwrap_err().code(),
        Code::WaitTimeout
    );
    between.write_all(&bytes[count - 1..count]).unwrap();
    let (acceptor, _) = heard(&port);
    acceptor.go_on().unwrap();
    pass(told, between);
    for _ in 0..2 {
        assert!(next(&port).error.is_none());
    }
    talk(&port, &acceptor, &initiator);
}

/// Passes on what both sides say, until both have ended.
fn pass(one: UnixStream, other: UnixStream) {
    let ends = [(one.try_clone(), other.try_clone()), (Ok(other), Ok(one))];
    for (from, to) in ends {
        let (mut from, mut to) = (from.unwrap(), to.unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    }
}

//= proves spec/port.md#hello spec/port.md#abort E5
#[test]
fn who_was_heard_can_be_sent_away_with_an_alert_and_closed_without() {
    for framing in [Framing::Record, Framing::Message] {
        let (port, place) = (Port::new().unwrap(), Place::new());
        let environment = hearing(&port, &place, Some(framing));
        for alert in [Some(Alert::ACCESS_DENIED), None] {
            let acceptor = Session::open(&environment).unwrap();
            let (ours, theirs) = sockets();
            acceptor.start_handshake(ours, 1).unwrap();
            let initiator = peer(&port, &place, framing);
            initiator.start_handshake(theirs, 2).unwrap();
            let (acceptor, _) = heard(&port);
            match alert {
                Some(alert) => acceptor.abort(alert).unwrap(),
                None => acceptor.close().unwrap(),
            }
            assert_eq!(acceptor.state(), SessionState::Closed);
            let mut ends = [next(&port), next(&port)];
            ends.sort_by_key(|done| done.tag);
            assert_eq!(code(&ends[0]), Some(Code::SessionClosed));
            let failed = ends[1].error.clone().unwrap();
            match alert {
                Some(_) => assert!(failed.reason().contains("AccessDenied"), "{failed:?}"),
                None => assert_eq!(failed.code(), Code::SocketClosed),
            }
        }
    }
}

//= proves spec/port.md#hello E3
#[test]
fn an_application_that_does_not_go_on_costs_no_more_than_a_handshake() {
    let place = Place::new();
    let begin = |patience| {
        let port = Port::new().unwrap();
        let environment = hearing(&port, &place, Some(Framing::Record));
        let acceptor = Session::open(&environment).unwrap();
        acceptor.set(Attribute::HandshakeTimeout(patience)).unwrap();
        let (ours, theirs) = sockets();
        acceptor.start_handshake(ours, 1).unwrap();
        let initiator = peer(&port, &place, Framing::Record);
        initiator.start_handshake(theirs, 2).unwrap();
        let (session, _) = heard(&port);
        (port, session, initiator)
    };
    let (port, session, _initiator) = begin(Duration::from_millis(50));
    let over = loop {
        let done = next(&port);
        if done.tag == 1 {
            break done;
        }
    };
    assert_eq!(code(&over), Some(Code::HandshakeTimeout));
    assert_eq!(session.state(), SessionState::Failed);
    assert_eq!(refused(session.go_on()), Code::InvalidState);

    let (_port, session, _initiator) = begin(PATIENCE);
    assert_eq!(session.cancel(Operation::Handshake).unwrap(), 1);
    assert_eq!(session.state(), SessionState::Failed);
    let (port, session, _initiator) = begin(PATIENCE);
    port.destroy();
    assert_eq!(session.state(), SessionState::Failed);
}

/// Who a context will be is known before it is established; one that never is ends.
//= proves spec/port.md#hello X8
#[test]
fn a_session_has_its_identifier_while_its_handshake_goes_on() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let domain = Domain::inherited(64).unwrap();
    let environment = place.open_in(&domain, &port, "server");
    environment.set(Attribute::Hello(true)).unwrap();
    environment.init().unwrap();
    for goes_on in [true, false] {
        let acceptor = Session::open(&environment).unwrap();
        assert_eq!(refused(acceptor.reserve()), Code::InvalidState);
        let (ours, theirs) = sockets();
        acceptor.start_handshake(ours, 1).unwrap();
        let initiator = peer(&port, &place, Framing::Record);
        initiator.start_handshake(theirs, 2).unwrap();
        let (acceptor, _) = heard(&port);
        assert_eq!(acceptor.identifier(), None);
        let identifier = acceptor.reserve().unwrap();
        assert_eq!(acceptor.reserve().unwrap(), identifier, "one a session");
        assert_eq!(acceptor.identifier(), Some(identifier));
        let in_ledger = || {
            domain
                .ledger()
                .list()
                .iter()
                .map(|one| one.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(in_ledger(), [*identifier.as_bytes()]);
        if goes_on {
            acceptor.go_on().unwrap();
            assert!((0..2).all(|_| next(&port).error.is_none()));
            assert_eq!(acceptor.identifier(), Some(identifier));
            assert_eq!(in_ledger(), [*identifier.as_bytes()]);
            acceptor.close().unwrap();
        } else {
            acceptor.abort(Alert::ACCESS_DENIED).unwrap();
        }
        assert!(in_ledger().is_empty());
    }
}

/// What is no hello is answered by the handshake, as ever.
//= proves spec/port.md#hello E5
#[test]
fn what_is_no_hello_is_not_told() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = hearing(&port, &place, None);
    for garbage in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0x16, 3, 1, 0, 5, 2, 0, 0, 1, 0],
        &[0, 0, 0, 3, 1, 2, 3],
        &[0xff],
    ] {
        let acceptor = Session::open(&environment).unwrap();
        let (ours, mut theirs) = sockets();
        acceptor.start_handshake(ours, 1).unwrap();
        theirs.write_all(garbage).unwrap();
        let done = next(&port);
        assert_eq!(done.operation, Operation::Handshake);
        assert_eq!(code(&done), Some(Code::HandshakeFailed), "{garbage:?}");
    }

    let clients = place.open(&port, "server");
    for attribute in [Attribute::Role(Role::Initiator), Attribute::Hello(true)] {
        clients.set(attribute).unwrap();
    }
    assert_eq!(refused(clients.init()), Code::BadHello);
}
