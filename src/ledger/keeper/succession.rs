//! One keeper after another: what goes from a keeper to the one that goes on in its place, in
//! another process (`spec/keeper.md#succession`).
//!
//! Invariants: at any time one keeper answers. The old one stops before the new one has anything,
//! and goes on, as if nothing had been, unless the new one has begun. Contexts run on meanwhile:
//! none of their words changes.
//!
//! SECURITY: whoever gets the keys and the descriptors is the keeper. To whom they are given, the
//! keeper's owner has to know.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventFlags};
use serde::{Deserialize, Serialize};

use super::book::{self, Book};
use super::members::{Member, MemberId, Members, Process, key};
use super::roles::{Phase, Role};
use super::secrets::{KEYS, Secrets};
use super::{Keeper, Options, header::KEEPER, wire};
use crate::ledger::{ContextId, Error, Ledger};
use crate::secret::{Scratch, Slot};
use crate::sys::process::{self, Identity};
use crate::sys::robust::Lifeline;
use crate::sys::{fault, socket};

/// The one version of what is written here.
const VERSION: u8 = 1;

/// A keeper that answers nobody, while another one is given what it has. Dropped, it goes on as if
/// nothing had been.
pub struct Retiring<'a>(&'a mut Keeper);

/// A keeper but for its keys and its descriptors.
#[derive(Serialize, Deserialize)]
struct Inventory {
    version: u8,
    key: u64,
    quota: u32,
    longest_transit: u64,
    slot: u32,
    near: u64,
    generation: u32,
    members: Vec<Listed>,
    book: book::Inventory,
}

/// A member. Its descriptors are its connection and, where there is one, its process's.
#[derive(Serialize, Deserialize)]
struct Listed {
    id: MemberId,
    role: u8,
    running: bool,
    only: Option<ContextId>,
    process: Option<ListedProcess>,
}

#[derive(Serialize, Deserialize)]
struct ListedProcess {
    pid: u32,
    inode: u64,
    started: u64,
    namespace: u64,
    slot: u32,
    has_descriptor: bool,
}

impl Keeper {
    /// Stops answering, so that another process can go on in this one's place.
    //= spec/keeper.md#succession
    pub fn retire(&mut self) -> Retiring<'_> {
        Retiring(self)
    }

    /// Goes on in the place of a keeper that has [retired](Keeper::retire), once that one has
    /// [moved out](Retiring::move_out): before, no member is to be heard, so
    /// [`Keeper::turn`] is not to be called. Dropped before it has turned, it ends nothing. It belongs
    /// to this thread.
    ///
    /// # Errors
    /// [`Error::Damaged`] when what is given is no keeper's; as [`Keeper::new`].
    //= spec/keeper.md#succession
    pub fn succeed(
        inventory: &[u8],
        keys: &Slot<[u8; KEYS]>,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, Error> {
        process::supported()?;
        let damaged = Error::Damaged("inventory of a keeper");
        let Ok((inventory, [])) = postcard::take_from_bytes::<Inventory>(inventory) else {
            return Err(damaged);
        };
        let mut fds = fds.into_iter();
        let (Some(before), VERSION) = (fds.next(), inventory.version) else {
            return Err(damaged);
        };
        let ledger = Ledger::kept_after(&before)?;
        let most = ledger.options().processes.saturating_sub(1) as usize;
        let mut members = Members::new(most)?;
        for listed in &inventory.members {
            let member = listed.member(&mut fds).ok_or(damaged_member())?;
            members.put(listed.id, member)?;
        }
        members.go_on_from(inventory.generation);
        if fds.next().is_some() {
            return Err(damaged);
        }
        let is_member = |id| members.get(id).is_some();
        let capacity = ledger.options().capacity;
        let book = Book::succeed(inventory.book, capacity, is_member).ok_or(damaged)?;
        // Last, when nothing of it is in doubt: from here on the ledger is written to.
        let lifeline = Lifeline::tie(ledger.mapping(), KEEPER)?;
        ledger.processes().leave(inventory.slot);
        let slot = ledger
            .enroll(&Identity::own()?, process::word())?
            .ok_or(Error::TooManyProcesses)?;
        Ok(Self {
            lifeline,
            slot,
            secrets: Secrets::succeed(inventory.key, keys),
            members,
            book,
            options: Options {
                ledger: ledger.options(),
                quota: inventory.quota,
                longest_transit: std::time::Duration::from_millis(inventory.longest_transit),
            },
            near: usize::try_from(inventory.near).unwrap_or(0),
            born: process::word(),
            begun: false,
            left: false,
            request: vec![0; wire::LONGEST_REQUEST + 1],
            answer: Scratch::with_capacity(wire::LONGEST_ANSWER),
            deferred: std::collections::VecDeque::new(),
            ledger,
        })
    }
}

