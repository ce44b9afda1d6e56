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
//! Inside, a driver (a thread of the port's, several, or the caller's: [`Port::with_drivers`])
//! makes the handshakes and does what could not be done at once. A slow handshake costs a
//! descriptor and some KiB, and no thread. What an operation can do at once it does in the call
//! that starts it, so that sealing and opening is spread over the workers.
//!
//! Callbacks (validation, passwords) run in the middle of a handshake, on a driver's thread and
//! under their session's lock: while one takes its time its driver does nothing else. They, and
//! the resolver, must not use the port, its environments and its sessions. A panic in one is a
//! refusal.
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
mod environment;
mod error;
mod live;
mod pending;
mod queue;
mod session;
mod shake;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

pub use attribute::{Attribute, ClientAuthentication, Key, Resolver, Row};
pub use completion::{Completion, Operation};
pub use environment::{Environment, EnvironmentState};
pub use error::{Code, Error};
pub use live::Live;
pub use queue::EVENTS;
pub use session::{Amount, NotSent, Parts, RECEIVE_LIMIT, Session, SessionState};

use crate::sys::process;
use driver::{Driver, Polling};
use queue::Queue;

/// The most drivers of one port.
pub const MOST_DRIVERS: usize = 64;

/// A completion port. Threads share it by reference, or in an [`Arc`]; dropping it destroys it.
pub struct Port(Arc<Shared>);

/// A port as its environments and sessions hold it.
struct Shared {
    queue: Arc<Queue>,
    drivers: Vec<Arc<Driver>>,
    /// Of the one driver that the caller runs.
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
    pub fn with_drivers(number: usize) -> Result<Self, Error> {
        let refused = |error| Error::of_system(&error);
        let mut drivers = Vec::new();
        let mut pollings = Vec::new();
        for _ in 0..number.clamp(1, MOST_DRIVERS) {
            let (driver, polling) = Driver::new().map_err(refused)?;
            drivers.push(driver);
            pollings.push(polling);
        }
        let by_caller = (number == 0).then(|| pollings.pop()).flatten();
        let port = Self(Arc::new(Shared {
            queue: Arc::default(),
            drivers,
            polling: Mutex::new(by_caller),
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
    /// [`Code::WaitTimeout`], [`Code::PortDestroyed`], [`Code::PortForked`].
    //= spec/port.md#wait
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Completion, Error> {
        self.0.here()?;
        self.0.queue.wait(timeout)
    }

    /// Does one turn of the driver's work, for a port without driver threads: waits at most so long
    /// for something to do, for ever when no time is given, and does it. Completions are there for
    /// [`Port::wait`] afterwards.
    ///
    /// # Errors
    /// [`Code::InvalidState`] when the port has its own threads, or another thread drives it;
    /// [`Code::PortDestroyed`], [`Code::PortForked`], [`Code::System`].
    //= spec/port.md#drivers
    pub fn drive(&self, limit: Option<Duration>) -> Result<(), Error> {
        self.0.check()?;
        let Ok(mut polling) = self.0.polling.try_lock() else {
            return Err(Code::InvalidState.into());
        };
        let polling = polling.as_mut().ok_or(Code::InvalidState)?;
        let turned = self.0.drivers[0].turn(&self.0.queue, polling, limit);
        turned.map_err(|error| Error::of_system(&error))
    }

    /// Posts an event of the caller's own.
    ///
    /// # Errors
    /// [`Code::EventsFull`], [`Code::PortDestroyed`], [`Code::PortForked`].
    //= spec/port.md#events
    pub fn post(&self, tag: u64, value: u64) -> Result<(), Error> {
        self.0.here()?;
        Ok(self.0.queue.post_event(event(tag, value))?)
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
    /// It waits for the port's threads; so it must not be called from a callback.
    //= spec/port.md#destroy
    pub fn destroy(&self) -> Vec<Completion> {
        if self.0.here().is_err() || !self.0.queue.destroy() {
            return Vec::new();
        }
        self.0.end_drivers();
        let mut delayed = Vec::new();
        for driver in &self.0.drivers {
            let (sessions, events) = driver.close();
            sessions.iter().for_each(|core| core.orphan());
            delayed.extend(events);
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

impl Shared {
    /// Starts a driver's thread. It is not joined but counted: a handle to a thread that is not
    /// there is nothing a forked process should drop.
    fn start(&self, driver: Arc<Driver>, polling: Polling) -> std::io::Result<()> {
        let threads = self.threads.clone();
        let count = |change: isize| {
            move |threads: &(Mutex<usize>, Condvar)| {
                let mut running = threads.0.lock().unwrap_or_else(PoisonError::into_inner);
                *running = running.saturating_add_signed(change);
                threads.1.notify_all();
            }
        };
        count(1)(&self.threads);
        let queue = self.queue.clone();
        let thread = std::thread::Builder::new().name("baton-port".to_owned());
        let spawned = thread.spawn(move || {
            driver.run(&queue, polling);
            count(-1)(&threads);
        });
        if let Err(error) = spawned {
            count(-1)(&self.threads);
            return Err(error);
        }
        Ok(())
    }

    /// Ends the driving, and waits until it has ended.
    fn end_drivers(&self) {
        self.drivers.iter().for_each(|driver| driver.stop());
        let (running, ended) = &*self.threads;
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        while *running > 0 {
            running = ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        drop(running);
        drop(
            self.polling
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    /// That this is the process of the port.
    //= spec/port.md#fork
    fn here(&self) -> Result<(), Code> {
        match self.born == process::word() {
            true => Ok(()),
            false => Err(Code::PortForked),
        }
    }

    /// That the port is not destroyed.
    fn alive(&self) -> Result<(), Code> {
        match self.queue.is_destroyed() {
            true => Err(Code::PortDestroyed),
            false => Ok(()),
        }
    }

    fn check(&self) -> Result<(), Code> {
        self.here()?;
        self.alive()
    }

    /// A number for a session.
    fn draw(&self) -> u64 {
        self.drawn.fetch_add(1, Ordering::Relaxed)
    }

    /// The driver of a session.
    fn driver(&self, session: u64) -> Arc<Driver> {
        let number = session % self.drivers.len() as u64;
        self.drivers[number as usize].clone()
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
