//! What the commands of operators have in common: which server is asked, and how what it answers is
//! written.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::server::control::answer::{Answer, Request, Server, Session};
use crate::server::control::ask::{self, ask};
use crate::server::control::place::{NAME, Place};
use crate::server::state::{Folder, Refused};

use super::arguments::{Asked, Serve};

/// The path that turns the control socket off.
const NONE: &str = "none";

/// Where a server has its control socket.
//= spec/control.md#place
pub(super) fn place(options: &Serve) -> Option<Place> {
    match &options.control {
        Some(path) if path == Path::new(NONE) => None,
        Some(path) => Some(Place {
            path: path.clone(),
            asked_for: true,
        }),
        // Without a home there is no state, and nobody who would look there.
        None => Some(Place {
            path: in_state(options.state.as_deref()).ok()?,
            asked_for: false,
        }),
    }
}

fn in_state(state: Option<&Path>) -> Result<PathBuf, Refused> {
    let state = match state {
        Some(state) => state.to_owned(),
        None => Folder::default_path()?,
    };
    Ok(state.join(NAME))
}

/// Why an operator's command failed.
#[derive(Debug)]
pub enum Error {
    /// Where the server is asked is not known.
    State(Refused),
    /// There is no answer, or it is an error.
    Ask(ask::Error),
    /// The operating system refused.
    System(io::Error),
    /// It needs a terminal.
    NoTerminal,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(refused) => refused.fmt(f),
            Self::Ask(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
            Self::NoTerminal => {
                f.write_str("standard input and output must be a terminal; --once prints one frame")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// A server that can be asked.
#[derive(Clone, Debug)]
pub(super) struct Asking(PathBuf);

impl Asking {
    pub(super) fn new(asked: &Asked) -> Result<Self, Error> {
        Ok(Self(match &asked.control {
            Some(path) => path.clone(),
            None => in_state(asked.state.as_deref()).map_err(Error::State)?,
        }))
    }

    pub(super) fn server(&self) -> Result<Server, Error> {
        match ask(&self.0, &Request::Status {}) {
            Ok(Answer::Status { server }) => Ok(*server),
            other => Err(unexpected(other)),
        }
    }

    pub(super) fn sessions(&self) -> Result<Vec<Session>, Error> {
        match ask(&self.0, &Request::Sessions {}) {
            Ok(Answer::Sessions { sessions }) => Ok(sessions),
            other => Err(unexpected(other)),
        }
    }

    pub(super) fn revoke(&self, session: String) -> Result<(), Error> {
        match ask(&self.0, &Request::Revoke { session }) {
            Ok(Answer::Revoked { .. }) => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

fn unexpected(answer: Result<Answer, ask::Error>) -> Error {
    Error::Ask(answer.err().unwrap_or(ask::Error::Garbage))
}

/// A time in at most five letters.
pub(super) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A number of bytes in at most six letters.
pub(super) fn bytes(count: u64) -> String {
    let mut unit = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].into_iter();
    let (mut count, mut name) = (count, unit.next().unwrap_or_default());
    while count >= 10_000
        && let Some(larger) = unit.next()
    {
        (count, name) = (count / 1024, larger);
    }
    format!("{count}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_short() {
        let ages = [0, 59, 60, 3599, 3600, 86_399, 86_400, 10_000_000];
        let shown = ages.map(|seconds| age(Duration::from_secs(seconds)));
        let expected = [
            "0s", "59s", "1m00", "59m59", "1h00", "23h59", "1d00", "115d17",
        ];
        assert_eq!(shown, expected);
        let shown = [0, 9999, 10_000, 10_240_000, u64::MAX].map(bytes);
        assert_eq!(shown, ["0B", "9999B", "9KiB", "9MiB", "15EiB"]);
    }
}
