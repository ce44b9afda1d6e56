//! The heap of secret pages.
//!
//! It hands out *cells*: zeroed, aligned to 64 bytes, of one of 104 sizes (every 64 bytes up to
//! 4 KiB, then four sizes for each doubling up to 4 MiB; beyond that, whole pages). A cell's
//! first 16 bytes are its header; their first word, the *tag*, is not zero while the cell is
//! in use by the process that took it. Freed cells are zero but for a link to the next one.
//!
//! ```text
//! regions  64 KiB, 128 KiB, ... 32 MiB     one mmap each
//! runs     1 KiB ... 256 KiB of a region   cells of one size, taken in order
//! cells    go back to their size's list, are used again, and never leave it
//! large    a cell of more than 64 KiB is a mapping of its own; up to 8 MiB are kept for reuse
//! ```
//!
//! **Fork.** Lists, locks and bounds are on the page of this process, links in the cells, all of
//! it wiped in a child: the child has an empty heap with open locks, whatever other threads were
//! doing at the fork. The parent's regions stay mapped in the child, all zero, and the child
//! never hands them out again, so a cell inherited by it has tag 0 for ever. Nobody can mistake
//! it for a live one, and giving it back does nothing.
//!
//! **Cost.** One uncontended lock for each taking and giving. A million cells of 1.4 KiB are
//! about fifty mappings.

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};

use rustix::mm::{Advice, MapFlags, MlockFlags, ProtFlags};
use rustix::mm::{madvise, mlock, mlock_with, mmap_anonymous, munmap};

use super::super::lock::Lock;
use super::super::page::PAGE;
use super::super::process;

/// Bytes in front of what a cell holds: the tag, and the link while it is free.
pub(in crate::sys) const HEADER: usize = 16;
/// Every cell is aligned to this.
pub(super) const ALIGN: usize = 64;

/// Up to here, one size for every [`ALIGN`] bytes.
const FINE: usize = 4096;
const FINE_SIZES: usize = FINE / ALIGN;
/// Up to here, four sizes for each doubling; the largest size there is.
const COARSE: usize = 4 << 20;
const COARSE_SIZES: usize = 4 * (COARSE / FINE).ilog2() as usize;
const SIZES: usize = FINE_SIZES + COARSE_SIZES;
/// A cell larger than this is a mapping of its own.
const LARGE: usize = 64 << 10;
/// Bytes of free large cells kept for reuse.
const KEPT: usize = 8 << 20;

/// A mapping of at least this many bytes asks for huge pages: the first use of a page costs more
/// than a microsecond, a hundred times what a cell costs otherwise.
const HUGE: usize = 4 << 20;

/// Little, so that a process that uses a few cells of a few sizes touches a few pages.
const FIRST_RUN: usize = 1 << 10;
const RUN_DOUBLINGS: u32 = 8;
/// All that may be locked by default before Linux 5.16. Since then it is 8 MiB, which is the first
/// seven regions.
const FIRST_REGION: usize = 64 << 10;
const REGION_DOUBLINGS: u32 = 9;

/// All zero is an empty heap, and everything in it is atomic: a child may find it wiped.
pub(in crate::sys) struct Heap {
    pub(super) unlocked: AtomicBool,
    /// Bytes of free large cells.
    kept: AtomicUsize,
    regions: Regions,
    sizes: [Size; SIZES],
}

/// The cells of one size. The fields behind the lock are read and written only by its holder.
#[repr(align(64))]
struct Size {
    lock: Lock,
    runs: AtomicU32,
    /// The first free cell; each links to the next.
    free: AtomicPtr<u8>,
    /// The present run: cells from `next` to `end` were never used.
    next: AtomicPtr<u8>,
    end: AtomicPtr<u8>,
}

/// Where runs come from: the present region, used up to `next`.
#[repr(align(64))]
struct Regions {
    lock: Lock,
    mapped: AtomicU32,
    next: AtomicPtr<u8>,
    end: AtomicPtr<u8>,
}

