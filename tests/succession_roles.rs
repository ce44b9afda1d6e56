//! Predecessor and successor as the library makes them, against processes that do not behave: this
//! test program once more, in a role.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::IoSlice;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use baton::context::Context;
use baton::ledger::Domain;
use baton::record::Record;
use baton::succession::{
    Error, Heard, Offer, Patience, Predecessor, Program, Successor, Told, VARIABLE,
};
use baton::sys::socket;
use baton::transfer::{Laden, Luggage, MAX_LUGGAGE, load};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Talk, domain, forked, pair, talk};

const ROLE: &str = "BATON_TEST_ROLE";
/// HELLO of version 1, of a process with descriptors enough.
const HELLO: &[u8] = b"BTS\x01\x01\x01\x01\x01\0\0\0\0\0\x01\0\0";

/// Not a test by itself: what a successor does.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    match &role[..] {
        // What is not the process that was started says what that would say.
        "child" => {
            let mut child = forked(|| {
                say(HELLO);
                u8::from(hear().is_some())
            });
            assert_eq!(child.wait().unwrap().code(), Some(0), "nothing was given");
        }
        "user" => {
            support::become_user(65_534);
            say(HELLO);
            assert!(hear().is_none(), "nothing was given");
        }
        "garbage" => say(&[0x42; 5000]),
        "early" => say(b"BTS\x01\x03"),
        "later" => say(b"BTS\x01\x01\x02\x09\x01\0\0\0\0\0\x01\0\0"),
        "twice" => {
            say(HELLO);
            say(HELLO);
            hear();
        }
        "taken" => {
            // TAKEN, before anything was given.
            let ready = Predecessor::inherited().unwrap().unwrap().ready().unwrap();
            let word = [IoSlice::new(b"BTW\x01\x03")];
            socket::send_with_fds(ready.socket(), &word, &[]).unwrap();
            wait(ready.socket());
        }
        "refuse" => {
            let predecessor = Predecessor::inherited().unwrap().unwrap();
            predecessor.refuse("no\nport");
        }
        "poor" => poor(),
        _ => panic!("no role"),
    }
}

fn say(message: &[u8]) {
    socket::send_with_fds(std::io::stdin(), &[IoSlice::new(message)], &[]).unwrap();
}

/// What descriptor 0 brings; none at its end.
fn hear() -> Option<Vec<OwnedFd>> {
    let mut fds = Vec::new();
    let received = socket::recv_with_fds(std::io::stdin(), &mut [0; 8192], &mut fds, true);
    received.ok().filter(|it| it.len > 0).map(|_| fds)
}

fn wait(fd: impl AsFd) {
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
}

/// A successor that may open two further descriptors once it is ready.
fn poor() {
    let mut predecessor = Predecessor::inherited().unwrap().unwrap();
    assert_eq!(predecessor.note(), b"a note");
    assert_eq!(predecessor.take_listeners().len(), 1);
    let domain = predecessor.domain().clone();
    let mut inheritance = predecessor.ready().unwrap();
    // Joining the ledger takes a descriptor, once.
    drop(domain.ledger().establish().unwrap());
    // No number is left free below these.
    let filling = || std::fs::File::open("/dev/null").unwrap().into_raw_fd();
    let last = (0..50).map(|_| filling()).max().unwrap();
    let limit = getrlimit(Resource::Nofile);
    let current = Some(last as u64 + 1 + 2);
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    let mut arrived = 0;
    loop {
        wait(inheritance.socket());
        match inheritance.receive::<Record>().unwrap() {
            Told::Arrived {
                connections,
                refused,
            } => {
                // After the first parcel nothing more goes in.
                arrived += connections.len();
                assert_eq!(refused.len(), usize::from(connections.is_empty()));
                for laden in &connections {
                    assert_eq!(&laden.luggage[..], [7; 100]);
                }
                std::mem::forget(connections);
            }
            Told::Over { orphaned } => {
                assert!(!orphaned);
                assert_eq!(arrived, 2);
                return;
            }
            Told::Nothing | Told::Accept => {}
        }
    }
}

fn start(role: &str, domain: &Domain) -> Successor<Record> {
    let own = std::env::current_exe().unwrap();
    let program = Program::new("/usr/bin/env")
        .arg(format!("{ROLE}={role}"))
        .arg(own)
        .arg("--exact")
        .arg("role")
        .arg("--nocapture");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let offer = Offer {
        domain,
        listeners: &[listener.as_fd()],
        note: b"a note",
        connections: 4,
    };
    let patience = Patience {
        ready: Duration::from_secs(30),
        answer: Duration::from_secs(30),
    };
    Successor::start(&program, &offer, patience).unwrap()
}

fn heard(successor: &mut Successor<Record>) -> Result<Heard<Record>, Error> {
    loop {
        let left = successor.deadline();
        let left = left.map(|due| due.saturating_duration_since(Instant::now()));
        let left = left.map(|left| left.try_into().unwrap());
        let socket = successor.socket();
        poll(
            &mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)],
            left.as_ref(),
        )
        .unwrap();
        match successor.hear()? {
            Heard::Nothing => {}
            other => return Ok(other),
        }
    }
}

struct Line {
    context: Context<Record>,
    socket: OwnedFd,
    peer: Context<Record>,
    _far: TcpStream,
}

