//! Descriptors that libraries tell as numbers only.

use std::os::fd::{AsRawFd, BorrowedFd};

use mio::Registry;

/// The epoll instance of a registry: ready to be read when something is ready in it.
pub fn of_registry(registry: &Registry) -> BorrowedFd<'_> {
    // SAFETY: the registry owns the descriptor, and is borrowed as long as the answer.
    unsafe { BorrowedFd::borrow_raw(registry.as_raw_fd()) }
}
