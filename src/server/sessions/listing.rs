//! What operators see of a session, and how they end it.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use serde::{Deserialize, Serialize};

use crate::exit::SessionIdentifier;
use crate::server::control::answer::Session;
use crate::server::tally;
use crate::session::parcel::Introduction;
use crate::sys::clock;

use super::{Entry, Sessions};

/// What a session shows of itself.
pub(super) struct Listed {
    introduction: Introduction,
    began: Instant,
    since: u64,
    hops: u64,
    cut_off: bool,
}

/// What a session shows of itself, as it goes to the next server.
#[derive(Serialize, Deserialize)]
pub(super) struct Carried {
    introduction: Introduction,
    /// Since it began.
    milliseconds: u64,
    since: u64,
    hops: u64,
    cut_off: bool,
}

impl Listed {
    pub(super) fn new(introduction: &Introduction) -> Self {
        Self {
            introduction: introduction.clone(),
            began: Instant::now(),
            since: clock::unix_seconds(),
            hops: 0,
            cut_off: false,
        }
    }

    /// What of it goes to the next server.
    pub(super) fn carried(&self) -> Carried {
        Carried {
            introduction: self.introduction.clone(),
            milliseconds: u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX),
            since: self.since,
            hops: self.hops,
            cut_off: self.cut_off,
        }
    }

    /// What the server before this one had.
    pub(super) fn inherit(carried: Carried) -> Self {
        Self {
            introduction: carried.introduction,
            began: super::estate::ago(carried.milliseconds),
            since: carried.since,
            hops: carried.hops,
            cut_off: carried.cut_off,
        }
    }

    /// A process has imported the context.
    pub(super) fn imported(&mut self) {
        self.hops = self.hops.saturating_add(1);
    }

    /// Its context was revoked.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Entry {
    /// Kills what runs a session whose context was revoked: also what is only known now.
    //= spec/control.md#revoke
    pub(super) fn keep_cut_off(&self) {
        if !self.listed.cut_off {
            return;
        }
        self.kill(Signal::KILL);
    }

    /// Counts the end of a session that some process ran.
    pub(super) fn count(&self, tally: &mut tally::Sessions) {
        if self.leader != 0 {
            tally.ended(self.ending.as_ref(), self.listed.cut_off, self.listed.age());
        }
    }

    fn list(&self) -> Session {
        let Listed {
            introduction,
            since,
            hops,
            ..
        } = &self.listed;
        Session {
            session: self.session.to_string(),
            remote: introduction.remote,
            local: introduction.local,
            user: introduction.user().map(str::to_owned),
            process: self.process,
            since: *since,
            seconds: self.listed.age().as_secs(),
            framing: introduction.framing().to_owned(),
            cipher: introduction.cipher().to_owned(),
            hops: *hops,
            received: self.ending.map(|ending| ending.received),
            sent: self.ending.map(|ending| ending.sent),
        }
    }
}

impl Sessions {
    /// Each session, the oldest first.
    //= spec/control.md#sessions
    pub(in crate::server) fn list(&self) -> Vec<Session> {
        let mut entries: Vec<(&u64, &Entry)> = self.entries.iter().collect();
        // Keys are drawn in order.
        entries.sort_unstable_by_key(|(key, _)| **key);
        entries.into_iter().map(|(_, entry)| entry.list()).collect()
    }

    /// The context of `session` was revoked: its processes are killed.
    pub(in crate::server) fn cut_off(&mut self, session: SessionIdentifier) {
        let key = self.keys.get(&session);
        if let Some(entry) = key.and_then(|key| self.entries.get_mut(key)) {
            entry.listed.cut_off = true;
            entry.keep_cut_off();
        }
    }
}
