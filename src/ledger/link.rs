//! A member's end of its connection to the keeper.
//!
//! One request is under way at a time, whatever number of threads ask. A keeper that does not
//! answer in time, or answers what is no answer, is left: the connection is ended, and with it, by
//! the keeper, all that this process runs in the domain. Silence is a refusal.
//!
//! A forked child has no part in it: every call asks for this process's word first, so it neither
//! sends over its parent's connection nor waits for a lock that a thread held at the fork.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::control::Control;
use super::importer::Terms;
use super::keeper::roles::{Ask, Phase, Role, after, permits};
use super::wire::{
    self, ARRIVED, Arriving, Code, DEPARTED, ESTABLISHED, HANDLE, Handle, LEDGER, Leaving, MOST,
    OPENED, REFUSED, REVOKED, Reader, Sink, Welcome,
};
use super::{ContextId, Error, Refusal};
use crate::secret::{Depth, Scratch, Slot, scrubbed};
use crate::sys::{fault, process, scrub, socket};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one departure of a context is sealed with: nobody else has it before the keeper gives it
/// to who may import the token. It belongs in a [`Slot`].
pub(crate) struct Grant {
    /// Which of the keeper's keys it is of.
    pub(crate) id: u64,
    /// What names the departure in the token.
    pub(crate) handle: Handle,
    /// The one-time key.
    pub(crate) key: [u8; 32],
}

/// What the keeper answers when a context became active here.
pub(super) struct Made {
    pub(super) index: u32,
    pub(super) id: ContextId,
    pub(super) control: Control,
    pub(super) born: u64,
    pub(super) grant: Slot<Grant>,
}

/// The connection.
pub(super) struct Link {
    socket: OwnedFd,
    born: u64,
    welcome: Welcome,
    talk: Mutex<Talk>,
    /// Contexts of which the keeper is to hear that they have ended.
    ends: Mutex<Vec<(u32, u64)>>,
}

struct Talk {
    phase: Phase,
    over: bool,
    request: Vec<u8>,
    /// Answers hold keys.
    answer: Scratch,
    /// A key that came with the greeting, and what it opens.
    opened: Option<(Handle, Slot<[u8; 32]>)>,
}

