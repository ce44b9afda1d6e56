//! The completion port: many handshakes and sessions at once, started here and waited for there
//! (`spec/port.md`).
//!
//! The flow is the classic one of secure-socket libraries:
//!
//! 1. make a [`Port`], and let worker threads [`wait`](Port::wait) on it, as many as you like;
//! 2. open an [`Environment`], [`set`](Environment::set) its attributes, [`init`](Environment::init) it;
//! 3. for each connection open a [`Session`], which inherits the attributes, override what is
//!    different, and [`start_handshake`](Session::start_handshake): the call returns at once, and a
//!    [`Completion`] is posted when the handshake is over;
//! 4. a worker takes the completion, with the session in it, and starts what comes next:
//!    [`start_receive`](Session::start_receive), [`start_send`](Session::start_send),
//!    [`close`](Session::close); or takes the context out alive with [`detach`](Session::detach), to
//!    export it to another process.
//!
//! ```
//! # let authority = rcgen::KeyPair::generate()?;
//! # let certificate = rcgen::CertificateParams::new(vec!["localhost".into()])?.self_signed(&authority)?;
//! # let folder = tempfile::tempdir()?;
//! # let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
//! # std::fs::write(&chain, certificate.pem())?;
//! # std::fs::write(&key, authority.serialize_pem())?;
//! use std::os::unix::net::UnixStream;
//! use std::time::Duration;
//! use baton::context::Role;
//! use baton::ledger::Domain;
//! use baton::port::{Amount, Attribute, Environment, Operation, Port, Session};
//!
//! let port = Port::new()?;
//! let environment = Environment::open(&port, &Domain::inherited(16)?)?;
//! environment.set(Attribute::Certificate(chain.clone()))?;
//! environment.set(Attribute::Key(key))?;
//! environment.set(Attribute::Anchors(chain))?;
//! environment.set(Attribute::HandshakeTimeout(Duration::from_secs(5)))?;
//! environment.init()?;
//!
//! // Both sides in one process, over one port: 1 is the acceptor, 2 the initiator.
//! let (ours, theirs) = UnixStream::pair()?;
//! let acceptor = Session::open(&environment)?;
//! let initiator = Session::open(&environment)?;
//! initiator.set(Attribute::Role(Role::Initiator))?;
//! initiator.set(Attribute::Target("echo@localhost".into()))?;
//! acceptor.start_handshake(ours, 1)?;
//! initiator.start_handshake(theirs, 2)?;
//! drop((acceptor, initiator)); // the completions have them
//!
//! let mut heard = None;
//! while heard.is_none() {
//!     let done = port.wait(Some(Duration::from_secs(60)))?;
//!     let session = done.session.clone().expect("of a session");
//!     match (done.operation, done.tag) {
//!         (Operation::Handshake, 1) => session.start_receive(vec![0; 100], Amount::Some, 1)?,
//!         (Operation::Handshake, 2) => session.start_send(b"hello".to_vec(), 2)?,
//!         (Operation::Receive, 1) => heard = Some(done.data.clone()),
//!         (Operation::Send, 2) => session.close()?,
//!         _ => unreachable!("nothing else was started"),
//!     }
//!     if let Some(error) = done.error {
//!         panic!("{:?} of {}: {error}", done.operation, done.tag);
//!     }
//! }
//! assert_eq!(heard.as_deref(), Some(&b"hello"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Inside, a driver (a thread of the port's, several, or the caller's: [`Port::with_drivers`],
//! [`Port::driven_by_waiters`])
//! makes the handshakes and does what could not be done at once. A slow handshake costs a
//! descriptor and some KiB, and no thread. What an operation can do at once it does in the call
//! that starts it, so that sealing and opening is spread over the workers.
//!
//! Callbacks (validation, passwords) run in the middle of a handshake, on a driver's thread:
//! while one takes its time its driver does nothing else. They may use the port, its environments and
//! its sessions, their own among them, but not wait: [`Code::InvalidState`]. A panic in one is a refusal.
//!
//! A program of one thread needs no second: [`Port::driven_by_waiters`] does all that inside
//! [`Port::wait`], and [`Watch`] brings other descriptors to the same place. A program that has
//! a loop of its own asks [`Port::pollable`].
//!
//! # In a forked process
//! A port stays with the process that made it: its threads are there, and its epoll instance is
//! shared with it. A forked process may drop what it inherited of ports, environments and
//! sessions, which touches neither the epoll instance nor the connections, and nothing else: every call
//! answers [`Code::PortForked`] (what answers no error, the closed state and nothing pending). Its
//! copies of the descriptors keep connections from ending as long as it lives, as all that are
//! inherited; closing a session ends its connection all the same.
//!
//! SECURITY: a process with a port holds the contexts, and through its environments the private
//! keys, of all its sessions. What strangers can make it hold is bounded: sessions by the attribute
//! `session-limit`, the time of each handshake by `handshake-timeout`, its bytes by
//! [`crate::establish`], unsent bytes by `unsent-limit`; of received bytes nothing is read that
//! no receive has asked for. Completions and errors carry no secret, and `Debug` shows no
//! data.