impl Heap {
    pub(in crate::sys) const fn new() -> Self {
        Self {
            unlocked: AtomicBool::new(false),
            kept: AtomicUsize::new(0),
            regions: Regions {
                lock: Lock::new(),
                mapped: AtomicU32::new(0),
                next: AtomicPtr::new(std::ptr::null_mut()),
                end: AtomicPtr::new(std::ptr::null_mut()),
            },
            sizes: [const {
                Size {
                    lock: Lock::new(),
                    runs: AtomicU32::new(0),
                    free: AtomicPtr::new(std::ptr::null_mut()),
                    next: AtomicPtr::new(std::ptr::null_mut()),
                    end: AtomicPtr::new(std::ptr::null_mut()),
                }
            }; SIZES],
        }
    }
}

/// The index of the size that fits `bytes`, and the bytes of its cells. None: beyond all sizes,
/// then a cell is of whole pages.
const fn size_of_cell(bytes: usize) -> (Option<usize>, usize) {
    if bytes <= FINE {
        let index = bytes.saturating_sub(1) / ALIGN;
        (Some(index), (index + 1) * ALIGN)
    } else if bytes <= COARSE {
        let doubling = (bytes - 1).ilog2();
        let base = 1 << doubling;
        let step = base / 4;
        let quarter = (bytes - 1 - base) / step;
        let index = FINE_SIZES + 4 * (doubling - FINE.ilog2()) as usize + quarter;
        (Some(index), base + (quarter + 1) * step)
    } else {
        // Whole pages of any machine; more than the address space saturates, and is not mapped.
        (None, bytes.saturating_add(0xffff) & !0xffff)
    }
}

/// Bytes of a cell taken for `bytes`, header included: how far it can grow where it is.
pub(super) const fn cell_bytes(bytes: usize) -> usize {
    size_of_cell(bytes).1
}

/// Takes a cell of at least `bytes` (the header counts). Everything behind the tag is zero.
///
/// Without memory, or on a kernel that cannot wipe on fork, the program ends as it does when a
/// `Vec` cannot grow.
#[inline]
pub(in crate::sys) fn take(bytes: usize) -> NonNull<u8> {
    // The page must be one that is wiped before a lock on it is held.
    let word = process::word();
    let (index, size) = size_of_cell(bytes);
    let cell = match index {
        Some(index) if size <= LARGE => PAGE.heap.sizes[index].take(size),
        index => take_large(index, size),
    };
    let Some(cell) = cell else {
        out_of_memory(bytes)
    };
    // SAFETY: The cell is at least `ALIGN` bytes long, aligned to it, and this call's alone.
    unsafe { tag(cell) }.store(word, Relaxed);
    cell
}

#[cold]
fn out_of_memory(bytes: usize) -> ! {
    const LARGEST: usize = isize::MAX as usize & !(ALIGN - 1);
    let layout = Layout::from_size_align(bytes.min(LARGEST), ALIGN);
    handle_alloc_error(layout.unwrap_or(Layout::new::<u8>()))
}

/// Gives back a cell, of which everything behind the header has been wiped. Does nothing when the
/// cell was taken by the process this one was forked from.
///
/// # Safety
/// `cell` is from [`take`] with the same `bytes`, behind the header it is zero, and nobody uses
/// it afterwards.
#[inline]
pub(super) unsafe fn give(cell: NonNull<u8>, bytes: usize) {
    // SAFETY: The cell is mapped, in a child too, and its header is accessed only as atomics.
    let tag = unsafe { tag(cell) };
    if tag.load(Relaxed) == 0 {
        return;
    }
    tag.store(0, Relaxed);
    let (index, size) = size_of_cell(bytes);
    match index {
        Some(index) if size <= LARGE => PAGE.heap.sizes[index].give(cell),
        // SAFETY: It was mapped for itself, and has left the caller's hands.
        index => unsafe { give_large(index, cell, size) },
    }
}

