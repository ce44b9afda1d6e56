//! A session against a model of it: whatever is called in whatever order, each call answers as the
//! table of states says, each operation that was started is completed exactly once, and data
//! arrive as they were sent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use baton::port::{Amount, Attribute, Code, Environment, Operation, Port, Session, SessionState};
use portside::*;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Call {
    Set,
    Start,
    Receive(usize, bool),
    Send(usize),
    Cancel(Operation),
    Detach,
    Close,
    /// The peer does its part of the handshake.
    Meet,
    PeerSends(usize),
    PeerCloses,
}

fn call() -> impl Strategy<Value = Call> {
    let operations = [Operation::Handshake, Operation::Receive, Operation::Send];
    prop_oneof![
        1 => Just(Call::Set),
        4 => Just(Call::Start),
        6 => (1usize..300, any::<bool>()).prop_map(|(length, full)| Call::Receive(length, full)),
        6 => (1usize..5000).prop_map(Call::Send),
        2 => (0usize..3).prop_map(move |at| Call::Cancel(operations[at])),
        1 => Just(Call::Detach),
        1 => Just(Call::Close),
        6 => Just(Call::Meet),
        6 => (1usize..300).prop_map(Call::PeerSends),
        1 => Just(Call::PeerCloses),
    ]
}

/// The model, and the real thing beside it.
struct Both<'a> {
    port: &'a Port,
    session: Session,
    peer: Session,
    sockets: [Option<UnixStream>; 2],
    state: SessionState,
    peer_established: bool,
    peer_closed: bool,
    tag: u64,
    /// Operations that were started and whose completion has not come.
    started: BTreeMap<u64, Operation>,
    arrived: Vec<u8>,
    sent: Vec<u8>,
}

const PEER: u64 = 1 << 32;

