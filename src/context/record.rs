//! A record-framing context: TLS records in and out, by hand or over a socket.

use crate::record::{Alert, Error, Event, Opened, Read, Record, Stream};
use crate::status::Status;

use super::Context;

impl Context<Record> {
    /// Seals `data` into as many records as it takes, behind whatever output was due, at the end
    /// of `out`.
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED, or the record layer's.
    #[inline]
    pub fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
        self.ready()?;
        Ok(self.protection.seal(data, out)?)
    }

    /// Bytes of the record that holds `content` bytes.
    pub fn record_len(&self, content: usize) -> usize {
        self.protection.record_len(content)
    }

    /// Seals one record where it lies; see [`Record::seal_in_place`].
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED, or the record layer's.
    #[inline]
    pub fn seal_in_place(&mut self, buffer: &mut [u8], content: usize) -> Result<usize, Status> {
        self.ready()?;
        Ok(self.protection.seal_in_place(buffer, content)?)
    }

    /// Opens the record at the front of `input` where it lies; see [`Record::open`].
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED, or the record layer's: then an alert may be in the output.
    #[inline]
    pub fn open<'a>(&mut self, input: &'a mut [u8]) -> Result<Opened<'a>, Status> {
        self.ready()?;
        let opened = self.protection.open(input)?;
        if let Event::Ticket(ticket) = &opened.event {
            take_ticket(&mut self.tickets, ticket);
        }
        Ok(opened)
    }

    /// Takes ciphertext; answers how much of it: less than all when there is something to read
    /// first. What is not read yet travels with the context.
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED, or the record layer's.
    pub fn feed(&mut self, ciphertext: &[u8]) -> Result<usize, Status> {
        self.ready()?;
        Ok(self.protection.feed(ciphertext)?)
    }

    /// Reads application data that was fed.
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED, or the record layer's: then an alert may be in the output.
    pub fn read(&mut self, out: &mut [u8]) -> Result<Read, Status> {
        loop {
            self.ready()?;
            match self.protection.read(out)? {
                Read::Ticket(ticket) => take_ticket(&mut self.tickets, &ticket),
                read => return Ok(read),
            }
        }
    }

    /// Seals up to three records of `data` into the output; answers how much was taken.
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED, or the record layer's.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, Status> {
        self.ready()?;
        Ok(self.protection.write(data)?)
    }

    /// Records that are sealed and not sent: data, answers to key updates, alerts, in order. They
    /// travel with the context.
    ///
    /// # Errors
    /// NO_CONTEXT. An expired context may still send what was sealed.
    pub fn output(&mut self) -> Result<&[u8], Status> {
        self.claim.check()?;
        Ok(self.protection.output())
    }

    /// So many bytes of the output have left.
    pub fn sent(&mut self, bytes: usize) {
        self.protection.sent(bytes);
    }

    /// Takes the output, as if all of it had left.
    ///
    /// # Errors
    /// NO_CONTEXT. An expired context may still send what was sealed.
    pub fn take_output(&mut self) -> Result<Vec<u8>, Status> {
        self.claim.check()?;
        Ok(self.protection.take_output())
    }

    /// Moves this side to its next key, and asks the peer to move too when `request_peer`.
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED, or the record layer's.
    pub fn key_update(&mut self, request_peer: bool) -> Result<(), Status> {
        self.ready()?;
        Ok(self.protection.key_update(request_peer)?)
    }

    /// Closes this side's direction: the alert is in the output.
    ///
    /// # Errors
    /// NO_CONTEXT.
    pub fn close_notify(&mut self) -> Result<(), Status> {
        self.claim.check()?;
        self.protection.close_notify();
        Ok(())
    }

    /// Ends the session with a fatal alert, which is in the output.
    ///
    /// # Errors
    /// NO_CONTEXT.
    pub fn abort(&mut self, alert: Alert) -> Result<(), Status> {
        self.claim.check()?;
        self.protection.abort(alert);
        Ok(())
    }

    /// Whether the peer has closed its direction.
    pub fn peer_closed(&self) -> bool {
        self.protection.peer_closed()
    }

    /// Why the session has failed, if it has: more than a [`Status`] tells, alerts among it.
    pub fn failure(&self) -> Option<Error> {
        self.protection.failed()
    }

    /// Bytes of ciphertext and plaintext that were fed and not read.
    pub fn buffered(&self) -> usize {
        self.protection.buffered()
    }

    /// Gives back the memory of empty buffers, for a context that will be idle.
    pub fn release_buffers(&mut self) {
        self.protection.release_buffers();
    }

    /// Puts the context over a socket, for `std::io`.
    pub fn over<S>(self, socket: S) -> Stream<Self, S> {
        Stream::new(self, socket)
    }
}

/// A ticket is the client's to keep, if it keeps any; a malformed one is no reason to end a session.
fn take_ticket(tickets: &mut Option<Box<crate::tls::Tickets>>, ticket: &[u8]) {
    if let Some(tickets) = tickets {
        let _ = tickets.take(ticket);
    }
}

impl crate::record::Access for Context<Record> {
    fn record(&mut self, _: crate::record::Pass) -> Result<&mut Record, Status> {
        self.ready()?;
        Ok(&mut self.protection)
    }

    fn ticket(&mut self, ticket: Vec<u8>) {
        take_ticket(&mut self.tickets, &ticket);
    }
}
