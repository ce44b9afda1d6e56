//! From handshake to session: what the handshaker has delivered is given to the zygote, as soon as
//! there is a place for it.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use crate::ledger::keeper::Role;
use crate::session::{log, report};

use super::super::sessions::{Ordered, Pending};
use super::super::subprocess::Next;
use super::super::telling::{FromZygote, ToHandshaker, ToZygote};
use super::{AT_ONCE, Stopping, Supervisor};

/// When a session for which there was no process is tried again.
const RETRY: Duration = Duration::from_millis(200);

impl Supervisor {
    /// Has a process started for a session. What cannot be started now is kept for later.
    pub(super) fn begin(&mut self, pending: Pending) {
        let stopping = !matches!(self.stopping, Stopping::No);
        // More than a handshaker that obeys can deliver, or what it may not: an identifier twice.
        let beyond = self.unstarted.len() > 2 * self.terms.limits.handshakes;
        if stopping || beyond || self.sessions.is_running(&pending) {
            // Its connection closes; its context ends when the ledger is swept.
            return;
        }
        let limits = &self.terms.limits;
        if self.sessions.len() >= limits.sessions || self.zygote.is_down() {
            self.unstarted.push_back(pending);
            return;
        }
        // Descriptors are kept for what the handshaker still delivers.
        if self.sessions.starting() >= limits.starting {
            self.unstarted.push_back(pending);
            self.retry.get_or_insert(Instant::now() + RETRY);
            return;
        }
        if let Err((pending, error)) = self.try_begin(pending) {
            log::of_session(
                pending.introduction.session(),
                format_args!(" has no process yet: {error}",),
            );
            self.unstarted.push_back(pending);
            self.retry = Some(Instant::now() + RETRY);
        }
    }

    #[allow(clippy::result_large_err)]
    fn try_begin(&mut self, pending: Pending) -> Result<(), (Pending, io::Error)> {
        let users = self.terms.users.as_ref();
        let user = match users.map(|users| users.of_session(pending.introduction.user())) {
            None => None,
            Some(Ok(user)) => Some(user),
            Some(Err(why)) => {
                let session = pending.introduction.session();
                let remote = pending.introduction.remote;
                log::of_session(session, format_args!(" from {remote} refused: {why}"));
                // Its connection closes; its context ends when the ledger is swept.
                return Ok(());
            }
        };
        // Only one that moves on needs more than one import.
        let role = match self.terms.hops.left {
            0 => Role::Session,
            _ => Role::Worker,
        };
        let key = self.keys.draw();
        let mut make = || {
            let (reporter, reports) = report::channel()?;
            let socket = pending.socket.try_clone()?;
            self.poller.add(&reports, key, EventFlags::IN)?;
            let context = *pending.introduction.session().as_bytes();
            let (member, far) = self.keeper.connect_for(role, context)?;
            Ok((reports, member, vec![socket, reporter.into(), far]))
        };
        let (reports, member, fds) = match make() {
            Ok(made) => made,
            Err(error) => return Err((pending, error)),
        };
        let order = ToZygote::Start {
            introduction: pending.introduction.clone(),
            parcel: pending.parcel.clone(),
            user,
        };
        let ordered = Ordered {
            pending,
            reports,
            member,
            role,
            zygote: self.zygote.key(),
        };
        self.sessions.ordered(key, ordered);
        self.zygote.send(&order, fds);
        Ok(())
    }

    /// Answers whether something may be over.
    pub(super) fn hear_zygote(&mut self, key: u64) -> bool {
        let mut settle = false;
        for _ in 0..AT_ONCE {
            let earlier = self.earlier_zygotes.iter_mut();
            let zygote = std::iter::once(&mut self.zygote).chain(earlier);
            let Some(zygote) = zygote.into_iter().find(|one| one.key() == key) else {
                return settle;
            };
            match zygote.next::<FromZygote>() {
                Next::Nothing => return settle,
                Next::Broken(broken) => {
                    zygote.give_up(&broken, &self.poller);
                    return self.earlier_zygote_ended(key) || settle;
                }
                Next::Message(message, _) => match message {
                    FromZygote::Started { session, process } => {
                        self.sessions.started(session.into(), process);
                    }
                    FromZygote::NotStarted { session, error } => {
                        let error = io::Error::from_raw_os_error(error);
                        if let Some(pending) =
                            self.sessions.not_started(session.into(), &self.poller)
                        {
                            let session = pending.introduction.session();
                            log::of_session(session, format_args!(" has no process yet: {error}"));
                            self.unstarted.push_back(pending);
                            self.retry = Some(Instant::now() + RETRY);
                        }
                    }
                    FromZygote::Ended { process, status } => {
                        let status = ExitStatus::from_raw(status);
                        let keeper = &mut self.keeper;
                        self.sessions.ended(process, status, keeper, &self.poller);
                        settle = true;
                    }
                },
            }
        }
        settle
    }

    /// A zygote that the server before this one had is gone: no wait tells of it. Answers whether it
    /// was one of these.
    fn earlier_zygote_ended(&mut self, key: u64) -> bool {
        let before = self.earlier_zygotes.len();
        self.earlier_zygotes.retain(|one| one.key() != key);
        let was_one = self.earlier_zygotes.len() < before;
        if was_one {
            self.sessions.zygote_ended(key, false);
        }
        was_one
    }

    /// Lets the zygotes go that wait for nobody any more.
    //= spec/takeover.md#earlier
    pub(super) fn let_zygotes_go(&mut self) {
        let (sessions, poller) = (&mut self.sessions, &self.poller);
        self.earlier_zygotes.retain_mut(|one| {
            let waits = sessions.has_any_of(one.key());
            if !waits {
                one.retire(poller);
            }
            waits
        });
    }

    /// Starts what could not be started before, when its time or a place has come.
    pub(super) fn start_late(&mut self, settled: bool) {
        let due = self.retry.is_some_and(|retry| retry <= Instant::now());
        if !due && (!settled || self.retry.is_some()) {
            return;
        }
        self.retry = None;
        for _ in 0..self.unstarted.len() {
            if let Some(pending) = self.unstarted.pop_front() {
                self.operators.tally.retries += 1;
                self.begin(pending);
            }
        }
    }

    /// Tells the handshaker whether there is room for more.
    pub(super) fn regulate(&mut self) {
        let room = self.unstarted.is_empty()
            && self.sessions.len() < self.terms.limits.sessions
            && !self.zygote.is_full();
        if room != self.accepting {
            self.accepting = room;
            self.operators.tally.limits.sessions += u64::from(!room);
            let order = match room {
                true => ToHandshaker::Accept { yes: true },
                false => ToHandshaker::Full,
            };
            self.handshaker.send(&order, Vec::new());
        }
        for zygote in std::iter::once(&self.zygote).chain(&self.earlier_zygotes) {
            zygote.watch_again(&self.poller);
        }
        let retiring = self.retiring.iter().map(|(one, _)| one);
        for handshaker in std::iter::once(&self.handshaker).chain(retiring) {
            handshaker.watch_again(&self.poller);
        }
    }
}
