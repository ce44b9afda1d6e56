//! The finished handshake's tunnel, while the exchange of message framing runs in it.

use super::exchange::{DEFECT, extend};
use crate::context::Exporter;
use crate::crypto::{self, MAX_SECRET};
use crate::message::{Message, Services};
use crate::record::{self, Alert, Event, HEADER, Limits, Record, Secrets};
use crate::secret::{Depth, Scratch, Slot, scrubbed};
use crate::status::Minor;
use crate::tls::{Error, Established};

/// The tunnel, and the transcript of what went through it.
pub(super) struct Tunnel {
    pub(super) session: Established,
    record: Record,
    transcript: [u8; 32],
}

/// A message of the exchange, opened. Wiped when dropped.
pub(super) struct Opened {
    token: Scratch,
    start: usize,
    length: usize,
}

impl Opened {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.token[self.start..][..self.length]
    }
}

/// The record layer that follows a handshake.
//= spec/mechanism.md#record-keys
pub(super) fn record(session: &Established, limits: Limits, rest: &[u8]) -> Result<Record, Error> {
    let ((tx_key, tx_sequence), (rx_key, rx_sequence)) = (session.tx(), session.rx());
    let secrets = Secrets {
        suite: session.suite,
        server: session.server,
        tx_secret: session.tx_secret(),
        rx_secret: session.rx_secret(),
        tx_sequence,
        rx_sequence,
    };
    Record::with_keys(&secrets, tx_key, rx_key, limits, rest).map_err(|error| of_record(&error))
}

/// An error of the record layer, before there is a context.
fn of_record(error: &record::Error) -> Error {
    let minor = match error {
        record::Error::PeerAlert(_) => Minor::PeerRefused,
        record::Error::Secrets => Minor::ContextTokenTooLarge,
        record::Error::UsedUp => Minor::HandshakeFailed,
        _ => Minor::ContextTokenMalformed,
    };
    Error::told(minor, &error.to_string())
}

impl Tunnel {
    pub(super) fn new(session: Established) -> Result<Box<Self>, Error> {
        Ok(Box::new(Self {
            record: record(&session, Limits::default(), &[])?,
            session,
            transcript: [0; 32],
        }))
    }

    /// Opens the one message of `length` bytes that a token holds, and nothing behind it.
    //= spec/mechanism.md#tokens
    pub(super) fn receive(&mut self, token: &[u8], length: usize) -> Result<Opened, Error> {
        let mut opened = Opened {
            token: Scratch::with_capacity(token.len()),
            start: 0,
            length,
        };
        opened.token.extend_from_slice(token);
        let mut at = 0;
        loop {
            let found = self
                .record
                .open(&mut opened.token[at..])
                .map_err(|error| of_record(&error))?;
            let consumed = found.consumed;
            match found.event {
                Event::Data(data) if data.len() == length => {
                    opened.start = at + HEADER;
                    // Nothing but zeros behind, and no other record.
                    if at + consumed != token.len() {
                        return Err(DEFECT);
                    }
                    extend(&mut self.transcript, opened.as_bytes());
                    return Ok(opened);
                }
                Event::Ticket(ticket) => {
                    if let Some(tickets) = &mut self.session.tickets {
                        tickets.take(&ticket)?;
                    }
                }
                Event::Nothing => {}
                Event::Closed => {
                    return Err(Error::new(Minor::PeerRefused, "the peer closed the tunnel"));
                }
                Event::Data(_) | Event::KeyUpdated | Event::Incomplete { .. } => {
                    return Err(DEFECT);
                }
            }
            at += consumed;
        }
    }

    /// Seals a message of the exchange at the end of `output`.
    pub(super) fn send(&mut self, message: &[u8], output: &mut Vec<u8>) -> Result<(), Error> {
        extend(&mut self.transcript, message);
        let length = self.record.record_len(message.len());
        // Sealed where it can be wiped: a password has no copy elsewhere.
        let mut sealed = Scratch::with_capacity(length);
        sealed.resize(HEADER);
        sealed.extend_from_slice(message);
        sealed.resize(length);
        let length = self
            .record
            .seal_in_place(&mut sealed, message.len())
            .map_err(|error| of_record(&error))?;
        output.extend_from_slice(&sealed[..length]);
        Ok(())
    }

    /// Ends the tunnel: what the peer is told of an error on this side. After an error of the
    /// peer's records, that error's alert.
    pub(super) fn refuse(mut self, alert: Alert) -> Vec<u8> {
        self.record.abort(alert);
        self.record.take_output()
    }

    /// The protection and the exporter of the context that the exchange has agreed on.
    //= spec/mechanism.md#message-keys
    pub(super) fn finish(self, services: Services) -> Result<(Message, Exporter), Error> {
        scrubbed(Depth::Derived, || self.derive(services))
    }

    fn derive(self, services: Services) -> Result<(Message, Exporter), Error> {
        const NONE: Error = Error::new(Minor::HandshakeFailed, "no secrets could be derived");
        let (suite, length) = (self.session.suite, self.session.suite.secret_len());
        let mut secrets = Slot::<[u8; 3 * MAX_SECRET]>::zeroed();
        let secrets = &mut secrets[..3 * length];
        crypto::exporter(
            suite,
            self.session.exporter_secret(),
            b"EXPORTER-Baton-1-message",
            &self.transcript,
            secrets,
        );
        let (initiator, rest) = secrets.split_at(length);
        let (acceptor, exporter) = rest.split_at(length);
        let message = match self.session.server {
            true => Message::new(suite, false, acceptor, initiator, services),
            false => Message::new(suite, true, initiator, acceptor, services),
        };
        let exporter = Exporter::new(suite, exporter).ok_or(NONE)?;
        Ok((message, exporter))
    }
}
