//! What may be called in which state, and what attributes are inherited, overridden and refused.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use baton::context::Role;
use baton::cred::AcceptorCredential;
use baton::establish::{Decision, Framing, Presented};
use baton::ledger::Domain;
use baton::port::{
    Amount, Attribute, ClientAuthentication, Code, Environment, EnvironmentState, Key, Operation,
    Port, Session, SessionState,
};
use portside::*;

fn timeout() -> Attribute {
    Attribute::ReadTimeout(Some(PATIENCE))
}

//= proves spec/port.md#environment-states E1
#[test]
fn an_environment_is_called_in_its_order_only() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.open(&port, "server");
    let state = |expected| assert_eq!(environment.state(), expected);
    state(EnvironmentState::Open);
    assert_eq!(refused(Session::open(&environment)), Code::InvalidState);
    assert_eq!(
        refused(environment.reset_session_cache()),
        Code::InvalidState
    );
    environment.set(timeout()).unwrap();

    environment.init().unwrap();
    state(EnvironmentState::Initialized);
    assert_eq!(refused(environment.set(timeout())), Code::InvalidState);
    assert_eq!(refused(environment.init()), Code::InvalidState);
    environment.reset_session_cache().unwrap();
    let session = Session::open(&environment).unwrap();
    assert_eq!(environment.sessions(), 1);

    environment.close(5).unwrap();
    for expected in [EnvironmentState::Closing, EnvironmentState::Closed] {
        state(expected);
        assert_eq!(refused(environment.set(timeout())), Code::InvalidState);
        assert_eq!(refused(environment.init()), Code::InvalidState);
        assert_eq!(refused(environment.close(6)), Code::InvalidState);
        assert_eq!(
            refused(Session::open(&environment)),
            Code::EnvironmentClosed
        );
        if expected == EnvironmentState::Closing {
            session.close().unwrap();
            let ended = next(&port);
            assert_eq!(
                (ended.operation, ended.tag, ended.value),
                (Operation::Ended, 5, 1)
            );
        }
    }
    // One that was never initialised ends at once.
    let environment = place.open(&port, "server");
    environment.close(7).unwrap();
    assert_eq!(environment.state(), EnvironmentState::Closed);
    let ended = next(&port);
    assert_eq!((ended.tag, ended.value), (7, 0));
}

/// Every call that a state does not permit.
fn nothing_but(session: &Session, permitted: &[&str]) {
    let forbidden = |call: &str| !permitted.contains(&call);
    if forbidden("set") {
        assert_eq!(refused(session.set(timeout())), Code::InvalidState);
    }
    if forbidden("handshake") {
        assert_eq!(
            refused(session.start_handshake(sockets().0, 0)),
            Code::InvalidState
        );
    }
    if forbidden("data") {
        let receive = session.start_receive(vec![0; 4], Amount::Some, 0);
        assert_eq!(refused(receive), Code::InvalidState);
        let not_sent = session.start_send(b"data".to_vec(), 0).unwrap_err();
        assert_eq!(not_sent.data, b"data", "it comes back");
        assert_eq!(not_sent.error.code(), Code::InvalidState);
        assert_eq!(refused(session.detach()), Code::InvalidState);
        assert_eq!(refused(session.facts(|_| ())), Code::InvalidState);
        assert!(session.identifier().is_none());
    }
    if forbidden("close") {
        assert_eq!(refused(session.close()), Code::InvalidState);
    }
}

//= proves spec/port.md#session-states E1
#[test]
fn a_session_is_called_in_its_order_only() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let session = Session::open(&environment).unwrap();
    assert_eq!(session.state(), SessionState::Open);
    nothing_but(&session, &["set", "handshake", "close"]);
    let (ours, theirs) = sockets();
    session.start_handshake(ours, 1).unwrap();
    assert_eq!(session.state(), SessionState::Handshaking);
    assert!(session.is_pending(Operation::Handshake));
    nothing_but(&session, &["close"]);
    let peer = initiator(&environment);
    peer.start_handshake(theirs, 2).unwrap();
    for _ in 0..2 {
        assert!(next(&port).error.is_none());
    }
    assert_eq!(session.state(), SessionState::Established);
    nothing_but(&session, &["data", "close"]);
    talk(&port, &session, &peer);
    session.close().unwrap();
    assert_eq!(session.state(), SessionState::Closed);
    nothing_but(&session, &[]);

    let session = Session::open(&environment).unwrap();
    let (ours, theirs) = sockets();
    session.start_handshake(ours, 3).unwrap();
    drop(theirs);
    assert_eq!(code(&next(&port)), Some(Code::SocketClosed));
    assert_eq!(session.state(), SessionState::Failed);
    nothing_but(&session, &["close"]);
    session.close().unwrap();
    nothing_but(&session, &[]);

    let session = Session::open(&environment).unwrap();
    session.close().unwrap();
    nothing_but(&session, &[]);
}

