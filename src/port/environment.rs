//! Environments: what the sessions of one purpose have in common.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::attribute::Settings;
use super::held::Core;
use super::shake::Establishment;
use super::{Attribute, ClientAuthentication, Code, Error, Port, Shared};
use crate::context::Role;
use crate::cred::{AcceptorCredential, Anchors, InitiatorCredential};
use crate::establish::{
    AcceptorConfig, ClientCertificates, Framing, InitiatorConfig, SessionCache,
};
use crate::ledger::Domain;
use crate::status::Major;
use crate::sys::clock;

/// Establishments that are kept for sessions to come.
const MOST_MADE: usize = 16;

/// The state of an [`Environment`] (`spec/port.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EnvironmentState {
    /// Attributes can be set.
    Open,
    /// Sessions can be opened.
    Initialized,
    /// Closed, with sessions that go on.
    Closing,
    /// Closed, and the last session has ended.
    Closed,
}

/// What the sessions of one purpose have in common: attributes, credential, session cache.
///
/// Dropping it is closing it without notice.
pub struct Environment(pub(super) Arc<Common>);

/// An environment as its sessions hold it.
pub(super) struct Common {
    pub(super) id: u64,
    pub(super) port: Arc<Shared>,
    pub(super) domain: Domain,
    state: Mutex<State>,
}

struct State {
    stage: EnvironmentState,
    settings: Arc<Settings>,
    means: Option<Arc<Means>>,
    /// Of the environment's own attributes, and of those of sessions, newest last; with
    /// [`MOST_MADE`] of them the oldest session's goes.
    made: Vec<(Arc<Settings>, Establishment)>,
    live: usize,
    /// Sessions there were.
    opened: u64,
    /// Handshakes, and connections that linger, in the order in which they began; where they make
    /// room for others.
    places: BTreeMap<u64, (Instant, Weak<Core>)>,
    /// Places that were given.
    placed: u64,
}

/// What handshakes are made with, besides the attributes.
struct Means {
    credential: Option<AcceptorCredential>,
    anchors: Option<Anchors>,
    cache: SessionCache,
}

impl Environment {
    /// Opens an environment, whose sessions post to `port` and whose contexts live in `domain`.
    ///
    /// # Errors
    /// [`Code::PortDestroyed`], [`Code::PortForked`].
    pub fn open(port: &Port, domain: &Domain) -> Result<Self, Error> {
        static DRAWN: AtomicU64 = AtomicU64::new(1);
        let port = port.shared();
        port.check()?;
        Ok(Self(Arc::new(Common {
            id: DRAWN.fetch_add(1, Ordering::Relaxed),
            port: port.clone(),
            domain: domain.clone(),
            state: Mutex::new(State {
                stage: EnvironmentState::Open,
                settings: Arc::default(),
                means: None,
                made: Vec::new(),
                live: 0,
                opened: 0,
                places: BTreeMap::new(),
                placed: 0,
            }),
        })))
    }

    /// Sets an attribute; set again, the last value counts.
    ///
    /// # Errors
    /// [`Code::InvalidState`] once it is initialised, else the attribute's own.
    //= spec/port.md#environment-states
    pub fn set(&self, attribute: Attribute) -> Result<(), Error> {
        self.0.port.here()?;
        let mut state = self.0.state();
        if state.stage != EnvironmentState::Open {
            return Err(Code::InvalidState.into());
        }
        Ok(Arc::make_mut(&mut state.settings).set(attribute)?)
    }

