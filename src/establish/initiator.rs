//! The initiator's side.

use core::marker::PhantomData;
use core::time::Duration;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls_pki_types::ServerName;

use super::acceptor::{NO_PROTOCOL, refuse, services, whole};
use super::exchange::{ANSWER, Answer, DEFECT, Request, Saying, encode_password};
use super::finished::{Finished, Known, Told};
use super::tunnel::{Tunnel, record};
use super::{
    Born, ChannelBindings, Failed, INPUT_LIMIT, InitiatorConfig, PROTOCOL, Step, TOKEN_LIMIT, token,
};
use crate::context::Exporter;
use crate::cred::Password;
use crate::flags::Flags;
use crate::message::Message;
use crate::name::{Kind, Name};
use crate::record::{Alert, Record};
use crate::secret::{Depth, scrubbed, scrubbed_if};
use crate::status::Minor;
use crate::sys::clock;
use crate::tls::{Client, Error, Established, Handshake, Progress};

/// An initiator that has not finished. `F` is the framing: [`Message`] or [`Record`].
///
/// It may be dropped at any time. A forked copy of it fails at its next step (NO_CONTEXT).
pub struct Initiator<F> {
    state: Box<State>,
    framing: PhantomData<fn() -> F>,
}

struct State {
    config: Arc<InitiatorConfig>,
    target: Name,
    server: ServerName<'static>,
    bindings: Option<[u8; 32]>,
    /// Whose password was asked for and sent.
    user: Option<Name>,
    stage: Stage,
    born: Born,
}

// One exists for each establishment, in a box.
#[allow(clippy::large_enum_variant)]
enum Stage {
    Start,
    Handshake(Box<Handshake<UnbufferedClientConnection>>),
    /// A request or a password was sent.
    Exchange(Box<Tunnel>),
    /// Nothing comes after an error.
    Over,
}

const NO_PASSWORDS: Error = Error::new(
    Minor::CredentialMissing,
    "record framing has no place for a password",
);
const NO_HOST: Error = Error::new(Minor::NameMalformed, "the target has no host");
const OTHER_BINDINGS: Error = Error::new(
    Minor::BindingsDiffer,
    "the acceptor is bound to another channel",
);

impl<F> Initiator<F> {
    fn begin(config: Arc<InitiatorConfig>, target: Name) -> Result<Self, Error> {
        //= spec/mechanism.md#server-certificate
        let server = target.server_name().ok_or(NO_HOST)?;
        if let Some(certified) = &config.credential.certified {
            certified.check(clock::unix_seconds())?;
        }
        Ok(Self {
            state: Box::new(State {
                config,
                target,
                server,
                bindings: None,
                user: None,
                stage: Stage::Start,
                born: Born::here(),
            }),
            framing: PhantomData,
        })
    }
}

impl State {
    /// Drives the handshake. The finished session and what came behind it, or none while it is
    /// not finished.
    fn shake<'a>(
        &mut self,
        client: impl Fn(&InitiatorConfig) -> &Client,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<(Established, &'a [u8])>, Error> {
        let client = client(&self.config);
        let mut handshake = match core::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Start => client.handshake(self.server.clone())?,
            Stage::Handshake(handshake) => handshake,
            Stage::Exchange(_) | Stage::Over => return Err(DEFECT),
        };
        match handshake.advance(input, output)? {
            Progress::More => {
                self.stage = Stage::Handshake(handshake);
                Ok(None)
            }
            Progress::Done(rest) => {
                let mut session = handshake.finish(client.resumption())?;
                if let Err((error, alert)) = client.recheck(&mut session, &self.server) {
                    refuse(&session, Alert(alert), output);
                    return Err(error);
                }
                Ok(Some((session, rest)))
            }
        }
    }

    /// Who this side is to the acceptor; none when it is anonymous.
    fn name(&self) -> Option<Name> {
        let name = match (&self.config.credential.certified, &self.user) {
            (None, Some(user)) => user.clone(),
            _ => self.config.credential.name(),
        };
        (name.kind() != Kind::Anonymous).then_some(name)
    }
}

impl Initiator<Record> {
    /// An initiator that has said nothing yet. `target` is a host-based service with a host.
    ///
    /// # Errors
    /// BAD_NAME for another target, NO_CRED for a credential with a password, for which record
    /// framing has no place, CREDENTIALS_EXPIRED.
    pub fn new(config: Arc<InitiatorConfig>, target: Name) -> Result<Self, Error> {
        if config.credential.password.is_some() {
            return Err(NO_PASSWORDS);
        }
        Self::begin(config, target)
    }

