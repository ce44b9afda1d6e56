//! Sessions over a completion port: both roles, both framings, many at once, and peers that do
//! what peers do.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use baton::establish::{Decision, Framing, Presented, Standing};
use baton::port::{
    Amount, Attribute, ClientAuthentication, Code, Completion, Operation, Port, Session,
};
use baton::status::Minor;
use portside::*;

//= proves spec/port.md#handshake E2
//= proves spec/port.md#completion E2
#[test]
fn both_roles_meet_in_both_framings_over_any_stream_socket() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let wanted = ClientAuthentication::Optional;
    let environment = place.environment(&port, vec![Attribute::ClientAuthentication(wanted)]);
    for (ours, theirs) in [
        (Some(Framing::Record), Framing::Record),
        (Some(Framing::Message), Framing::Message),
        (None, Framing::Record),
        (None, Framing::Message),
    ] {
        let acceptor = Session::open(&environment).unwrap();
        acceptor.set(Attribute::Framing(ours)).unwrap();
        let initiator = initiator(&environment);
        initiator.set(Attribute::Framing(Some(theirs))).unwrap();
        let (one, other) = tcp();
        acceptor.start_handshake(one, 10).unwrap();
        initiator.start_handshake(other, 20).unwrap();
        let mut tags = HashSet::new();
        for _ in 0..2 {
            let done = next(&port);
            assert_eq!(
                (done.operation, done.result().unwrap()),
                (Operation::Handshake, 0)
            );
            assert!(done.data.is_empty());
            let expected = if done.tag == 10 {
                &acceptor
            } else {
                &initiator
            };
            assert_eq!(done.session.as_ref().unwrap().id(), expected.id());
            tags.insert(done.tag);
        }
        assert_eq!(tags, HashSet::from([10, 20]));
        talk(&port, &acceptor, &initiator);
        // The end of the peer's data.
        initiator.close().unwrap();
        acceptor
            .start_receive(vec![0; 8], Amount::Full, 30)
            .unwrap();
        assert_eq!(next(&port).result().unwrap(), 0);
        acceptor
            .start_receive(vec![0; 8], Amount::Some, 31)
            .unwrap();
        assert_eq!(next(&port).result().unwrap(), 0, "again and again");
    }
}

//= proves spec/port.md#receive E2
#[test]
fn a_receive_takes_some_or_fills_its_buffer() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let (a, b) = meet(&port, &environment);
    let start = |amount| b.start_receive(vec![0; 10], amount, 1).unwrap();
    start(Amount::Some);
    assert!(b.is_pending(Operation::Receive));
    assert_eq!(
        refused(b.start_receive(vec![0; 1], Amount::Some, 2)),
        Code::AlreadyPending
    );
    a.start_send(b"one".to_vec(), 9).unwrap();
    let mut done = [next(&port), next(&port)];
    done.sort_by_key(|done| done.tag);
    assert_eq!((done[0].value, &done[0].data[..]), (3, &b"one"[..]));
    assert_eq!(
        (done[1].value, &done[1].data[..]),
        (3, &b"one"[..]),
        "the buffer comes back"
    );
    assert!(!b.is_pending(Operation::Receive));

    start(Amount::Full);
    for part in [&b"two, "[..], b"three"] {
        assert!(b.is_pending(Operation::Receive));
        a.start_send(part.to_vec(), 9).unwrap();
    }
    let mut received = None;
    for _ in 0..3 {
        let done = next(&port);
        if done.operation == Operation::Receive {
            received = Some(done.data);
        }
    }
    assert_eq!(received.unwrap(), b"two, three");
    // More than fits stays where it is, and less comes at the end.
    send(&port, &a, b"0123456789abcdef");
    a.close().unwrap();
    assert_eq!(receive(&port, &b, 10), b"0123456789");
    assert_eq!(receive(&port, &b, 10), b"abcdef");
    assert_eq!(receive(&port, &b, 10), b"");
    for buffer in [vec![], vec![0; baton::port::RECEIVE_LIMIT + 1]] {
        assert_eq!(
            refused(b.start_receive(buffer, Amount::Some, 2)),
            Code::BadBuffer
        );
    }
}

