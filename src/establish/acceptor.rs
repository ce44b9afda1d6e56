//! The acceptor's side.

use core::marker::PhantomData;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls_pki_types::CertificateDer;

use super::admission::{self, Admission, Asked, Refusal, subject};
use super::exchange::{Answer, DEFECT, REQUEST, Reason, Request, Saying, decode_password};
use super::finished::{Finished, Known, Told};
use super::tunnel::{Tunnel, record};
use super::{
    AcceptorConfig, Born, ChannelBindings, Failed, INPUT_LIMIT, PROTOCOL, Standing, Step,
    TOKEN_LIMIT, token,
};
use crate::context::Exporter;
use crate::flags::Flags;
use crate::message::{Message, Services};
use crate::name::Name;
use crate::record::{Alert, Limits, Record};
use crate::secret::{Depth, scrubbed, scrubbed_if};
use crate::status::Minor;
use crate::sys::clock;
use crate::tls::{Error, Established, Handshake, Progress, Server, Side};

/// An acceptor that has not finished. `F` is the framing: [`Message`] or [`Record`].
///
/// Between two steps it holds at most what [`crate::tls`] bounds, and no lock; it may be dropped at
/// any time. A forked copy of it fails at its next step (NO_CONTEXT).
pub struct Acceptor<F> {
    state: Box<State>,
    framing: PhantomData<fn() -> F>,
}

struct State {
    config: Arc<AcceptorConfig>,
    bindings: Option<[u8; 32]>,
    stage: Stage,
    born: Born,
}

// One exists for each establishment, in a box.
#[allow(clippy::large_enum_variant)]
enum Stage {
    Start,
    Handshake(Box<Handshake<UnbufferedServerConnection>>),
    /// A password was asked for.
    Asked(Box<Tunnel>, Asked),
    /// Nothing comes after an error.
    Over,
}

impl<F> Acceptor<F> {
    /// An acceptor that has heard nothing yet.
    pub fn new(config: Arc<AcceptorConfig>) -> Self {
        Self {
            state: Box::new(State {
                config,
                bindings: None,
                stage: Stage::Start,
                born: Born::here(),
            }),
            framing: PhantomData,
        }
    }
}

impl State {
    /// Drives the handshake. The finished session and what came behind it, or none while it is
    /// not finished.
    fn shake<'a>(
        &mut self,
        server: impl Fn(&AcceptorConfig) -> &Server,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<(Established, &'a [u8])>, Error> {
        let mut handshake = match core::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Start => {
                self.config.credential.0.check(clock::unix_seconds())?;
                server(&self.config).handshake()?
            }
            Stage::Handshake(handshake) => handshake,
            Stage::Asked(..) | Stage::Over => return Err(DEFECT),
        };
        match handshake.advance(input, output)? {
            Progress::More => {
                self.stage = Stage::Handshake(handshake);
                Ok(None)
            }
            Progress::Done(rest) => {
                let mut session = handshake.finish(false)?;
                if let Err((error, alert)) = server(&self.config).recheck(&mut session) {
                    refuse(&session, Alert(alert), output);
                    return Err(error);
                }
                Ok(Some((session, rest)))
            }
        }
    }
}

/// A host that was asked for by SNI, which says nothing of a service.
//= spec/mechanism.md#target
fn host(asked: &str) -> Option<Name> {
    Name::host_based_service(&format!("host@{asked}")).ok()
}

/// Ends a finished session with an alert.
pub(super) fn refuse(session: &Established, alert: Alert, output: &mut Vec<u8>) {
    if let Ok(mut record) = record(session, Limits::default(), &[]) {
        record.abort(alert);
        output.extend_from_slice(&record.take_output());
    }
}

