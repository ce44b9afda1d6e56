//! The server: accepts, makes the handshakes, and hands each live connection to a process of its
//! own.
//!
//! | room | what lives there |
//! |---|---|
//! | [`state`], [`identity`], [`passwords`] | what is kept between two starts, and who gets in |
//! | `supervisor`, `sessions`, `subprocess` | the process table: what runs, how it ends, the release of each |
//! | `handshaker`, [`reception`] | accepting, and the handshakes in progress, on [`crate::port`] |
//! | `zygote` | forking a process for each session |
//! | `confine` | what each process gives up before it meets a peer |
//! | [`users`], [`limits`], [`gate`] | whose each process is, and how much there may be |
//! | `link`, `telling` | what these processes tell each other |
//! | [`takeover`] | one server after another |
//! | [`service`] | what a service manager passes, and is told |
//! | [`control`], [`tally`] | what operators ask, and what is counted for them |
//! | [`poller`] | what is waited for |
//!
//! The page is `spec/processes.md`. A handshake waits for its peer without holding up another. A
//! finished one becomes a context, which is exported at once; the process forked for it imports
//! it, from then on owns it, and tells the supervisor how it went.

pub mod accounts;
mod confine;
pub mod control;
#[cfg(any(test, feature = "fault"))]
#[doc(hidden)]
pub mod forge;
pub mod gate;
mod handshaker;
pub mod identity;
pub mod limits;
mod link;
pub mod passwords;
pub mod poller;
pub mod reception;
pub mod service;
mod sessions;
pub mod state;
mod subprocess;
mod supervisor;
pub mod takeover;
pub mod tally;
mod telling;
pub mod users;
mod zygote;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::ledger;
use crate::ledger::keeper::{Keeper, Options};
use crate::session::Start;
use crate::session::drive::{Hops, Patience};
use crate::session::job::Kind;
use crate::session::log;
use crate::succession::Program;
use crate::sys::process::Signal;
use crate::sys::signal::Watch;

use limits::{Allowance, Limits};
use users::Users;

pub use reception::Policy;
pub use supervisor::Role;
pub use takeover::Predecessor;

/// What a server is to do.
pub struct Plan {
    /// Where to listen.
    pub listen: SocketAddr,
    /// All else.
    pub terms: Terms,
    /// Asked at SIGHUP for new terms; without it the signal ends the server, as it does any process.
    pub reload: Option<Reload>,
    /// What the process that is forked for a session does with it, which is [`Start::run`] but in
    /// tests.
    pub session: RunSession,
    /// Where operators ask; nowhere without it.
    pub control: Option<control::place::Place>,
    /// A socket that listens already, which counts instead of `listen`.
    pub listener: Option<TcpListener>,
    /// The server that this one comes after, whose listener that is.
    pub predecessor: Option<Predecessor>,
}

/// Answers the terms that are to hold from now on, or every reason why the old ones go on to.
pub type Reload = Box<dyn FnMut() -> Result<Terms, Vec<String>>>;

/// What can change while a server runs: it holds for what begins from then on.
pub struct Terms {
    /// Reads who gets in, and how. Only the process that needs the private key calls it.
    pub load: Load,
    /// What sessions run.
    pub kind: Kind,
    /// Hops of each session after the first.
    pub hops: Hops,
    /// How much there may be at once.
    pub limits: Limits,
    /// Whom processes become; none where they stay whose this one is.
    pub users: Option<Users>,
    /// How long a session lasts.
    pub patience: Patience,
    /// What it may have.
    pub allowance: Allowance,
    /// How the log is written.
    pub log: log::Form,
}

/// Reads who gets in, and how; or why that cannot be read, for people. It is called again when the
/// process that called it has to be replaced.
pub type Load = Box<dyn Fn() -> Result<Policy, String>>;

/// What runs a session, in the process forked for it: that ends when this comes back.
pub type RunSession = Box<dyn Fn(Start)>;

