//! The ledger over a mapping that processes share.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release as Publish};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

use super::claim::Claim;
use super::control::{Cause, Control, State};
use super::header::{ENTRY, Header, KEEPER, LEDGER, Layout, SWEPT, halves, joined};
use super::keeper::Listed;
use super::kept::{MOVED, NOBODY};
use super::link::{Link, Made};
use super::processes::{Judge, Processes};
use super::runtime::back;
use super::table::{Table, Taken};
use super::wire::Arriving;
use super::word::Word;
use super::{Census, ContextId, Error, Options, Refusal, Release, random_id};
use crate::sys::clock::boottime_ms;
use crate::sys::fault;
use crate::sys::memory::Mapping;
use crate::sys::process::{self, Identity};

/// Option bit 0: ended contexts wait for a collector.
const COLLECT: u64 = 1;
/// Option bit 1: one process writes it, and the others ask that one.
pub(super) const KEPT: u64 = 2;

/// The ledger of a domain. A handle: clones name the same ledger, also in forked children.
#[derive(Clone)]
pub struct Ledger(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) mapping: Mapping,
    pub(super) header: Header,
    pub(super) layout: Layout,
    collected: bool,
    /// The connection to the keeper, in a member of a kept domain.
    link: Option<Link>,
    /// What word [`KEEPER`] holds as long as the keeper lives; zero when nobody keeps the domain.
    pub(super) keeper: AtomicU64,
    /// The word of the process that joined, and its slot. In a forked child the word is another
    /// one, so the child joins for itself.
    member: AtomicU64,
    slot: AtomicU32,
    /// Where to look for a free entry first.
    near: AtomicUsize,
}

/// This process, as a member of the ledger.
#[derive(Clone, Copy)]
struct Member {
    slot: u32,
    word: u64,
}

impl Ledger {
    /// A new ledger in anonymous memory, for this process and those forked from it.
    ///
    /// [`Error::System`] (invalid input) when an option is out of its bounds, or when there is no
    /// memory or no descriptor left.
    pub fn inherited(options: &Options) -> Result<Self, Error> {
        Self::made(options, random_id()?)
    }

    pub(super) fn made(options: &Options, domain: [u8; 16]) -> Result<Self, Error> {
        let (header, layout) = plan(options, domain, (0, 0))?;
        let mapping = Mapping::create_sealed("baton-ledger", layout.len * 8)?;
        header.write(mapping.as_words());
        Self::open(mapping)
    }

    /// The ledger in a mapping, if it is one, of this version and this boot.
    //= spec/ledger.md#refuse
    pub(super) fn open(mapping: Mapping) -> Result<Self, Error> {
        Self::open_as(mapping, None, 0)
    }

    pub(super) fn open_as(mapping: Mapping, link: Option<Link>, kept: u64) -> Result<Self, Error> {
        let header = Header::read(mapping.as_words()).ok_or(Error::Damaged("check word"))?;
        if header.kind != LEDGER {
            return Err(Error::Damaged("magic or version"));
        }
        if header.options & !COLLECT != kept {
            return Err(Error::Damaged("options"));
        }
        let layout = Layout::new(header.sizes).ok_or(Error::Damaged("capacity"))?;
        if mapping.as_words().len() != layout.len {
            return Err(Error::Damaged("length"));
        }
        if header.boot != process::boot_id()? {
            return Err(Error::Damaged("boot"));
        }
        let keeper = match &link {
            Some(_) => mapping.as_words().get(KEEPER).map_or(0, Word::get),
            None => 0,
        };
        let is_thread = (1..=u64::from(i32::MAX as u32 >> 1)).contains(&keeper);
        // One that has moved out is followed at the first check.
        let moved = keeper == MOVED.word();
        let keeper = if moved { NOBODY } else { keeper };
        if link.is_some() && !is_thread && !moved {
            // No thread has such a number: the keeper is gone.
            return Err(Error::Keeper);
        }
        Ok(Self(Arc::new(Inner {
            link,
            keeper: AtomicU64::new(keeper),
            mapping,
            header,
            layout,
            collected: header.options & COLLECT != 0,
            member: AtomicU64::new(0),
            slot: AtomicU32::new(0),
            near: AtomicUsize::new(0),
        })))
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.0.mapping
    }

