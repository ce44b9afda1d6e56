//! A process of the server that the supervisor starts, hears, and replaces when it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::session::log;
use crate::sys::process::{Child, Fork, fork};

use super::link::{Broken, Link};
use super::poller::{Keys, Poller};

/// A process that has run for less was hardly of use: its successor waits.
const BRIEF: Duration = Duration::from_secs(1);
/// How long the successor of the second brief process waits; each next one twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// And no longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The zygote, or the handshaker.
pub(super) struct Subprocess {
    name: &'static str,
    process: Option<Body>,
    link: Option<Link>,
    key: u64,
    since: Instant,
    /// Brief lives in a row.
    brief: u32,
    /// When the next is to be forked.
    again: Option<Instant>,
}

/// The process.
enum Body {
    /// A child of this one.
    Own(Child),
    /// One that the server before this one had, and its descriptor.
    Inherited(u32, OwnedFd),
}

impl Body {
    fn number(&self) -> u32 {
        match self {
            Self::Own(child) => child.pid(),
            Self::Inherited(number, _) => *number,
        }
    }

    fn kill(&self) {
        // One that has just ended is no error.
        let _ = match self {
            Self::Own(child) => child.kill(Signal::KILL),
            Self::Inherited(_, pidfd) => {
                pidfd_send_signal(pidfd, Signal::KILL).map_err(io::Error::from)
            }
        };
    }
}

/// What was heard.
pub(super) enum Next<T> {
    Message(T, Vec<OwnedFd>),
    Nothing,
    Broken(Broken),
}

impl Subprocess {
    /// Not started yet.
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            process: None,
            link: None,
            key: 0,
            since: Instant::now(),
            brief: 0,
            again: None,
        }
    }

    /// Forks. In the new process, its end of the link is answered.
    pub(super) fn fork(&mut self, poller: &Poller, keys: &mut Keys) -> io::Result<Option<Link>> {
        let (near, far) = Link::pair()?;
        match fork()? {
            Fork::Child => Ok(Some(far)),
            Fork::Parent(child) => {
                let key = keys.draw();
                near.watch(key, poller)?;
                (self.process, self.link, self.key) = (Some(Body::Own(child)), Some(near), key);
                (self.since, self.again) = (Instant::now(), None);
                Ok(None)
            }
        }
    }

    /// It could not be forked.
    pub(super) fn not_forked(&mut self, error: &io::Error) {
        log::line(format_args!("{} not started yet: {error}", self.name));
        self.again = Some(Instant::now() + FIRST_WAIT);
    }

    /// The process, while there is one.
    pub(super) fn process(&self) -> Option<u32> {
        self.process.as_ref().map(Body::number)
    }

    /// The key it has in the poller.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// Whether nobody hears what is sent.
    pub(super) fn is_down(&self) -> bool {
        self.link.is_none()
    }

    /// Whether messages wait for room.
    pub(super) fn is_full(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_full)
    }

    /// The next message.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> Next<T> {
        let Some(link) = &mut self.link else {
            return Next::Nothing;
        };
        match link.flush().and_then(|_| link.receive()) {
            Ok(Some((message, fds))) => Next::Message(message, fds),
            Ok(None) => Next::Nothing,
            Err(broken) => Next::Broken(broken),
        }
    }

    /// Ends a process in good order: it sees the end of its link. It is not replaced before it has
    /// ended.
    pub(super) fn retire(&mut self, poller: &Poller) {
        if let Some(link) = self.link.take() {
            poller.remove(&link);
        }
        self.since = Instant::now() - BRIEF;
    }

    /// Sends. What cannot be sent is lost: the end of the link is told by the poller.
    pub(super) fn send<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) {
        if let Some(link) = &mut self.link {
            let _ = link.send(message, fds);
        }
    }

    /// Waits for room, too, where messages wait for it.
    pub(super) fn watch_again(&self, poller: &Poller) {
        if let Some(link) = &self.link {
            // It can only fail for a descriptor that is not in.
            let _ = link.watch_again(self.key, poller);
        }
    }

    /// One that the server before this one had.
    //= spec/takeover.md#estate
    pub(super) fn inherit(
        name: &'static str,
        process: (u32, OwnedFd),
        link: Link,
        poller: &Poller,
        keys: &mut Keys,
    ) -> io::Result<Self> {
        let key = keys.draw();
        link.watch(key, poller)?;
        Ok(Self {
            process: Some(Body::Inherited(process.0, process.1)),
            link: Some(link),
            key,
            ..Self::new(name)
        })
    }

    /// The messages that wait for room.
    pub(super) fn queued(&self) -> impl Iterator<Item = (&[u8], &[OwnedFd])> {
        self.link.iter().flat_map(Link::queued)
    }

    /// The link, as long as there is one.
    pub(super) fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// Ends a process that is of no more use.
    pub(super) fn give_up(&mut self, broken: &Broken, poller: &Poller) {
        let name = self.name;
        if !matches!(broken, Broken::Gone) {
            log::line(format_args!("{name} ended: {broken}"));
        }
        if let Some(link) = self.link.take() {
            poller.remove(&link);
        }
        if let Some(process) = &self.process {
            process.kill();
        }
    }

    /// Whether this was it: `process` has ended, and was waited for.
    pub(super) fn has_ended(&mut self, process: u32, poller: &Poller) -> bool {
        if self.process() != Some(process) {
            return false;
        }
        self.process = None;
        if let Some(link) = self.link.take() {
            poller.remove(&link);
        }
        let now = Instant::now();
        self.brief = match now.duration_since(self.since) < BRIEF {
            true => self.brief.saturating_add(1),
            false => 0,
        };
        let doublings = self.brief.saturating_sub(2).min(16);
        let wait = match self.brief {
            0 | 1 => Duration::ZERO,
            _ => (FIRST_WAIT * (1 << doublings)).min(LONGEST_WAIT),
        };
        self.again = Some(now + wait);
        log::line(format_args!("{}: process {process} has ended", self.name));
        true
    }

    /// When the next is to be forked.
    pub(super) fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Whether the next is to be forked now.
    pub(super) fn is_due(&self) -> bool {
        self.again.is_some_and(|again| again <= Instant::now())
    }
}
