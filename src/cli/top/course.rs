//! What was seen of a server in the last minutes: counts become rates.
//!
//! Invariants: of bounded length; a server that began anew, or counts less than before, has no rate.

use std::collections::VecDeque;
use std::time::Instant;

use crate::server::control::answer::{Server, Session};

/// Rates that are kept of each count.
const KEPT: usize = 240;

/// One look at a server.
pub(super) struct Seen {
    pub(super) server: Server,
    pub(super) sessions: Vec<Session>,
    pub(super) at: Instant,
}

/// The rates that are shown, each per second, in thousandths.
#[derive(Default)]
pub(super) struct Rates {
    pub(super) handshakes: VecDeque<u64>,
    pub(super) hops: VecDeque<u64>,
    pub(super) refused: VecDeque<u64>,
    /// The mean of the handshakes between two looks, in microseconds.
    pub(super) latency: VecDeque<u64>,
}

/// The looks so far.
pub(super) struct Course {
    pub(super) last: Seen,
    pub(super) rates: Rates,
    /// Why the last look saw nothing.
    pub(super) lost: Option<String>,
}

impl Course {
    /// Begins with the first look.
    pub(super) fn new(first: Seen) -> Self {
        Self {
            last: first,
            rates: Rates::default(),
            lost: None,
        }
    }

    /// Adds the next look, or why there is none.
    pub(super) fn add(&mut self, seen: Result<Seen, String>) {
        let seen = match seen {
            Ok(seen) => seen,
            Err(why) => {
                self.lost = Some(why);
                return;
            }
        };
        self.lost = None;
        let before = std::mem::replace(&mut self.last, seen);
        let after = &self.last;
        let took = after.at.saturating_duration_since(before.at).as_millis();
        let same = before.server.since == after.server.since
            && before.server.address == after.server.address;
        let (old, new) = (&before.server.tally, &after.server.tally);
        let more = |old: u64, new: u64| if same { new.saturating_sub(old) } else { 0 };
        let rate = |old: u64, new: u64| {
            let thousandths = u128::from(more(old, new)) * 1_000_000 / took.max(1);
            u64::try_from(thousandths).unwrap_or(u64::MAX)
        };
        let (o, n) = (&old.handshakes, &new.handshakes);
        let rates = &mut self.rates;
        push(&mut rates.handshakes, rate(o.established, n.established));
        push(&mut rates.refused, rate(o.refused.sum(), n.refused.sum()));
        push(&mut rates.hops, rate(old.sessions.hops, new.sessions.hops));
        let count = more(o.time.total(), n.time.total());
        let took = more(o.time.microseconds, n.time.microseconds);
        push(&mut rates.latency, took.checked_div(count).unwrap_or(0));
    }
}

fn push(rates: &mut VecDeque<u64>, rate: u64) {
    if rates.len() == KEPT {
        rates.pop_front();
    }
    rates.push_back(rate);
}
