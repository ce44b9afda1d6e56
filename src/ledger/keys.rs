//! The slots of a keyring: how a key comes, is read, and goes.
//!
//! Any process may rotate, and be stopped or killed anywhere in it. The rules that make this safe
//! are in `spec/domains.md#late`: a word of a key is only ever changed by compare-and-swap, from
//! zero to a value or from a value to zero, and the values are random; so a writer that was
//! stopped, and goes on when the slot has another key, meets a value it did not read.

use core::ops::RangeInclusive;

use zeroize::Zeroizing;

use super::word::Word;
use crate::sys::fault;

/// Words of a slot.
pub(super) const SLOT: usize = 16;
/// Words of a key that are written: its id, the key, and when it was made.
pub(super) const VALUES: usize = MADE - ID + 1;

/// The words of a new key: random, none of them zero. Wiped on drop.
pub(super) type Values = Zeroizing<[u64; VALUES]>;

const CONTROL: usize = 0;
const ID: usize = 1;
const KEY: usize = 2;
/// Every word of a key is treated alike, so loom, for which each step counts, has keys of one.
const KEY_WORDS: usize = if cfg!(loom) { 1 } else { 4 };
const MADE: usize = KEY + KEY_WORDS;
const RETIRES: usize = MADE + 1;
const WRITTEN: RangeInclusive<usize> = ID..=MADE;

const LAST_ROTATION: u64 = (1 << 40) - 1;
const LAST_TIME: u64 = (1 << 48) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Empty,
    Writing,
    Ready,
    Wiping,
}

/// The control word of a slot: state(2), rotation(40), turn(22).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Control(u64);

impl Control {
    const fn state(self) -> State {
        match self.0 >> 62 {
            0 => State::Empty,
            1 => State::Writing,
            2 => State::Ready,
            _ => State::Wiping,
        }
    }

    const fn rotation(self) -> u64 {
        self.0 >> 22 & LAST_ROTATION
    }

    const fn with(self, state: State) -> Self {
        Self((state as u64) << 62 | self.0 & !(3 << 62))
    }

    const fn writing(self, rotation: u64) -> Self {
        let turn = self.0.wrapping_add(1) & 0x3f_ffff;
        Self((State::Writing as u64) << 62 | rotation << 22 | turn)
    }
}

/// What the current word names.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Current(u64);

impl Current {
    const fn new(rotation: u64, slot: usize) -> Self {
        Self(rotation << 8 | slot as u64)
    }

    const fn rotation(self) -> u64 {
        self.0 >> 8
    }

    const fn slot(self) -> usize {
        (self.0 & 0xff) as usize
    }
}

/// A key that was read whole. The bytes are wiped on drop.
pub(super) struct Copied {
    control: Control,
    retires: u64,
    pub(super) id: u64,
    pub(super) key: Zeroizing<[u8; 32]>,
}

/// Why there was no rotation: every slot has a key within its grace.
pub(super) struct NoSlot;

/// The slots of a keyring, and the word that names the current one.
pub(super) struct Keys<'a, W> {
    current: &'a W,
    slots: &'a [W],
}

impl<'a, W: Word> Keys<'a, W> {
    pub(super) fn new(current: &'a W, slots: &'a [W]) -> Self {
        Self { current, slots }
    }

    /// The key that seals now. None when the keyring is damaged.
    //= spec/domains.md#key-read
    pub(super) fn current_key(&self) -> Option<Copied> {
        let mut current = self.current();
        loop {
            let found = self.copy(current.slot());
            if let Some(key) = found.filter(|key| key.control.rotation() == current.rotation()) {
                return Some(key);
            }
            // Rotated away while we looked, or damaged.
            let now = self.current();
            if now == current {
                return None;
            }
            current = now;
        }
    }

