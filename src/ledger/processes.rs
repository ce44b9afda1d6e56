//! The process slots: who the owners are, and which of them are gone.
//!
//! A slot decides when a context ends, never who runs it; so it may err on the side of life, and
//! does wherever a process cannot be judged.

use std::io;

use super::growth::{Back, grow};
use super::header::{ENTRY, Layout, PROCESSES_BACKED, PROCESSES_USED};
use super::marks::Marks;
use super::word::Word;
use crate::sys::fault;
use crate::sys::process::Identity;

const CONTROL: usize = 0;
const STARTED: usize = 1;
const INODE: usize = 2;
const NAMESPACE: usize = 3;
const PROCESS_WORD: usize = 4;
const HELD: usize = 5;

/// Slots that are backed by memory at once.
const STRIDE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Joining,
    Live,
    Dead,
}

/// The control word of a slot: state(2), namespace(14), generation(16), pid(32).
//= spec/ledger.md#join
#[derive(Clone, Copy, PartialEq, Eq)]
struct Control(u64);

impl Control {
    const fn state(self) -> State {
        match self.0 >> 62 {
            0 => State::Free,
            1 => State::Joining,
            2 => State::Live,
            _ => State::Dead,
        }
    }

    const fn pid(self) -> u32 {
        self.0 as u32
    }

    const fn namespace(self) -> u64 {
        self.0 >> 48 & 0x3fff
    }

    const fn with(self, state: State) -> Self {
        Self((state as u64) << 62 | self.0 & !(3 << 62))
    }

    const fn joining(self, identity: &Identity) -> Self {
        let generation = (self.0 >> 32).wrapping_add(1) & 0xffff;
        let namespace = identity.pid_namespace & 0x3fff;
        Self(1 << 62 | namespace << 48 | generation << 32 | identity.pid as u64)
    }
}

/// Who judges: its own identity and word, and whether another identity's process runs.
pub(super) struct Judge<'a> {
    pub(super) identity: Identity,
    pub(super) word: u64,
    pub(super) alive: &'a dyn Fn(&Identity) -> bool,
    /// Whether some process has this number here.
    pub(super) exists: &'a dyn Fn(u32) -> bool,
}

/// A slot that was dead when it was looked at.
pub(super) struct Dead {
    slot: usize,
    control: Control,
    /// Entries that may name it.
    pub(super) held: u64,
}

/// The process slots of a ledger over its mapping.
pub(super) struct Processes<'a, W> {
    used: &'a W,
    backed: &'a W,
    slots: &'a [W],
    free: Marks<'a, W>,
    capacity: usize,
}

impl<'a, W: Word> Processes<'a, W> {
    pub(super) fn new(mapping: &'a [W], layout: &Layout) -> Self {
        Self {
            used: &mapping[PROCESSES_USED],
            backed: &mapping[PROCESSES_BACKED],
            slots: &mapping[layout.process_slots..layout.process_marks],
            free: Marks::new(
                &mapping[layout.process_marks..layout.free_marks],
                layout.processes,
            ),
            capacity: layout.processes,
        }
    }

    pub(super) fn used(&self) -> usize {
        usize::try_from(self.used.get()).map_or(self.capacity, |used| used.min(self.capacity))
    }

