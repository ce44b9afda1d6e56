//! Random bytes without a system call each time.
//!
//! The pool lies in secret memory and is found through the page of this process: a forked child
//! has neither, and asks the kernel afresh. Bytes are wiped as they are given out. A copy of the
//! whole machine (a snapshot restored twice) gives the same bytes twice, as it copies all else.

use std::io;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::lock::Lock;
use super::memory;
use super::page::PAGE;
use super::process;

/// Bytes asked of the kernel at a time.
const POOL: usize = 1008;
/// More than this is asked of the kernel directly.
const DIRECT: usize = POOL / 4;

pub(super) struct Pool {
    lock: Lock,
    /// Bytes not yet given out, from the end.
    left: AtomicUsize,
    /// A cell of secret memory, or null.
    cell: AtomicPtr<u8>,
}

impl Pool {
    pub(super) const fn new() -> Self {
        Self {
            lock: Lock::new(),
            left: AtomicUsize::new(0),
            cell: AtomicPtr::new(std::ptr::null_mut()),
        }
    }
}

/// Fills `out` with random bytes from the kernel.
///
/// An error is the kernel's (no `getrandom`, or a filter that forbids it), and then `out` holds
/// nothing to rely on.
///
/// ```
/// let mut nonce = [0; 24];
/// baton::sys::entropy::fill(&mut nonce)?;
/// assert_ne!(nonce, [0; 24]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn fill(out: &mut [u8]) -> io::Result<()> {
    if out.len() > DIRECT {
        return ask(out);
    }
    // Also sees to it that the page is one that is wiped.
    process::supported()?;
    let pool = &PAGE.pool;
    let _held = pool.lock.hold();
    if pool.cell.load(Relaxed).is_null() {
        // Never given back: it is this process's for life.
        pool.cell
            .store(memory::take(memory::HEADER + POOL).as_ptr(), Relaxed);
    }
    // SAFETY: The cell was taken by this very process (a child's page reads null), has `POOL`
    // bytes behind its header, and is used only while the lock is held.
    let bytes = unsafe {
        std::slice::from_raw_parts_mut(pool.cell.load(Relaxed).add(memory::HEADER), POOL)
    };
    let mut left = pool.left.load(Relaxed);
    if left < out.len() {
        // Set only when the pool is full, so that a failure leaves what was left.
        ask(bytes)?;
        left = POOL;
    }
    let given = &mut bytes[left - out.len()..left];
    out.copy_from_slice(given);
    super::scrub::wipe(given);
    pool.left.store(left - out.len(), Relaxed);
    Ok(())
}

/// One or more system calls: the kernel may be interrupted when more than 256 bytes are wanted.
pub(super) fn ask(out: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < out.len() {
        match getrandom(&mut out[filled..], GetRandomFlags::empty()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
