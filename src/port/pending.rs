//! What is pending on a session, and the parts of its connection.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::driver::{Driver, Timer};
use super::held::Common;
use super::{Amount, Completion, Error, Operation, Session};

/// A socket, and the driver that has it.
pub(super) struct Link {
    pub(super) socket: OwnedFd,
    pub(super) driver: Arc<Driver>,
    pub(super) key: usize,
    pub(super) timer: Option<Timer>,
    /// It is told when the socket has room.
    pub(super) room: bool,
}

/// A handshake that was started.
pub(super) struct Handshake {
    pub(super) tag: u64,
    pub(super) session: Session,
    pub(super) deadline: Instant,
}

/// A receive that was started.
pub(super) struct Receive {
    pub(super) tag: u64,
    pub(super) session: Session,
    pub(super) buffer: Vec<u8>,
    pub(super) filled: usize,
    pub(super) amount: Amount,
    pub(super) deadline: Option<Instant>,
}

/// A send that was started.
pub(super) struct Send {
    pub(super) tag: u64,
    pub(super) session: Session,
    pub(super) data: Vec<u8>,
    pub(super) sealed: usize,
    pub(super) deadline: Option<Instant>,
    /// What [`Unsent::taken`] is once the socket has all of it; known when all is sealed.
    pub(super) end: Option<u64>,
}

/// Bytes for the socket, and how many of them it has taken.
#[derive(Default)]
pub(super) struct Unsent {
    pub(super) bytes: Vec<u8>,
    start: usize,
    /// All bytes that were ever taken.
    pub(super) taken: u64,
}

impl Unsent {
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Appends `bytes`.
    pub(super) fn put(&mut self, bytes: Vec<u8>) {
        match self.bytes.is_empty() {
            true => self.bytes = bytes,
            false => self.bytes.extend_from_slice(&bytes),
        }
    }

    pub(super) fn took(&mut self, count: usize) {
        self.start += count;
        self.taken += count as u64;
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
            // An idle session holds no buffer.
            self.bytes = Vec::new();
        } else if self.start * 2 >= self.bytes.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// What `taken` is when all that waits now has been taken.
    pub(super) fn end(&self) -> u64 {
        self.taken + self.waiting().len() as u64
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        self.bytes.drain(..self.start);
        self.taken += self.bytes.len() as u64;
        self.start = 0;
        core::mem::take(&mut self.bytes)
    }
}

impl Link {
    pub(super) fn new(socket: OwnedFd, driver: Arc<Driver>, key: usize, room: bool) -> Self {
        Self {
            socket,
            driver,
            key,
            timer: None,
            room,
        }
    }

    /// Takes the socket back from the driver.
    pub(super) fn unlink(self) -> OwnedFd {
        if let Some(timer) = self.timer {
            self.driver.forget(timer);
        }
        self.driver.remove(self.key, self.socket.as_fd());
        self.socket
    }
}

impl Send {
    pub(super) fn complete(self, common: &Common, error: Option<Error>) {
        common.post(Completion {
            operation: Operation::Send,
            tag: self.tag,
            session: Some(self.session),
            value: self.sealed as u64,
            data: self.data,
            error,
        });
    }
}
