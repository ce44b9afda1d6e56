//! The command line: arguments in, an exit code out. What is done stands in [`crate::server`] and
//! [`crate::session`].

pub mod arguments;
pub mod connect;
pub mod serve;
pub mod terminal;
pub mod token;

use std::fmt;
use std::process::ExitCode;

use clap::Parser;

use crate::session::log;
use crate::sys::process;

use arguments::{Arguments, Command};

/// The exit code of a command that failed; 2 is clap's, for wrong usage.
const FAILED: u8 = 1;
/// The exit code of a command that the user interrupted.
const INTERRUPTED: u8 = 130;

/// Does what the arguments of this process say.
pub fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    // Keys and passwords are about to be here.
    if let Err(error) = process::disable_core_dumps() {
        log::line(format_args!("core dumps stay on: {error}"));
    }
    match command {
        Command::Serve(serve) => ended(serve::run(&serve)),
        Command::Connect(connect) => match connect::run(&connect) {
            Err(connect::Error::Interrupted) => ExitCode::from(INTERRUPTED),
            other => ended(other),
        },
        Command::Token(token) => {
            let name = token.file.display();
            ended(token::run(&token.file).map_err(|error| format!("{name}: {error}")))
        }
    }
}

fn ended(outcome: Result<(), impl fmt::Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(format_args!("{error}"));
            ExitCode::from(FAILED)
        }
    }
}
