//! The entries: every transition of a context, each one compare-and-swap.
//!
//! Nothing here waits for anybody. A process may be stopped or killed between any two lines; what
//! it leaves behind is a state of `spec/ledger.md#states` or a lost mark, and [`Table::sweep`]
//! mends both. Liveness, time and memory come from outside, so that loom and a model can run it.

use std::io;

use super::control::{Cause, Control, RETIRED, State};
use super::growth::{Back, grow};
use super::header::{ENTRIES_BACKED, ENTRIES_USED, ENTRY, Layout};
use super::marks::Marks;
use super::word::Word;
use super::{Census, Refusal};
use crate::sys::fault;

const CONTROL: usize = 0;
const ID: usize = 1;
const DEADLINE: usize = 3;

/// Entries that are backed by memory at once.
const STRIDE: usize = 4096;
/// A deadline that never comes: the largest that fits its 48 bits.
const NEVER: u64 = (1 << 48) - 1;

/// What a collector holds: an ended entry that only it may free.
pub(super) struct Taken {
    pub(super) index: usize,
    pub(super) control: Control,
    pub(super) id: [u64; 2],
    pub(super) repeated: bool,
}

/// The entries of a ledger over its mapping.
pub(super) struct Table<'a, W> {
    used: &'a W,
    backed: &'a W,
    entries: &'a [W],
    free: Marks<'a, W>,
    ended: Marks<'a, W>,
    capacity: usize,
    collected: bool,
}

//= spec/ledger.md#states
impl<'a, W: Word> Table<'a, W> {
    /// The table in a mapping of `layout.len` words. `collected`: ended contexts wait for a
    /// collector.
    pub(super) fn new(mapping: &'a [W], layout: &Layout, collected: bool) -> Self {
        Self {
            used: &mapping[ENTRIES_USED],
            backed: &mapping[ENTRIES_BACKED],
            entries: &mapping[layout.entries..],
            free: Marks::new(
                &mapping[layout.free_marks..layout.ended_marks],
                layout.capacity,
            ),
            ended: Marks::new(
                &mapping[layout.ended_marks..layout.entries],
                layout.capacity,
            ),
            capacity: layout.capacity,
            collected,
        }
    }

    /// Entries in use so far, whatever the mapping says.
    pub(super) fn used(&self) -> usize {
        usize::try_from(self.used.get()).map_or(self.capacity, |used| used.min(self.capacity))
    }

