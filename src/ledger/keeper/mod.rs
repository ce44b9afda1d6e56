//! The keeper of a domain: the only process that writes the ledger, and the one that has the keys.
//!
//! | room | what lives there |
//! |---|---|
//! | `roles` | who may ask what, and when |
//! | `members` | the connections, and the processes at their other ends |
//! | `book` | what the keeper remembers of each context |
//! | `secrets` | the names and the keys of departures |
//! | `answers` | one request after the other |
//! | `succession` | what goes to the keeper that comes after this one |
//!
//! Invariants:
//! - The algorithms of the ledger stay as they are: the keeper is the one process that runs them.
//! - A member is never waited for: what it does not read ends its connection.
//! - A request that the table does not permit, or that is none, ends the connection of who made
//!   it. Its contexts end, their releases are delivered, everybody else goes on.
//!
//! SECURITY: it trusts its owner, the kernel, and nothing that comes over a connection. It holds
//! the keys of every token in transit, and no state of any context: those bytes never reach it,
//! nor do a peer's. Whoever takes it over can open every token it is shown, end every context,
//! and let any process be the runner of any of them.

mod answers;
mod book;
mod members;
pub(super) mod roles;
mod secrets;
mod succession;

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll;

pub use members::MemberId;
pub use roles::Role;
pub use secrets::KEYS;
pub use succession::{Retiring, has_moved_out};

use answers::Deferred;
use book::Book;
use members::{Members, from_key};
use secrets::Secrets;

use super::control::{Cause, Control};
use super::header::{KEEPER, joined};
use super::kept::MOVED;
use super::{ContextId, Error, Ledger, header, random_id, wire};
use crate::secret::{Depth, Scratch, scrubbed};
use crate::sys::clock::boottime_ms;
use crate::sys::process;
use crate::sys::robust::Lifeline;
use crate::sys::socket;

/// Events taken at once.
const EVENTS: usize = 64;
/// Messages of a process that has ended which are still heard: more than its socket holds of those
/// nobody answers.
const LAST_WORDS: usize = 1024;

/// What a kept domain is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The ledger's. With `collect` every release is told by [`Keeper::releases`].
    pub ledger: super::Options,
    /// Contexts one member can have at once: those it runs, and those it exported which nobody has
    /// imported yet.
    pub quota: u32,
    /// The longest time a token can be in transit, whatever its exporter asks for.
    pub longest_transit: Duration,
}

impl Default for Options {
    /// The ledger's default, collected; 4096 contexts for each member; a day.
    fn default() -> Self {
        Self {
            ledger: super::Options {
                collect: true,
                ..super::Options::default()
            },
            quota: 4096,
            longest_transit: Duration::from_secs(86_400),
        }
    }
}

/// The release of one ended context of a kept domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// The context that has ended.
    pub id: ContextId,
    /// The last epoch it had.
    pub epoch: u64,
    /// Why it has ended.
    pub cause: Cause,
    /// The process that ran it last.
    pub pid: u32,
}

/// One context of a kept domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The context.
    pub id: ContextId,
    /// Its epoch.
    pub epoch: u64,
    /// The process that runs it; none while it is in transit.
    pub holder: Option<u32>,
}

/// The keeper. It belongs to the thread that made it: when that thread ends, in whatever way, every
/// context of the domain is dead at once ([`Lost::KeeperGone`](super::Lost::KeeperGone)). A thread
/// has one at most.
///
/// In a forked child the copy is dead; dropping it there closes what the child has inherited, and
/// should be the first thing the child does.
///
/// ```
/// use std::time::Duration;
/// use baton::ledger::Domain;
/// use baton::ledger::keeper::{Keeper, Options, Role};
/// let mut keeper = Keeper::new(&Options::default())?;
/// let (_, socket) = keeper.connect(Role::Member)?;
/// // In a thread here, in a process of its own elsewhere:
/// let member = std::thread::spawn(move || {
///     let domain = Domain::kept(socket)?;
///     domain.ledger().establish()?.end().map_err(|_| std::io::Error::other("it had ended"))?;
///     Ok::<(), baton::ledger::Error>(())
/// });
/// let mut released = Vec::new();
/// while released.is_empty() {
///     keeper.turn(Some(Duration::from_secs(1)))?;
///     keeper.releases(|release| released.push(release));
/// }
/// assert_eq!(released[0].pid, std::process::id());
/// # member.join().unwrap()?;
/// # Ok::<(), baton::ledger::Error>(())
/// ```
pub struct Keeper {
    // Dropped first: it marks a word of the mapping.
    lifeline: Lifeline,
    ledger: Ledger,
    /// The keeper's own slot: it owns the entries whose release it is telling.
    slot: u32,
    secrets: Secrets,
    members: Members,
    book: Book,
    options: Options,
    /// Where the next free entry is looked for.
    near: usize,
    born: u64,
    /// It has heard members. Until then it is another keeper's, which may go on, that they are.
    begun: bool,
    /// Another keeper goes on with all this.
    left: bool,
    request: Vec<u8>,
    answer: Scratch,
    /// Requests that another member is to be heard before.
    deferred: VecDeque<Deferred>,
}

