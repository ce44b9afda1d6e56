//! The sessions that run, each in processes of its own: what they report, how their processes
//! end, and the release of each, told once.
//!
//! Invariants: a session is over here when no process of it is left, told by the end of its
//! reports and by its last process having been waited for; by then its context is ended in the
//! ledger, by itself, by the end of its process's connection, or because nobody is left who could
//! import it.

mod ending;
pub(super) mod estate;
mod killing;
mod listing;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, test_kill_process, waitid};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::exit::SessionIdentifier;
use crate::ledger::Cause;
use crate::ledger::keeper::{Keeper, MemberId, Role};
use crate::session::log;
use crate::session::parcel::Introduction;
use crate::session::report::{Ending, Next, Report, Reports};
use crate::sys::process::{open_pidfd, pidfd_runs, process_group_of};

use ending::{Died, cause};

use super::poller::Poller;
use super::tally;
use super::telling::FromHandshaker;

/// Reports of one session that are read in one turn, so that none holds up the others.
const AT_ONCE: usize = 64;
/// Processes that are tried for one session before it is given up.
const ATTEMPTS: u32 = 3;
/// Connections to the keeper of one session: of a process that is about to end, of the one that
/// runs it, and of the one it moves to.
const MOST_MEMBERS: usize = 3;
/// How soon the kernel is asked again whether a process is left that nobody waits for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The key of no zygote.
const NO_ZYGOTE: u64 = u64::MAX;

/// Every session that runs, under the key its reports have in the poller.
#[derive(Default)]
pub(super) struct Sessions {
    entries: HashMap<u64, Entry>,
    keys: HashMap<SessionIdentifier, u64>,
    /// Processes that run or ran a session and have not been waited for.
    processes: HashMap<u32, u64>,
    /// Sessions of which something was heard: they may be over.
    heard: HashSet<u64>,
    /// When those are looked at again of whose processes nobody tells.
    again: Option<Instant>,
    /// Commands that were started on a session's plaintext, and their process groups.
    commands: HashMap<u32, Command>,
    /// For whom a zygote is kept that forks nothing more: one of its sessions.
    kept_for: HashMap<u64, u64>,
    /// What was counted.
    pub(super) tally: tally::Sessions,
    /// Entries whose connection is still here.
    starting: usize,
}

struct Command {
    session: SessionIdentifier,
    group: u32,
    /// Who waits for it, besides this process.
    zygote: u64,
}

/// A connection whose context no process has imported yet.
pub(super) struct Pending {
    pub(super) introduction: Introduction,
    pub(super) parcel: ByteBuf,
    pub(super) socket: OwnedFd,
    /// Processes that were tried.
    attempts: u32,
}

impl Pending {
    /// What the handshaker delivers; none when it is no delivery.
    pub(super) fn delivered(message: FromHandshaker, fds: Vec<OwnedFd>) -> Option<Self> {
        let FromHandshaker::Delivery {
            introduction,
            parcel,
        } = message
        else {
            return None;
        };
        let [socket] = <[OwnedFd; 1]>::try_from(fds).ok()?;
        introduction.is_possible().then_some(Self {
            introduction,
            parcel,
            socket,
            attempts: 0,
        })
    }
}

/// A session for which the zygote is told to fork a process.
pub(super) struct Ordered {
    pub(super) pending: Pending,
    pub(super) reports: Reports,
    /// Its process's connection to the keeper.
    pub(super) member: MemberId,
    /// What that may ask.
    pub(super) role: Role,
    /// The zygote that is told.
    pub(super) zygote: u64,
}

struct Entry {
    session: SessionIdentifier,
    remote: SocketAddr,
    /// Until no process holds the other end.
    reports: Option<Reports>,
    /// The zygote that was told to fork its first process.
    zygote: u64,
    /// The process that was forked for it, once that is known.
    first: First,
    /// The process that runs it, as far as is known.
    process: u32,
    /// The first that said it runs it; 0 before.
    leader: u32,
    /// A command was started.
    has_command: bool,
    /// The connection, until a process has imported it.
    pending: Option<Pending>,
    /// Its connections to the keeper: that of the process that runs it, and of one it moves to.
    members: Vec<MemberId>,
    /// What a process it moves to may ask of the keeper.
    role: Role,
    ending: Option<Ending>,
    died: Option<ExitStatus>,
    released: Option<Cause>,
    told: bool,
    listed: listing::Listed,
}

/// The first process of a session.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum First {
    /// The zygote has been told to fork it.
    Ordered,
    /// The zygote has forked it, and waits for it.
    Forked(u32),
    /// The zygote has ended before it told: if there is such a process, it is this one's child now.
    Orphaned(Option<u32>),
    /// It was waited for.
    Ended(u32),
}

