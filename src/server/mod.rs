//! The server: accepts, makes the handshakes, and hands each live connection to a process of its
//! own.
//!
//! | room | what lives there |
//! |---|---|
//! | [`state`], [`identity`] | what is kept between two starts: the development identity |
//! | [`reception`], [`handshake`] | accepting, and the handshakes in progress |
//! | [`sessions`] | the sessions that run, how they end, the release of each |
//! | [`poller`] | what is waited for |
//! | here, `run` | the loop |
//!
//! One thread, one loop: a handshake waits for its peer without holding up another. A finished one
//! becomes a context, which is exported at once; the process forked for it imports it, from then
//! on owns it, and tells this one how it went.
//!
//! SECURITY: this process holds the server's private key and reads strangers' handshakes, so taking
//! it over is taking over the server. It holds no session's keys for longer than it takes to export
//! them, and sees no session's plaintext. A forked session process gets the key's pages wiped, and
//! drops everything else of the server before it imports.

pub mod handshake;
pub mod identity;
pub mod passwords;
pub mod poller;
pub mod reception;
mod run;
pub mod sessions;
pub mod state;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::ledger::{self, Domain};
use crate::session::drive::Hops;
use crate::session::job::Kind;
use crate::sys::process::Signal;
use crate::sys::signal::Watch;

pub use handshake::Policy;
pub use run::Role;

/// What a server is to do.
pub struct Plan {
    /// Where to listen.
    pub listen: SocketAddr,
    /// All else.
    pub terms: Terms,
    /// Asked at SIGHUP for new terms; without it the signal ends the server, as it does any process.
    pub reload: Option<Reload>,
}

/// Answers the terms that hold from now on, or every reason why the old ones go on to.
pub type Reload = Box<dyn FnMut() -> Result<Terms, Vec<String>>>;

/// What can change while a server runs: it holds for what begins from then on.
pub struct Terms {
    /// Who gets in, and how.
    pub policy: Policy,
    /// What sessions run.
    pub kind: Kind,
    /// Hops of each session after the first.
    pub hops: Hops,
    /// Sessions at once.
    pub sessions: usize,
}

/// Why a server does not start, or stops.
#[derive(Debug)]
pub enum Error {
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The ledger cannot be made.
    Ledger(ledger::Error),
    /// The operating system refused something the server cannot do without.
    System(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Ledger(error) => write!(f, "no ledger: {error}"),
            Self::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    terms: Terms,
    reload: Option<Reload>,
    domain: Domain,
    signals: Watch,
}

impl Server {
    /// Listens, and makes the domain within which sessions move. From here on, signals to stop are
    /// kept for [`Server::run`].
    pub fn open(plan: Plan) -> Result<Self, Error> {
        let Plan {
            listen,
            terms,
            reload,
        } = plan;
        let refused = |error| Error::Listen(listen, error);
        let listener = TcpListener::bind(listen).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let options = ledger::Options {
            collect: true,
            ..ledger::Options::default()
        };
        let domain = Domain::inherited_with(&options).map_err(Error::Ledger)?;
        let mut signals = vec![Signal::TERM, Signal::INT, Signal::CHILD];
        signals.extend(reload.as_ref().map(|_| Signal::HUP));
        let signals = Watch::new(&signals).map_err(|error| Error::System("signals", error))?;
        Ok(Self {
            listener,
            terms,
            reload,
            domain,
            signals,
        })
    }

    /// The address it listens on, with the port that was taken.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