mod attribute;
mod completion;
mod connection;
mod driver;
mod driving;
mod environment;
mod error;
mod handshake;
mod held;
mod live;
mod pending;
mod queue;
mod session;
mod shake;
mod watch;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

pub use attribute::{Attribute, ClientAuthentication, Key, Resolver, Row};
pub use completion::{Completion, Operation};
pub use environment::{Environment, EnvironmentState};
pub use error::{Code, Error};
pub use live::Live;
pub use queue::EVENTS;
pub use session::{Amount, NotSent, Parts, RECEIVE_LIMIT, Session, SessionState};
pub use watch::{Readiness, Watch};

use crate::sys::process;
use driver::{Driver, Polling, Rest};
use driving::Mode;
use queue::Queue;

/// The most drivers of one port.
pub const MOST_DRIVERS: usize = 64;

/// A completion port. Threads share it by reference, or in an [`Arc`]; dropping it destroys it.
pub struct Port(Arc<Shared>);

/// A port as its environments and sessions hold it.
struct Shared {
    queue: Arc<Queue>,
    drivers: Vec<Arc<Driver>>,
    mode: Mode,
    /// Of the one driver that has no thread.
    polling: Mutex<Option<Polling>>,
    /// The port's threads that have not ended.
    threads: Arc<(Mutex<usize>, Condvar)>,
    drawn: AtomicU64,
    born: u64,
}

impl Port {
    /// A port with one driver, in a thread of its own.
    ///
    /// # Errors
    /// [`Code::System`].
    pub fn new() -> Result<Self, Error> {
        Self::with_drivers(1)
    }

    /// A port with so many drivers, each in a thread of its own, among which the sessions are
    /// dealt out: at most [`MOST_DRIVERS`], more are taken as that. With 0 the caller is the driver:
    /// see [`Port::drive`].
    ///
    /// # Errors
    /// [`Code::System`].
    //= spec/port.md#drivers
    pub fn with_drivers(number: usize) -> Result<Self, Error> {
        match number {
            0 => Self::make(1, Mode::Turns),
            _ => Self::make(number, Mode::Threads),
        }
    }

    /// A port without a thread of its own, which is driven inside [`Port::wait`]: whoever waits and
    /// finds nothing does what the sessions have to do, until there is something. When several
    /// wait, one of them drives. As long as nobody waits, no session goes on and no timeout is told.
    ///
    /// So a program of one thread has many sessions without a second one, and with
    /// [`Watch`] waits for its other descriptors in the same place.
    ///
    /// # Errors
    /// [`Code::System`].
    //= spec/port.md#drivers
    pub fn driven_by_waiters() -> Result<Self, Error> {
        Self::make(1, Mode::Waiters)
    }

    fn make(number: usize, mode: Mode) -> Result<Self, Error> {
        let refused = |error| Error::of_system(&error);
        let mut drivers = Vec::new();
        let mut pollings = Vec::new();
        for _ in 0..number.min(MOST_DRIVERS) {
            let (driver, polling) = Driver::new().map_err(refused)?;
            drivers.push(driver);
            pollings.push(polling);
        }
        let threadless = (mode != Mode::Threads).then(|| pollings.pop()).flatten();
        let port = Self(Arc::new(Shared {
            queue: Arc::default(),
            drivers,
            mode,
            polling: Mutex::new(threadless),
            threads: Arc::default(),
            drawn: AtomicU64::new(0),
            born: process::word(),
        }));
        for (driver, polling) in port.0.drivers.iter().cloned().zip(pollings) {
            // When one cannot be started, dropping the port ends the others.
            port.0.start(driver, polling).map_err(refused)?;
        }
        Ok(port)
    }

    /// Waits for a completion, at most so long, for ever when no time is given; with
    /// [`Duration::ZERO`] it only looks. Each completion goes to one waiter.
    ///
    /// # Errors
    /// [`Code::WaitTimeout`], [`Code::PortDestroyed`], [`Code::PortForked`];
    /// [`Code::InvalidState`] in a callback, for which the driver waits. [`Code::System`] of a port
    /// [driven by waiters](Port::driven_by_waiters).
    //= spec/port.md#wait
    //= spec/port.md#callbacks
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Completion, Error> {
        self.0.here()?;
        if self.0.is_called_back() {
            return Err(Code::InvalidState.into());
        }
        match self.0.mode {
            Mode::Waiters => self.0.wait_driving(timeout),
            Mode::Threads | Mode::Turns => self.0.queue.wait(timeout),
        }
    }