    /// The key with this id, if it still opens at `now`.
    //= spec/domains.md#key-grace
    pub(super) fn find(&self, id: u64, now: impl FnOnce() -> u64) -> Option<Copied> {
        let current = self.current();
        // The current key first: it is nearly always the one.
        let others = (0..self.len()).filter(|slot| *slot != current.slot());
        let slot = core::iter::once(current.slot())
            .chain(others)
            .find(|slot| self.slot(*slot).is_some_and(|words| words[ID].get() == id))?;
        let key = self.copy(slot).filter(|key| key.id == id)?;
        let is_current = Current::new(key.control.rotation(), slot) == self.current();
        let retires = bound_time(key.retires, key.control.rotation());
        if !is_current && retires.is_some_and(|time| now() >= time) {
            return None;
        }
        Some(key)
    }

    /// Makes a key of values that `fresh` draws the current one, and answers its id. None when
    /// another process has rotated meanwhile. The key before opens until `now + grace`, in
    /// milliseconds.
    //= spec/domains.md#rotate
    pub(super) fn rotate<E: From<NoSlot>>(
        &self,
        fresh: impl FnMut() -> Result<Values, E>,
        now: u64,
        grace: u64,
    ) -> Result<Option<u64>, E> {
        let before = self.current();
        let rotation = before.rotation().saturating_add(1);
        if rotation > LAST_ROTATION {
            return Err(NoSlot.into());
        }
        let (slot, ready, id) = self.place(before, rotation, fresh, now)?;
        fault::point("ledger.keyring.ready");
        let won = self
            .current
            .step(before.0, Current::new(rotation, slot).0)
            .is_ok();
        fault::point("ledger.keyring.current");
        if !won {
            self.retire(slot, ready, now);
        }
        self.retire_old(now.saturating_add(grace));
        Ok(won.then_some(id))
    }

    /// Wipes the keys whose grace is over at `now`.
    //= spec/domains.md#wipe
    pub(super) fn wipe_retired(&self, now: u64) {
        for slot in 0..self.len() {
            self.wipe_if_retired(slot, now);
        }
    }

    /// Writes a key into some slot: which, its control word then, and the key's id. Others who
    /// rotate can take the slot over before it is ready, but not for ever.
    ///
    /// Each try has values of its own: a key that was written twice would be taken for its first
    /// writing by one who was stopped in between.
    //= spec/domains.md#late
    fn place<E: From<NoSlot>>(
        &self,
        before: Current,
        rotation: u64,
        mut fresh: impl FnMut() -> Result<Values, E>,
        now: u64,
    ) -> Result<(usize, Control, u64), E> {
        for _ in 0..SLOT * SLOT {
            let values = fresh()?;
            self.wipe_retired(now);
            let (slot, control) = self.take(before, rotation)?;
            if self.write(slot, control, &values) {
                return Ok((slot, control.with(State::Ready), values[0]));
            }
        }
        Err(NoSlot.into())
    }

    /// Takes a slot for writing.
    fn take(&self, before: Current, rotation: u64) -> Result<(usize, Control), NoSlot> {
        for wanted in [State::Empty, State::Writing] {
            for slot in (0..self.len()).map(|n| (before.slot() + 1 + n) % self.len()) {
                let Some(words) = self.slot(slot) else {
                    continue;
                };
                let found = Control(words[CONTROL].get());
                let control = found.writing(rotation);
                if found.state() == wanted && words[CONTROL].step(found.0, control.0).is_ok() {
                    fault::point("ledger.keyring.taken");
                    return Ok((slot, control));
                }
            }
        }
        Err(NoSlot)
    }

    /// Writes a key into a slot that is ours as long as its control word says so; whether it is
    /// ready.
    //= spec/domains.md#late
    fn write(&self, slot: usize, control: Control, values: &[u64; VALUES]) -> bool {
        let Some(words) = self.slot(slot) else {
            return false;
        };
        for (at, value) in WRITTEN.zip(values) {
            loop {
                if !clear(words, at, control) {
                    return false;
                }
                if words[at].step(0, *value).is_ok() {
                    break;
                }
            }
            fault::point("ledger.keyring.word");
        }
        if !clear(words, RETIRES, control) {
            return false;
        }
        fault::point("ledger.keyring.written");
        let whole = WRITTEN
            .zip(values)
            .all(|(at, value)| words[at].get() == *value);
        whole
            && words[CONTROL]
                .step(control.0, control.with(State::Ready).0)
                .is_ok()
    }