impl Keeper {
    /// A new domain, kept by this thread.
    ///
    /// [`Error::System`] when an option is out of its bounds, memory or descriptors are short, the
    /// thread has a keeper, or the kernel is older than Linux 5.1.
    //= spec/keeper.md#mapping
    pub fn new(options: &Options) -> Result<Self, Error> {
        process::supported()?;
        let ledger = Ledger::kept(&options.ledger, random_id()?)?;
        let lifeline = Lifeline::tie(ledger.mapping(), KEEPER)?;
        let identity = process::Identity::own()?;
        let slot = ledger
            .enroll(&identity, process::word())?
            .ok_or(Error::TooManyProcesses)?;
        Ok(Self {
            lifeline,
            slot,
            secrets: Secrets::new()?,
            members: Members::new(options.ledger.processes.saturating_sub(1) as usize)?,
            book: Book::default(),
            options: *options,
            near: 0,
            born: process::word(),
            begun: true,
            left: false,
            request: vec![0; wire::LONGEST_REQUEST + 1],
            answer: Scratch::with_capacity(wire::LONGEST_ANSWER),
            deferred: VecDeque::new(),
            ledger,
        })
    }

    /// The domain's id.
    pub fn domain_id(&self) -> [u8; 16] {
        self.ledger.domain_id()
    }

    /// How many contexts are in which state.
    pub fn census(&self) -> super::Census {
        match self.is_here() {
            Ok(()) => self.ledger.census(),
            Err(_) => super::Census::default(),
        }
    }

