//! What workers say, and what it does.
//!
//! Invariant: a line is acted on only if every rule holds for it; any other line costs the worker
//! its life and its sessions an answer, never the server anything.

use std::io;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use crate::exit::{Failure, Family};
use crate::sys::process::Signal;
use crate::worker::{
    AnswerLine, FromWorker, Garbage, Hello, Lines, Refusal, VERSION, read_from_worker,
    write_accepted, write_refused,
};

use super::Pool;
use super::process::{Part, Stage};

/// Bytes read from one worker in one turn, so that the others are heard, too.
const AT_ONCE: usize = 256 << 10;
/// Bytes read at once from a worker's standard error.
const SAID_AT_ONCE: usize = 16 << 10;
/// Bytes read from the standard error of a worker that has ended: what a pipe holds.
const LAST_WORDS: usize = 64 << 10;
/// Bytes passed over of a worker that is to end: answers nobody waits for.
const PASSED_OVER: usize = 1 << 20;

/// What a line does to its worker.
enum Fault {
    Line(Garbage),
    Session(u64),
    Number,
    Refused(Refusal),
}

impl From<Garbage> for Fault {
    fn from(garbage: Garbage) -> Self {
        Self::Line(garbage)
    }
}

impl Pool {
    /// Something of a worker is ready.
    pub(super) fn hear(&mut self, key: u64) {
        let (number, part) = Part::of(key);
        match part {
            Part::Input => {
                if let Some(worker) = self.workers.get_mut(&number) {
                    worker.resume(&self.poller);
                }
            }
            Part::Output => self.read(number),
            Part::Errors => self.read_errors(number, SAID_AT_ONCE),
            Part::Process => self.wait_for(number),
        }
    }

