//! What the server waits for: descriptors under keys, in one epoll instance.
//!
//! A descriptor is taken out before it is closed: a forked child may still hold a copy, and the
//! kernel would go on telling about it. For the same reason dropping a [`Poller`] in a child takes
//! nothing out: the instance is the parent's too.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// The descriptor's key, and what it is ready for.
pub type Ready = (u64, EventFlags);

/// Gives each descriptor a key of its own, for as long as the server runs.
#[derive(Default)]
pub struct Keys(u64);

impl Keys {
    /// A key that was not given before.
    pub fn draw(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// Events taken at once.
const EVENTS: usize = 256;

/// Descriptors under keys.
pub struct Poller(OwnedFd);

impl Poller {
    /// Waits for nothing yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Waits from now on for `fd` to be ready for `flags`, and tells it under `key`.
    pub fn add(&self, fd: impl AsFd, key: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(key), flags)?)
    }

    /// Waits for other `flags`.
    pub fn change(&self, fd: impl AsFd, key: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, EventData::new_u64(key), flags)?)
    }

    /// Waits for `fd` no more.
    pub fn remove(&self, fd: impl AsFd) {
        // It can only fail for a descriptor that is not in.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits at most so long, for ever when none is given, and answers what is ready.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<Vec<Ready>> {
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let mut events = Vec::with_capacity(EVENTS);
        let spare = || epoll::wait(&self.0, spare_capacity(&mut events), limit.as_ref());
        rustix::io::retry_on_intr(spare)?;
        Ok(events.iter().map(of).collect())
    }
}

fn of(event: &Event) -> Ready {
    // The structure is packed: copied out field by field.
    let (data, flags) = (event.data, event.flags);
    (data.u64(), flags)
}