    fn entry(&self, index: usize) -> Option<&'a [W; ENTRY]> {
        if index >= self.used() {
            return None;
        }
        self.entries.get(index * ENTRY..)?.first_chunk()
    }

    /// The id in an entry that is in use.
    pub(super) fn id(&self, index: usize) -> Option<[u64; 2]> {
        let entry = self.entry(index)?;
        Some([entry[ID].get(), entry[ID + 1].get()])
    }

    /// A new context under `owner`: its entry and control word. None when no entry can be found.
    //= spec/ledger.md#establish
    pub(super) fn establish(
        &self,
        owner: u32,
        id: [u64; 2],
        near: usize,
        back: Back<'_>,
    ) -> io::Result<Option<(usize, Control)>> {
        loop {
            let index = match self.free.take(near) {
                Some(index) => index,
                None => match self.fresh(back)? {
                    Some(index) => index,
                    None => return Ok(None),
                },
            };
            fault::point("ledger.establish.taken");
            //= spec/ledger.md#hints
            let Some(entry) = self.entry(index) else {
                continue;
            };
            let found = Control(entry[CONTROL].get());
            if found.state() != State::Free {
                continue;
            }
            let Some(draft) = found.draft(owner) else {
                continue;
            };
            if entry[CONTROL].step(found.0, draft.0).is_err() {
                continue;
            }
            fault::point("ledger.establish.draft");
            entry[ID].put(id[0]);
            fault::point("ledger.establish.half_named");
            entry[ID + 1].put(id[1]);
            fault::point("ledger.establish.named");
            let active = draft.active(owner);
            if entry[CONTROL].step(draft.0, active.0).is_ok() {
                fault::point("ledger.establish.active");
                return Ok(Some((index, active)));
            }
        }
    }

    /// An entry that was never used, backed before anybody touches it.
    //= spec/ledger.md#growth
    fn fresh(&self, back: Back<'_>) -> io::Result<Option<usize>> {
        grow(self.used, self.backed, self.capacity, STRIDE, back)
    }

    /// From `active` to transit; the answer is the control word the token's importer must find.
    ///
    /// None when the control word is no longer `active`, or its serial is the last.
    //= spec/ledger.md#depart
    pub(super) fn depart(&self, index: usize, active: Control, deadline: u64) -> Option<Control> {
        let transit = active.transit()?;
        let entry = self.entry(index)?;
        let bound = bind(deadline, transit);
        //= spec/ledger.md#deadline
        loop {
            // A holder that was stopped here for the rest of its context's life must not touch
            // the deadline of the next one: that one's is bound to a later serial, so the step
            // from what was read before the control word was seen to be ours fails.
            let before = entry[DEADLINE].get();
            if entry[CONTROL].get() != active.0 {
                return None;
            }
            if entry[DEADLINE].step(before, bound).is_ok() {
                break;
            }
        }
        fault::point("ledger.depart.deadline");
        entry[CONTROL].step(active.0, transit.0).ok()?;
        fault::point("ledger.depart.transit");
        Some(transit)
    }

    /// From transit at exactly `epoch` to active under `owner`. `now` in boot-time milliseconds.
    //= spec/ledger.md#arrive
    pub(super) fn arrive(
        &self,
        index: usize,
        id: [u64; 2],
        epoch: u64,
        owner: u32,
        now: u64,
    ) -> Result<Control, Refusal> {
        let entry = self.entry(index).ok_or(Refusal::Unknown)?;
        let found = Control(entry[CONTROL].get());
        let same = self.id(index) == Some(id);
        if !same || Control::arriving(epoch) != Some(found) {
            return Err(refusal(found, same, epoch));
        }
        //= spec/ledger.md#expiry
        if passed(entry[DEADLINE].get(), found, now) {
            if self.over(index, found, Cause::Expired) {
                return Err(Refusal::Expired);
            }
            // Another was faster: with the sweep, or with an import just in time.
            let found = Control(entry[CONTROL].get());
            return Err(refusal(found, self.id(index) == Some(id), epoch));
        }
        fault::point("ledger.arrive.checked");
        let active = found.active(owner);
        match entry[CONTROL].step(found.0, active.0) {
            Ok(()) => {
                fault::point("ledger.arrive.active");
                Ok(active)
            }
            Err(found) => Err(refusal(Control(found), self.id(index) == Some(id), epoch)),
        }
    }

    /// Ends what is at exactly `from`; whether it was.
    //= spec/ledger.md#end
    pub(super) fn over(&self, index: usize, from: Control, cause: Cause) -> bool {
        let Some(entry) = self.entry(index) else {
            return false;
        };
        let over = from.over(cause, self.collected);
        if entry[CONTROL].step(from.0, over.0).is_err() {
            return false;
        }
        fault::point("ledger.end.ended");
        self.mark(index, over);
        fault::point("ledger.end.marked");
        true
    }

    /// The control word of an entry in use.
    pub(super) fn control(&self, index: usize) -> Option<Control> {
        Some(Control(self.entry(index)?[CONTROL].get()))
    }

    /// Whether the entry was revoked at the serial its holder has.
    pub(super) fn revoked(&self, index: usize, active: Control) -> bool {
        self.entry(index).is_some_and(|entry| {
            let found = Control(entry[CONTROL].get());
            found.serial() == active.serial() && found.cause() == Some(Cause::Revoked)
        })
    }

    /// Ends the context with this id, wherever it is; whether there was one.
    //= spec/ledger.md#revoke
    pub(super) fn revoke(&self, id: [u64; 2]) -> bool {
        self.revoke_entry(id).is_some()
    }

    /// [`Table::revoke`]; answers where it was.
    pub(super) fn revoke_entry(&self, id: [u64; 2]) -> Option<usize> {
        for index in 0..self.used() {
            while self.id(index) == Some(id) {
                let Some(entry) = self.entry(index) else {
                    break;
                };
                let found = Control(entry[CONTROL].get());
                if !matches!(found.state(), State::Active | State::Transit) {
                    break;
                }
                fault::point("ledger.revoke.found");
                if self.over(index, found, Cause::Revoked) {
                    return Some(index);
                }
            }
        }
        None
    }

    /// An ended entry for `owner` to tell the release of. None when there is none.
    //= spec/ledger.md#collect
    pub(super) fn take(&self, owner: u32, near: usize) -> Option<Taken> {
        loop {
            let index = self.ended.take(near)?;
            fault::point("ledger.collect.found");
            let Some(entry) = self.entry(index) else {
                continue;
            };
            let found = Control(entry[CONTROL].get());
            if !matches!(found.state(), State::Ended | State::Repeated) {
                continue;
            }
            let control = found.collecting(owner);
            if entry[CONTROL].step(found.0, control.0).is_ok() {
                fault::point("ledger.collect.taken");
                let id = [entry[ID].get(), entry[ID + 1].get()];
                return Some(Taken {
                    index,
                    control,
                    id,
                    repeated: found.state() == State::Repeated,
                });
            }
        }
    }

    /// The release was told: the entry is free. `told` false: it is to be told again.
    pub(super) fn give_back(&self, taken: &Taken, told: bool) {
        let Some(entry) = self.entry(taken.index) else {
            return;
        };
        let next = if told {
            taken.control.free()
        } else {
            taken.control.repeated()
        };
        if entry[CONTROL].step(taken.control.0, next.0).is_ok() {
            fault::point("ledger.collect.freed");
            self.mark(taken.index, next);
        }
    }

    /// Passes over the entries in use and mends what dead processes and time left behind; `gone`
    /// judges an owner. The number of contexts it ended.
    //= spec/ledger.md#sweep
    pub(super) fn sweep(&self, now: u64, gone: impl Fn(u32) -> bool) -> usize {
        let mut ended = 0;
        for index in 0..self.used() {
            let Some(entry) = self.entry(index) else {
                break;
            };
            let found = Control(entry[CONTROL].get());
            if let Some(number) = self.inherit(index, found, &gone) {
                ended += number;
            } else if found.state() == State::Transit && passed(entry[DEADLINE].get(), found, now) {
                ended += usize::from(self.over(index, found, Cause::Expired));
            } else {
                self.mark(index, found);
            }
        }
        ended
    }

    /// Ends what the owners had for whom `gone` answers true, at most `held` entries.
    //= spec/ledger.md#reap
    pub(super) fn reap(&self, mut held: u64, gone: impl Fn(u32) -> bool) -> usize {
        let mut ended = 0;
        for index in 0..self.used() {
            let Some(entry) = self.entry(index).filter(|_| held > 0) else {
                break;
            };
            let found = Control(entry[CONTROL].get());
            if let Some(number) = self.inherit(index, found, &gone) {
                ended += number;
                held -= 1;
            }
        }
        ended
    }

    /// Takes over an entry whose owner is gone: the number of contexts it ended, none or one.
    /// None when it has no owner, or one that is not gone.
    fn inherit(&self, index: usize, found: Control, gone: &impl Fn(u32) -> bool) -> Option<usize> {
        let (State::Active | State::Draft | State::Collecting) = found.state() else {
            return None;
        };
        if !gone(found.owner()) {
            return None;
        }
        match found.state() {
            State::Active => return Some(self.over(index, found, Cause::OwnerDied).into()),
            State::Draft => self.settle(index, found, found.free()),
            _ => self.settle(index, found, found.repeated()),
        }
        Some(0)
    }

    /// Counts the entries by state.
    pub(super) fn census(&self) -> Census {
        let mut census = Census::default();
        for entry in (0..self.used()).filter_map(|index| self.entry(index)) {
            match Control(entry[CONTROL].get()).state() {
                State::Draft => census.draft += 1,
                State::Active => census.active += 1,
                State::Transit => census.transit += 1,
                State::Ended | State::Collecting | State::Repeated => census.ended += 1,
                State::Free | State::Damaged => {}
            }
        }
        census
    }

    /// Sets the summary bits that were lost.
    pub(super) fn mend(&self) {
        self.free.mend();
        self.ended.mend();
    }

    fn settle(&self, index: usize, from: Control, to: Control) {
        if self
            .entry(index)
            .is_some_and(|entry| entry[CONTROL].step(from.0, to.0).is_ok())
        {
            fault::point("ledger.sweep.settled");
            self.mark(index, to);
        }
    }

    /// Sets the mark that belongs to a state, unless it is there.
    //= spec/ledger.md#retire
    fn mark(&self, index: usize, now: Control) {
        let marks = match now.state() {
            State::Free if now.serial() < RETIRED => &self.free,
            State::Ended | State::Repeated => &self.ended,
            _ => return,
        };
        if !marks.is_set(index) {
            marks.set(index);
        }
    }
}

/// A deadline word: the time, and which departure it is for.
fn bind(deadline: u64, transit: Control) -> u64 {
    deadline.min(NEVER) << 16 | transit.serial() & 0xffff
}

/// Whether a context in transit is over. A deadline of another departure can only be noise.
//= spec/ledger.md#expiry
fn passed(deadline: u64, transit: Control, now: u64) -> bool {
    let time = deadline >> 16;
    deadline & 0xffff != transit.serial() & 0xffff || (time != NEVER && now >= time)
}

/// Why the entry does not hold the token's context in transit at its epoch.
//= spec/ledger.md#refusals
pub(super) fn refusal(found: Control, same: bool, epoch: u64) -> Refusal {
    if found.serial() < epoch || found.state() == State::Draft {
        return Refusal::Unknown;
    }
    if !same {
        return Refusal::Ended;
    }
    if found.serial() > epoch || found.state() == State::Active {
        return Refusal::Spent;
    }
    match found.cause() {
        Some(Cause::Expired) => Refusal::Expired,
        Some(_) => Refusal::Ended,
        // In transit at the epoch when looked at again, or damaged.
        None => Refusal::Unknown,
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
