//! Which sequence numbers have been received, and what that says about a new one.

use super::Services;
use crate::status::Supplementary;

/// Numbers below the next one of which it is known whether they were received.
pub(super) const WINDOW: u64 = 256;

/// Where a number falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Next,
    Gap,
    Unsequenced,
    Duplicate,
    Old,
}

impl Services {
    /// What of a token's place the context's services tell.
    //= spec/messages.md#services
    #[inline]
    pub(super) fn told(self, place: Place) -> Supplementary {
        let repeats = self.replay || self.sequence;
        Supplementary {
            duplicate: repeats && place == Place::Duplicate,
            old: repeats && place == Place::Old,
            unsequenced: self.sequence && place == Place::Unsequenced,
            gap: self.sequence && place == Place::Gap,
        }
    }
}

/// The replay window. Bit i of `seen`, low half first, says that number `next - 1 - i` was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) next: u64,
    pub(super) seen: [u128; 2],
}

impl Window {
    /// A window as it travelled; none when no sequence of numbers leads to it.
    //= spec/messages.md#bounds
    pub(super) fn restore(next: u64, seen: [u128; 2]) -> Option<Self> {
        let below = |numbers: u64| match numbers {
            0 => 0,
            1..128 => (1 << numbers) - 1,
            _ => u128::MAX,
        };
        let possible = [below(next), below(next.saturating_sub(128))];
        let fits = seen[0] & !possible[0] == 0 && seen[1] & !possible[1] == 0;
        let holds_last = seen[0] & 1 == u128::from(next > 0);
        (fits && holds_last).then_some(Self { next, seen })
    }

    /// One more than the highest number received.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The received numbers, as they travel.
    pub(super) fn seen(&self) -> [u128; 2] {
        self.seen
    }

    /// Takes the number of a token that has verified; never 2^64 - 1.
    //= spec/messages.md#window
    #[inline]
    pub(super) fn accept(&mut self, number: u64) -> Place {
        if let Some(skipped) = number.checked_sub(self.next) {
            self.next = number.saturating_add(1);
            self.shift(skipped.saturating_add(1));
            self.seen[0] |= 1;
            return if skipped == 0 {
                Place::Next
            } else {
                Place::Gap
            };
        }
        let back = self.next - 1 - number;
        if back >= WINDOW {
            return Place::Old;
        }
        let half = &mut self.seen[usize::from(back >= 128)];
        let bit = 1 << (back % 128);
        if *half & bit != 0 {
            return Place::Duplicate;
        }
        *half |= bit;
        Place::Unsequenced
    }

    #[inline]
    fn shift(&mut self, by: u64) {
        let [low, high] = self.seen;
        self.seen = match by {
            0 => [low, high],
            1..128 => [low << by, high << by | low >> (128 - by)],
            128..256 => [0, low << (by - 128)],
            _ => [0, 0],
        };
    }
}
