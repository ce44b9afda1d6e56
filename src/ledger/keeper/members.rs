//! The processes that are connected to the keeper.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};

use serde::{Deserialize, Serialize};

use super::roles::{Phase, Role};
use crate::ledger::ContextId;
use crate::sys::process::{Identity, open_pidfd, pidfd_inode};
use crate::sys::socket;

/// One connection to the keeper. No later one has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemberId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// The process at the other end of a connection, once it has greeted.
pub(super) struct Process {
    pub(super) identity: Identity,
    /// Its slot in the ledger.
    pub(super) slot: u32,
    /// Readable once it has ended. None where the kernel has none: then the connection's end must
    /// do.
    pub(super) pidfd: Option<OwnedFd>,
}

/// A connection.
pub(super) struct Member {
    pub(super) socket: OwnedFd,
    pub(super) role: Role,
    pub(super) phase: Phase,
    /// The one context it may open and import; any when none is named.
    pub(super) only: Option<ContextId>,
    pub(super) process: Option<Process>,
    pub(super) generation: u32,
}

impl Member {
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.identity.pid)
    }
}

/// All connections, and the epoll instance that tells of them.
pub(super) struct Members {
    pub(super) epoll: OwnedFd,
    pub(super) places: Vec<Option<Member>>,
    pub(super) free: Vec<u32>,
    generation: u32,
    pub(super) most: usize,
}

impl Members {
    pub(super) fn new(most: usize) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            places: Vec::new(),
            free: Vec::new(),
            generation: 0,
            most,
        })
    }

    pub(super) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Takes a connection in. None when there are as many as may be.
    pub(super) fn add(
        &mut self,
        socket: OwnedFd,
        role: Role,
        only: Option<ContextId>,
    ) -> io::Result<Option<MemberId>> {
        if self.len() >= self.most {
            return Ok(None);
        }
        socket::name_senders(&socket, true)?;
        let generation = self.generation.wrapping_add(1);
        let index = match self.free.last() {
            Some(index) => *index,
            // At most as many as the ledger has process slots: it fits.
            None => self.places.len() as u32,
        };
        let id = MemberId { index, generation };
        let flags = EventFlags::IN | EventFlags::RDHUP;
        epoll::add(&self.epoll, &socket, key(id, false), flags)?;
        self.generation = generation;
        let member = Member {
            socket,
            role,
            phase: Phase::New,
            only,
            process: None,
            generation,
        };
        if self.free.pop().is_none() {
            self.places.push(None);
        }
        if let Some(place) = self.places.get_mut(index as usize) {
            *place = Some(member);
        }
        Ok(Some(id))
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Member> {
        let member = self.places.get(id.index as usize)?.as_ref()?;
        (member.generation == id.generation).then_some(member)
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        let member = self.places.get_mut(id.index as usize)?.as_mut()?;
        (member.generation == id.generation).then_some(member)
    }

    /// Watches the process that has sent the greeting from now on. `slot` is what the ledger
    /// gives it.
    //= spec/keeper.md#peer
    pub(super) fn greet(
        &mut self,
        id: MemberId,
        identity: Identity,
        pidfd: Option<OwnedFd>,
        slot: u32,
    ) -> io::Result<()> {
        if let Some(pidfd) = &pidfd {
            epoll::add(&self.epoll, pidfd, key(id, true), EventFlags::IN)?;
        }
        if let Some(member) = self.get_mut(id) {
            member.process = Some(Process {
                identity,
                slot,
                pidfd,
            });
        }
        Ok(())
    }

    /// Ends a connection, for whoever else holds it, too.
    pub(super) fn remove(&mut self, id: MemberId) -> Option<Member> {
        self.get(id)?;
        let member = self.places.get_mut(id.index as usize)?.take()?;
        self.free.push(id.index);
        // A forked child may have copies of both descriptors: closing ours would not do.
        let _ = epoll::delete(&self.epoll, &member.socket);
        if let Some(pidfd) = member.process.as_ref().and_then(|p| p.pidfd.as_ref()) {
            let _ = epoll::delete(&self.epoll, pidfd);
        }
        socket::end(&member.socket);
        Some(member)
    }

    /// How many connections there have been, as far as it matters for the next one's id.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// As if there had been so many.
    pub(super) fn go_on_from(&mut self, generation: u32) {
        self.generation = generation;
    }

    /// Every connection there is, with its id.
    pub(super) fn all(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        let places = self.places.iter().zip(0..);
        places.filter_map(|(place, index)| {
            let member = place.as_ref()?;
            let generation = member.generation;
            Some((MemberId { index, generation }, member))
        })
    }

    /// Every connection there is.
    pub(super) fn ids(&self) -> Vec<MemberId> {
        self.all().map(|(id, _)| id).collect()
    }
}

pub(super) fn key(id: MemberId, of_process: bool) -> EventData {
    let low = u64::from(id.index) << 1 | u64::from(of_process);
    EventData::new_u64(u64::from(id.generation) << 32 | low)
}

/// Whose event it is, and whether it tells the process's end.
pub(super) fn from_key(key: u64) -> (MemberId, bool) {
    let id = MemberId {
        index: (key as u32) >> 1,
        generation: (key >> 32) as u32,
    };
    (id, key & 1 == 1)
}

/// Who the process is that the kernel says has sent a greeting, and a descriptor of it.
///
/// `SO_PEERPIDFD` names it for certain when it is the one that made the connection. A connection
/// that was inherited was made by another; its sender's number is then looked up, and can only be
/// somebody else's by now if the sender has ended: whoever has the number then did not greet, and
/// every later request says its own sender.
//= spec/keeper.md#peer
pub(super) fn identify(socket: impl AsFd, pid: u32) -> io::Result<(Identity, Option<OwnedFd>)> {
    let socket = socket.as_fd();
    let made_by_sender = socket::peer_credentials(socket).is_ok_and(|peer| peer.pid == pid);
    let pidfd = match made_by_sender {
        true => socket::peer_pidfd(socket)?,
        false => None,
    };
    let pidfd = match pidfd {
        Some(pidfd) => Some(pidfd),
        None => open_pidfd(pid)?,
    };
    let inode = pidfd.as_ref().map_or(Ok(0), pidfd_inode)?;
    let identity = match inode {
        // Where there are no such inodes, the start time tells them apart.
        0 => Identity::of(pid)?,
        // A process that its number names here is of this process's namespace.
        inode => Identity {
            pid,
            inode,
            started: 0,
            pid_namespace: Identity::own()?.pid_namespace,
        },
    };
    Ok((identity, pidfd))
}
