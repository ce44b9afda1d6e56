//! Callbacks in the middle of a handshake that use the port themselves, and configurations as they
//! were built.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;

use std::sync::{Arc, Mutex, OnceLock};

use baton::context::Role;
use baton::cred::AcceptorCredential;
use baton::establish::{
    AcceptorConfig, Attempt, ClientCertificates, Decision, Framing, Initiator, InitiatorConfig,
    Passwords, Presented, SessionCache, Verdict,
};
use baton::port::{
    Amount, Attribute, ClientAuthentication, Code, Environment, Operation, Port, Session,
    SessionState,
};
use portside::*;

/// What a validation does with the session it is asked for.
type Does = Box<dyn Fn(&Session) -> Decision + Send + Sync>;

/// Ports of every kind of driver.
fn ports() -> [Port; 2] {
    [Port::new().unwrap(), Port::driven_by_waiters().unwrap()]
}

/// An acceptor whose validation does `does`, and an initiator that waits for it.
fn met(port: &Port, place: &Place, environment: &Environment, does: Does) -> [Session; 2] {
    place.keep("client", &place.authority.client("alice"));
    let acceptor = Session::open(environment).unwrap();
    let own: Arc<OnceLock<Session>> = Arc::default();
    let known = own.clone();
    let validation = move |_: &Presented<'_>| does(known.get().unwrap());
    for attribute in [
        Attribute::ClientAuthentication(ClientAuthentication::PassThrough),
        Attribute::Validation(Arc::new(validation)),
    ] {
        acceptor.set(attribute).unwrap();
    }
    own.set(acceptor.clone()).unwrap();
    let clients = place.open(port, "client");
    clients.init().unwrap();
    let initiator = initiator(&clients);
    let (ours, theirs) = sockets();
    acceptor.start_handshake(ours, 1).unwrap();
    initiator.start_handshake(theirs, 2).unwrap();
    [acceptor, initiator]
}

//= proves spec/port.md#callbacks E5
#[test]
fn a_callback_may_call_its_own_session() {
    for port in ports() {
        let place = Place::new();
        let environment = Arc::new(place.environment(&port, vec![]));
        let (heard, seen) = (Arc::new(Mutex::new(Vec::new())), environment.clone());
        let note = heard.clone();
        let port = Arc::new(port);
        let asked = Arc::downgrade(&port);
        let does = move |session: &Session| {
            let port = asked.upgrade().unwrap();
            let mut heard = note.lock().unwrap();
            heard.push(refused(session.set(Attribute::Anonymous(true))));
            heard.push(refused(session.start_handshake(sockets().0, 9)));
            heard.push(refused(session.start_send(b"early".to_vec(), 9)));
            heard.push(refused(session.start_receive(vec![0], Amount::Some, 9)));
            heard.push(refused(session.detach()));
            heard.push(refused(session.facts(|_| ())));
            heard.push(refused(port.wait(None)));
            assert_eq!(session.state(), SessionState::Handshaking);
            assert!(session.is_pending(Operation::Handshake));
            assert!(session.peer_chain().is_empty() && session.identifier().is_none());
            // Others', and the port itself.
            assert!(seen.sessions() >= 1);
            Session::open(&seen).unwrap().close().unwrap();
            port.post(8, 0).unwrap();
            Decision::Accept
        };
        let [a, b] = met(&port, &place, &environment, Box::new(does));
        let mut tags: Vec<u64> = (0..3)
            .map(|_| next(&port))
            .map(|done| {
                assert!(done.error.is_none(), "{done:?}");
                done.tag
            })
            .collect();
        tags.sort_unstable();
        assert_eq!(tags, [1, 2, 8]);
        assert!(
            heard
                .lock()
                .unwrap()
                .iter()
                .all(|code| *code == Code::InvalidState)
        );
        assert_eq!(heard.lock().unwrap().len(), 7);
        talk(&port, &a, &b);
        // So that the closure, which holds the session, goes with it.
        a.close().unwrap();
    }
}

//= proves spec/port.md#callbacks E5
#[test]
fn a_handshake_that_its_callback_ends_is_not_gone_on_with() {
    for port in ports() {
        for cancelled in [false, true] {
            let place = Place::new();
            let environment = place.environment(&port, vec![]);
            let does = move |session: &Session| {
                match cancelled {
                    true => assert_eq!(session.cancel(Operation::Handshake).unwrap(), 1),
                    false => session.close().unwrap(),
                }
                Decision::Accept
            };
            let [acceptor, _peer] = met(&port, &place, &environment, Box::new(does));
            let expected = match cancelled {
                true => (Code::Cancelled, SessionState::Failed),
                false => (Code::SessionClosed, SessionState::Closed),
            };
            // An initiator of TLS 1.3 can be done by then.
            let mut ends = [next(&port), next(&port)];
            ends.sort_by_key(|done| done.tag);
            assert_eq!(
                (code(&ends[0]), acceptor.state()),
                (Some(expected.0), expected.1)
            );
        }
    }
}

