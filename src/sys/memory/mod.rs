//! Memory with properties: secret pages, and mappings shared by processes.
//!
//! Secret pages are
//! - read as zeros by a forked child (`MADV_WIPEONFORK`),
//! - left out of core files (`MADV_DONTDUMP`),
//! - kept out of swap (`mlock2`) as far as `RLIMIT_MEMLOCK` goes; [`unlocked`] tells when it
//!   did not go far enough,
//! - wiped when what lay in them is dropped.
//!
//! [`Cell`] holds one value there, [`Buffer`] bytes. Both end the program as the standard
//! library's collections do when there is no memory ([`std::alloc::handle_alloc_error`]).

mod buffer;
mod cell;
mod heap;
mod mapping;
mod text;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering::Relaxed;

use super::page::PAGE;

pub use buffer::Buffer;
pub use cell::Cell;
pub(super) use heap::{HEADER, Heap, take};
pub use mapping::Mapping;
pub use text::gather_code;

/// Whether some secret of this process lies in memory that could not be locked, and so may reach
/// swap: `RLIMIT_MEMLOCK` was too small for all of it, secret pages and locked mappings. Once true
/// it stays so.
///
/// A forked child starts with false, and locks its own.
pub fn unlocked() -> bool {
    PAGE.heap.unlocked.load(Relaxed)
}
