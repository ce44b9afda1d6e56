//! What a pool counts.

use std::time::Duration;

use crate::exit::{Answer, Failure, Reply, Verdict};

/// Upper ends of the latencies' classes, microseconds; a further class has what takes longer.
pub const LATENCIES: [u64; 14] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    5_000_000,
];

/// Counts since the pool was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Questions.
    pub asked: u64,
    /// Answers 1 with status 0.
    pub accepted: u64,
    /// Answers 1 with status -1.
    pub refused: u64,
    /// Answers 0.
    pub nothing: u64,
    /// Calls that were -1, by [`Failure::ALL`].
    pub failed: [u64; Failure::ALL.len()],
    /// Calls nobody waited for any more.
    pub cancelled: u64,
    /// Answers that came after their deadline.
    pub late: u64,
    /// Workers started.
    pub started: u64,
    /// Workers that were recycled.
    pub recycled: u64,
    /// Workers that were killed, or ended though they were needed.
    pub lost: u64,
    /// Answers by how long they took, from the question to the answer; classes of [`LATENCIES`].
    pub latencies: [u64; LATENCIES.len() + 1],
    /// All these times together, microseconds.
    pub latency_sum: u64,
}

impl Counters {
    /// Calls that failed so.
    pub fn failures(&self, failure: Failure) -> u64 {
        let place = Failure::ALL.iter().position(|known| *known == failure);
        place
            .and_then(|place| self.failed.get(place))
            .map_or(0, |count| *count)
    }

    pub(super) fn count(&mut self, reply: &Reply, took: Option<Duration>) {
        match &reply.answer {
            Answer::Done {
                verdict: Verdict::Accepted(_),
                ..
            } => self.accepted += 1,
            Answer::Done { .. } => self.refused += 1,
            Answer::Nothing => self.nothing += 1,
            Answer::Fatal(failure) => {
                let place = Failure::ALL.iter().position(|known| known == failure);
                if let Some(count) = place.and_then(|place| self.failed.get_mut(place)) {
                    *count += 1;
                }
            }
        }
        if let Some(took) = took {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let class = LATENCIES.partition_point(|end| *end < micros);
            if let Some(count) = self.latencies.get_mut(class) {
                *count += 1;
            }
            self.latency_sum = self.latency_sum.saturating_add(micros);
        }
    }
}
