//! What does the input and output of sessions: a loop around one epoll instance.
//!
//! A session's socket is registered edge-triggered, and by whichever thread starts its
//! handshake: for reading, since most have room for what there is to write, and for writing when it
//! was found full for the first time. Whoever wants something of the socket tries first and waits for an edge only when
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
use super::held::Core;
use super::queue::Queue;
use super::watch::Watched;
use crate::sys::descriptor;

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
    registered: Mutex<Registered>,
    timers: Mutex<Timers>,
    /// Sessions that have more to do than one turn.
    again: Mutex<Vec<usize>>,
    next: AtomicUsize,
    stopped: AtomicBool,
    /// The thread whose turn it is ([`me`]), or 0.
    turning: AtomicUsize,
}

/// What is told of a descriptor.
#[derive(Clone)]
enum Known {
    Session(Arc<Core>),
    Watch(Arc<Watched>),
}

#[derive(Default)]
struct Registered {
    known: HashMap<usize, Known>,
    /// The port was destroyed.
    closed: bool,
}

/// What a driver had when it was closed.
pub(super) struct Left {
    pub(super) sessions: Vec<Arc<Core>>,
    pub(super) watches: Vec<Arc<Watched>>,
    pub(super) events: Vec<Completion>,
}

/// How a turn waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// For what the driver has to do.
    Driver,
    /// Also for completions that others post.
    Waiter,
}

