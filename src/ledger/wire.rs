//! The messages between a member and the keeper (`spec/keeper.md#messages`): fixed layouts,
//! read without trust and without a copy.
//!
//! Integers are big-endian. A message is read whole or not at all: one byte too few or too many
//! and it is none.

use super::importer::{Permitted, Terms};
use super::keeper::roles::{Ask, Role};
use super::{ContextId, Refusal};
use crate::ledger::Error;

/// The one version of `spec/keeper.md`.
pub(super) const VERSION: u8 = 1;
/// Contexts one request can name.
pub(super) const MOST: usize = 253;
/// Bytes of a handle: what names a departure in a token.
pub(crate) const HANDLE: usize = 24;
/// What names a departure in a token.
pub(crate) type Handle = [u8; HANDLE];
/// Bytes of a handle and its key.
pub(super) const GRANT: usize = HANDLE + 32;

const MAGIC: [u8; 3] = *b"BTK";
const LEAVING: usize = 4 + 8 + 9;
const ARRIVING: usize = 4 + 16 + 8 + 9;
const ENDING: usize = 4 + 8;
const OUTCOME: usize = 1 + 8 + GRANT;

/// Bytes of the longest request, and of the longest answer.
pub(super) const LONGEST_REQUEST: usize = 3 + MOST * ARRIVING;
pub(super) const LONGEST_ANSWER: usize = longest_answer(MOST);

/// Bytes of the longest answer to a request of so many contexts.
pub(super) const fn longest_answer(contexts: usize) -> usize {
    let outcomes = 3 + contexts * OUTCOME;
    // Every other answer is shorter than this.
    if outcomes > 128 { outcomes } else { 128 }
}

/// The request for the ledger's descriptor, which is all of it.
pub(super) const LEDGER: u8 = 8;

/// The first byte of each answer.
pub(super) const WELCOME: u8 = 0x81;
pub(super) const ESTABLISHED: u8 = 0x82;
pub(super) const DEPARTED: u8 = 0x83;
pub(super) const OPENED: u8 = 0x84;
pub(super) const ARRIVED: u8 = 0x85;
pub(super) const REVOKED: u8 = 0x87;
pub(super) const REFUSED: u8 = 0xff;

/// How one step went, in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Done = 0,
    Spent = 1,
    Expired = 2,
    Ended = 3,
    Unknown = 4,
    Importer = 5,
    Socket = 6,
    Full = 7,
    Quota = 8,
    Revoked = 9,
    Epochs = 10,
    Key = 11,
}

impl Code {
    const ALL: [Self; 12] = [
        Self::Done,
        Self::Spent,
        Self::Expired,
        Self::Ended,
        Self::Unknown,
        Self::Importer,
        Self::Socket,
        Self::Full,
        Self::Quota,
        Self::Revoked,
        Self::Epochs,
        Self::Key,
    ];

    pub(super) fn read(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u8 == byte)
    }
}

impl From<&Refusal> for Code {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Spent => Self::Spent,
            Refusal::Expired => Self::Expired,
            Refusal::Ended => Self::Ended,
            Refusal::Unknown => Self::Unknown,
            Refusal::Importer => Self::Importer,
            Refusal::Socket => Self::Socket,
            Refusal::Key => Self::Key,
            Refusal::Local(_) => Self::Full,
        }
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        match code {
            Code::Spent => Self::Spent,
            Code::Expired => Self::Expired,
            Code::Ended | Code::Revoked => Self::Ended,
            Code::Importer => Self::Importer,
            Code::Socket => Self::Socket,
            Code::Key => Self::Key,
            Code::Full => Self::Local(Error::Full),
            Code::Quota => Self::Local(Error::Quota),
            Code::Unknown | Code::Epochs | Code::Done => Self::Unknown,
        }
    }
}

/// Bytes that are taken from the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// `count` items of `N` bytes each, and nothing behind them.
    fn items<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let count = usize::from(self.array().map(u16::from_be_bytes)?);
        if count == 0 || count > MOST || self.0.len() != count * N {
            return None;
        }
        Some(core::mem::take(&mut self.0))
    }
}

/// A request, as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// And the departure whose key is asked for in the same breath.
    Hello(Option<Handle>),
    Establish,
    Depart(Terms, &'a [u8]),
    Open(Handle),
    Arrive(&'a [u8]),
    End(&'a [u8]),
    Revoke(ContextId),
    Ledger,
}

/// A context that is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) index: u32,
    pub(super) control: u64,
    pub(super) cookie: Option<u64>,
}

/// A context that is to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arriving {
    pub(crate) index: u32,
    pub(crate) id: ContextId,
    pub(crate) epoch: u64,
    /// That of the socket beside it.
    pub(crate) cookie: Option<u64>,
}

impl<'a> Request<'a> {
    /// Reads one message. None when it is not a request of this version.
    //= spec/keeper.md#messages
    pub(super) fn read(message: &'a [u8]) -> Option<Self> {
        let mut bytes = Reader(message);
        let request = match bytes.u8()? {
            1 => {
                if bytes.array()? != MAGIC || bytes.u8()? != VERSION {
                    return None;
                }
                let asks = !bytes.0.is_empty();
                Self::Hello(if asks { Some(bytes.array()?) } else { None })
            }
            2 => Self::Establish,
            3 => {
                let deadline = bytes.u64()?;
                let importer = permitted(&mut bytes)?;
                let terms = Terms { importer, deadline };
                Self::Depart(terms, bytes.items::<LEAVING>()?)
            }
            4 => Self::Open(bytes.array()?),
            5 => Self::Arrive(bytes.items::<ARRIVING>()?),
            6 => Self::End(bytes.items::<ENDING>()?),
            7 => Self::Revoke(bytes.array()?),
            LEDGER => Self::Ledger,
            _ => return None,
        };
        bytes.0.is_empty().then_some(request)
    }

