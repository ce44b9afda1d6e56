//! The operating system, and the only room with `unsafe`.
//!
//! Everything here is a small safe operation over one kernel interface: pages that a forked
//! child reads as zeros, processes that can be told apart after their number was used again,
//! mappings that several processes share, sockets that carry descriptors, clocks. It knows
//! nothing of contexts, and decides nothing for those who do.
//!
//! Linux 4.14 is the oldest kernel that can keep the promises ([`process::supported`] asks).
//! What came later is used where it exists; where it does not, the value says so:
//!
//! | needs | since | without it |
//! |---|---|---|
//! | `MADV_WIPEONFORK` | 4.14 | [`process::supported`] is an error, no context can be active |
//! | `pidfd_open` | 5.3 | [`process::Child`] has no descriptor; the start time tells processes apart |
//! | `F_SEAL_FUTURE_WRITE` | 5.1 | a kept domain cannot be made |
//! | `SO_PEERPIDFD` | 6.5 | [`socket::peer_pidfd`] answers none; credentials and start time remain |
//! | inodes of processes | 6.9 | [`process::Identity`] has inode 0; the start time remains |
//! | `RLIMIT_MEMLOCK` | | [`memory::unlocked`] is true: secrets may reach swap |

// A global allocator that wipes what is freed.
pub mod alloc;
// The two clocks: one that sleeps with no one, one that people read.
pub mod clock;
// Descriptors of libraries.
pub mod descriptor;
// Random bytes without a system call each time.
pub mod entropy;
// Points at which a test build can be made to crash, stop or fail.
pub mod fault;
#[cfg(test)]
mod kernel;
mod lock;
// Memory with properties: secret pages, and mappings shared by processes.
pub mod memory;
mod page;
// This process, others, and children.
pub mod process;
// Descriptors that a service manager passed to this process.
pub mod passed;
// A word in shared memory that tells of a thread's end.
pub mod robust;
// Wiping memory that the compiler would rather leave.
pub mod scrub;
// Signals as a descriptor.
pub mod signal;
// Unix sockets between processes, and what they tell about the peer.
pub mod socket;
