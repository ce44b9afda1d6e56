//! The interleavings of two or three processes at the ledger's steps, by loom.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --lib interleavings`
//!
//! Each model runs twice. With *weak* words a read may see an old value, as on a machine with weak
//! memory. With *strong* words a read is a change that changes nothing: loom remembers only the
//! last access to a word, so a plain read that is followed by another one can hide an order in
//! which the word changed before it.

use ::loom::sync::Arc;
use ::loom::sync::atomic::AtomicU64;
use ::loom::sync::atomic::Ordering::AcqRel;
use ::loom::thread;

use zeroize::Zeroizing;

use crate::ledger::control::{Cause, Control, State};
use crate::ledger::header::Layout;
use crate::ledger::keys::{Keys, NoSlot, SLOT, VALUES};
use crate::ledger::marks::{self, Marks};
use crate::ledger::table::Table;
use crate::ledger::word::Word;
use crate::ledger::{Census, Refusal};

const ID: [u64; 2] = [11, 22];
const OTHER: [u64; 2] = [33, 44];
const NEVER: u64 = u64::MAX;

/// A word of a model.
trait Modelled: Word + 'static {
    /// Preemptions where every step of a model meets every other.
    const CROWDED: u8;

    fn zero() -> Self;
}

impl Modelled for AtomicU64 {
    const CROWDED: u8 = 1;

    fn zero() -> Self {
        Self::new(0)
    }
}

/// A word whose reads loom treats as changes.
struct Strong(AtomicU64);

impl Modelled for Strong {
    const CROWDED: u8 = 3;

    fn zero() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Word for Strong {
    fn get(&self) -> u64 {
        self.0.fetch_add(0, AcqRel)
    }
    fn put(&self, value: u64) {
        self.0.put(value);
    }
    fn step(&self, from: u64, to: u64) -> Result<(), u64> {
        self.0.step(from, to)
    }
    fn set(&self, bits: u64) -> u64 {
        self.0.set(bits)
    }
    fn clear(&self, bits: u64) -> u64 {
        self.0.clear(bits)
    }
    fn add(&self, number: u64) {
        self.0.add(number);
    }
}

/// A ledger of a few entries, as small as loom likes it.
struct Small<W> {
    words: Arc<Vec<W>>,
    layout: Layout,
    collected: bool,
}

impl<W> Clone for Small<W> {
    fn clone(&self) -> Self {
        Self {
            words: self.words.clone(),
            ..*self
        }
    }
}

impl<W: Modelled> Small<W> {
    fn new(capacity: usize, collected: bool) -> Self {
        let marks = marks::words(capacity);
        let layout = Layout {
            capacity,
            processes: 0,
            process_slots: 18,
            process_marks: 18,
            free_marks: 18,
            ended_marks: 18 + marks,
            entries: 18 + 2 * marks,
            len: 18 + 2 * marks + 8 * capacity,
        };
        let words = (0..layout.len).map(|_| W::zero()).collect();
        Self {
            words: Arc::new(words),
            layout,
            collected,
        }
    }

    fn table(&self) -> Table<'_, W> {
        Table::new(&self.words, &self.layout, self.collected)
    }

    fn establish(&self, owner: u32, id: [u64; 2]) -> Option<(usize, Control)> {
        self.table()
            .establish(owner, id, 0, &|_| Ok(()))
            .expect("memory is always backed")
    }

    /// A context in transit at entry 0, for anybody to take.
    fn departed(capacity: usize, collected: bool, deadline: u64) -> (Self, Control) {
        let ledger = Self::new(capacity, collected);
        let (index, active) = ledger.establish(1, ID).expect("empty");
        assert_eq!(index, 0);
        let transit = ledger.table().depart(0, active, deadline).expect("alone");
        (ledger, transit)
    }

    fn control(&self, index: usize) -> Control {
        Control(self.words[self.layout.entries + index * 8].get())
    }
}

/// At most two preemptions, where all of them would take hours.
fn model(act: impl Fn() + Sync + Send + 'static) {
    preempted(2, act);
}

fn preempted(times: u8, act: impl Fn() + Sync + Send + 'static) {
    let mut model = ::loom::model::Builder::new();
    model.preemption_bound = Some(times.into());
    model.check(act);
}

