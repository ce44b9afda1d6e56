//! Parcels over a Unix seqpacket socket, acknowledged: the two ends of a hand-over.
//!
//! Format (`spec/token.md#passage`): one parcel a message, its sockets as SCM_RIGHTS; the other
//! way, from time to time, one message with the number of parcels received so far.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::codec::Framing;
use crate::context::Context;
use crate::ledger::Domain;
use crate::secret::Scratch;
use crate::status::{Minor, Status};
use crate::sys::{fault, socket};

use super::format::BUNDLE;
use super::{Parcel, import_in_place, unbundle};

/// Bytes asked for as socket buffer; the kernel gives what its limits allow.
const BUFFER: usize = 1 << 20;
/// The longest message: a full bundle whose last member was of the largest size.
const LONGEST: usize = 256 * 1024;
/// The magic of an acknowledgement, version included.
//= spec/token.md#passage
const ACKNOWLEDGEMENT: [u8; 4] = *b"BTA\x01";
/// Received parcels are acknowledged at the latest after this many.
const ACKNOWLEDGE_EVERY: u64 = 32;

/// Makes the two ends of a passage.
///
/// # Errors
/// The system's.
pub fn passage() -> io::Result<(Sender, Receiver)> {
    let (near, far) = socket::pair()?;
    Ok((Sender::new(near)?, Receiver::new(far)?))
}

/// The exporter's end.
pub struct Sender {
    socket: OwnedFd,
    unacknowledged: VecDeque<Parcel>,
    acknowledged: u64,
}

