//! The program's code in huge pages, for a process that does little but fork.
//!
//! The kernel gives a child no page table for what is mapped from a file: each child faults the
//! code in again, sixteen pages at a time, and takes all of them out when it ends. For a child
//! that lives for a few hundred microseconds this is a good part of its life. Code in anonymous
//! huge pages is in the child from the start, by one entry for each 2 MiB, and shared for good:
//! nobody can write to it.

use std::ffi::c_void;
use std::io;
use std::ops::Range;

use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mprotect,
    mremap_fixed, munmap,
};

/// A huge page of this machine.
const HUGE: usize = 2 << 20;

/// Moves this program's code into huge pages, and answers how many they are: 0 where the kernel
/// has none to give (before Linux 6.1, among others), or the code does not lie so that it can be.
///
/// The bytes stay the same, at the same addresses, and are never writable there. The process takes as much more memory, once,
/// however many children share it.
///
/// An error is the kernel's; what was moved by then stays so.
//= spec/processes.md#code
pub fn gather_code() -> io::Result<usize> {
    if cfg!(not(target_arch = "x86_64")) {
        // Elsewhere code that was written has to be told to the processor, too.
        return Ok(0);
    }
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let here = gather_code as fn() -> io::Result<usize> as usize;
    let ranges: Vec<Range<usize>> = maps.lines().filter_map(range).collect();
    let Some(code) = ranges.iter().find(|range| range.contains(&here)) else {
        return Ok(0);
    };
    let is_free_for_code = |slot: usize| {
        ranges
            .iter()
            .all(|range| range == code || range.end <= slot || slot + HUGE <= range.start)
    };
    // What else there may be lies before or behind it.
    let mut slots = code.start & !(HUGE - 1)..code.end.next_multiple_of(HUGE);
    if !is_free_for_code(slots.start) {
        slots.start += HUGE;
    }
    if slots.start < slots.end && !is_free_for_code(slots.end - HUGE) {
        slots.end -= HUGE;
    }
    match slots.is_empty() {
        true => Ok(0),
        false => gather(&slots, code),
    }
}

/// The addresses of a line of `/proc/self/maps`.
fn range(line: &str) -> Option<Range<usize>> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let number = |digits| usize::from_str_radix(digits, 16).ok();
    Some(number(start)?..number(end)?)
}

/// Moves what there is of `code` in `slots`, which are whole huge pages, and answers how many they
/// are.
fn gather(slots: &Range<usize>, code: &Range<usize>) -> io::Result<usize> {
    let len = slots.len();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: A new anonymous mapping, where the kernel chooses: it overlaps nothing.
    let room =
        unsafe { mmap_anonymous(std::ptr::null_mut(), len + HUGE, access, MapFlags::PRIVATE)? };
    let before = room.addr().next_multiple_of(HUGE) - room.addr();
    let pages = room.wrapping_byte_add(before);
    // SAFETY: Both ends of that mapping, which nobody uses; only the pages are left.
    unsafe {
        if before > 0 {
            munmap(room, before)?;
        }
        if before < HUGE {
            munmap(pages.wrapping_byte_add(len), HUGE - before)?;
        }
    }
    let moved = match fill(pages, slots, code) {
        // SAFETY: The pages hold what the slots do, to be executed and not written, and nothing but
        // this code is mapped in the slots: whoever runs there goes on with the same bytes.
        Ok(()) => unsafe {
            let slots = std::ptr::with_exposed_provenance_mut(slots.start);
            mremap_fixed(pages, len, len, MremapFlags::MAYMOVE, slots).map(|_| len / HUGE)
        },
        Err(Errno::INVAL | Errno::NOMEM | Errno::AGAIN | Errno::BUSY) => Ok(0),
        Err(error) => Err(error),
    };
    if !matches!(moved, Ok(1..)) {
        // SAFETY: The pages are still where they were made, and nobody uses them.
        unsafe { munmap(pages, len)? };
    }
    Ok(moved?)
}

/// Makes `pages` huge ones, with the bytes of the slots.
fn fill(pages: *mut c_void, slots: &Range<usize>, code: &Range<usize>) -> Result<(), Errno> {
    let start = slots.start.max(code.start);
    let len = slots.end.min(code.end) - start;
    // SAFETY: The pages are as long as the slots, of a mapping that only the caller knows of; the
    // code is readable, and what is copied of it lies within both.
    unsafe {
        madvise(pages, slots.len(), Advice::LinuxHugepage)?;
        let from = std::ptr::with_exposed_provenance::<u8>(start);
        let to = pages.cast::<u8>().add(start - slots.start);
        std::ptr::copy_nonoverlapping(from, to, len);
        // It was advice so far: small pages would cost each child more than they spare it.
        if libc::madvise(pages, slots.len(), libc::MADV_COLLAPSE) != 0 {
            return Err(Errno::INVAL);
        }
        mprotect(
            pages,
            slots.len(),
            MprotectFlags::READ | MprotectFlags::EXEC,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= proves spec/processes.md#code
    #[test]
    fn code_goes_on_where_it_was_and_so_it_does_in_a_child() {
        use crate::sys::process::{Fork, exit_now, fork};
        let Fork::Parent(mut child) = fork().unwrap() else {
            // Twice: what was moved can be moved again.
            let gathered = [gather_code(), gather_code()];
            let Ok(Fork::Parent(mut grandchild)) = fork() else {
                exit_now(range("1-3 ").map_or(0, |range| range.len() as u8));
            };
            let ran = grandchild.wait().ok().and_then(|status| status.code());
            let same = matches!(gathered, [Ok(first), Ok(second)] if first == second);
            exit_now(u8::from(!same || ran != Some(2)));
        };
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = "55a121505000-55a1218f5000 r-xp 0013d000 fe:00 5760609  /bin/with space";
        assert_eq!(range(line), Some(0x55a1_2150_5000..0x55a1_218f_5000));
        for line in ["", "55a1-", "x-y r-xp", "1-2"] {
            assert_eq!(range(line), None);
        }
    }
}
