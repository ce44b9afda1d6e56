//! What does the input and output of sessions: a loop around one epoll instance.
//!
//! A session's socket is registered once, edge-triggered, and by whichever thread starts its
//! handshake. Whoever wants something of the socket tries first and waits for an edge only when
//! the socket had nothing, under the session's lock; so no edge is missed, and none has to be
//! asked for.
//!
//! Invariants: a driver holds no lock of its own while it runs a session; a session is taken out
//! before its socket is closed, since a forked process may hold a copy of the descriptor, about
//! which the kernel would go on telling.

use core::time::Duration;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use super::Completion;
use super::queue::Queue;
use super::session::Core;

/// The key of the waker.
const WAKE: Token = Token(0);
/// Events taken at once.
const EVENTS: usize = 256;
/// Bytes read at once.
pub(super) const SCRATCH: usize = 16 * 1024;

/// One driver, as the threads that start operations see it.
pub(super) struct Driver {
    registry: Registry,
    waker: Waker,
    sessions: Mutex<Sessions>,
    timers: Mutex<Timers>,
    /// Sessions that have more to do than one turn.
    again: Mutex<Vec<usize>>,
    next: AtomicUsize,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Sessions {
    known: HashMap<usize, Arc<Core>>,
    /// The port was destroyed.
    closed: bool,
}

#[derive(Default)]
struct Timers {
    due: BTreeMap<Timer, Due>,
    drawn: u64,
    /// When the driver will look by itself, at the latest.
    looks: Option<Instant>,
    /// The port was destroyed.
    closed: bool,
}

/// When, and which of those that are due then.
pub(super) type Timer = (Instant, u64);

enum Due {
    Session(usize),
    Event(Completion),
}

/// What only the thread that drives holds.
pub(super) struct Polling {
    poll: Poll,
    events: Events,
    scratch: Box<[u8]>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    pub(super) fn new() -> io::Result<(Arc<Self>, Polling)> {
        let poll = Poll::new()?;
        let driver = Self {
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKE)?,
            sessions: Mutex::default(),
            timers: Mutex::default(),
            again: Mutex::default(),
            next: AtomicUsize::new(WAKE.0 + 1),
            stopped: AtomicBool::new(false),
        };
        let polling = Polling {
            poll,
            events: Events::with_capacity(EVENTS),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
        };
        Ok((Arc::new(driver), polling))
    }

