//! The handshake of one session, whichever its role and framing: bytes in, bytes out.
//!
//! SECURITY: this is where a stranger's bytes meet the private key. What is kept of them is
//! bounded by [`crate::establish`], the time by the session's handshake timeout.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Code, Error, Live};
use crate::channel::Messages;
use crate::codec;
use crate::context::Context;
use crate::establish::{
    Acceptor, AcceptorConfig, Failed, Finished, Framing, Hearing, Hello, Initiator,
    InitiatorConfig, Listened, Reserved, Resumable, Standing, Step, TOKEN_LIMIT, Tokens,
};
use crate::ledger::Domain;
use crate::message::Message;
use crate::name::Name;
use crate::record::Record;
use crate::status::{Minor, Status};

/// How handshakes are made.
#[derive(Clone)]
pub(super) enum Establishment {
    Acceptor(Arc<AcceptorConfig>),
    Initiator(Arc<InitiatorConfig>),
}

/// Where the context will be.
pub(super) struct Place<'a> {
    pub(super) domain: &'a Domain,
    /// And as which, if that is settled.
    pub(super) reserved: &'a mut Option<Reserved>,
}

/// A handshake that is not finished.
pub(super) enum Shake {
    /// The application is told of the hello before it is answered.
    Hearing(Arc<AcceptorConfig>, Box<Hearing>),
    /// It was, and these bytes are what the handshake goes on with.
    Heard(Framing, Vec<u8>),
    /// The first byte will tell the framing.
    Waiting(Arc<AcceptorConfig>),
    AcceptRecord(Acceptor<Record>),
    AcceptMessage(Acceptor<Message>, Tokens),
    InitiateRecord(Initiator<Record>),
    InitiateMessage(Initiator<Message>, Tokens),
    /// Nothing comes after an error or the end.
    Over,
}

/// What a handshake was fed to.
pub(super) enum Fed {
    /// More is needed.
    More,
    /// The initiator's hello: it goes on when the application says how.
    Hello(Box<Hello>),
    Done(Box<Done>),
}

/// A handshake's good end.
pub(super) struct Done {
    pub(super) live: Live,
    pub(super) standing: Standing,
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) resumable: Option<Resumable>,
}

impl Shake {
    /// A handshake of which nothing has been said. `target` is an initiator's.
    pub(super) fn new(
        establishment: Establishment,
        framing: Option<Framing>,
        target: Option<Name>,
        hears: bool,
    ) -> Result<Self, Error> {
        let failed = |error: crate::cred::Error| failure(Some(error.status()), error.reason());
        Ok(match establishment {
            Establishment::Acceptor(config) if hears => {
                Self::Hearing(config, Box::new(Hearing::new(framing)))
            }
            Establishment::Acceptor(config) => match framing {
                None => Self::Waiting(config),
                Some(framing) => Self::accept(framing, config),
            },
            Establishment::Initiator(config) => {
                let target = target.ok_or(Code::BadTarget)?;
                match framing.ok_or(Code::BadFraming)? {
                    Framing::Record => Self::InitiateRecord(
                        Initiator::<Record>::new(config, target).map_err(failed)?,
                    ),
                    Framing::Message => Self::InitiateMessage(
                        Initiator::<Message>::new(config, target).map_err(failed)?,
                        Tokens::new(TOKEN_LIMIT),
                    ),
                }
            }
        })
    }

    /// What a handshake that was heard goes on with, and the bytes that it is fed first. None when
    /// it was not.
    pub(super) fn go_on(self, config: Arc<AcceptorConfig>) -> Option<(Self, Vec<u8>)> {
        match self {
            Self::Heard(framing, bytes) => Some((Self::accept(framing, config), bytes)),
            _ => None,
        }
    }

    fn accept(framing: Framing, config: Arc<AcceptorConfig>) -> Self {
        match framing {
            Framing::Record => Self::AcceptRecord(Acceptor::new(config)),
            Framing::Message => {
                Self::AcceptMessage(Acceptor::new(config), Tokens::new(TOKEN_LIMIT))
            }
        }
    }

    /// Whether this side speaks first: it is fed with nothing then.
    pub(super) fn speaks_first(&self) -> bool {
        matches!(self, Self::InitiateRecord(_) | Self::InitiateMessage(..))
    }