fn spawn<W: Modelled, T: 'static>(
    ledger: &Small<W>,
    act: impl FnOnce(Small<W>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let ledger = ledger.clone();
    thread::spawn(move || act(ledger))
}

fn join<T>(handle: thread::JoinHandle<T>) -> T {
    handle.join().expect("no panic")
}

//= proves spec/ledger.md#arrive
fn of_three_importers_one_wins<W: Modelled>() {
    model(|| {
        let (ledger, transit) = Small::<W>::departed(1, false, NEVER);
        let arrive = move |owner| {
            move |ledger: Small<W>| ledger.table().arrive(0, ID, transit.serial(), owner, 5)
        };
        let others = [spawn(&ledger, arrive(2)), spawn(&ledger, arrive(3))];
        let mine = arrive(4)(ledger.clone());
        let results = others.into_iter().map(join).chain([mine]);
        let mut won = Vec::new();
        for result in results {
            match result {
                Ok(control) => won.push(control),
                Err(refusal) => assert!(matches!(refusal, Refusal::Spent)),
            }
        }
        let [winner] = won[..] else {
            panic!("{} won", won.len())
        };
        assert!(ledger.control(0) == winner && winner.state() == State::Active);
    });
}

//= proves spec/ledger.md#revoke
fn a_departure_and_a_revocation_leave_the_context_ended<W: Modelled>() {
    model(|| {
        let ledger = Small::<W>::new(1, true);
        let (_, active) = ledger.establish(1, ID).expect("empty");
        let revoke = spawn(&ledger, |ledger| ledger.table().revoke(ID));
        let transit = ledger.table().depart(0, active, NEVER);
        assert!(join(revoke));
        assert_eq!(ledger.control(0).cause(), Some(Cause::Revoked));
        if let Some(transit) = transit {
            let refused = ledger.table().arrive(0, ID, transit.serial(), 2, 5);
            assert!(matches!(refused, Err(Refusal::Ended)));
        } else {
            assert!(ledger.table().revoked(0, active));
        }
        let taken = ledger.table().take(3, 0).expect("its release is due");
        assert_eq!(taken.id, ID);
        assert!(ledger.table().take(3, 0).is_none());
    });
}

//= proves spec/ledger.md#expiry
fn a_context_arrives_or_expires<W: Modelled>() {
    model(|| {
        let (ledger, transit) = Small::<W>::departed(1, true, 10);
        // The sweeper's clock has come to the deadline; the importer read its own just before.
        let sweep = spawn(&ledger, |ledger| ledger.table().sweep(10, |_| false));
        let late = spawn(&ledger, move |ledger| {
            ledger.table().arrive(0, ID, transit.serial(), 2, 10).err()
        });
        let arrived = ledger.table().arrive(0, ID, transit.serial(), 3, 9);
        let ended = join(sweep);
        let late = join(late).expect("too late");
        match arrived {
            Ok(active) => {
                assert_eq!(ended, 0);
                assert!(matches!(late, Refusal::Spent));
                assert!(ledger.control(0) == active);
            }
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::Expired));
                assert!(matches!(late, Refusal::Expired));
                assert_eq!(ledger.control(0).cause(), Some(Cause::Expired));
                assert!(ledger.table().take(3, 0).is_some());
            }
        }
    });
}

//= proves spec/ledger.md#collect
fn a_release_is_told_once<W: Modelled>() {
    model(|| {
        let ledger = Small::<W>::new(1, true);
        let (_, active) = ledger.establish(1, ID).expect("empty");
        let collect = |ledger: Small<W>| {
            let taken = ledger.table().take(2, 0);
            if let Some(taken) = &taken {
                ledger.table().give_back(taken, true);
            }
            usize::from(taken.is_some())
        };
        // Its owner closes it, a sweeper believes the owner dead, and two collect.
        let sweep = spawn(&ledger, move |ledger| {
            let ended = ledger.table().sweep(5, |owner| owner == 1);
            (ended, collect(ledger))
        });
        let closed = ledger.table().over(0, active, Cause::Closed);
        let told = collect(ledger.clone());
        let (swept, also_told) = join(sweep);
        assert_eq!(usize::from(closed) + swept, 1);
        assert_eq!(told + also_told, 1);
        assert_eq!(ledger.table().census(), Census::default());
        assert!(
            ledger.establish(1, OTHER).is_some(),
            "the entry is found again"
        );
    });
}

