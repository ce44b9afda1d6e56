//! The allocator that programs install: what is freed is zero, so that even code that is not ours
//! leaves nothing.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
#[path = "secret/memory.rs"]
mod memory;

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;

use baton::sys::alloc::WipingAllocator;
use memory::{marks_in_memory, write_mark};

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

#[test]
fn freed_memory_holds_nothing() {
    for (seed, len) in [(1, 32), (2, 1000), (3, 100_000), (4, 5_000_000)] {
        let mut bytes = vec![1; len];
        write_mark(&mut bytes, seed);
        // What nobody looks at need not be written.
        black_box(&mut bytes);
        assert_eq!(marks_in_memory(seed), 1);
        drop(bytes);
        assert_eq!(marks_in_memory(seed), 0);
    }
}

#[test]
fn growing_and_shrinking_leave_nothing_behind() {
    let mut bytes = vec![0; 40];
    write_mark(&mut bytes, 5);
    for len in [100, 5000, 300_000, 4_000_000, 200_000, 64] {
        bytes.resize(len, 7);
        bytes.shrink_to_fit();
        black_box(&mut bytes);
        assert_eq!(marks_in_memory(5), 1, "{len}");
    }
    assert_eq!(bytes[63], 7);
    drop(bytes);
    assert_eq!(marks_in_memory(5), 0);
}

#[test]
fn blocks_keep_their_alignment_and_content() {
    for align in [1, 8, 64, 4096] {
        let layout = Layout::from_size_align(100, align).unwrap();
        // SAFETY: Each block is used within its size and freed once, with its present layout.
        unsafe {
            let block = ALLOCATOR.alloc_zeroed(layout);
            assert!(block.addr().is_multiple_of(align) && (0..100).all(|i| *block.add(i) == 0));
            block.write_bytes(7, 100);
            let block = ALLOCATOR.realloc(block, layout, 10_000);
            assert!(block.addr().is_multiple_of(align) && (0..100).all(|i| *block.add(i) == 7));
            ALLOCATOR.dealloc(block, Layout::from_size_align(10_000, align).unwrap());
            // More than there is: the old block stays as it was.
            let block = ALLOCATOR.alloc(layout);
            block.write_bytes(7, 100);
            let too_large = isize::MAX as usize - 4096;
            assert!(ALLOCATOR.realloc(block, layout, too_large).is_null());
            assert!((0..100).all(|i| *block.add(i) == 7));
            ALLOCATOR.dealloc(block, layout);
        }
    }
}
