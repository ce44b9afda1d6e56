//! One server after another: what the supervisor that goes and the one that comes say to each other
//! (`spec/takeover.md`).
//!
//! Invariants: until the new one has said that it has begun, the old one can go on; every wait has
//! an end, for while it waits nobody's keeper answers.
//!
//! SECURITY: who holds the new one's end is given the server: its listener, its keys, its
//! connections. It is given to the program this server starts itself, or to one that its own user
//! has started and that asked for it (`control`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::ledger::keeper::{KEYS, Retiring, has_moved_out};
use crate::secret::Slot;
use crate::sys::signal::Glance;
use crate::sys::{fault, socket};

use super::control::ask;
use super::link::{Broken, Link};

/// The one version of what is said here.
const VERSION: u16 = 1;
/// How long the new server has to be ready, from its start.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long each of the steps after that may take: two of them together less than members wait for
/// an answer.
const STEP_WITHIN: Duration = Duration::from_secs(4);
/// How much of the estate goes in one message.
const PIECE: usize = 128 * 1024;
/// The longest estate.
const MOST: usize = 1 << 30;

/// From the server that comes.
//= spec/takeover.md#messages
#[derive(Serialize, Deserialize)]
pub(super) enum FromSuccessor {
    /// It is there.
    Hello {
        /// Of the page.
        version: u16,
    },
    /// Its processes have started.
    Ready,
    /// It cannot.
    Refused {
        /// Why, for people.
        text: String,
    },
    /// It has everything.
    Taken,
    /// It is the server.
    Begun,
}

/// From the server that goes.
//= spec/takeover.md#messages
#[derive(Serialize, Deserialize)]
pub(super) enum FromPredecessor {
    /// What it listens on; with the listener.
    Offer {
        /// Of the page.
        version: u16,
        /// A service manager has the listener, too.
        shared: bool,
    },
    /// The next piece of the estate.
    Piece {
        /// Its bytes.
        bytes: ByteBuf,
    },
    /// The next descriptors of the estate.
    Descriptors,
    /// There was all of it. The keys are the next message, as they are.
    Complete,
    /// From now on the new server is the server.
    Go,
}

/// Why there is no other server.
#[derive(Debug)]
pub enum Failed {
    /// The other one is gone.
    Gone,
    /// It did not answer in time.
    Late,
    /// What it said cannot be said now.
    Garbage,
    /// It speaks another version.
    Version,
    /// It says why not.
    Refused(String),
    /// This one was told to stop before it was the server.
    Stopped,
    /// The system refused.
    System(io::Error),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("it is gone"),
            Self::Late => f.write_str("it did not answer in time"),
            Self::Garbage => f.write_str("it said what cannot be said"),
            Self::Version => f.write_str("it speaks another version"),
            Self::Refused(text) => write!(f, "{}", text.escape_debug()),
            Self::Stopped => f.write_str("this one was told to stop before it was the server"),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl From<Broken> for Failed {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Gone => Self::Gone,
            Broken::Garbage => Self::Garbage,
            Broken::System(error) => Self::System(error),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof => Self::Gone,
            _ => Self::System(error),
        }
    }
}

/// The next message, waited for until `until`.
fn next<T: DeserializeOwned>(link: &mut Link, until: Instant) -> Result<(T, Vec<OwnedFd>), Failed> {
    loop {
        if let Some(heard) = link.receive()? {
            return Ok(heard);
        }
        wait(link, PollFlags::IN, until)?;
    }
}

fn flush(link: &mut Link, until: Instant) -> Result<(), Failed> {
    while !link.flush()? {
        wait(link, PollFlags::OUT, until)?;
    }
    Ok(())
}

fn wait(link: &Link, wanted: PollFlags, until: Instant) -> Result<(), Failed> {
    wait_for(&mut [PollFd::from_borrowed_fd(link.as_fd(), wanted)], until)
}

fn wait_for(fds: &mut [PollFd<'_>], until: Instant) -> Result<(), Failed> {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    match rustix::io::retry_on_intr(|| poll(fds, Some(&left))) {
        Ok(0) => Err(Failed::Late),
        Ok(_) => Ok(()),
        Err(error) => Err(Failed::System(error.into())),
    }
}

/// A server that is to come after this one.
pub(super) struct Successor {
    link: Link,
    /// When it must be ready.
    pub(super) until: Instant,
    greeted: bool,
}

/// The listener, and whether a service manager has it, too.
type Listening<'a> = (BorrowedFd<'a>, bool);