//= proves spec/port.md#inherited E1
#[test]
fn a_session_inherits_and_overrides_for_itself_alone() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let protocol = |name: &str| Attribute::ApplicationProtocols(vec![name.as_bytes().to_vec()]);
    let environment = place.environment(&port, vec![protocol("one")]);
    let agreed = |session: &Session| session.facts(|facts| facts.application_protocol.clone());
    let (acceptor, _initiator) = meet(&port, &environment);
    assert_eq!(agreed(&acceptor).unwrap().as_deref(), Some(&b"one"[..]));

    let (acceptor, initiator) = (
        Session::open(&environment).unwrap(),
        initiator(&environment),
    );
    for session in [&acceptor, &initiator] {
        session.set(protocol("two")).unwrap();
    }
    let (ours, theirs) = sockets();
    acceptor.start_handshake(ours, 1).unwrap();
    initiator.start_handshake(theirs, 2).unwrap();
    for _ in 0..2 {
        assert!(next(&port).error.is_none());
    }
    assert_eq!(agreed(&acceptor).unwrap().as_deref(), Some(&b"two"[..]));
    let (acceptor, _initiator) = meet(&port, &environment);
    assert_eq!(agreed(&acceptor).unwrap().as_deref(), Some(&b"one"[..]));

    let session = Session::open(&environment).unwrap();
    let file = || place.path("server.pem");
    for attribute in [
        Attribute::Certificate(file()),
        Attribute::Key(file()),
        Attribute::Anchors(file()),
        Attribute::ApplicationId("mail".into()),
        Attribute::SessionTimeout(PATIENCE),
        Attribute::SessionLimit(5),
        Attribute::MakeRoomAfter(None),
    ] {
        assert!(!attribute.key().row().session);
        assert_eq!(refused(session.set(attribute)), Code::EnvironmentOnly);
    }
    let overridable = Key::ALL.iter().filter(|key| key.row().session).count();
    assert_eq!(
        overridable,
        Key::ALL.len() - 8,
        "the seven, and the resolver"
    );
    assert_eq!(
        refused(session.set(Attribute::Resumption(true))),
        Code::BadResumption
    );
    assert_eq!(
        refused(session.set(Attribute::UnsentLimit(0))),
        Code::BadUnsentLimit
    );
}

