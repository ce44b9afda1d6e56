//! A global allocator that wipes what is freed.

use std::alloc::{GlobalAlloc, Layout, System};

use super::scrub::wipe_raw;

/// The system's allocator, with every block set to zero before it is given back.
///
/// Secrets of our own live in secret pages and need no allocator. This one is for the code that
/// is not ours: rustls leaves traffic keys in freed blocks, formatting leaves text. A program
/// installs it; a library never does. It costs one `memset` for each free, and growing in place
/// is given up: a grown block is a new one, so that the old can be wiped.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: baton::sys::alloc::WipingAllocator = baton::sys::alloc::WipingAllocator;
/// # drop(vec![1; 100]);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct WipingAllocator;

// SAFETY: Each block comes from `System` with the caller's layout and goes back to it with the
// same one; between the two only the block's own bytes are written, when the caller has given
// them up.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: The caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: The caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: The block is `layout.size()` bytes long and the caller uses it no more.
        unsafe {
            wipe_raw(block, layout.size());
            System.dealloc(block, layout);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: The caller promises that the new size, rounded up to the alignment, does not
        // overflow; both blocks are valid for the shorter of the two sizes and do not overlap.
        unsafe {
            let new = System.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(block, new, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}
