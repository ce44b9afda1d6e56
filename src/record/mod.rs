//! Record framing: the TLS 1.3 record layer as it is after the handshake (`spec/records.md`).
//!
//! A [`Record`] is one side of an established session, without a socket. There are two ways to
//! use it, and a session may change from one to the other between two records:
//!
//! - *in place*, without a copy: [`Record::seal_in_place`] and [`Record::open`] work on the
//!   caller's buffers;
//! - *buffered*: [`Record::feed`] and [`Record::read`] keep half-read records and unread
//!   plaintext, [`Record::write`] and [`Record::output`] keep what is not sent. What is kept
//!   travels with the context. [`Stream`] is this way over a socket.
//!
//! Invariants:
//! - a key and a sequence number seal once: the number is raised with the record, never set back;
//! - what was sealed leaves in the order in which it was sealed;
//! - after a fatal error nothing but its alert can be fetched;
//! - every loop and buffer is bounded, whatever the peer sends.

mod error;
mod frozen;
mod input;
mod keys;
mod limits;
mod open;
mod protocol;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

use core::fmt;
use std::io::IoSlice;

pub use error::Error;
pub use frozen::Frozen;
pub use limits::{Limits, Padding};
pub(crate) use stream::Access;
pub use stream::{Channel, Stream};
pub use wire::{Alert, HEADER, MAX_CONTENT};

use crate::crypto::{Suite, TAG};
use input::Input;
use keys::{Direction, Keys};
use open::{Message, Step};
use protocol::{Gather, Protocol, SEQUENCE_START};

/// Bytes a record is longer than its content, when there is no padding.
pub const OVERHEAD: usize = HEADER + 1 + TAG;

/// Most bytes that travel: unread plaintext, unopened ciphertext, a collected message and unsent
/// output together.
pub const TRANSFER_LIMIT: usize = 65_536;

/// Most bytes of content that [`Record::write`] seals at once.
const BATCH: usize = 3 * MAX_CONTENT;

/// What a handshake leaves for the records that follow it.
pub struct Secrets<'a> {
    /// The suite that was agreed.
    pub suite: Suite,
    /// Whether this side is the server.
    pub server: bool,
    /// This side's application traffic secret ([`Suite::secret_len`] bytes).
    pub tx_secret: &'a [u8],
    /// The peer's.
    pub rx_secret: &'a [u8],
    /// Records this side has sealed with its secret: tickets in a server's own flight count.
    pub tx_sequence: u64,
    /// Records this side has opened with the peer's secret.
    pub rx_sequence: u64,
}

/// What [`Record::open`] made of the front of the input.
#[derive(Debug)]
pub struct Opened<'a> {
    /// Bytes of the input that are done with; the next call begins behind them.
    pub consumed: usize,
    /// What they held.
    pub event: Event<'a>,
}

/// What a record held.
#[derive(Debug)]
pub enum Event<'a> {
    /// Application data, where it lay in the input. Never empty.
    Data(&'a mut [u8]),
    /// A record is not whole: at least so many bytes are missing.
    Incomplete {
        /// Missing bytes, at least 1.
        needed: usize,
    },
    /// A record without application data.
    Nothing,
    /// The body of a NewSessionTicket message; clients only.
    Ticket(Vec<u8>),
    /// The peer has moved to its next key. An answer may be owed: fetch the output.
    KeyUpdated,
    /// The peer has closed its direction; all further input is ignored.
    Closed,
}

/// What [`Record::read`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes of application data were read; 0 only into an empty buffer.
    Data(usize),
    /// Nothing can be read before at least so many bytes are fed.
    Incomplete {
        /// Missing bytes, at least 1.
        needed: usize,
    },
    /// The body of a NewSessionTicket message came first; clients only.
    Ticket(Vec<u8>),
    /// The peer has closed its direction and everything before was read.
    Closed,
}

/// One side of an established TLS 1.3 session.
///
/// # Example
/// Two sides with the same secrets, as a handshake leaves them:
/// ```
/// use baton::crypto::Suite;
/// use baton::record::{Event, Limits, Read, Record, Secrets};
///
/// let (ours, theirs) = ([1; 32], [2; 32]);
/// let side = |server, tx_secret, rx_secret| {
///     let suite = Suite::Aes128Gcm;
///     let secrets = Secrets { suite, server, tx_secret, rx_secret, tx_sequence: 0, rx_sequence: 0 };
///     Record::new(&secrets, Limits::default(), &[])
/// };
/// let mut server = side(true, &ours, &theirs)?;
/// let mut client = side(false, &theirs, &ours)?;
///
/// let mut wire = Vec::new();
/// server.seal(b"good morning", &mut wire)?;
/// let opened = client.open(&mut wire)?;
/// assert!(matches!(opened.event, Event::Data(data) if data == b"good morning"));
///
/// client.write(b"and to you")?;
/// client.close_notify();
/// server.feed(client.output())?;
/// let mut buffer = [0; 64];
/// assert_eq!(server.read(&mut buffer)?, Read::Data(10));
/// assert_eq!(server.read(&mut buffer)?, Read::Closed);
/// # Ok::<(), baton::record::Error>(())
/// ```
pub struct Record {
    protocol: Protocol,
    input: Input,
    /// Sealed and not fetched; what stands before `sent` was.
    output: Vec<u8>,
    sent: usize,
    failed: Option<Error>,
}

