//! What the server's processes count: handshakes where they are made, all else in the supervisor.
//!
//! Invariants: counts only grow, and stay at their largest value instead of beginning anew; a count
//! is of fixed size, whoever tells it; nothing here decides anything.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ledger::Cause;
use crate::session::report::{Ending, Reason};

/// Counts with names of their own, which are the metrics' labels.
macro_rules! counts {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl $name {
            /// Each count and its name.
            pub fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)*]
            }

            /// All of them together.
            pub fn sum(&self) -> u64 {
                0u64$(.saturating_add(self.$field))*
            }

            /// Adds what was counted elsewhere.
            pub fn add(&mut self, more: &Self) {
                $(self.$field = self.$field.saturating_add(more.$field);)*
            }
        }
    };
}

counts! {
    /// Handshakes that came to no good end, by why.
    Refused {
        /// The peer closed first.
        closed,
        /// Neither TLS nor a token.
        garbage,
        /// The handshake failed.
        protocol,
        /// A certificate, a password or a name.
        credential,
        /// The peer proves no name.
        anonymous,
        /// It took too long.
        slow,
        /// Others waited for its place.
        crowded,
        /// The operating system.
        system,
        /// This server's ledger, or its export.
        local,
    }
}

counts! {
    /// Connections that were closed at once, by why.
    Closed {
        /// Their address is over its rate.
        rate,
        /// There was no room, and they were not to wait.
        room,
    }
}

counts! {
    /// Sessions that have ended, by how.
    Ended {
        /// Both sides had said all.
        finished,
        /// The connection was cut.
        cut,
        /// The peer was silent.
        idle,
        /// It had lasted as long as one may.
        time_up,
        /// The context refused.
        refused,
        /// The operating system.
        system,
        /// Its process died.
        died,
        /// It was revoked.
        revoked,
    }
}

counts! {
    /// Releases, by their cause.
    Releases {
        /// The holder closed the context.
        closed,
        /// The holder died.
        owner_died,
        /// It was not imported in time.
        expired,
        /// It was revoked.
        revoked,
    }
}

counts! {
    /// Times that accepting stopped because of a limit.
    Limits {
        /// Sessions at once.
        sessions,
        /// Handshakes at once.
        handshakes,
        /// What the operating system has no more of.
        system,
    }
}

counts! {
    /// Processes that took the place of one that ended.
    Restarts {
        /// Handshakers.
        handshaker,
        /// Zygotes.
        zygote,
    }
}

counts! {
    /// Plaintext of sessions that have ended, in bytes.
    Bytes {
        /// From the peers.
        received,
        /// To them.
        sent,
    }
}

/// Upper bounds of a histogram's buckets; one more takes what is above them all.
pub type Bounds = [Duration; 12];

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Of handshakes.
pub fn handshake_bounds() -> Bounds {
    [
        Duration::from_micros(1000),
        Duration::from_micros(2500),
        MS(5),
        MS(10),
        MS(25),
        MS(50),
        MS(100),
        MS(250),
        MS(500),
        MS(1000),
        MS(2500),
        MS(5000),
    ]
}

/// Of sessions.
pub fn session_bounds() -> Bounds {
    [
        100,
        1_000,
        5_000,
        15_000,
        60_000,
        300_000,
        900_000,
        3_600_000,
        14_400_000,
        43_200_000,
        86_400_000,
        604_800_000,
    ]
    .map(Duration::from_millis)
}

/// How many took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// How many were at most the bound of each bucket, and above that of the one before.
    pub buckets: [u64; 13],
    /// All of them together, in microseconds.
    pub microseconds: u64,
}

impl Histogram {
    fn count(&mut self, took: Duration, bounds: &Bounds) {
        let at = bounds.partition_point(|bound| *bound < took);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket = bucket.saturating_add(1);
        }
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds = self.microseconds.saturating_add(took);
    }

    fn add(&mut self, more: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(more.buckets) {
            *bucket = bucket.saturating_add(more);
        }
        self.microseconds = self.microseconds.saturating_add(more.microseconds);
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        let sum = |sum: u64, bucket: &u64| sum.saturating_add(*bucket);
        self.buckets.iter().fold(0, sum)
    }
}

/// What a handshaker counts.
//= spec/control.md#counts
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handshakes {
    /// Connections accepted, but for those closed at once.
    pub connections: u64,
    /// Connections closed at once.
    pub closed: Closed,
    /// Contexts established.
    pub established: u64,
    /// Handshakes refused.
    pub refused: Refused,
    /// Handshakes in progress: no count, but what it is now.
    pub in_progress: u64,
    /// From accepting to an established context.
    pub time: Histogram,
    /// Limits that were met.
    pub limits: Limits,
    /// Log lines that nobody took.
    pub log_lost: u64,
}

impl Handshakes {
    /// A context was established, so long after its connection was accepted.
    pub fn established(&mut self, took: Duration) {
        self.established = self.established.saturating_add(1);
        self.time.count(took, &handshake_bounds());
    }

