//! Timeouts, cancelling, events, and the end of a port.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;
mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use baton::port::{
    Amount, Attribute, Code, Completion, Environment, EnvironmentState, Operation, Port, Session,
    SessionState,
};
use portside::*;

const SHORT: Duration = Duration::from_millis(30);

/// That it took at least so long.
fn not_early(since: Instant) {
    assert!(since.elapsed() >= SHORT);
}

//= proves spec/port.md#timeouts E3
#[test]
fn a_slow_handshake_is_ended_by_its_timeout() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let session = Session::open(&environment).unwrap();
    session.set(Attribute::HandshakeTimeout(SHORT)).unwrap();
    let (ours, theirs) = sockets();
    let began = Instant::now();
    session.start_handshake(ours, 1).unwrap();
    (&theirs).write_all(&[0x16, 3, 1, 2]).unwrap();
    let done = next(&port);
    not_early(began);
    assert_eq!(
        (done.operation, code(&done)),
        (Operation::Handshake, Some(Code::HandshakeTimeout))
    );
    assert_eq!(session.state(), SessionState::Failed);
    let mut heard = Vec::new();
    // The connection is closed; on unread bytes, with a reset.
    let _ = (&theirs).read_to_end(&mut heard);
    assert!(heard.is_empty(), "without a word");
}

//= proves spec/port.md#timeouts E3
#[test]
fn a_receive_has_its_own_timeout_and_loses_nothing_by_it() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![Attribute::ReadTimeout(Some(SHORT))]);
    let (a, b) = meet(&port, &environment);
    send(&port, &a, b"half");
    let began = Instant::now();
    b.start_receive(vec![0; 8], Amount::Full, 1).unwrap();
    let done = next(&port);
    not_early(began);
    assert_eq!(code(&done), Some(Code::ReadTimeout));
    assert_eq!((done.value, &done.data[..]), (4, &b"half"[..]));
    // Again and again, and the session goes on.
    for _ in 0..3 {
        let began = Instant::now();
        b.start_receive(vec![0; 8], Amount::Some, 2).unwrap();
        assert_eq!(code(&next(&port)), Some(Code::ReadTimeout));
        not_early(began);
    }
    send(&port, &a, b"rest");
    assert_eq!(receive(&port, &b, 4), b"rest");
}

//= proves spec/port.md#wait E3
//= proves spec/port.md#timeouts E3
#[test]
fn a_wait_has_its_own_timeout() {
    let port = Port::new().unwrap();
    let began = Instant::now();
    assert_eq!(refused(port.wait(Some(SHORT))), Code::WaitTimeout);
    not_early(began);
    assert_eq!(refused(port.wait(Some(Duration::ZERO))), Code::WaitTimeout);
    port.post(1, 2).unwrap();
    assert_eq!(port.wait(Some(Duration::MAX)).unwrap().value, 2);
}

//= proves spec/port.md#events E3
#[test]
fn events_of_the_callers_own_come_at_once_or_later() {
    let port = Port::new().unwrap();
    let began = Instant::now();
    port.post_after(SHORT * 3, 3, 30).unwrap();
    port.post_after(SHORT, 2, 20).unwrap();
    port.post_after(Duration::MAX, 4, 40).unwrap();
    port.post(1, 10).unwrap();
    for number in 1..=3 {
        let event = next(&port);
        assert_eq!((event.operation, event.tag), (Operation::Event, number));
        assert_eq!(event.result().unwrap(), 10 * number);
        assert!(event.session.is_none() && event.data.is_empty());
        assert!(number == 1 || began.elapsed() >= SHORT);
    }
    assert!(began.elapsed() >= SHORT * 3);
}

