//! Questions: from being asked to being completed.

use std::collections::VecDeque;
use std::time::Instant;

use zeroize::Zeroize;

use crate::exit::{
    Answer, Failure, Point, Question, Reply, SessionIdentifier, UserContext, Verdict,
};
use crate::worker::{question_room, write_cancel, write_question};

use super::process::Stage;
use super::said::escaped;
use super::{Completion, Event, Pool};

/// Questions of one session that wait for the one before them.
const MOST_OF_SESSION: usize = 16;
/// Entries of calls that are past, in a list of deadlines, that are not worth the search.
const MANY_PAST: usize = 64;

/// A question that is not completed.
pub(super) struct Call {
    tag: u64,
    session: SessionIdentifier,
    point: Point,
    /// What is to be written; empty once it was.
    line: Vec<u8>,
    since: Instant,
    /// The worker it is with.
    worker: Option<u64>,
    /// Nobody waits for it.
    cancelled: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.line.zeroize();
    }
}

/// A session, from its first question on.
#[derive(Default)]
pub(super) struct Session {
    /// The worker that holds it.
    worker: Option<u64>,
    /// The question that waits for a worker, or is with it.
    current: Option<u64>,
    /// Further ones.
    next: VecDeque<u64>,
    /// Why all its questions are -1.
    failed: Option<Failure>,
    /// Nobody knows it any more, but for the worker that is to answer.
    forgotten: bool,
}

impl Pool {
    /// Asks. The answer is an [`Event::Completed`] with `tag`, which may be there at once; what is
    /// returned is for [`Pool::cancel`].
    ///
    /// A session has one question at a time; a further one waits for the answer to the one before.
    //= spec/exits.md#order
    //= spec/exits.md#waiting
    pub fn ask(
        &mut self,
        session: SessionIdentifier,
        context: &UserContext,
        mut question: Question,
        tag: u64,
    ) -> u64 {
        self.is_a_copy();
        self.numbers += 1;
        self.counters.asked += 1;
        let number = self.numbers;
        // In one place: a line that grows leaves a copy of its user context behind.
        let mut line = Vec::with_capacity(question_room(&mut question));
        let written = write_question(&mut line, number, session, context, &mut question);
        let point = question.point();
        let call = Call {
            tag,
            session,
            point,
            line,
            since: Instant::now(),
            worker: None,
            cancelled: false,
        };
        self.calls.insert(number, call);
        let served = self.configuration.families.contains(&point.family());
        let entry = self.sessions.entry(session).or_default();
        let refused = match (&entry.failed, written) {
            (Some(_), _) => Some(Failure::Ended),
            (None, Err(_)) => Some(Failure::Invalid),
            (None, Ok(())) if self.ending => Some(Failure::Ended),
            (None, Ok(())) if !served => Some(Failure::NotServed),
            (None, Ok(())) => None,
        };
        if let Some(failure) = refused {
            self.not_asked(number, failure);
            return number;
        }
        if entry.current.is_some() {
            if entry.next.len() == MOST_OF_SESSION {
                self.not_asked(number, Failure::Overloaded);
                return number;
            }
            // It waits as long as the one before it.
            entry.next.push_back(number);
            return number;
        }
        entry.current = Some(number);
        match entry.worker {
            Some(worker) => self.write(number, worker),
            None => match self.worker_for(point) {
                // None waits that was before it.
                Some(worker) if self.queue.is_empty() => self.begin(number, worker),
                _ if self.queue.len() >= self.configuration.most_waiting() => {
                    self.fail_call(number, Failure::Overloaded);
                }
                _ => {
                    self.wait(number);
                    self.mark();
                    self.staff();
                }
            },
        }
        number
    }