/// A lock whatever became of the thread that had it: nothing is left half-done between two steps.
fn hold<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Greets the keeper: the connection, and the descriptor of the ledger. Who comes to import what
    /// is named by `handle` is given its key at once, if that may be.
    //= spec/keeper.md#hello
    pub(super) fn greet(
        socket: OwnedFd,
        handle: Option<&Handle>,
    ) -> Result<(Self, OwnedFd), Error> {
        process::supported()?;
        socket::set_patience(&socket, PATIENCE)?;
        let mut hello = Vec::with_capacity(5 + HANDLE);
        wire::write_hello(&mut hello, handle);
        socket::send_whole(&socket, &hello).map_err(gone)?;
        let (welcome, opened, ledger) = match handle {
            Some(handle) => scrubbed(Depth::Moved, || welcomed(&socket, Some(handle)))?,
            None => welcomed(&socket, None)?,
        };
        let link = Self {
            socket,
            born: process::word(),
            talk: Mutex::new(Talk {
                phase: after(welcome.role, Phase::New, Ask::Hello, 0),
                over: false,
                request: Vec::new(),
                answer: Scratch::new(),
                opened,
            }),
            welcome,
            ends: Mutex::new(Vec::new()),
        };
        Ok((link, ledger))
    }

    pub(super) fn domain(&self) -> [u8; 16] {
        self.welcome.domain
    }

    /// A new context.
    //= spec/keeper.md#establish
    pub(super) fn establish(&self) -> Result<Made, Error> {
        let read = |answer: &mut Reader<'_>, _: &mut usize| match answer.u8()? {
            ESTABLISHED => {
                let (index, control) = (answer.u32()?, answer.u64()?);
                let id = answer.array()?;
                Some(Ok(self.made(index, id, control, answer)?))
            }
            REFUSED => Some(Err(refused(answer)?)),
            _ => None,
        };
        let made = self.ask((Ask::Establish, 1), |out| out.put(&[2]), read)?;
        made.map_err(|code| match Refusal::from(code) {
            Refusal::Local(error) => error,
            _ => Error::Keeper,
        })
    }

    /// Lets one context go. No answer is waited for: whoever is given the token asks after this was
    /// said, and the keeper hears it first.
    //= spec/keeper.md#depart
    pub(super) fn depart_one(&self, terms: &Terms, leaving: Leaving) -> Result<(), Error> {
        if self.born != process::word() {
            return Err(Error::Refused(
                "connection of the process this was forked from",
            ));
        }
        let mut talk = hold(&self.talk);
        if !permits(self.welcome.role, talk.phase, Ask::Depart) {
            return Err(Error::NotPermitted);
        }
        self.send_ends(&mut talk);
        if talk.over {
            return Err(Error::Keeper);
        }
        talk.request.clear();
        wire::write_depart(&mut talk.request, terms, &[leaving]);
        let sent = socket::send_whole(&self.socket, &talk.request);
        if sent.is_err() {
            talk.over = true;
            socket::end(&self.socket);
        }
        fault::point("kept.asked");
        drop(talk);
        self.tell_ends();
        sent.map_err(|_| Error::Keeper)
    }

    /// Lets contexts go, more than one; a code for each.
    pub(super) fn depart(&self, terms: &Terms, leaving: &[Leaving]) -> Result<Vec<Code>, Error> {
        let write = |out: &mut Vec<u8>| wire::write_depart(out, terms, leaving);
        let read = |answer: &mut Reader<'_>, _: &mut usize| {
            counted(answer, DEPARTED, leaving.len())?;
            (0..leaving.len())
                .map(|_| Code::read(answer.u8()?))
                .collect()
        };
        self.ask((Ask::Depart, leaving.len()), write, read)
    }

    /// The key of the token or bundle that says `handle`.
    //= spec/keeper.md#open
    pub(crate) fn open(&self, key: u64, handle: &Handle) -> Result<Slot<[u8; 32]>, Refusal> {
        if key != self.welcome.key {
            return Err(Refusal::Key);
        }
        if self.born == process::word() {
            let opened = &mut hold(&self.talk).opened;
            if let Some((_, key)) = opened.take_if(|(of, _)| of == handle) {
                return Ok(key);
            }
        }
        let write = |out: &mut Vec<u8>| {
            out.put(&[4]);
            out.put(handle);
        };
        let read = |answer: &mut Reader<'_>, _: &mut usize| match answer.u8()? {
            OPENED => Some(Ok(Slot::new(answer.array()?))),
            REFUSED => Some(Err(refused(answer)?)),
            _ => None,
        };
        self.ask((Ask::Open, 1), write, read)
            .map_err(Refusal::Local)?
            .map_err(Refusal::from)
    }

    /// Makes contexts active here, each or not.
    pub(super) fn arrive(&self, all: &[Arriving]) -> Vec<Result<Made, Refusal>> {
        let mut outcomes = Vec::with_capacity(all.len());
        // A session imports one, and is not asked to import more.
        let most = match self.welcome.role {
            Role::Session => 1,
            _ => MOST,
        };
        for some in all.chunks(most) {
            match self.arrive_some(some) {
                Ok(made) => outcomes.extend(made),
                Err(error) => {
                    let refusal = || match error {
                        Error::NotPermitted => Error::NotPermitted,
                        _ => Error::Keeper,
                    };
                    outcomes.extend(some.iter().map(|_| Err(Refusal::Local(refusal()))));
                }
            }
        }
        outcomes
    }

    //= spec/keeper.md#arrive
    fn arrive_some(&self, some: &[Arriving]) -> Result<Vec<Result<Made, Refusal>>, Error> {
        let write = |out: &mut Vec<u8>| wire::write_arrive(out, some);
        let read = |answer: &mut Reader<'_>, arrived: &mut usize| {
            counted(answer, ARRIVED, some.len())?;
            let one = |one: &Arriving| match Code::read(answer.u8()?)? {
                Code::Done => {
                    *arrived += 1;
                    let control = answer.u64()?;
                    Some(Ok(self.made(one.index, one.id, control, answer)?))
                }
                code => {
                    answer.array::<{ 8 + wire::GRANT }>()?;
                    Some(Err(code.into()))
                }
            };
            some.iter().map(one).collect()
        };
        self.ask((Ask::Arrive, some.len()), write, read)
    }

    /// Asks for the ledger, when it is to be `wanted` and no other thread has just done so, and has
    /// `take` go over to it.
    //= spec/keeper.md#following
    pub(super) fn follow(
        &self,
        wanted: impl Fn() -> bool,
        take: impl FnOnce(OwnedFd) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.born != process::word() {
            return Err(Error::Refused(
                "connection of the process this was forked from",
            ));
        }
        let mut talk = hold(&self.talk);
        if !wanted() {
            return Ok(());
        }
        if talk.over || !permits(self.welcome.role, talk.phase, Ask::Ledger) {
            return Err(Error::Keeper);
        }
        let followed = self.ask_ledger().and_then(take);
        if followed.is_err() {
            talk.over = true;
            socket::end(&self.socket);
        }
        drop(talk);
        self.tell_ends();
        followed
    }

    fn ask_ledger(&self) -> Result<OwnedFd, Error> {
        socket::send_whole(&self.socket, &[LEDGER]).map_err(gone)?;
        match welcomed(&self.socket, None)? {
            (welcome, None, ledger) if welcome == self.welcome => Ok(ledger),
            _ => Err(Error::Keeper),
        }
    }

    /// Revokes, when this process may.
    pub(super) fn revoke(&self, id: &ContextId) -> Result<bool, Error> {
        let write = |out: &mut Vec<u8>| {
            out.put(&[7]);
            out.put(id);
        };
        let read = |answer: &mut Reader<'_>, _: &mut usize| {
            (answer.u8()? == REVOKED).then_some(())?;
            Some(answer.u8()? != 0)
        };
        self.ask((Ask::Revoke, 1), write, read)
    }

    /// Tells the keeper that a context has ended. No answer is waited for, nor another thread that
    /// waits for one: then that one tells it.
    //= spec/keeper.md#end
    pub(super) fn end(&self, index: u32, control: u64) {
        if self.born != process::word() {
            return;
        }
        hold(&self.ends).push((index, control));
        self.tell_ends();
    }

    /// Sends what ends are to be told, unless another thread is talking: it does so afterwards.
    fn tell_ends(&self) {
        while !hold(&self.ends).is_empty() {
            let mut talk = match self.talk.try_lock() {
                Ok(talk) => talk,
                Err(TryLockError::Poisoned(talk)) => talk.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            self.send_ends(&mut talk);
        }
    }

    /// Waits for room in the socket at most, which the keeper makes as it comes to this member.
    fn send_ends(&self, talk: &mut Talk) {
        loop {
            let mut ends = hold(&self.ends);
            if talk.over {
                // The keeper has ended them all.
                ends.clear();
            }
            if ends.is_empty() {
                return;
            }
            let from = ends.len() - ends.len().min(MOST);
            let some = ends.split_off(from);
            drop(ends);
            talk.request.clear();
            wire::write_end(&mut talk.request, &some);
            if socket::send_whole(&self.socket, &talk.request).is_err() {
                talk.over = true;
                socket::end(&self.socket);
            }
        }
    }

    fn made(
        &self,
        index: u32,
        id: ContextId,
        control: u64,
        answer: &mut Reader<'_>,
    ) -> Option<Made> {
        let handle = answer.array::<HANDLE>()?;
        let grant = Slot::new(Grant {
            id: self.welcome.key,
            handle,
            key: answer.array()?,
        });
        Some(Made {
            index,
            id,
            control: Control(control),
            born: self.born,
            grant,
        })
    }

    /// One request, of so many contexts, and its answer. What the table of roles does not permit is
    /// not sent.
    fn ask<T>(
        &self,
        (ask, contexts): (Ask, usize),
        write: impl FnOnce(&mut Vec<u8>),
        read: impl FnOnce(&mut Reader<'_>, &mut usize) -> Option<T>,
    ) -> Result<T, Error> {
        if self.born != process::word() {
            return Err(Error::Refused(
                "connection of the process this was forked from",
            ));
        }
        let mut talk = hold(&self.talk);
        let role = self.welcome.role;
        if !permits(role, talk.phase, ask) {
            return Err(Error::NotPermitted);
        }
        // Keys pass over the stack on their way into their pages.
        let answer = scrubbed(Depth::Moved, || {
            let mut arrived = 0;
            // What is not used of it costs nothing, in a process that imports one context, either.
            talk.answer.resize(wire::longest_answer(contexts));
            let answer = self.exchange(&mut talk, write, |answer| read(answer, &mut arrived));
            talk.phase = after(role, talk.phase, ask, arrived);
            answer
        });
        drop(talk);
        self.tell_ends();
        answer
    }

    //= spec/keeper.md#silence
    fn exchange<T>(
        &self,
        talk: &mut Talk,
        write: impl FnOnce(&mut Vec<u8>),
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        self.send_ends(talk);
        if talk.over {
            return Err(Error::Keeper);
        }
        talk.request.clear();
        write(&mut talk.request);
        let Talk {
            over,
            request,
            answer,
            ..
        } = talk;
        let answered = || -> io::Result<T> {
            socket::send_whole(&self.socket, request)?;
            fault::point("kept.asked");
            let length = socket::recv_whole(&self.socket, answer)?;
            fault::point("kept.answered");
            let mut reader = Reader(answer.get(..length).unwrap_or(&[]));
            let answer_read = read(&mut reader);
            let whole = reader.0.is_empty();
            scrub::wipe(answer.get_mut(..length).unwrap_or(&mut []));
            answer_read
                .filter(|_| whole)
                .ok_or(io::ErrorKind::InvalidData.into())
        };
        answered().map_err(|_| {
            *over = true;
            socket::end(&self.socket);
            Error::Keeper
        })
    }
}

/// The domain, the key of `handle` if it came along, and the ledger.
type Welcomed = (Welcome, Option<(Handle, Slot<[u8; 32]>)>, OwnedFd);

/// What answers a greeting, and a request for the ledger.
fn welcomed(socket: &OwnedFd, handle: Option<&Handle>) -> Result<Welcomed, Error> {
    let (mut answer, mut fds) = ([0; 128], Vec::new());
    let got = socket::recv_with_fds(socket, &mut answer, &mut fds, true).map_err(gone)?;
    let mut reader = Reader(answer.get(..got.len).unwrap_or(&[]));
    let read = |reader: &mut Reader<'_>| {
        let welcome = Welcome::read(reader)?;
        let opened = match (reader.0.is_empty(), handle) {
            (false, Some(handle)) if reader.u8()? == OPENED => {
                Some((*handle, Slot::new(reader.array()?)))
            }
            _ => None,
        };
        reader.0.is_empty().then_some((welcome, opened))
    };
    let read = read(&mut reader);
    scrub::wipe(&mut answer);
    match (read, fds.pop()) {
        (Some((welcome, opened)), Some(ledger)) if fds.is_empty() && !got.truncated => {
            Ok((welcome, opened, ledger))
        }
        _ => Err(Error::Keeper),
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A connection that the keeper has ended is no error of the system's.
fn gone(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::WouldBlock => Error::Keeper,
        _ => Error::System(error),
    }
}

/// The code behind the first byte of a refusal that was just read.
fn refused(answer: &mut Reader<'_>) -> Option<Code> {
    Code::read(answer.u8()?).filter(|code| *code != Code::Done)
}

/// The head of an answer with one outcome for each of `count`.
fn counted(answer: &mut Reader<'_>, kind: u8, count: usize) -> Option<()> {
    let head = answer.u8()? == kind;
    let number = answer.array().map(u16::from_be_bytes)?;
    (head && usize::from(number) == count).then_some(())
}