impl Acceptor<Record> {
    /// Takes what came from the initiator, any number of bytes up to [`INPUT_LIMIT`].
    ///
    /// # Errors
    /// As [`Failed`] says; the alert for the initiator is in it.
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
        let config = &state.config;
        let finished = Self::finish(config, &mut session, rest);
        if finished.is_err() {
            refuse(&session, Alert::BAD_CERTIFICATE, output);
        }
        finished.map(Some)
    }

    //= spec/mechanism.md#behind
    fn finish(
        config: &AcceptorConfig,
        session: &mut Established,
        rest: &[u8],
    ) -> Result<Finished<Record>, Error> {
        const NONE: Error = Error::new(Minor::HandshakeFailed, "there is no exporter secret");
        //= spec/mechanism.md#identity
        let initiator_name = subject(proven(session))?;
        let mut flags = Flags::MUTUAL
            | Flags::REPLAY
            | Flags::SEQUENCE
            | Flags::CONFIDENTIALITY
            | Flags::INTEGRITY;
        if initiator_name.is_none() {
            flags |= Flags::ANONYMOUS;
        }
        let protection = record(session, config.limits, rest)?;
        let exporter = Exporter::new(session.suite, session.exporter_secret()).ok_or(NONE)?;
        let target_name = session.asked_for().and_then(host);
        let facts = Known {
            session,
            own: Some(&config.credential.0),
            lifetimes: [config.lifetime, None],
            flags,
            transferable: config.transferable,
            initiator_name,
            target_name,
            user_data: None,
        };
        let facts = facts.facts()?;
        let told = Told::of(session, None);
        Ok(Finished::new(protection, exporter, facts, None, told))
    }
}

impl Acceptor<Message> {
    /// Binds the context to a channel: the initiator must have bound it to the same. To be
    /// called before the first step.
    #[must_use]
    pub fn bindings(mut self, bindings: &ChannelBindings) -> Self {
        self.state.bindings = Some(bindings.hash());
        self
    }

    /// Takes one context token of the initiator, whole: at most [`TOKEN_LIMIT`] bytes.
    ///
    /// # Errors
    /// As [`Failed`] says; the token that tells the initiator is in it.
    pub fn step(mut self, token: &[u8]) -> Result<Step<Self, Finished<Message>>, Failed> {
        let mut output = Vec::new();
        match self.turn(token, &mut output) {
            Ok(None) => Ok(Step::Continue { next: self, output }),
            Ok(Some(finished)) => Ok(Step::Done { finished, output }),
            Err(error) => Err(Failed::new(&error, output)),
        }
    }

