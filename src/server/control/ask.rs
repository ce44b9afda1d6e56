//! Asking a running server, for the commands of the operator.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::answer::{Answer, GRANTED, Request, to_line};
use super::place;
use crate::sys::socket;

/// How long the server may take for each piece of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read: a list of a million sessions.
const MAX_ANSWER: u64 = 1 << 30;

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// Nobody answers at the path.
    Nobody(PathBuf, io::Error),
    /// The connection broke.
    System(io::Error),
    /// What came is no answer.
    Garbage,
    /// The server did nothing; why, for people.
    Told(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(path, error) => {
                write!(f, "no server answers at {}: {error}", path.display())
            }
            Self::System(error) => write!(f, "the server does not answer: {error}"),
            Self::Garbage => f.write_str("the server's answer is none"),
            Self::Told(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// Asks the server whose socket is at `path`. It waits at most 10 seconds for each piece.
///
/// # Errors
/// An answer that is an error is one here.
pub fn ask(path: &Path, request: &Request) -> Result<Answer, Error> {
    let nobody = |error| Error::Nobody(path.to_owned(), error);
    let mut socket = place::connect(path).map_err(nobody)?;
    socket
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
        .map_err(Error::System)?;
    // One that refuses does not read: its answer is there all the same.
    let asked = socket.write_all(&to_line(request));
    let mut line = Vec::new();
    let heard = (&socket).take(MAX_ANSWER).read_to_end(&mut line);
    if line.is_empty() {
        asked.and(heard.map(drop)).map_err(Error::System)?;
    }
    match Answer::from_line(&line) {
        Some(Answer::Error { text, .. }) => Err(Error::Told(text)),
        Some(answer) => Ok(answer),
        None => Err(Error::Garbage),
    }
}

/// Asks the server whose socket is at `path` to be taken over: the socket on which that is done.
///
/// # Errors
/// As [`ask`].
//= spec/takeover.md#start
pub(in crate::server) fn take_over(path: &Path) -> Result<OwnedFd, Error> {
    let nobody = |error| Error::Nobody(path.to_owned(), error);
    let mut stream = place::connect(path).map_err(nobody)?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .map_err(Error::System)?;
    let asked = stream.write_all(&to_line(&Request::Takeover {}));
    let (mut line, mut fds) = ([0; 4096], Vec::new());
    let heard = socket::recv_with_fds(&stream, &mut line, &mut fds, true);
    let length = asked.and(heard).map_err(Error::System)?.len;
    match (&line[..length], fds.pop()) {
        (GRANTED, Some(socket)) => Ok(socket),
        (line, _) => match Answer::from_line(line) {
            Some(Answer::Error { text, .. }) => Err(Error::Told(text)),
            _ => Err(Error::Garbage),
        },
    }
}