    /// Connections there are, greeted or not.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Readable when there is something for [`Keeper::turn`] to do, but for deadlines.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.members.epoll().as_fd()
    }

    /// Makes a connection: its far end is for one process, which greets by
    /// [`Domain::kept`](super::Domain::kept) and is from then on the only one that can use it.
    ///
    /// [`Error::TooManyProcesses`], [`Error::System`].
    pub fn connect(&mut self, role: Role) -> Result<(MemberId, OwnedFd), Error> {
        let (near, far) = socket::pair()?;
        Ok((self.add(near, role)?, far))
    }

    /// As [`Keeper::connect`], for a process that is to import this context and no other: a token
    /// of another one is not for it, whatever its exporter said of the importer.
    ///
    /// [`Error::TooManyProcesses`], [`Error::System`].
    //= spec/keeper.md#named
    pub fn connect_for(
        &mut self,
        role: Role,
        context: ContextId,
    ) -> Result<(MemberId, OwnedFd), Error> {
        let (near, far) = socket::pair()?;
        Ok((self.take_in(near, role, Some(context))?, far))
    }

    /// A connection for a keeper that is not there yet: its near end is to be [added](Keeper::add).
    ///
    /// [`Error::System`].
    pub fn connection() -> Result<(OwnedFd, OwnedFd), Error> {
        let (near, far) = socket::pair()?;
        // Or a greeting that comes before would be of nobody.
        socket::name_senders(&near, true)?;
        Ok((near, far))
    }

    /// Takes in a connection made otherwise: a connected Unix seqpacket socket. On one that is
    /// accepted, ask the listening socket [for senders](socket::name_senders) before it listens:
    /// a greeting that came before that is of nobody, and ends the connection.
    ///
    /// [`Error::TooManyProcesses`], [`Error::System`].
    pub fn add(&mut self, socket: OwnedFd, role: Role) -> Result<MemberId, Error> {
        self.take_in(socket, role, None)
    }

    fn take_in(
        &mut self,
        socket: OwnedFd,
        role: Role,
        only: Option<ContextId>,
    ) -> Result<MemberId, Error> {
        self.is_here()?;
        self.members
            .add(socket, role, only)?
            .ok_or(Error::TooManyProcesses)
    }

    /// Whether a connection has not ended.
    pub fn has(&self, id: MemberId) -> bool {
        self.members.get(id).is_some()
    }

    /// The process of a connection, once it has greeted; none also when the connection has ended.
    pub fn pid(&self, id: MemberId) -> Option<u32> {
        self.members.get(id)?.pid()
    }

    /// Contexts that the process of a connection runs.
    pub fn runs(&mut self, id: MemberId) -> usize {
        match self.has(id) {
            true => self.book.held(id).len(),
            false => 0,
        }
    }

    /// Ends a connection, and the contexts its process runs. What it had said before is heard first.
    pub fn remove(&mut self, id: MemberId) {
        if self.is_here().is_ok() {
            scrubbed(Depth::Derived, || self.hear_last_words(id));
            self.end_member(id);
        }
    }

    fn hear_last_words(&mut self, id: MemberId) {
        (0..LAST_WORDS).take_while(|_| self.has_more(id)).count();
    }

    /// In how long [`Keeper::turn`] has something to do although nothing happens; none when it has
    /// not. For an owner who waits for [`Keeper::fd`] and more.
    pub fn due_in(&self) -> Option<Duration> {
        let deadline = self.book.next_deadline()?;
        Some(Duration::from_millis(
            deadline.saturating_sub(boottime_ms()),
        ))
    }

    /// Waits at most `limit` (for ever when none is given, and never longer than to the next
    /// deadline) and does what there is to do. Answers the number of events.
    ///
    /// Each member is heard once a turn, however much it sends.
    ///
    /// # Errors
    /// The system's refusal to wait. A member's doings are no error.
    pub fn turn(&mut self, limit: Option<Duration>) -> Result<usize, Error> {
        self.is_here()?;
        self.begun = true;
        let limit = limit.into_iter().chain(self.due_in()).min();
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let mut events = [const { MaybeUninit::uninit() }; EVENTS];
        let (events, _) = match epoll::wait(self.members.epoll(), &mut events, limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(0),
            answer => answer?,
        };
        let ready = events.len();
        // One-time keys pass over the stack.
        scrubbed(Depth::Derived, || {
            self.end_what_is_due();
            for event in events {
                // The structure is packed: copied out field by field.
                let data = event.data;
                let (id, of_process) = from_key(data.u64());
                if of_process {
                    // What it had said before it ended is as good as if it had been heard then.
                    self.hear_last_words(id);
                }
                if of_process || !self.hear(id) {
                    self.end_member(id);
                }
            }
            self.hear_deferred();
        });
        Ok(ready)
    }

    /// Ends the context with this id, active or in transit, whoever has it; its holder's next
    /// operation fails. Answers whether there was one. It looks through all entries in use.
    //= spec/keeper.md#revoke
    pub fn revoke(&mut self, id: &ContextId) -> bool {
        if self.is_here().is_err() {
            return false;
        }
        let Some(index) = self.ledger.revoke_entry(id) else {
            return false;
        };
        self.ended(index);
        true
    }

    /// Every context there is.
    pub fn list(&self) -> Vec<Listed> {
        match self.is_here() {
            Ok(()) => self.ledger.list(),
            Err(_) => Vec::new(),
        }
    }

    /// Tells the release of each ended context, once, and frees its entry. Answers how many.
    ///
    /// It is told before `tell` is called: when that panics, this one release is lost.
    //= spec/keeper.md#releases
    pub fn releases(&mut self, mut tell: impl FnMut(Released)) -> usize {
        let mut told = 0;
        if self.is_here().is_err() {
            return told;
        }
        while let Some(taken) = self.ledger.table().take(self.slot, 0) {
            self.ledger.table().give_back(&taken, true);
            // At most 2^24 entries: it fits.
            let pid = self.book.pid(taken.index as u32);
            told += 1;
            tell(Released {
                id: joined(taken.id),
                epoch: taken.control.serial(),
                cause: taken.control.cause().unwrap_or(Cause::Closed),
                pid,
            });
        }
        told
    }

    fn is_here(&self) -> Result<(), Error> {
        match self.born == process::word() && !self.left {
            true => Ok(()),
            false => Err(Error::Refused(
                "keeper of the process this was forked from, or of another one now",
            )),
        }
    }

    /// Ends what was not imported before its deadline.
    fn end_what_is_due(&mut self) {
        let now = boottime_ms();
        while let Some((index, epoch)) = self.book.due(now) {
            let Some(transit) = Control::arriving(epoch) else {
                continue;
            };
            if self
                .ledger
                .table()
                .over(index as usize, transit, Cause::Expired)
            {
                self.ended(index);
            }
        }
    }

    /// What there is to do once a context has ended.
    fn ended(&mut self, index: u32) {
        let holder = self.book.holder(index).and_then(|id| self.members.get(id));
        if let Some(process) = holder.and_then(|member| member.process.as_ref()) {
            self.ledger.processes().release(process.slot);
        }
        self.book.settle(index);
        self.near = index as usize;
    }

    /// Ends a connection and all that its process runs.
    //= spec/keeper.md#end-of-a-member
    fn end_member(&mut self, id: MemberId) {
        if self.members.get(id).is_none() {
            // It has ended before; somebody else may have its place.
            return;
        }
        let table = self.ledger.table();
        let mut over = Vec::new();
        for index in self.book.held(id).iter().copied() {
            let active = table.control(index as usize);
            if active.is_some_and(|active| table.over(index as usize, active, Cause::OwnerDied)) {
                over.push(index);
            }
        }
        over.into_iter().for_each(|index| self.ended(index));
        if let Some(process) = self.members.remove(id).and_then(|member| member.process) {
            self.ledger.processes().leave(process.slot);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.begun && self.is_here().is_ok() {
            self.members
                .ids()
                .into_iter()
                .for_each(|id| self.end_member(id));
        }
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl core::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Keeper")
            .field("members", &self.members())
            .field("thread", &self.lifeline.number())
            .finish_non_exhaustive()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::System(error) => error,
            other => Self::other(other.to_string()),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
