use std::collections::BTreeSet;

use super::super::window::{Place, Window};
use super::*;

const QUIET: Supplementary = Supplementary {
    duplicate: false,
    old: false,
    unsequenced: false,
    gap: false,
};
const GAP: Supplementary = Supplementary { gap: true, ..QUIET };
const UNSEQ: Supplementary = Supplementary {
    unsequenced: true,
    ..QUIET
};
const DUP: Supplementary = Supplementary {
    duplicate: true,
    ..QUIET
};
const OLD: Supplementary = Supplementary { old: true, ..QUIET };

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
            &[(1, QUIET), (0, QUIET), (0, QUIET), (400, QUIET), (2, QUIET)],
        ),
        Row(
            "in order",
            false,
            true,
            &[(0, QUIET), (1, QUIET), (2, QUIET)],
        ),
        Row(
            "gap and late arrival",
            false,
            true,
            &[(0, QUIET), (2, GAP), (3, QUIET), (1, UNSEQ)],
        ),
        Row(
            "gap at the start",
            false,
            true,
            &[(1, GAP), (2, QUIET), (0, UNSEQ), (3, QUIET)],
        ),
        Row(
            "sequencing tells replays too",
            false,
            true,
            &[(0, QUIET), (0, DUP)],
        ),
        Row(
            "past 32 bits",
            false,
            true,
            &[
                ((1 << 32) - 1, GAP),
                (1 << 32, QUIET),
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
                (10, QUIET),
            ],
        ),
        Row(
            "replays only",
            true,
            false,
            &[
                (4, QUIET),
                (2, QUIET),
                (9, QUIET),
                (2, DUP),
                (0, QUIET),
                (0, DUP),
                (4, DUP),
                (9, DUP),
                (10, QUIET),
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
                (257, QUIET),
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
                (256, QUIET),
                (1, QUIET),
                (0, OLD),
                (1, DUP),
                (257, QUIET),
                (1, OLD),
                (2, QUIET),
                (2, DUP),
            ],
        ),
        Row(
            "a jump inside the window",
            true,
            true,
            &[
                (0, QUIET),
                (150, GAP),
                (0, DUP),
                (1, UNSEQ),
                (278, GAP),
                (150, DUP),
                (149, UNSEQ),
                (23, UNSEQ),
                (22, OLD),
            ],
        ),
        Row(
            "a jump over the whole window",
            true,
            true,
            &[
                (0, QUIET),
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
        // Mostly small steps forward, so that the window is well filled.
        steps in proptest::collection::vec(
            prop_oneof![
                8 => (Just(true), 0u64..300),
                8 => (Just(false), 0u64..3),
                1 => (Just(false), 0u64..300),
            ],
            1..400,
        )
    ) {
        let (mut window, mut model) = (Window::default(), Model::default());
        for (back, distance) in steps {
            let number = if back {
                window.next().saturating_sub(distance)
            } else {
                window.next() + distance
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