    fn turn(
        &mut self,
        token: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<Finished<Message>>, Error> {
        let state = &mut *self.state;
        state.born.check(token, TOKEN_LIMIT)?;
        if let Stage::Asked(..) = state.stage
            && let Stage::Asked(tunnel, asked) = core::mem::replace(&mut state.stage, Stage::Over)
        {
            return state.exchange(tunnel, Some(asked), token, output);
        }
        let flight = match state.stage {
            Stage::Start => token::unwrap(token)?,
            _ => token,
        };
        let done = state.shake(|config| &config.message, flight, output)?;
        let Some((mut session, rest)) = done else {
            if let Stage::Handshake(handshake) = &mut state.stage {
                whole(handshake, flight, output)?;
            }
            return Ok(None);
        };
        if session.application_protocol.take().as_deref() != Some(PROTOCOL) {
            refuse(&session, Alert::NO_APPLICATION_PROTOCOL, output);
            return Err(NO_PROTOCOL);
        }
        let tunnel = Tunnel::new(session)?;
        state.exchange(tunnel, None, rest, output)
    }
}

impl State {
    /// Takes the request, or the password that was `asked` for, and answers it.
    fn exchange(
        &mut self,
        mut tunnel: Box<Tunnel>,
        asked: Option<Asked>,
        token: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<Finished<Message>>, Error> {
        let heard = scrubbed(Depth::Handshake, || match asked {
            None => self.request(&mut tunnel, token),
            Some(asked) => self.password(&mut tunnel, asked, token),
        });
        let (asked, admission) = match heard {
            Ok(heard) => heard,
            Err(error) => {
                output.extend_from_slice(&tunnel.refuse(Alert::DECODE_ERROR));
                return Err(error);
            }
        };
        let mut answer = |tunnel: &mut Tunnel, saying| {
            let bindings = self.bindings;
            tunnel.send(&Answer { bindings, saying }.encode(), output)
        };
        match admission {
            Err((reason, error)) => {
                answer(&mut tunnel, Saying::Refused(reason))?;
                Err(error)
            }
            Ok(Admission::Ask) => {
                let attempts = self.config.attempts.saturating_sub(asked.used);
                answer(&mut tunnel, Saying::Password { attempts })?;
                self.stage = Stage::Asked(tunnel, asked);
                Ok(None)
            }
            Ok(Admission::Admitted(who, user_data)) => {
                let config = &self.config;
                let flags = granted(config, asked.flags, who.is_none());
                let facts = Known {
                    session: &mut tunnel.session,
                    own: Some(&config.credential.0),
                    lifetimes: [config.lifetime, None],
                    flags,
                    transferable: config.transferable,
                    initiator_name: who,
                    target_name: Some(asked.target),
                    user_data,
                }
                .facts()?;
                let left = facts.time_left(facts.established);
                let lifetime = left.map(|left| u32::try_from(left).unwrap_or(u32::MAX - 1));
                let flags_told = flags.bits();
                answer(
                    &mut tunnel,
                    Saying::Established {
                        flags: flags_told,
                        lifetime,
                    },
                )?;
                let told = Told::of(&mut tunnel.session, None);
                let (protection, exporter) = tunnel.finish(services(flags))?;
                Ok(Some(Finished::new(protection, exporter, facts, None, told)))
            }
        }
    }

    /// Hears the request.
    fn request(&self, tunnel: &mut Tunnel, token: &[u8]) -> Result<Heard, Error> {
        let opened = tunnel.receive(token, REQUEST)?;
        let request = Request::decode(opened.as_bytes())?;
        let mut asked = Asked {
            flags: Flags::from_bits_truncate(request.flags),
            target: request.target,
            used: 0,
        };
        let certificates = proven(&tunnel.session);
        let admission = if request.bindings != self.bindings {
            Err((Reason::Bindings, BINDINGS))
        } else if !self.config.is_target(&asked.target) {
            Err((Reason::Target, TARGET))
        } else {
            admission::decide(&self.config, &mut asked, certificates, request.password)
        };
        Ok((asked, admission))
    }

    /// Hears a password that was asked for.
    fn password(
        &self,
        tunnel: &mut Tunnel,
        mut asked: Asked,
        token: &[u8],
    ) -> Result<Heard, Error> {
        let opened = tunnel.receive(token, REQUEST)?;
        let password = decode_password(opened.as_bytes())?;
        let certificates = proven(&tunnel.session);
        let admission = admission::decide(&self.config, &mut asked, certificates, Some(password));
        Ok((asked, admission))
    }
}

/// The initiator's certificates, as far as they say who it is.
//= spec/mechanism.md#pass-through
fn proven(session: &Established) -> &[CertificateDer<'static>] {
    match session.standing {
        Standing::Unproved => &[],
        Standing::Checked | Standing::Accepted => &session.peer_certificates,
    }
}

type Heard = (Asked, Result<Admission, Refusal>);

/// That a token ended with a record, which the handshake has taken.
//= spec/mechanism.md#tokens
pub(super) fn whole<C: Side>(
    handshake: &mut Handshake<C>,
    token: &[u8],
    output: &mut Vec<u8>,
) -> Result<(), Error> {
    if !token.is_empty() && handshake.is_between_records() {
        return Ok(());
    }
    handshake.refuse(output);
    Err(DEFECT)
}

/// The flags of an established context.
//= spec/mechanism.md#flags
fn granted(config: &AcceptorConfig, wanted: Flags, anonymous: bool) -> Flags {
    let mut flags = wanted & config.flags | Flags::MUTUAL | Flags::INTEGRITY;
    if anonymous {
        flags |= Flags::ANONYMOUS;
    }
    flags
}

/// The per-message services that flags are.
pub(super) fn services(flags: Flags) -> Services {
    Services {
        replay: flags.contains(Flags::REPLAY),
        sequence: flags.contains(Flags::SEQUENCE),
        confidentiality: flags.contains(Flags::CONFIDENTIALITY),
    }
}

pub(super) const NO_PROTOCOL: Error =
    Error::new(Minor::FramingUnknown, "the peer does not speak baton/1");
const BINDINGS: Error = Error::new(
    Minor::BindingsDiffer,
    "the initiator is bound to another channel",
);
const TARGET: Error = Error::new(Minor::NameMismatch, "the initiator asks for another target");