//= proves spec/port.md#cancel E3
#[test]
fn what_is_pending_is_cancelled_and_what_is_over_is_not() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    // A handshake.
    let session = Session::open(&environment).unwrap();
    assert_eq!(
        session.cancel(Operation::Handshake).unwrap(),
        0,
        "none was started"
    );
    let (ours, mut theirs) = sockets();
    session.start_handshake(ours, 1).unwrap();
    assert!(session.is_pending(Operation::Handshake));
    assert_eq!(session.cancel(Operation::Receive).unwrap(), 0);
    assert_eq!(session.cancel(Operation::Handshake).unwrap(), 1);
    assert!(!session.is_pending(Operation::Handshake));
    assert_eq!(session.cancel(Operation::Handshake).unwrap(), 0);
    let done = next(&port);
    assert_eq!((done.tag, code(&done)), (1, Some(Code::Cancelled)));
    assert_eq!(session.state(), SessionState::Failed);
    assert_eq!(
        theirs.read(&mut [0; 1]).unwrap(),
        0,
        "the connection is closed"
    );

    // A receive, before and after it was completed.
    let (a, b) = meet(&port, &environment);
    assert_eq!(a.cancel(Operation::Handshake).unwrap(), 0, "it is over");
    b.start_receive(vec![0; 8], Amount::Full, 2).unwrap();
    assert_eq!(b.cancel(Operation::Receive).unwrap(), 1);
    let done = next(&port);
    assert_eq!(
        (done.tag, done.value, code(&done)),
        (2, 0, Some(Code::Cancelled))
    );
    send(&port, &a, b"half");
    b.start_receive(vec![0; 4], Amount::Full, 3).unwrap();
    while b.is_pending(Operation::Receive) {
        std::thread::yield_now();
    }
    assert_eq!(b.cancel(Operation::Receive).unwrap(), 0);
    let done = next(&port);
    assert!(done.tag == 3 && done.error.is_none() && done.data == b"half");

    // Sends: what was sealed arrives, the others are as if they had not been.
    let mut started: u64 = 0;
    while a.start_send(vec![started as u8; 50_000], started).is_ok() {
        started += 1;
    }
    let cancelled = a.cancel(Operation::Send).unwrap();
    assert!(cancelled > 1 && !a.is_pending(Operation::Send));
    let mut sealed = 0;
    for number in 0..started {
        let done = next(&port);
        assert_eq!((done.operation, done.tag), (Operation::Send, number));
        let expected = (number >= started - cancelled as u64).then_some(Code::Cancelled);
        assert_eq!(code(&done), expected);
        assert!(expected.is_some() || done.value == 50_000);
        sealed += done.value as usize;
    }
    a.start_send(b"and the next".to_vec(), 100).unwrap();
    b.start_receive(vec![0; sealed + 12], Amount::Full, 101)
        .unwrap();
    let done = [next(&port), next(&port)];
    let received = done.iter().find(|done| done.tag == 101).unwrap();
    assert_eq!(received.value as usize, sealed + 12);
    assert!(received.data.ends_with(b"and the next"));
}

fn sorted(mut left: Vec<Completion>) -> Vec<(Operation, u64, Option<Code>)> {
    left.sort_by_key(|done| done.tag);
    left.iter()
        .map(|done| (done.operation, done.tag, code(done)))
        .collect()
}

//= proves spec/port.md#destroy E3
#[test]
fn a_destroyed_port_wakes_its_waiters_and_hands_back_everything() {
    let (port, place) = (Port::with_drivers(2).unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let (a, b) = meet(&port, &environment);
    let (c, d) = meet(&port, &environment);
    let slow = Session::open(&environment).unwrap();
    let unstarted = Session::open(&environment).unwrap();
    let (ours, theirs) = sockets();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| refused(port.wait(None))))
            .collect();
        // They are woken whether they wait by then or not.
        slow.start_handshake(ours, 1).unwrap();
        a.start_receive(vec![0; 8], Amount::Full, 2).unwrap();
        let left = port.destroy();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Code::PortDestroyed);
        }
        let destroyed = Some(Code::PortDestroyed);
        let expected = [
            (Operation::Handshake, 1, destroyed),
            (Operation::Receive, 2, destroyed),
        ];
        assert_eq!(sorted(left), expected);
    });
    assert!(port.destroy().is_empty());
    for code in [
        refused(port.post(0, 0)),
        refused(port.post_after(SHORT, 0, 0)),
        refused(port.wait(None)),
        refused(port.drive(None)),
        refused(a.start_receive(vec![0], Amount::Some, 0)),
        refused(a.start_send(vec![0], 0)),
        refused(unstarted.start_handshake(sockets().0, 0)),
        refused(Session::open(&environment)),
        refused(environment.close(0)),
    ] {
        assert_eq!(code, Code::PortDestroyed);
    }
    assert_eq!(slow.state(), SessionState::Failed);
    let mut heard = [0; 1];
    assert_eq!((&theirs).read(&mut heard).unwrap(), 0);
    // The established ones are alive.
    assert_eq!(a.state(), SessionState::Established);
    let parts = a.detach().unwrap();
    drop((parts, b));
    c.close().unwrap();
    drop(d);
}

