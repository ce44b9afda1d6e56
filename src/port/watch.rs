//! Descriptors of the caller's own that a port watches.
//!
//! Told once for each start: what is ready and not taken is told again at the next start, since
//! that asks the kernel anew.
//!
//! Invariants: of each watch at most one reading and one writing are pending; a descriptor is taken
//! out before it is closed.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::Interest;
use mio::event::Event;

use super::driver::Driver;
use super::queue::Queue;
use super::{Code, Completion, Error, Operation, Port, Shared};

/// What a descriptor is to be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// To be read, or accepted from: there is something, or the end.
    Read,
    /// To be written: there is room, or nobody to take it.
    Write,
}

impl Readiness {
    /// The value of a completion.
    pub const fn number(self) -> u64 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
        }
    }
}

/// A descriptor of the caller's own beside a port's sessions: a listener, a pipe, a link to another
/// process. So one thread waits for all of it in one place.
///
/// It owns what has the descriptor, which must stay the same, and should not block. Dropped, what
/// is pending is completed with [`Code::Cancelled`].
pub struct Watch<F: AsFd> {
    inner: F,
    port: Arc<Shared>,
    driver: Arc<Driver>,
    watched: Arc<Watched>,
    key: usize,
}

/// A watch as its driver holds it.
#[derive(Default)]
pub(super) struct Watched(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    /// The descriptor was given to the kernel.
    known: bool,
    read: Option<u64>,
    write: Option<u64>,
}

impl Pending {
    fn of(&mut self, readiness: Readiness) -> &mut Option<u64> {
        match readiness {
            Readiness::Read => &mut self.read,
            Readiness::Write => &mut self.write,
        }
    }

    fn interest(&self) -> Option<Interest> {
        match (self.read, self.write) {
            (None, None) => None,
            (Some(_), None) => Some(Interest::READABLE),
            (None, Some(_)) => Some(Interest::WRITABLE),
            (Some(_), Some(_)) => Some(Interest::READABLE | Interest::WRITABLE),
        }
    }
}

impl<F: AsFd> Watch<F> {
    /// A watch of which nothing is pending.
    ///
    /// # Errors
    /// [`Code::PortDestroyed`], [`Code::PortForked`].
    //= spec/port.md#watch
    pub fn open(port: &Port, inner: F) -> Result<Self, Error> {
        let port = port.shared().clone();
        port.check()?;
        let driver = port.driver(port.draw());
        let watched = Arc::default();
        let key = driver.add_watch(&watched).ok_or(Code::PortDestroyed)?;
        Ok(Self {
            inner,
            port,
            driver,
            watched,
            key,
        })
    }

    /// Starts to wait until the descriptor is ready. Returns at once; one completion is posted
    /// under `tag`. It can be out of date: something else may have taken what there was.
    ///
    /// # Errors
    /// [`Code::AlreadyPending`] for the same readiness, [`Code::PortDestroyed`],
    /// [`Code::PortForked`]; [`Code::System`] for what cannot be watched, as regular files.
    //= spec/port.md#watch
    pub fn start(&self, readiness: Readiness, tag: u64) -> Result<(), Error> {
        self.port.check()?;
        let mut pending = self.watched.pending();
        if pending.of(readiness).is_some() {
            return Err(Code::AlreadyPending.into());
        }
        *pending.of(readiness) = Some(tag);
        let wanted = pending.interest().unwrap_or(Interest::READABLE);
        let (descriptor, before) = (self.inner.as_fd(), pending.known);
        match self.driver.watch(self.key, descriptor, wanted, before) {
            Ok(()) => {
                pending.known = true;
                Ok(())
            }
            Err(error) => {
                *pending.of(readiness) = None;
                Err(Error::of_system(&error))
            }
        }
    }

    /// Cancels what is pending for this readiness, which is completed with [`Code::Cancelled`];
    /// whether anything was.
    ///
    /// # Errors
    /// [`Code::PortForked`].
    //= spec/port.md#watch
    pub fn cancel(&self, readiness: Readiness) -> Result<bool, Error> {
        self.port.here()?;
        let tag = self.watched.pending().of(readiness).take();
        if let Some(tag) = tag {
            let cancelled = Some(Code::Cancelled.into());
            self.port.post(completion(tag, readiness, cancelled));
        }
        Ok(tag.is_some())
    }

    /// Whether the descriptor is waited for.
    pub fn is_pending(&self, readiness: Readiness) -> bool {
        self.port.here().is_ok() && self.watched.pending().of(readiness).is_some()
    }

    /// What has the descriptor.
    pub fn get_ref(&self) -> &F {
        &self.inner
    }

    /// What has the descriptor, which must stay the same.
    pub fn get_mut(&mut self) -> &mut F {
        &mut self.inner
    }
}

impl<F: AsFd> Drop for Watch<F> {
    fn drop(&mut self) {
        if self.port.here().is_err() {
            return;
        }
        self.driver.remove(self.key, self.inner.as_fd());
        for readiness in [Readiness::Read, Readiness::Write] {
            let _ = self.cancel(readiness);
        }
    }
}

impl<F: AsFd> core::fmt::Debug for Watch<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watched {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel has told something of the descriptor. The thread that drives posts it.
    pub(super) fn happened(&self, event: &Event, queue: &Queue) {
        let mut pending = self.pending();
        let over = event.is_error();
        let read = event.is_readable() || event.is_read_closed() || over;
        let write = event.is_writable() || event.is_write_closed() || over;
        for (is, readiness) in [(read, Readiness::Read), (write, Readiness::Write)] {
            if is && let Some(tag) = pending.of(readiness).take() {
                // Nobody sleeps for whom this thread would not look.
                let _ = queue.post(completion(tag, readiness, None));
            }
        }
    }

    /// The port is destroyed: what is pending is over.
    //= spec/port.md#destroy
    pub(super) fn orphan(&self, queue: &Queue) {
        let mut pending = self.pending();
        for readiness in [Readiness::Read, Readiness::Write] {
            if let Some(tag) = pending.of(readiness).take() {
                let destroyed = Some(Code::PortDestroyed.into());
                let _ = queue.post(completion(tag, readiness, destroyed));
            }
        }
    }
}

fn completion(tag: u64, readiness: Readiness, error: Option<Error>) -> Completion {
    Completion {
        operation: Operation::Ready,
        tag,
        session: None,
        value: readiness.number(),
        data: Vec::new(),
        error,
    }
}