    pub(super) fn ask(&self) -> Ask {
        match self {
            Self::Hello(_) => Ask::Hello,
            Self::Establish => Ask::Establish,
            Self::Depart(..) => Ask::Depart,
            Self::Open(_) => Ask::Open,
            Self::Arrive(_) => Ask::Arrive,
            Self::End(_) => Ask::End,
            Self::Revoke(_) => Ask::Revoke,
            Self::Ledger => Ask::Ledger,
        }
    }
}

/// The items of [`Request::Depart`].
pub(super) fn leaving(items: &[u8]) -> impl ExactSizeIterator<Item = Option<Leaving>> {
    items.chunks_exact(LEAVING).map(|item| {
        let mut item = Reader(item);
        Some(Leaving {
            index: item.u32()?,
            control: item.u64()?,
            cookie: cookie(&mut item)?,
        })
    })
}

/// The items of [`Request::Arrive`].
pub(super) fn arriving(items: &[u8]) -> impl ExactSizeIterator<Item = Option<Arriving>> {
    items.chunks_exact(ARRIVING).map(|item| {
        let mut item = Reader(item);
        Some(Arriving {
            index: item.u32()?,
            id: item.array()?,
            epoch: item.u64()?,
            cookie: cookie(&mut item)?,
        })
    })
}

/// The items of [`Request::End`]: entry and control word.
pub(super) fn ending(items: &[u8]) -> impl Iterator<Item = Option<(u32, u64)>> {
    items.chunks_exact(ENDING).map(|item| {
        let mut item = Reader(item);
        Some((item.u32()?, item.u64()?))
    })
}

fn cookie(bytes: &mut Reader<'_>) -> Option<Option<u64>> {
    match (bytes.u8()?, bytes.u64()?) {
        (0, 0) => Some(None),
        (1, cookie) => Some(Some(cookie)),
        _ => None,
    }
}

fn permitted(bytes: &mut Reader<'_>) -> Option<Permitted> {
    let (kind, number) = (bytes.u8()?, bytes.u32()?);
    let rest = (bytes.u64()?, bytes.u64()?, bytes.u64()?);
    let plain = rest == (0, 0, 0);
    match kind {
        0 if plain && number == 0 => Some(Permitted::Anyone),
        1 if plain => Some(Permitted::User(number)),
        2 if plain => Some(Permitted::ProcessGroup(number)),
        3 => Some(Permitted::Process {
            pid: number,
            started: rest.0,
            inode: rest.1,
            namespace: rest.2,
        }),
        _ => None,
    }
}

/// Where a message is put together.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for crate::secret::Scratch {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

pub(super) fn write_hello(out: &mut impl Sink, handle: Option<&Handle>) {
    out.put(&[1]);
    out.put(&MAGIC);
    out.put(&[VERSION]);
    out.put(handle.map_or(&[], |handle| &handle[..]));
}

pub(super) fn write_depart(out: &mut impl Sink, terms: &Terms, leaving: &[Leaving]) {
    out.put(&[3]);
    out.put(&terms.deadline.to_be_bytes());
    let (kind, number, rest) = match terms.importer {
        Permitted::Anyone => (0, 0, [0; 3]),
        Permitted::User(uid) => (1, uid, [0; 3]),
        Permitted::ProcessGroup(group) => (2, group, [0; 3]),
        Permitted::Process {
            pid,
            started,
            inode,
            namespace,
        } => (3, pid, [started, inode, namespace]),
    };
    out.put(&[kind]);
    out.put(&u32::to_be_bytes(number));
    rest.iter().for_each(|word| out.put(&word.to_be_bytes()));
    write_count(out, leaving.len());
    for one in leaving {
        out.put(&one.index.to_be_bytes());
        out.put(&one.control.to_be_bytes());
        write_cookie(out, one.cookie);
    }
}

pub(super) fn write_arrive(out: &mut impl Sink, arriving: &[Arriving]) {
    out.put(&[5]);
    write_count(out, arriving.len());
    for one in arriving {
        out.put(&one.index.to_be_bytes());
        out.put(&one.id);
        out.put(&one.epoch.to_be_bytes());
        write_cookie(out, one.cookie);
    }
}

pub(super) fn write_end(out: &mut impl Sink, ending: &[(u32, u64)]) {
    out.put(&[6]);
    write_count(out, ending.len());
    for (index, control) in ending {
        out.put(&index.to_be_bytes());
        out.put(&control.to_be_bytes());
    }
}

/// Callers have at most [`MOST`].
pub(super) fn write_count(out: &mut impl Sink, count: usize) {
    out.put(&(count.min(MOST) as u16).to_be_bytes());
}

fn write_cookie(out: &mut impl Sink, cookie: Option<u64>) {
    out.put(&[u8::from(cookie.is_some())]);
    out.put(&cookie.unwrap_or(0).to_be_bytes());
}

/// What the keeper says to a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) role: Role,
    pub(super) quota: u32,
    pub(super) key: u64,
    pub(super) domain: [u8; 16],
}

impl Welcome {
    pub(super) fn write(&self, out: &mut impl Sink) {
        out.put(&[WELCOME, VERSION, self.role.code()]);
        out.put(&self.quota.to_be_bytes());
        out.put(&self.key.to_be_bytes());
        out.put(&self.domain);
    }

    /// Reads it, and what stands behind it.
    pub(super) fn read<'a>(bytes: &mut Reader<'a>) -> Option<Self> {
        if bytes.array()? != [WELCOME, VERSION] {
            return None;
        }
        Some(Self {
            role: Role::from_code(bytes.u8()?)?,
            quota: bytes.u32()?,
            key: bytes.u64()?,
            domain: bytes.array()?,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