/// Whether the cell was taken by this process. In a child: false for all it inherited.
///
/// # Safety
/// `cell` is from [`take`] and not given back.
#[inline]
pub(super) unsafe fn is_own(cell: NonNull<u8>) -> bool {
    // SAFETY: As this function demands.
    unsafe { tag(cell) }.load(Relaxed) != 0
}

/// # Safety
/// `cell` is the start of a cell, which stays mapped for `'a`.
#[inline]
unsafe fn tag<'a>(cell: NonNull<u8>) -> &'a AtomicU64 {
    // SAFETY: Cells are aligned to 64 bytes, and the first word is only ever accessed as this.
    unsafe { AtomicU64::from_ptr(cell.as_ptr().cast()) }
}

/// The link to the next free cell, behind the tag.
///
/// # Safety
/// `cell` is the start of a cell that nobody uses, which stays mapped for `'a`.
#[inline]
unsafe fn link<'a>(cell: NonNull<u8>) -> &'a AtomicPtr<u8> {
    // SAFETY: As for the tag; the header has 16 bytes.
    unsafe { AtomicPtr::from_ptr(cell.as_ptr().add(8).cast()) }
}

impl Size {
    #[inline]
    fn take(&self, size: usize) -> Option<NonNull<u8>> {
        let _held = self.lock.hold();
        if let Some(cell) = self.pop() {
            return Some(cell);
        }
        let next = self.next.load(Relaxed);
        let cell = if next < self.end.load(Relaxed) {
            next
        } else {
            self.new_run(size)?
        };
        // SAFETY: The run is made of whole cells of this size, and `next` was before its end.
        self.next.store(unsafe { cell.add(size) }, Relaxed);
        NonNull::new(cell)
    }

    /// The first of the free cells, without its link.
    #[inline]
    fn pop(&self) -> Option<NonNull<u8>> {
        let cell = NonNull::new(self.free.load(Relaxed))?;
        // SAFETY: A cell on the list is nobody's and stays mapped; its link was set by `push`.
        let link = unsafe { link(cell) };
        self.free.store(link.load(Relaxed), Relaxed);
        link.store(std::ptr::null_mut(), Relaxed);
        Some(cell)
    }

    #[inline]
    fn give(&self, cell: NonNull<u8>) {
        let _held = self.lock.hold();
        // SAFETY: The caller has given the cell up.
        unsafe { link(cell) }.store(self.free.load(Relaxed), Relaxed);
        self.free.store(cell.as_ptr(), Relaxed);
    }

    /// Sets `end` to that of a new run, and answers its start.
    #[cold]
    fn new_run(&self, size: usize) -> Option<*mut u8> {
        let runs = self.runs.load(Relaxed);
        let wanted = ((FIRST_RUN << runs.min(RUN_DOUBLINGS)) / size).max(1);
        let (start, cells) = PAGE.heap.regions.take(size, wanted)?;
        self.runs.store(runs.saturating_add(1), Relaxed);
        // SAFETY: The run is that long.
        self.end.store(unsafe { start.add(cells * size) }, Relaxed);
        Some(start)
    }
}

impl Regions {
    /// Between one and `wanted` cells of `size` bytes, and how many they are.
    fn take(&self, size: usize, wanted: usize) -> Option<(*mut u8, usize)> {
        let _held = self.lock.hold();
        let mut start = self.next.load(Relaxed);
        let mut room = self.end.load(Relaxed).addr() - start.addr();
        if room < size {
            // What is left of the old region, less than one cell, is never used.
            let mapped = self.mapped.load(Relaxed);
            room = FIRST_REGION << mapped.min(REGION_DOUBLINGS);
            start = map(room)?.as_ptr();
            self.mapped.store(mapped.saturating_add(1), Relaxed);
            // SAFETY: The region is that long.
            self.end.store(unsafe { start.add(room) }, Relaxed);
        }
        let cells = wanted.min(room / size);
        // SAFETY: The region has room for that many.
        self.next.store(unsafe { start.add(cells * size) }, Relaxed);
        Some((start, cells))
    }
}

