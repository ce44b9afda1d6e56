//! The sessions that run, each in processes of its own: what they report, how their processes
//! end, and the release of each, told once.
//!
//! Invariants: a session is over here when no process of it is left, told by the end of its
//! reports and by its last process having been waited for; by then its context is ended in the
//! ledger, by itself, by the death of its owner, or because nobody is left who could import it.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process_group, wait, waitid,
};

use crate::exit::SessionIdentifier;
use crate::ledger::{Cause, Domain};
use crate::session::Parcel;
use crate::session::log;
use crate::session::report::{Ending, Next, Report, Reports};

use super::poller::Poller;

/// Processes that are tried for one session before it is given up.
const ATTEMPTS: u32 = 3;

/// Every session that runs, under the key its reports have in the poller.
#[derive(Default)]
pub struct Sessions {
    entries: HashMap<u64, Entry>,
    keys: HashMap<SessionIdentifier, u64>,
    /// Processes that run or ran a session and have not been waited for.
    processes: HashMap<u32, u64>,
    /// Commands that were started on a session's plaintext, and their process groups.
    commands: HashMap<u32, Command>,
}

struct Command {
    session: SessionIdentifier,
    group: u32,
}

struct Entry {
    session: SessionIdentifier,
    remote: SocketAddr,
    reports: Reports,
    /// The process that runs it, as far as is known.
    process: u32,
    /// The first of its processes, and so the number of their group.
    group: u32,
    /// The connection, until a process has imported it.
    parcel: Option<Parcel>,
    /// Processes that were tried.
    attempts: u32,
    /// No process holds the other end of the reports.
    gone: bool,
    ending: Option<Ending>,
    died: Option<WaitStatus>,
    released: Option<Cause>,
    told: bool,
}

impl Sessions {
    /// How many run.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether `key` is a session's.
    pub fn has(&self, key: u64) -> bool {
        self.entries.contains_key(&key)
    }

    /// A process was forked to run the session of `parcel`, for the `attempts`th time.
    pub fn started(
        &mut self,
        key: u64,
        process: u32,
        parcel: Parcel,
        attempts: u32,
        reports: Reports,
    ) {
        let session = parcel.about.session;
        self.processes.insert(process, key);
        self.keys.insert(session, key);
        let entry = Entry {
            session,
            remote: parcel.about.remote,
            reports,
            process,
            group: process,
            parcel: Some(parcel),
            attempts,
            gone: false,
            ending: None,
            died: None,
            released: None,
            told: false,
        };
        self.entries.insert(key, entry);
    }

