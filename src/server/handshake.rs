//! One handshake in progress: bytes in, bytes out, and at its end a context.
//!
//! SECURITY: this is where a stranger's bytes meet the private key. Each handshake is bounded in
//! bytes (by [`crate::establish`]) and in time (by the loop that holds it); nothing of what the
//! peer sends reaches the log but through [`Failed::reason`], which is printable.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use crate::context::Context;
use crate::establish::{
    Acceptor, AcceptorConfig, Failed, Finished, Framing, Step, TOKEN_LIMIT, Tokens,
};
use crate::ledger::Domain;
use crate::message::Message;
use crate::record::{Alert, Record};
use crate::session::channel::Messages;
use crate::status::Minor;

use super::tally::Refused;

/// Bytes taken from a connection at once.
const TAKEN: usize = 16 * 1024;
/// Reads in a row, before others get their turn.
const READS: usize = 8;

/// A connection and how far its handshake is.
pub struct Handshake {
    /// The connection; it does not block.
    pub socket: TcpStream,
    /// The peer's address.
    pub remote: SocketAddr,
    /// When the connection was accepted.
    pub began: Instant,
    policy: Policy,
    state: State,
    unsent: Vec<u8>,
}

/// Who gets in.
#[derive(Clone)]
pub struct Policy {
    /// How contexts are established, in either framing.
    pub config: Arc<AcceptorConfig>,
    /// Whether clients that prove nothing get in, in record framing too: there the configuration
    /// asks for certificates only, and a password has no place.
    pub anonymous: bool,
}

enum State {
    /// Nothing has come yet.
    Waiting,
    /// TLS records.
    Record(Acceptor<Record>),
    /// Tokens behind their lengths.
    Message(Acceptor<Message>, Tokens),
    /// Over: what the peer still sends is dropped until it closes, or a connection closed on
    /// unread bytes would be reset and take the alert with it.
    Refused,
    /// Taken out for a step.
    Stepping,
}

/// A handshake's good end.
pub enum Live {
    /// TLS records.
    Record(Context<Record>),
    /// Message tokens.
    Message(Messages),
}

/// What became of a handshake by what came in.
pub enum Progress {
    /// It goes on; what to wait for.
    Wants(EventFlags),
    /// There is a context. What has not been sent yet must be sent first.
    Established(Box<Live>, Vec<u8>),
    /// There is none, and the connection can be closed.
    Over,
}

/// Why a handshake will not come to a good end: one line for the log.
#[derive(Debug)]
pub struct Refusal {
    /// What it counts as.
    pub reason: Reason,
    /// One line.
    pub text: String,
}

/// What a refusal counts as.
pub type Reason = fn(&mut Refused) -> &mut u64;

/// A [`Refusal`] of this reason.
fn refusal(reason: Reason, text: &dyn fmt::Display) -> Refusal {
    let text = text.to_string();
    Refusal { reason, text }
}

/// By what the peer is to blame for.
fn reason(failed: &Failed) -> Reason {
    match failed.status.minor() {
        Minor::CertificateRefused
        | Minor::CertificateMissing
        | Minor::PasswordRefused
        | Minor::PasswordMissing
        | Minor::NameMismatch
        | Minor::BindingsDiffer => |refused| &mut refused.credential,
        Minor::AnonymousRefused => |refused| &mut refused.anonymous,
        Minor::ContextTokenMalformed | Minor::ContextTokenTooLarge | Minor::FramingUnknown => {
            |refused| &mut refused.garbage
        }
        _ => |refused| &mut refused.protocol,
    }
}

enum Fed {
    More,
    Established(Box<Live>),
}

impl Handshake {
    /// Of a connection that has just been accepted.
    pub fn new(socket: TcpStream, remote: SocketAddr, policy: Policy) -> Self {
        Self {
            socket,
            remote,
            began: Instant::now(),
            policy,
            state: State::Waiting,
            unsent: Vec::new(),
        }
    }

    /// Moves on as far as the connection allows. The first refusal is told to `refused`; the
    /// handshake then only waits for the peer to take its alert.
    pub fn advance(&mut self, domain: &Domain, refused: impl FnOnce(Refusal)) -> Progress {
        match self.try_advance(domain) {
            Ok(progress) => progress,
            Err(refusal) => {
                refused(refusal);
                self.state = State::Refused;
                // The write side closes once the alert has left.
                self.flush_and_close()
            }
        }
    }