fn line(domain: &Domain) -> Line {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (context, peer) = pair::<Record>(domain);
    Line {
        context,
        socket: listener.accept().unwrap().0.into(),
        peer,
        _far: far,
    }
}

type Far = (Context<Record>, TcpStream);

fn laden(lines: Vec<Line>) -> (Vec<Laden<Record>>, Vec<Far>) {
    let laden = |line: Line| {
        let laden = Laden {
            context: line.context,
            socket: line.socket,
            luggage: Luggage::new(&[7; 100]).unwrap(),
        };
        (laden, (line.peer, line._far))
    };
    lines.into_iter().map(laden).unzip()
}

//= proves spec/succession.md#stranger C6
#[test]
fn a_stranger_gets_nothing() {
    let domain = domain();
    let mut successor = start("child", &domain);
    assert!(matches!(heard(&mut successor), Err(Error::Stranger)));
    let back = successor.take_back();
    assert!(back.connections.is_empty() && back.lost == 0);
    if baton::sys::process::uid() != 0 {
        support::skip("another user's word needs root to change user");
        return;
    }
    let mut successor = start("user", &domain);
    assert!(matches!(heard(&mut successor), Err(Error::Stranger)));
}

/// A program that was given another process's socket, or none, under the name of a successor.
//= proves spec/succession.md#stranger
//= proves spec/succession.md#start
#[test]
fn a_successor_takes_its_socket_from_its_predecessor_only() {
    let own = std::env::current_exe().unwrap();
    let program = |named: &str, socket: Stdio| {
        let mut command = Command::new(&own);
        command.args(["--exact", "role"]).env(ROLE, "refuse");
        command.env(VARIABLE, named).stdin(socket);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = command.output().unwrap();
        assert!(!output.status.success());
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("NotInherited"), "{named}: {told}");
    };
    let pid = std::process::id();
    let pair = || socket::pair().unwrap();
    let (_near, far) = pair();
    program(&(pid + 1).to_string(), far.into());
    let (_near, far) = pair();
    program("one", far.into());
    program(&pid.to_string(), Stdio::null());
    program(&pid.to_string(), Stdio::piped());
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    program(&pid.to_string(), OwnedFd::from(far).into());
    drop(near);
}

//= proves spec/succession.md#messages
//= proves spec/succession.md#end
#[test]
fn a_successor_that_says_what_it_may_not_gets_nothing() {
    for (role, expected) in [
        ("garbage", "defective"),
        ("early", "defective"),
        ("later", "no common version"),
        ("twice", "defective"),
        ("refuse", "refuses: no?port"),
    ] {
        let domain = domain();
        let mut successor = start(role, &domain);
        let error = heard(&mut successor).unwrap_err();
        assert!(error.to_string().contains(expected), "{role}: {error}");
        assert!(successor.take_back().connections.is_empty());
    }
    let domain = domain();
    let mut successor = start("taken", &domain);
    assert!(matches!(heard(&mut successor), Ok(Heard::Ready)));
    assert!(matches!(heard(&mut successor), Err(Error::Defective)));
}

/// Two connections go in, two come back, and each lives where it is.
//= proves spec/succession.md#refused C4
//= proves spec/token.md#passage C4
#[test]
fn what_a_successor_cannot_take_lives_on_here() {
    let domain = domain();
    let mut successor = start("poor", &domain);
    assert!(matches!(heard(&mut successor), Ok(Heard::Ready)));
    let (first, _peers) = laden((0..2).map(|_| line(&domain)).collect());
    let (second, mut peers) = laden((0..2).map(|_| line(&domain)).collect());
    assert!(successor.has_room());
    assert!(successor.hand_over(first).is_empty());
    assert!(successor.hand_over(second).is_empty());
    let Ok(Heard::Returned(back)) = heard(&mut successor) else {
        panic!("nothing came back");
    };
    assert_eq!(back.len(), 2);
    for (mut laden, (peer, _)) in back.into_iter().zip(&mut peers) {
        assert_eq!(&laden.luggage[..], [7; 100]);
        talk(&mut laden.context, peer);
    }
    successor.accept();
    successor.end();
    assert!(!successor.has_room());
    assert!(matches!(heard(&mut successor), Ok(Heard::Taken)));
}

/// Luggage travels under the seal, or not at all.
//= proves spec/token.md#laden C2 C5
#[test]
fn luggage_is_sealed_and_bounded() {
    let domain = domain();
    assert!(Luggage::new(&[0; MAX_LUGGAGE + 1]).is_err());
    let (context, mut peer) = pair::<Record>(&domain);
    let (socket, _far) = socket::pair().unwrap();
    let luggage = Luggage::new(&[0xab; MAX_LUGGAGE]).unwrap();
    let laden = Laden {
        context,
        socket,
        luggage,
    };
    let mut loaded = load(vec![laden], &baton::transfer::Export::default());
    let parcel = loaded.parcels.pop().unwrap();
    assert!(!parcel.as_bytes().windows(8).any(|bytes| bytes == [0xab; 8]));
    let mut back = parcel.take_back::<Record>(&domain).unwrap();
    let mut laden = back.pop().unwrap().unwrap();
    assert_eq!(&laden.luggage[..], [0xab; MAX_LUGGAGE]);
    talk(&mut laden.context, &mut peer);
    let _ = Record::say(&mut laden.context, b"once more").unwrap();
}