    /// Reads the reports of the session under `key`.
    pub fn read(&mut self, key: u64, poller: &Poller) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let session = entry.session;
        loop {
            match entry.reports.next() {
                Next::Report(Report::Running { process, .. }) => {
                    entry.process = process;
                    self.processes.insert(process, key);
                    if let Some(parcel) = entry.parcel.take() {
                        let about = &parcel.about;
                        log::of_session(
                            session,
                            format_args!(
                                " from {}: {}, {} framing, user {}; process {process} runs it",
                                about.remote,
                                about.cipher,
                                about.framing,
                                log::Escaped(about.user.as_deref().unwrap_or("none").as_bytes()),
                            ),
                        );
                    }
                }
                Next::Report(Report::Command { process }) => {
                    self.commands.insert(
                        process,
                        Command {
                            session,
                            group: entry.group,
                        },
                    );
                }
                Next::Report(Report::Ended(ending)) => entry.ending = Some(ending),
                Next::Garbage => log::of_session(session, format_args!(": a report is garbage")),
                Next::Nothing => return,
                Next::Gone => {
                    poller.remove(&entry.reports);
                    entry.gone = true;
                    return;
                }
            }
        }
    }

    /// Waits for the processes that have ended, delivers the releases that are due, and takes out
    /// the sessions that are over. Those whose process died before it had imported the context
    /// come back, with the number of attempts they had.
    pub fn settle(&mut self, domain: &Domain) -> Vec<(Parcel, u32)> {
        self.reap(domain);
        self.collect(domain);
        let over: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.gone && is_reaped(entry.process))
            .map(|(key, _)| *key)
            .collect();
        let mut again = Vec::new();
        for key in over {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            match entry.parcel.take() {
                Some(parcel) if entry.released.is_none() && entry.attempts < ATTEMPTS => {
                    again.push((parcel, entry.attempts));
                    entry.told = true;
                }
                _ => {
                    if entry.released.is_none() {
                        let session = entry.session;
                        // In transit, and nobody is left who could import it; or a step short of
                        // its release, when the process died in the middle of ending it.
                        domain.ledger().revoke(session.as_bytes());
                        if let Err(error) = domain.sweep() {
                            log::of_session(session, format_args!(": {error}"));
                        }
                        self.collect(domain);
                    }
                }
            }
            if let Some(mut entry) = self.entries.remove(&key) {
                entry.tell();
                self.processes.remove(&entry.process);
                self.keys.remove(&entry.session);
            }
        }
        again
    }

    fn reap(&mut self, domain: &Domain) {
        while let Ok(Some((pid, status))) = rustix::io::retry_on_intr(|| wait(WaitOptions::NOHANG))
        {
            let process = pid.as_raw_pid().unsigned_abs();
            // Its place among the ledger's processes, and what it still ran.
            if let Err(error) = domain.ledger().reap(process) {
                log::line(format_args!("process {process}: {error}"));
            }
            if let Some(command) = self.commands.remove(&process) {
                let session = command.session;
                log::of_session(
                    session,
                    format_args!(": command {process} {}", Died(status)),
                );
            }
            let key = self.processes.remove(&process);
            if let Some(entry) = key.and_then(|key| self.entries.get_mut(&key))
                && entry.process == process
            {
                entry.died = Some(status);
            }
        }
    }

    /// Delivers every release that is due: here, to the log.
    //= spec/sessions.md#release
    fn collect(&mut self, domain: &Domain) {
        let (entries, keys) = (&mut self.entries, &self.keys);
        let collected = domain.ledger().collect(|release| {
            let session = SessionIdentifier::from(release.id);
            match keys.get(&session).and_then(|key| entries.get_mut(key)) {
                Some(entry) => {
                    entry.released = Some(release.cause);
                    if entry.ending.is_some() {
                        entry.tell();
                    }
                }
                // It had no process: its connection was lost between handshake and fork.
                None => {
                    log::of_session(session, format_args!(" released: {}", cause(release.cause)))
                }
            }
        });
        if let Err(error) = collected {
            log::line(format_args!("releases are not delivered: {error}"));
        }
    }

    /// Sends `signal` to every process of every session, and to the commands that are left.
    pub fn kill(&self, signal: Signal) {
        let groups = self.entries.values().map(|entry| entry.group);
        for group in groups.chain(self.commands.values().map(|command| command.group)) {
            // One that has just ended is no error.
            let _ = i32::try_from(group)
                .ok()
                .and_then(Pid::from_raw)
                .map(|group| kill_process_group(group, signal));
        }
    }
}

/// Whether `process`, a child of this one, has been waited for, by this call or before.
fn is_reaped(process: u32) -> bool {
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else {
        return true;
    };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(pid), look), Err(Errno::CHILD))
}

impl Entry {
    /// The session's last line, once.
    fn tell(&mut self) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let released = match self.released {
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

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Closed => "closed",
        Cause::OwnerDied => "its process died",
        Cause::Expired => "it was not imported in time",
        Cause::Revoked => "nobody was left to import it",
    }
}

/// How a process ended, for people.
struct Died(WaitStatus);

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.exit_status(), self.0.terminating_signal()) {
            (Some(code), _) => write!(f, "ended with status {code}"),
            (None, Some(signal)) => write!(f, "was killed by signal {signal}"),
            (None, None) => f.write_str("ended"),
        }
    }
}
