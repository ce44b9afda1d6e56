//! Questions for exit workers, and the processes that answer them (`spec/exits.md`).
//!
//! A [`Pool`] is the workers of one program. Its caller drives it: it has no thread and no timer,
//! but one descriptor that is readable when there is something to do ([`AsFd`]), the time by which
//! there is in any case ([`Pool::next_deadline`]), and a call that does it ([`Pool::turn`]). A
//! question is [asked](Pool::ask) and never waited for; its answer is an [`Event`] with the caller's
//! tag.
//!
//! ```
//! use baton::exit::{Answer, SessionIdentifier, SessionInit, UserContext};
//! use baton::pool::{Configuration, Event, Pool};
//!
//! // A worker that leaves the first question to the server.
//! let session = SessionIdentifier::from([1; 16]);
//! let script = format!(
//!     r#"echo '{{"type":"hello","version":1,"families":["tls"]}}'
//!        read -r accepted; read -r question
//!        echo '{{"type":"answer","number":1,"session":"{session}","return_code":0}}'; read -r end"#
//! );
//! let mut configuration = Configuration::new("example", "/bin/sh");
//! configuration.arguments = vec!["-c".into(), script.into()];
//! configuration.check()?;
//!
//! let log = |_, text: std::fmt::Arguments<'_>| eprintln!("{text}");
//! let mut pool = Pool::new(configuration, Box::new(log))?;
//! pool.ask(session, &UserContext::default(), SessionInit::default().into(), 7);
//! let answer = loop {
//!     // A program with other things to do waits for the pool's descriptor instead.
//!     pool.turn(None)?;
//!     if let Some(Event::Completed(completion)) = pool.next_event() {
//!         assert_eq!(completion.tag, 7);
//!         break completion.reply.answer;
//!     }
//! };
//! assert!(matches!(answer, Answer::Nothing));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariants: every question that was asked and not cancelled is completed exactly once; a session
//! is with one worker from its first question to its last, and one that has failed gets no other
//! answer than -1; no worker can make the pool wait, or keep more than a line of it in memory.
//!
//! SECURITY: this process trusts nothing a worker says but the answers to what it was asked, and
//! those only for the session they are about. A worker that is taken over decides about the sessions
//! it is asked about, and cannot do more: it has no descriptor of the server, and its lines are
//! bounded and read strictly. User contexts pass through; lines are wiped when they were sent or
//! read.

mod configuration;
mod counters;
mod dispatch;
mod hearing;
mod process;
mod said;
mod staffing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags};

use crate::exit::{Failure, Point, Reply, SessionIdentifier};
use crate::sys::process::{Signal, word};

pub use configuration::{Configuration, Mistake};
pub use counters::{Counters, LATENCIES};
pub use process::State;

use dispatch::{Call, Session};
use process::Worker;

/// What the log is told: about a session, where it is about one.
pub type Log = Box<dyn FnMut(Option<SessionIdentifier>, fmt::Arguments<'_>)>;

/// What has happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A question was answered, or has failed.
    Completed(Completion),
    /// As many questions wait as the high-water mark says: no new connections.
    Stop,
    /// No more wait than the low-water mark says: connections again.
    Resume,
}

/// The end of a question.
#[derive(Debug)]
pub struct Completion {
    /// What the caller gave with the question.
    pub tag: u64,
    /// The session.
    pub session: SessionIdentifier,
    /// Where it was asked.
    pub point: Point,
    /// The answer. -1 where there was none.
    pub reply: Reply,
}

/// Descriptors looked at in one turn.
const EVENTS: usize = 64;
/// How long workers that were killed are waited for when a pool is dropped: one that the kernel cannot
/// end holds nobody up.
const LAST: Duration = Duration::from_secs(5);

/// The workers of one program, and what they are asked.
pub struct Pool {
    configuration: Configuration,
    log: Log,
    poller: OwnedFd,
    /// Of this process: a forked copy is nobody's pool.
    owner: u64,
    /// Whether this is such a copy, and empty.
    is_copied: bool,
    workers: BTreeMap<u64, Worker>,
    sessions: HashMap<SessionIdentifier, Session>,
    calls: HashMap<u64, Call>,
    /// First questions of sessions that no worker had room for, in order.
    queue: VecDeque<u64>,
    /// By when which call is to be out of the queue, and by when it is to be answered. Both in the
    /// order of time, and with entries of calls that are past this.
    waiting: VecDeque<(Instant, u64)>,
    asked: VecDeque<(Instant, u64)>,
    events: VecDeque<Event>,
    counters: Counters,
    /// Whether connections are to be refused.
    stopped: bool,
    /// Whether no more is to be asked.
    ending: bool,
    numbers: u64,
    workers_begun: u64,
    /// No worker is started before.
    not_before: Instant,
    last_start: Option<Instant>,
    /// Workers in a row that have ended before they were asked anything.
    brief: u32,
}