    /// The id of the domain this is the ledger of.
    pub fn domain_id(&self) -> [u8; 16] {
        self.0.header.domain
    }

    /// What it was made for.
    pub fn options(&self) -> Options {
        Options {
            capacity: self.0.layout.capacity as u32,
            processes: self.0.layout.processes as u32,
            collect: self.0.collected,
        }
    }

    /// A new context, active in this process.
    ///
    /// [`Error::Full`] when no entry is free; before that the ledger is swept, if that was not
    /// done just now. [`Error::TooManyProcesses`], [`Error::System`] when this process cannot join.
    //= spec/ledger.md#full
    pub fn establish(&self) -> Result<Claim, Error> {
        if fault::fail("ledger.establish.full") {
            return Err(Error::Full);
        }
        if let Some(link) = self.link() {
            let made = link.establish()?;
            return Ok(self.linked_claim(made));
        }
        let member = self.join()?;
        let id = random_id()?;
        self.processes().hold(member.slot);
        let found = match self.try_establish(member, halves(&id)) {
            Ok(None) => self
                .sweep_if_due()
                .and_then(|()| self.try_establish(member, halves(&id))),
            answer => answer,
        };
        match found {
            Ok(Some((index, control))) => {
                self.0.near.store(index, Relaxed);
                Ok(self.claim(index, id, control, member))
            }
            answer => {
                self.processes().release(member.slot);
                Err(answer.err().unwrap_or(Error::Full))
            }
        }
    }

    fn try_establish(
        &self,
        member: Member,
        id: [u64; 2],
    ) -> Result<Option<(usize, Control)>, Error> {
        let near = self.0.near.load(Relaxed);
        let back = |entries| self.back(self.0.layout.entries, entries);
        Ok(self.table().establish(member.slot, id, near, &back)?)
    }

    /// The context that departed from entry `index` as `id`, at exactly `epoch`, active in this
    /// process: one compare-and-swap, which one importer alone can win.
    ///
    /// Each [`Refusal`] says what the ledger holds instead.
    //= spec/ledger.md#arrive
    pub fn arrive(&self, index: u32, id: &ContextId, epoch: u64) -> Result<Claim, Refusal> {
        if self.link().is_some() {
            let one = Arriving {
                index,
                id: *id,
                epoch,
                cookie: None,
            };
            let mut arrived = self.arrive_all(&[one]);
            return arrived.pop().unwrap_or(Err(Refusal::Local(Error::Keeper)));
        }
        let member = self.join().map_err(Refusal::Local)?;
        self.processes().hold(member.slot);
        let index = index as usize;
        match self
            .table()
            .arrive(index, halves(id), epoch, member.slot, boottime_ms())
        {
            Ok(control) => Ok(self.claim(index, *id, control, member)),
            Err(refusal) => {
                self.processes().release(member.slot);
                Err(refusal)
            }
        }
    }

    /// Ends the context with this id, active or in transit, whoever has it; its holder's next
    /// operation fails. Answers whether there was one.
    ///
    /// It looks through all entries in use: some milliseconds for a million.
    ///
    /// In a kept domain only an operator may; others are answered false.
    pub fn revoke(&self, id: &ContextId) -> bool {
        match self.link() {
            Some(link) => link.revoke(id).unwrap_or(false),
            None => self.table().revoke(halves(id)),
        }
    }

    /// Ends what dead processes had and what was not imported in time, and mends what processes
    /// left half-done. Answers the number of contexts it ended.
    ///
    /// Any process may do this at any time. It asks the kernel for each process that has joined
    /// (some microseconds each) and looks through all entries in use.
    //= spec/ledger.md#sweep
    ///
    /// In a kept domain it does nothing: the keeper hears of each death at once.
    pub fn sweep(&self) -> Result<usize, Error> {
        if self.0.link.is_some() {
            return Ok(0);
        }
        let now = boottime_ms();
        if let Some(swept) = self.0.mapping.as_words().get(SWEPT) {
            swept.put(now);
        }
        let (table, processes) = (self.table(), self.processes());
        let dead = processes.judge(&judge()?, None);
        let ended = table.sweep(now, |slot| processes.gone(slot));
        fault::point("ledger.sweep.passed");
        processes.drained(&dead);
        table.mend();
        processes.mend();
        Ok(ended)
    }

