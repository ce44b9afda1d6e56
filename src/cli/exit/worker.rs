//! `baton exit worker`: the exits that come with the program, each a worker like all others.

use std::fmt;

use crate::builtin::{Certificates, Configuration, Mistake};
use crate::cli::arguments::{BuiltIn, ExitWorker};
use crate::worker;

/// Why a worker has not begun, or did not end well.
#[derive(Debug)]
pub enum Error {
    /// It is told what cannot be.
    Mistake(Mistake),
    /// The server and it do not understand each other.
    Worker(worker::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistake(mistake) => mistake.fmt(f),
            Self::Worker(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// Answers questions on standard input until the server needs no more.
///
/// # Errors
/// The configuration cannot be used, or the server writes garbage.
pub fn run(arguments: &ExitWorker) -> Result<(), Error> {
    let worker = match arguments.name {
        BuiltIn::Certificates => {
            let configuration = Configuration::read(&arguments.config).map_err(Error::Mistake)?;
            let certificates = Certificates::new(&configuration).map_err(Error::Mistake)?;
            certificates.into_worker()
        }
    };
    match arguments.check {
        true => Ok(()),
        false => worker.serve().map_err(Error::Worker),
    }
}