    /// Gives every key that was replaced, and has no time to retire yet, `time`.
    fn retire_old(&self, time: u64) {
        let current = self.current();
        for slot in (0..self.len()).filter(|slot| *slot != current.slot()) {
            if let Some(words) = self.slot(slot) {
                let control = Control(words[CONTROL].get());
                // One of a rotation to come is about to be current.
                if control.state() == State::Ready && control.rotation() <= current.rotation() {
                    self.retire(slot, control, time);
                }
            }
        }
    }

    fn retire(&self, slot: usize, ready: Control, time: u64) {
        let Some(words) = self.slot(slot) else { return };
        let rotation = ready.rotation();
        let found = words[RETIRES].get();
        if bound_time(found, rotation).is_none() && words[CONTROL].get() == ready.0 {
            // Who loses this finds that another has given it its time.
            let _ = words[RETIRES].step(found, bind(time, rotation));
            fault::point("ledger.keyring.retired");
        }
    }

    fn wipe_if_retired(&self, slot: usize, now: u64) {
        let Some(words) = self.slot(slot) else { return };
        let mut control = Control(words[CONTROL].get());
        if control.state() == State::Ready {
            let retires = bound_time(words[RETIRES].get(), control.rotation());
            let is_current = Current::new(control.rotation(), slot) == self.current();
            let wiping = control.with(State::Wiping);
            if is_current
                || retires.is_none_or(|time| now < time)
                || words[CONTROL].step(control.0, wiping.0).is_err()
            {
                return;
            }
            fault::point("ledger.keyring.wiping");
            control = wiping;
        }
        if control.state() == State::Wiping && (ID..=RETIRES).all(|at| clear(words, at, control)) {
            fault::point("ledger.keyring.wiped");
            // Who loses this step finds the slot wiped by another.
            let _ = words[CONTROL].step(control.0, control.with(State::Empty).0);
        }
    }

    /// One key, whole, if the slot is ready and stays so.
    //= spec/domains.md#key-read
    fn copy(&self, slot: usize) -> Option<Copied> {
        let words = self.slot(slot)?;
        let control = Control(words[CONTROL].get());
        if control.state() != State::Ready {
            return None;
        }
        let mut copied = Copied {
            control,
            retires: words[RETIRES].get(),
            id: words[ID].get(),
            key: Zeroizing::new([0; 32]),
        };
        for (bytes, word) in copied.key.chunks_exact_mut(8).zip(&words[KEY..MADE]) {
            bytes.copy_from_slice(&word.get().to_ne_bytes());
        }
        (words[CONTROL].get() == control.0).then_some(copied)
    }

    fn current(&self) -> Current {
        Current(self.current.get())
    }

    fn len(&self) -> usize {
        self.slots.len() / SLOT
    }

    fn slot(&self, slot: usize) -> Option<&'a [W; SLOT]> {
        self.slots.get(slot * SLOT..)?.first_chunk()
    }
}

/// Clears one word of a slot that is ours while its control word is `ours`; false when it is not.
///
/// The word is read before the control word: while that still says ours, what was read is no
/// value of a later owner of the slot, and the step fails if there is one by then.
//= spec/domains.md#late
fn clear<W: Word>(words: &[W; SLOT], at: usize, ours: Control) -> bool {
    loop {
        let found = words[at].get();
        if words[CONTROL].get() != ours.0 {
            return false;
        }
        if found == 0 || words[at].step(found, 0).is_ok() {
            return true;
        }
    }
}

/// A retirement word: the time, and which rotation's key it is for.
fn bind(time: u64, rotation: u64) -> u64 {
    time.clamp(1, LAST_TIME) << 16 | rotation & 0xffff
}

/// The time in a retirement word, if it is for this rotation.
fn bound_time(word: u64, rotation: u64) -> Option<u64> {
    (word != 0 && word & 0xffff == rotation & 0xffff).then_some(word >> 16)
}
