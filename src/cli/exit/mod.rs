//! `baton exit`: a question for an exit worker, and the proof that a program is one.

mod conformance;
pub mod worker;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exit::{Answer, Failure, Point, SessionIdentifier, UserContext};
use crate::pool::{Configuration, Event, Mistake, Pool};
use crate::session::log;
use crate::worker::{Garbage, input_of, write_answer};

use super::arguments::{ExitCall, ExitCheck};

/// Why nothing, or nothing good, is printed.
#[derive(Debug)]
pub enum Error {
    /// A file, a pipe or a process cannot be had.
    System(io::Error),
    /// The input is not the point's.
    Input(Garbage),
    /// There is no such program.
    Program(PathBuf),
    /// The worker cannot be started so.
    Configuration(Mistake),
    /// There was no answer.
    Failed(Failure),
    /// So many checks found a fault.
    Faults(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(error) => error.fmt(f),
            Self::Input(garbage) => write!(f, "the input is not this point's: {garbage}"),
            Self::Program(path) => write!(f, "{}: no such program", path.display()),
            Self::Configuration(mistake) => mistake.fmt(f),
            Self::Failed(failure) => write!(f, "no answer: {failure}"),
            Self::Faults(1) => f.write_str("1 fault"),
            Self::Faults(number) => write!(f, "{number} faults"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Asks one question and prints its answer.
///
/// # Errors
/// There is no answer, or standard output takes none.
pub fn call(arguments: &ExitCall) -> Result<(), Error> {
    let input = input(&arguments.file, arguments.point)?;
    let mut question = input_of(arguments.point, &input).map_err(Error::Input)?;
    question
        .check()
        .map_err(|_| Error::Failed(Failure::Invalid))?;
    let (program, rest) = program(&arguments.program)?;
    let mut configuration = Configuration::new("call", program);
    configuration.arguments = rest.to_vec();
    configuration.deadline = Duration::from_secs(arguments.deadline);
    configuration.start_deadline = configuration.deadline;
    configuration.check().map_err(Error::Configuration)?;
    let mut pool = Pool::new(configuration, Box::new(to_log))?;
    pool.ask(arguments.session, &UserContext::default(), question, 0);
    let answer = loop {
        pool.turn(None)?;
        if let Some(Event::Completed(completion)) = pool.next_event() {
            break completion;
        }
    };
    pool.end();
    while !pool.is_over() {
        pool.turn(None)?;
    }
    let mut reply = answer.reply;
    if let Answer::Fatal(failure) = reply.answer
        && failure != Failure::Answered
    {
        return Err(Error::Failed(failure));
    }
    let mut line = Vec::new();
    write_answer(&mut line, 1, answer.session, answer.point, &mut reply)
        .map_err(|_| Error::Failed(Failure::Invalid))?;
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()?;
    Ok(())
}

/// Checks a program, and prints what was checked.
///
/// # Errors
/// A check found a fault, or the program cannot be started.
pub fn check(arguments: &ExitCheck) -> Result<(), Error> {
    let (program, rest) = program(&arguments.program)?;
    let deadline = Duration::from_secs(arguments.deadline);
    let mut out = io::stdout().lock();
    match conformance::check(&program, rest, deadline, &mut out)? {
        0 => Ok(()),
        faults => Err(Error::Faults(faults)),
    }
}

fn to_log(session: Option<SessionIdentifier>, text: fmt::Arguments<'_>) {
    match session {
        Some(session) => log::of_session(session, text),
        None => log::line(text),
    }
}

/// The point's input: no more of it than a line has.
fn input(file: &Path, point: Point) -> Result<Vec<u8>, Error> {
    let limit = point.line_limit();
    let mut bytes = Vec::new();
    let most = limit as u64 + 1;
    match file.as_os_str() == "-" {
        true => io::stdin().take(most).read_to_end(&mut bytes)?,
        false => File::open(file)?.take(most).read_to_end(&mut bytes)?,
    };
    match bytes.len() > limit {
        true => Err(Error::Input(Garbage::TooLong)),
        false => Ok(bytes),
    }
}

/// A program's path, absolute, as a shell would find it, and its arguments.
fn program(words: &[OsString]) -> Result<(PathBuf, &[OsString]), Error> {
    let Some((name, arguments)) = words.split_first() else {
        return Err(Error::Program(PathBuf::new()));
    };
    let named = Path::new(name);
    let found = match name.to_string_lossy().contains('/') {
        true => Some(std::path::absolute(named)?),
        false => std::env::var_os("PATH").and_then(|path| {
            let mut places = std::env::split_paths(&path).map(|folder| folder.join(named));
            places.find(|place| place.is_absolute() && place.is_file())
        }),
    };
    match found.filter(|path| path.is_file()) {
        Some(path) => Ok((path, arguments)),
        None => Err(Error::Program(named.to_owned())),
    }
}