/// What was heard of it.
pub(super) enum Heard {
    Nothing,
    /// It can begin: [`Successor::give`].
    Ready,
    /// It does not come.
    Failed(Failed),
}

impl Successor {
    /// At the other end of `link`, started now.
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            until: Instant::now() + READY_WITHIN,
            greeted: false,
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// What it says, without waiting.
    pub(super) fn hear(&mut self, listening: Listening<'_>) -> Heard {
        match self.try_hear(listening) {
            Ok(true) => Heard::Ready,
            Ok(false) if self.until <= Instant::now() => Heard::Failed(Failed::Late),
            Ok(false) => Heard::Nothing,
            Err(failed) => Heard::Failed(failed),
        }
    }

    fn try_hear(&mut self, (listener, shared): Listening<'_>) -> Result<bool, Failed> {
        self.link.flush()?;
        while let Some((message, _)) = self.link.receive::<FromSuccessor>()? {
            match message {
                FromSuccessor::Hello { version } if !self.greeted => {
                    if version != VERSION {
                        return Err(Failed::Version);
                    }
                    self.greeted = true;
                    let listener = listener.try_clone_to_owned()?;
                    let offer = FromPredecessor::Offer {
                        version: VERSION,
                        shared,
                    };
                    self.link.send(&offer, vec![listener])?;
                }
                FromSuccessor::Ready if self.greeted => return Ok(true),
                FromSuccessor::Refused { text } => return Err(Failed::Refused(text)),
                _ => return Err(Failed::Garbage),
            }
        }
        Ok(false)
    }