    fn slot(&self, slot: usize) -> Option<&'a [W; ENTRY]> {
        if slot >= self.used() {
            return None;
        }
        self.slots.get(slot * ENTRY..)?.first_chunk()
    }

    /// A slot for this process. None when no slot can be found.
    //= spec/ledger.md#join
    pub(super) fn join(
        &self,
        identity: &Identity,
        word: u64,
        back: Back<'_>,
    ) -> io::Result<Option<u32>> {
        loop {
            let index = match self.free.take(0) {
                Some(index) => index,
                None => match grow(self.used, self.backed, self.capacity, STRIDE, back)? {
                    Some(index) => index,
                    None => return Ok(None),
                },
            };
            fault::point("ledger.join.taken");
            let Some(slot) = self.slot(index) else {
                continue;
            };
            let found = Control(slot[CONTROL].get());
            let joining = found.joining(identity);
            if found.state() != State::Free || slot[CONTROL].step(found.0, joining.0).is_err() {
                continue;
            }
            fault::point("ledger.join.joining");
            slot[STARTED].put(identity.started);
            slot[INODE].put(identity.inode);
            slot[NAMESPACE].put(identity.pid_namespace);
            slot[PROCESS_WORD].put(word);
            slot[HELD].put(0);
            fault::point("ledger.join.written");
            if slot[CONTROL]
                .step(joining.0, joining.with(State::Live).0)
                .is_ok()
            {
                fault::point("ledger.join.live");
                return Ok(u32::try_from(index).ok());
            }
        }
    }

    /// Whether the slot is that of the process with this word, and nobody has judged it dead.
    pub(super) fn is(&self, slot: u32, word: u64) -> bool {
        self.slot(slot as usize).is_some_and(|slot| {
            Control(slot[CONTROL].get()).state() == State::Live && slot[PROCESS_WORD].get() == word
        })
    }

    /// Counts one more entry that may name this process's slot; before it does.
    //= spec/ledger.md#held
    pub(super) fn hold(&self, slot: u32) {
        if let Some(slot) = self.slot(slot as usize) {
            slot[HELD].add(1);
        }
    }

    /// Counts one entry less; after its claim is gone.
    //= spec/ledger.md#held
    pub(super) fn release(&self, slot: u32) {
        if let Some(slot) = self.slot(slot as usize) {
            slot[HELD].add(u64::MAX);
        }
    }

    /// Whether the owner in this slot is gone, as far as was judged.
    pub(super) fn gone(&self, slot: u32) -> bool {
        self.slot(slot as usize).is_none_or(|slot| {
            matches!(
                Control(slot[CONTROL].get()).state(),
                State::Dead | State::Free
            )
        })
    }

    /// Judges every process, or those with the number `only`; answers the slots of the dead.
    //= spec/ledger.md#dead
    pub(super) fn judge(&self, judge: &Judge<'_>, only: Option<u32>) -> Vec<Dead> {
        let mut dead = Vec::new();
        for index in 0..self.used() {
            let Some(slot) = self.slot(index) else { break };
            let found = Control(slot[CONTROL].get());
            if only.is_some_and(|pid| pid != found.pid()) {
                continue;
            }
            match found.state() {
                State::Free => self.mark(index),
                State::Joining => {
                    let ours = judge.identity.pid_namespace & 0x3fff == found.namespace();
                    if ours && !(judge.exists)(found.pid()) {
                        self.vacate(index, found);
                    }
                }
                State::Live => {
                    let control = found.with(State::Dead);
                    if is_gone(slot, found, judge) && slot[CONTROL].step(found.0, control.0).is_ok()
                    {
                        fault::point("ledger.sweep.judged");
                        self.bury(index, control, slot[HELD].get(), &mut dead);
                    }
                }
                State::Dead => self.bury(index, found, slot[HELD].get(), &mut dead),
            }
        }
        dead
    }

    /// A dead slot is free at once when nothing can name it; else after the next pass.
    //= spec/ledger.md#slot-reuse
    fn bury(&self, slot: usize, control: Control, held: u64, dead: &mut Vec<Dead>) {
        if held == 0 {
            self.vacate(slot, control);
        } else {
            dead.push(Dead {
                slot,
                control,
                held,
            });
        }
    }

    /// Frees the slots that were dead before a pass over all entries.
    //= spec/ledger.md#slot-reuse
    pub(super) fn drained(&self, dead: &[Dead]) {
        for dead in dead {
            self.vacate(dead.slot, dead.control);
        }
    }

    /// Whether a slot is one of the dead.
    pub(super) fn among(dead: &[Dead], slot: u32) -> bool {
        dead.iter().any(|dead| dead.slot == slot as usize)
    }

    /// Frees the slot of a process that has left, and whose entries have all ended: only a keeper
    /// can know that.
    pub(super) fn leave(&self, slot: u32) {
        let index = slot as usize;
        if let Some(found) = self.slot(index).map(|slot| Control(slot[CONTROL].get()))
            && found.state() == State::Live
        {
            self.vacate(index, found);
        }
    }

    /// The number of the process in a slot.
    pub(super) fn pid(&self, slot: u32) -> Option<u32> {
        let found = Control(self.slot(slot as usize)?[CONTROL].get());
        (found.state() == State::Live).then(|| found.pid())
    }

    fn vacate(&self, index: usize, from: Control) {
        if let Some(slot) = self.slot(index)
            && slot[CONTROL].step(from.0, from.with(State::Free).0).is_ok()
        {
            fault::point("ledger.sweep.vacated");
            self.mark(index);
        }
    }

    fn mark(&self, index: usize) {
        if !self.free.is_set(index) {
            self.free.set(index);
        }
    }

    /// Sets the summary bits that were lost.
    pub(super) fn mend(&self) {
        self.free.mend();
    }
}

/// Whether the process in a live slot has ended, or was this one before it executed its program.
//= spec/ledger.md#identity
fn is_gone<W: Word>(slot: &[W; ENTRY], control: Control, judge: &Judge<'_>) -> bool {
    let identity = Identity {
        pid: control.pid(),
        started: slot[STARTED].get(),
        inode: slot[INODE].get(),
        pid_namespace: slot[NAMESPACE].get(),
    };
    if identity == judge.identity {
        return slot[PROCESS_WORD].get() != judge.word;
    }
    !(judge.alive)(&identity)
}

#[cfg(all(test, not(loom)))]
mod tests;