    /// Reads what the attributes name, and lets sessions be opened. After an error it is still
    /// open, and can be tried again.
    ///
    /// # Errors
    /// The error of the attribute that is missing or bad; [`Code::InvalidState`], also when it was
    /// changed meanwhile.
    //= spec/port.md#environment-states
    pub fn init(&self) -> Result<(), Error> {
        self.0.port.check()?;
        let state = self.0.state();
        if state.stage != EnvironmentState::Open {
            return Err(Code::InvalidState.into());
        }
        let settings = state.settings.clone();
        // No lock is held while the resolver is called.
        drop(state);
        let means = Means::read(&settings)?;
        let establishment = means.establishment(&settings)?;
        let mut state = self.0.state();
        if state.stage != EnvironmentState::Open || !Arc::ptr_eq(&state.settings, &settings) {
            return Err(Code::InvalidState.into());
        }
        state.made = vec![(state.settings.clone(), establishment)];
        state.means = Some(Arc::new(means));
        state.stage = EnvironmentState::Initialized;
        Ok(())
    }

    /// Its state.
    pub fn state(&self) -> EnvironmentState {
        match self.0.port.here() {
            Ok(()) => self.0.state().stage,
            Err(_) => EnvironmentState::Closed,
        }
    }

    /// Sessions that were opened and have not ended.
    pub fn sessions(&self) -> usize {
        match self.0.port.here() {
            Ok(()) => self.0.state().live,
            Err(_) => 0,
        }
    }

    /// Ends the ticket of every session so far: none of them can be resumed.
    ///
    /// # Errors
    /// [`Code::InvalidState`] before it is initialised.
    //= spec/port.md#session-cache
    pub fn reset_session_cache(&self) -> Result<(), Error> {
        self.0.port.here()?;
        let (means, settings) = {
            let state = self.0.state();
            (state.means.clone(), state.settings.clone())
        };
        means.ok_or(Code::InvalidState)?.cache.reset();
        if let Some(cache) = self.0.cache(&settings) {
            cache.reset();
        }
        Ok(())
    }

    /// Closes it. Its sessions go on, no new one starts, and when the last has ended, which may be
    /// at once, the notice is posted under `tag`.
    ///
    /// # Errors
    /// [`Code::InvalidState`] when it was closed before.
    //= spec/port.md#environment-end
    pub fn close(&self, tag: u64) -> Result<(), Error> {
        self.0.port.check()?;
        let mut state = self.0.state();
        match state.stage {
            EnvironmentState::Open | EnvironmentState::Initialized => {}
            EnvironmentState::Closing | EnvironmentState::Closed => {
                return Err(Code::InvalidState.into());
            }
        }
        self.0.port.queue.expect_end(self.0.id, tag)?;
        state.stage = EnvironmentState::Closing;
        self.0.end_if_last(state);
        Ok(())
    }
}

impl core::fmt::Debug for Environment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Environment")
            .field("id", &self.0.id)
            .finish_non_exhaustive()
    }
}

impl Common {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a session in, and gives it the attributes. One that is slow may lose its place.
    //= spec/port.md#room
    pub(super) fn enter(&self) -> Result<Arc<Settings>, Code> {
        match self.count_in() {
            Err(Code::SessionsFull) => {}
            answer => return answer,
        }
        // No lock is held while the other session has its own.
        while let Some(slow) = self.slowest() {
            if let Some(slow) = slow.upgrade() {
                slow.make_room();
                return self.count_in();
            }
        }
        Err(Code::SessionsFull)
    }

    /// Takes out the connection that has been slow for longest, if that is long enough.
    fn slowest(&self) -> Option<Weak<Core>> {
        let mut state = self.state();
        let after = state.settings.make_room_after?;
        let first = state.places.first_entry()?;
        let slow = first.get().0.elapsed() >= after;
        slow.then(|| first.remove().1)
    }

    /// A place for a connection among those that make room; none where they do not.
    pub(super) fn place(&self, core: &Weak<Core>) -> Option<u64> {
        let mut state = self.state();
        state.settings.make_room_after?;
        state.placed += 1;
        let place = state.placed;
        state.places.insert(place, (Instant::now(), core.clone()));
        Some(place)
    }

    /// Gives a place back.
    pub(super) fn vacate(&self, place: u64) {
        let mut state = self.state();
        let vacated = state.places.remove(&place);
        drop(state);
        drop(vacated);
    }

