//! What the log says of a session's end.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::ledger::Cause;
use crate::session::log;
use crate::session::report::Ending;

use super::Entry;

impl Entry {
    /// The session's last line, once.
    pub(super) fn tell(&mut self) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let released = match self.released {
            Some(Cause::Revoked) if self.listed.is_cut_off() => "released: revoked".to_owned(),
            Some(why) => format!("released: {}", cause(why)),
            None => "not released".to_owned(),
        };
        let Self {
            session,
            remote,
            process,
            ..
        } = self;
        match (&self.ending, self.died) {
            (Some(ending), _) => {
                let Ending {
                    reason,
                    received,
                    sent,
                    hops,
                } = ending;
                let s = if *hops == 1 { "" } else { "s" };
                log::of_session(
                    *session,
                    format_args!(
                        " ended: {reason}; {received} bytes in, {sent} out, {hops} hop{s}; {released}"
                    ),
                );
            }
            (None, Some(status)) => log::of_session(
                *session,
                format_args!(
                    " from {remote} ended: process {process} {}; {released}",
                    Died(status)
                ),
            ),
            (None, None) => log::of_session(
                *session,
                format_args!(" from {remote} ended: process {process} is gone; {released}"),
            ),
        }
    }
}

/// Why a context was released, for people.
pub(super) fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Closed => "closed",
        Cause::OwnerDied => "its process died",
        Cause::Expired => "it was not imported in time",
        Cause::Revoked => "nobody was left to import it",
    }
}

/// How a process ended, for people.
pub(super) struct Died(pub(super) ExitStatus);

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "ended with status {code}"),
            (None, Some(signal)) => write!(f, "was killed by signal {signal}"),
            (None, None) => f.write_str("ended"),
        }
    }
}