impl Pool {
    /// Starts the workers that the configuration wants from the beginning. One that cannot be
    /// started is told to `log`, and tried again later.
    ///
    /// # Errors
    /// The system's, of the descriptor to wait at; `InvalidInput` with the [`Mistake`] of the
    /// configuration.
    pub fn new(configuration: Configuration, log: Log) -> io::Result<Self> {
        let checked = configuration.check();
        checked.map_err(|mistake| io::Error::new(io::ErrorKind::InvalidInput, mistake))?;
        let mut pool = Self {
            configuration,
            log,
            poller: epoll::create(CreateFlags::CLOEXEC)?,
            owner: word(),
            is_copied: false,
            workers: BTreeMap::new(),
            sessions: HashMap::new(),
            calls: HashMap::new(),
            queue: VecDeque::new(),
            waiting: VecDeque::new(),
            asked: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            stopped: false,
            ending: false,
            numbers: 0,
            workers_begun: 0,
            not_before: Instant::now(),
            last_start: None,
            brief: 0,
        };
        pool.staff();
        Ok(pool)
    }

    /// Hears what workers have to say, does what is due, and waits for either at most so long: not
    /// at all with zero, until something happens with none.
    ///
    /// # Errors
    /// The system's, of waiting.
    pub fn turn(&mut self, limit: Option<Duration>) -> io::Result<()> {
        if self.is_a_copy() {
            return Ok(());
        }
        let now = Instant::now();
        let due = self.next_deadline();
        let due = due.map(|due| due.saturating_duration_since(now));
        let limit = match self.events.is_empty() {
            true => [limit, due].into_iter().flatten().min(),
            false => Some(Duration::ZERO),
        };
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let mut ready = Vec::with_capacity(EVENTS);
        let wait = || epoll::wait(&self.poller, spare_capacity(&mut ready), limit.as_ref());
        rustix::io::retry_on_intr(wait)?;
        for event in ready {
            let data = event.data;
            self.hear(data.u64());
        }
        self.run_out(Instant::now());
        self.staff();
        self.dispatch();
        Ok(())
    }

    /// What has happened next; none when nothing has. Each turn, to be asked until then.
    pub fn next_event(&mut self) -> Option<Event> {
        self.is_a_copy();
        self.events.pop_front()
    }

    /// By when [`Pool::turn`] is to be called again, though the descriptor may not be ready.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.is_a_copy();
        let calls = [self.first_waiting(), self.first_asked()];
        let workers = self.workers.values().filter_map(Worker::due);
        let start = self.understaffed().then_some(self.not_before);
        let all = calls.into_iter().flatten().chain(workers).chain(start);
        all.min()
    }

    /// Whether new connections may be accepted.
    pub fn accepts(&self) -> bool {
        !self.stopped && !self.ending
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Questions that wait for a worker.
    pub fn queue_length(&self) -> usize {
        self.queue.len()
    }

    /// The state, the process number and the sessions of each worker.
    pub fn workers(&self) -> impl Iterator<Item = (u64, State, u32, usize)> {
        self.workers.iter().map(|(number, worker)| {
            let process = worker.process_number();
            (*number, worker.state(), process, worker.sessions.len())
        })
    }

    /// Takes note that this process has waited for one of its children, whichever. Answers whether
    /// that was a worker.
    pub fn was_waited_for(&mut self, process: u32, status: ExitStatus) -> bool {
        self.is_a_copy();
        let worker = self
            .workers
            .iter_mut()
            .find(|(_, worker)| worker.process_number() == process);
        let Some((&number, worker)) = worker else {
            return false;
        };
        worker.child.was_waited_for(status);
        // Where the kernel cannot, what it has forked is left: another group may have its number.
        let _ = worker.child.kill_rest_of_group(Signal::KILL);
        self.ended(number);
        true
    }

    /// Ends all workers in good order. What is still asked is -1; [`Pool::is_over`] says when the
    /// last has ended.
    //= spec/exits.md#end
    pub fn end(&mut self) {
        self.is_a_copy();
        self.ending = true;
        let mut calls: Vec<u64> = self.calls.keys().copied().collect();
        calls.sort_unstable();
        for number in calls {
            self.fail_call(number, Failure::Ended);
        }
        let workers: Vec<u64> = self.workers.keys().copied().collect();
        for number in workers {
            self.close_input(number);
        }
    }

    /// Whether there is no worker any more.
    pub fn is_over(&self) -> bool {
        self.ending && self.workers.is_empty()
    }

    /// Whether this is a forked copy. There the pool is nobody's: it has no workers and no questions,
    /// and what is asked is -1. Nothing of it reaches the workers, which are the parent's.
    fn is_a_copy(&mut self) -> bool {
        if word() == self.owner {
            return false;
        }
        if !self.is_copied {
            self.is_copied = true;
            self.ending = true;
            self.stopped = false;
            self.workers.clear();
            self.calls.clear();
            self.sessions.clear();
            self.queue.clear();
            self.waiting.clear();
            self.asked.clear();
            self.events.clear();
        }
        true
    }

    fn say(&mut self, worker: u64, text: fmt::Arguments<'_>) {
        let process = self.workers.get(&worker).map_or(0, Worker::process_number);
        let name = &self.configuration.name;
        (self.log)(
            None,
            format_args!("exit worker {name} {worker}, process {process}: {text}"),
        );
    }
}

impl AsFd for Pool {
    /// Readable when [`Pool::turn`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }
}

impl Drop for Pool {
    /// Kills what workers there are, and waits for them. In a forked child there are none of its own.
    fn drop(&mut self) {
        if word() != self.owner {
            return;
        }
        for worker in self.workers.values_mut() {
            worker.signal(Signal::KILL);
        }
        let by = Instant::now() + LAST;
        for worker in self.workers.values_mut() {
            worker.wait(by);
        }
    }
}
