//! The processes among which tokens may travel: a ledger and its sealing keys.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{SealFlags, fcntl_get_seals};

use super::link::Link;
use super::{Error, Handle, Keyring, Ledger, Options, Refusal, random_id, runtime};
use crate::secret::Slot;
use crate::sys::memory::Mapping;

/// A ledger and its sealing keys (`spec/domains.md`). A handle: clones name the same domain, also
/// in forked children.
///
/// SECURITY: who can map a domain is a full member: it can seal and open its tokens, and end its
/// contexts. Members are protected from each other's crashes, not from each other's malice.
///
/// ```
/// use baton::ledger::Domain;
/// let domain = Domain::inherited(1_000_000)?;
/// // What another program needs, over a socket or an exec:
/// let [ledger, keys] = domain.fds().unwrap().map(|fd| fd.try_clone_to_owned());
/// let same = Domain::from_fds(ledger?, keys?)?;
/// assert_eq!(same.id(), domain.id());
/// # Ok::<(), baton::ledger::Error>(())
/// ```
#[derive(Clone)]
pub struct Domain(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    /// None in a member of a kept domain.
    keyring: Option<Keyring>,
}

impl Domain {
    /// A new domain of this process and those forked from it, for `capacity` contexts at once and
    /// otherwise the default [`Options`].
    pub fn inherited(capacity: u32) -> Result<Self, Error> {
        Self::inherited_with(&Options {
            capacity,
            ..Options::default()
        })
    }

    /// A new domain of this process and those forked from it.
    ///
    /// [`Error::System`] when an option is out of its bounds, or memory or descriptors are short.
    //= spec/domains.md#inherited
    pub fn inherited_with(options: &Options) -> Result<Self, Error> {
        let id = random_id()?;
        Ok(Self::of(
            Ledger::made(options, id)?,
            Some(Keyring::inherited(id)?),
        ))
    }

    /// The domain `name` of this user, made if there is none since the machine was started; of
    /// `options` only if it is made. All programs of the user that open the name are in it.
    ///
    /// The files lie in `$XDG_RUNTIME_DIR/baton` or its replacements (`spec/domains.md#names`);
    /// [`Error::Refused`] when directory or files are not this user's alone, [`Error::Damaged`]
    /// when they do not hold a domain.
    pub fn file(name: &str, options: &Options) -> Result<Self, Error> {
        Self::file_in(&runtime::directory(), name, options)
    }

    /// As [`Domain::file`], in this directory, which is made if its parent is there.
    pub fn file_in(directory: &Path, name: &str, options: &Options) -> Result<Self, Error> {
        let (ledger, keyring) = runtime::open(directory, name, options)?;
        Ok(Self::of(ledger, Some(keyring)))
    }

    /// The domain whose two descriptors another process gave to this one.
    ///
    /// [`Error::Refused`] when they are not two sealed memfds of one domain, [`Error::Damaged`]
    /// when they do not hold one.
    //= spec/domains.md#from-descriptors
    pub fn from_fds(ledger: OwnedFd, keys: OwnedFd) -> Result<Self, Error> {
        check_seals(&ledger)?;
        check_seals(&keys)?;
        let ledger = Ledger::open(Mapping::from_fd(ledger)?)?;
        let keyring = Keyring::open(Mapping::from_fd(keys)?)?;
        if keyring.header().domain != ledger.domain_id() {
            return Err(Error::Refused("ledger and keys of two domains"));
        }
        Ok(Self::of(ledger, Some(keyring)))
    }

    /// The kept domain at the other end of `socket`, as a member of it: what the keeper made
    /// [the socket](super::keeper::Keeper::connect) for. Only the process that calls this is
    /// connected; its forked children need sockets of their own.
    ///
    /// The member maps the ledger for reading and has no sealing key: what changes the ledger,
    /// it asks the keeper for. When the keeper is gone, every context is dead.
    ///
    /// [`Error::Keeper`] when the keeper does not answer or ends the connection,
    /// [`Error::Refused`] or [`Error::Damaged`] when what it gives is no kept domain.
    //= spec/keeper.md#hello
    pub fn kept(socket: OwnedFd) -> Result<Self, Error> {
        Self::kept_for(socket, None)
    }

    /// [`Domain::kept`], for who comes to import what is named by `handle`.
    pub(crate) fn kept_for(socket: OwnedFd, handle: Option<&Handle>) -> Result<Self, Error> {
        let (link, ledger) = Link::greet(socket, handle)?;
        let seals = fcntl_get_seals(&ledger).unwrap_or(SealFlags::empty());
        let fixed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        if !seals.contains(fixed | SealFlags::FUTURE_WRITE) {
            return Err(Error::Refused("descriptor without the seals"));
        }
        let id = link.domain();
        let ledger = Ledger::linked(Mapping::from_fd_read_only(ledger)?, link)?;
        if ledger.domain_id() != id {
            return Err(Error::Refused("ledger of another domain"));
        }
        Ok(Self::of(ledger, None))
    }

    /// Whether this process is a member of a kept domain, and has no sealing keys.
    pub fn is_kept(&self) -> bool {
        self.0.ledger.link().is_some()
    }

    /// Whether both handles are of one domain, and in a kept one of one connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.id() == other.id() && (!self.is_kept() || Arc::ptr_eq(&self.0, &other.0))
    }

    /// The key of a kept token, which the keeper gives to its importer alone.
    pub(crate) fn ask_key(&self, id: u64, handle: &Handle) -> Result<Slot<[u8; 32]>, Refusal> {
        match self.0.ledger.link() {
            Some(link) => link.open(id, handle),
            None => Err(Refusal::Key),
        }
    }

    fn of(ledger: Ledger, keyring: Option<Keyring>) -> Self {
        Self(Arc::new(Inner { ledger, keyring }))
    }

    /// The descriptors of ledger and keys, in this order, for [`Domain::from_fds`] in another
    /// process. They close on `exec`; a file domain's are of no use there. None of a kept domain.
    pub fn fds(&self) -> Option<[BorrowedFd<'_>; 2]> {
        let keyring = self.keyring()?;
        Some([self.0.ledger.mapping().fd(), keyring.mapping().fd()])
    }

    /// The domain's id: 128 random bits.
    pub fn id(&self) -> [u8; 16] {
        self.0.ledger.domain_id()
    }

    /// Who runs each context.
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// The keys that seal tokens. The members of a kept domain have none.
    //= spec/keeper.md#keys
    pub fn keyring(&self) -> Option<&Keyring> {
        self.0.keyring.as_ref()
    }

    /// [`Ledger::sweep`], and [`Keyring::wipe_retired`].
    pub fn sweep(&self) -> Result<usize, Error> {
        self.keyring().inspect(|keyring| keyring.wipe_retired());
        self.0.ledger.sweep()
    }
}

/// Nobody can change the size, nobody is kept from writing.
//= spec/domains.md#seals
fn check_seals(fd: impl AsFd) -> Result<(), Error> {
    let wanted = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let unwanted = SealFlags::WRITE | SealFlags::FUTURE_WRITE;
    match fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(wanted) && !seals.intersects(unwanted) => Ok(()),
        Ok(_) => Err(Error::Refused("descriptor without the seals")),
        Err(_) => Err(Error::Refused("descriptor of something else")),
    }
}
