//! `baton passwd`: who stands in a password file, and with which password.

use std::fmt;
use std::io;

use rustix::termios::isatty;

use crate::secret::Scratch;
use crate::server::passwords::{self, Change, File, Unchanged, change};

use super::arguments::Passwd;
use super::terminal;

/// Why nothing was changed, or the answer is no.
#[derive(Debug)]
pub enum Error {
    /// The file was not changed.
    Unchanged(Unchanged),
    /// The file cannot be used.
    File(passwords::Error),
    /// So many passwords stand in the file as they are.
    InClear(usize),
    /// It is not the user's password.
    Wrong,
    /// What was typed the second time is not what was typed the first time.
    Differ,
    /// There is no password to be had.
    Asked(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged(why) => why.fmt(f),
            Self::File(error) => error.fmt(f),
            Self::InClear(1) => f.write_str("one password stands in the file in clear"),
            Self::InClear(number) => write!(f, "{number} passwords stand in the file in clear"),
            Self::Wrong => f.write_str("it is not the user's password"),
            Self::Differ => f.write_str("the two passwords differ: nothing was changed"),
            Self::Asked(error) => write!(f, "no password: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Does what the arguments say.
///
/// # Errors
/// The file is as it was, or the answer is no.
//= spec/passwords.md#command
pub fn run(arguments: &Passwd) -> Result<(), Error> {
    let Some(user) = &arguments.user else {
        let file = File::read(&arguments.file).map_err(Error::File)?;
        return match file.in_clear() {
            0 => Ok(()),
            number => Err(Error::InClear(number)),
        };
    };
    if arguments.delete {
        return change(&arguments.file, user, &Change::Delete).map_err(Error::Unchanged);
    }
    if arguments.check {
        let file = File::read(&arguments.file).map_err(Error::File)?;
        let password = password("Password: ")?;
        let password = std::str::from_utf8(&password).map_err(|_| Error::Wrong)?;
        return match file.knows(user, password) {
            true => Ok(()),
            false => Err(Error::Wrong),
        };
    }
    let given = password("New password: ")?;
    if isatty(io::stdin()) {
        let again = password("Once more: ")?;
        if *given != *again {
            return Err(Error::Differ);
        }
    }
    change(&arguments.file, user, &Change::Password(&given)).map_err(Error::Unchanged)
}

/// Asks on the terminal, or reads a line of standard input where that is none.
fn password(prompt: &str) -> Result<Scratch, Error> {
    let given = match isatty(io::stdin()) {
        true => terminal::ask_password(prompt),
        false => terminal::password_from(0),
    };
    given.map_err(Error::Asked)
}
