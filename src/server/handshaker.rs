//! The handshaker: accepts, makes the handshakes, and delivers each live connection.
//!
//! SECURITY: the one process with the server's private key, and the one that reads what
//! unauthenticated strangers send. A context stays in it for no longer than it takes to export.
//! Taken over, it can make contexts in anybody's name; it has no running session's keys.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;

use crate::ledger::Domain;
use crate::port::{self, Completion, Live, Operation, Port, Readiness, Watch};
use crate::session::about::About;
use crate::session::channel::Channel;
use crate::session::log;
use crate::session::parcel::{Introduction, Parcel, Sealed};
use crate::sys::process::{self, Keep};
use crate::transfer::Export;

use super::confine::{Missing, Role, confine};
use super::limits::{self, Limits};
use super::link::{Broken, Link};
use super::reception::{Established, Policy, Reception, Room};
use super::tally::Handshakes;
use super::telling::{FromHandshaker, ToHandshaker};
use super::users::Users;

/// How long a session's process has to import its context.
const IMPORT_LIMIT: Duration = Duration::from_secs(30);

/// How often the supervisor is told what was counted, at most.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What the handshaker starts from.
pub(super) struct Handshaker {
    pub(super) listener: TcpListener,
    /// Its connection to the keeper.
    pub(super) keeper: OwnedFd,
    pub(super) link: Link,
    /// Whom it becomes, where it can.
    pub(super) users: Option<Users>,
    pub(super) limits: Limits,
}

/// What the link to the supervisor has become ready for, and the listener, under these tags.
const LINK: u64 = 1;

struct Running {
    port: Port,
    reception: Reception,
    link: Watch<Link>,
    /// What the supervisor has said of it.
    room: Room,
    /// When the supervisor was last told what was counted, and how many were in progress then.
    told: (Instant, usize),
    /// Log lines lost that it was told of.
    log_lost: u64,
}

impl Handshaker {
    //= spec/processes.md#handshaker
    /// Runs until the supervisor stops it, or is gone. `load` reads who gets in, and how.
    pub(super) fn run(mut self, load: impl FnOnce() -> Result<Policy, String>) {
        let policy = match load() {
            Ok(policy) => policy,
            Err(text) => return fail(self.link, text),
        };
        // Before it is confined: what the port is made of needs system calls that it does not.
        let port = match Port::driven_by_waiters() {
            Ok(port) => port,
            Err(error) => return fail(self.link, error.to_string()),
        };
        // The private key is read: from here on it is nobody in particular.
        match give_up(self.users.as_ref(), self.limits) {
            Ok(missing) if missing.is_anything() => log::line(format_args!("{missing}")),
            Ok(_) => {}
            Err(text) => return fail(self.link, text),
        }
        // What can fail for reasons of its own has passed: the keeper may be another server's still.
        if self.link.send(&FromHandshaker::Loaded, Vec::new()).is_err() {
            return;
        }
        let domain = match Domain::kept(self.keeper) {
            Ok(domain) => domain,
            Err(error) => return fail(self.link, error.to_string()),
        };
        let (listener, link, limits) = (self.listener, self.link, self.limits);
        let running = Running::new(port, listener, link, &domain, policy, limits);
        match running.and_then(Running::run) {
            // A supervisor that is gone hears nothing, and nobody needs to.
            Ok(()) | Err(Ended::Link(Broken::Gone)) => {}
            Err(error) => log::line(format_args!("handshaker: {error}")),
        }
    }
}

fn fail(mut link: Link, text: String) {
    // A supervisor that is gone needs no reason.
    let _ = link.send(&FromHandshaker::Failed { text }, Vec::new());
}

//= spec/processes.md#confine
fn give_up(users: Option<&Users>, limits: Limits) -> Result<Missing, String> {
    if let Some(users) = users {
        // Secrets stay locked in memory, whosever they are.
        process::lift_lock_limit()
            .and_then(|()| users.handshaker.become_it(Keep::Nothing))
            .map_err(|error| format!("the handshaker's user: {error}"))?;
    }
    limits::hold_handshaker(limits.handshakes)
        .map_err(|error| format!("the handshaker's limits: {error}"))?;
    confine(Role::Handshaker).map_err(|refused| refused.to_string())
}

impl Running {
    fn new(
        port: Port,
        listener: TcpListener,
        mut link: Link,
        domain: &Domain,
        policy: Policy,
        limits: Limits,
    ) -> Result<Self, Ended> {
        let reception = Reception::new(&port, domain, listener, policy, limits)?;
        link.send(&FromHandshaker::Ready, Vec::new())?;
        let mut running = Self {
            link: Watch::open(&port, link)?,
            port,
            reception,
            room: Room::Now,
            told: (Instant::now(), 0),
            log_lost: log::lost(),
        };
        running.link.start(Readiness::Read, LINK)?;
        running.watch_room()?;
        Ok(running)
    }

    //= spec/processes.md#end
    fn run(mut self) -> Result<(), Ended> {
        loop {
            let due = self.tally_due();
            let limit = due.map(|due| due.saturating_duration_since(Instant::now()));
            let done = match self.port.wait(limit) {
                Err(error) if error.code() == port::Code::WaitTimeout => {
                    self.tell_tally()?;
                    self.watch_room()?;
                    continue;
                }
                done => done?,
            };
            match (done.operation, done.tag) {
                (Operation::Handshake, _) => self.over(done)?,
                (Operation::Ready, LINK) if done.value == Readiness::Write.number() => {
                    self.link.get_mut().flush()?;
                }
                (Operation::Ready, LINK) => match self.obey() {
                    Ok(true) => self.link.start(Readiness::Read, LINK)?,
                    Ok(false) => return Ok(()),
                    Err(error) => return Err(error.into()),
                },
                // The listener is ready, or its pause over.
                _ => {
                    // What the supervisor does not take now waits in the kernel.
                    let room = match self.link.get_ref().is_full() {
                        true => Room::Soon,
                        false => self.room,
                    };
                    self.reception.accept(room, &self.port)?;
                }
            }
            self.tell_tally()?;
            self.watch_room()?;
        }
    }