impl Record {
    /// Takes over a session behind its handshake. `leftover` is the ciphertext that came behind
    /// the peer's Finished, at most [`TRANSFER_LIMIT`] bytes.
    ///
    /// [`Error::Secrets`] when a secret's length is not the suite's, a sequence number is above
    /// 2^24, or `leftover` is longer.
    pub fn new(secrets: &Secrets<'_>, limits: Limits, leftover: &[u8]) -> Result<Self, Error> {
        let Secrets { suite, server, tx_secret, rx_secret, tx_sequence, rx_sequence } = *secrets;
        //= spec/records.md#buffers
        if tx_sequence.max(rx_sequence) > SEQUENCE_START || leftover.len() > TRANSFER_LIMIT {
            return Err(Error::Secrets);
        }
        let derive = |secret| Direction::derive(suite, secret).map_err(|_| Error::Secrets);
        let keys = Keys { tx: derive(tx_secret)?, rx: derive(rx_secret)? };
        let mut protocol = Protocol::new(keys, suite, server, limits);
        (protocol.tx_sequence, protocol.rx_sequence) = (tx_sequence, rx_sequence);
        let input = Input::with(&[], leftover);
        crate::secret::scrub_stack();
        Ok(Self { protocol, input, output: Vec::new(), sent: 0, failed: None })
    }

    /// The cipher suite.
    pub fn suite(&self) -> Suite {
        self.protocol.suite
    }

    /// Whether this side is the server.
    pub fn is_server(&self) -> bool {
        self.protocol.server
    }

    /// Whether the peer has closed its direction (some of what it sent before may be unread).
    pub fn peer_closed(&self) -> bool {
        self.protocol.rx_closed
    }

    /// Whether this side has closed its direction.
    pub fn closed(&self) -> bool {
        self.protocol.tx_closed
    }

    /// The fatal error that ended the session, if one did.
    pub fn failed(&self) -> Option<Error> {
        self.failed
    }

    // ---- out ----

