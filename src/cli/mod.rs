//! The command line: arguments in, an exit code out. What is done stands in [`crate::server`] and
//! [`crate::session`].

pub mod arguments;
pub mod bounds;
pub mod configuration;
pub mod connect;
pub mod exit;
#[cfg(test)]
mod manual;
pub mod metrics;
mod naming;
pub mod operator;
pub mod passwd;
pub mod serve;
pub mod sessions;
pub mod terminal;
pub mod token;
pub mod top;

use std::collections::BTreeSet;
use std::fmt;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::session::log;
use crate::sys::process;

use arguments::{Arguments, Command, Exit};

/// The exit code of a command that failed; 2 is clap's, for wrong usage.
const FAILED: u8 = 1;
/// The exit code of a command that the user interrupted.
const INTERRUPTED: u8 = 130;

/// Does what the arguments of this process say.
pub fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let given = given(&matches);
    let Arguments { command } = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    // Keys and passwords are about to be here.
    if let Err(error) = process::disable_core_dumps() {
        log::line(format_args!("core dumps stay on: {error}"));
    }
    match command {
        Command::Serve(serve) => ended(serve::run(&serve, &given)),
        Command::Connect(connect) => match connect::run(&connect) {
            Err(connect::Error::Interrupted) => ExitCode::from(INTERRUPTED),
            other => ended(other),
        },
        Command::Sessions(sessions) => ended(sessions::run(&sessions)),
        Command::Metrics(metrics) => ended(metrics::run(&metrics)),
        Command::Top(top) => ended(top::run(&top)),
        Command::Exit(Exit::Call(call)) => ended(exit::call(&call)),
        Command::Exit(Exit::Check(check)) => ended(exit::check(&check)),
        Command::Exit(Exit::Worker(worker)) => ended(exit::worker::run(&worker)),
        Command::Passwd(passwd) => ended(passwd::run(&passwd)),
        Command::Token(token) => {
            let name = token.file.display();
            ended(token::run(&token.file).map_err(|error| format!("{name}: {error}")))
        }
    }
}

/// The names of the options that stood on the command line.
fn given(matches: &ArgMatches) -> BTreeSet<String> {
    let Some((_, matches)) = matches.subcommand() else {
        return BTreeSet::new();
    };
    let is_given = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let ids = matches.ids().map(clap::Id::as_str).filter(is_given);
    // An option's name in Rust is that of the command line, but for the hyphens.
    ids.map(|id| id.replace('_', "-")).collect()
}

fn ended(outcome: Result<(), impl fmt::Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Several mistakes are as many lines.
            for line in error.to_string().lines() {
                log::line(format_args!("{line}"));
            }
            ExitCode::from(FAILED)
        }
    }
}