    //= spec/port.md#inherited
    fn count_in(&self) -> Result<Arc<Settings>, Code> {
        let mut state = self.state();
        match state.stage {
            EnvironmentState::Open => return Err(Code::InvalidState),
            EnvironmentState::Initialized => {}
            EnvironmentState::Closing | EnvironmentState::Closed => {
                return Err(Code::EnvironmentClosed);
            }
        }
        if state.live >= state.settings.session_limit {
            return Err(Code::SessionsFull);
        }
        state.live += 1;
        state.opened += 1;
        Ok(state.settings.clone())
    }

    /// Counts a session out.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.live = state.live.saturating_sub(1);
        self.end_if_last(state);
    }

    fn end_if_last(&self, mut state: MutexGuard<'_, State>) {
        if state.stage == EnvironmentState::Closing && state.live == 0 {
            state.stage = EnvironmentState::Closed;
            let sessions = state.opened;
            drop(state);
            if self.port.queue.end(self.id, sessions) {
                self.port.wake();
            }
        }
    }

    /// How a session with these attributes makes its handshake. Sessions that have the same share
    /// one: only among those does an initiator find its tickets.
    pub(super) fn establishment(&self, settings: &Arc<Settings>) -> Result<Establishment, Error> {
        let mut state = self.state();
        if state.stage != EnvironmentState::Initialized {
            return Err(Code::EnvironmentClosed.into());
        }
        let same = |(made, _): &&(Arc<Settings>, Establishment)| {
            Arc::ptr_eq(made, settings) || made.same_establishment(settings)
        };
        if let Some((_, establishment)) = state.made.iter().find(same) {
            return Ok(establishment.clone());
        }
        let means = state.means.clone().ok_or(Code::InvalidState)?;
        let establishment = means.establishment(settings)?;
        if state.made.len() == MOST_MADE {
            state.made.remove(1);
        }
        state.made.push((settings.clone(), establishment.clone()));
        Ok(establishment)
    }

    /// Whether its sessions can be resumed.
    pub(super) fn resumption(&self) -> bool {
        self.state().settings.resumption
    }

    /// The session cache of sessions with these attributes.
    pub(super) fn cache(&self, settings: &Settings) -> Option<SessionCache> {
        match &settings.configuration {
            Some(config) => config.cache().cloned(),
            None => Some(self.state().means.as_ref()?.cache.clone()),
        }
    }
}