    /// Seals all of `data` at the end of `out`, behind everything that waits to be sent: after
    /// the call [`Record::output`] is empty. Empty data only fetches the output.
    ///
    /// [`Error::ClosedHere`] after [`Record::close_notify`].
    pub fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.may_send()?;
        //= spec/records.md#order
        out.extend_from_slice(&self.output[self.sent..]);
        self.sent(usize::MAX);
        let sealed = self.protocol.data(&mut Gather::new(&[IoSlice::new(data)]), usize::MAX, out);
        sealed.map(drop).map_err(|error| self.fail(error))
    }

    /// Bytes of the record that [`Record::seal_in_place`] makes of so much content.
    pub fn record_len(&self, content: usize) -> usize {
        self.protocol.record_len(content)
    }

    /// Seals one record where it lies: `content` bytes (at most [`MAX_CONTENT`], or the limits' fragment) that stand in
    /// `buffer` behind [`HEADER`] bytes of room. Answers the record's length, which is
    /// [`Record::record_len`] of `content`.
    ///
    /// [`Error::OutputFirst`] when something must be sent before it, and the output holds it now:
    /// fetch it, then call again. [`Error::Buffer`] when `buffer` is too short or the content too
    /// long. [`Error::ClosedHere`] after [`Record::close_notify`]. None of these touches `buffer`.
    #[inline]
    pub fn seal_in_place(&mut self, buffer: &mut [u8], content: usize) -> Result<usize, Error> {
        self.may_send()?;
        if self.protocol.key_is_due() {
            self.due().map_err(|error| self.fail(error))?;
        }
        //= spec/records.md#order
        if self.sent < self.output.len() {
            return Err(Error::OutputFirst);
        }
        self.protocol.data_in_place(buffer, content).map_err(|error| self.fail(error))
    }

    /// Seals `data` into the output; answers how much was taken: all of it up to three records,
    /// nothing while three records or more are unsent.
    ///
    /// [`Error::ClosedHere`] after [`Record::close_notify`].
    pub fn write(&mut self, data: &[u8]) -> Result<usize, Error> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    /// As [`Record::write`]; the buffers are sealed as if they were one.
    pub fn write_vectored(&mut self, data: &[IoSlice<'_>]) -> Result<usize, Error> {
        self.may_send()?;
        if self.output.len() - self.sent >= BATCH {
            return Ok(0);
        }
        let sealed = self.protocol.data(&mut Gather::new(data), BATCH, &mut self.output);
        sealed.map_err(|error| self.fail(error))
    }

    /// What is to be sent: sealed data, answers the peer is owed, alerts. Say what left with
    /// [`Record::sent`].
    pub fn output(&mut self) -> &[u8] {
        if self.failed.is_none() && !self.protocol.tx_closed {
            //= spec/records.md#order
            if let Err(error) = self.protocol.settle(&mut self.output) {
                self.fail(error);
            }
        }
        &self.output[self.sent..]
    }

    /// The first `bytes` of the output have left.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
        if self.sent >= self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
    }

    /// Takes the output, as if all of it had left.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.output();
        self.output.drain(..self.sent);
        self.sent = 0;
        core::mem::take(&mut self.output)
    }

    /// Moves this side to its next key, and asks the peer to move too when `request_peer`. What
    /// tells the peer is in the output.
    ///
    /// [`Error::ClosedHere`] after [`Record::close_notify`].
    pub fn key_update(&mut self, request_peer: bool) -> Result<(), Error> {
        self.may_send()?;
        let answered = core::mem::take(&mut self.protocol.owes_reply);
        let mut sealed = Ok(());
        if answered || !request_peer {
            sealed = self.protocol.key_update(false, &mut self.output);
        }
        if request_peer && sealed.is_ok() {
            sealed = self.protocol.key_update(true, &mut self.output);
        }
        sealed.map_err(|error| self.fail(error))
    }

    /// Closes this side's direction: the alert is in the output. The peer's stays open. Nothing
    /// happens when it was closed, or the session has failed.
    //= spec/records.md#half-close
    pub fn close_notify(&mut self) {
        if self.may_send().is_err() {
            return;
        }
        match self.protocol.alert(Alert::CLOSE_NOTIFY, &mut self.output) {
            Ok(()) => {
                self.protocol.tx_closed = true;
                self.protocol.owes_reply = false;
                self.protocol.owes_request = false;
            }
            Err(error) => drop(self.fail(error)),
        }
    }

    /// Ends the session with a fatal alert, which is in the output. Nothing happens when it has
    /// failed before.
    pub fn abort(&mut self, alert: Alert) {
        self.fail(Error::Aborted(alert));
    }

    // ---- in ----

    /// Opens the record at the front of `input` where it lies. Call again with what is behind
    /// `consumed` until [`Event::Incomplete`] comes; a record may hold several messages, so a call
    /// may consume nothing and still tell something.
    ///
    /// [`Error::InputFirst`] while [`Record::buffered`] is not 0: read that first.
    /// Every other error is fatal; its alert is in the output, and what is in `input` unspecified.
    #[inline]
    pub fn open<'a>(&mut self, input: &'a mut [u8]) -> Result<Opened<'a>, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if !self.input.is_empty() {
            return Err(Error::InputFirst);
        }
        if let Some(event) = self.message()? {
            return Ok(Opened { consumed: 0, event });
        }
        let (consumed, step) = self.protocol.open(input).map_err(|error| self.fail(error))?;
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
        if let Some(error) = self.failed {
            return Err(error);
        }
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

    /// Gives emptied buffers back: call it before a long wait.
    //= spec/records.md#idle
    pub fn release_buffers(&mut self) {
        self.input.release();
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    // ---- inside ----

    /// Advances to the next plaintext or event. With `data_only`, a handshake message waits.
    fn advance(&mut self, data_only: bool) -> Result<Read, Error> {
        loop {
            if let Some(error) = self.failed {
                return Err(error);
            }
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

    #[inline]
    fn may_send(&self) -> Result<(), Error> {
        match self.failed {
            Some(error) => Err(error),
            None if self.protocol.tx_closed => Err(Error::ClosedHere),
            None => Ok(()),
        }
    }

    /// Seals what a record of data must wait for into the output.
    fn due(&mut self) -> Result<(), Error> {
        self.protocol.settle(&mut self.output)?;
        //= spec/records.md#key-limit-out
        if self.protocol.tx_sequence >= u64::from(self.protocol.limits.records) {
            self.protocol.key_update(false, &mut self.output)?;
        }
        Ok(())
    }

    /// Poisons the state after a fatal error, and seals the alert.
    //= spec/records.md#alert-out
    #[cold]
    fn fail(&mut self, error: Error) -> Error {
        if error.is_fatal() && self.failed.is_none() {
            self.failed = Some(error);
            if let Some(alert) = error.alert()
                && !self.protocol.tx_closed
            {
                // Without a sequence number left there is no alert either; the error stands.
                let _ = self.protocol.alert(alert, &mut self.output);
            }
            self.input.clear();
            self.protocol.messages = crate::secret::Scratch::with_capacity(0);
        }
        error
    }
}

/// Shows lengths and states, no key and no content.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("suite", &self.protocol.suite)
            .field("server", &self.protocol.server)
            .field("closed", &self.protocol.tx_closed)
            .field("peer_closed", &self.protocol.rx_closed)
            .field("failed", &self.failed)
            .field("buffered", &self.buffered())
            .field("unsent", &(self.output.len() - self.sent))
            .finish_non_exhaustive()
    }
}