fn an_entry_is_taken_by_one_and_never_lost<W: Modelled>() {
    model(|| {
        let ledger = Small::<W>::new(2, false);
        let (first, one) = ledger.establish(1, ID).expect("empty");
        let (second, two) = ledger.establish(1, ID).expect("one is left");
        assert!(ledger.table().over(second, two, Cause::Closed));
        // One frees an entry while another looks for one, and finds the free one or this.
        let taker = spawn(&ledger, |ledger| ledger.establish(2, OTHER));
        assert!(ledger.table().over(first, one, Cause::Closed));
        let mine = ledger.establish(1, ID).expect("two are free, two look");
        let taken = join(taker).expect("two are free, two look");
        assert_ne!(mine.0, taken.0);
        assert!(ledger.control(mine.0) == mine.1 && ledger.control(taken.0) == taken.1);
        assert!(ledger.establish(1, ID).is_none());
    });
}

fn two_that_establish_take_two_entries<W: Modelled>() {
    model(|| {
        let ledger = Small::<W>::new(3, false);
        let (index, control) = ledger.establish(1, ID).expect("empty");
        assert!(ledger.table().over(index, control, Cause::Closed));
        let other = spawn(&ledger, |ledger| ledger.establish(2, OTHER));
        let (mine, _) = ledger.establish(1, ID).expect("room");
        let (others, _) = join(other).expect("room");
        assert_ne!(mine, others);
        assert_eq!(ledger.table().id(mine), Some(ID));
        assert_eq!(ledger.table().id(others), Some(OTHER));
    });
}

//= proves spec/ledger.md#deadline
fn a_late_departure_touches_nothing_of_the_next_context<W: Modelled>() {
    model(|| {
        let ledger = Small::<W>::new(1, false);
        let (_, stale) = ledger.establish(1, ID).expect("empty");
        let next = spawn(&ledger, move |ledger| {
            // Revoked, used again, and departed with a deadline, while the holder may be anywhere.
            if !ledger.table().over(0, stale, Cause::Revoked) {
                return None;
            }
            let (_, active) = ledger.establish(2, OTHER).expect("just freed");
            ledger.table().depart(0, active, 100)
        });
        let departed = ledger.table().depart(0, stale, 50);
        let next = join(next);
        assert_ne!(departed.is_some(), next.is_some());
        if let Some(transit) = next {
            // The deadline is the next one's, to the millisecond.
            assert_eq!(ledger.table().sweep(99, |_| false), 0);
            assert!(
                ledger
                    .table()
                    .arrive(0, OTHER, transit.serial(), 3, 99)
                    .is_ok()
            );
        }
    });
}

fn a_dead_owners_entry_is_inherited_once<W: Modelled>() {
    model(|| {
        let ledger = Small::<W>::new(1, false);
        ledger.establish(1, ID).expect("empty");
        let sweep = |ledger: Small<W>| ledger.table().sweep(5, |owner| owner == 1);
        let other = spawn(&ledger, sweep);
        let swept = sweep(ledger.clone());
        // A third takes the entry as soon as it is free.
        let taken = ledger.establish(2, OTHER).is_some();
        assert_eq!(swept + join(other), 1);
        let census = ledger.table().census();
        assert_eq!(census.active, usize::from(taken));
    });
}

//= proves spec/ledger.md#marks
fn no_mark_is_taken_twice_or_lost<W: Modelled>() {
    model(|| {
        let words = Arc::new(
            (0..marks::words(128))
                .map(|_| AtomicU64::new(0))
                .collect::<Vec<_>>(),
        );
        Marks::new(&words, 128).set(0);
        let taker = {
            let words = words.clone();
            thread::spawn(move || Marks::new(&words, 128).take(0))
        };
        let setter = {
            let words = words.clone();
            thread::spawn(move || Marks::new(&words, 128).set(1))
        };
        let marks = Marks::new(&words, 128);
        let mut taken = vec![marks.take(64), join(taker)];
        join(setter);
        // By the summary, from elsewhere.
        taken.extend([marks.take(64), marks.take(64)]);
        let mut taken: Vec<_> = taken.into_iter().flatten().collect();
        taken.sort_unstable();
        assert_eq!(taken, [0, 1]);
    });
}

/// A keyring of two or three slots.
struct Ring<W>(Arc<Vec<W>>);

