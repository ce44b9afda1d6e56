//! A live context seen as a stream of plaintext, whatever its framing.
//!
//! No descriptor is touched here: bytes of the connection in, bytes for the connection out.

use std::os::fd::BorrowedFd;

use crate::context::{Context, Facts};
use crate::crypto::TAG;
use crate::establish::Tokens;
use crate::exit::SessionIdentifier;
use crate::ledger::Domain;
use crate::message::{HEADER, Kind, Message};
use crate::record::{Read, Record};
use crate::status::{Minor, Status, Supplementary};
use crate::transfer::{self, Export, Token};

/// What a read of a [`Channel`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// So many bytes of plaintext, at least one.
    Data(usize),
    /// Nothing until more bytes of the connection come.
    More,
    /// The peer has said that nothing follows.
    Ended,
}

/// A context as a stream. Each operation fails as the context's does; after a failure only
/// [`Channel::answer`] and [`Channel::close`] are of use.
pub trait Channel: Sized {
    /// The context in transit, with what of its connection's bytes is not part of the context.
    type Sealed;

    /// The framing's name, for people.
    const FRAMING: &'static str;

    /// The session identifier.
    fn session(&self) -> SessionIdentifier;

    /// What is known of the context.
    fn facts(&self) -> &Facts;

    /// Takes at most [`MOST_FED`] bytes of the connection. Only once [`Channel::read`] wants more.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Status>;

    /// Opens into `out`, which is not empty.
    fn read(&mut self, out: &mut [u8]) -> Result<Opened, Status>;

    /// Seals `data` and appends what is to be sent to `out`.
    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Status>;

    /// Appends to `out` what the context itself has to send: answers to key updates, alerts.
    fn answer(&mut self, out: &mut Vec<u8>);

    /// Says that nothing follows in this direction; the other goes on.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Status>;

    /// Ends the context. What there is to say about it is appended to `out`.
    fn close(self, out: &mut Vec<u8>);

    /// Exports the context; it comes back with the reason when it cannot leave.
    // The large error is the point: it carries the context back.
    #[allow(clippy::result_large_err)]
    fn export(self, how: &Export) -> Result<Self::Sealed, (Self, Status)>;

    /// Imports the context beside the connection's `socket`. `sealed` stays as it is: as long as
    /// no import succeeds, another process can try.
    fn import(
        domain: &Domain,
        sealed: Self::Sealed,
        socket: BorrowedFd<'_>,
    ) -> Result<Self, (Self::Sealed, Status)>;
}

/// Bytes that are fed at once: with less than a whole record kept, a context takes them all.
pub const MOST_FED: usize = 32 * 1024;

impl Channel for Context<Record> {
    type Sealed = Token;

    const FRAMING: &'static str = "record";

    fn session(&self) -> SessionIdentifier {
        self.session_identifier()
    }

    fn facts(&self) -> &Facts {
        Context::facts(self)
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Status> {
        match Context::feed(self, bytes)? {
            taken if taken == bytes.len() => Ok(()),
            // Nothing may be lost, so what cannot be kept ends the session.
            _ => Err(Minor::RecordMalformed.into()),
        }
    }

    fn read(&mut self, out: &mut [u8]) -> Result<Opened, Status> {
        Ok(match Context::read(self, out)? {
            Read::Data(count) => Opened::Data(count),
            Read::Closed => Opened::Ended,
            Read::Incomplete { .. } | Read::Ticket(_) => Opened::More,
        })
    }

    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
        self.seal(data, out)
    }

