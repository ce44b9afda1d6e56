//! Slow handshakes make room, sends have a time, and peers are not let in.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use baton::establish::Framing;
use baton::port::{Amount, Attribute, Code, Operation, Port, Session, SessionState};
use baton::record::Alert;
use portside::*;

const SHORT: Duration = Duration::from_millis(30);

//= proves spec/port.md#room E3
#[test]
fn the_slowest_handshake_makes_room_for_a_new_session() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let limited = |after| {
        vec![
            Attribute::SessionLimit(3),
            Attribute::MakeRoomAfter(Some(after)),
        ]
    };
    let environment = place.environment(&port, limited(SHORT));
    let start = |tag| {
        let session = Session::open(&environment).unwrap();
        let (ours, theirs) = sockets();
        session.start_handshake(ours, tag).unwrap();
        (session, theirs)
    };
    let (first, mut peer) = start(1);
    let (_second, _peer) = start(2);
    let (third, _other) = start(3);
    let began = Instant::now();
    while began.elapsed() < SHORT {
        std::thread::yield_now();
    }
    let fourth = Session::open(&environment).unwrap();
    let done = next(&port);
    assert_eq!((done.tag, code(&done)), (1, Some(Code::MadeRoom)));
    assert_eq!(first.state(), SessionState::Failed);
    assert_eq!(environment.sessions(), 3);
    let mut heard = Vec::new();
    assert_eq!(peer.read_to_end(&mut heard).unwrap(), 0, "without a word");
    // Handles to it count no more, nor does its end.
    first.close().unwrap();
    assert_eq!(environment.sessions(), 3);
    // Open and established sessions make none: the second did, then the third.
    let _fifth = Session::open(&environment).unwrap();
    let _sixth = Session::open(&environment).unwrap();
    for tag in [2, 3] {
        let done = next(&port);
        assert_eq!((done.tag, code(&done)), (tag, Some(Code::MadeRoom)));
    }
    assert_eq!(third.state(), SessionState::Failed);
    assert_eq!(refused(Session::open(&environment)), Code::SessionsFull);
    assert_eq!(fourth.state(), SessionState::Open);

    // None that is not slow enough.
    let environment = place.environment(&port, limited(Duration::from_secs(3600)));
    let sessions: Vec<_> = (0..3)
        .map(|tag| {
            let session = Session::open(&environment).unwrap();
            let (ours, theirs) = sockets();
            session.start_handshake(ours, tag).unwrap();
            (session, theirs)
        })
        .collect();
    assert_eq!(refused(Session::open(&environment)), Code::SessionsFull);
    for (session, _) in &sessions {
        assert_eq!(session.state(), SessionState::Handshaking);
    }
}

//= proves spec/port.md#room E3
#[test]
fn a_connection_that_lingers_makes_room_too_and_an_established_one_does_not() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(
        &port,
        vec![
            Attribute::SessionLimit(2),
            Attribute::MakeRoomAfter(Some(Duration::from_millis(1))),
        ],
    );
    let (a, b) = meet(&port, &environment);
    assert_eq!(refused(Session::open(&environment)), Code::SessionsFull);
    talk(&port, &a, &b);
    a.detach().unwrap();
    b.close().unwrap();
    // A peer that reads its alert and does not close.
    let failed = Session::open(&environment).unwrap();
    let (ours, theirs) = sockets();
    failed.start_handshake(ours, 3).unwrap();
    (&theirs).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(code(&next(&port)), Some(Code::HandshakeFailed));
    drop(failed);
    let began = Instant::now();
    let mut held = Vec::new();
    while held.len() < 2 {
        held.extend(Session::open(&environment));
        assert!(began.elapsed() < PATIENCE);
    }
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "not by the end of its lingering"
    );
}

