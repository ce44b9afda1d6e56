//! What a [`Record`] receives.

use super::open::{Message, Step};
use super::wire::HEADER;
use super::{Error, Event, Opened, Read, Record};

impl Record {
    /// Opens the record at the front of `input` where it lies. Call again with what is behind
    /// `consumed` until [`Event::Incomplete`] comes; a record may hold several messages, so a call
    /// may consume nothing and still tell something.
    ///
    /// [`Error::InputFirst`] while [`Record::buffered`] is not 0: read that first.
    /// Every other error is fatal; its alert is in the output, and what is in `input` unspecified.
    #[inline]
    pub fn open<'a>(&mut self, input: &'a mut [u8]) -> Result<Opened<'a>, Error> {
        self.check()?;
        if !self.input.is_empty() {
            return Err(Error::InputFirst);
        }
        if let Some(event) = self.message()? {
            return Ok(Opened { consumed: 0, event });
        }
        let (consumed, step) = self
            .protocol
            .open(input)
            .map_err(|error| self.fail(error))?;
        let event = match step {
            Step::Data(length) => Event::Data(&mut input[HEADER..HEADER + length]),
            Step::Incomplete(needed) => Event::Incomplete { needed },
            Step::Closed => Event::Closed,
            Step::Nothing => self.message()?.unwrap_or(Event::Nothing),
        };
        Ok(Opened { consumed, event })
    }

    fn message(&mut self) -> Result<Option<Event<'static>>, Error> {
        match self.protocol.next_message() {
            Ok(Some(Message::Ticket(ticket))) => Ok(Some(Event::Ticket(ticket))),
            Ok(Some(Message::KeyUpdate)) => Ok(Some(Event::KeyUpdated)),
            Ok(None) => Ok(None),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Takes ciphertext; answers how much: all of it while what is kept stays under three full
    /// records (49,935 bytes), less or nothing otherwise, then read first. Nothing is opened yet.
    pub fn feed(&mut self, ciphertext: &[u8]) -> Result<usize, Error> {
        self.check()?;
        if self.protocol.rx_closed {
            return Ok(ciphertext.len());
        }
        Ok(self.input.feed(ciphertext))
    }

    /// Room to read a socket into, instead of [`Record::feed`]; say how much came with
    /// [`Record::filled`]. Empty only when there is something to read first.
    pub fn space(&mut self) -> &mut [u8] {
        self.input.space()
    }

    /// So many bytes were read into [`Record::space`].
    pub fn filled(&mut self, bytes: usize) {
        self.input.filled(bytes);
    }

    /// Reads application data that was fed: fills `out` from as many whole records as there are.
    ///
    /// Every error is fatal, its alert is in the output; data before it was read by the call before.
    pub fn read(&mut self, out: &mut [u8]) -> Result<Read, Error> {
        let mut done = 0;
        while done < out.len() {
            match self.advance(done > 0) {
                Ok(Read::Data(length)) => {
                    let length = length.min(out.len() - done);
                    out[done..done + length].copy_from_slice(&self.plaintext()[..length]);
                    self.consume(length);
                    done += length;
                }
                _ if done > 0 => break,
                other => return other,
            }
        }
        Ok(Read::Data(done))
    }

    /// Opens records that were fed until there is plaintext to look at ([`Record::plaintext`]),
    /// whose length [`Read::Data`] tells, or something else to tell.
    pub fn ready(&mut self) -> Result<Read, Error> {
        self.advance(false)
    }

    /// The opened, unread plaintext, at most one record's. Say what was read with
    /// [`Record::consume`].
    pub fn plaintext(&self) -> &[u8] {
        self.input.plaintext()
    }

    /// The first `bytes` of the plaintext were read.
    pub fn consume(&mut self, bytes: usize) {
        self.input.read(bytes);
    }

    /// Bytes that were fed and not read: ciphertext and plaintext.
    pub fn buffered(&self) -> usize {
        self.input.plaintext().len() + self.input.ciphertext().len()
    }

    /// Gives emptied buffers and expanded keys back: call it before a long wait. The next record
    /// expands its key again, in less than a microsecond.
    //= spec/records.md#idle
    pub fn release_buffers(&mut self) {
        self.input.release();
        self.protocol.tx_key.forget();
        self.protocol.rx_key.forget();
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    /// Advances to the next plaintext or event. With `data_only`, a handshake message waits.
    fn advance(&mut self, data_only: bool) -> Result<Read, Error> {
        loop {
            self.check()?;
            if !self.input.plaintext().is_empty() {
                return Ok(Read::Data(self.input.plaintext().len()));
            }
            if data_only && !self.protocol.messages.is_empty() {
                return Ok(Read::Incomplete { needed: 1 });
            }
            match self.message()? {
                Some(Event::Ticket(ticket)) => return Ok(Read::Ticket(ticket)),
                Some(_) => continue,
                None => {}
            }
            let opened = self.protocol.open(self.input.ciphertext_mut());
            let (consumed, step) = opened.map_err(|error| self.fail(error))?;
            match step {
                Step::Data(length) => self.input.opened(consumed, length),
                Step::Nothing => self.input.skip(consumed),
                Step::Closed => {
                    self.input.clear();
                    return Ok(Read::Closed);
                }
                Step::Incomplete(needed) => {
                    self.input.release_small();
                    return Ok(Read::Incomplete { needed });
                }
            }
        }
    }
}