impl<W> Clone for Ring<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: Modelled> Ring<W> {
    fn new(slots: usize) -> Self {
        let ring = Self(Arc::new((0..1 + slots * SLOT).map(|_| W::zero()).collect()));
        ring.rotate(100);
        ring
    }

    fn keys(&self) -> Keys<'_, W> {
        Keys::new(&self.0[0], &self.0[1..])
    }

    /// At the time `value`, with keys all whose words are one number from `value` on.
    fn rotate(&self, value: u64) -> Option<bool> {
        let mut next = value..;
        let fresh = || Ok::<_, NoSlot>(Zeroizing::new([next.next().unwrap_or(0); VALUES]));
        self.keys()
            .rotate(fresh, value, 0)
            .ok()
            .map(|made| made.is_some())
    }
}

fn whole(id: u64, key: &[u8; 32]) -> bool {
    key[..8] == id.to_ne_bytes()
}

//= proves spec/domains.md#key-read
fn a_key_is_read_whole_while_it_is_replaced_and_wiped<W: Modelled>() {
    model(|| {
        let ring = Ring::<W>::new(2);
        let other = ring.clone();
        let rotator = thread::spawn(move || {
            assert_eq!(other.rotate(200), Some(true));
            // The first key is wiped, and its slot used again.
            other.keys().wipe_retired(201);
            assert_eq!(other.rotate(300), Some(true));
        });
        let key = ring.keys().current_key().expect("there always is one");
        assert!(whole(key.id, &key.key) && [100, 200, 300].contains(&key.id));
        if let Some(key) = ring.keys().find(100, || 150) {
            assert!(whole(100, &key.key));
        }
        join(rotator);
        assert_eq!(ring.keys().current_key().map(|key| key.id), Some(300));
    });
}

//= proves spec/domains.md#late
fn two_that_rotate_leave_one_whole_key<W: Modelled>() {
    preempted(W::CROWDED, || {
        // One slot but the current one: they meet in it, and one takes it over from the other.
        let ring = Ring::<W>::new(2);
        let other = ring.clone();
        let rotator = thread::spawn(move || other.rotate(200));
        let mine = ring.rotate(300);
        let others = join(rotator);
        let key = ring.keys().current_key().expect("there always is one");
        assert!(whole(key.id, &key.key));
        assert!(mine.is_some() || others.is_some());
        let expected: &[u64] = match (others, mine) {
            (Some(true), Some(true)) => &[2, 3],
            (Some(true), _) => &[2],
            (_, Some(true)) => &[3],
            _ => panic!("nobody rotated"),
        };
        assert!(expected.contains(&(key.id / 100)));
    });
}

//= proves spec/domains.md#rotate
fn a_new_key_has_no_time_to_retire_from_those_before_it<W: Modelled>() {
    model(|| {
        // Room for both: neither waits for a slot.
        let ring = Ring::<W>::new(3);
        let other = ring.clone();
        let rotator = thread::spawn(move || other.rotate(200));
        assert!(ring.rotate(300).is_some());
        assert!(join(rotator).is_some());
        let key = ring.keys().current_key().expect("there always is one");
        let fresh = || Ok::<_, NoSlot>(Zeroizing::new([400; VALUES]));
        assert!(
            ring.keys()
                .rotate(fresh, 400, 100)
                .is_ok_and(|made| made.is_some())
        );
        assert!(ring.keys().find(key.id, || 499).is_some());
        assert!(ring.keys().find(key.id, || 500).is_none());
    });
}

macro_rules! models {
    ($($name:ident)*) => {
        mod weak { $(#[test] fn $name() { super::$name::<loom::sync::atomic::AtomicU64>(); })* }
        mod strong { $(#[test] fn $name() { super::$name::<super::Strong>(); })* }
    };
}

models! {
    of_three_importers_one_wins
    a_departure_and_a_revocation_leave_the_context_ended
    a_context_arrives_or_expires
    a_release_is_told_once
    an_entry_is_taken_by_one_and_never_lost
    two_that_establish_take_two_entries
    a_late_departure_touches_nothing_of_the_next_context
    a_dead_owners_entry_is_inherited_once
    no_mark_is_taken_twice_or_lost
    a_key_is_read_whole_while_it_is_replaced_and_wiped
    two_that_rotate_leave_one_whole_key
    a_new_key_has_no_time_to_retire_from_those_before_it
}