//= proves spec/port.md#timeouts E3
//= proves spec/port.md#send E3
#[test]
fn a_send_has_its_own_timeout() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(
        &port,
        vec![
            Attribute::SendTimeout(Some(SHORT)),
            Attribute::UnsentLimit(16 << 20),
        ],
    );
    let (a, b) = meet(&port, &environment);
    // In time.
    talk(&port, &a, &b);
    // Not in time: nobody reads.
    let began = Instant::now();
    a.start_send(vec![1; 8 << 20], 1).unwrap();
    a.start_send(b"behind it".to_vec(), 2).unwrap();
    let ends = [next(&port), next(&port)];
    assert!(began.elapsed() >= SHORT);
    for (done, tag) in ends.iter().zip([1, 2]) {
        assert_eq!((done.operation, done.tag), (Operation::Send, tag));
        assert_eq!(code(done), Some(Code::SendTimeout));
    }
    assert!(ends[0].value < 8 << 20 && ends[0].data.len() == 8 << 20);
    assert_eq!(ends[1].value, 0, "nothing of it is sent without the first");
    assert_eq!(a.state(), SessionState::Established);
    // What was sealed arrives, and then what is sent next.
    let sealed = ends[0].value as usize;
    b.start_receive(vec![0; sealed + 4], Amount::Full, 3)
        .unwrap();
    let mut received = None;
    let mut sent = false;
    while received.is_none() || !sent {
        if !sent && !a.is_pending(Operation::Send) {
            a.start_send(b"next".to_vec(), 4).unwrap();
        }
        let done = next(&port);
        match done.operation {
            Operation::Receive => received = Some(done.data),
            // On a busy machine it may take longer than its time, and is sent again.
            _ => sent = done.error.is_none() || done.value > 0,
        }
    }
    assert!(received.unwrap().ends_with(b"next"));
}

/// What a stock client that has come to its handshake's end hears.
fn hears(peer: &Session, port: &Port) -> (Option<Code>, String) {
    peer.start_receive(vec![0; 8], Amount::Some, 7).unwrap();
    let done = next(port);
    assert_eq!(done.tag, 7, "{done:?}");
    let status = done.error.as_ref().and_then(baton::port::Error::status);
    (
        code(&done),
        status.map(|status| status.to_string()).unwrap_or_default(),
    )
}

//= proves spec/port.md#abort E5
#[test]
fn a_peer_that_is_not_let_in_is_told_an_alert() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![Attribute::Anonymous(true)]);
    let (a, b) = meet(&port, &environment);
    a.abort(Alert::ACCESS_DENIED).unwrap();
    assert_eq!(a.state(), SessionState::Closed);
    assert_eq!(refused(a.abort(Alert::ACCESS_DENIED)), Code::InvalidState);
    let (code_, told) = hears(&b, &port);
    assert_eq!(code_, Some(Code::SessionFailed), "{told}");
    // In no other state.
    let open = Session::open(&environment).unwrap();
    assert_eq!(
        refused(open.abort(Alert::ACCESS_DENIED)),
        Code::InvalidState
    );
    let (ours, _theirs): (UnixStream, UnixStream) = sockets();
    open.start_handshake(ours, 1).unwrap();
    assert_eq!(
        refused(open.abort(Alert::ACCESS_DENIED)),
        Code::InvalidState
    );
    drop(environment);
    // Message framing: it is the end.
    let place = Place::new();
    place.keep("client", &place.authority.client("alice"));
    let acceptors = place.environment(
        &port,
        vec![
            Attribute::Framing(Some(Framing::Message)),
            Attribute::ClientAuthentication(baton::port::ClientAuthentication::Required),
        ],
    );
    let initiators = place.open(&port, "client");
    initiators
        .set(Attribute::Framing(Some(Framing::Message)))
        .unwrap();
    initiators
        .set(Attribute::Role(baton::context::Role::Initiator))
        .unwrap();
    initiators.init().unwrap();
    let (a, b) = (
        Session::open(&acceptors).unwrap(),
        Session::open(&initiators).unwrap(),
    );
    let (ours, theirs) = sockets();
    a.start_handshake(ours, 1).unwrap();
    b.start_handshake(theirs, 2).unwrap();
    for _ in 0..2 {
        let done = next(&port);
        assert!(done.error.is_none(), "{done:?}");
    }
    a.abort(Alert::ACCESS_DENIED).unwrap();
    assert_eq!(hears(&b, &port), (None, String::new()), "the close token");
}
