//! A record over a socket, as [`std::io`] reads and writes.

use std::io::{self, BufRead, IoSlice, Write};

use super::{Error, Read, Record};
use crate::status::Status;

mod access {
    use super::{Record, Status};

    /// What it takes to be given a record: nobody outside the crate can make one.
    #[derive(Clone, Copy)]
    pub struct Pass(pub(crate) ());

    /// How a [`super::Channel`] is reached. It cannot be named outside the crate: whoever could
    /// borrow the record of a context mutably could take it out of the context, and out of the
    /// ledger's sight. That is not enough: a function over any [`super::Channel`] may call what is
    /// here without naming it. So the record is handed out for a [`Pass`] only.
    pub trait Access {
        /// The record. It is asked for anew after every operation of the socket, however long that
        /// waited; an error ends the operation, and no byte is sealed or opened.
        fn record(&mut self, pass: Pass) -> Result<&mut Record, Status>;

        /// Takes the body of a NewSessionTicket message; clients only. They are dropped by default.
        fn ticket(&mut self, ticket: Vec<u8>) {
            drop(ticket);
        }
    }
}

pub(crate) use access::{Access, Pass};

const PASS: Pass = Pass(());

/// What a [`Stream`] draws its record from: a [`Record`], or whatever must be asked first whether
/// this process may still use one. Implemented in this crate only.
pub trait Channel: Access {}

impl<C: Access + ?Sized> Channel for C {}

impl Access for Record {
    fn record(&mut self, _: Pass) -> Result<&mut Record, Status> {
        match self.check() {
            Err(Error::Forked) => Err(Error::Forked.into()),
            // What has failed still sends its alert, and says by itself what it cannot do.
            _ => Ok(self),
        }
    }
}

impl<C: Access + ?Sized> Access for &mut C {
    fn record(&mut self, pass: Pass) -> Result<&mut Record, Status> {
        (**self).record(pass)
    }

    fn ticket(&mut self, ticket: Vec<u8>) {
        (**self).ticket(ticket);
    }
}

/// Application data over a socket `S`, protected by the record of `C`. The socket may block or not.
///
/// The stream itself holds nothing: half-read records, unread plaintext and unsent output are the
/// record's, so after [`Stream::into_parts`] they travel with it.
///
/// - Reading answers 0 after the peer's close_notify. A connection that ends without one is an
///   error of kind `UnexpectedEof` around [`Error::Truncated`].
/// - Writing takes up to three records at a time and sends them in one call. What a socket that
///   does not block would not take stays in the record: the next write or [`Write::flush`] sends
///   it first, and nothing more is taken before it has left.
/// - Answers to the peer's key updates are sent by reads as well as by writes.
/// - After a fatal error the alert is sent, and every call answers that error.
pub struct Stream<C, S> {
    channel: C,
    socket: S,
}

impl<C: Channel, S> Stream<C, S> {
    /// Puts the two together. Nothing is sent or read.
    pub fn new(channel: C, socket: S) -> Self {
        Self { channel, socket }
    }

    /// Takes the two apart. What was read and not yet taken, and what was sealed and not yet sent,
    /// is in the record.
    pub fn into_parts(mut self) -> (C, S) {
        if let Ok(record) = self.channel.record(PASS) {
            record.release_buffers();
        }
        (self.channel, self.socket)
    }

    /// The channel.
    pub fn channel(&self) -> &C {
        &self.channel
    }

    /// The channel, to change keys, say.
    pub fn channel_mut(&mut self) -> &mut C {
        &mut self.channel
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket, to set its options. What is read from or written to it directly breaks the session.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }
}

impl<C: Channel, S: Write> Stream<C, S> {
    /// Closes this side's direction: seals close_notify and sends what there is to send. Reading
    /// goes on. On `WouldBlock`, flush later.
    pub fn close_notify(&mut self) -> io::Result<()> {
        self.channel.record(PASS).map_err(refused)?.close_notify();
        self.flush()
    }

    /// Sends the output. Nothing else leaves before it.
    fn send(&mut self) -> io::Result<()> {
        loop {
            let record = self.channel.record(PASS).map_err(refused)?;
            let output = record.output();
            if output.is_empty() {
                return Ok(());
            }
            match self.socket.write(output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => record.sent(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<C: Channel, S: io::Read + Write> Stream<C, S> {
    /// Runs `take` until it has something to tell, reading the socket when input is missing.
    /// Answers whether there is data; none means the peer has closed.
    fn receive(
        &mut self,
        mut take: impl FnMut(&mut Record) -> Result<Read, Error>,
    ) -> io::Result<usize> {
        loop {
            match take(self.channel.record(PASS).map_err(refused)?) {
                Ok(Read::Data(bytes)) => return Ok(bytes),
                Ok(Read::Ticket(ticket)) => self.channel.ticket(ticket),
                Ok(Read::Closed) => {
                    self.offer();
                    return Ok(0);
                }
                Ok(Read::Incomplete { .. }) => {
                    self.offer();
                    self.fill()?;
                }
                Err(error) => {
                    self.offer();
                    return Err(error.into());
                }
            }
        }
    }

    /// Sends answers and alerts as far as the socket takes them. A socket that cannot be written
    /// may still hold data to read; who writes hears of it.
    fn offer(&mut self) {
        let _ = self.send();
    }

    /// Reads the socket once.
    fn fill(&mut self) -> io::Result<()> {
        let record = self.channel.record(PASS).map_err(refused)?;
        loop {
            match self.socket.read(record.space()) {
                //= spec/records.md#truncation
                Ok(0) => return Err(Error::Truncated.into()),
                Ok(bytes) => {
                    record.filled(bytes);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    record.release_buffers();
                    return Err(error);
                }
            }
        }
    }
}

impl<C: Channel, S: io::Read + Write> io::Read for Stream<C, S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.receive(|record| record.read(out))
    }
}

/// The plaintext where it was opened, at most one record's at a time.
impl<C: Channel, S: io::Read + Write> BufRead for Stream<C, S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.receive(Record::ready)?;
        Ok(self.channel.record(PASS).map_err(refused)?.plaintext())
    }

    fn consume(&mut self, bytes: usize) {
        // A record that may not be used any more has nothing to consume.
        if let Ok(record) = self.channel.record(PASS) {
            record.consume(bytes);
        }
    }
}

impl<C: Channel, S: Write> Write for Stream<C, S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    fn write_vectored(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send()?;
        let taken = self
            .channel
            .record(PASS)
            .map_err(refused)?
            .write_vectored(data)?;
        match self.send() {
            // What was taken is sealed: that it has not left yet is the next call's affair.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(taken),
            sent => sent.map(|()| taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.socket.flush()
    }
}

fn refused(status: Status) -> io::Error {
    io::Error::other(status)
}