/// Why a server does not start, or stops.
#[derive(Debug)]
pub enum Error {
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The ledger cannot be made.
    Ledger(ledger::Error),
    /// The handshaker did not start.
    Handshaker(String),
    /// The server before this one did not hand over.
    Takeover(takeover::Failed),
    /// Operators were to ask where they cannot.
    Control(control::place::Absent),
    /// The operating system refused something the server cannot do without.
    System(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Ledger(error) => write!(f, "no ledger: {error}"),
            Self::Handshaker(text) => f.write_str(text),
            Self::Takeover(failed) => write!(f, "the running server: {failed}"),
            Self::Control(absent) => absent.fmt(f),
            Self::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Where the server's contexts are.
enum Kept {
    /// In a new domain.
    New(Box<Keeper>),
    /// In that of the server before this one.
    After(Predecessor),
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    terms: Terms,
    reload: Option<Reload>,
    session: RunSession,
    domain: Kept,
    program: Option<Program>,
    signals: Watch,
    control: Option<control::place::Place>,
    /// The listener is not this server's alone.
    passed: bool,
}

impl Server {
    /// Listens, and makes the domain within which sessions move. From here on, signals to stop are
    /// kept for [`Serving::run`].
    pub fn open(plan: Plan) -> Result<Self, Error> {
        let Plan {
            listen,
            terms,
            reload,
            session,
            control,
            listener,
            predecessor,
        } = plan;
        let refused = |error| Error::Listen(listen, error);
        let passed = match &predecessor {
            Some(predecessor) => predecessor.is_shared(),
            None => listener.is_some(),
        };
        let listener = match listener {
            Some(listener) => listener,
            None => TcpListener::bind(listen).map_err(refused)?,
        };
        listener.set_nonblocking(true).map_err(refused)?;
        let domain = match predecessor {
            Some(predecessor) => Kept::After(predecessor),
            None => Kept::New(Box::new(keeper(&terms)?)),
        };
        let mut signals = vec![Signal::TERM, Signal::INT, Signal::CHILD, Signal::USR2];
        signals.extend(reload.as_ref().map(|_| Signal::HUP));
        let signals = Watch::new(&signals).map_err(|error| Error::System("signals", error))?;
        Ok(Self {
            listener,
            terms,
            reload,
            session,
            domain,
            // Early: once another file is at its path it is not told any more.
            program: Program::own().ok(),
            signals,
            control,
            passed,
        })
    }

    /// Starts the server's processes, and comes back once connections are accepted; or, in one of
    /// these processes, when that has done its part.
    ///
    /// # Errors
    /// The system's, and what the handshaker cannot start without.
    pub fn start(self) -> Result<Started, Error> {
        Ok(match supervisor::start(self)? {
            Ok(supervisor) => Started::Serving(Serving(Box::new(supervisor))),
            Err(role) => Started::Other(role),
        })
    }

    /// The address it listens on, with the port that was taken.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// What this process is when [`Server::start`] comes back.
pub enum Started {
    /// The server, whose connections are accepted.
    Serving(Serving),
    /// Another process of it.
    Other(Role),
}

/// A server that accepts connections.
pub struct Serving(Box<supervisor::Supervisor>);

impl Serving {
    /// Serves until a signal stops it. Comes back also in other processes of the server.
    ///
    /// # Errors
    /// The system's, of what the server cannot do without.
    pub fn run(self) -> Result<Role, Error> {
        self.0.run()
    }
}

/// The keeper of a new domain.
fn keeper(terms: &Terms) -> Result<Keeper, Error> {
    let handshakes = u32::try_from(terms.limits.handshakes).unwrap_or(u32::MAX);
    let options = Options {
        // Delivered by one handshaker, and not imported yet: two for each place are kept, once more
        // for another after it.
        quota: supervisor::KEPT.quota.max(handshakes.saturating_mul(4)),
        ..supervisor::KEPT
    };
    Keeper::new(&options).map_err(Error::Ledger)
}
