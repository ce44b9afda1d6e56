use core::sync::atomic::AtomicU64;

use super::*;

const LAYOUT: (u64, u64) = (1, 4);
const ME: Identity = identity(1, 100);

const fn identity(pid: u32, started: u64) -> Identity {
    Identity {
        pid,
        started,
        inode: started + 7,
        pid_namespace: 0x1_0000_0abc,
    }
}

struct Slots {
    words: Vec<AtomicU64>,
    layout: Layout,
}

impl Slots {
    fn new() -> Self {
        let layout = Layout::new(LAYOUT).expect("within bounds");
        Self {
            words: (0..layout.len).map(|_| AtomicU64::new(0)).collect(),
            layout,
        }
    }

    fn processes(&self) -> Processes<'_, AtomicU64> {
        Processes::new(&self.words, &self.layout)
    }

    fn join(&self, identity: Identity) -> Option<u32> {
        self.processes()
            .join(&identity, identity.started ^ 0xffff, &|_| Ok(()))
            .expect("memory is always backed")
    }

    fn control(&self, slot: u32) -> &AtomicU64 {
        &self.words[self.layout.process_slots + slot as usize * 8]
    }

    /// Judges with the processes in `alive` living, and this one, of the word `word`.
    fn judge(&self, alive: &[Identity], word: u64, only: Option<u32>) -> Vec<Dead> {
        let judge = Judge {
            identity: ME,
            word,
            alive: &|identity| alive.contains(identity),
            exists: &|pid| alive.iter().any(|identity| identity.pid == pid),
        };
        self.processes().judge(&judge, only)
    }
}

//= proves spec/ledger.md#join
#[test]
fn a_slot_says_who_is_in_it_as_the_page_says() {
    let slots = Slots::new();
    let slot = slots.join(identity(4321, 900)).expect("empty");
    let expected = [
        2 << 62 | 0xabc << 48 | 1 << 32 | 4321,
        900,
        907,
        0x1_0000_0abc,
        900 ^ 0xffff,
    ];
    let start = slots.layout.process_slots + slot as usize * 8;
    for (word, expected) in slots.words[start..].iter().zip(expected) {
        assert_eq!(word.get(), expected);
    }
}

//= proves spec/ledger.md#dead
//= proves spec/ledger.md#slot-reuse
//= proves spec/ledger.md#held
#[test]
fn the_dead_are_found_and_their_slots_used_again() {
    let slots = Slots::new();
    let all: Vec<_> = (1..=4)
        .map(|pid| identity(pid, u64::from(pid) * 100))
        .collect();
    let taken: Vec<_> = all
        .iter()
        .map(|who| slots.join(*who).expect("room"))
        .collect();
    assert_eq!(slots.join(identity(5, 500)), None, "full");
    slots.processes().hold(taken[1]);
    // The second and the third die; the second held something.
    let alive = [all[0], all[3]];
    let dead = slots.judge(&alive, 100 ^ 0xffff, None);
    assert_eq!(
        dead.iter()
            .map(|dead| (dead.slot as u32, dead.held))
            .collect::<Vec<_>>(),
        [(taken[1], 1)]
    );
    let gone: Vec<_> = taken
        .iter()
        .map(|slot| slots.processes().gone(*slot))
        .collect();
    assert_eq!(gone, [false, true, true, false]);
    // The third's slot is free at once, the second's after a pass.
    assert_eq!(slots.join(identity(6, 600)), Some(taken[2]));
    assert_eq!(slots.join(identity(7, 700)), None);
    slots.processes().drained(&dead);
    assert_eq!(slots.join(identity(7, 700)), Some(taken[1]));
    // One who was late frees nothing that was taken again.
    slots.processes().drained(&dead);
    assert!(!slots.processes().gone(taken[1]));
}

//= proves spec/ledger.md#identity
#[test]
fn a_pid_that_was_used_again_is_another_process() {
    let slots = Slots::new();
    let slot = slots.join(identity(4321, 900)).expect("empty");
    slots.judge(&[identity(4321, 900)], 0, None);
    assert!(!slots.processes().gone(slot));
    slots.judge(&[identity(4321, 901)], 0, None);
    assert!(slots.processes().gone(slot));
}

//= proves spec/ledger.md#dead
#[test]
fn a_program_that_was_executed_over_its_predecessor_buries_it() {
    let slots = Slots::new();
    let before = slots.join(ME).expect("empty");
    slots.judge(&[ME], 100 ^ 0xffff, None);
    assert!(!slots.processes().gone(before));
    // The same process, another word.
    slots.judge(&[ME], 4, None);
    assert!(slots.processes().gone(before));
}

//= proves spec/ledger.md#dead
#[test]
fn a_join_that_was_cut_short_is_undone_by_those_who_can_tell() {
    let slots = Slots::new();
    let foreign = Identity {
        pid_namespace: 0xdef,
        ..identity(50, 500)
    };
    for (who, freed) in [(identity(50, 500), true), (foreign, false)] {
        let slot = slots.join(who).expect("room");
        let joining = Control(slots.control(slot).get()).with(State::Joining);
        slots.control(slot).put(joining.0);
        slots.judge(&[identity(50, 501)], 0, None);
        assert!(!slots.processes().gone(slot), "some process has the number");
        slots.judge(&[], 0, None);
        assert_eq!(slots.processes().gone(slot), freed);
    }
}

//= proves spec/ledger.md#reap
#[test]
fn only_the_process_that_was_waited_for_is_judged() {
    let slots = Slots::new();
    let taken: Vec<_> = (2..=4)
        .map(|pid| slots.join(identity(pid, 1)).expect("room"))
        .collect();
    slots.judge(&[], 0, Some(3));
    let gone: Vec<_> = taken
        .iter()
        .map(|slot| slots.processes().gone(*slot))
        .collect();
    assert_eq!(gone, [false, true, false]);
}