//= proves spec/port.md#attributes E1
//= proves spec/port.md#credential E5
#[test]
fn init_names_the_attribute_that_is_bad_and_can_be_tried_again() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    place.keep(
        "old",
        &place
            .authority
            .certify("old", &["a.example"], parties::expired),
    );
    place.keep("other", &place.authority.server());
    let text = place.write("text.pem", "no certificate");
    let resolver = |known: &'static str| {
        let identity = place.authority.server();
        let resolve = move |id: &str| {
            assert_ne!(id, "panic");
            (id == known).then(|| identity.acceptor())
        };
        Attribute::Resolver(Arc::new(resolve))
    };
    let id = |id: &str| Attribute::ApplicationId(id.into());
    let client = |mode| Attribute::ClientAuthentication(mode);
    let validation = || Attribute::Validation(Arc::new(|_: &Presented<'_>| Decision::Accept));
    let cases: Vec<(Vec<Attribute>, Code)> = vec![
        (
            vec![Attribute::Certificate(place.path("missing"))],
            Code::BadCertificate,
        ),
        (
            vec![Attribute::Certificate(text.clone())],
            Code::BadCertificate,
        ),
        (
            vec![
                Attribute::Certificate(place.path("old.pem")),
                Attribute::Key(place.path("old.key")),
            ],
            Code::BadCertificate,
        ),
        (vec![Attribute::Key(place.path("missing"))], Code::BadKey),
        (vec![Attribute::Key(text.clone())], Code::BadKey),
        (vec![Attribute::Key(place.path("other.key"))], Code::BadKey),
        (
            vec![Attribute::Anchors(place.path("missing"))],
            Code::BadAnchors,
        ),
        (vec![Attribute::Anchors(text)], Code::BadAnchors),
        (vec![id("mail")], Code::BadResolver),
        (vec![id("mail"), resolver("web")], Code::BadApplicationId),
        (vec![id("panic"), resolver("web")], Code::BadApplicationId),
        (
            vec![Attribute::Framing(Some(Framing::Message))],
            Code::BadAnonymous,
        ),
        (
            vec![Attribute::Role(Role::Initiator), Attribute::Framing(None)],
            Code::BadFraming,
        ),
        (vec![validation()], Code::BadValidation),
    ];
    for (attributes, expected) in cases {
        let environment = place.open(&port, "server");
        let names = format!("{attributes:?}");
        for attribute in attributes {
            environment.set(attribute).unwrap();
        }
        let error = environment.init().unwrap_err();
        assert_eq!(error.code(), expected, "{names}");
        assert_eq!(environment.state(), EnvironmentState::Open);
    }
    // Without anchors, without a certificate.
    let domain = Domain::inherited(4).unwrap();
    for (attributes, expected) in [
        (vec![], Some(Code::BadRole)),
        (vec![Attribute::Role(Role::Initiator)], Some(Code::BadRole)),
        (
            vec![Attribute::Certificate(place.path("server.pem"))],
            Some(Code::BadKey),
        ),
        (
            vec![Attribute::Key(place.path("server.key"))],
            Some(Code::BadCertificate),
        ),
        (
            vec![
                id("mail"),
                resolver("mail"),
                client(ClientAuthentication::Optional),
            ],
            Some(Code::BadClientAuthentication),
        ),
        (
            vec![
                id("mail"),
                resolver("mail"),
                client(ClientAuthentication::Required),
            ],
            Some(Code::BadClientAuthentication),
        ),
        (
            vec![
                id("mail"),
                resolver("mail"),
                client(ClientAuthentication::PassThrough),
            ],
            None,
        ),
    ] {
        let environment = Environment::open(&port, &domain).unwrap();
        for attribute in attributes {
            environment.set(attribute).unwrap();
        }
        let answer = environment.init();
        assert_eq!(
            answer.map_err(|error| error.code()),
            expected.map_or(Ok(()), Err)
        );
    }
    // After a failed init it is set right.
    let environment = place.open(&port, "server");
    environment
        .set(Attribute::Key(place.path("missing")))
        .unwrap();
    assert_eq!(refused(environment.init()), Code::BadKey);
    environment
        .set(Attribute::Key(place.path("server.key")))
        .unwrap();
    environment.init().unwrap();
    let (a, b) = meet(&port, &environment);
    talk(&port, &a, &b);
}

//= proves spec/port.md#credential E5
#[test]
fn an_applications_id_names_certificate_and_key() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let identity = place.authority.server();
    let environment = Environment::open(&port, &Domain::inherited(16).unwrap()).unwrap();
    let resolve = move |id: &str| -> Option<AcceptorCredential> {
        (id == "mail").then(|| identity.acceptor())
    };
    for attribute in [
        Attribute::ApplicationId("mail".into()),
        Attribute::Resolver(Arc::new(resolve)),
        Attribute::Anchors(place.path("anchors.pem")),
        Attribute::Target(format!("test@{}", parties::HOST)),
    ] {
        environment.set(attribute).unwrap();
    }
    environment.init().unwrap();
    let (a, b) = meet(&port, &environment);
    talk(&port, &a, &b);
    let expected = "mail.example";
    assert!(parties::HOST == expected && b.peer_chain().len() == 1);
}