impl Sender {
    /// Over one end of a Unix seqpacket pair.
    ///
    /// # Errors
    /// The system's.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        socket::set_buffers(&socket, BUFFER)?;
        Ok(Self {
            socket,
            unacknowledged: VecDeque::new(),
            acknowledged: 0,
        })
    }

    /// Sends a parcel, waiting while the socket is full, and keeps it until it is acknowledged.
    ///
    /// # Errors
    /// The system's, with the parcel: it is as importable as before.
    #[allow(clippy::result_large_err)]
    pub fn send(&mut self, parcel: Parcel) -> Result<(), (Parcel, io::Error)> {
        fault::point("passage.sending");
        let sockets: Vec<BorrowedFd<'_>> = parcel.sockets().iter().map(AsFd::as_fd).collect();
        let sent = socket::send_with_fds(
            &self.socket,
            &[io::IoSlice::new(parcel.as_bytes())],
            &sockets,
        );
        if let Err(error) = sent {
            return Err((parcel, error));
        }
        fault::point("passage.sent");
        self.unacknowledged.push_back(parcel);
        // What is not read now is read next time.
        let _ = self.settle();
        Ok(())
    }

    /// Takes what acknowledgements have come, without waiting, and lets go of their sockets.
    ///
    /// # Errors
    /// The system's; `InvalidData` when the other end sends something else.
    pub fn settle(&mut self) -> io::Result<()> {
        while let Some(count) = self.acknowledgement(false)? {
            self.forget(count)?;
        }
        Ok(())
    }

    /// Waits until every parcel is acknowledged. When the other end is gone before, the parcels it
    /// has not acknowledged come back: what it did not import of them is importable still.
    pub fn finish(mut self) -> Result<(), Vec<Parcel>> {
        while !self.unacknowledged.is_empty() {
            match self.acknowledgement(true) {
                Ok(Some(count)) if self.forget(count).is_ok() => {}
                _ => return Err(self.unacknowledged.into()),
            }
        }
        Ok(())
    }

    /// The descriptor, to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn acknowledgement(&self, wait: bool) -> io::Result<Option<u64>> {
        let mut message = [0; 16];
        // Nobody sends descriptors this way; if some come, they are closed.
        let mut none = Vec::new();
        let length = match socket::recv_with_fds(&self.socket, &mut message, &mut none, wait) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            other => other?.len,
        };
        match (length, message.split_at(4)) {
            (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
            (12, (magic, rest)) if magic == ACKNOWLEDGEMENT => {
                let mut count = [0; 8];
                count.copy_from_slice(&rest[..8]);
                Ok(Some(u64::from_be_bytes(count)))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn forget(&mut self, count: u64) -> io::Result<()> {
        let new = count
            .checked_sub(self.acknowledged)
            .and_then(|new| usize::try_from(new).ok());
        match new {
            Some(new) if new <= self.unacknowledged.len() => {
                self.unacknowledged.drain(..new);
                self.acknowledged = count;
                Ok(())
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// One context that arrived, with its socket, or why it did not.
pub type Arrival<F> = Result<(Context<F>, Option<OwnedFd>), Status>;

/// The importer's end.
pub struct Receiver {
    socket: OwnedFd,
    scratch: Scratch,
    received: u64,
    acknowledged: u64,
}

impl Receiver {
    /// Over one end of a Unix seqpacket pair.
    ///
    /// # Errors
    /// The system's.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        socket::set_buffers(&socket, BUFFER)?;
        let mut scratch = Scratch::with_capacity(LONGEST);
        scratch.resize(LONGEST);
        Ok(Self {
            socket,
            scratch,
            received: 0,
            acknowledged: 0,
        })
    }

    /// Waits for the next parcel and imports what it carries; none when the other end is closed.
    ///
    /// A parcel is acknowledged when this is called again, or the receiver dropped: by then its
    /// contexts are the caller's.
    ///
    /// # Errors
    /// The system's. A parcel whose descriptors did not all arrive is such an error: nothing of it
    /// was imported.
    pub fn receive<F: Framing>(&mut self, domain: &Domain) -> io::Result<Option<Vec<Arrival<F>>>> {
        let mut sockets = Vec::new();
        let Some(length) = self.next_message(&mut sockets)? else {
            return Ok(None);
        };
        fault::point("passage.received");
        self.received += 1;
        let message = &mut self.scratch[..length];
        if message.starts_with(&BUNDLE) {
            let with_socket = |(context, socket)| (context, Some(socket));
            return Ok(Some(match unbundle(domain, message, sockets) {
                Ok(outcomes) => outcomes
                    .into_iter()
                    .map(|one| one.map(with_socket))
                    .collect(),
                Err(status) => vec![Err(status)],
            }));
        }
        if sockets.len() > 1 {
            return Ok(Some(vec![Err(Minor::WrongSocket.into())]));
        }
        let socket = sockets.pop();
        let imported = import_in_place(domain, message, socket.as_ref().map(AsFd::as_fd));
        Ok(Some(vec![imported.map(|context| (context, socket))]))
    }

    /// The descriptor, to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes a message that is there; waits for one only after having acknowledged all before it.
    fn next_message(&mut self, sockets: &mut Vec<OwnedFd>) -> io::Result<Option<usize>> {
        if self.received - self.acknowledged >= ACKNOWLEDGE_EVERY {
            self.acknowledge()?;
        }
        let mut wait = false;
        loop {
            match socket::recv_with_fds(&self.socket, &mut self.scratch, sockets, wait) {
                Err(error) if !wait && error.kind() == io::ErrorKind::WouldBlock => {
                    self.acknowledge()?;
                    wait = true;
                }
                Ok(message) if message.len == 0 => return Ok(None),
                Ok(message) if message.truncated => return Err(io::ErrorKind::InvalidData.into()),
                other => return other.map(|message| Some(message.len)),
            }
        }
    }

    fn acknowledge(&mut self) -> io::Result<()> {
        if self.received == self.acknowledged {
            return Ok(());
        }
        let count = self.received.to_be_bytes();
        let message = [io::IoSlice::new(&ACKNOWLEDGEMENT), io::IoSlice::new(&count)];
        match socket::send_with_fds(&self.socket, &message, &[]) {
            // The exporter may have sent its last and gone: nobody waits for this then.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => {
                self.acknowledged = self.received;
                Ok(())
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // An exporter that never hears of it keeps its sockets until it ends: no more than that.
        let _ = self.acknowledge();
    }
}
