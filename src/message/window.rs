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
    next: u64,
    seen: [u128; 2],
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const NONE: Supplementary = Supplementary {
        duplicate: false,
        old: false,
        unsequenced: false,
        gap: false,
    };
    const GAP: Supplementary = Supplementary { gap: true, ..NONE };
    const UNSEQ: Supplementary = Supplementary {
        unsequenced: true,
        ..NONE
    };
    const DUP: Supplementary = Supplementary {
        duplicate: true,
        ..NONE
    };
    const OLD: Supplementary = Supplementary { old: true, ..NONE };

    /// One row: the services, and numbers in the order of arrival with what is told.
    struct Row(&'static str, bool, bool, &'static [(u64, Supplementary)]);

    /// The cases of MIT krb5's `t_seqstate`, less those of numbers that wrap around, which ours do
    /// not; and the edge of the window, where RFC 2743 has OLD also under sequencing.
    //= proves spec/messages.md#window
    //= proves spec/messages.md#services
    #[test]
    fn each_number_gets_its_supplementary_status() {
        const END: u64 = u64::MAX - 1;
        let rows = [
            Row(
                "nothing is told",
                false,
                false,
                &[(1, NONE), (0, NONE), (0, NONE), (400, NONE), (2, NONE)],
            ),
            Row("in order", false, true, &[(0, NONE), (1, NONE), (2, NONE)]),
            Row(
                "gap and late arrival",
                false,
                true,
                &[(0, NONE), (2, GAP), (3, NONE), (1, UNSEQ)],
            ),
            Row(
                "gap at the start",
                false,
                true,
                &[(1, GAP), (2, NONE), (0, UNSEQ), (3, NONE)],
            ),
            Row(
                "sequencing tells replays too",
                false,
                true,
                &[(0, NONE), (0, DUP)],
            ),
            Row(
                "past 32 bits",
                false,
                true,
                &[
                    ((1 << 32) - 1, GAP),
                    (1 << 32, NONE),
                    ((1 << 32) + 2, GAP),
                    ((1 << 32) + 1, UNSEQ),
                    (0, OLD),
                ],
            ),
            Row(
                "both",
                true,
                true,
                &[
                    (4, GAP),
                    (2, UNSEQ),
                    (9, GAP),
                    (2, DUP),
                    (0, UNSEQ),
                    (0, DUP),
                    (4, DUP),
                    (9, DUP),
                    (10, NONE),
                ],
            ),
            Row(
                "replays only",
                true,
                false,
                &[
                    (4, NONE),
                    (2, NONE),
                    (9, NONE),
                    (2, DUP),
                    (0, NONE),
                    (0, DUP),
                    (4, DUP),
                    (9, DUP),
                    (10, NONE),
                ],
            ),
            Row(
                "the window's edge",
                true,
                true,
                &[
                    (256, GAP),
                    (1, UNSEQ),
                    (0, OLD),
                    (1, DUP),
                    (257, NONE),
                    (1, OLD),
                    (2, UNSEQ),
                    (2, DUP),
                ],
            ),
            Row(
                "the window's edge, replays only",
                true,
                false,
                &[
                    (256, NONE),
                    (1, NONE),
                    (0, OLD),
                    (1, DUP),
                    (257, NONE),
                    (1, OLD),
                    (2, NONE),
                    (2, DUP),
                ],
            ),
            Row(
                "a jump over the whole window",
                true,
                true,
                &[
                    (0, NONE),
                    (1000, GAP),
                    (999, UNSEQ),
                    (745, UNSEQ),
                    (744, OLD),
                    (0, OLD),
                ],
            ),
            Row(
                "the last number",
                true,
                true,
                &[(END, GAP), (END, DUP), (END - 1, UNSEQ), (END - 256, OLD)],
            ),
        ];
        for Row(name, replay, sequence, numbers) in rows {
            let services = Services {
                replay,
                sequence,
                confidentiality: true,
            };
            let mut window = Window::default();
            for (i, &(number, told)) in numbers.iter().enumerate() {
                assert_eq!(
                    services.told(window.accept(number)),
                    told,
                    "{name}, number {i}"
                );
            }
        }
    }

    /// What the window stands for: the set of all numbers ever received.
    #[derive(Default)]
    struct Model(BTreeSet<u64>);

    impl Model {
        fn accept(&mut self, number: u64) -> Place {
            let next = self.0.last().map_or(0, |last| last + 1);
            let new = self.0.insert(number);
            if number == next {
                Place::Next
            } else if number > next {
                Place::Gap
            } else if number + 256 < next {
                Place::Old
            } else if new {
                Place::Unsequenced
            } else {
                Place::Duplicate
            }
        }
    }

    proptest! {
        //= proves spec/messages.md#window
        #[test]
        fn the_window_remembers_as_if_it_remembered_all(
            steps in proptest::collection::vec((any::<bool>(), 0u64..300), 1..400)
        ) {
            let (mut window, mut model) = (Window::default(), Model::default());
            for (back, distance) in steps {
                let number = if back {
                    window.next().saturating_sub(distance)
                } else {
                    // Mostly small steps forward, so that the window is well filled.
                    window.next() + distance.saturating_sub(200)
                };
                prop_assert_eq!(window.accept(number), model.accept(number));
                prop_assert_eq!(Window::restore(window.next, window.seen), Some(window));
            }
        }
    }

    //= proves spec/messages.md#bounds
    #[test]
    fn a_window_no_traffic_leads_to_is_not_restored() {
        assert!(Window::restore(0, [0, 0]).is_some());
        assert!(Window::restore(u64::MAX, [u128::MAX; 2]).is_some());
        let impossible = [
            (0, [1, 0]), // received something, expects number 0
            (1, [0, 0]), // expects number 1, has not received 0
            (1, [3, 0]), // has received number -1
            (127, [1 << 127 | 1, 0]),
            (128, [u128::MAX, 1]),
            (255, [u128::MAX, 1 << 127]),
            (256, [u128::MAX - 1, 0]),
        ];
        for (next, seen) in impossible {
            assert_eq!(Window::restore(next, seen), None, "{next} {seen:x?}");
        }
        assert!(Window::restore(127, [u128::MAX >> 1, 0]).is_some());
        assert!(Window::restore(255, [u128::MAX, u128::MAX >> 1]).is_some());
    }
}
