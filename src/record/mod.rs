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
//! - every loop and buffer is bounded, whatever the peer sends;
//! - in a forked child there is no state: every call is refused, and no key or plaintext is there.

mod error;
mod frozen;
mod input;
mod keys;
mod limits;
mod open;
mod protocol;
mod receive;
mod send;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

use core::fmt;

pub use error::Error;
pub use frozen::Frozen;
pub use limits::{Limits, Padding};
pub(crate) use stream::{Access, Pass};
pub use stream::{Channel, Stream};
pub use wire::{Alert, HEADER, MAX_CONTENT};

use crate::crypto::{Suite, TAG};
use crate::secret::{Depth, Scratch, scrubbed};
use input::Input;
use keys::{Direction, Keys};
use protocol::{Protocol, SEQUENCE_START};

/// Bytes a record is longer than its content, when there is no padding.
pub const OVERHEAD: usize = HEADER + 1 + TAG;

/// Most bytes that travel: unread plaintext, unopened ciphertext, a collected message and unsent
/// output together.
pub const TRANSFER_LIMIT: usize = 65_536;

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
pub struct Opened<'a> {
    /// Bytes of the input that are done with; the next call begins behind them.
    pub consumed: usize,
    /// What they held.
    pub event: Event<'a>,
}

/// What a record held.
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
#[derive(PartialEq, Eq)]
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
        let derive = |secret| Direction::derive(secrets.suite, secret).map_err(|_| Error::Secrets);
        scrubbed(Depth::Derived, || {
            let keys = Keys {
                tx: derive(secrets.tx_secret)?,
                rx: derive(secrets.rx_secret)?,
            };
            Self::of_keys(keys, secrets, limits, leftover)
        })
    }

    /// [`Record::new`] by a caller that has derived each secret's key and IV already.
    pub(crate) fn with_keys(
        secrets: &Secrets<'_>,
        tx: [&[u8]; 2],
        rx: [&[u8]; 2],
        limits: Limits,
        leftover: &[u8],
    ) -> Result<Self, Error> {
        let restore = |secret, [key, iv]: [&[u8]; 2]| {
            Direction::restore(secrets.suite, secret, key, iv).map_err(|_| Error::Secrets)
        };
        scrubbed(Depth::Moved, || {
            let keys = Keys {
                tx: restore(secrets.tx_secret, tx)?,
                rx: restore(secrets.rx_secret, rx)?,
            };
            Self::of_keys(keys, secrets, limits, leftover)
        })
    }

    fn of_keys(
        keys: Keys,
        secrets: &Secrets<'_>,
        limits: Limits,
        leftover: &[u8],
    ) -> Result<Self, Error> {
        let Secrets {
            suite,
            server,
            tx_sequence,
            rx_sequence,
            ..
        } = *secrets;
        //= spec/records.md#buffers
        if tx_sequence.max(rx_sequence) > SEQUENCE_START || leftover.len() > TRANSFER_LIMIT {
            return Err(Error::Secrets);
        }
        let mut protocol = Protocol::new(keys, suite, server, limits);
        (protocol.tx_sequence, protocol.rx_sequence) = (tx_sequence, rx_sequence);
        let input = Input::with(&[], leftover);
        Ok(Self {
            protocol,
            input,
            output: Vec::new(),
            sent: 0,
            failed: None,
        })
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

    /// That the keys are here and nothing has failed: what every operation asks first.
    #[inline]
    fn check(&self) -> Result<(), Error> {
        if !self.protocol.keys.is_here() {
            return Err(Error::Forked);
        }
        self.failed.map_or(Ok(()), Err)
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
            self.protocol.messages = Scratch::new();
        }
        error
    }
}

// Lengths and states, no key and no content: what the peer said, and its tickets, do not reach a
// log by way of an assertion or a trace.

impl fmt::Debug for Opened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Opened({} bytes consumed, {:?})",
            self.consumed, self.event
        )
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(data) => write!(f, "Data({} bytes)", data.len()),
            Self::Incomplete { needed } => write!(f, "Incomplete({needed} bytes)"),
            Self::Nothing => f.write_str("Nothing"),
            Self::Ticket(ticket) => write!(f, "Ticket({} bytes)", ticket.len()),
            Self::KeyUpdated => f.write_str("KeyUpdated"),
            Self::Closed => f.write_str("Closed"),
        }
    }
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(length) => write!(f, "Data({length} bytes)"),
            Self::Incomplete { needed } => write!(f, "Incomplete({needed} bytes)"),
            Self::Ticket(ticket) => write!(f, "Ticket({} bytes)", ticket.len()),
            Self::Closed => f.write_str("Closed"),
        }
    }
}

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
