//! Parcels over a Unix seqpacket socket, acknowledged: the two ends of a hand-over.
//!
//! Format (`spec/token.md#passage`): one parcel a message, its sockets as SCM_RIGHTS; the other
//! way, from time to time, one message with the number of parcels received so far, and one at once
//! for each parcel of which something was not imported. Words of the callers' own may stand between.

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
use super::{Luggage, Parcel, import_in_place, unbundle, unload};

/// Bytes asked for as socket buffer; the kernel gives what its limits allow.
const BUFFER: usize = 1 << 20;
/// The longest message: a full bundle whose last member was of the largest size, with as much
/// luggage as there may be.
const LONGEST: usize = 352 * 1024;
/// The magic of an acknowledgement, version included.
//= spec/token.md#passage
const ACKNOWLEDGEMENT: [u8; 4] = *b"BTA\x01";
/// The magic of a message that names a parcel of which something was not imported.
const REFUSAL: [u8; 4] = *b"BTR\x01";
/// The magic of a word.
//= spec/token.md#words
const WORD: [u8; 4] = *b"BTW\x01";
/// Words that are kept until they are asked for.
const MAX_WORDS: usize = 64;
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
    words: Vec<u8>,
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
            words: Vec::new(),
        })
    }

    /// Sends a parcel, waiting while the socket is full, and keeps it until it is acknowledged.
    ///
    /// # Errors
    /// The system's, with the parcel: it is as importable as before. `WouldBlock` from a full socket
    /// that does not block.
    #[allow(clippy::result_large_err)]
    pub fn send(&mut self, parcel: Parcel) -> Result<(), (Parcel, io::Error)> {
        self.post(parcel)?;
        // What is not read now is read next time.
        let _ = self.settle();
        Ok(())
    }

    /// As [`Sender::send`], and leaves the answers where they are: for a caller that takes them when
    /// the socket can be read.
    ///
    /// # Errors
    /// As those of [`Sender::send`].
    #[allow(clippy::result_large_err)]
    pub fn post(&mut self, parcel: Parcel) -> Result<(), (Parcel, io::Error)> {
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
        Ok(())
    }

    /// Says a word of the caller's own, behind the parcels sent so far.
    ///
    /// # Errors
    /// The system's; `WouldBlock` from a full socket that does not block.
    pub fn say(&mut self, word: u8) -> io::Result<()> {
        say(&self.socket, word)
    }

    /// The words the other end has said, as far as answers were taken.
    pub fn take_words(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.words)
    }

    /// How many parcels are neither acknowledged nor refused.
    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged.len()
    }

    /// Closes this end at once. All parcels come back of which it is not known that everything was
    /// imported: what was not is importable still.
    pub fn abandon(mut self) -> Vec<Parcel> {
        self.refused.extend(self.unacknowledged);
        self.refused
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
        let length = match receive(&self.socket, &mut message, &mut none, wait) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            other => other?.len,
        };
        let Some((magic, rest)) = message[..length].split_first_chunk::<4>() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if let (WORD, [word]) = (*magic, rest) {
            // Nobody says more than it is asked: a flood is somebody else's.
            if self.words.len() >= MAX_WORDS {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.words.push(*word);
            return Ok(true);
        }
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

/// One context that arrived, with its socket and its luggage, or why it did not.
pub type Delivery<F> = Result<(Context<F>, Option<OwnedFd>, Luggage), Status>;

/// What came over a passage.
pub enum Incoming<F: Framing> {
    /// Nothing, for now.
    Nothing,
    /// What a parcel carried.
    Parcel(Vec<Delivery<F>>),
    /// A word of the other end's.
    Word(u8),
    /// The other end is closed, and everything it had sent was received.
    End,
}

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
    /// Luggage is dropped, and so are words: see [`Receiver::take`].
    ///
    /// A parcel is acknowledged when this is called again, or the receiver dropped: by then its
    /// contexts are the caller's. One whose descriptors did not all arrive is one refusal (FAILURE):
    /// nothing of it was imported.
    ///
    /// # Errors
    /// The system's.
    pub fn receive<F: Framing>(&mut self, domain: &Domain) -> io::Result<Option<Vec<Arrival<F>>>> {
        loop {
            match self.next(domain, true)? {
                Incoming::Parcel(deliveries) => {
                    let unladen = |(context, socket, _)| (context, socket);
                    let arrivals = deliveries.into_iter().map(|one| one.map(unladen));
                    return Ok(Some(arrivals.collect()));
                }
                Incoming::End => return Ok(None),
                Incoming::Word(_) | Incoming::Nothing => {}
            }
        }
    }

    /// Takes what is there, without waiting. As [`Receiver::receive`] otherwise; when nothing is
    /// there, all before it is acknowledged.
    ///
    /// # Errors
    /// The system's.
    pub fn take<F: Framing>(&mut self, domain: &Domain) -> io::Result<Incoming<F>> {
        self.next(domain, false)
    }

    /// Acknowledges what was received.
    ///
    /// # Errors
    /// The system's.
    pub fn settle(&mut self) -> io::Result<()> {
        self.acknowledge()
    }

    /// Says a word of the caller's own.
    ///
    /// # Errors
    /// The system's.
    pub fn say(&mut self, word: u8) -> io::Result<()> {
        say(&self.socket, word)
    }

    fn next<F: Framing>(&mut self, domain: &Domain, wait: bool) -> io::Result<Incoming<F>> {
        let mut sockets = Vec::new();
        let length = match self.next_message(&mut sockets, wait)? {
            Message::None => return Ok(Incoming::Nothing),
            Message::End => return Ok(Incoming::End),
            Message::Cut => 0,
            Message::Whole(length) => length,
        };
        if length == WORD.len() + 1 && self.scratch.starts_with(&WORD) {
            return Ok(Incoming::Word(self.scratch[WORD.len()]));
        }
        fault::point("passage.received");
        self.received += 1;
        let deliveries = match length {
            0 => vec![Err(Minor::System.into())],
            _ => self.import(domain, length, sockets),
        };
        if deliveries.iter().any(Result::is_err) {
            self.tell(REFUSAL, self.received)?;
        }
        Ok(Incoming::Parcel(deliveries))
    }

    fn import<F: Framing>(
        &mut self,
        domain: &Domain,
        length: usize,
        mut sockets: Vec<OwnedFd>,
    ) -> Vec<Delivery<F>> {
        let message = &mut self.scratch[..length];
        if format::is_laden(message) {
            let laden = |one: super::Laden<F>| (one.context, Some(one.socket), one.luggage);
            return match unload(domain, message, sockets) {
                Ok(outcomes) => outcomes.into_iter().map(|one| one.map(laden)).collect(),
                Err(status) => vec![Err(status)],
            };
        }
        if format::is_bundle(message) {
            let with_socket = |(context, socket)| (context, Some(socket), Luggage::none());
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
        vec![imported.map(|context| (context, socket, Luggage::none()))]
    }

    /// The descriptor, to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes a message that is there; waits for one, where that is asked for, only after having
    /// acknowledged all before it.
    fn next_message(&mut self, sockets: &mut Vec<OwnedFd>, wait: bool) -> io::Result<Message> {
        if self.received - self.acknowledged >= ACKNOWLEDGE_EVERY {
            self.acknowledge()?;
        }
        let mut waiting = false;
        loop {
            match receive(&self.socket, &mut self.scratch, sockets, waiting) {
                Err(error) if !waiting && error.kind() == io::ErrorKind::WouldBlock => {
                    self.acknowledge()?;
                    if !wait {
                        return Ok(Message::None);
                    }
                    waiting = true;
                }
                // This process has no descriptors left: the message is gone, and not by its fault.
                Err(error) if error.kind() == io::ErrorKind::Other => return Ok(Message::Cut),
                Ok(message) if message.len == 0 => return Ok(Message::End),
                Ok(message) if message.truncated => return Err(io::ErrorKind::InvalidData.into()),
                other => return other.map(|message| Message::Whole(message.len)),
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

enum Message {
    None,
    Whole(usize),
    /// Its descriptors were lost.
    Cut,
    End,
}

fn say(socket: &OwnedFd, word: u8) -> io::Result<()> {
    let word = [word];
    let message = [io::IoSlice::new(&WORD), io::IoSlice::new(&word)];
    socket::send_with_fds(socket, &message, &[]).map(drop)
}

/// An end that is gone with something unread is an error once; what it had sent is still there.
//= spec/token.md#words
fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    wait: bool,
) -> io::Result<socket::Received> {
    match socket::recv_with_fds(socket, buffer, fds, wait) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            socket::recv_with_fds(socket, buffer, fds, wait)
        }
        other => other,
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // An exporter that never hears of it keeps its sockets until it ends: no more than that.
        let _ = self.acknowledge();
    }
}
