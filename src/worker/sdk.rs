//! A worker: what it answers at each point, and the loop that reads, asks and writes.
//!
//! Invariants: every question is answered exactly once; what the worker's own code cannot do, or
//! panics over, is -1; a point nobody answers is 0.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroize;

use crate::exit::{
    Answer, Failure, Family, Input, Point, Question, Reply, SessionIdentifier, UserContext,
};

use super::lines::Lines;
use super::wire::{FromServer, Garbage, read_from_server, write_answer, write_hello};

/// An answer waits no longer than this for the next one to go with it.
const TOGETHER: Duration = Duration::from_millis(1);

/// What a question is asked about.
#[derive(Debug)]
pub struct Call {
    session: SessionIdentifier,
    user_context: UserContext,
    text: RefCell<Option<String>>,
}

impl Call {
    /// The session: the same in every question of it.
    pub fn session(&self) -> SessionIdentifier {
        self.session
    }

    /// What the session's last answer left.
    pub fn user_context(&self) -> &[u8] {
        self.user_context.as_bytes()
    }

    /// Says something about the answer to the server's log: at most [`Reply::TEXT_LIMIT`] bytes of
    /// it, without control characters.
    pub fn say(&self, text: impl Into<String>) {
        *self.text.borrow_mut() = Some(text.into());
    }
}

type Handler = Box<dyn Fn(&Call, Question) -> Answer + Send + Sync>;

/// A worker that has not begun.
#[derive(Default)]
pub struct Worker {
    holds: u32,
    threads: usize,
    handlers: HashMap<Point, Handler>,
}

/// Why a worker has ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server refused it, for this reason.
    Refused(String),
    /// The server wrote what cannot be read.
    Garbage(Garbage),
    /// The pipes fail.
    System(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "the server refuses this worker: {reason:?}"),
            Self::Garbage(garbage) => write!(f, "the server wrote garbage: {garbage}"),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Garbage> for Error {
    fn from(garbage: Garbage) -> Self {
        Self::Garbage(garbage)
    }
}

impl Worker {
    /// One session at once, one thread, and no point answered.
    pub fn new() -> Self {
        Self {
            holds: 1,
            threads: 1,
            handlers: HashMap::new(),
        }
    }

    /// Sessions it can have begun and not ended, 1 to 65,536.
    #[must_use]
    pub fn holds(mut self, sessions: u32) -> Self {
        self.holds = sessions.clamp(1, 65_536);
        self
    }

    /// Questions it answers at the same time, at least 1. Those of one session never come at the
    /// same time.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Answers questions of one point, which the type of the closure's argument says.
    #[must_use]
    pub fn on<I: Input>(
        mut self,
        answer: impl Fn(&Call, I) -> Answer<I::Output> + Send + Sync + 'static,
    ) -> Self {
        let handler: Handler = Box::new(move |call, question| match I::of(question) {
            Some(input) => answer(call, input).map(Into::into),
            None => Answer::fatal(),
        });
        self.handlers.insert(I::POINT, handler);
        self
    }

    /// Answers questions on standard input and output until the server needs no more.
    ///
    /// # Errors
    /// The server refuses the worker, or writes garbage, or the pipes fail.
    pub fn serve(self) -> Result<(), Error> {
        // Not by way of the buffer of `Stdin`, which nobody wipes.
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        self.serve_on(File::from(input), io::stdout())
    }