//= proves spec/port.md#destroy E3
#[test]
fn what_nobody_waited_for_comes_back_with_the_port() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let (a, b) = meet(&port, &environment);
    port.post(1, 0).unwrap();
    port.post_after(PATIENCE, 2, 0).unwrap();
    a.start_send(b"hello".to_vec(), 3).unwrap();
    environment.close(4).unwrap();
    let done = place.environment(&port, vec![]);
    done.close(5).unwrap();
    let destroyed = Some(Code::PortDestroyed);
    assert_eq!(
        sorted(port.destroy()),
        [
            (Operation::Event, 1, None),
            (Operation::Event, 2, destroyed),
            (Operation::Send, 3, None),
            (Operation::Ended, 4, destroyed),
            (Operation::Ended, 5, None),
        ]
    );
    drop((a, b));
    assert_eq!(environment.state(), EnvironmentState::Closed);
}

#[test]
fn a_dropped_port_leaves_nothing_behind() {
    let place = Place::new();
    let (ours, mut theirs) = sockets();
    {
        let port = Port::with_drivers(3).unwrap();
        let environment: Environment = place.environment(&port, vec![]);
        let (a, _b) = meet(&port, &environment);
        a.start_receive(vec![0; 8], Amount::Full, 2).unwrap();
        Session::open(&environment)
            .unwrap()
            .start_handshake(ours, 1)
            .unwrap();
    }
    assert_eq!(
        theirs.read(&mut [0; 1]).unwrap(),
        0,
        "pending handles are no reason to stay"
    );
}

//= proves spec/port.md#fork E3
#[test]
fn a_forked_process_can_only_drop_what_it_inherited() {
    let (port, place) = (Port::with_drivers(2).unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let (a, b) = meet(&port, &environment);
    let slow = Session::open(&environment).unwrap();
    let unstarted = Session::open(&environment).unwrap();
    let (ours, theirs) = sockets();
    slow.start_handshake(ours, 1).unwrap();
    a.start_receive(vec![0; 8], Amount::Full, 2).unwrap();
    let answer = support::in_child(|| {
        // The port's threads are not here, and may have held any lock.
        let codes = [
            refused(port.wait(None)),
            refused(port.drive(None)),
            refused(port.post(0, 0)),
            refused(port.post_after(SHORT, 0, 0)),
            refused(Environment::open(&port, &support::domain())),
            refused(environment.close(0)),
            refused(environment.set(Attribute::Anonymous(true))),
            refused(environment.init()),
            refused(environment.reset_session_cache()),
            refused(Session::open(&environment)),
            refused(unstarted.start_handshake(sockets().0, 0)),
            refused(unstarted.set(Attribute::Anonymous(true))),
            refused(a.start_receive(vec![0], Amount::Some, 0)),
            refused(a.start_send(vec![0], 0)),
            refused(a.cancel(Operation::Receive)),
            refused(a.detach()),
            refused(a.close()),
            refused(a.facts(|_| ())),
            refused(a.drop_from_cache()),
        ];
        assert!(
            codes.iter().all(|code| *code == Code::PortForked),
            "{codes:?}"
        );
        assert!(port.destroy().is_empty());
        assert!(!a.is_pending(Operation::Receive) && a.peer_chain().is_empty());
        assert_eq!(a.state(), SessionState::Closed);
        assert_eq!(
            (environment.state(), environment.sessions()),
            (EnvironmentState::Closed, 0)
        );
        // SAFETY: each is read once; the parent's originals are in the parent.
        unsafe {
            for session in [&a, &b, &slow, &unstarted] {
                drop(std::ptr::read(session));
            }
            drop(std::ptr::read(&environment));
            drop(std::ptr::read(&port));
        }
        0
    });
    assert_eq!(answer, Some(0));
    // Here nothing has changed.
    b.start_send(b"untouche".to_vec(), 3).unwrap();
    let mut done = [next(&port), next(&port)];
    done.sort_by_key(|done| done.tag);
    assert_eq!(done[0].data, b"untouche");
    let peer = initiator(&environment);
    peer.start_handshake(theirs, 4).unwrap();
    for _ in 0..2 {
        assert!(next(&port).error.is_none());
    }
    talk(&port, &slow, &peer);
}
