//! The program: see [`baton::cli`].

use std::process::ExitCode;

use baton::sys::alloc::WipingAllocator;

// What libraries leave of keys and plaintext in the heap does not outlive its use there.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    baton::cli::main()
}