    fn try_advance(&mut self, domain: &Domain) -> Result<Progress, Refusal> {
        if let State::Refused = self.state {
            return Ok(self.drain());
        }
        if !self.flush()? {
            return Ok(Progress::Wants(EventFlags::OUT));
        }
        let mut bytes = [0; TAKEN];
        for _ in 0..READS {
            match (&self.socket).read(&mut bytes) {
                Ok(0) => {
                    return Err(refusal(
                        |refused| &mut refused.closed,
                        &"the peer closed the connection",
                    ));
                }
                Ok(count) => {
                    if let Fed::Established(live) = self.feed(&bytes[..count], domain)? {
                        // What the socket does not take now leaves with the context.
                        self.flush()?;
                        return Ok(Progress::Established(
                            live,
                            std::mem::take(&mut self.unsent),
                        ));
                    }
                    if !self.flush()? {
                        return Ok(Progress::Wants(EventFlags::OUT));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Wants(EventFlags::IN));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(refusal(|refused| &mut refused.system, &error)),
            }
        }
        Ok(Progress::Wants(EventFlags::IN))
    }

    fn feed(&mut self, input: &[u8], domain: &Domain) -> Result<Fed, Refusal> {
        match std::mem::replace(&mut self.state, State::Stepping) {
            State::Waiting => {
                let config = Arc::clone(&self.policy.config);
                self.state = match input.first().copied().and_then(Framing::of) {
                    Some(Framing::Record) => State::Record(Acceptor::new(config)),
                    Some(Framing::Message) => {
                        State::Message(Acceptor::new(config), Tokens::new(TOKEN_LIMIT))
                    }
                    None => {
                        let text = "neither TLS records nor message tokens";
                        return Err(refusal(|refused| &mut refused.garbage, &text));
                    }
                };
                self.feed(input, domain)
            }
            State::Record(acceptor) => match self.stepped(acceptor.step(input))? {
                Ok(next) => {
                    self.state = State::Record(next);
                    Ok(Fed::More)
                }
                Err(finished) => {
                    let somebody = finished.facts().initiator_name.is_some();
                    let mut context = activate(finished, domain)?;
                    if !somebody && !self.policy.anonymous {
                        // Nothing is left to be told but this.
                        let told = context.abort(Alert::ACCESS_DENIED);
                        let output = told.and_then(|()| context.take_output());
                        self.unsent.extend_from_slice(&output.unwrap_or_default());
                        let text = "the client proves no name";
                        return Err(refusal(|refused| &mut refused.anonymous, &text));
                    }
                    Ok(Fed::Established(Box::new(Live::Record(context))))
                }
            },
            State::Message(acceptor, tokens) => self.feed_tokens(acceptor, tokens, input, domain),
            State::Refused | State::Stepping => Ok(Fed::More),
        }
    }

    fn feed_tokens(
        &mut self,
        mut acceptor: Acceptor<Message>,
        mut tokens: Tokens,
        mut input: &[u8],
        domain: &Domain,
    ) -> Result<Fed, Refusal> {
        loop {
            let token = tokens
                .next(&mut input)
                .map_err(|error| refusal(|refused| &mut refused.garbage, &error.reason()))?;
            let Some(token) = token else {
                self.state = State::Message(acceptor, tokens);
                return Ok(Fed::More);
            };
            match self.stepped(framed(acceptor.step(&token)))? {
                Ok(next) => acceptor = next,
                Err(finished) => {
                    let context = activate(finished, domain)?;
                    let messages = Messages::new(context, input.to_vec());
                    return Ok(Fed::Established(Box::new(Live::Message(messages))));
                }
            }
        }
    }

    /// Queues what a step has for the peer. Answers what goes on, or, as the error, what has
    /// finished.
    fn stepped<A, F>(&mut self, step: Result<Step<A, F>, Failed>) -> Result<Result<A, F>, Refusal> {
        match step {
            Ok(Step::Continue { next, output }) => {
                self.unsent.extend_from_slice(&output);
                Ok(Ok(next))
            }
            Ok(Step::Done { finished, output }) => {
                self.unsent.extend_from_slice(&output);
                Ok(Err(finished))
            }
            Ok(Step::Password(never)) => match never {},
            Err(failed) => {
                self.unsent.extend_from_slice(&failed.output);
                Err(refusal(reason(&failed), &failed))
            }
        }
    }

    /// Sends what is unsent; false when the connection does not take all of it now.
    fn flush(&mut self) -> Result<bool, Refusal> {
        while !self.unsent.is_empty() {
            match (&self.socket).write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(refusal(|refused| &mut refused.system, &error)),
            }
        }
        Ok(true)
    }

    fn flush_and_close(&mut self) -> Progress {
        match self.flush() {
            Ok(false) => Progress::Wants(EventFlags::OUT),
            Ok(true) if self.socket.shutdown(Shutdown::Write).is_ok() => self.drain(),
            _ => Progress::Over,
        }
    }

    /// Drops what the peer sends, until it closes.
    fn drain(&mut self) -> Progress {
        if !self.unsent.is_empty() {
            return self.flush_and_close();
        }
        let mut bytes = [0; TAKEN];
        for _ in 0..READS {
            match (&self.socket).read(&mut bytes) {
                Ok(0) => return Progress::Over,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Progress::Over,
                _ => {}
            }
        }
        Progress::Wants(EventFlags::IN)
    }

    /// Whether it has been refused already, so that its end is nothing to tell.
    pub fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused)
    }
}

/// What a step has for the peer, as it goes over a stream.
fn framed<A, F>(step: Result<Step<A, F>, Failed>) -> Result<Step<A, F>, Failed> {
    match step {
        Ok(Step::Continue { next, output }) => Ok(Step::Continue {
            next,
            output: Tokens::frame(&output),
        }),
        Ok(Step::Done { finished, output }) => Ok(Step::Done {
            finished,
            output: Tokens::frame(&output),
        }),
        Ok(Step::Password(never)) => match never {},
        Err(failed) => Err(Failed {
            output: Tokens::frame(&failed.output),
            ..failed
        }),
    }
}

fn activate<F: crate::codec::Framing>(
    finished: Finished<F>,
    domain: &Domain,
) -> Result<Context<F>, Refusal> {
    finished
        .activate(domain)
        .map_err(|kept| refusal(|refused| &mut refused.local, &kept.error))
}