#[cold]
fn take_large(index: Option<usize>, size: usize) -> Option<NonNull<u8>> {
    if let Some(index) = index {
        let sizes = &PAGE.heap.sizes[index];
        let _held = sizes.lock.hold();
        if let Some(cell) = sizes.pop() {
            PAGE.heap.kept.fetch_sub(size, Relaxed);
            return Some(cell);
        }
    }
    map(size)
}

/// # Safety
/// As [`give`]; the cell is a mapping of `size` bytes.
#[cold]
unsafe fn give_large(index: Option<usize>, cell: NonNull<u8>, size: usize) {
    let kept = &PAGE.heap.kept;
    if let Some(index) = index {
        // Several threads may add at once, and go over the bound by a cell each: it is no promise.
        if kept.load(Relaxed) + size <= KEPT {
            kept.fetch_add(size, Relaxed);
            return PAGE.heap.sizes[index].give(cell);
        }
    }
    // SAFETY: The range is a mapping of `map`, and nobody uses it. When the kernel refuses, the
    // pages stay mapped, and wiped.
    let _ = unsafe { munmap(cell.as_ptr().cast(), size) };
}

/// Maps `len` bytes of secret pages. None when the kernel has no room, or cannot make them so.
fn map(len: usize) -> Option<NonNull<u8>> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: A new anonymous mapping, where the kernel chooses: it overlaps nothing.
    let start =
        unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE).ok()? };
    // SAFETY: The range is the mapping just made, which nobody uses yet.
    let kept_secret = unsafe {
        madvise(start, len, Advice::LinuxWipeOnFork)
            .and_then(|()| madvise(start, len, Advice::LinuxDontDump))
    };
    if kept_secret.is_err() {
        // SAFETY: As above.
        let _ = unsafe { munmap(start, len) };
        return None;
    }
    if len >= HUGE {
        // A wish, which the kernel may not know or grant.
        // SAFETY: As above.
        let _ = unsafe { madvise(start, len, Advice::LinuxHugepage) };
    }
    // SAFETY: As above.
    unsafe { lock(start.cast(), len) };
    NonNull::new(start.cast())
}

/// Keeps a range out of swap, and remembers when it cannot. Pages are locked as they are first
/// used: a region that is mostly empty takes no memory (but counts in full against the limit).
///
/// # Safety
/// The range is mapped by the caller.
pub(super) unsafe fn lock(start: *mut u8, len: usize) -> bool {
    // SAFETY: As this function demands; locking changes no byte. Kernels before 4.4 have only
    // the older call.
    let answer = unsafe {
        match mlock_with(start.cast(), len, MlockFlags::ONFAULT) {
            Err(rustix::io::Errno::NOSYS) => mlock(start.cast(), len),
            answer => answer,
        }
    };
    if answer.is_err() {
        PAGE.heap.unlocked.store(true, Relaxed);
    }
    answer.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_and_wastes_little() {
        let mut last = None;
        for bytes in (1..COARSE)
            .step_by(61)
            .chain([64, 65, 4096, 4097, 8192, 8193, COARSE])
        {
            let (index, size) = size_of_cell(bytes);
            let index = index.unwrap();
            assert!(index < SIZES && size >= bytes && size % ALIGN == 0);
            assert!(
                size - bytes < ALIGN || (size - bytes) * 4 < bytes,
                "{bytes} in {size}"
            );
            assert_eq!(size_of_cell(size), (Some(index), size), "a size is its own");
            last = Some(index);
        }
        assert_eq!(last, Some(SIZES - 1));
        assert_eq!(size_of_cell(COARSE + 1), (None, COARSE + 0x10000));
        assert_eq!(size_of_cell(usize::MAX).0, None);
    }
}