/// A number of this thread, of no other that lives; not 0.
pub(super) fn me() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| core::ptr::from_ref(here).addr())
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
            registered: Mutex::default(),
            timers: Mutex::default(),
            again: Mutex::default(),
            next: AtomicUsize::new(WAKE.0 + 1),
            stopped: AtomicBool::new(false),
            turning: AtomicUsize::new(0),
        };
        let polling = Polling {
            poll,
            events: Events::with_capacity(EVENTS),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
        };
        Ok((Arc::new(driver), polling))
    }

    /// Takes a session; it is told of its socket at once if there is something to be read, or it is
    /// to `write`, and then whenever the socket changes. None when the port was destroyed.
    pub(super) fn add(
        &self,
        core: &Arc<Core>,
        socket: BorrowedFd<'_>,
        write: bool,
    ) -> io::Result<Option<usize>> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut registered = locked(&self.registered);
            if registered.closed {
                return Ok(None);
            }
            registered.known.insert(key, Known::Session(core.clone()));
        }
        let wanted = match write {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let socket = socket.as_raw_fd();
        let added = self
            .registry
            .register(&mut SourceFd(&socket), Token(key), wanted);
        if let Err(error) = added {
            locked(&self.registered).known.remove(&key);
            return Err(error);
        }
        Ok(Some(key))
    }

    /// Tells a session from now on also when its socket has room; at once if it has.
    pub(super) fn tell_room(&self, key: usize, socket: BorrowedFd<'_>) {
        // It can only fail for a descriptor that is not in.
        let _ = self.watch(key, socket, Interest::READABLE | Interest::WRITABLE, true);
    }

    /// Takes a watch, whose descriptor is not looked at before [`Driver::watch`]. None when the
    /// port was destroyed.
    pub(super) fn add_watch(&self, watched: &Arc<Watched>) -> Option<usize> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let mut registered = locked(&self.registered);
        if registered.closed {
            return None;
        }
        let watch = Known::Watch(watched.clone());
        registered.known.insert(key, watch);
        Some(key)
    }

    /// Looks at a descriptor; ready already, it is told at once. `before` when it was
    /// looked at before.
    pub(super) fn watch(
        &self,
        key: usize,
        descriptor: BorrowedFd<'_>,
        wanted: Interest,
        before: bool,
    ) -> io::Result<()> {
        let descriptor = descriptor.as_raw_fd();
        let mut source = SourceFd(&descriptor);
        match before {
            true => self.registry.reregister(&mut source, Token(key), wanted),
            false => self.registry.register(&mut source, Token(key), wanted),
        }
    }

    /// Lets a session or a watch go.
    pub(super) fn remove(&self, key: usize, socket: BorrowedFd<'_>) {
        let socket = socket.as_raw_fd();
        // It can only fail for a descriptor that is not in.
        let _ = self.registry.deregister(&mut SourceFd(&socket));
        let gone = locked(&self.registered).known.remove(&key);
        // When no lock is held.
        drop(gone);
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
        // It looks before it sleeps.
        if !self.is_turned_here() {
            self.wake();
        }
    }

    /// Whether this thread is in a turn: in a callback, then.
    pub(super) fn is_turned_here(&self) -> bool {
        self.turning.load(Ordering::Relaxed) == me()
    }

    /// When it has something to do although nothing happens. From now on it is woken when
    /// something is to be done sooner.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if !locked(&self.again).is_empty() {
            return Some(Instant::now());
        }
        let mut timers = locked(&self.timers);
        let first = timers.due.first_key_value().map(|((when, _), _)| *when);
        timers.looks = first;
        first
    }

    /// What is ready when a turn has something to do.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        descriptor::of_registry(&self.registry)
    }

    pub(super) fn wake(&self) {
        // It fails when the counter is full: then the driver is awake.
        let _ = self.waker.wake();
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }

    /// Ends it: all sessions and watches, and the events that are not due.
    pub(super) fn close(&self) -> Left {
        let known = {
            let mut registered = locked(&self.registered);
            registered.closed = true;
            core::mem::take(&mut registered.known)
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
        let mut left = Left {
            sessions: Vec::new(),
            watches: Vec::new(),
            events: due.into_values().filter_map(event).collect(),
        };
        for known in known.into_values() {
            match known {
                Known::Session(core) => left.sessions.push(core),
                Known::Watch(watched) => left.watches.push(watched),
            }
        }
        left
    }

    /// Drives until it is stopped.
    pub(super) fn run(&self, queue: &Queue, mut polling: Polling) {
        while !self.stopped.load(Ordering::Acquire) {
            if self.turn(queue, &mut polling, None, Rest::Driver).is_err() {
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
        rest: Rest,
    ) -> io::Result<()> {
        self.turning.store(me(), Ordering::Relaxed);
        let turned = self.turn_here(queue, polling, limit, rest);
        self.turning.store(0, Ordering::Relaxed);
        turned
    }

    fn turn_here(
        &self,
        queue: &Queue,
        polling: &mut Polling,
        mut limit: Option<Duration>,
        rest: Rest,
    ) -> io::Result<()> {
        let now = Instant::now();
        {
            let mut timers = locked(&self.timers);
            let first = timers.due.first_key_value().map(|((when, _), _)| *when);
            if let Some(first) = first {
                let left = first.saturating_duration_since(now);
                limit = Some(limit.map_or(left, |limit| limit.min(left)));
            }
            timers.looks = limit.and_then(|limit| now.checked_add(limit));
        }
        if !locked(&self.again).is_empty() {
            limit = Some(Duration::ZERO);
        }
        let sleeps = rest == Rest::Waiter && limit != Some(Duration::ZERO);
        if sleeps && !queue.fall_asleep() {
            limit = Some(Duration::ZERO);
        }
        let polled = polling.poll.poll(&mut polling.events, limit);
        if sleeps {
            queue.wake_up();
        }
        // Awake, it looks at the timers by itself.
        locked(&self.timers).looks = Some(now);
        match polled {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => answer?,
        }
        for event in &polling.events {
            match self.find(event.token().0) {
                Some(Known::Session(core)) => self.advance(
                    &core,
                    event.token().0,
                    event.is_read_closed(),
                    &mut polling.scratch,
                ),
                Some(Known::Watch(watched)) => watched.happened(event, queue),
                None => {}
            }
        }
        for key in core::mem::take(&mut *locked(&self.again)) {
            if let Some(Known::Session(core)) = self.find(key) {
                self.advance(&core, key, false, &mut polling.scratch);
            }
        }
        self.expire(queue);
        Ok(())
    }

    fn find(&self, key: usize) -> Option<Known> {
        locked(&self.registered).known.get(&key).cloned()
    }

    fn advance(&self, core: &Core, key: usize, ends: bool, scratch: &mut [u8]) {
        if core.advance(ends, scratch) {
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
                // Who drives is awake.
                Due::Event(completion) => {
                    let _ = queue.post(completion);
                }
                Due::Session(key) => {
                    if let Some(Known::Session(core)) = self.find(key) {
                        core.expire(now);
                    }
                }
            }
        }
    }
}
