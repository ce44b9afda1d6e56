//! Succession: a server starts the program that succeeds it, and gives it everything it has, live
//! (`spec/succession.md`).
//!
//! | side | value | its steps |
//! |---|---|---|
//! | the old process | [`Successor`] | start, hear READY, hand over, say ACCEPT, say END, hear TAKEN |
//! | the new process | [`Predecessor`], then [`Inheritance`] | take the offer, be ready, receive, accept |
//!
//! Nothing here waits in the old process: a [`Successor`] is a descriptor and a deadline for the
//! server's own loop. Whatever fails on the way, [`Successor::take_back`] brings back every
//! connection that the new process had not acknowledged.
//!
//! The old process, at the signal and in its loop:
//! ```no_run
//! use baton::ledger::Domain;
//! use baton::record::Record;
//! use baton::succession::{Error, Heard, Offer, Patience, Program, Successor};
//! use baton::transfer::Laden;
//! # use std::os::fd::{AsFd, BorrowedFd};
//! # fn next_connections() -> Vec<Laden<Record>> { Vec::new() }
//! # fn go_on_with(_: Vec<Laden<Record>>) {}
//! # fn wait_for(_: BorrowedFd<'_>, _: bool, _: Option<std::time::Instant>) {}
//! # fn old(program: &Program, domain: &Domain, listener: std::net::TcpListener) -> Result<(), Error> {
//! let offer = Offer { domain, listeners: &[listener.as_fd()], note: b"", connections: 20_000 };
//! let mut successor = Successor::<Record>::start(program, &offer, Patience::default())?;
//! loop {
//!     wait_for(successor.socket(), successor.has_unsent(), successor.deadline());
//!     match successor.hear() {
//!         Ok(Heard::Taken) => return Ok(()),
//!         Ok(Heard::Returned(connections)) => go_on_with(connections),
//!         Ok(Heard::Nothing | Heard::Ready) => {}
//!         Err(_) => {
//!             go_on_with(successor.take_back().connections);
//!             return Ok(());
//!         }
//!     }
//!     if successor.has_room() {
//!         match next_connections() {
//!             none if none.is_empty() => successor.end(),
//!             some => drop(successor.hand_over(some)),
//!         }
//!     }
//! }
//! # }
//! ```
//!
//! The new process, before it does anything else:
//! ```no_run
//! use baton::record::Record;
//! use baton::succession::{Error, Predecessor, Told};
//! # fn go_on_with(_: Vec<baton::transfer::Laden<Record>>) {}
//! # fn accept_from_now_on() {}
//! # fn wait_for(_: std::os::fd::BorrowedFd<'_>) {}
//! # fn new() -> Result<(), Error> {
//! let Some(mut predecessor) = Predecessor::inherited()? else {
//!     return Ok(()); // the first of its line: listen, and make a domain
//! };
//! let listeners = predecessor.take_listeners();
//! // Here it reads its configuration and whatever may fail.
//! let mut inheritance = predecessor.ready()?;
//! loop {
//!     wait_for(inheritance.socket());
//!     match inheritance.receive::<Record>()? {
//!         Told::Arrived { connections, .. } => go_on_with(connections),
//!         Told::Accept => accept_from_now_on(),
//!         Told::Over { .. } => return Ok(accept_from_now_on()),
//!         Told::Nothing => {}
//!     }
//! }
//! # }
//! ```
//!
//! SECURITY: the offer is the domain, so whoever gets it can open every token of it. It goes over a
//! socket that has no address, to the one process that was started, and only after the kernel
//! has named that process and its user as the sender of what was said over the socket. The new
//! process in turn takes its socket only from the process its environment names, of its own user.
//! A program that is started is trusted with everything: its path must be no one else's to write.

#[cfg(any(test, feature = "fault"))]
#[doc(hidden)]
pub mod forge;
mod predecessor;
mod program;
mod successor;
mod wire;

use core::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

#[cfg(feature = "cli")]
pub(crate) use predecessor::inherited_socket;
pub use predecessor::{Inheritance, Predecessor, Told};
pub use program::Program;
pub use successor::{Heard, Successor, TakenBack};
pub use wire::{MAX_LISTENERS, MAX_NOTE};

use crate::ledger::{self, Domain};

/// The variable of the environment by which a program knows that it succeeds another.
pub const VARIABLE: &str = "BATON_SUCCESSION";

/// What a predecessor gives before any connection.
pub struct Offer<'a> {
    /// The domain of the contexts.
    pub domain: &'a Domain,
    /// The listening sockets, at most [`MAX_LISTENERS`]. The successor gets them in this order.
    pub listeners: &'a [BorrowedFd<'a>],
    /// Anything the successor is to know first, at most [`MAX_NOTE`] bytes, and nothing secret.
    pub note: &'a [u8],
    /// How many connections there are, so that a successor with too few descriptors is found out
    /// before it gets the first.
    pub connections: usize,
}

/// How long a predecessor waits for its successor.
//= spec/succession.md#deadlines
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From its start until it is ready.
    pub ready: Duration,
    /// For an answer to what was given.
    pub answer: Duration,
}

impl Default for Patience {
    /// 30 seconds, and 10.
    fn default() -> Self {
        Self {
            ready: Duration::from_secs(30),
            answer: Duration::from_secs(10),
        }
    }
}

/// Why a succession does not come about.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The program cannot be started.
    Start(io::Error),
    /// The other process is gone.
    Gone,
    /// The other process has not said in time what was due.
    Late,
    /// A process speaks that was not started here, or that is another user's.
    Stranger,
    /// What was said is nothing that can be said now.
    Defective,
    /// There is no version that both speak.
    Version,
    /// The successor may not open as many descriptors as there are to be given.
    FewDescriptors {
        /// How many are to be given.
        needed: u64,
        /// How many it may open.
        allowed: u64,
    },
    /// The successor says why it cannot: printable ASCII.
    Refused(String),
    /// The environment names a predecessor, and descriptor 0 is not its socket.
    NotInherited,
    /// An offer with too many listening sockets, or too long a note.
    OfferTooLarge,
    /// The domain that was offered is none.
    Domain(ledger::Error),
    /// The operating system refused.
    System(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => Self::Gone,
            io::ErrorKind::InvalidData => Self::Defective,
            _ => Self::System(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "the successor does not start: {error}"),
            Self::Gone => f.write_str("the other process of the succession is gone"),
            Self::Late => f.write_str("the successor has not answered in time"),
            Self::Stranger => {
                f.write_str("another process than the one started speaks as the successor")
            }
            Self::Defective => f.write_str("a message of the succession is defective"),
            Self::Version => f.write_str("successor and predecessor speak no common version"),
            Self::FewDescriptors { needed, allowed } => write!(
                f,
                "the successor may open {allowed} descriptors and needs {needed}"
            ),
            Self::Refused(reason) => write!(f, "the successor refuses: {reason}"),
            Self::NotInherited => write!(
                f,
                "{VARIABLE} is set, and descriptor 0 is no socket of that process"
            ),
            Self::OfferTooLarge => {
                f.write_str("too many listening sockets, or too long a note, to be offered")
            }
            Self::Domain(error) => write!(f, "the domain that was offered: {error}"),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(error) | Self::System(error) => Some(error),
            Self::Domain(error) => Some(error),
            _ => None,
        }
    }
}