    /// Takes what came in, and appends what is to be sent to `out`, also on an error: an alert
    /// then. A panic in one of the application's callbacks is an error like any other.
    pub(super) fn feed(
        &mut self,
        input: &[u8],
        place: &mut Place<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Fed, Error> {
        let stepped = catch_unwind(AssertUnwindSafe(|| self.step(input, place, out)));
        stepped.unwrap_or_else(|_| {
            Err(failure(
                Some(Minor::HandshakeFailed.into()),
                "a callback of the application panicked",
            ))
        })
    }

    fn step(
        &mut self,
        mut input: &[u8],
        place: &mut Place<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Fed, Error> {
        match core::mem::replace(self, Self::Over) {
            Self::Hearing(config, mut hearing) => match hearing.hear(input) {
                Listened::More => {
                    *self = Self::Hearing(config, hearing);
                    Ok(Fed::More)
                }
                Listened::Hello(hello, framing, bytes) => {
                    *self = Self::Heard(framing, bytes);
                    Ok(Fed::Hello(hello))
                }
                Listened::None(bytes) => {
                    *self = Self::Waiting(config);
                    self.step(&bytes, place, out)
                }
            },
            // It waits for the application.
            Self::Heard(framing, bytes) => {
                *self = Self::Heard(framing, bytes);
                Ok(Fed::More)
            }
            Self::Waiting(config) => {
                let Some(first) = input.first() else {
                    *self = Self::Waiting(config);
                    return Ok(Fed::More);
                };
                let framing = Framing::of(*first).ok_or_else(|| {
                    failure(
                        Some(Minor::ContextTokenMalformed.into()),
                        "neither TLS records nor message tokens",
                    )
                })?;
                *self = Self::accept(framing, config);
                self.step(input, place, out)
            }
            Self::AcceptRecord(acceptor) => match stepped(acceptor.step(input), out, plain)? {
                Stepped::Next(next) => {
                    *self = Self::AcceptRecord(next);
                    Ok(Fed::More)
                }
                Stepped::Finished(finished) => done(finished, place, Live::Record),
            },
            Self::InitiateRecord(initiator) => match stepped(initiator.step(input), out, plain)? {
                Stepped::Next(next) => {
                    *self = Self::InitiateRecord(next);
                    Ok(Fed::More)
                }
                Stepped::Finished(finished) => done(finished, place, Live::Record),
            },
            Self::AcceptMessage(mut acceptor, mut tokens) => loop {
                let Some(token) = next(&mut tokens, &mut input)? else {
                    *self = Self::AcceptMessage(acceptor, tokens);
                    return Ok(Fed::More);
                };
                match stepped(acceptor.step(&token), out, Tokens::frame)? {
                    Stepped::Next(next) => acceptor = next,
                    Stepped::Finished(finished) => {
                        return messages(finished, place, input);
                    }
                }
            },
            Self::InitiateMessage(mut initiator, mut tokens) => {
                // The first token answers nothing.
                let mut token = match input.is_empty() {
                    true => Some(Vec::new()),
                    false => next(&mut tokens, &mut input)?,
                };
                while let Some(said) = token {
                    match stepped(initiator.step(&said), out, Tokens::frame)? {
                        Stepped::Next(next) => initiator = next,
                        Stepped::Finished(finished) => {
                            return messages(finished, place, input);
                        }
                    }
                    token = next(&mut tokens, &mut input)?;
                }
                *self = Self::InitiateMessage(initiator, tokens);
                Ok(Fed::More)
            }
            Self::Over => Err(failure(None, "the handshake is over")),
        }
    }
}

fn failure(status: Option<Status>, reason: &str) -> Error {
    Error::told(Code::HandshakeFailed, status, reason)
}

fn plain(output: &[u8]) -> Vec<u8> {
    output.to_vec()
}

fn next(tokens: &mut Tokens, input: &mut &[u8]) -> Result<Option<Vec<u8>>, Error> {
    tokens
        .next(input)
        .map_err(|error| failure(Some(error.status()), error.reason()))
}

// Of each handshake there is one, on the stack for a moment.
#[allow(clippy::large_enum_variant)]
enum Stepped<Next, Finished> {
    Next(Next),
    Finished(Finished),
}

/// What a step came to; what it has for the peer, as it goes over a stream, is appended to `out`.
fn stepped<Next, Finished, Asked>(
    step: Result<Step<Next, Finished, Asked>, Failed>,
    out: &mut Vec<u8>,
    framed: fn(&[u8]) -> Vec<u8>,
) -> Result<Stepped<Next, Finished>, Error> {
    match step {
        Ok(Step::Continue { next, output }) => {
            out.extend_from_slice(&framed(&output));
            Ok(Stepped::Next(next))
        }
        Ok(Step::Done { finished, output }) => {
            out.extend_from_slice(&framed(&output));
            Ok(Stepped::Finished(finished))
        }
        Ok(Step::Password(_)) => Err(failure(
            Some(Minor::PasswordMissing.into()),
            "the acceptor wants a password",
        )),
        Err(failed) => {
            out.extend_from_slice(&framed(&failed.output));
            Err(failure(Some(failed.status), &failed.reason))
        }
    }
}

/// Enters a finished handshake into the ledger.
fn done<F: codec::Framing>(
    finished: Finished<F>,
    place: &mut Place<'_>,
    live: impl FnOnce(Context<F>) -> Live,
) -> Result<Fed, Error> {
    let standing = finished.standing();
    let chain = finished.peer_chain().map(<[u8]>::to_vec).collect();
    let resumable = finished.resumable();
    let activated = match place.reserved.take() {
        Some(reserved) => finished.activate_as(reserved),
        None => finished.activate(place.domain),
    };
    let context =
        activated.map_err(|kept| Error::told(Code::NotActivated, Some(kept.error), ""))?;
    Ok(Fed::Done(Box::new(Done {
        live: live(context),
        standing,
        chain,
        resumable,
    })))
}

fn messages(
    finished: Finished<Message>,
    place: &mut Place<'_>,
    behind: &[u8],
) -> Result<Fed, Error> {
    let live = |context| Live::Message(Messages::new(context, behind.to_vec()));
    done(finished, place, live)
}