impl First {
    /// Its number, which is the session's process group's; 0 when it is not known.
    fn process(self) -> u32 {
        match self {
            Self::Forked(process) | Self::Ended(process) | Self::Orphaned(Some(process)) => process,
            Self::Ordered | Self::Orphaned(None) => 0,
        }
    }
}

impl Sessions {
    /// How many run.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many have no process yet that has imported the context.
    pub(super) fn starting(&self) -> usize {
        self.starting
    }

    /// Whether none runs, nor what one has left behind.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.commands.is_empty()
    }

    /// Whether `key` is a session's.
    pub(super) fn has(&self, key: u64) -> bool {
        self.entries.contains_key(&key)
    }

    /// Whether a session of that identifier runs: an identifier is given once.
    pub(super) fn is_running(&self, pending: &Pending) -> bool {
        self.keys.contains_key(&pending.introduction.session())
    }

    /// The zygote was told to fork a process for `pending`.
    pub(super) fn ordered(&mut self, key: u64, order: Ordered) {
        let Ordered {
            mut pending,
            reports,
            member,
            role,
            zygote,
        } = order;
        let session = pending.introduction.session();
        pending.attempts = pending.attempts.saturating_add(1);
        self.starting += 1;
        self.keys.insert(session, key);
        let listed = listing::Listed::new(&pending.introduction);
        let entry = Entry {
            session,
            remote: pending.introduction.remote,
            reports: Some(reports),
            zygote,
            first: First::Ordered,
            process: 0,
            leader: 0,
            has_command: false,
            pending: Some(pending),
            members: vec![member],
            role,
            ending: None,
            died: None,
            released: None,
            told: false,
            listed,
        };
        self.entries.insert(key, entry);
    }

    /// The zygote has forked `process` for a session.
    pub(super) fn started(&mut self, session: SessionIdentifier, process: u32) {
        let Some(key) = self.keys.get(&session) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(key)
            && entry.first == First::Ordered
        {
            entry.first = First::Forked(process);
            if entry.process == 0 {
                entry.process = process;
            }
            entry.keep_cut_off();
            self.processes.insert(process, *key);
        }
    }

    /// The zygote could not fork: the session is to be tried again.
    pub(super) fn not_started(
        &mut self,
        session: SessionIdentifier,
        poller: &Poller,
    ) -> Option<Pending> {
        let key = *self.keys.get(&session)?;
        if self.entries.get(&key)?.first != First::Ordered {
            return None;
        }
        self.keys.remove(&session);
        let entry = self.entries.remove(&key)?;
        if let Some(reports) = &entry.reports {
            poller.remove(reports);
        }
        let mut pending = entry.pending?;
        self.starting = self.starting.saturating_sub(1);
        pending.attempts = pending.attempts.saturating_sub(1);
        Some(pending)
    }

    /// A zygote has ended. Its children are this process's now, if it was a child itself; else nobody
    /// tells of them any more.
    pub(super) fn zygote_ended(&mut self, zygote: u64, was_child: bool) {
        if !was_child {
            self.commands.retain(|_, command| command.zygote != zygote);
        }
        let of_it = |(_, entry): &(&u64, &mut Entry)| entry.zygote == zygote;
        for (key, entry) in self.entries.iter_mut().filter(of_it) {
            self.heard.insert(*key);
            if !was_child {
                entry.zygote = NO_ZYGOTE;
            }
            entry.first = match entry.first {
                First::Ordered => First::Orphaned(None),
                First::Forked(process) => First::Orphaned(Some(process)),
                first => first,
            };
        }
    }

    /// `process` has ended and was waited for, here or by the zygote.
    pub(super) fn ended(
        &mut self,
        process: u32,
        status: ExitStatus,
        keeper: &mut Keeper,
        poller: &Poller,
    ) {
        if let Some(command) = self.commands.remove(&process) {
            let session = command.session;
            log::of_session(
                session,
                format_args!(": command {process} {}", Died(status)),
            );
        }
        let Some(key) = self.processes.remove(&process) else {
            return;
        };
        // What it had to say was said before it ended.
        self.read(key, keeper, poller);
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.process == process {
                entry.died = Some(status);
            }
            if entry.first.process() == process {
                entry.first = First::Ended(process);
            }
        }
    }

    /// Whether a zygote has processes to wait for.
    pub(super) fn has_any_of(&mut self, zygote: u64) -> bool {
        let of_it = |entry: &Entry| entry.zygote == zygote;
        // Looked for again only once the one that was found is over.
        let found = self.kept_for.get(&zygote);
        if found.is_some_and(|key| self.entries.get(key).is_some_and(of_it)) {
            return true;
        }
        if let Some((key, _)) = self.entries.iter().find(|(_, entry)| of_it(entry)) {
            self.kept_for.insert(zygote, *key);
            return true;
        }
        self.kept_for.remove(&zygote);
        self.commands.values().any(|one| one.zygote == zygote)
    }

    /// Reads the reports of the session under `key`.
    pub(super) fn read(&mut self, key: u64, keeper: &mut Keeper, poller: &Poller) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        self.heard.insert(key);
        let session = entry.session;
        for _ in 0..AT_ONCE {
            let Some(reports) = &entry.reports else {
                return;
            };
            match reports.next() {
                Next::Report(Report::Running { process, .. }) => {
                    let is_first = entry.pending.is_some();
                    // Whoever forked the first knows it, and the keeper knows who runs what.
                    let process = match entry.first.process() {
                        first if is_first && first != 0 => first,
                        _ if entry.is_run_by(process, keeper) => process,
                        _ if is_first => NOBODY,
                        _ => continue,
                    };
                    if process == entry.process && !is_first {
                        // Told before.
                        continue;
                    }
                    self.tally.imported(is_first);
                    entry.listed.imported();
                    match entry.pending.take() {
                        // The first is entered by whoever waits for it.
                        Some(pending) => {
                            self.starting = self.starting.saturating_sub(1);
                            entry.leader = process;
                            pending.introduction.log_started(process);
                        }
                        None => {
                            // One a session, and never another session's, whatever it claims.
                            if entry.process != entry.first.process()
                                && self.processes.get(&entry.process) == Some(&key)
                            {
                                self.processes.remove(&entry.process);
                            }
                            // One whose end was told already is not waited for again.
                            if !is_reaped(process) {
                                self.processes.entry(process).or_insert(key);
                            }
                        }
                    }
                    entry.process = process;
                    entry.keep_cut_off();
                }
                Next::Report(Report::Command { process }) if !entry.has_command => {
                    entry.has_command = true;
                    if !entry.has_in_its_group(process) {
                        // Waited for already, or never one of its own.
                        continue;
                    }
                    self.commands.insert(
                        process,
                        Command {
                            session,
                            group: entry.group(),
                            zygote: entry.zygote,
                        },
                    );
                }
                Next::Report(Report::Moving) => {
                    let connection = entry.connect(keeper);
                    if let Some(reports) = &entry.reports {
                        reports.give_connection(connection.as_ref());
                    }
                }
                Next::Report(Report::Ended(ending)) => entry.ending = Some(ending),
                Next::Nothing => return,
                found @ (Next::Garbage | Next::Report(_) | Next::Gone) => {
                    if !matches!(found, Next::Gone) {
                        // It is heard no more, and over when its process is.
                        log::of_session(session, format_args!(": a report is garbage"));
                    }
                    poller.remove(reports);
                    entry.reports = None;
                    return;
                }
            }
        }
    }

    /// When [`Sessions::settle`] is due although nothing is heard.
    pub(super) fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Delivers the releases that are due, and takes out the sessions that are over. Those whose
    /// process died before it had imported the context come back.
    pub(super) fn settle(&mut self, keeper: &mut Keeper) -> Vec<Pending> {
        let heard = std::mem::take(&mut self.heard);
        let waited = |key: u64, process: u32| self.processes.get(&process) != Some(&key);
        let is_over = |key: &u64| {
            let entry = self.entries.get(key);
            entry.is_some_and(|entry| entry.is_over(|process| waited(*key, process)))
        };
        let (over, going_on): (Vec<u64>, Vec<u64>) = heard.into_iter().partition(is_over);
        let is_untold = |key: &u64| self.entries.get(key).is_some_and(Entry::is_untold);
        self.heard.extend(going_on.into_iter().filter(is_untold));
        self.again = (!self.heard.is_empty()).then(|| Instant::now() + LOOK_AGAIN);
        for key in &over {
            if let Some(entry) = self.entries.get_mut(key) {
                // No process is left at the other end: what it ran ends.
                entry.members.drain(..).for_each(|id| keeper.remove(id));
            }
        }
        self.collect(keeper);
        let mut again = Vec::new();
        for key in over {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let pending = entry.pending.take();
            self.starting = self.starting.saturating_sub(usize::from(pending.is_some()));
            match pending {
                Some(pending) if entry.released.is_none() && pending.attempts < ATTEMPTS => {
                    again.push(pending);
                    entry.told = true;
                }
                _ => {
                    if entry.released.is_none() {
                        // In transit, and nobody is left who could import it.
                        keeper.revoke(entry.session.as_bytes());
                        self.collect(keeper);
                    }
                }
            }
            if let Some(mut entry) = self.entries.remove(&key) {
                entry.tell();
                entry.count(&mut self.tally);
                if self.processes.get(&entry.process) == Some(&key) {
                    self.processes.remove(&entry.process);
                }
                self.keys.remove(&entry.session);
            }
        }
        again
    }

    /// Delivers every release that is due: here, to the log.
    //= spec/sessions.md#release
    pub(super) fn collect(&mut self, keeper: &mut Keeper) {
        let (entries, keys) = (&mut self.entries, &self.keys);
        let tally = &mut self.tally;
        keeper.releases(|release| {
            tally.released(release.cause);
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
    }
}

/// A process that is none: of what says it runs a session when nobody knows better.
const NOBODY: u32 = u32::MAX;

/// A process, or a group, that a session can have: to signal group 1 is to signal everybody.
fn of_a_session(process: u32) -> Option<Pid> {
    let process = i32::try_from(process).ok().filter(|process| *process > 1);
    process.and_then(Pid::from_raw)
}

/// Whether `process` has been waited for, by whoever had to.
fn is_reaped(process: u32) -> bool {
    let Some(pid) = of_a_session(process) else {
        return true;
    };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let is_child = !matches!(waitid(WaitId::Pid(pid), look), Err(Errno::CHILD));
    !is_child && test_kill_process(pid) == Err(Errno::SRCH)
}

/// Whether `process`, which is another one's child, has ended: who should wait for it may never.
fn has_ended(process: u32) -> bool {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let is_child = pid.is_some_and(|pid| waitid(WaitId::Pid(pid), look).is_ok());
    match open_pidfd(process) {
        Ok(Some(pidfd)) => !is_child && !pidfd_runs(&pidfd).unwrap_or(true),
        _ => false,
    }
}

impl Entry {
    /// Its process group, which has the number of its first process; 0 when there is none to be
    /// sure of.
    fn group(&self) -> u32 {
        match self.first.process() {
            0 if self.leader > 1 => {
                let leads = process_group_of(self.leader).is_ok_and(|group| group == self.leader);
                if leads { self.leader } else { 0 }
            }
            process => process,
        }
    }

    /// Whether the keeper knows `process` as one of this session.
    fn is_run_by(&self, process: u32, keeper: &Keeper) -> bool {
        let mut runners = self.members.iter().map(|id| keeper.pid(*id));
        runners.any(|runner| runner == Some(process))
    }

    /// A connection to the keeper for the process this session moves to; none when it is not to
    /// move. It costs one whose process runs nothing any more, when there are too many.
    //= spec/processes.md#moving
    fn connect(&mut self, keeper: &mut Keeper) -> Option<OwnedFd> {
        if self.role != Role::Worker {
            return None;
        }
        self.members.retain(|id| keeper.has(*id));
        if self.members.len() >= MOST_MEMBERS {
            let idle = |id: &MemberId| keeper.runs(*id) == 0;
            let oldest = self.members.iter().position(idle)?;
            keeper.remove(self.members.remove(oldest));
        }
        let context = *self.session.as_bytes();
        let (member, connection) = keeper.connect_for(self.role, context).ok()?;
        self.members.push(member);
        Some(connection)
    }

    /// Whether no process of it is left. `waited` tells of a process that was waited for.
    fn is_over(&self, waited: impl Fn(u32) -> bool) -> bool {
        // Nobody tells of a process whose zygote has ended: then the kernel is asked.
        let first_is_over = match self.first {
            First::Ended(_) | First::Orphaned(None) => true,
            First::Orphaned(Some(process)) => self.is_gone(process),
            First::Ordered | First::Forked(_) => false,
        };
        let runs_in_first = self.process == self.first.process() || self.process == 0;
        self.reports.is_none()
            && first_is_over
            && (runs_in_first || waited(self.process) || self.is_gone(self.process))
    }

    /// Whether nothing more will be told of it: it has to be looked at.
    fn is_untold(&self) -> bool {
        self.reports.is_none() && self.zygote == NO_ZYGOTE
    }

    /// Whether `process` has ended, as far as it matters here: somebody waits for it, or nobody does.
    fn is_gone(&self, process: u32) -> bool {
        is_reaped(process) || (self.zygote == NO_ZYGOTE && has_ended(process))
    }
}

#[cfg(test)]
mod tests;