//= proves spec/port.md#send E3
#[test]
fn a_peer_that_does_not_read_costs_a_bounded_amount() {
    const LIMIT: usize = 64 * 1024;
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![Attribute::UnsentLimit(LIMIT)]);
    let (a, b) = meet(&port, &environment);
    let byte = |position: usize| (position % 251) as u8;
    let (mut started, mut completed, mut size) = (0usize, 0usize, 0);
    let mut tag = 0;
    // Until nothing more is taken.
    loop {
        let piece: Vec<u8> = (started..started + 5000).map(byte).collect();
        match a.start_send(piece, tag) {
            Ok(()) => (started, tag) = (started + 5000, tag + 1),
            Err(not_sent) => {
                assert_eq!(not_sent.error.code(), Code::SendFull);
                assert_eq!(not_sent.data.len(), 5000);
                if completed == size {
                    break;
                }
            }
        }
        size = completed;
        while let Ok(done) = port.wait(Some(std::time::Duration::ZERO)) {
            completed += done.result().unwrap() as usize;
        }
    }
    assert!(a.is_pending(Operation::Send));
    assert!(started - completed <= LIMIT);
    let sent = a.start_send(vec![0; LIMIT + 1], tag);
    assert_eq!(refused(sent), Code::BadBuffer);
    assert_eq!(refused(a.start_send(vec![], tag)), Code::BadBuffer);
    // Once it reads, everything arrives, in order.
    b.start_receive(vec![0; started], Amount::Full, 1000)
        .unwrap();
    let mut tags = Vec::new();
    while completed < started || b.is_pending(Operation::Receive) || tags.last() != Some(&1000) {
        let done = next(&port);
        tags.push(done.tag);
        match done.operation {
            Operation::Send => completed += done.result().unwrap() as usize,
            _ => assert!(done.data.iter().copied().eq((0..started).map(byte))),
        }
        if completed == started && tags.contains(&1000) {
            break;
        }
    }
    tags.retain(|tag| *tag != 1000);
    assert!(tags.is_sorted(), "sends end in their order");
}

//= proves spec/port.md#wait E2
//= proves spec/port.md#drivers E2
#[test]
fn many_sessions_are_served_by_many_workers_and_drivers() {
    const SESSIONS: u64 = 60;
    const ROUNDS: usize = 5;
    for drivers in [1, 3] {
        let port = Port::with_drivers(drivers).unwrap();
        let place = Place::new();
        let environment = place.environment(&port, vec![]);
        let (echoed, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
        for number in 0..SESSIONS {
            let (ours, theirs) = sockets();
            Session::open(&environment)
                .unwrap()
                .start_handshake(ours, 2 * number)
                .unwrap();
            initiator(&environment)
                .start_handshake(theirs, 2 * number + 1)
                .unwrap();
        }
        let work = |done: Completion| {
            let session = done.session.clone().unwrap();
            assert!(done.error.is_none(), "{done:?}");
            let (tag, is_echo) = (done.tag, done.tag.is_multiple_of(2));
            match (done.operation, is_echo) {
                (Operation::Handshake, false) => session.start_send(vec![7; 3000], tag).unwrap(),
                (Operation::Handshake, true) | (Operation::Send, _) => {
                    session
                        .start_receive(vec![0; 3000], Amount::Full, tag)
                        .unwrap();
                }
                (Operation::Receive, true) if done.value == 0 => {
                    finished.fetch_add(1, Ordering::Relaxed);
                }
                (Operation::Receive, true) => session.start_send(done.data, tag).unwrap(),
                (Operation::Receive, false) => {
                    assert_eq!(done.data, [7; 3000]);
                    let round = echoed.fetch_add(1, Ordering::Relaxed);
                    if round < SESSIONS as usize * ROUNDS {
                        session.start_send(done.data, tag).unwrap();
                    } else {
                        session.close().unwrap();
                    }
                }
                _ => panic!("{done:?}"),
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while finished.load(Ordering::Relaxed) < SESSIONS as usize {
                        match port.wait(Some(PATIENCE)) {
                            Ok(done) if done.operation == Operation::Event => return,
                            Ok(done) => work(done),
                            Err(error) => panic!("{error}"),
                        }
                    }
                    // The others may be waiting.
                    (0..4).for_each(|_| port.post(0, 0).unwrap());
                });
            }
        });
        assert!(echoed.into_inner() > SESSIONS as usize * ROUNDS);
    }
}