impl Retiring<'_> {
    /// What [`Keeper::succeed`] is given first. There is no secret in it.
    ///
    /// # Errors
    /// None but that of memory.
    pub fn inventory(&self) -> Result<Vec<u8>, Error> {
        let keeper = &*self.0;
        let transit = keeper.options.longest_transit.as_millis();
        let members = keeper.members.all();
        let inventory = Inventory {
            version: VERSION,
            key: keeper.secrets.id(),
            quota: keeper.options.quota,
            longest_transit: u64::try_from(transit).unwrap_or(u64::MAX),
            slot: keeper.slot,
            near: keeper.near as u64,
            generation: keeper.members.generation(),
            members: members.map(|(id, member)| Listed::of(id, member)).collect(),
            book: keeper.book.inventory(),
        };
        postcard::to_allocvec(&inventory).map_err(|_| Error::Damaged("inventory of a keeper"))
    }

    /// The keys, for the new keeper and nobody else.
    pub fn keys(&self) -> &Slot<[u8; KEYS]> {
        self.0.secrets.raw()
    }

    /// The ledger's descriptor, and those of the members, in the inventory's order.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.0.ledger.mapping().fd()];
        for (_, member) in self.0.members.all() {
            fds.push(member.socket.as_fd());
            let process = member.process.as_ref();
            fds.extend(process.and_then(|process| process.pidfd.as_ref().map(AsFd::as_fd)));
        }
        fds
    }

    /// From now on every member asks the new keeper, at its next operation, over the connection it
    /// has. To be called when the new one has everything.
    pub fn move_out(&self) {
        self.0.lifeline.stand_aside(super::MOVED);
        fault::point("keeper.moved_out");
    }

    /// The new keeper has begun: this one is over, and ends nothing when it is dropped.
    pub fn leave(self) {
        self.0.left = true;
    }
}

impl Drop for Retiring<'_> {
    fn drop(&mut self) {
        if !self.0.left {
            self.0.lifeline.stand_again();
        }
    }
}

/// Whether the keeper of this ledger has moved out, of which this process has the descriptor.
//= spec/keeper.md#succession
pub fn has_moved_out(ledger: &OwnedFd) -> bool {
    let mut word = [0; 8];
    let read = rustix::io::pread(ledger, &mut word, KEEPER as u64 * 8);
    read == Ok(8) && u64::from_ne_bytes(word) == super::MOVED.word()
}

impl core::fmt::Debug for Retiring<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Retiring").field(&*self.0).finish()
    }
}

fn damaged_member() -> Error {
    Error::Damaged("member of a keeper")
}

impl Listed {
    fn of(id: MemberId, member: &Member) -> Self {
        Self {
            id,
            role: member.role.code(),
            running: member.phase == Phase::Running,
            only: member.only,
            process: member.process.as_ref().map(|process| ListedProcess {
                pid: process.identity.pid,
                inode: process.identity.inode,
                started: process.identity.started,
                namespace: process.identity.pid_namespace,
                slot: process.slot,
                has_descriptor: process.pidfd.is_some(),
            }),
        }
    }

    /// The member, with its descriptors from the front of `fds`.
    fn member(&self, fds: &mut impl Iterator<Item = OwnedFd>) -> Option<Member> {
        let socket = fds.next()?;
        let process = match &self.process {
            None => None,
            Some(process) => Some(Process {
                identity: Identity {
                    pid: process.pid,
                    inode: process.inode,
                    started: process.started,
                    pid_namespace: process.namespace,
                },
                slot: process.slot,
                pidfd: match process.has_descriptor {
                    true => Some(fds.next()?),
                    false => None,
                },
            }),
        };
        Some(Member {
            socket,
            role: Role::from_code(self.role)?,
            phase: match (&process, self.running) {
                (None, _) => Phase::New,
                (Some(_), false) => Phase::Ready,
                (Some(_), true) => Phase::Running,
            },
            only: self.only,
            process,
            generation: self.id.generation,
        })
    }
}

impl Members {
    /// Puts a member in the place its id names.
    fn put(&mut self, id: MemberId, member: Member) -> Result<(), Error> {
        let at = id.index as usize;
        if at >= self.most {
            return Err(damaged_member());
        }
        while self.places.len() <= at {
            // At most as many as the ledger has process slots: it fits.
            self.free.push(self.places.len() as u32);
            self.places.push(None);
        }
        let place = self.places.get_mut(at).filter(|place| place.is_none());
        let place = place.ok_or(damaged_member())?;
        socket::name_senders(&member.socket, true)?;
        let flags = EventFlags::IN | EventFlags::RDHUP;
        epoll::add(&self.epoll, &member.socket, key(id, false), flags)?;
        if let Some(pidfd) = member.process.as_ref().and_then(|one| one.pidfd.as_ref()) {
            epoll::add(&self.epoll, pidfd, key(id, true), EventFlags::IN)?;
        }
        *place = Some(member);
        self.free.retain(|free| *free != id.index);
        Ok(())
    }
}