//= proves spec/port.md#callbacks E5
//= proves spec/port.md#destroy E3
#[test]
fn a_port_is_destroyed_by_a_callback() {
    for port in ports() {
        let place = Place::new();
        let environment = place.environment(&port, vec![]);
        let port = Arc::new(port);
        let (asked, left) = (Arc::downgrade(&port), Arc::new(Mutex::new(Vec::new())));
        let back = left.clone();
        let does = move |_: &Session| {
            let port = asked.upgrade().unwrap();
            back.lock().unwrap().extend(port.destroy());
            Decision::Accept
        };
        let sessions = met(&port, &place, &environment, Box::new(does));
        // Its own end is not among what is waited for.
        while let Ok(done) = port.wait(Some(PATIENCE)) {
            assert_eq!(done.tag, 2);
        }
        assert_eq!(refused(port.wait(None)), Code::PortDestroyed);
        // The callback may still be about to come back.
        while Arc::strong_count(&port) > 1 {
            std::thread::yield_now();
        }
        let left = left.lock().unwrap();
        assert!(
            left.iter()
                .any(|done| (done.tag, code(done)) == (1, Some(Code::PortDestroyed))),
            "{left:?}"
        );
        assert_eq!(sessions[0].state(), SessionState::Failed);
    }
}

struct Asks {
    environment: OnceLock<Session>,
}

impl Passwords for Asks {
    fn check(&self, attempt: &Attempt<'_>) -> Verdict {
        let session = self.environment.get().unwrap();
        assert_eq!(session.state(), SessionState::Handshaking);
        assert_eq!(attempt.user, "alice");
        session.close().unwrap();
        Verdict::Deny
    }
}

//= proves spec/port.md#callbacks E5
#[test]
fn passwords_are_asked_for_without_a_lock_too() {
    use baton::cred::{InitiatorCredential, Password};
    use baton::establish::{Step, Tokens};
    use std::io::{Read, Write};

    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let asks = Arc::new(Asks {
        environment: OnceLock::new(),
    });
    let session = Session::open(&environment).unwrap();
    session
        .set(Attribute::Framing(Some(Framing::Message)))
        .unwrap();
    session.set(Attribute::Passwords(asks.clone(), 3)).unwrap();
    assert!(asks.environment.set(session.clone()).is_ok());
    let (ours, mut theirs) = sockets();
    session.start_handshake(ours, 1).unwrap();
    let credential = InitiatorCredential::from_password(Password::new("alice", "sesame").unwrap());
    let config = InitiatorConfig::builder(place.authority.anchors())
        .credential(credential)
        .build()
        .unwrap();
    let mut initiator =
        Initiator::<baton::message::Message>::new(config.into(), parties::target()).unwrap();
    let mut tokens = Tokens::new(1 << 16);
    let mut said = Vec::new();
    'talk: loop {
        let Ok(Step::Continue { next, output }) = initiator.step(&said) else {
            break;
        };
        initiator = next;
        if theirs.write_all(&Tokens::frame(&output)).is_err() {
            break;
        }
        loop {
            let mut bytes = [0; 4096];
            let count = theirs.read(&mut bytes).unwrap_or(0);
            if count == 0 {
                break 'talk;
            }
            if let Some(token) = tokens.next(&mut &bytes[..count]).unwrap() {
                said = token;
                break;
            }
        }
    }
    let done = next(&port);
    assert_eq!((done.tag, code(&done)), (1, Some(Code::SessionClosed)));
}

