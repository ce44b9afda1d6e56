//! Parcels over a Unix seqpacket socket, acknowledged: the two ends of a hand-over.
//!
//! Format (`spec/token.md#passage`): one parcel a message, its sockets as SCM_RIGHTS; the other
//! way, from time to time, one message with the number of parcels received so far, and one at once
//! for each parcel of which something was not imported.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::codec::Framing;
use crate::context::Context;
use crate::ledger::Domain;
use crate::secret::Scratch;
use crate::status::{Minor, Status};
use crate::sys::{fault, socket};

use super::format;
use super::{Parcel, import_in_place, unbundle};

/// Bytes asked for as socket buffer; the kernel gives what its limits allow.
const BUFFER: usize = 1 << 20;
/// The longest message: a full bundle whose last member was of the largest size.
const LONGEST: usize = 256 * 1024;
/// The magic of an acknowledgement, version included.
//= spec/token.md#passage
const ACKNOWLEDGEMENT: [u8; 4] = *b"BTA\x01";
/// The magic of a message that names a parcel of which something was not imported.
const REFUSAL: [u8; 4] = *b"BTR\x01";
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
    /// Numbers of parcels named by a refusal and not yet acknowledged.
    named: Vec<u64>,
    refused: Vec<Parcel>,
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
            named: Vec::new(),
            refused: Vec::new(),
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

    /// Takes what answers have come, without waiting, and lets go of what was imported.
    ///
    /// # Errors
    /// The system's; `InvalidData` when the other end sends something else.
    pub fn settle(&mut self) -> io::Result<()> {
        while self.answer(false)? {}
        Ok(())
    }

    /// The parcels of which something was not imported, as far as answers were taken: what their
    /// contexts are is for the ledger to say, and what is importable still may be sent elsewhere.
    pub fn take_refused(&mut self) -> Vec<Parcel> {
        core::mem::take(&mut self.refused)
    }

    /// Waits until every parcel is acknowledged. Those of which something was not imported come
    /// back; when the other end is gone before, also those it has not acknowledged. What was not
    /// imported of them is importable still, elsewhere.
    pub fn finish(mut self) -> Result<(), Vec<Parcel>> {
        while !self.unacknowledged.is_empty() {
            if !matches!(self.answer(true), Ok(true)) {
                break;
            }
        }
        self.refused.extend(self.unacknowledged);
        match self.refused.is_empty() {
            true => Ok(()),
            false => Err(self.refused),
        }
    }

    /// The descriptor, to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes one answer; false when there is none.
    fn answer(&mut self, wait: bool) -> io::Result<bool> {
        let mut message = [0; 16];
        // Nobody sends descriptors this way; if some come, they are closed.
        let mut none = Vec::new();
        let length = match socket::recv_with_fds(&self.socket, &mut message, &mut none, wait) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            other => other?.len,
        };
        let Some((magic, rest)) = message[..length].split_first_chunk::<4>() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let number = rest.try_into().map(u64::from_be_bytes);
        match (*magic, number) {
            (ACKNOWLEDGEMENT, Ok(count)) => self.forget(count)?,
            (REFUSAL, Ok(number)) if self.is_under_way(number) => self.named.push(number),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(true)
    }

    fn is_under_way(&self, number: u64) -> bool {
        number > self.acknowledged
            && number - self.acknowledged <= self.unacknowledged.len() as u64
            && !self.named.contains(&number)
    }

    /// Lets go of the parcels up to number `count`, but for those of which something was refused.
    fn forget(&mut self, count: u64) -> io::Result<()> {
        let under_way = self.acknowledged + self.unacknowledged.len() as u64;
        if count < self.acknowledged || count > under_way {
            return Err(io::ErrorKind::InvalidData.into());
        }
        while self.acknowledged < count {
            self.acknowledged += 1;
            let parcel = self.unacknowledged.pop_front();
            if let Some(at) = self
                .named
                .iter()
                .position(|named| *named == self.acknowledged)
            {
                self.named.swap_remove(at);
                self.refused.extend(parcel);
            }
        }
        Ok(())
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
        let arrivals = self.import(domain, length, sockets);
        if arrivals.iter().any(Result::is_err) {
            self.tell(REFUSAL, self.received)?;
        }
        Ok(Some(arrivals))
    }

    fn import<F: Framing>(
        &mut self,
        domain: &Domain,
        length: usize,
        mut sockets: Vec<OwnedFd>,
    ) -> Vec<Arrival<F>> {
        let message = &mut self.scratch[..length];
        if format::is_bundle(message) {
            let with_socket = |(context, socket)| (context, Some(socket));
            return match unbundle(domain, message, sockets) {
                Ok(outcomes) => outcomes
                    .into_iter()
                    .map(|one| one.map(with_socket))
                    .collect(),
                Err(status) => vec![Err(status)],
            };
        }
        if sockets.len() > 1 {
            return vec![Err(Minor::WrongSocket.into())];
        }
        let socket = sockets.pop();
        let imported = import_in_place(domain, message, socket.as_ref().map(AsFd::as_fd));
        vec![imported.map(|context| (context, socket))]
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
        self.tell(ACKNOWLEDGEMENT, self.received)?;
        self.acknowledged = self.received;
        Ok(())
    }

    fn tell(&self, magic: [u8; 4], number: u64) -> io::Result<()> {
        let number = number.to_be_bytes();
        let message = [io::IoSlice::new(&magic), io::IoSlice::new(&number)];
        match socket::send_with_fds(&self.socket, &message, &[]) {
            // The exporter may have sent its last and gone: nobody waits for this then.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // An exporter that never hears of it keeps its sockets until it ends: no more than that.
        let _ = self.acknowledge();
    }
}