    /// Takes what came from the acceptor, any number of bytes up to [`INPUT_LIMIT`]; nothing the
    /// first time.
    ///
    /// # Errors
    /// As [`Failed`] says; the alert for the acceptor is in it.
    pub fn step(mut self, input: &[u8]) -> Result<Step<Self, Finished<Record>>, Failed> {
        let mut output = Vec::new();
        let is_over = |turned: &Result<_, _>| !matches!(turned, Ok(None));
        let turn = || self.turn(input, &mut output);
        match scrubbed_if(Depth::Handshake, is_over, turn) {
            Ok(None) => Ok(Step::Continue { next: self, output }),
            Ok(Some(finished)) => Ok(Step::Done { finished, output }),
            Err(error) => Err(Failed::new(&error, output)),
        }
    }

    fn turn(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<Finished<Record>>, Error> {
        let state = &mut *self.state;
        state.born.check(input, INPUT_LIMIT)?;
        let done = state.shake(|config| &config.record, input, output)?;
        let Some((mut session, rest)) = done else {
            return Ok(None);
        };
        state.finish(&mut session, rest).map(Some)
    }
}

impl State {
    //= spec/mechanism.md#behind
    fn finish(&self, session: &mut Established, rest: &[u8]) -> Result<Finished<Record>, Error> {
        const NONE: Error = Error::new(Minor::HandshakeFailed, "there is no exporter secret");
        let config = &self.config;
        let protection = record(session, config.limits, rest)?;
        let exporter = Exporter::new(session.suite, session.exporter_secret()).ok_or(NONE)?;
        let initiator_name = self.name();
        let mut flags = Flags::MUTUAL
            | Flags::REPLAY
            | Flags::SEQUENCE
            | Flags::CONFIDENTIALITY
            | Flags::INTEGRITY;
        if initiator_name.is_none() {
            flags |= Flags::ANONYMOUS;
        }
        let tickets = session.tickets.take();
        let facts = Known {
            session,
            own: config.credential.certified.as_ref(),
            lifetimes: [config.lifetime, None],
            flags,
            transferable: config.transferable,
            initiator_name,
            target_name: Some(self.target.clone()),
            user_data: None,
        };
        let facts = facts.facts()?;
        let told = Told::of(session, Some(&self.server));
        Ok(Finished::new(protection, exporter, facts, tickets, told))
    }
}

impl Initiator<Message> {
    /// An initiator that has said nothing yet. `target` is a host-based service with a host.
    ///
    /// # Errors
    /// BAD_NAME for another target, CREDENTIALS_EXPIRED; NO_CRED when the password is in the
    /// process this one was forked from.
    pub fn new(config: Arc<InitiatorConfig>, target: Name) -> Result<Self, Error> {
        if let Some(password) = &config.credential.password {
            password.check()?;
        }
        Self::begin(config, target)
    }

    /// Binds the context to a channel: the acceptor must have bound it to the same. To be called
    /// before the first step.
    #[must_use]
    pub fn bindings(mut self, bindings: &ChannelBindings) -> Self {
        self.state.bindings = Some(bindings.hash());
        self
    }

    /// Takes one context token of the acceptor, whole, at most [`TOKEN_LIMIT`] bytes; nothing the
    /// first time.
    ///
    /// # Errors
    /// As [`Failed`] says; the token that tells the acceptor is in it.
    pub fn step(
        mut self,
        token: &[u8],
    ) -> Result<Step<Self, Finished<Message>, PasswordAsked>, Failed> {
        let mut output = Vec::new();
        match self.turn(token, &mut output) {
            Ok(Turn::More) => Ok(Step::Continue { next: self, output }),
            Ok(Turn::Done(finished)) => Ok(Step::Done { finished, output }),
            Ok(Turn::Asked(attempts)) => Ok(Step::Password(PasswordAsked {
                initiator: self,
                attempts,
            })),
            Err(error) => Err(Failed::new(&error, output)),
        }
    }

    fn turn(&mut self, token: &[u8], output: &mut Vec<u8>) -> Result<Turn, Error> {
        let state = &mut *self.state;
        state.born.check(token, TOKEN_LIMIT)?;
        if let Stage::Exchange(_) = state.stage
            && let Stage::Exchange(tunnel) = core::mem::replace(&mut state.stage, Stage::Over)
        {
            return state.answer(tunnel, token, output);
        }
        let first = matches!(state.stage, Stage::Start);
        let done = state.shake(|config| &config.message, token, output)?;
        let Some((mut session, rest)) = done else {
            if first {
                *output = token::wrap(output);
            } else if let Stage::Handshake(handshake) = &mut state.stage {
                whole(handshake, token, output)?;
            }
            return Ok(Turn::More);
        };
        if session.application_protocol.take().as_deref() != Some(PROTOCOL) {
            refuse(&session, Alert::NO_APPLICATION_PROTOCOL, output);
            return Err(NO_PROTOCOL);
        }
        if !rest.is_empty() {
            refuse(&session, Alert::UNEXPECTED_MESSAGE, output);
            return Err(DEFECT);
        }
        scrubbed(Depth::Handshake, || state.request(session, output))?;
        Ok(Turn::More)
    }
}

/// What an acceptor's token led to.
enum Turn {
    More,
    Done(Finished<Message>),
    Asked(u8),
}

impl State {
    fn request(&mut self, session: Established, output: &mut Vec<u8>) -> Result<(), Error> {
        let credential = &self.config.credential;
        let mut flags = self.config.flags;
        if credential.certified.is_none() && credential.password.is_none() {
            flags |= Flags::ANONYMOUS;
        }
        let password = match &credential.password {
            Some(password) => Some(password.texts()?),
            None => None,
        };
        let request = Request {
            flags: flags.bits(),
            bindings: self.bindings,
            target: self.target.clone(),
            password,
        };
        let mut tunnel = Tunnel::new(session)?;
        tunnel.send(&request.encode(), output)?;
        self.stage = Stage::Exchange(tunnel);
        Ok(())
    }

