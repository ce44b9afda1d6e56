//! Memory that several processes share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::fs::{fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::super::process;
use super::heap::lock;

/// A file or an anonymous file, mapped whole, for reading and writing, and shared: forked
/// children see the same words, and so does every process that maps the descriptor.
///
/// The words are atomic because anyone with the descriptor may write at any time: what is read
/// is hostile until checked.
///
/// ```
/// use std::sync::atomic::Ordering::Relaxed;
/// use baton::sys::memory::Mapping;
/// let mapping = Mapping::create_sealed("example", 4096)?;
/// mapping.as_words()[7].store(42, Relaxed);
/// let same = Mapping::from_fd(mapping.fd().try_clone_to_owned()?)?;
/// assert!(same.is_sealed());
/// assert_eq!(same.as_words()[7].load(Relaxed), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
    sealed: bool,
    /// The word of the only process that has it: none when forked children have it, too.
    alone: Option<u64>,
    fd: OwnedFd,
}

// SAFETY: The mapping is owned; its words are atomics.
unsafe impl Send for Mapping {}
// SAFETY: Shared access is through atomics only.
unsafe impl Sync for Mapping {}

/// Nobody can change the size: reading never meets a page that is not there.
const FIXED_SIZE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

impl Mapping {
    /// An anonymous file (`memfd_create`) of `len` bytes, all zero, whose size is sealed.
    ///
    /// `name` shows in `/proc/PID/maps`, at most 249 bytes. Pages take memory when first written.
    /// `len` is a multiple of 8 and not 0, or the error is `InvalidInput`.
    pub fn create_sealed(name: &str, len: usize) -> io::Result<Self> {
        let fd = anonymous(name, len)?;
        // No seal against writing: every process of an inherited domain writes.
        fcntl_add_seals(&fd, FIXED_SIZE | SealFlags::SEAL)?;
        Self::from_fd(fd)
    }

    /// As [`Mapping::create_sealed`], but this mapping is the only one through which anybody can
    /// ever write: the file is sealed against further ones (`F_SEAL_FUTURE_WRITE`, Linux 5.1;
    /// `InvalidInput` before), and a forked child does not have it (`MADV_DONTFORK`). A child that
    /// touches it is killed by the kernel (`SIGSEGV`).
    pub fn create_sole_writer(name: &str, len: usize) -> io::Result<Self> {
        let mut mapping = Self::from_fd(anonymous(name, len)?)?;
        // SAFETY: The range is this mapping; the advice changes no byte here.
        unsafe { madvise(mapping.start.as_ptr().cast(), len, Advice::LinuxDontFork)? };
        mapping.alone = Some(process::word());
        fcntl_add_seals(
            &mapping.fd,
            FIXED_SIZE | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
        )?;
        mapping.sealed = true;
        Ok(mapping)
    }

    /// Maps the whole of what `fd` refers to, at its present size: a multiple of 8 and not 0, or
    /// the error is `InvalidData`.
    ///
    /// Whether the size can still change, [`Mapping::is_sealed`] tells. When it can and someone
    /// makes the file shorter, the next access behind its end kills the process (`SIGBUS`): map
    /// unsealed files only where none but this user can write.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::map(fd, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// As [`Mapping::from_fd`], for reading only: the kernel kills who stores to a word of it
    /// (`SIGSEGV`).
    pub fn from_fd_read_only(fd: OwnedFd) -> io::Result<Self> {
        Self::map(fd, ProtFlags::READ)
    }

    fn map(fd: OwnedFd, protection: ProtFlags) -> io::Result<Self> {
        let sealed = fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(FIXED_SIZE));
        let size = fstat(&fd)?.st_size;
        let len = usize::try_from(size).unwrap_or(0);
        if len == 0 || len % size_of::<AtomicU64>() != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: A new mapping where the kernel chooses: it overlaps nothing. All access to it
        // is by atomics, so other processes may change it.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                protection,
                MapFlags::SHARED,
                &fd,
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            start,
            len,
            sealed,
            alone: None,
            fd,
        })
    }

    /// The words, `len() / 8` of them.
    #[inline]
    pub const fn as_words(&self) -> &[AtomicU64] {
        // SAFETY: The mapping begins at a page, is `len` bytes long, lives as long as `self`, and
        // every bit pattern is an `AtomicU64`.
        unsafe {
            std::slice::from_raw_parts(
                self.start.as_ptr().cast(),
                self.len / size_of::<AtomicU64>(),
            )
        }
    }

    /// Bytes mapped.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // An empty mapping cannot be.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody can change the size any more.
    pub const fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The descriptor, to be passed to another process. It closes on `exec`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Keeps the mapping out of this process's core files, and out of those of processes forked
    /// from it afterwards. Each process that maps the descriptor does this for itself.
    pub fn keep_out_of_core_files(&self) -> io::Result<()> {
        // SAFETY: The range is this mapping; the advice changes no byte.
        unsafe { madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxDontDump)? };
        Ok(())
    }

    /// Keeps the mapping out of swap, page by page as they are used. False when `RLIMIT_MEMLOCK`
    /// does not allow it, and then [`super::unlocked`] is true as well. A forked child must lock
    /// again.
    pub fn lock(&self) -> bool {
        // SAFETY: The range is this mapping.
        unsafe { lock(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.alone.is_some_and(|word| word != process::word()) {
            // A child's copy, which was never mapped: something else may lie there.
            return;
        }
        // SAFETY: The range is this mapping, and borrows of its words have ended.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// An anonymous file of `len` zero bytes that takes seals.
fn anonymous(name: &str, len: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        answer => answer?,
    };
    ftruncate(&fd, len as u64)?;
    Ok(fd)
}