    fn answer(&mut self, out: &mut Vec<u8>) {
        if let Ok(output) = self.take_output() {
            out.extend_from_slice(&output);
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Status> {
        self.close_notify()?;
        self.answer(out);
        Ok(())
    }

    fn close(mut self, out: &mut Vec<u8>) {
        let _ = self.finish(out);
    }

    #[allow(clippy::result_large_err)]
    fn export(self, how: &Export) -> Result<Token, (Self, Status)> {
        Context::export(self, how).map_err(|kept| (kept.context, kept.status))
    }

    fn import(
        domain: &Domain,
        sealed: Token,
        socket: BorrowedFd<'_>,
    ) -> Result<Self, (Token, Status)> {
        transfer::import(domain, sealed.as_bytes(), Some(socket)).map_err(|status| (sealed, status))
    }
}

/// Bytes of plaintext in one wrap token of a session.
const MOST_WRAPPED: usize = 16 * 1024;
/// The longest token that is taken from a peer.
const MOST_TOKEN: usize = 64 * 1024;

/// A message-framing context as a stream (`spec/sessions.md`): each token behind its length; a wrap
/// token carries the next piece, the close token ends its direction.
pub struct Messages {
    context: Context<Message>,
    rest: Rest,
}

/// What of a stream of messages is not part of the context.
pub struct Rest {
    /// The token that is not whole yet.
    tokens: Tokens,
    /// Bytes of the connection that have not been looked at, `looked` of them have.
    input: Vec<u8>,
    looked: usize,
    /// An opened message, `read` bytes of which have been read.
    opened: Vec<u8>,
    read: usize,
    /// The peer has closed its direction.
    ended: bool,
    /// This side has.
    closed: bool,
}

impl Rest {
    /// Of a stream of which nothing was looked at: `input` is all that has come of it.
    pub(super) fn of(input: Vec<u8>) -> Self {
        Self {
            tokens: Tokens::new(MOST_TOKEN),
            input,
            looked: 0,
            opened: Vec::new(),
            read: 0,
            ended: false,
            closed: false,
        }
    }

    /// All that has come of the stream; none once some of it was looked at.
    pub(super) fn untouched(&self) -> Option<&[u8]> {
        let untouched = !self.tokens.is_partial()
            && self.looked == 0
            && self.opened.is_empty()
            && !self.ended
            && !self.closed;
        untouched.then_some(&self.input)
    }
}

impl Messages {
    /// `input` is what came behind the last token of the establishment.
    pub fn new(context: Context<Message>, input: Vec<u8>) -> Self {
        let rest = Rest::of(input);
        Self { context, rest }
    }

    /// Opens the next token into `opened`; false when it is not all there.
    //= spec/sessions.md#data
    fn open(&mut self) -> Result<bool, Status> {
        let rest = &mut self.rest;
        let mut input = &rest.input[rest.looked..];
        let token = rest
            .tokens
            .next(&mut input)
            .map_err(|error| error.status())?;
        rest.looked = rest.input.len() - input.len();
        let Some(mut token) = token else {
            return Ok(false);
        };
        //= spec/sessions.md#end
        if Kind::of(&token) == Some(Kind::Close) {
            in_order(self.context.process_context_token(&token)?)?;
            self.rest.ended = true;
            return Ok(true);
        }
        let unwrapped = self.context.unwrap(&mut token)?;
        in_order(unwrapped.supplementary)?;
        let length = unwrapped.message.len();
        token.drain(..HEADER);
        token.truncate(length);
        (rest.opened, rest.read) = (token, 0);
        Ok(true)
    }
}

//= spec/sessions.md#order
fn in_order(supplementary: Supplementary) -> Result<(), Status> {
    match supplementary.is_empty() {
        true => Ok(()),
        false => Err(Minor::MessageForged.into()),
    }
}

impl Channel for Messages {
    type Sealed = (Token, Rest);

    const FRAMING: &'static str = "message";

    fn session(&self) -> SessionIdentifier {
        self.context.session_identifier()
    }

    fn facts(&self) -> &Facts {
        self.context.facts()
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let rest = &mut self.rest;
        rest.input.drain(..rest.looked);
        rest.looked = 0;
        rest.input.extend_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, out: &mut [u8]) -> Result<Opened, Status> {
        while self.rest.read == self.rest.opened.len() {
            if self.rest.ended {
                return Ok(Opened::Ended);
            }
            if !self.open()? {
                return Ok(Opened::More);
            }
        }
        let rest = &mut self.rest;
        let unread = &rest.opened[rest.read..];
        let count = unread.len().min(out.len());
        out[..count].copy_from_slice(&unread[..count]);
        rest.read += count;
        Ok(Opened::Data(count))
    }

    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
        for piece in data.chunks(MOST_WRAPPED) {
            out.extend_from_slice(&Tokens::frame(&self.context.wrap(true, piece)?));
        }
        Ok(())
    }

    fn answer(&mut self, _out: &mut Vec<u8>) {}

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Status> {
        if !self.rest.closed {
            out.extend_from_slice(&Tokens::frame(&self.context.close()?));
            self.rest.closed = true;
        }
        Ok(())
    }

    fn close(mut self, out: &mut Vec<u8>) {
        let _ = self.finish(out);
    }

    #[allow(clippy::result_large_err)]
    fn export(self, how: &Export) -> Result<Self::Sealed, (Self, Status)> {
        let Self { context, rest } = self;
        match context.export(how) {
            Ok(token) => Ok((token, rest)),
            Err(kept) => Err((
                Self {
                    context: kept.context,
                    rest,
                },
                kept.status,
            )),
        }
    }

    fn import(
        domain: &Domain,
        (token, rest): Self::Sealed,
        socket: BorrowedFd<'_>,
    ) -> Result<Self, (Self::Sealed, Status)> {
        match transfer::import(domain, token.as_bytes(), Some(socket)) {
            Ok(context) => Ok(Self { context, rest }),
            Err(status) => Err(((token, rest), status)),
        }
    }
}

const _: () = assert!(MOST_WRAPPED + HEADER + TAG <= MOST_TOKEN);