    /// Adds what was counted elsewhere since it was last told.
    pub fn add(&mut self, more: &Self) {
        self.connections = self.connections.saturating_add(more.connections);
        self.established = self.established.saturating_add(more.established);
        self.closed.add(&more.closed);
        self.refused.add(&more.refused);
        self.in_progress = more.in_progress;
        self.time.add(&more.time);
        self.limits.add(&more.limits);
        self.log_lost = self.log_lost.saturating_add(more.log_lost);
    }

    /// What was counted so far, to be told; counting begins anew.
    pub fn take(&mut self, in_progress: u64) -> Self {
        let mut taken = std::mem::take(self);
        taken.in_progress = in_progress;
        taken
    }
}

/// What is counted of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sessions {
    /// Sessions whose first process imported the context.
    pub started: u64,
    /// Of these, those that have ended.
    pub ended: Ended,
    /// How long they were.
    pub time: Histogram,
    /// What they carried.
    pub bytes: Bytes,
    /// Imports by a session's process.
    pub hops: u64,
    /// Releases delivered.
    pub releases: Releases,
}

impl Sessions {
    /// A process has imported a session's context: its first, or a later one.
    pub(super) fn imported(&mut self, first: bool) {
        self.started = self.started.saturating_add(u64::from(first));
        self.hops = self.hops.saturating_add(1);
    }

    /// A release was delivered.
    pub(super) fn released(&mut self, cause: Cause) {
        let count = match cause {
            Cause::Closed => &mut self.releases.closed,
            Cause::OwnerDied => &mut self.releases.owner_died,
            Cause::Expired => &mut self.releases.expired,
            Cause::Revoked => &mut self.releases.revoked,
        };
        *count = count.saturating_add(1);
    }

    /// A session that was started has ended.
    pub(super) fn ended(&mut self, ending: Option<&Ending>, revoked: bool, took: Duration) {
        let ended = &mut self.ended;
        let count = match ending.map(|ending| ending.reason) {
            _ if revoked => &mut ended.revoked,
            Some(Reason::Finished) => &mut ended.finished,
            Some(Reason::Cut) => &mut ended.cut,
            Some(Reason::Idle) => &mut ended.idle,
            Some(Reason::TimeUp) => &mut ended.time_up,
            Some(Reason::Refused(_)) => &mut ended.refused,
            Some(Reason::System(_)) => &mut ended.system,
            Some(Reason::SuccessorDied | Reason::ServerGone) | None => &mut ended.died,
        };
        *count = count.saturating_add(1);
        self.time.count(took, &session_bounds());
        if let Some(ending) = ending {
            self.bytes.add(&Bytes {
                received: ending.received,
                sent: ending.sent,
            });
        }
    }
}

/// All that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// By handshakers.
    pub handshakes: Handshakes,
    /// Of sessions.
    pub sessions: Sessions,
    /// Processes started in place of one that ended.
    pub restarts: Restarts,
    /// Sessions for which another process was tried.
    pub retries: u64,
    /// Limits that the supervisor met.
    pub limits: Limits,
    /// Log lines of the supervisor that nobody took.
    pub log_lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    //= proves spec/control.md#counts
    #[test]
    fn what_is_told_in_parts_is_counted_as_a_whole() {
        let (mut whole, mut told) = (Handshakes::default(), Handshakes::default());
        for part in 0..10u64 {
            let mut here = Handshakes {
                connections: part,
                ..Handshakes::default()
            };
            here.refused.slow = 1;
            here.closed.rate = 2;
            here.established(MS(1 << part));
            let part = here.take(3 * part);
            assert_eq!(here, Handshakes::default());
            told.add(&part);
            whole.established(Duration::from_micros(1000 * part.time.microseconds / 1000));
        }
        assert_eq!((told.connections, told.refused.sum()), (45, 10));
        assert_eq!((told.closed.rate, told.closed.room), (20, 0));
        assert_eq!((told.established, told.time), (10, whole.time));
        assert_eq!(told.in_progress, 27, "what it is now, not a sum");
        assert_eq!(told.time.total(), 10);
        assert_eq!(told.time.microseconds, 1_023_000);
    }

    #[test]
    fn a_bucket_holds_what_is_at_most_its_bound() {
        let mut histogram = Histogram::default();
        for took in [0, 1000, 1001, 5_000_000, 5_000_001, u64::MAX] {
            histogram.count(Duration::from_micros(took), &handshake_bounds());
        }
        assert_eq!(histogram.buckets[..2], [2, 1]);
        assert_eq!(histogram.buckets[11..], [1, 2]);
        assert_eq!(histogram.microseconds, u64::MAX);
        assert!(handshake_bounds().is_sorted() && session_bounds().is_sorted());
    }

    #[test]
    fn a_liar_makes_no_count_smaller() {
        let mut told = Handshakes::default();
        let mut most = Handshakes {
            connections: u64::MAX,
            ..Handshakes::default()
        };
        most.time.buckets = [u64::MAX; 13];
        told.add(&most);
        told.add(&most);
        assert_eq!(told.connections, u64::MAX);
        assert_eq!(told.time.total(), u64::MAX);
    }
}