    fn answer(
        &mut self,
        mut tunnel: Box<Tunnel>,
        token: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Turn, Error> {
        let heard = tunnel
            .receive(token, ANSWER)
            .and_then(|answer| Answer::decode(answer.as_bytes()));
        let answer = match heard.and_then(|answer| self.check_answer(answer)) {
            Ok(answer) => answer,
            Err(error) => {
                output.extend_from_slice(&tunnel.refuse(Alert::DECODE_ERROR));
                return Err(error);
            }
        };
        match answer {
            Saying::Refused(reason) => Err(reason.error()),
            Saying::Password { attempts } => {
                self.stage = Stage::Exchange(tunnel);
                Ok(Turn::Asked(attempts))
            }
            Saying::Established { flags, lifetime } => {
                let flags = Flags::from_bits_truncate(flags);
                let config = &self.config;
                let told = lifetime.map(|seconds| Duration::from_secs(seconds.into()));
                let tickets = tunnel.session.tickets.take();
                let facts = Known {
                    session: &mut tunnel.session,
                    own: config.credential.certified.as_ref(),
                    lifetimes: [config.lifetime, told],
                    flags,
                    transferable: config.transferable,
                    initiator_name: self.name(),
                    target_name: Some(self.target.clone()),
                    user_data: None,
                };
                let facts = facts.facts()?;
                let told = Told::of(&mut tunnel.session, Some(&self.server));
                let (protection, exporter) = tunnel.finish(services(flags))?;
                Ok(Turn::Done(Finished::new(
                    protection, exporter, facts, tickets, told,
                )))
            }
        }
    }

    /// That the answer is one to this side's request.
    fn check_answer(&self, answer: Answer) -> Result<Saying, Error> {
        //= spec/mechanism.md#bindings
        if answer.bindings != self.bindings {
            return Err(OTHER_BINDINGS);
        }
        if let Saying::Established { flags, .. } = answer.saying {
            //= spec/mechanism.md#flags
            let flags = Flags::from_bits_truncate(flags);
            let always = Flags::MUTUAL | Flags::INTEGRITY;
            let anonymous = self.name().is_none();
            let wanted = match anonymous {
                true => self.config.flags | Flags::ANONYMOUS,
                false => self.config.flags,
            };
            let fits = wanted.contains(flags)
                && flags.contains(always)
                && flags.contains(Flags::ANONYMOUS) == anonymous;
            if !fits {
                return Err(DEFECT);
            }
        }
        Ok(answer.saying)
    }
}

/// The acceptor wants a password: none was sent, or a wrong one. Drop it to give up.
pub struct PasswordAsked {
    initiator: Initiator<Message>,
    attempts: u8,
}

impl PasswordAsked {
    /// Passwords that may still be tried, at least 1.
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// Sends a password: what takes the next token, and what the acceptor is to be sent.
    ///
    /// # Errors
    /// NO_CONTEXT in a forked process, NO_CRED when the password is in another process.
    pub fn answer(self, password: &Password) -> Result<(Initiator<Message>, Vec<u8>), Failed> {
        let mut initiator = self.initiator;
        let mut output = Vec::new();
        match initiator.state.password(password, &mut output) {
            Ok(()) => Ok((initiator, output)),
            Err(error) => Err(Failed::new(&error, output)),
        }
    }
}

impl State {
    fn password(&mut self, password: &Password, output: &mut Vec<u8>) -> Result<(), Error> {
        self.born.check(&[], TOKEN_LIMIT)?;
        let texts = password.texts()?;
        let Stage::Exchange(tunnel) = &mut self.stage else {
            return Err(DEFECT);
        };
        scrubbed(Depth::Derived, || {
            tunnel.send(&encode_password(texts), output)
        })?;
        self.user = Some(password.user().clone());
        Ok(())
    }
}