    /// When the supervisor is to be told what was counted.
    fn tally_due(&self) -> Option<Instant> {
        let (told, in_progress) = self.told;
        let changed = self.reception.tally != Handshakes::default()
            || self.reception.in_progress() != in_progress;
        (changed && !self.link.get_ref().is_full()).then(|| told + TELL_EVERY)
    }

    //= spec/control.md#counts
    fn tell_tally(&mut self) -> Result<(), Broken> {
        match self.tally_due() {
            Some(due) if due <= Instant::now() => self.tell_tally_now(),
            _ => Ok(()),
        }
    }

    fn tell_tally_now(&mut self) -> Result<(), Broken> {
        let (lost, in_progress) = (log::lost(), self.reception.in_progress());
        let mut tally = self.reception.tally.take(in_progress as u64);
        tally.log_lost = lost - std::mem::replace(&mut self.log_lost, lost);
        self.told = (Instant::now(), in_progress);
        let message = FromHandshaker::Tally(Box::new(tally));
        self.link.get_mut().send(&message, Vec::new())
    }

    /// Waits for room, where messages wait for it.
    fn watch_room(&mut self) -> Result<(), Ended> {
        if self.link.get_ref().is_full() && !self.link.is_pending(Readiness::Write) {
            self.link.start(Readiness::Write, LINK)?;
        }
        Ok(())
    }

    /// Does what the supervisor says; false when that is to end.
    fn obey(&mut self) -> Result<bool, Broken> {
        while let Some((order, _)) = self.link.get_mut().receive::<ToHandshaker>()? {
            match order {
                ToHandshaker::Accept { yes: true } => self.room = Room::Now,
                ToHandshaker::Accept { yes: false } => self.room = Room::Soon,
                ToHandshaker::Full => self.room = Room::None,
                ToHandshaker::Stop => {
                    self.reception.close();
                    self.tell_tally_now()?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn over(&mut self, done: Completion) -> Result<(), Broken> {
        let Some(Established {
            live,
            socket,
            remote,
            unsent,
        }) = self.reception.over(done)
        else {
            return Ok(());
        };
        let connection = Connection {
            socket,
            remote,
            unsent,
        };
        let parcel = match live {
            Live::Record(context) => connection.pack(context, Sealed::Record),
            Live::Message(messages) => connection.pack(messages, Sealed::Message),
        };
        match parcel {
            Some((introduction, parcel)) => self.deliver(introduction, parcel),
            None => Ok(()),
        }
    }

    fn deliver(&mut self, introduction: Introduction, parcel: Parcel) -> Result<(), Broken> {
        let Some(bytes) = parcel.to_bytes() else {
            let session = introduction.session();
            log::of_session(session, format_args!(" is not deliverable"));
            return Ok(());
        };
        let delivery = FromHandshaker::Delivery {
            introduction,
            parcel: ByteBuf::from(bytes),
        };
        self.link
            .get_mut()
            .send(&delivery, vec![parcel.socket.into()])
    }
}

/// Why the handshaker ends.
enum Ended {
    Link(Broken),
    Port(port::Error),
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Self {
        Self::Link(broken)
    }
}

impl From<port::Error> for Ended {
    fn from(error: port::Error) -> Self {
        Self::Port(error)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(broken) => broken.fmt(f),
            Self::Port(error) => error.fmt(f),
        }
    }
}

/// A connection whose context is elsewhere.
struct Connection {
    socket: TcpStream,
    remote: SocketAddr,
    unsent: Vec<u8>,
}

impl Connection {
    /// Exports a context that has just been established, for the process that will run it.
    fn pack<C: Channel>(
        self,
        channel: C,
        sealed: impl FnOnce(C::Sealed) -> Sealed,
    ) -> Option<(Introduction, Parcel)> {
        let (session, remote) = (channel.session(), self.remote);
        match self.try_pack(channel, sealed) {
            Ok(packed) => Some(packed),
            Err(error) => {
                log::of_session(
                    session,
                    format_args!(" from {remote} not exported: {error}"),
                );
                None
            }
        }
    }

    fn try_pack<C: Channel>(
        self,
        channel: C,
        sealed: impl FnOnce(C::Sealed) -> Sealed,
    ) -> Result<(Introduction, Parcel), String> {
        let Self {
            socket,
            remote,
            unsent,
        } = self;
        let local = socket
            .local_addr()
            .map_err(|error: io::Error| error.to_string())?;
        let about = About::new(&channel, remote, local);
        let introduction = Introduction::new(&about, channel.facts().suite);
        // Who it is for, the keeper knows: it makes a connection for this context alone.
        let how = Export::default()
            .within(IMPORT_LIMIT)
            .tied_to(socket.as_fd())
            .map_err(|status| status.to_string())?;
        let exported = channel.export(&how);
        let exported = exported.map_err(|(_, status)| status.to_string())?;
        let parcel = Parcel {
            sealed: sealed(exported),
            socket,
            about,
            unsent,
        };
        Ok((introduction, parcel))
    }
}
