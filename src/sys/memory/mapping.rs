//! Memory that several processes share.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use rustix::fs::{fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create, seek};
use rustix::io::{Errno, pread};
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

    /// Puts the file of `fd` in this one's place, for reading only, at the same addresses: who
    /// reads meanwhile reads the old words or the new ones. `InvalidData` when it is not as long, or
    /// when its size is not sealed.
    pub fn replace_read_only(&self, fd: impl AsFd) -> io::Result<()> {
        let fd = fd.as_fd();
        let sealed = fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(FIXED_SIZE));
        if !sealed || usize::try_from(fstat(fd)?.st_size) != Ok(self.len) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: The range is this mapping, which the kernel replaces in one step; all access to it
        // is by atomics, whatever file is behind it.
        unsafe {
            mmap(
                self.start.as_ptr().cast(),
                self.len,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::FIXED,
                fd,
                0,
            )?;
        }
        // The old file is nobody's any more. SAFETY: Both are open descriptors of this process; the
        // old one goes on to be owned by this value.
        match unsafe { libc::dup3(fd.as_raw_fd(), self.fd.as_raw_fd(), libc::O_CLOEXEC) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Writes the words that `fd`, a file of the same length, holds and that are not zero. What
    /// neither file has memory for gets none.
    pub fn copy_words_from(&self, fd: impl AsFd) -> io::Result<()> {
        let fd = fd.as_fd();
        let (mut at, end) = (0, self.len as u64);
        let mut piece = vec![0; 64 * 1024];
        while at < end {
            let start = match seek(fd, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                answer => answer?,
            };
            let stop = seek(fd, SeekFrom::Hole(start))?.min(end);
            at = start;
            while at < stop {
                let most = usize::try_from(stop - at).map_or(piece.len(), |n| n.min(piece.len()));
                let read = pread(fd, &mut piece[..most], at)?;
                // Areas begin and end at pages.
                if read == 0 || read % 8 != 0 {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let place = usize::try_from(at / 8).unwrap_or(usize::MAX);
                let words = self.as_words().get(place..).unwrap_or(&[]);
                for (word, bytes) in words.iter().zip(piece[..read].as_chunks().0) {
                    match u64::from_ne_bytes(*bytes) {
                        0 => {}
                        value => word.store(value, Relaxed),
                    }
                }
                at += read as u64;
            }
        }
        Ok(())
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