impl Both<'_> {
    fn draw(&mut self) -> u64 {
        self.tag += 1;
        self.tag
    }

    /// Lets everything happen that can.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            self.port.drive(Some(Duration::ZERO)).unwrap();
            quiet += 1;
            while let Ok(done) = self.port.wait(Some(Duration::ZERO)) {
                quiet = 0;
                if done.tag >= PEER {
                    if done.operation == Operation::Handshake && done.error.is_none() {
                        self.peer_established = true;
                    }
                    continue;
                }
                let operation = self.started.remove(&done.tag).expect("completed once");
                assert_eq!(operation, done.operation);
                match (operation, code(&done)) {
                    (Operation::Handshake, None) => self.state = SessionState::Established,
                    (Operation::Handshake, Some(Code::SessionClosed)) => {}
                    (Operation::Handshake, Some(_)) => self.state = SessionState::Failed,
                    (Operation::Receive, _) => self.arrived.extend(&done.data),
                    _ => {}
                }
            }
        }
        assert_eq!(self.session.state(), self.state);
        for operation in [Operation::Handshake, Operation::Receive, Operation::Send] {
            let pending = self.started.values().any(|started| *started == operation);
            assert_eq!(self.session.is_pending(operation), pending, "{operation:?}");
        }
        assert!(self.sent.starts_with(&self.arrived));
    }

    /// That a call answers what the model says.
    fn answer(&mut self, real: Result<(), Code>, permitted: bool, started: Option<Operation>) {
        match (real, permitted) {
            (Ok(()), true) => {
                if let Some(operation) = started {
                    self.started.insert(self.tag, operation);
                }
            }
            (Err(code), false) => {
                let expected = [Code::InvalidState, Code::AlreadyPending, Code::SendFull];
                assert!(expected.contains(&code), "{code:?}");
            }
            (real, permitted) => panic!("{real:?}, and permitted: {permitted}"),
        }
    }

    fn call(&mut self, call: Call) {
        use SessionState::{Closed, Established, Handshaking, Open};
        let is = |state| self.state == state;
        let coded = |answer: Result<(), baton::port::Error>| answer.map_err(|error| error.code());
        match call {
            Call::Set => {
                let (real, open) = (self.session.set(Attribute::UnsentLimit(20_000)), is(Open));
                self.answer(coded(real), open, None);
            }
            Call::Start => {
                let open = is(Open);
                let socket = self.sockets[0].take().unwrap_or_else(|| sockets().0);
                let tag = self.draw();
                let real = self.session.start_handshake(socket, tag);
                self.answer(coded(real), open, Some(Operation::Handshake));
                if open {
                    self.state = Handshaking;
                }
            }
            Call::Receive(length, full) => {
                let free = !self.started.values().any(|one| *one == Operation::Receive);
                let permitted = is(Established) && free;
                let (amount, tag) = (if full { Amount::Full } else { Amount::Some }, self.draw());
                let real = self.session.start_receive(vec![0; length], amount, tag);
                self.answer(coded(real), permitted, Some(Operation::Receive));
            }
            Call::Send(length) => {
                let permitted = is(Established);
                let tag = self.draw();
                let real = self.session.start_send(vec![1; length], tag);
                // Nothing is lost either way; how much a socket takes is its own affair.
                let full = matches!(&real, Err(not) if not.error.code() == Code::SendFull);
                let real = real.map_err(|not| not.error.code());
                self.answer(real, permitted && !full, Some(Operation::Send));
            }
            Call::Cancel(operation) => {
                let pending = self
                    .started
                    .values()
                    .filter(|one| **one == operation)
                    .count();
                let count = self.session.cancel(operation).unwrap();
                assert_eq!(count, pending);
            }
            Call::Detach => {
                let data = [Operation::Receive, Operation::Send];
                let idle = !self.started.values().any(|one| data.contains(one));
                let permitted = is(Established) && idle;
                let real = self.session.detach().map(drop);
                self.answer(coded(real), permitted, None);
                if permitted {
                    self.state = Closed;
                }
            }
            Call::Close => {
                let open = !is(Closed);
                let real = self.session.close();
                self.answer(coded(real), open, None);
                self.state = Closed;
            }
            Call::Meet => {
                if let Some(socket) = self.sockets[1].take() {
                    self.peer.start_handshake(socket, PEER).unwrap();
                }
            }
            Call::PeerSends(length) if self.peer_established && !self.peer_closed => {
                let text: Vec<u8> = (0..length).map(|at| (self.sent.len() + at) as u8).collect();
                // It is refused when the session has gone and the peer knows.
                if self.peer.start_send(text.clone(), PEER + 1).is_ok() {
                    self.sent.extend(text);
                }
            }
            Call::PeerCloses if !self.peer_closed => {
                self.sockets[1] = None;
                self.peer.close().unwrap();
                self.peer_closed = true;
            }
            Call::PeerSends(_) | Call::PeerCloses => {}
        }
        if self.peer_closed {
            self.sockets[1] = None;
        }
        self.settle();
    }
}

fn run(port: &Port, environment: &Environment, calls: &[Call]) {
    let (ours, theirs) = sockets();
    let mut both = Both {
        port,
        session: Session::open(environment).unwrap(),
        peer: initiator(environment),
        sockets: [Some(ours), Some(theirs)],
        state: SessionState::Open,
        peer_established: false,
        peer_closed: false,
        tag: 0,
        started: BTreeMap::new(),
        arrived: Vec::new(),
        sent: Vec::new(),
    };
    for made in calls {
        both.call(*made);
    }
    if both.state != SessionState::Closed {
        both.call(Call::Close);
    }
    assert!(both.started.is_empty(), "each has been completed");
    if !both.peer_closed {
        both.peer.close().unwrap();
    }
    both.settle();
    assert_eq!(environment.sessions(), 0);
}

//= proves spec/port.md#session-states E1
//= proves spec/port.md#completion E2
#[test]
fn a_session_does_as_its_model_does() {
    let (port, place) = (Port::with_drivers(0).unwrap(), Place::new());
    let environment = place.environment(&port, vec![]);
    let calls = proptest::collection::vec(call(), 0..40);
    proptest!(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() },
        |(calls in calls)| run(&port, &environment, &calls));
}