    /// Reads what it has written.
    fn read(&mut self, number: u64) {
        let lines = self.workers.get_mut(&number);
        let Some(mut lines) = lines.and_then(|worker| worker.lines.take()) else {
            return;
        };
        let outcome = self.read_lines(number, &mut lines);
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.lines = Some(lines);
        }
        if let Err(fault) = outcome {
            self.fault(number, &fault);
        }
    }

    fn read_lines(&mut self, number: u64, lines: &mut Lines) -> Result<(), Fault> {
        let (mut total, mut drained) = (0, false);
        loop {
            loop {
                match lines.next() {
                    Ok(Some(line)) => self.line(number, line)?,
                    Ok(None) => break,
                    Err(_) if self.is_ending(number) => lines.skip_rest(),
                    Err(_) => return self.too_long(number),
                }
            }
            // What is left, the poller tells again.
            if drained || total >= AT_ONCE {
                return Ok(());
            }
            let Some(worker) = self.workers.get_mut(&number) else {
                return Ok(());
            };
            let Some(output) = &worker.output else {
                return Ok(());
            };
            let mut space = 0;
            let count = lines.fill(|buffer| {
                space = buffer.len();
                Ok(rustix::io::retry_on_intr(|| {
                    rustix::io::read(output, &mut *buffer)
                })?)
            });
            match count {
                Ok(count @ 1..) => {
                    total += count;
                    drained = count < space;
                    if self.is_ending(number) && self.passes_over(number, count) {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Ok(0) | Err(_) => {
                    self.output_ended(number);
                    return Ok(());
                }
            }
        }
    }

    fn is_ending(&self, number: u64) -> bool {
        let worker = self.workers.get(&number);
        worker.is_some_and(|worker| matches!(worker.stage, Stage::Ending(..)))
    }

    /// What one writes that is to end is read, so that it can. Answers whether it is too much: then
    /// it waits, and is not waited for.
    //= spec/exits.md#end
    fn passes_over(&mut self, number: u64, count: usize) -> bool {
        let Some(worker) = self.workers.get_mut(&number) else {
            return true;
        };
        worker.ignored += count;
        if worker.ignored > PASSED_OVER
            && let Some(output) = &worker.output
        {
            let _ = epoll::delete(&self.poller, output);
        }
        worker.ignored > PASSED_OVER
    }

    fn too_long(&self, number: u64) -> Result<(), Fault> {
        match self.workers.get(&number).map(|worker| &worker.stage) {
            Some(Stage::Starting(_)) => Err(Fault::Refused(Refusal::Malformed)),
            _ => Err(Garbage::TooLong.into()),
        }
    }

    /// It writes no more. Whether that is because it has ended is seen by its process.
    fn output_ended(&mut self, number: u64) {
        if let Some(worker) = self.workers.get_mut(&number) {
            if let Some(output) = worker.output.take() {
                let _ = epoll::delete(&self.poller, &output);
            }
            if !matches!(worker.stage, Stage::Ending(..)) {
                worker.has_closed();
            }
        }
    }

    /// One line.
    fn line(&mut self, number: u64, line: &[u8]) -> Result<(), Fault> {
        let Some(worker) = self.workers.get(&number) else {
            return Ok(());
        };
        match &worker.stage {
            Stage::Starting(_) => match read_from_worker(line) {
                Ok(FromWorker::Hello(hello)) => self.greet(number, &hello),
                _ => Err(Fault::Refused(Refusal::Malformed)),
            },
            Stage::Serving | Stage::Recycling => match read_from_worker(line)? {
                FromWorker::Answer(answer) => self.answer(number, answer),
                FromWorker::Hello(_) => Err(Garbage::Type.into()),
            },
            // Nothing is asked of it any more.
            Stage::Ending(..) => Ok(()),
        }
    }

    //= spec/exits.md#accepted
    fn greet(&mut self, number: u64, hello: &Hello) -> Result<(), Fault> {
        if hello.version != VERSION {
            return Err(Fault::Refused(Refusal::Version));
        }
        let expected = &self.configuration.families;
        let (there, missing): (Vec<Family>, Vec<Family>) = expected
            .iter()
            .partition(|family| hello.families.contains(family));
        if there.is_empty() {
            return Err(Fault::Refused(Refusal::Families));
        }
        let holds = hello.holds.min(self.configuration.holds);
        let deadline = u64::try_from(self.configuration.deadline.as_millis());
        let mut line = Vec::new();
        write_accepted(&mut line, holds, deadline.unwrap_or(u64::MAX));
        let names: Vec<&str> = there.iter().map(|family| family.name()).collect();
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.stage = Stage::Serving;
            worker.holds = holds;
            worker.families = there;
            worker.send(line, &self.poller);
        }
        let names = names.join(", ");
        self.say(number, format_args!("answers {names}; holds {holds}"));
        for family in missing {
            self.say(
                number,
                format_args!("does not answer {family}, which was expected"),
            );
        }
        Ok(())
    }

    fn answer(&mut self, number: u64, answer: AnswerLine<'_>) -> Result<(), Fault> {
        let asked = answer.number;
        match self.call(asked) {
            Some((session, point, Some(worker))) if worker == number => {
                if session != answer.session {
                    return Err(Fault::Session(asked));
                }
                let reply = answer.reply(point)?;
                self.complete(asked, reply);
                self.recycle(number);
                Ok(())
            }
            _ => {
                let worker = self.workers.get_mut(&number);
                if !worker.is_some_and(|worker| worker.late.remove(&asked)) {
                    return Err(Fault::Number);
                }
                self.counters.late += 1;
                self.say(number, format_args!("it answered too late"));
                Ok(())
            }
        }
    }

    //= spec/exits.md#failures
    fn fault(&mut self, number: u64, fault: &Fault) {
        let worker = self.workers.get(&number);
        if worker.is_none_or(|worker| matches!(worker.stage, Stage::Ending(..))) {
            // Nothing is asked of it any more, and nothing it says counts.
            return;
        }
        match fault {
            Fault::Line(garbage) => {
                self.fail_worker(number, Failure::Garbage, format_args!("{garbage}"));
            }
            Fault::Session(asked) => {
                // The call that was answered is told first.
                self.fail_call(*asked, Failure::WrongSession);
                let text = format_args!("it answered for another session");
                self.fail_worker(number, Failure::WrongSession, text);
            }
            Fault::Number => {
                let text = format_args!("it answered what it was not asked");
                self.fail_worker(number, Failure::Unasked, text);
            }
            Fault::Refused(refusal) => self.refuse(number, *refusal),
        }
    }

    //= spec/exits.md#refused
    fn refuse(&mut self, number: u64, refusal: Refusal) {
        let name = refusal.name();
        self.say(number, format_args!("refused: {name}: {}", refusal.text()));
        let mut line = Vec::new();
        write_refused(&mut line, refusal);
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.send(line, &self.poller);
        }
        self.was_brief();
        self.counters.lost += 1;
        self.close_input(number);
    }

    /// Reads what it says to the log.
    //= spec/exits.md#stderr
    fn read_errors(&mut self, number: u64, most: usize) {
        let now = Instant::now();
        let mut buffer = vec![0; most.min(SAID_AT_ONCE)];
        let mut total = 0;
        while total < most {
            let Some(worker) = self.workers.get_mut(&number) else {
                return;
            };
            let Some(errors) = &worker.errors else { return };
            let allowed = worker.said.allowance(now).min(buffer.len());
            if allowed == 0 {
                // Whoever writes more waits; it is not waited for.
                worker.quiet = Some(worker.said.again());
                let _ = epoll::delete(&self.poller, errors);
                return;
            }
            let read =
                rustix::io::retry_on_intr(|| rustix::io::read(errors, &mut buffer[..allowed]));
            let mut said = Vec::new();
            let ended = match read {
                Err(Errno::AGAIN) => return,
                Ok(0) | Err(_) => {
                    worker.said.end(|line| said.push(line.to_owned()));
                    if let Some(errors) = worker.errors.take() {
                        let _ = epoll::delete(&self.poller, &errors);
                    }
                    true
                }
                Ok(count) => {
                    total += count;
                    let bytes = buffer.get(..count).unwrap_or_default();
                    worker.said.take(bytes, |line| said.push(line.to_owned()));
                    false
                }
            };
            for line in said {
                self.say(number, format_args!("{line}"));
            }
            if ended {
                return;
            }
        }
    }

    /// Reads its standard error again.
    pub(super) fn hear_errors(&mut self, number: u64) {
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.quiet = None;
            if let Some(errors) = &worker.errors {
                let data = EventData::new_u64(Part::Errors.key(number));
                // Where it cannot be, it is not heard any more.
                let _ = epoll::add(&self.poller, errors, data, EventFlags::IN);
            }
        }
    }

    /// Its process has ended, or is said to have.
    pub(super) fn wait_for(&mut self, number: u64) {
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        if let Some(pidfd) = worker.child.pidfd()
            && crate::sys::process::pidfd_runs(pidfd).unwrap_or(false)
        {
            return;
        }
        // What it has forked goes with it. Not waited for, the group's number is still its own.
        let is_over = worker.child.pidfd().is_some();
        if is_over {
            worker.signal(Signal::KILL);
        }
        if !matches!(worker.child.try_wait(), Ok(None)) {
            self.ended(number);
        } else if is_over {
            // A debugger has its end first. It is waited for now and then, and not heard any more.
            if let Some(pidfd) = worker.child.pidfd() {
                let _ = epoll::delete(&self.poller, pidfd);
            }
            if !matches!(worker.stage, Stage::Ending(..)) {
                self.fail_worker(number, Failure::Died, format_args!("it has ended"));
            }
        }
    }

    /// Its process has ended and was waited for.
    pub(super) fn ended(&mut self, number: u64) {
        // What it has answered before counts.
        self.read(number);
        self.read_errors(number, LAST_WORDS);
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        let mut said = Vec::new();
        worker.said.end(|line| said.push(line.to_owned()));
        let status = worker.child.try_wait().ok().flatten();
        for line in said {
            self.say(number, format_args!("{line}"));
        }
        let how = status.map_or_else(|| "it has ended".to_owned(), |status| status.to_string());
        match self.workers.get(&number).map(|worker| &worker.stage) {
            Some(Stage::Ending(..)) | None => {}
            _ => self.fail_worker(number, Failure::Died, format_args!("it has ended: {how}")),
        }
        if let Some(mut worker) = self.workers.remove(&number) {
            worker.close(true, &self.poller);
            if let Some(pidfd) = worker.child.pidfd() {
                let _ = epoll::delete(&self.poller, pidfd);
            }
        }
    }
}
