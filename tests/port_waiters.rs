//! A port that is driven by who waits, descriptors of the program's own beside its sessions, and a
//! port in a loop of the program's own.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use baton::port::{Amount, Attribute, Code, Operation, Port, Readiness, Session, Watch};
use portside::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const SHORT: Duration = Duration::from_millis(30);

//= proves spec/port.md#drivers E2
#[test]
fn one_thread_waits_and_drives() {
    let (port, place) = (Port::driven_by_waiters().unwrap(), Place::new());
    assert_eq!(refused(port.drive(None)), Code::InvalidState);
    let began = Instant::now();
    assert_eq!(refused(port.wait(Some(SHORT))), Code::WaitTimeout);
    assert!(began.elapsed() >= SHORT);
    assert_eq!(refused(port.wait(Some(Duration::ZERO))), Code::WaitTimeout);
    port.post(1, 2).unwrap();
    assert_eq!(port.wait(Some(Duration::MAX)).unwrap().value, 2);

    let environment = place.environment(&port, vec![]);
    let (a, b) = meet(&port, &environment);
    talk(&port, &a, &b);
    // More than the connection takes at once, both ways.
    let long = vec![7; 200_000];
    for (from, to) in [(&a, &b), (&b, &a)] {
        from.start_send(long.clone(), 1).unwrap();
        to.start_receive(vec![0; long.len()], Amount::Full, 2)
            .unwrap();
        for _ in 0..2 {
            assert!(next(&port).error.is_none());
        }
    }
    // Timeouts and delayed events are told to who waits.
    let slow = Session::open(&environment).unwrap();
    slow.set(Attribute::HandshakeTimeout(SHORT)).unwrap();
    let (ours, _theirs) = sockets();
    slow.start_handshake(ours, 3).unwrap();
    port.post_after(SHORT * 2, 4, 0).unwrap();
    assert_eq!(code(&next(&port)), Some(Code::HandshakeTimeout));
    assert_eq!(next(&port).tag, 4);
}

//= proves spec/port.md#drivers E2
//= proves spec/port.md#wait E2
#[test]
fn of_several_that_wait_one_drives_and_each_gets_its_own() {
    let (port, place) = (Port::driven_by_waiters().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let (a, b) = meet(&port, &environment);
    const ROUNDS: u64 = 300;
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut had = 0;
                    loop {
                        let done = next(&port);
                        match done.operation {
                            Operation::Event => return had,
                            Operation::Send => continue,
                            Operation::Receive if done.value > 0 && done.tag < ROUNDS => {
                                // The next round, by whoever heard of this one.
                                b.start_receive(vec![0; 1], Amount::Full, done.tag + 1)
                                    .unwrap();
                                a.start_send(vec![1], 0).unwrap();
                            }
                            Operation::Receive => {
                                for _ in 0..4 {
                                    port.post(0, 0).unwrap();
                                }
                            }
                            _ => panic!("{done:?}"),
                        }
                        had += 1;
                    }
                })
            })
            .collect();
        b.start_receive(vec![0; 1], Amount::Full, 1).unwrap();
        a.start_send(vec![1], 0).unwrap();
        let had: u64 = waiters
            .into_iter()
            .map(|waiter| waiter.join().unwrap())
            .sum();
        assert_eq!(had, ROUNDS, "each was told to one of them");
    });
    // Those who sleep hear of the end.
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| refused(port.wait(None))))
            .collect();
        port.destroy();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Code::PortDestroyed);
        }
    });
}

//= proves spec/port.md#drivers E2
#[test]
fn handshakes_that_one_starts_while_others_drive_come_to_their_end() {
    const PAIRS: u64 = 300;
    let (port, place) = (Port::driven_by_waiters().unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let done = next(&port);
                    match done.operation {
                        Operation::Event => return,
                        _ => assert!(done.error.is_none(), "{done:?}"),
                    }
                }
            });
        }
        for _ in 0..PAIRS {
            let (acceptor, initiator) = (
                Session::open(&environment).unwrap(),
                initiator(&environment),
            );
            let (ours, theirs) = sockets();
            initiator.start_handshake(theirs, 2).unwrap();
            acceptor.start_handshake(ours, 1).unwrap();
            while [&acceptor, &initiator]
                .iter()
                .any(|session| session.is_pending(Operation::Handshake))
            {
                std::thread::yield_now();
            }
        }
        for _ in 0..3 {
            port.post(9, 0).unwrap();
        }
    });
}