    /// Ends what the process `pid` had, which the caller has waited for; much cheaper than
    /// [`Ledger::sweep`]. Answers the number of contexts it ended; none when some process has
    /// that number again.
    //= spec/ledger.md#reap
    ///
    /// In a kept domain it does nothing.
    pub fn reap(&self, pid: u32) -> Result<usize, Error> {
        if self.0.link.is_some() {
            return Ok(0);
        }
        let (table, processes) = (self.table(), self.processes());
        let dead = processes.judge(&judge()?, Some(pid));
        let held = dead
            .iter()
            .fold(0u64, |sum, dead| sum.saturating_add(dead.held));
        let ended = table.reap(held, |slot| Processes::<AtomicU64>::among(&dead, slot));
        processes.drained(&dead);
        Ok(ended)
    }

    /// Tells the release of each ended context to `tell`, once, and frees its entry. Answers how
    /// many. Several processes may collect at once.
    ///
    /// A ledger that was not made to be collected has none to tell, and in a kept domain the
    /// keeper tells them.
    //= spec/ledger.md#collect
    pub fn collect(&self, mut tell: impl FnMut(Release)) -> Result<usize, Error> {
        if self.0.link.is_some() {
            return Ok(0);
        }
        let member = self.join()?;
        let mut told = 0;
        loop {
            self.processes().hold(member.slot);
            // Gives the entry back also when `tell` panics.
            let mut telling = Telling {
                ledger: self,
                member,
                taken: None,
                told: false,
            };
            telling.taken = self.table().take(member.slot, 0);
            let Some(taken) = &telling.taken else {
                return Ok(told);
            };
            // A cause that cannot be is noise; what was told of is over all the same.
            let cause = taken.control.cause().unwrap_or(Cause::Closed);
            tell(Release {
                id: joined(taken.id),
                epoch: taken.control.serial(),
                cause,
                repeated: taken.repeated,
            });
            fault::point("ledger.collect.told");
            telling.told = true;
            told += 1;
        }
    }

    /// Counts the entries by state; looks through all in use.
    pub fn census(&self) -> Census {
        self.table().census()
    }

    /// This process's place among the owners.
    #[inline]
    fn join(&self) -> Result<Member, Error> {
        let word = process::word();
        let slot = self.0.slot.load(Relaxed);
        // Whoever judged us dead was wrong, or wrote noise; a new slot is as good.
        if self.0.member.load(Acquire) == word && self.processes().is(slot, word) {
            return Ok(Member { slot, word });
        }
        self.join_anew(word)
    }

    /// Two threads that come here at once take two slots. Either is this process's, and whichever
    /// is kept, the other one holds nothing.
    //= spec/ledger.md#join
    #[cold]
    fn join_anew(&self, word: u64) -> Result<Member, Error> {
        process::supported()?;
        let identity = Identity::own()?;
        let back = |slots| self.back(self.0.layout.process_slots, slots);
        let mut found = self.processes().join(&identity, word, &back)?;
        if found.is_none() {
            self.sweep_if_due()?;
            found = self.processes().join(&identity, word, &back)?;
        }
        let slot = found.ok_or(Error::TooManyProcesses)?;
        self.0
            .near
            .store(slot as usize * 64 % self.0.layout.capacity, Relaxed);
        self.0.slot.store(slot, Relaxed);
        self.0.member.store(word, Publish);
        Ok(Member { slot, word })
    }

    fn sweep_if_due(&self) -> Result<(), Error> {
        let now = boottime_ms();
        let swept = self
            .0
            .mapping
            .as_words()
            .get(SWEPT)
            .ok_or(Error::Damaged("length"))?;
        let last = swept.get();
        // A time to come is noise.
        if last <= now && now - last < self.pause() || swept.step(last, now).is_err() {
            return Ok(());
        }
        self.sweep().map(drop)
    }

    /// Milliseconds between two sweeps of a full ledger: some ten times what one takes.
    //= spec/ledger.md#full
    pub(super) fn pause(&self) -> u64 {
        1 + self.table().used() as u64 / 1024 + self.processes().used() as u64 / 8
    }