    /// The same on other streams.
    ///
    /// # Errors
    /// The same.
    pub fn serve_on(
        self,
        mut input: impl Read + Send,
        mut output: impl Write + Send,
    ) -> Result<(), Error> {
        let mut families: Vec<Family> = self.handlers.keys().map(|point| point.family()).collect();
        families.sort_unstable();
        families.dedup();
        let mut hello = Vec::new();
        write_hello(&mut hello, &families, self.holds);
        output.write_all(&hello)?;
        output.flush()?;
        let mut lines = Lines::new(Point::LONGEST_LINE);
        if !greeted(&mut lines, &mut input)? {
            return Ok(());
        }
        if self.threads == 1 {
            let mut out = room_for_answers();
            loop {
                let mut first = Instant::now();
                while let Some(line) = lines.next().map_err(|_| Garbage::TooLong)? {
                    self.answer(line, &mut out)?;
                    // Answers to questions that came at once go at once, if that takes no time.
                    if first.elapsed() > TOGETHER || out.len() > Point::LONGEST_LINE {
                        output.write_all(&out)?;
                        output.flush()?;
                        wipe(&mut out);
                        first = Instant::now();
                    }
                }
                output.write_all(&out)?;
                output.flush()?;
                wipe(&mut out);
                if lines.fill(|space| retrying(&mut input, space))? == 0 {
                    return Ok(());
                }
            }
        }
        let from = Mutex::new((lines, input));
        let to = Mutex::new(output);
        let failed: Arc<Mutex<Option<Error>>> = Arc::default();
        thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    if let Err(error) = self.share(&from, &to) {
                        let mut first = lock(&failed);
                        first.get_or_insert(error);
                    }
                });
            }
        });
        match lock(&failed).take() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// One of several threads.
    fn share<R: Read, W: Write>(
        &self,
        from: &Mutex<(Lines, R)>,
        to: &Mutex<W>,
    ) -> Result<(), Error> {
        let mut line = Vec::with_capacity(Point::LONGEST_LINE);
        let mut out = room_for_answers();
        loop {
            {
                let mut from = lock(from);
                let (lines, input) = &mut *from;
                loop {
                    if let Some(next) = lines.next().map_err(|_| Garbage::TooLong)? {
                        line.extend_from_slice(next);
                        break;
                    }
                    if lines.fill(|space| retrying(input, space))? == 0 {
                        return Ok(());
                    }
                }
            }
            self.answer(&line, &mut out)?;
            wipe(&mut line);
            let mut to = lock(to);
            to.write_all(&out)?;
            to.flush()?;
            wipe(&mut out);
        }
    }

    /// Writes the answer to one line; nothing to one that asks nothing.
    //= spec/exits.md#bad-question
    fn answer(&self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let FromServer::Question {
            number,
            session,
            user_context,
            question,
        } = read_from_server(line)?
        else {
            return Ok(());
        };
        let point = match &question {
            Ok(Some(question)) => question.point(),
            _ => Point::SessionEnd,
        };
        let mut reply = match question {
            Err(_) => Failure::Invalid.into(),
            Ok(None) => Answer::<crate::exit::Output>::Nothing.into(),
            Ok(Some(question)) => {
                let call = Call {
                    session,
                    user_context,
                    text: RefCell::default(),
                };
                self.ask(point, call, question)
            }
        };
        if write_answer(out, number, session, point, &mut reply).is_err() {
            // The output is out of its limits: there is none.
            let mut none = Failure::Invalid.into();
            let _ = write_answer(out, number, session, point, &mut none);
        }
        Ok(())
    }

    fn ask(&self, point: Point, call: Call, question: Question) -> Reply {
        let Some(handler) = self.handlers.get(&point) else {
            return Answer::<crate::exit::Output>::Nothing.into();
        };
        // What the handler has left half done is its own; the answer is -1.
        let answer = catch_unwind(AssertUnwindSafe(|| handler(&call, question)));
        Reply {
            answer: answer.unwrap_or_else(|_| Answer::fatal()),
            text: call.text.into_inner(),
        }
    }
}

/// Never grows: what grows leaves a copy behind. A line more than what is written at once.
fn room_for_answers() -> Vec<u8> {
    Vec::with_capacity(2 * Point::LONGEST_LINE + 1024)
}

/// Empties it, and wipes what was there; the room behind was wiped before.
fn wipe(bytes: &mut Vec<u8>) {
    bytes.as_mut_slice().zeroize();
    bytes.clear();
}

/// Reads the answer to the hello: whether there will be questions.
fn greeted(lines: &mut Lines, input: &mut impl Read) -> Result<bool, Error> {
    loop {
        if let Some(line) = lines.next().map_err(|_| Garbage::TooLong)? {
            match read_from_server(line)? {
                FromServer::Accepted { .. } => return Ok(true),
                FromServer::Refused { reason } => {
                    return Err(Error::Refused(reason.into_owned()));
                }
                FromServer::Unknown => continue,
                _ => return Err(Garbage::Type.into()),
            }
        }
        if lines.fill(|space| retrying(input, space))? == 0 {
            return Ok(false);
        }
    }
}

fn retrying(input: &mut impl Read, space: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(space) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What a thread has left half done is found as garbage by whoever reads it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