    /// For a program with a loop of its own around `poll`, `epoll` or the like, and a port without
    /// threads: the descriptor that is ready to be read when the port has something to do, and when
    /// it has although nothing happens. Then the program calls [`Port::wait`] (before it
    /// [`Port::drive`], if that is how the port is driven), with [`Duration::ZERO`] and until nothing
    /// is left. Both answers hold until the next call of the port, and the descriptor is the
    /// same always: it may be ready for nothing.
    ///
    /// # Errors
    /// [`Code::InvalidState`] when the port has its own threads; [`Code::PortDestroyed`],
    /// [`Code::PortForked`].
    //= spec/port.md#descriptor
    pub fn pollable(&self) -> Result<(BorrowedFd<'_>, Option<Instant>), Error> {
        self.0.check()?;
        let driver = match self.0.mode {
            Mode::Threads => return Err(Code::InvalidState.into()),
            Mode::Turns | Mode::Waiters => &self.0.drivers[0],
        };
        let due = match self.0.queue.fall_asleep() {
            true => driver.next_due(),
            false => Some(Instant::now()),
        };
        Ok((driver.descriptor(), due))
    }

    /// Does one turn of the driver's work, for a port without driver threads: waits at most so long
    /// for something to do, for ever when no time is given, and does it. Completions are there for
    /// [`Port::wait`] afterwards.
    ///
    /// # Errors
    /// [`Code::InvalidState`] when the port is driven otherwise, or by another thread at this moment;
    /// [`Code::PortDestroyed`], [`Code::PortForked`], [`Code::System`].
    //= spec/port.md#drivers
    pub fn drive(&self, limit: Option<Duration>) -> Result<(), Error> {
        self.0.check()?;
        if self.0.mode != Mode::Turns {
            return Err(Code::InvalidState.into());
        }
        self.0.turn(limit, Rest::Driver)
    }

    /// Posts an event of the caller's own.
    ///
    /// # Errors
    /// [`Code::EventsFull`], [`Code::PortDestroyed`], [`Code::PortForked`].
    //= spec/port.md#events
    pub fn post(&self, tag: u64, value: u64) -> Result<(), Error> {
        self.0.here()?;
        if self.0.queue.post_event(event(tag, value))? {
            self.0.wake();
        }
        Ok(())
    }

    /// Posts an event of the caller's own after some time, to the millisecond. A time that no
    /// clock reaches never comes.
    ///
    /// # Errors
    /// As [`Port::post`]; delayed events count among those posted.
    //= spec/port.md#events
    pub fn post_after(&self, delay: Duration, tag: u64, value: u64) -> Result<(), Error> {
        const CENTURY: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
        self.0.here()?;
        self.0.queue.admit_event()?;
        let when = Instant::now() + delay.min(CENTURY);
        match self.0.drivers[0].post_at(when, event(tag, value)) {
            true => Ok(()),
            false => Err(Code::PortDestroyed.into()),
        }
    }

    /// Destroys the port. Every waiter, now and later, hears [`Code::PortDestroyed`], and nothing
    /// is started any more. What nobody has waited for is handed back: completions, events, and
    /// with [`Code::PortDestroyed`] those of every operation that was pending, of events that were
    /// not due and of environments whose end was to be told. Handshakes end;
    /// established sessions can still be detached or closed. Destroyed again, there is nothing to
    /// hand back.
    ///
    /// It waits for the port's threads, but for its own when it is called in a callback.
    //= spec/port.md#destroy
    pub fn destroy(&self) -> Vec<Completion> {
        if self.0.here().is_err() || !self.0.queue.destroy() {
            return Vec::new();
        }
        self.0.end_drivers();
        let mut delayed = Vec::new();
        for driver in &self.0.drivers {
            let left = driver.close();
            left.sessions.iter().for_each(|core| core.orphan());
            let queue = &self.0.queue;
            left.watches
                .iter()
                .for_each(|watched| watched.orphan(queue));
            delayed.extend(left.events);
        }
        for event in &mut delayed {
            event.error = Some(Code::PortDestroyed.into());
        }
        let mut left = self.0.queue.drain();
        left.extend(delayed);
        left
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        drop(self.destroy());
    }
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Port")
            .field("drivers", &self.0.drivers.len())
            .finish_non_exhaustive()
    }
}

fn event(tag: u64, value: u64) -> Completion {
    Completion {
        operation: Operation::Event,
        tag,
        session: None,
        value,
        data: Vec::new(),
        error: None,
    }
}
