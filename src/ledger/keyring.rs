//! The sealing keys of a domain, in a mapping its processes share.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use zeroize::Zeroizing;

use super::Error;
use super::header::{Header, KEYRING, PAGE};
use super::keys::{Keys, NoSlot, SLOT, VALUES, Values};
use crate::secret::{self, Depth};
use crate::sys::clock::boottime_ms;
use crate::sys::memory::Mapping;
use crate::sys::process;

/// Keys at once: the current one, and those within their grace.
const SLOTS: usize = 16;
const CURRENT: usize = 16;
const FIRST: usize = 64;

/// The keys that seal a domain's tokens: 256 random bits each, named by 64 random bits.
///
/// All processes of the domain see a rotation at once. A key that is no longer current opens
/// tokens until its grace is over; then it is wiped. A process killed in the middle of a rotation
/// leaves the keyring as good as before.
///
/// ```
/// use std::time::Duration;
/// use baton::ledger::Domain;
/// let domain = Domain::inherited(1000)?;
/// let keyring = domain.keyring().expect("this is no kept domain");
/// let old = keyring.with_current(|id, _key: &[u8; 32]| id)?;
/// let new = keyring.rotate(Duration::from_secs(60))?;
/// assert_eq!(keyring.with_current(|id, _key| id)?, new);
/// assert!(keyring.with(old, |_key: &[u8; 32]| ()).is_some());
/// # Ok::<(), baton::ledger::Error>(())
/// ```
pub struct Keyring {
    mapping: Mapping,
    header: Header,
    /// The word of the process that has locked the page.
    locked: AtomicU64,
}

impl Keyring {
    /// A new keyring with one key, in anonymous memory.
    pub(super) fn inherited(domain: [u8; 16]) -> Result<Self, Error> {
        Self::made(
            Mapping::create_sealed("baton-keys", PAGE * 8)?,
            domain,
            (0, 0),
        )
    }

    /// A new keyring with one key, in a mapping of [`PAGE`] zero words.
    pub(super) fn made(
        mapping: Mapping,
        domain: [u8; 16],
        home: (u64, u64),
    ) -> Result<Self, Error> {
        header(domain, home)?.write(mapping.as_words());
        let keyring = Self::open(mapping)?;
        keyring.rotate(Duration::ZERO)?;
        Ok(keyring)
    }

    /// The keyring in a mapping, if it is one, of this version and this boot.
    //= spec/domains.md#keyring
    pub(super) fn open(mapping: Mapping) -> Result<Self, Error> {
        let words = mapping.as_words();
        let header = Header::read(words).ok_or(Error::Damaged("check word of the keys"))?;
        if header.kind != KEYRING || header.options != 0 {
            return Err(Error::Damaged("magic or version of the keys"));
        }
        if header.sizes != (SLOTS as u64, 0) || words.len() != PAGE {
            return Err(Error::Damaged("length of the keys"));
        }
        if header.boot != process::boot_id()? {
            return Err(Error::Damaged("boot of the keys"));
        }
        mapping.keep_out_of_core_files()?;
        Ok(Self {
            mapping,
            header,
            locked: AtomicU64::new(0),
        })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Calls `f` with the id and the bytes of the key that seals now.
    ///
    /// [`Error::Damaged`] when the keyring names a key it does not have.
    pub fn with_current<R>(&self, f: impl FnOnce(u64, &[u8; 32]) -> R) -> Result<R, Error> {
        secret::scrubbed(Depth::Moved, || self.ask_current(f))
    }

    /// [`Keyring::with_current`] for a caller who wipes the stack ([`secret::scrubbed`]), once for
    /// all that it does.
    pub(crate) fn ask_current<R>(&self, f: impl FnOnce(u64, &[u8; 32]) -> R) -> Result<R, Error> {
        let key = self
            .keys()
            .current_key()
            .ok_or(Error::Damaged("no current key"))?;
        Ok(f(key.id, &key.key))
    }

    /// Calls `f` with the bytes of the key `id`. None when there is no such key, or its grace is
    /// over.
    pub fn with<R>(&self, id: u64, f: impl FnOnce(&[u8; 32]) -> R) -> Option<R> {
        secret::scrubbed(Depth::Moved, || self.ask(id, f))
    }

    /// [`Keyring::with`] for a caller who wipes the stack.
    pub(crate) fn ask<R>(&self, id: u64, f: impl FnOnce(&[u8; 32]) -> R) -> Option<R> {
        let key = self.keys().find(id, boottime_ms)?;
        Some(f(&key.key))
    }

    /// Makes a new key the current one; answers the id of the key that seals from now on. The
    /// present one opens for another `grace`.
    ///
    /// When another process rotates at the same time, one of the two keys is dropped, and both
    /// rotations have happened. [`Error::KeysInUse`] when 16 keys are within their grace.
    pub fn rotate(&self, grace: Duration) -> Result<u64, Error> {
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let made = secret::scrubbed(Depth::Derived, || {
            self.keys().rotate(values, boottime_ms(), grace)
        })?;
        self.wipe_retired();
        match made {
            Some(id) => Ok(id),
            None => self.with_current(|id, _| id),
        }
    }

    /// Wipes the keys whose grace is over. Any process may do this at any time.
    pub fn wipe_retired(&self) {
        self.keys().wipe_retired(boottime_ms());
    }

    fn keys(&self) -> Keys<'_, AtomicU64> {
        self.lock();
        let words = self.mapping.as_words();
        Keys::new(&words[CURRENT], &words[FIRST..FIRST + SLOTS * SLOT])
    }

    /// Locks the page in this process, once. Locks do not pass a fork.
    //= spec/domains.md#key-memory
    #[inline]
    fn lock(&self) {
        let word = process::word();
        if self.locked.load(Relaxed) != word {
            self.mapping.lock();
            self.locked.store(word, Relaxed);
        }
    }
}

impl From<NoSlot> for Error {
    fn from(_: NoSlot) -> Self {
        Self::KeysInUse
    }
}

fn header(domain: [u8; 16], home: (u64, u64)) -> Result<Header, Error> {
    Ok(Header {
        kind: KEYRING,
        sizes: (SLOTS as u64, 0),
        domain,
        boot: process::boot_id()?,
        options: 0,
        home,
    })
}

/// Id, key and time of a new key.
fn values() -> Result<Values, Error> {
    let mut values = Zeroizing::new([0; VALUES]);
    let mut random = Zeroizing::new([0; VALUES * 8]);
    while values.contains(&0) {
        secret::random(&mut random[..])?;
        for (value, bytes) in values.iter_mut().zip(random.chunks_exact(8)) {
            *value = bytes
                .iter()
                .fold(0, |value, byte| value << 8 | u64::from(*byte));
        }
        // The last is the time, and 16 bits that are not all zero.
        let [.., made] = &mut *values;
        *made &= 0xffff;
        if *made != 0 {
            *made |= boottime_ms() << 16;
        }
    }
    Ok(values)
}

#[cfg(all(test, not(loom)))]
mod tests;