    /// Nobody waits for this question any more: it is not completed. One that is completed already is
    /// not touched.
    pub fn cancel(&mut self, number: u64) {
        self.is_a_copy();
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        if call.cancelled {
            return;
        }
        call.cancelled = true;
        self.counters.cancelled += 1;
        let session = call.session;
        match call.worker {
            Some(worker) => {
                let mut line = Vec::new();
                write_cancel(&mut line, number, session);
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.send(line, &self.poller);
                }
            }
            // It was never written: it is as if it had not been asked.
            None => {
                self.calls.remove(&number);
                self.queue.retain(|waiting| *waiting != number);
                self.mark();
                if let Some(entry) = self.sessions.get_mut(&session) {
                    entry.next.retain(|waiting| *waiting != number);
                    if entry.current == Some(number) {
                        entry.current = None;
                        self.go_on(session);
                    }
                }
            }
        }
    }

    /// There is no such session any more, and no `session-end` was or will be asked. Its questions are
    /// cancelled.
    pub fn forget(&mut self, session: SessionIdentifier) {
        self.is_a_copy();
        let Some(entry) = self.sessions.get_mut(&session) else {
            return;
        };
        entry.forgotten = true;
        let current = entry.current;
        for number in std::mem::take(&mut entry.next) {
            self.cancel(number);
        }
        if let Some(number) = current {
            self.cancel(number);
        }
        self.go_on(session);
        // Whom it made room for is not to wait for something else to happen.
        self.dispatch();
    }

    /// A question that is refused before it is asked. Its session may have been a worker's last.
    fn not_asked(&mut self, number: u64, failure: Failure) {
        let session = self.calls.get(&number).map(|call| call.session);
        let entry = session.and_then(|session| self.sessions.get(&session));
        let holder = entry.and_then(|entry| entry.worker);
        self.fail_call(number, failure);
        if let Some(worker) = holder {
            self.recycle(worker);
        }
    }

    /// Puts a first question behind those that wait.
    fn wait(&mut self, number: u64) {
        self.queue.push_back(number);
        let by = Instant::now() + self.configuration.deadline;
        self.waiting.push_back((by, number));
        if self.waiting.len() > 2 * self.queue.len() + MANY_PAST {
            let calls = &self.calls;
            self.waiting
                .retain(|(_, number)| calls.get(number).is_some_and(|call| call.worker.is_none()));
        }
    }

    /// The worker for a new session.
    //= spec/exits.md#start
    fn worker_for(&self, point: Point) -> Option<u64> {
        let able = self.workers.values().filter(|worker| {
            worker.room() > 0
                && worker.closed.is_none()
                && worker.families.contains(&point.family())
        });
        let least = able.min_by_key(|worker| worker.sessions.len());
        least.map(|worker| worker.number)
    }

    /// Gives waiting questions to workers that have room.
    pub(super) fn dispatch(&mut self) {
        let mut at = 0;
        while let Some(&number) = self.queue.get(at) {
            let point = self.calls.get(&number).map(|call| call.point);
            match point.and_then(|point| self.worker_for(point)) {
                Some(worker) => {
                    self.queue.remove(at);
                    self.begin(number, worker);
                }
                None if self.workers.values().all(|worker| worker.room() == 0) => break,
                None => at += 1,
            }
        }
        self.mark();
    }

    /// The first question of a session goes to its worker.
    //= spec/exits.md#order
    fn begin(&mut self, number: u64, worker: u64) {
        let Some(session) = self.calls.get(&number).map(|call| call.session) else {
            return;
        };
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.worker = Some(worker);
        }
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.sessions.insert(session);
        }
        self.write(number, worker);
    }

    fn write(&mut self, number: u64, to: u64) {
        let (Some(call), Some(worker)) = (self.calls.get_mut(&number), self.workers.get_mut(&to))
        else {
            return;
        };
        if !worker.families.contains(&call.point.family()) {
            self.not_asked(number, Failure::NotServed);
            return;
        }
        call.worker = Some(to);
        worker.asked += 1;
        worker.was_asked = true;
        worker.send(std::mem::take(&mut call.line), &self.poller);
        let by = Instant::now() + self.configuration.deadline;
        self.asked.push_back((by, number));
        if self.asked.len() > 2 * self.calls.len() + MANY_PAST {
            let calls = &self.calls;
            self.asked.retain(|(_, number)| calls.contains_key(number));
        }
    }

    /// An answer that belongs to this question.
    pub(super) fn complete(&mut self, number: u64, reply: Reply) {
        let Some(call) = self.calls.remove(&number) else {
            return;
        };
        let entry = self.sessions.get(&call.session);
        let failed = entry.is_none_or(|entry| entry.failed.is_some());
        self.post(
            &call,
            match failed {
                // A further question of the session has failed meanwhile.
                true => Failure::Ended.into(),
                false => reply,
            },
        );
        let ends = call.point.ends_session();
        if let Some(id) = call.worker
            && let Some(worker) = self.workers.get_mut(&id)
        {
            worker.asked -= 1;
            worker.answered += 1;
            self.brief = 0;
            if ends || failed {
                worker.sessions.remove(&call.session);
            }
        }
        match ends {
            true => self.end_session(call.session),
            false => {
                if let Some(entry) = self.sessions.get_mut(&call.session) {
                    entry.current = None;
                    if failed {
                        entry.worker = None;
                    }
                }
                self.go_on(call.session);
            }
        }
    }

    /// The next question of a session, or its end where nobody knows it.
    fn go_on(&mut self, session: SessionIdentifier) {
        let Some(entry) = self.sessions.get_mut(&session) else {
            return;
        };
        if entry.current.is_some() {
            return;
        }
        let holder = entry.worker;
        match (entry.next.pop_front(), holder) {
            (Some(number), Some(worker)) => {
                entry.current = Some(number);
                self.write(number, worker);
            }
            // Only a session without a worker loses its first question.
            (Some(number), None) => {
                entry.current = Some(number);
                self.wait(number);
            }
            (None, worker) if entry.forgotten || worker.is_none() && entry.failed.is_none() => {
                self.end_session(session);
                if let Some(worker) = worker.and_then(|worker| self.workers.get_mut(&worker)) {
                    worker.sessions.remove(&session);
                }
                if let Some(worker) = worker {
                    self.recycle(worker);
                }
            }
            (None, _) => {}
        }
    }

    /// Forgets a session. What is still asked about it fails.
    fn end_session(&mut self, session: SessionIdentifier) {
        if let Some(entry) = self.sessions.remove(&session) {
            for number in entry.next {
                self.fail_call(number, Failure::Ended);
            }
            // Their failures have made it anew.
            self.sessions.remove(&session);
        }
    }

    /// A question that has no answer. Its session gets none any more.
    //= spec/exits.md#failures
    pub(super) fn fail_call(&mut self, number: u64, failure: Failure) {
        let Some(call) = self.calls.remove(&number) else {
            return;
        };
        let session = call.session;
        if call.worker.is_none() {
            self.queue.retain(|waiting| *waiting != number);
            self.mark();
        }
        let entry = self.sessions.entry(session).or_default();
        entry.failed.get_or_insert(failure);
        if entry.current == Some(number) {
            entry.current = None;
        }
        let ends = call.point.ends_session() || entry.forgotten;
        // One that a worker is asked stays with it, and the session with it, until it has answered.
        let current = entry.current;
        let is_asked = |number: &u64| self.calls.get(number).is_some_and(|it| it.worker.is_some());
        let waiting = match current.is_some_and(|current| is_asked(&current)) {
            true => {
                entry.forgotten |= ends;
                None
            }
            false => {
                let holder = entry.worker.take();
                if let Some(worker) = holder.and_then(|worker| self.workers.get_mut(&worker)) {
                    worker.sessions.remove(&session);
                }
                current
            }
        };
        let further = std::mem::take(&mut entry.next);
        if let Some(worker) = call.worker.and_then(|worker| self.workers.get_mut(&worker)) {
            worker.asked -= 1;
        }
        self.post(&call, failure.into());
        for number in waiting.into_iter().chain(further) {
            self.fail_call(number, Failure::Ended);
        }
        let over = |entry: &Session| entry.current.is_none() && (ends || entry.forgotten);
        if self.sessions.get(&session).is_some_and(over) {
            self.sessions.remove(&session);
        }
    }

    /// All sessions of a worker get no more answers.
    pub(super) fn fail_sessions(&mut self, worker: u64, failure: Failure) {
        let Some(gone) = self.workers.get_mut(&worker) else {
            return;
        };
        let mut sessions: Vec<_> = std::mem::take(&mut gone.sessions).into_iter().collect();
        sessions.sort_unstable();
        for session in sessions {
            let Some(entry) = self.sessions.get_mut(&session) else {
                continue;
            };
            entry.failed.get_or_insert(failure);
            entry.worker = None;
            match entry.current {
                Some(number) => self.fail_call(number, failure),
                None if entry.forgotten => self.end_session(session),
                None => {}
            }
        }
    }

    /// Tells how a question ended.
    fn post(&mut self, call: &Call, reply: Reply) {
        let took = call.worker.map(|_| call.since.elapsed());
        if call.cancelled {
            return;
        }
        self.counters.count(&reply, took);
        let name = &self.configuration.name;
        let said = reply.text.as_deref().map(|text| escaped(text.as_bytes()));
        let said = said.map_or_else(String::new, |text| format!(": {text}"));
        let point = call.point;
        let worker = call
            .worker
            .map_or_else(String::new, |worker| format!(" {worker}"));
        match &reply.answer {
            Answer::Fatal(failure) => (self.log)(
                Some(call.session),
                format_args!(": exit {point} of {name}{worker} is -1: {failure}{said}"),
            ),
            Answer::Done {
                verdict: Verdict::Refused(reason),
                ..
            } => (self.log)(
                Some(call.session),
                format_args!(": exit {point} of {name}{worker} refuses: {reason}{said}"),
            ),
            _ if !said.is_empty() => (self.log)(
                Some(call.session),
                format_args!(": exit {point} of {name}{worker}{said}"),
            ),
            _ => {}
        }
        self.events.push_back(Event::Completed(Completion {
            tag: call.tag,
            session: call.session,
            point,
            reply,
        }));
    }

    /// Tells whether connections are to be refused.
    //= spec/exits.md#waiting
    pub(super) fn mark(&mut self) {
        let length = self.queue.len();
        if !self.stopped && length >= self.configuration.high_water {
            self.stopped = true;
            self.events.push_back(Event::Stop);
        } else if self.stopped && length <= self.configuration.low_water {
            self.stopped = false;
            self.events.push_back(Event::Resume);
        }
    }

    /// Which session, point and worker a question has.
    pub(super) fn call(&self, number: u64) -> Option<(SessionIdentifier, Point, Option<u64>)> {
        let call = self.calls.get(&number)?;
        Some((call.session, call.point, call.worker))
    }

    /// By when the first waiting question is given up.
    pub(super) fn first_waiting(&mut self) -> Option<Instant> {
        while let Some((by, number)) = self.waiting.front() {
            match self.calls.get(number) {
                Some(call) if call.worker.is_none() => return Some(*by),
                _ => self.waiting.pop_front(),
            };
        }
        None
    }

    /// By when the first question that was written is to be answered.
    pub(super) fn first_asked(&mut self) -> Option<Instant> {
        while let Some((by, number)) = self.asked.front() {
            match self.calls.contains_key(number) {
                true => return Some(*by),
                false => self.asked.pop_front(),
            };
        }
        None
    }

    /// Gives up what has taken too long.
    pub(super) fn run_out(&mut self, now: Instant) {
        while self.first_waiting().is_some_and(|by| by <= now) {
            if let Some((_, number)) = self.waiting.pop_front() {
                self.fail_call(number, Failure::Waited);
            }
        }
        while self.first_asked().is_some_and(|by| by <= now) {
            if let Some((_, number)) = self.asked.pop_front() {
                self.hung(number);
            }
        }
        let due: Vec<u64> = self
            .workers
            .values()
            .filter(|worker| worker.due().is_some_and(|due| due <= now))
            .map(|worker| worker.number)
            .collect();
        for worker in due {
            self.look_after(worker, now);
        }
    }

    /// A worker did not answer in time.
    fn hung(&mut self, number: u64) {
        let Some((_, _, Some(id))) = self.call(number) else {
            return;
        };
        self.fail_call(number, Failure::Hung);
        let recycling = self.recycling();
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.late.insert(number);
        let is_new = matches!(worker.stage, Stage::Serving);
        if worker.sessions.is_empty() || is_new && recycling >= self.configuration.maximum {
            let text = format_args!("it did not answer in time");
            self.fail_worker(id, Failure::Hung, text);
        } else if is_new {
            worker.stage = Stage::Recycling;
            self.counters.recycled += 1;
            self.say(
                id,
                format_args!("it did not answer in time; it gets no new session"),
            );
        }
    }
}
