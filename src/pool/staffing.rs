//! How many workers there are: starting, recycling, replacing and ending them.

use std::fmt;
use std::time::{Duration, Instant};

use crate::exit::Failure;
use crate::sys::process::Signal;

use super::Pool;
use super::process::{Stage, Worker};

/// Two starts after a worker was lost are at least so long apart.
const APART: Duration = Duration::from_millis(100);
/// How long the start waits after the first worker that was never of use; each next one twice as
/// long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// And no longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl Pool {
    /// Whether there are fewer workers than are wanted.
    //= spec/exits.md#start
    pub(super) fn understaffed(&self) -> bool {
        if self.ending {
            return false;
        }
        let active = self.workers.values().filter(|worker| worker.is_active());
        let active = active.count();
        let starting = self.workers.values();
        let starting = starting.filter(|worker| matches!(worker.stage, Stage::Starting(_)));
        // Those that start have room for so many.
        let coming = starting
            .count()
            .saturating_mul(self.configuration.holds as usize);
        active < self.configuration.start
            || self.queue.len() > coming && active < self.configuration.maximum
    }

    /// Starts workers, as many as are wanted and may be.
    //= spec/exits.md#back-off
    pub(super) fn staff(&mut self) {
        while self.understaffed() {
            let now = Instant::now();
            if now < self.not_before {
                return;
            }
            self.last_start = Some(now);
            self.workers_begun += 1;
            let number = self.workers_begun;
            match Worker::start(number, &self.configuration, &self.poller) {
                Ok(worker) => {
                    self.counters.started += 1;
                    self.workers.insert(number, worker);
                }
                Err(error) => {
                    let name = &self.configuration.name;
                    let text = format_args!("exit worker {name} {number} not started: {error}");
                    (self.log)(None, text);
                    self.was_brief();
                }
            }
        }
    }

    /// A worker has gone before it was of use.
    //= spec/exits.md#back-off
    pub(super) fn was_brief(&mut self) {
        let doublings = self.brief.min(16);
        self.brief = self.brief.saturating_add(1);
        let wait = (FIRST_WAIT * (1 << doublings)).min(LONGEST_WAIT);
        self.not_before = Instant::now() + wait;
    }

    /// Workers that get no new session, and are not to end yet.
    pub(super) fn recycling(&self) -> usize {
        let recycling = |worker: &&Worker| matches!(worker.stage, Stage::Recycling);
        self.workers.values().filter(recycling).count()
    }

    /// Replaces a worker that has answered as often as it may; ends one that holds no session any
    /// more.
    //= spec/exits.md#recycling
    pub(super) fn recycle(&mut self, number: u64) {
        let recycling = self.recycling();
        let most = self.configuration.recycle_after;
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        let is_due = most.is_some_and(|most| worker.answered >= most);
        if matches!(worker.stage, Stage::Serving)
            && is_due
            && recycling < self.configuration.maximum
        {
            worker.stage = Stage::Recycling;
            self.counters.recycled += 1;
        }
        if matches!(worker.stage, Stage::Recycling) && worker.sessions.is_empty() {
            let answered = worker.answered;
            self.say(number, format_args!("recycled after {answered} answers"));
            self.close_input(number);
        }
    }

    /// A worker that is needed no more.
    //= spec/exits.md#end
    pub(super) fn close_input(&mut self, number: u64) {
        let grace = self.configuration.grace;
        if let Some(worker) = self.workers.get_mut(&number)
            && !matches!(worker.stage, Stage::Ending(..))
        {
            worker.close(false, &self.poller);
            worker.closed = None;
            worker.stage = Stage::Ending(Signal::TERM, Instant::now() + grace);
        }
    }

    /// A worker that is of no more use: what it holds has failed, and it is ended.
    //= spec/exits.md#failures
    pub(super) fn fail_worker(&mut self, number: u64, failure: Failure, why: fmt::Arguments<'_>) {
        let now = Instant::now();
        let grace = self.configuration.grace;
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        let sessions = worker.sessions.len();
        // Whoever makes a worker fail with a question must not keep the others from being asked.
        let was_brief = !worker.was_asked;
        worker.close(true, &self.poller);
        worker.stage = Stage::Ending(Signal::KILL, now + grace);
        worker.signal(Signal::TERM);
        self.counters.lost += 1;
        match was_brief {
            true => self.was_brief(),
            false => {
                let apart = self.last_start.map_or(now, |last| last + APART);
                self.not_before = self.not_before.max(apart);
            }
        }
        self.say(
            number,
            format_args!("{why}; {sessions} sessions have failed"),
        );
        self.fail_sessions(number, failure);
    }

    /// Something of a worker is due.
    //= spec/exits.md#end
    pub(super) fn look_after(&mut self, number: u64, now: Instant) {
        let grace = self.configuration.grace;
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        if worker.quiet.is_some_and(|quiet| quiet <= now) {
            self.hear_errors(number);
        }
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        let closed = worker.closed.is_some_and(|closed| closed <= now);
        if closed || worker.child.pidfd().is_none() {
            // A kernel without descriptors of processes tells an end only when it is asked.
            worker.closed = None;
            self.wait_for(number);
        }
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        match worker.stage {
            Stage::Starting(by) if by <= now => {
                let why = format_args!("it did not say hello in time");
                self.fail_worker(number, Failure::Hung, why);
            }
            Stage::Ending(signal, by) if by <= now => {
                worker.signal(signal);
                worker.stage = Stage::Ending(Signal::KILL, now + grace.max(APART));
                if signal == Signal::KILL {
                    self.wait_for(number);
                }
            }
            Stage::Ending(..) => {}
            _ if closed => {
                let why = format_args!("it closed its input or output");
                self.fail_worker(number, Failure::Garbage, why);
            }
            _ => {}
        }
    }
}