    /// Backs entries or slots of an area that begins at word `area`, so that a full disk is an
    /// error here and not a signal later.
    //= spec/ledger.md#growth
    pub(super) fn back(&self, area: usize, range: Range<usize>) -> io::Result<()> {
        let (start, end) = (area + range.start * ENTRY, area + range.end * ENTRY);
        Ok(back(self.0.mapping.fd(), start, end)?)
    }

    fn claim(&self, index: usize, id: ContextId, control: Control, member: Member) -> Claim {
        // At most 2^24 entries of 8 words, and less before them: it fits.
        let place = (self.0.layout.entries + index * ENTRY) as u32;
        Claim::new(self.clone(), id, control, member.word, place)
    }

    /// The connection to the keeper; none in a domain that is not kept, nor in the keeper itself.
    #[inline]
    pub(super) fn link(&self) -> Option<&Link> {
        self.0.link.as_ref()
    }

    /// Contexts that departed, active in this process, each or not; in a kept domain by one
    /// request for as many as one takes.
    pub(crate) fn arrive_all(&self, all: &[Arriving]) -> Vec<Result<Claim, Refusal>> {
        let Some(link) = self.link() else {
            let one = |one: &Arriving| self.arrive(one.index, &one.id, one.epoch);
            return all.iter().map(one).collect();
        };
        let made = link.arrive(all).into_iter();
        made.map(|made| Ok(self.linked_claim(made?))).collect()
    }

    fn linked_claim(&self, made: Made) -> Claim {
        // As in `claim`; an index beyond the capacity is no place, and fails every check.
        let place = self.0.layout.entries + made.index as usize * ENTRY;
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        Claim::linked(self.clone(), made, place)
    }

    /// Every context there is.
    pub fn list(&self) -> Vec<Listed> {
        let (table, processes) = (self.table(), self.processes());
        let used = 0..table.used();
        used.filter_map(|index| {
            let (control, id) = (table.control(index)?, table.id(index)?);
            let holder = match control.state() {
                State::Active => Some(processes.pid(control.owner())?),
                State::Transit => None,
                _ => return None,
            };
            Some(Listed {
                id: joined(id),
                epoch: control.serial(),
                holder,
            })
        })
        .collect()
    }

    pub(super) fn table(&self) -> Table<'_, AtomicU64> {
        Table::new(self.0.mapping.as_words(), &self.0.layout, self.0.collected)
    }

    pub(super) fn processes(&self) -> Processes<'_, AtomicU64> {
        Processes::new(self.0.mapping.as_words(), &self.0.layout)
    }

    /// The word at `place`; a word of the header when there is no such place, which is no control
    /// word of any claim.
    #[inline]
    pub(super) fn word(&self, place: u32) -> u64 {
        self.0
            .mapping
            .as_words()
            .get(place as usize)
            .map_or(u64::MAX, |word| word.load(Acquire))
    }

    pub(super) fn index(&self, place: u32) -> usize {
        (place as usize).saturating_sub(self.0.layout.entries) / ENTRY
    }

    /// An entry that was freed here is warm, and to be used next.
    pub(super) fn freed(&self, index: usize) {
        self.0.near.store(index, Relaxed);
    }
}

struct Telling<'a> {
    ledger: &'a Ledger,
    member: Member,
    taken: Option<Taken>,
    told: bool,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        // In a child that `tell` forked, the collection is the parent's.
        if process::word() != self.member.word {
            return;
        }
        if let Some(taken) = &self.taken {
            self.ledger.table().give_back(taken, self.told);
        }
        self.ledger.processes().release(self.member.slot);
    }
}

fn judge() -> Result<Judge<'static>, Error> {
    Ok(Judge {
        identity: Identity::own()?,
        word: process::word(),
        alive: &Identity::alive,
        exists: &|pid| match Identity::of(pid) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        },
    })
}

/// Header and layout of a ledger to be made.
pub(super) fn plan(
    options: &Options,
    domain: [u8; 16],
    home: (u64, u64),
) -> Result<(Header, Layout), Error> {
    let header = Header {
        kind: LEDGER,
        sizes: (options.capacity.into(), options.processes.into()),
        domain,
        boot: process::boot_id()?,
        options: if options.collect { COLLECT } else { 0 },
        home,
    };
    let bounds = "a ledger has 1 to 2^24 entries and 1 to 2^17-1 processes";
    let layout = Layout::new(header.sizes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, bounds))?;
    Ok((header, layout))
}
