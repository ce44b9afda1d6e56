//! The handshaker: accepts, makes the handshakes, and delivers each live connection.
//!
//! SECURITY: the one process with the server's private key, and the one that reads what
//! unauthenticated strangers send. A context stays in it for no longer than it takes to export.
//! Taken over, it can make contexts in anybody's name; it has no running session's keys.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;

use crate::ledger::Domain;
use crate::session::about::About;
use crate::session::channel::Channel;
use crate::session::log;
use crate::session::parcel::{Introduction, Parcel, Sealed};
use crate::sys::process::{self, Keep};
use crate::transfer::Export;

use super::confine::{Missing, Role, confine};
use super::handshake::{Live, Policy};
use super::limits::{self, Limits};
use super::link::{Broken, Link};
use super::poller::{Keys, Poller};
use super::reception::{Established, Reception, Room};
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

struct Running {
    poller: Poller,
    keys: Keys,
    listener: u64,
    reception: Reception,
    link: Link,
    link_key: u64,
    accepting: bool,
    domain: Domain,
    /// When the supervisor was last told what was counted, and how many were in progress then.
    told: (Instant, usize),
    /// Log lines lost that it was told of.
    log_lost: u64,
}

impl Handshaker {
    //= spec/processes.md#handshaker
    /// Runs until the supervisor stops it, or is gone. `load` reads who gets in, and how.
    pub(super) fn run(mut self, load: impl FnOnce() -> Result<Policy, String>) {
        let domain = Domain::kept(self.keeper).map_err(|error| error.to_string());
        let loaded = domain.and_then(|domain| Ok((domain, load()?)));
        let (domain, policy) = match loaded {
            Ok(loaded) => loaded,
            Err(text) => {
                // A supervisor that is gone needs no reason.
                let _ = self.link.send(&FromHandshaker::Failed { text }, Vec::new());
                return;
            }
        };
        // The private key is read: from here on it is nobody in particular.
        match give_up(self.users.as_ref(), self.limits) {
            Ok(missing) if missing.is_anything() => log::line(format_args!("{missing}")),
            Ok(_) => {}
            Err(text) => {
                let _ = self.link.send(&FromHandshaker::Failed { text }, Vec::new());
                return;
            }
        }
        let (listener, link, limits) = (self.listener, self.link, self.limits);
        let ended = Running::new(listener, link, domain, policy, limits).and_then(Running::run);
        if let Err(error) = ended {
            log::line(format_args!("handshaker: {error}"));
        }
    }
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
        listener: TcpListener,
        mut link: Link,
        domain: Domain,
        policy: Policy,
        limits: Limits,
    ) -> Result<Self, Broken> {
        let poller = Poller::new().map_err(Broken::System)?;
        let mut keys = Keys::default();
        let (key, link_key) = (keys.draw(), keys.draw());
        let reception =
            Reception::new(listener, policy, limits, key, &poller).map_err(Broken::System)?;
        link.send(&FromHandshaker::Ready, Vec::new())?;
        link.watch(link_key, &poller).map_err(Broken::System)?;
        Ok(Self {
            poller,
            keys,
            listener: key,
            reception,
            link,
            link_key,
            accepting: true,
            domain,
            told: (Instant::now(), 0),
            log_lost: log::lost(),
        })
    }

    //= spec/processes.md#end
    fn run(mut self) -> Result<(), Broken> {
        loop {
            let due = self.reception.next_due().into_iter();
            let due = due.chain(self.tally_due()).min();
            let limit = due.map(|due| due.saturating_duration_since(Instant::now()));
            let ready = self.poller.wait(limit).map_err(Broken::System)?;
            let mut accept = false;
            for &(key, _) in &ready {
                if key == self.listener {
                    accept = true;
                } else if key == self.link_key {
                    match self.obey() {
                        Ok(true) => {}
                        Ok(false) | Err(Broken::Gone) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                } else {
                    self.advance(key)?;
                }
            }
            self.reception.expire(&self.poller);
            self.reception.resume(&self.poller);
            if accept {
                self.accept()?;
            }
            self.tell_tally()?;
            self.link
                .watch_again(self.link_key, &self.poller)
                .map_err(Broken::System)?;
        }
    }

    /// When the supervisor is to be told what was counted.
    fn tally_due(&self) -> Option<Instant> {
        let (told, in_progress) = self.told;
        let changed = self.reception.tally != Handshakes::default()
            || self.reception.in_progress() != in_progress;
        (changed && !self.link.is_full()).then(|| told + TELL_EVERY)
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
        self.link.send(&message, Vec::new())
    }

    fn accept(&mut self) -> Result<(), Broken> {
        // What the supervisor does not take now waits in the kernel; what it has no room for waits
        // there too, or is refused.
        let room = match (self.link.is_full(), self.accepting) {
            (true, _) => Room::Soon,
            (false, true) => Room::Now,
            (false, false) => Room::None,
        };
        for key in self.reception.accept(room, &self.poller, &mut self.keys) {
            self.advance(key)?;
        }
        Ok(())
    }

    /// Does what the supervisor says; false when that is to end.
    fn obey(&mut self) -> Result<bool, Broken> {
        self.link.flush()?;
        while let Some((order, _)) = self.link.receive::<ToHandshaker>()? {
            match order {
                ToHandshaker::Accept { yes } => self.accepting = yes,
                ToHandshaker::Stop => {
                    self.reception.close(&self.poller);
                    self.tell_tally_now()?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn advance(&mut self, key: u64) -> Result<(), Broken> {
        let established = self.reception.advance(key, &self.domain, &self.poller);
        let Some(Established {
            live,
            socket,
            remote,
            unsent,
        }) = established
        else {
            return Ok(());
        };
        let connection = Connection {
            socket,
            remote,
            unsent,
        };
        let parcel = match *live {
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
        self.link.send(&delivery, vec![parcel.socket.into()])
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