//= proves spec/port.md#drivers E2
#[test]
fn who_drives_is_woken_by_what_others_post() {
    let port = Port::driven_by_waiters().unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| next(&port).value);
        port.post(1, 5).unwrap();
        assert_eq!(waiter.join().unwrap(), 5);
        let waiter = scope.spawn(|| next(&port).value);
        port.post_after(SHORT, 1, 6).unwrap();
        assert_eq!(waiter.join().unwrap(), 6);
    });
    assert!(began.elapsed() < PATIENCE);
}

//= proves spec/port.md#watch E2
#[test]
fn a_listener_is_waited_for_beside_the_sessions() {
    for port in [Port::driven_by_waiters().unwrap(), Port::new().unwrap()] {
        let place = Place::new();
        let environment = place.environment(&port, vec![]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let watch = Watch::open(&port, listener).unwrap();
        watch.start(Readiness::Read, 10).unwrap();
        assert!(watch.is_pending(Readiness::Read));
        assert_eq!(
            refused(watch.start(Readiness::Read, 11)),
            Code::AlreadyPending
        );
        let peer = initiator(&environment);
        peer.start_handshake(TcpStream::connect(address).unwrap(), 1)
            .unwrap();
        let mut acceptor = None;
        let mut established = 0;
        while established < 2 {
            let done = next(&port);
            assert!(done.error.is_none(), "{done:?}");
            match done.operation {
                Operation::Ready => {
                    assert_eq!((done.tag, done.value), (10, Readiness::Read.number()));
                    assert!(!watch.is_pending(Readiness::Read));
                    let (socket, _) = watch.get_ref().accept().unwrap();
                    let session = Session::open(&environment).unwrap();
                    session.start_handshake(socket, 2).unwrap();
                    acceptor = Some(session);
                }
                _ => established += 1,
            }
        }
        talk(&port, &peer, &acceptor.unwrap());
    }
}

//= proves spec/port.md#watch E2
#[test]
fn a_watch_tells_once_for_each_start_and_what_is_left_again() {
    let port = Port::driven_by_waiters().unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut watch = Watch::open(&port, ours).unwrap();
    let nothing = || assert_eq!(refused(port.wait(Some(SHORT))), Code::WaitTimeout);
    watch.start(Readiness::Read, 1).unwrap();
    nothing();
    // Reading and writing are pending beside each other.
    watch.start(Readiness::Write, 2).unwrap();
    let done = next(&port);
    assert_eq!((done.tag, done.value), (2, Readiness::Write.number()));
    theirs.write_all(b"some").unwrap();
    assert_eq!(next(&port).tag, 1);
    nothing();
    // What was not taken is told by the next start, without anything new.
    watch.start(Readiness::Read, 3).unwrap();
    assert_eq!(next(&port).tag, 3);
    assert_eq!(watch.get_mut().read(&mut [0; 8]).unwrap(), 4);
    watch.start(Readiness::Read, 4).unwrap();
    nothing();
    // Cancelled; and the end is something to be read.
    assert!(watch.cancel(Readiness::Read).unwrap());
    assert!(!watch.cancel(Readiness::Read).unwrap());
    let done = next(&port);
    assert_eq!((done.tag, code(&done)), (4, Some(Code::Cancelled)));
    watch.start(Readiness::Read, 5).unwrap();
    drop(theirs);
    assert_eq!(next(&port).tag, 5);

    let (ours, _theirs) = UnixStream::pair().unwrap();
    let dropped = Watch::open(&port, ours).unwrap();
    dropped.start(Readiness::Read, 6).unwrap();
    drop(dropped);
    let done = next(&port);
    assert_eq!((done.tag, code(&done)), (6, Some(Code::Cancelled)));
    // What cannot be watched.
    let file = Watch::open(&port, tempfile::tempfile().unwrap()).unwrap();
    assert_eq!(refused(file.start(Readiness::Read, 7)), Code::System);
    assert!(!file.is_pending(Readiness::Read));
}

//= proves spec/port.md#watch E2
//= proves spec/port.md#destroy E3
#[test]
fn watches_end_with_their_port_and_stay_behind_in_a_fork() {
    let port = Port::driven_by_waiters().unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let watch = Watch::open(&port, ours).unwrap();
    watch.start(Readiness::Read, 1).unwrap();
    let answer = support::in_child(|| {
        assert_eq!(refused(watch.start(Readiness::Write, 2)), Code::PortForked);
        assert_eq!(refused(watch.cancel(Readiness::Read)), Code::PortForked);
        assert_eq!(refused(port.pollable()), Code::PortForked);
        // SAFETY: it is read once; the parent's original is in the parent.
        drop(unsafe { std::ptr::read(&watch) });
        0
    });
    assert_eq!(answer, Some(0));
    theirs.write_all(b"x").unwrap();
    assert_eq!(next(&port).tag, 1, "it is watched here as before");
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let idle = Watch::open(&port, ours).unwrap();
    idle.start(Readiness::Read, 2).unwrap();
    let left = port.destroy();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].tag, code(&left[0])),
        (2, Some(Code::PortDestroyed))
    );
    assert_eq!(refused(idle.start(Readiness::Read, 3)), Code::PortDestroyed);
    assert_eq!(
        refused(Watch::open(&port, std::io::stdin())),
        Code::PortDestroyed
    );
}