    /// Takes a session; it is told of its socket at once, and then whenever the socket changes.
    /// None when the port was destroyed.
    pub(super) fn add(
        &self,
        core: &Arc<Core>,
        socket: BorrowedFd<'_>,
    ) -> io::Result<Option<usize>> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut sessions = locked(&self.sessions);
            if sessions.closed {
                return Ok(None);
            }
            sessions.known.insert(key, core.clone());
        }
        let wanted = Interest::READABLE | Interest::WRITABLE;
        let socket = socket.as_raw_fd();
        let added = self
            .registry
            .register(&mut SourceFd(&socket), Token(key), wanted);
        if let Err(error) = added {
            locked(&self.sessions).known.remove(&key);
            return Err(error);
        }
        Ok(Some(key))
    }

    /// Lets a session go.
    pub(super) fn remove(&self, key: usize, socket: BorrowedFd<'_>) {
        let socket = socket.as_raw_fd();
        // It can only fail for a descriptor that is not in.
        let _ = self.registry.deregister(&mut SourceFd(&socket));
        locked(&self.sessions).known.remove(&key);
    }

    /// Looks at a session again at `when`.
    pub(super) fn look_at(&self, key: usize, when: Instant) -> Option<Timer> {
        self.arm(when, Due::Session(key))
    }

    /// Does not look, after all.
    pub(super) fn forget(&self, timer: Timer) {
        locked(&self.timers).due.remove(&timer);
    }

    /// Posts a completion at `when`; false when the port was destroyed.
    pub(super) fn post_at(&self, when: Instant, completion: Completion) -> bool {
        self.arm(when, Due::Event(completion)).is_some()
    }

    fn arm(&self, when: Instant, due: Due) -> Option<Timer> {
        let mut timers = locked(&self.timers);
        if timers.closed {
            return None;
        }
        timers.drawn += 1;
        let timer = (when, timers.drawn);
        timers.due.insert(timer, due);
        // The driver may be asleep for longer.
        if timers.looks.is_none_or(|looks| when < looks) {
            timers.looks = Some(when);
            drop(timers);
            self.wake();
        }
        Some(timer)
    }

    /// Goes on with a session in the driver's next turn.
    pub(super) fn go_on(&self, key: usize) {
        locked(&self.again).push(key);
        self.wake();
    }

    fn wake(&self) {
        // It fails when the counter is full: then the driver is awake.
        let _ = self.waker.wake();
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }

    /// Ends it: all sessions, and the events that are not due.
    pub(super) fn close(&self) -> (Vec<Arc<Core>>, Vec<Completion>) {
        let sessions = {
            let mut sessions = locked(&self.sessions);
            sessions.closed = true;
            core::mem::take(&mut sessions.known)
        };
        let due = {
            let mut timers = locked(&self.timers);
            timers.closed = true;
            core::mem::take(&mut timers.due)
        };
        let event = |due| match due {
            Due::Event(completion) => Some(completion),
            Due::Session(_) => None,
        };
        let events = due.into_values().filter_map(event).collect();
        (sessions.into_values().collect(), events)
    }

    /// Drives until it is stopped.
    pub(super) fn run(&self, queue: &Queue, mut polling: Polling) {
        while !self.stopped.load(Ordering::Acquire) {
            if self.turn(queue, &mut polling, None).is_err() {
                // Only a kernel without memory refuses to wait: the next time it may have some.
                std::thread::yield_now();
            }
        }
    }

    /// Waits at most so long for something to do, and does it.
    pub(super) fn turn(
        &self,
        queue: &Queue,
        polling: &mut Polling,
        limit: Option<Duration>,
    ) -> io::Result<()> {
        let now = Instant::now();
        let mut limit = limit;
        {
            let mut timers = locked(&self.timers);
            let first = timers.due.first_key_value().map(|((when, _), _)| *when);
            if let Some(first) = first {
                let left = first.saturating_duration_since(now);
                limit = Some(limit.map_or(left, |limit| limit.min(left)));
            }
            timers.looks = limit.map(|limit| now + limit);
        }
        if !locked(&self.again).is_empty() {
            limit = Some(Duration::ZERO);
        }
        match polling.poll.poll(&mut polling.events, limit) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => answer?,
        }
        for event in &polling.events {
            if event.token() != WAKE {
                self.advance(
                    event.token().0,
                    event.is_read_closed(),
                    &mut polling.scratch,
                );
            }
        }
        for key in core::mem::take(&mut *locked(&self.again)) {
            self.advance(key, false, &mut polling.scratch);
        }
        self.expire(queue);
        Ok(())
    }

    fn find(&self, key: usize) -> Option<Arc<Core>> {
        locked(&self.sessions).known.get(&key).cloned()
    }

    fn advance(&self, key: usize, ends: bool, scratch: &mut [u8]) {
        // The driver's own reference goes when no lock is held.
        if let Some(core) = self.find(key)
            && core.advance(ends, scratch)
        {
            locked(&self.again).push(key);
        }
    }

    fn expire(&self, queue: &Queue) {
        let now = Instant::now();
        loop {
            let due = {
                let mut timers = locked(&self.timers);
                match timers.due.first_entry() {
                    Some(first) if first.key().0 <= now => first.remove(),
                    _ => return,
                }
            };
            match due {
                Due::Event(completion) => queue.post(completion),
                Due::Session(key) => {
                    if let Some(core) = self.find(key) {
                        core.expire(now);
                    }
                }
            }
        }
    }
}