//= proves spec/port.md#callbacks E5
#[test]
fn a_resolver_may_call_its_environment_and_facts_are_shown_without_a_deadlock() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = Arc::new(place.open(&port, "server"));
    let (own, here) = (Arc::downgrade(&environment), place.path("server.pem"));
    let key = place.path("server.key");
    let resolver = move |_: &str| {
        let own = own.upgrade().unwrap();
        assert_eq!(own.sessions(), 0);
        assert_eq!(refused(Session::open(&own)), Code::InvalidState);
        AcceptorCredential::from_pem_files(&here, &key).ok()
    };
    environment
        .set(Attribute::ApplicationId("mail".into()))
        .unwrap();
    environment
        .set(Attribute::Resolver(Arc::new(resolver)))
        .unwrap();
    environment.init().unwrap();
    let (a, b) = meet(&port, &environment);
    let again = a.clone();
    a.facts(|_| {
        assert_eq!(refused(again.facts(|_| ())), Code::InvalidState);
        assert_eq!(refused(again.detach()), Code::InvalidState);
        assert_eq!(refused(again.close()), Code::InvalidState);
        assert!(!again.is_pending(Operation::Send));
        assert!(b.facts(|_| ()).is_ok(), "another's is free");
    })
    .unwrap();
    talk(&port, &a, &b);
    // What changes an environment while it is initialised is told.
    let environment = Arc::new(place.open(&port, "server"));
    let own = Arc::downgrade(&environment);
    let changes = move |_: &str| {
        let own = own.upgrade().unwrap();
        own.set(Attribute::Anonymous(true)).unwrap();
        None::<AcceptorCredential>
    };
    environment
        .set(Attribute::ApplicationId("mail".into()))
        .unwrap();
    environment
        .set(Attribute::Resolver(Arc::new(changes)))
        .unwrap();
    assert_eq!(refused(environment.init()), Code::BadApplicationId);
}

//= proves spec/port.md#configuration E5
#[test]
fn a_configuration_as_it_was_built_stands_for_the_attributes() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let identity = place.authority.server();
    let cache = SessionCache::new(PATIENCE);
    let build = || {
        let credential =
            AcceptorCredential::from_pem(identity.chain.as_bytes(), identity.key.as_bytes());
        AcceptorConfig::builder(credential.unwrap())
            .client_certificates(ClientCertificates::None)
            .application_protocols(&[b"built"])
            .anonymous(true)
            .session_cache(cache.clone())
            .build()
            .unwrap()
    };
    // Nothing else is needed, and nothing else counts.
    let domain = baton::ledger::Domain::inherited(16).unwrap();
    let environment = Environment::open(&port, &domain).unwrap();
    for attribute in [
        Attribute::Configuration(Arc::new(build())),
        Attribute::ApplicationProtocols(vec![b"other".to_vec()]),
        Attribute::Framing(None),
    ] {
        environment.set(attribute).unwrap();
    }
    environment.init().unwrap();
    let clients = place.environment(
        &port,
        vec![
            Attribute::Resumption(true),
            Attribute::ApplicationProtocols(vec![b"built".to_vec(), b"other".to_vec()]),
        ],
    );
    let meet = |resumed: u64| {
        let acceptor = Session::open(&environment).unwrap();
        let initiator = initiator(&clients);
        let (ours, theirs) = sockets();
        acceptor.start_handshake(ours, 1).unwrap();
        initiator.start_handshake(theirs, 2).unwrap();
        for _ in 0..2 {
            assert_eq!(next(&port).result().unwrap(), resumed);
        }
        let agreed = acceptor.facts(|facts| facts.application_protocol.clone());
        assert_eq!(agreed.unwrap().as_deref(), Some(&b"built"[..]));
        // The tickets come behind the handshake.
        talk(&port, &acceptor, &initiator);
        acceptor
    };
    meet(0);
    let acceptor = meet(1);
    assert!(acceptor.drop_from_cache().unwrap());
    meet(0);
    meet(1);
    environment.reset_session_cache().unwrap();
    meet(0);

    // Message framing, by the first byte.
    let acceptor = Session::open(&environment).unwrap();
    let nobodies = Environment::open(&port, &domain).unwrap();
    for attribute in [
        Attribute::Role(Role::Initiator),
        Attribute::Framing(Some(Framing::Message)),
        Attribute::Anchors(place.path("anchors.pem")),
        Attribute::Target(format!("test@{}", parties::HOST)),
    ] {
        nobodies.set(attribute).unwrap();
    }
    nobodies.init().unwrap();
    let peer = Session::open(&nobodies).unwrap();
    let (ours, theirs) = sockets();
    acceptor.start_handshake(ours, 1).unwrap();
    peer.start_handshake(theirs, 2).unwrap();
    for _ in 0..2 {
        let done = next(&port);
        assert!(done.error.is_none(), "{done:?}");
    }
    talk(&port, &acceptor, &peer);

    // For one session alone; and of no use to an initiator.
    let session = Session::open(&clients).unwrap();
    session
        .set(Attribute::Configuration(Arc::new(build())))
        .unwrap();
    session.set(Attribute::Role(Role::Initiator)).unwrap();
    assert_eq!(
        refused(session.start_handshake(sockets().0, 3)),
        Code::BadConfiguration
    );
    let environment = Environment::open(&port, &domain).unwrap();
    environment.set(Attribute::Role(Role::Initiator)).unwrap();
    environment
        .set(Attribute::Configuration(Arc::new(build())))
        .unwrap();
    assert_eq!(refused(environment.init()), Code::BadConfiguration);
}