impl Means {
    //= spec/port.md#credential
    fn read(settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            credential: credential(settings)?,
            anchors: match &settings.anchors {
                None => None,
                Some(path) => Some(Anchors::from_pem_file(path).map_err(told(Code::BadAnchors))?),
            },
            cache: SessionCache::new(settings.session_timeout),
        })
    }

    fn establishment(&self, settings: &Settings) -> Result<Establishment, Error> {
        if settings.hello && settings.role == Role::Initiator {
            return Err(Code::BadHello.into());
        }
        //= spec/port.md#configuration
        if let Some(config) = &settings.configuration {
            return match settings.role {
                Role::Acceptor => Ok(Establishment::Acceptor(config.clone())),
                Role::Initiator => Err(Code::BadConfiguration.into()),
            };
        }
        Ok(match settings.role {
            Role::Acceptor => Establishment::Acceptor(Arc::new(self.acceptor(settings)?)),
            Role::Initiator => Establishment::Initiator(Arc::new(self.initiator(settings)?)),
        })
    }

    //= spec/port.md#client-authentication
    fn acceptor(&self, settings: &Settings) -> Result<AcceptorConfig, Error> {
        let credential = self.credential.as_ref().ok_or(Code::BadRole)?;
        let anchors = || self.anchors.clone().ok_or(Code::BadClientAuthentication);
        let clients = match settings.client_authentication {
            ClientAuthentication::None => ClientCertificates::None,
            ClientAuthentication::Optional => ClientCertificates::Optional(anchors()?),
            ClientAuthentication::Required => ClientCertificates::Required(anchors()?),
            ClientAuthentication::PassThrough => {
                ClientCertificates::PassThrough(self.anchors.clone())
            }
        };
        let asked = settings.client_authentication != ClientAuthentication::None;
        let somebody = asked || settings.anonymous || settings.passwords.is_some();
        if settings.framing == Some(Framing::Message) && !somebody {
            return Err(Code::BadAnonymous.into());
        }
        let mut builder = AcceptorConfig::builder(AcceptorCredential(credential.0.clone()))
            .client_certificates(clients)
            .anonymous(settings.anonymous)
            .suites(&settings.suites)
            .application_protocols(&protocols(settings));
        match &settings.validation {
            Some(validation) if asked => builder = builder.validation(validation.clone()),
            Some(_) => return Err(Code::BadValidation.into()),
            None => {}
        }
        if let Some((passwords, attempts)) = &settings.passwords {
            builder = builder.passwords(passwords.clone(), *attempts);
        }
        if settings.resumption {
            builder = builder.session_cache(self.cache.clone());
        }
        if let Some(lifetime) = settings.lifetime {
            builder = builder.lifetime(lifetime);
        }
        builder.build().map_err(told(Code::BadRole))
    }

    fn initiator(&self, settings: &Settings) -> Result<InitiatorConfig, Error> {
        let anchors = self.anchors.clone().ok_or(Code::BadRole)?;
        if settings.framing.is_none() {
            return Err(Code::BadFraming.into());
        }
        let mut builder = InitiatorConfig::builder(anchors)
            .suites(&settings.suites)
            .application_protocols(&protocols(settings));
        if let Some(credential) = &self.credential {
            builder = builder.credential(InitiatorCredential {
                certified: Some(credential.0.clone()),
                password: None,
            });
        }
        if let Some(validation) = &settings.validation {
            builder = builder.validation(validation.clone());
        }
        if settings.resumption {
            builder = builder.session_cache(self.cache.clone());
        }
        if let Some(lifetime) = settings.lifetime {
            builder = builder.lifetime(lifetime);
        }
        builder.build().map_err(told(Code::BadRole))
    }
}

fn protocols(settings: &Settings) -> Vec<&[u8]> {
    settings
        .application_protocols
        .iter()
        .map(Vec::as_slice)
        .collect()
}

fn told(code: Code) -> impl Fn(crate::cred::Error) -> Error {
    move |error| Error::told(code, Some(error.status()), error.reason())
}

/// The certificate and key that the attributes name, by application id or by files.
fn credential(settings: &Settings) -> Result<Option<AcceptorCredential>, Error> {
    let credential = match (
        &settings.application_id,
        &settings.certificate,
        &settings.key,
    ) {
        (Some(id), ..) => {
            let resolver = settings.resolver.as_ref().ok_or(Code::BadResolver)?;
            let resolved = catch_unwind(AssertUnwindSafe(|| resolver.resolve(id)));
            resolved.ok().flatten().ok_or(Code::BadApplicationId)?
        }
        (None, None, None) => return Ok(None),
        (None, None, Some(_)) => return Err(Code::BadCertificate.into()),
        (None, Some(_), None) => return Err(Code::BadKey.into()),
        (None, Some(certificate), Some(key)) => {
            // Read as anchors first, so that it is known which of the two is bad.
            Anchors::from_pem_file(certificate).map_err(told(Code::BadCertificate))?;
            AcceptorCredential::from_pem_files(certificate, key).map_err(told(Code::BadKey))?
        }
    };
    let valid = credential.0.check(clock::unix_seconds());
    valid.map_err(|error| match error.status().major() {
        Major::CredentialsExpired => told(Code::BadCertificate)(error),
        _ => told(Code::BadKey)(error),
    })?;
    Ok(Some(credential))
}
