//! The ledger of a kept domain: written by its keeper alone, read by all others.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::io::pread;

use super::control::Control;
use super::header::{ENTRIES_BACKED, Header, KEEPER, Layout, PAGE, PROCESSES_BACKED, halves};
use super::link::Link;
use super::mapped::{KEPT, Ledger, plan};
use super::word::Word;
use super::{ContextId, Error, Options};
use crate::sys::memory::Mapping;
use crate::sys::process::Identity;
use crate::sys::robust;

/// What the keeper's word holds once another keeper goes on in its place.
//= spec/keeper.md#following
pub(super) const MOVED: robust::Aside = robust::Aside::new(1);
/// What the keeper's word never holds.
pub(super) const NOBODY: u64 = u64::MAX;

impl Ledger {
    /// A new ledger that only this process can write, for its keeper.
    //= spec/keeper.md#mapping
    pub(super) fn kept(options: &Options, domain: [u8; 16]) -> Result<Self, Error> {
        let (mut header, layout) = plan(options, domain, (0, 0))?;
        header.options |= KEPT;
        let mapping = Mapping::create_sole_writer("baton-ledger", layout.len * 8)?;
        header.write(mapping.as_words());
        Self::open_as(mapping, None, KEPT)
    }

    /// A new ledger that only this process can write, with what stands in that of the keeper before.
    //= spec/keeper.md#succession
    pub(super) fn kept_after(before: &OwnedFd) -> Result<Self, Error> {
        let size = fstat(before)?.st_size;
        let header = Header::read(&first_page(before)?).ok_or(Error::Damaged("check word"))?;
        let layout = Layout::new(header.sizes).ok_or(Error::Damaged("capacity"))?;
        if usize::try_from(size) != Ok(layout.len * 8) {
            return Err(Error::Damaged("length"));
        }
        let mapping = Mapping::create_sole_writer("baton-ledger", layout.len * 8)?;
        mapping.copy_words_from(before)?;
        let ledger = Self::open_as(mapping, None, KEPT)?;
        ledger.back_again()?;
        Ok(ledger)
    }

    /// Backs what the ledger before this one had backed.
    fn back_again(&self) -> Result<(), Error> {
        let (words, layout) = (self.0.mapping.as_words(), &self.0.layout);
        let back = |area, word: usize, most: usize| {
            let number = words.get(word).map_or(0, Word::get);
            match usize::try_from(number).map_or(most, |number| number.min(most)) {
                0 => Ok(()),
                number => self.back(area, 0..number),
            }
        };
        back(layout.entries, ENTRIES_BACKED, layout.capacity)?;
        let slots = layout.processes;
        Ok(back(layout.process_slots, PROCESSES_BACKED, slots)?)
    }

    /// The ledger of a kept domain, in a mapping that this process can only read.
    pub(super) fn linked(mapping: Mapping, link: Link) -> Result<Self, Error> {
        Self::open_as(mapping, Some(link), KEPT)
    }

    /// Whether the keeper lives, if somebody keeps the domain: one load.
    //= spec/keeper.md#keeper-death
    #[inline]
    pub(super) fn is_kept(&self) -> bool {
        let keeper = self.0.keeper.load(Relaxed);
        keeper == 0
            || self
                .0
                .mapping
                .as_words()
                .get(KEEPER)
                .is_some_and(|word| robust::lives(word, keeper))
    }

    /// Goes over to the ledger of the keeper that has come after ours, when ours has moved out.
    /// Answers whether somebody keeps it then.
    //= spec/keeper.md#following
    #[cold]
    pub(super) fn follow(&self) -> bool {
        let Some(link) = self.link() else {
            return true;
        };
        let words = self.0.mapping.as_words();
        let keeper = || words.get(KEEPER).map_or(0, Word::get);
        let taken = link.follow(
            || keeper() == MOVED.word(),
            |ledger| {
                let seals = fcntl_get_seals(&ledger).unwrap_or(SealFlags::empty());
                if !seals.contains(SealFlags::FUTURE_WRITE | SealFlags::SEAL) {
                    return Err(Error::Refused("descriptor without the seals"));
                }
                let header = Header::read(&first_page(&ledger)?);
                if header != Some(self.0.header) {
                    return Err(Error::Refused("ledger of another domain"));
                }
                self.0.mapping.replace_read_only(ledger)?;
                self.0.keeper.store(keeper(), Relaxed);
                Ok(())
            },
        );
        taken.is_ok() && self.is_kept()
    }

    /// A slot for a process of which the keeper knows. None when there is none.
    pub(super) fn enroll(&self, identity: &Identity, word: u64) -> Result<Option<u32>, Error> {
        let back = |slots| self.back(self.0.layout.process_slots, slots);
        Ok(self.processes().join(identity, word, &back)?)
    }

    /// A new context under `owner`. None when no entry is free.
    pub(super) fn new_entry(
        &self,
        owner: u32,
        id: [u64; 2],
        near: usize,
    ) -> io::Result<Option<(usize, Control)>> {
        let back = |entries| self.back(self.0.layout.entries, entries);
        self.table().establish(owner, id, near, &back)
    }

    /// [`Ledger::revoke`], by the keeper; answers which entry it was.
    pub(super) fn revoke_entry(&self, id: &ContextId) -> Option<u32> {
        let index = self.table().revoke_entry(halves(id))?;
        u32::try_from(index).ok()
    }
}

/// The first page of a file, for its header.
fn first_page(file: impl AsFd) -> Result<Vec<AtomicU64>, Error> {
    let mut bytes = [0; PAGE * 8];
    let read = pread(file, &mut bytes, 0)?;
    let (words, _) = bytes.get(..read).unwrap_or(&[]).as_chunks();
    let words = words.iter().map(|word| u64::from_ne_bytes(*word));
    Ok(words.map(AtomicU64::new).collect())
}
