//! One end of a link between the supervisor and another process of the server
//! (`spec/processes.md#link`).
//!
//! Invariants: sending never waits, and keeps the order; a message arrives whole or ends the link.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::session::log;
use crate::sys::socket;

use super::poller::Poller;

/// The longest message.
pub(super) const MAX_MESSAGE: usize = 256 * 1024;

/// One end.
//= spec/processes.md#link
pub(super) struct Link {
    socket: OwnedFd,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    buffer: Vec<u8>,
    /// What the poller was last told to wait for.
    watched: Cell<EventFlags>,
}

/// Why a link is of no more use.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other end is gone.
    Gone,
    /// The other end sent what is no message.
    Garbage,
    /// The operating system refused.
    System(io::Error),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("it is gone"),
            Self::Garbage => f.write_str("it sent what is no message"),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl Link {
    /// Two ends.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (near, far) = socket::pair()?;
        Ok((Self::new(near)?, Self::new(far)?))
    }

    /// An end, and the other one as another program will get it.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn pair_with_far() -> io::Result<(Self, OwnedFd)> {
        let (near, far) = socket::pair()?;
        Ok((Self::new(near)?, far))
    }

    /// The end that another process had.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        Self::new(socket)
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        socket::set_buffers(&socket, 4 * MAX_MESSAGE)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
            buffer: Vec::new(),
            watched: Cell::new(EventFlags::empty()),
        })
    }

    /// Sends `message` with `fds`, now or when there is room.
    pub(super) fn send<T: Serialize>(
        &mut self,
        message: &T,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Broken> {
        let bytes = postcard::to_allocvec(message).map_err(|_| Broken::Garbage)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(Broken::Garbage);
        }
        self.waiting.push_back((bytes, fds));
        self.flush().map(drop)
    }

    /// Sends what waits, as far as there is room; whether nothing waits any more.
    pub(super) fn flush(&mut self) -> Result<bool, Broken> {
        while let Some((bytes, fds)) = self.waiting.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match socket::send_with_fds(&self.socket, &[IoSlice::new(bytes)], &fds) {
                Ok(_) => drop(self.waiting.pop_front()),
                Err(error) => {
                    return match error.kind() {
                        io::ErrorKind::WouldBlock => Ok(false),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                            Err(Broken::Gone)
                        }
                        _ => Err(Broken::System(error)),
                    };
                }
            }
        }
        Ok(true)
    }

    /// Closes this end in a forked process, and leaves its memory as it is: wiping a copy would
    /// first make one.
    pub(super) fn abandon(self) {
        let Self {
            socket,
            waiting,
            buffer,
            ..
        } = self;
        drop(socket);
        std::mem::forget((waiting, buffer));
    }

    /// The messages that wait for room, in order.
    pub(super) fn queued(&self) -> impl Iterator<Item = (&[u8], &[OwnedFd])> {
        let queued = self.waiting.iter();
        queued.map(|(bytes, fds)| (bytes.as_slice(), fds.as_slice()))
    }

    /// Messages that waited for room when another process had this end; nothing was sent here yet.
    pub(super) fn queue(&mut self, messages: impl Iterator<Item = (Vec<u8>, Vec<OwnedFd>)>) {
        self.waiting.extend(messages);
    }

    /// Whether messages wait for room.
    pub(super) fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next message and its descriptors; none when there is none now.
    pub(super) fn receive<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, Broken> {
        // Taken when first needed: an idle link costs no buffer.
        self.buffer.resize(MAX_MESSAGE, 0);
        let mut fds = Vec::new();
        let received = match socket::recv_with_fds(&self.socket, &mut self.buffer, &mut fds, false)
        {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(Broken::Gone);
            }
            Err(error) if error.kind() == io::ErrorKind::Other => {
                // No descriptor was left to receive it with: that message is lost, and no more.
                log::line(format_args!("a message between processes is lost: {error}"));
                return Ok(None);
            }
            answer => answer.map_err(Broken::System)?,
        };
        if received.len == 0 {
            return Err(Broken::Gone);
        }
        if received.truncated {
            return Err(Broken::Garbage);
        }
        let bytes = &mut self.buffer[..received.len];
        let message = match decode(bytes) {
            Some(message) => Ok(Some((message, fds))),
            None => Err(Broken::Garbage),
        };
        // A process that is forked from this one is not to find it.
        bytes.fill(0);
        message
    }

    /// Waits under `key`, for messages and, where some wait, for room.
    pub(super) fn watch(&self, key: u64, poller: &Poller) -> io::Result<()> {
        let wanted = self.wanted();
        poller.add(self, key, wanted)?;
        self.watched.set(wanted);
        Ok(())
    }

    /// [`Link::watch`], after something was sent or received.
    pub(super) fn watch_again(&self, key: u64, poller: &Poller) -> io::Result<()> {
        let wanted = self.wanted();
        if self.watched.get() != wanted {
            poller.change(self, key, wanted)?;
            self.watched.set(wanted);
        }
        Ok(())
    }

    fn wanted(&self) -> EventFlags {
        let mut wanted = EventFlags::IN;
        wanted.set(EventFlags::OUT, self.is_full());
        wanted
    }
}

/// The message that these bytes are, all of them.
//= spec/processes.md#link
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