/// Waits for what the port asks for; whether it was ready.
fn ready(port: &Port, most: Duration) -> bool {
    let (descriptor, due) = port.pollable().unwrap();
    let limit = due.map_or(most, |due| {
        most.min(due.saturating_duration_since(Instant::now()))
    });
    let limit = Timespec::try_from(limit).unwrap();
    let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN)];
    poll(&mut descriptors, Some(&limit)).unwrap() > 0
}

//= proves spec/port.md#descriptor E2
#[test]
fn a_port_lives_in_a_loop_of_the_programs_own() {
    assert_eq!(refused(Port::new().unwrap().pollable()), Code::InvalidState);
    for turns in [false, true] {
        let port = match turns {
            true => Port::with_drivers(0).unwrap(),
            false => Port::driven_by_waiters().unwrap(),
        };
        let place = Place::new();
        let environment = place.environment(&port, vec![]);
        let collect = || {
            let mut done = Vec::new();
            if turns {
                port.drive(Some(Duration::ZERO)).unwrap();
            }
            while let Ok(completion) = port.wait(Some(Duration::ZERO)) {
                done.push(completion);
            }
            done
        };
        let until = |count: usize| {
            let (mut done, began) = (Vec::new(), Instant::now());
            while done.len() < count {
                assert!(began.elapsed() < PATIENCE);
                ready(&port, PATIENCE);
                done.extend(collect());
            }
            done
        };
        collect();
        assert!(!ready(&port, SHORT), "there is nothing");
        let (acceptor, initiator) = (
            Session::open(&environment).unwrap(),
            initiator(&environment),
        );
        let (ours, theirs) = sockets();
        acceptor.start_handshake(ours, 1).unwrap();
        initiator.start_handshake(theirs, 2).unwrap();
        assert!(until(2).iter().all(|done| done.error.is_none()));
        // What others post, at once or later, also while nobody is in a call of the port.
        ready(&port, Duration::ZERO);
        std::thread::scope(|scope| {
            scope.spawn(|| port.post(3, 0).unwrap());
            assert_eq!(until(1)[0].tag, 3);
        });
        port.post_after(SHORT, 4, 0).unwrap();
        assert_eq!(until(1)[0].tag, 4);
    }
}