#[test]
fn a_start_that_is_refused_leaves_the_session_open() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let session = initiator(&environment);
    session.set(Attribute::Framing(None)).unwrap();
    assert_eq!(
        refused(session.start_handshake(sockets().0, 1)),
        Code::BadFraming
    );
    session
        .set(Attribute::Framing(Some(Framing::Record)))
        .unwrap();
    let file = std::fs::File::open(place.path("server.pem")).unwrap();
    assert_eq!(
        refused(session.start_handshake(file, 1)),
        Code::System,
        "epoll takes no file"
    );
    assert_eq!(session.state(), SessionState::Open);
    assert!(!session.is_pending(Operation::Handshake));
    let (ours, theirs) = sockets();
    session.start_handshake(ours, 1).unwrap();
    let acceptor = Session::open(&environment).unwrap();
    acceptor.start_handshake(theirs, 2).unwrap();
    for _ in 0..2 {
        assert!(next(&port).error.is_none());
    }
    let without = Environment::open(&port, &Domain::inherited(4).unwrap()).unwrap();
    without
        .set(Attribute::Anchors(place.path("anchors.pem")))
        .unwrap();
    without.set(Attribute::Role(Role::Initiator)).unwrap();
    without.init().unwrap();
    let session = Session::open(&without).unwrap();
    assert_eq!(
        refused(session.start_handshake(sockets().0, 1)),
        Code::BadTarget
    );
    session.set(Attribute::Role(Role::Acceptor)).unwrap();
    assert_eq!(
        refused(session.start_handshake(sockets().0, 1)),
        Code::BadRole
    );
}

//= proves spec/port.md#environment-end E4
#[test]
fn a_closed_environments_sessions_go_on_and_the_end_of_the_last_is_told() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let (a, b) = meet(&port, &environment);
    let shaking = Session::open(&environment).unwrap();
    let (ours, theirs) = sockets();
    shaking.start_handshake(ours, 3).unwrap();
    let unstarted = Session::open(&environment).unwrap();
    environment.close(99).unwrap();
    assert_eq!(environment.state(), EnvironmentState::Closing);
    assert_eq!(
        refused(Session::open(&environment)),
        Code::EnvironmentClosed
    );
    assert_eq!(
        refused(unstarted.start_handshake(sockets().0, 4)),
        Code::EnvironmentClosed
    );

    // Established ones go on, and so does a handshake.
    talk(&port, &a, &b);
    let elsewhere = place.environment(&port, vec![]);
    let peer = initiator(&elsewhere);
    peer.start_handshake(theirs, 5).unwrap();
    for _ in 0..2 {
        assert!(next(&port).error.is_none());
    }
    talk(&port, &shaking, &peer);
    talk(&port, &a, &b);

    a.close().unwrap();
    drop(b);
    drop(a.clone());
    let parts = shaking.detach().unwrap();
    assert_eq!(environment.state(), EnvironmentState::Closing);
    assert_eq!(refused(port.wait(Some(Duration::ZERO))), Code::WaitTimeout);
    drop(unstarted);
    let ended = next(&port);
    assert_eq!(
        (ended.operation, ended.tag, ended.value),
        (Operation::Ended, 99, 4)
    );
    assert_eq!(environment.state(), EnvironmentState::Closed);
    drop(parts);
}

#[test]
fn an_environment_has_as_many_sessions_as_it_may() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![Attribute::SessionLimit(2)]);
    let first = Session::open(&environment).unwrap();
    let second = Session::open(&environment).unwrap();
    assert_eq!(refused(Session::open(&environment)), Code::SessionsFull);
    first.close().unwrap();
    let third = Session::open(&environment).unwrap();
    drop((second, third));
    assert_eq!(environment.sessions(), 0);
}

//= proves spec/port.md#session-states E4
#[test]
fn a_connection_that_lingers_counts_as_its_session() {
    let (port, place) = (Port::with_drivers(0).unwrap(), Place::new());
    let environment = place.environment(&port, vec![Attribute::SessionLimit(1)]);
    let session = Session::open(&environment).unwrap();
    let (ours, mut theirs) = sockets();
    theirs.write_all(b"GET / HTTP/1.0").unwrap();
    session.start_handshake(ours, 1).unwrap();
    while session.state() == SessionState::Handshaking {
        port.drive(Some(PATIENCE)).unwrap();
    }
    assert_eq!(code(&next(&port)), Some(Code::HandshakeFailed));
    session.close().unwrap();
    drop(session);
    // Its alert has not been taken, and nobody drives: it lingers.
    assert_eq!(environment.sessions(), 1);
    assert_eq!(refused(Session::open(&environment)), Code::SessionsFull);
    drop(theirs);
    while environment.sessions() > 0 {
        port.drive(Some(PATIENCE)).unwrap();
    }
    Session::open(&environment).unwrap();
}