    /// Gives all there is. Once it has begun, this server is over; an error leaves it what it is.
    //= spec/takeover.md#steps
    pub(super) fn give(
        &mut self,
        estate: &[u8],
        fds: &[BorrowedFd<'_>],
        keeper: &Retiring<'_>,
    ) -> Result<(), Failed> {
        match self.try_give(estate, fds, keeper) {
            // It may have said why before.
            Err(Failed::Gone) => Err(self.last_word().unwrap_or(Failed::Gone)),
            given => given,
        }
    }

    fn last_word(&mut self) -> Option<Failed> {
        // The first answer may be the error of the end alone.
        (0..2).find_map(|_| match self.link.receive() {
            Ok(Some((FromSuccessor::Refused { text }, _))) => Some(Failed::Refused(text)),
            _ => None,
        })
    }

    fn try_give(
        &mut self,
        estate: &[u8],
        fds: &[BorrowedFd<'_>],
        keeper: &Retiring<'_>,
    ) -> Result<(), Failed> {
        let until = Instant::now() + STEP_WITHIN;
        for piece in estate.chunks(PIECE) {
            let bytes = ByteBuf::from(piece);
            self.link
                .send(&FromPredecessor::Piece { bytes }, Vec::new())?;
            flush(&mut self.link, until)?;
        }
        fault::point("takeover.pieces");
        let message = postcard::to_allocvec(&FromPredecessor::Descriptors);
        let message = message.map_err(|_| Failed::Garbage)?;
        for some in fds.chunks(socket::MAX_DESCRIPTORS) {
            send_waiting(&self.link, &message, some, until)?;
        }
        self.link.send(&FromPredecessor::Complete, Vec::new())?;
        flush(&mut self.link, until)?;
        // As they are: no copy of them stays in a buffer here.
        send_waiting(&self.link, &keeper.keys()[..], &[], until)?;
        fault::point("takeover.given");
        match next(&mut self.link, until)? {
            (FromSuccessor::Taken, _) => {}
            (FromSuccessor::Refused { text }, _) => return Err(Failed::Refused(text)),
            _ => return Err(Failed::Garbage),
        }
        fault::point("takeover.taken");
        keeper.move_out();
        let until = Instant::now() + STEP_WITHIN;
        self.link.send(&FromPredecessor::Go, Vec::new())?;
        flush(&mut self.link, until)?;
        fault::point("takeover.gone");
        match next(&mut self.link, until) {
            Ok((FromSuccessor::Begun, _)) => Ok(()),
            Ok((FromSuccessor::Refused { text }, _)) => Err(Failed::Refused(text)),
            Ok(_) => Err(Failed::Garbage),
            Err(failed) => self.has_begun_meanwhile(failed),
        }
    }

    /// From here on it cannot say that it has begun. What it had said before counts: one of the two
    /// goes on, and both know which.
    //= spec/takeover.md#begun
    fn has_begun_meanwhile(&mut self, failed: Failed) -> Result<(), Failed> {
        // It can only fail where the other end is gone.
        let _ = rustix::net::shutdown(&self.link, Shutdown::Read);
        fault::point("takeover.too_late");
        match self.link.receive() {
            Ok(Some((FromSuccessor::Begun, _))) => Ok(()),
            _ => Err(failed),
        }
    }
}

/// Sends once there is room.
fn send_waiting(
    link: &Link,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
    until: Instant,
) -> Result<(), Failed> {
    loop {
        match socket::send_with_fds(link, &[io::IoSlice::new(message)], fds) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(link, PollFlags::OUT, until)?;
            }
            // As many descriptors are under way as may be: the other side is taking them out.
            Err(error)
                if error.raw_os_error() == Some(libc::ETOOMANYREFS) && Instant::now() < until =>
            {
                rustix::thread::sched_yield();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The server that this one comes after.
pub struct Predecessor {
    link: Link,
    listener: Option<OwnedFd>,
    shared: bool,
    ledger: Option<OwnedFd>,
    /// Can be read when this one was told to stop.
    stop: Option<Glance>,
}

/// All that it had.
pub(super) struct Estate {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) keys: Slot<[u8; KEYS]>,
}

impl Predecessor {
    /// The server that has started this program to come after it; none when nobody has.
    ///
    /// # Errors
    /// Why there is nothing to come after.
    //= spec/takeover.md#start
    pub fn inherited() -> Result<Option<Self>, Failed> {
        let socket = crate::succession::inherited_socket().map_err(|error| match error {
            crate::succession::Error::System(error) => Failed::System(error),
            other => Failed::Refused(other.to_string()),
        })?;
        socket.map(Self::greet).transpose()
    }

    /// The server whose control socket is at `path`, which is asked to let this one come after it.
    ///
    /// # Errors
    /// Why there is nothing to come after.
    //= spec/takeover.md#start
    pub fn ask(path: &Path) -> Result<Self, Failed> {
        Self::greet(ask::take_over(path).map_err(|error| Failed::Refused(error.to_string()))?)
    }

    /// The server at the other end of `socket`; waits for what it offers.
    ///
    /// # Errors
    /// Why there is nothing to come after.
    fn greet(socket: OwnedFd) -> Result<Self, Failed> {
        let mut link = Link::adopt(socket)?;
        let until = Instant::now() + STEP_WITHIN;
        let hello = FromSuccessor::Hello { version: VERSION };
        link.send(&hello, Vec::new())?;
        let (offer, fds) = next(&mut link, until)?;
        let FromPredecessor::Offer { version, shared } = offer else {
            return Err(Failed::Garbage);
        };
        if version != VERSION {
            return Err(Failed::Version);
        }
        let [listener] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| Failed::Garbage)?;
        Ok(Self {
            link,
            listener: Some(listener),
            shared,
            ledger: None,
            stop: None,
        })
    }

    /// What it listens on.
    pub fn take_listener(&mut self) -> Option<OwnedFd> {
        self.listener.take()
    }

    /// Whether a service manager has the listener, too: then it is where that says, whatever the
    /// configuration does.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// From here on, who is told to stop (SIGTERM, SIGINT) comes after nobody; the signals stay to be
    /// read. They are blocked.
    //= spec/takeover.md#told-to-stop
    pub(super) fn heed_signals(&mut self) -> io::Result<()> {
        self.stop = Some(Glance::new(&[Signal::TERM, Signal::INT])?);
        Ok(())
    }

    /// An error when this one was told to stop.
    fn is_to_stop(&self) -> Result<(), Failed> {
        let Some(stop) = &self.stop else {
            return Ok(());
        };
        let mut fds = [PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
        match wait_for(&mut fds, Instant::now()) {
            Ok(()) => Err(Failed::Stopped),
            Err(Failed::Late) => Ok(()),
            Err(failed) => Err(failed),
        }
    }

    /// The next message, unless this one is told to stop first.
    fn next(&mut self, until: Instant) -> Result<(FromPredecessor, Vec<OwnedFd>), Failed> {
        loop {
            if let Some(heard) = self.link.receive()? {
                return Ok(heard);
            }
            self.wait(until)?;
        }
    }

    fn wait(&self, until: Instant) -> Result<(), Failed> {
        let stop = self.stop.as_ref().map(AsFd::as_fd);
        let mut fds = vec![PollFd::from_borrowed_fd(self.link.as_fd(), PollFlags::IN)];
        fds.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
        wait_for(&mut fds, until)?;
        // What the other one has said, or its end, comes first.
        match fds.iter().position(|fd| !fd.revents().is_empty()) {
            Some(0) => Ok(()),
            _ => Err(Failed::Stopped),
        }
    }

    /// Waits until one of `fds` can be read. An error when the server it comes after is gone, or has
    /// given it up.
    pub(super) fn wait_with<'a>(
        &mut self,
        fds: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> Result<(), Failed> {
        let mut all: Vec<PollFd<'_>> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        all.push(PollFd::from_borrowed_fd(self.link.as_fd(), PollFlags::IN));
        let stop = self.stop.as_ref().map(AsFd::as_fd);
        all.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
        rustix::io::retry_on_intr(|| poll(&mut all, None)).map_err(io::Error::from)?;
        let told = self.stop.is_some() && all.last().is_some_and(|fd| !fd.revents().is_empty());
        drop(all);
        if told {
            return Err(Failed::Stopped);
        }
        // It has nothing to say before it is told that this one is ready.
        match self.link.receive::<FromPredecessor>()? {
            None => Ok(()),
            Some(_) => Err(Failed::Garbage),
        }
    }

    /// Says why this server does not come after all.
    pub fn refuse(mut self, text: &str) {
        let text = text.chars().take(1024).collect();
        // Who does not hear it sees the end of the link.
        let _ = self.link.send(&FromSuccessor::Refused { text }, Vec::new());
    }

    /// This server can begin; waits for all that the other one has.
    pub(super) fn receive(&mut self) -> Result<Estate, Failed> {
        self.link.send(&FromSuccessor::Ready, Vec::new())?;
        fault::point("takeover.ready");
        let until = Instant::now() + 2 * STEP_WITHIN;
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        loop {
            // One that says something all the time is as late as one that says nothing.
            if until <= Instant::now() {
                return Err(Failed::Late);
            }
            match self.next(until)? {
                (FromPredecessor::Piece { bytes: piece }, _) if bytes.len() < MOST => {
                    bytes.extend_from_slice(&piece);
                }
                (FromPredecessor::Descriptors, some) => fds.extend(some),
                (FromPredecessor::Complete, _) => break,
                _ => return Err(Failed::Garbage),
            }
        }
        let mut keys = Slot::<[u8; KEYS]>::zeroed();
        loop {
            self.wait(until)?;
            match socket::recv_whole(&self.link, &mut keys[..]) {
                Ok(KEYS) => break,
                Ok(_) => return Err(Failed::Garbage),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        let ledger = fds.first().ok_or(Failed::Garbage)?;
        self.ledger = Some(ledger.try_clone()?);
        Ok(Estate { bytes, fds, keys })
    }

    /// This server has everything; waits until it is the server. One that is gone by then has made
    /// it the server, or has ended with all it had.
    pub(super) fn taken(&mut self) -> Result<(), Failed> {
        fault::point("takeover.taking");
        self.is_to_stop()?;
        self.link.send(&FromSuccessor::Taken, Vec::new())?;
        match self.next(Instant::now() + 2 * STEP_WITHIN) {
            Ok((FromPredecessor::Go, _)) => {}
            Ok(_) => return Err(Failed::Garbage),
            Err(Failed::Gone) if self.ledger.as_ref().is_some_and(has_moved_out) => {}
            Err(failed) => return Err(failed),
        }
        fault::point("takeover.told");
        Ok(())
    }

    /// This server begins, unless the other one goes on: that hears no more then.
    //= spec/takeover.md#begun
    pub(super) fn begun(mut self) -> Result<(), Failed> {
        match self.link.send(&FromSuccessor::Begun, Vec::new()) {
            Ok(()) if !self.link.is_full() => {}
            // It goes on, or it is gone: what its ledger says is the truth once the link has ended.
            _ => self.wait_for_end()?,
        }
        fault::point("takeover.begun");
        Ok(())
    }

    /// Waits until the other one is gone, or goes on, which is an error.
    fn wait_for_end(&mut self) -> Result<(), Failed> {
        let until = Instant::now() + 2 * STEP_WITHIN;
        loop {
            match next::<FromPredecessor>(&mut self.link, until) {
                Ok(_) => {}
                Err(Failed::Gone) if self.ledger.as_ref().is_some_and(has_moved_out) => {
                    return Ok(());
                }
                Err(failed) => return Err(failed),
            }
        }
    }
}