//= proves spec/port.md#drivers E2
#[test]
fn the_caller_can_be_the_driver() {
    let (port, place) = (Port::with_drivers(0).unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let (ours, theirs) = sockets();
    let acceptor = Session::open(&environment).unwrap();
    acceptor.start_handshake(ours, 1).unwrap();
    let initiator = initiator(&environment);
    initiator.start_handshake(theirs, 2).unwrap();
    assert_eq!(
        refused(port.wait(Some(std::time::Duration::ZERO))),
        Code::WaitTimeout
    );
    let mut done = 0;
    while done < 2 {
        port.drive(Some(PATIENCE)).unwrap();
        while let Ok(completion) = port.wait(Some(std::time::Duration::ZERO)) {
            assert!(completion.error.is_none());
            done += 1;
        }
    }
    assert_eq!(
        refused(Port::new().unwrap().drive(None)),
        Code::InvalidState
    );
}

//= proves spec/port.md#client-authentication E5
#[test]
fn client_certificates_are_none_optional_required_or_passed_through() {
    use ClientAuthentication as Mode;
    let (port, place) = (Port::new().unwrap(), Place::new());
    place.keep("ada", &place.authority.client("ada"));
    let stranger = Place::new();
    place.keep("eve", &stranger.authority.client("eve"));
    let clients = ["", "ada", "eve"].map(|name| {
        let environment = place.open(&port, "server");
        if !name.is_empty() {
            for attribute in [
                Attribute::Certificate(place.path(&format!("{name}.pem"))),
                Attribute::Key(place.path(&format!("{name}.key"))),
            ] {
                environment.set(attribute).unwrap();
            }
        }
        environment
            .set(Attribute::Role(baton::context::Role::Initiator))
            .unwrap();
        environment.init().unwrap();
        environment
    });
    // The first client's certificate is the server's own, which is good for a client too.
    let server = Ok((Standing::Checked, true));
    let refused = Err(Minor::CertificateRefused);
    let unproved = Ok((Standing::Unproved, true));
    for (mode, expected) in [
        (Mode::None, [Ok((Standing::Checked, false)); 3]),
        (Mode::Optional, [server, server, refused]),
        (Mode::Required, [server, server, refused]),
        (Mode::PassThrough, [server, server, unproved]),
    ] {
        let environment = place.environment(&port, vec![Attribute::ClientAuthentication(mode)]);
        for (client, expected) in clients.iter().zip(expected) {
            let (ours, theirs) = sockets();
            let acceptor = Session::open(&environment).unwrap();
            let initiator = Session::open(client).unwrap();
            acceptor.start_handshake(ours, 1).unwrap();
            initiator.start_handshake(theirs, 2).unwrap();
            let done = [next(&port), next(&port)];
            let accepted = done.iter().find(|done| done.tag == 1).unwrap();
            let told = match &accepted.error {
                None => Ok((acceptor.standing(), !acceptor.peer_chain().is_empty())),
                Some(error) => Err(error.status().unwrap().minor()),
            };
            assert_eq!(told, expected, "{mode:?}");
            if mode == Mode::PassThrough && told == unproved {
                assert!(
                    acceptor
                        .facts(|facts| facts.initiator_name.is_none())
                        .unwrap()
                );
            }
        }
    }
    // A validation has the last word, and one that panics refuses.
    for (panics, expected) in [(false, None), (true, Some(Code::HandshakeFailed))] {
        let validation = move |presented: &Presented<'_>| {
            assert!(!panics && presented.path().is_err());
            Decision::Accept
        };
        let environment = place.environment(
            &port,
            vec![
                Attribute::ClientAuthentication(Mode::Required),
                Attribute::Validation(Arc::new(validation)),
            ],
        );
        let acceptor = Session::open(&environment).unwrap();
        let initiator = Session::open(&clients[2]).unwrap();
        let (ours, theirs) = sockets();
        acceptor.start_handshake(ours, 1).unwrap();
        initiator.start_handshake(theirs, 2).unwrap();
        let done = [next(&port), next(&port)];
        let accepted = done.iter().find(|done| done.tag == 1).unwrap();
        assert_eq!(code(accepted), expected);
    }
}

#[test]
fn debug_output_shows_no_data() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let (a, b) = meet(&port, &environment);
    a.start_send(b"secret".to_vec(), 1).unwrap();
    let sent = next(&port);
    b.start_receive(vec![0; 6], Amount::Full, 2).unwrap();
    let received = next(&port);
    let shown = format!(
        "{port:?} {environment:?} {a:?} {sent:?} {received:?} {:?}",
        b.detach()
    );
    let bytes = format!("{:?}", b"secret");
    assert!(
        !shown.contains("secret") && !shown.contains(&bytes[1..bytes.len() - 1]),
        "{shown}"
    );
    assert!(shown.contains("6 bytes"));
}
