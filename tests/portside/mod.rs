//! What the tests of the completion port share: files with certificates, environments, and
//! sessions that are brought to their handshakes' end.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic
)]

#[path = "../parties/mod.rs"]
pub mod parties;

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use baton::context::Role;
use baton::ledger::Domain;
use baton::port::{
    Amount, Attribute, Code, Completion, Environment, Error, Operation, Port, Session,
};
use parties::{Authority, HOST, Identity};
use tempfile::TempDir;

/// The longest that anything is waited for: far more than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// An authority, and the files that attributes name.
pub struct Place {
    pub authority: Authority,
    folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Self {
            authority: Authority::new("ours"),
            folder: tempfile::tempdir().unwrap(),
        };
        place.keep("server", &place.authority.server());
        place.write("anchors.pem", &place.authority.pem);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Writes `name.pem` and `name.key`.
    pub fn keep(&self, name: &str, identity: &Identity) {
        self.write(&format!("{name}.pem"), &identity.chain);
        self.write(&format!("{name}.key"), &identity.key);
    }

    /// An environment with the certificate of `name`, and the authority as anchor.
    pub fn open(&self, port: &Port, name: &str) -> Environment {
        self.open_in(&Domain::inherited(4096).unwrap(), port, name)
    }

    /// The same, with contexts of this domain.
    pub fn open_in(&self, domain: &Domain, port: &Port, name: &str) -> Environment {
        let environment = Environment::open(port, domain).unwrap();
        for attribute in [
            Attribute::Certificate(self.path(&format!("{name}.pem"))),
            Attribute::Key(self.path(&format!("{name}.key"))),
            Attribute::Anchors(self.path("anchors.pem")),
            Attribute::Target(format!("test@{HOST}")),
            Attribute::HandshakeTimeout(PATIENCE),
        ] {
            environment.set(attribute).unwrap();
        }
        environment
    }

    /// An environment whose sessions are acceptors, or, when they say so, initiators.
    pub fn environment(&self, port: &Port, attributes: Vec<Attribute>) -> Environment {
        let environment = self.open(port, "server");
        for attribute in attributes {
            environment.set(attribute).unwrap();
        }
        environment.init().unwrap();
        environment
    }
}

/// The next completion.
pub fn next(port: &Port) -> Completion {
    port.wait(Some(PATIENCE)).unwrap()
}

/// The code of a completion's error.
pub fn code(completion: &Completion) -> Option<Code> {
    completion.error.as_ref().map(Error::code)
}

/// The code of a call's error.
pub fn refused<T: std::fmt::Debug, E: Into<Error>>(answer: Result<T, E>) -> Code {
    match answer {
        Ok(value) => panic!("not refused: {value:?}"),
        Err(error) => error.into().code(),
    }
}

/// Two connected sockets.
pub fn sockets() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

/// Two connected sockets of TCP.
pub fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

/// An initiator's session.
pub fn initiator(environment: &Environment) -> Session {
    let session = Session::open(environment).unwrap();
    session.set(Attribute::Role(Role::Initiator)).unwrap();
    session
}

/// An acceptor and an initiator that have come to their handshake's end, over these sockets.
pub fn meet_over(
    port: &Port,
    environment: &Environment,
    (ours, theirs): (impl Into<OwnedFd>, impl Into<OwnedFd>),
) -> (Session, Session) {
    let (acceptor, initiator) = (Session::open(environment).unwrap(), initiator(environment));
    acceptor.start_handshake(ours, 1).unwrap();
    initiator.start_handshake(theirs, 2).unwrap();
    for _ in 0..2 {
        let done = next(port);
        assert_eq!(done.operation, Operation::Handshake);
        assert!(done.error.is_none(), "{done:?}");
    }
    (acceptor, initiator)
}

pub fn meet(port: &Port, environment: &Environment) -> (Session, Session) {
    meet_over(port, environment, sockets())
}

/// Receives `length` bytes.
pub fn receive(port: &Port, session: &Session, length: usize) -> Vec<u8> {
    session
        .start_receive(vec![0; length], Amount::Full, 90)
        .unwrap();
    let done = next(port);
    assert_eq!(
        (done.operation, done.tag),
        (Operation::Receive, 90),
        "{done:?}"
    );
    assert!(done.error.is_none(), "{done:?}");
    done.data
}

/// Sends `text`.
pub fn send(port: &Port, session: &Session, text: &[u8]) {
    session.start_send(text.to_vec(), 91).unwrap();
    let done = next(port);
    assert_eq!(
        (done.operation, done.tag),
        (Operation::Send, 91),
        "{done:?}"
    );
    assert_eq!(done.result().unwrap(), text.len() as u64);
}

/// That two sessions understand each other, both ways.
pub fn talk(port: &Port, a: &Session, b: &Session) {
    for (from, to) in [(a, b), (b, a)] {
        send(port, from, b"good morning");
        assert_eq!(receive(port, to, 12), b"good morning");
    }
}
