//! Sessions: one connection each, from its handshake to its end.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::attribute::target_name;
use super::connection::Connection;
use super::driver::me;
use super::held::{Common, Core};
use super::pending::{Handshake, Link, Receive, Send};
use super::shake::{Establishment, Shake};
use super::{Attribute, Code, Environment, Error, Live, Operation};
use crate::context::{Facts, Role};
use crate::establish::{Hello, Reserved, Standing};
use crate::exit::SessionIdentifier;
use crate::record::Alert;

/// Most bytes that one receive takes.
pub const RECEIVE_LIMIT: usize = 16 << 20;

/// The state of a [`Session`] (`spec/port.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// Attributes can be overridden, and the handshake started.
    Open,
    /// The handshake is pending.
    Handshaking,
    /// The handshake is pending and waits for [`Session::go_on`]; attributes can be overridden.
    Heard,
    /// Data can be received and sent.
    Established,
    /// The handshake or the context has failed; it can be closed.
    Failed,
    /// Closed, or given up with [`Session::detach`].
    Closed,
}

/// Whether a receive waits until its buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Amount {
    /// Whatever is there, at least one byte.
    Some,
    /// As much as the buffer holds; less only at the end, or with an error.
    Full,
}

/// One connection and its context. The handle can be cloned and used by many threads at once;
/// pending operations and their completions hold one. When the last is dropped, the session is
/// closed.
#[derive(Clone)]
pub struct Session(Arc<Handle>);

struct Handle(Arc<Core>);

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.common.environment.port.here().is_ok() {
            self.0.close();
        }
    }
}

/// What a session leaves that was given up ([`Session::detach`]).
pub struct Parts {
    /// The context, with what was received and not read.
    pub live: Live,
    /// The connection; it does not block.
    pub socket: OwnedFd,
    /// Sealed bytes that must be sent before anything else.
    pub unsent: Vec<u8>,
}

impl core::fmt::Debug for Parts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Parts")
            .field("session", &self.live.session())
            .field("unsent", &self.unsent.len())
            .finish_non_exhaustive()
    }
}

/// A send that was not started; the data come back.
pub struct NotSent {
    /// Why.
    pub error: Error,
    /// What was to be sent.
    pub data: Vec<u8>,
}

impl core::fmt::Debug for NotSent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "NotSent({} bytes, {:?})", self.data.len(), self.error)
    }
}

impl core::fmt::Display for NotSent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for NotSent {}

impl From<NotSent> for Error {
    fn from(not_sent: NotSent) -> Self {
        not_sent.error
    }
}

impl Session {
    /// Opens a session, with the attributes of its environment.
    ///
    /// # Errors
    /// [`Code::InvalidState`] before the environment is initialised, [`Code::EnvironmentClosed`],
    /// [`Code::SessionsFull`].
    //= spec/port.md#session-states
    pub fn open(environment: &Environment) -> Result<Self, Error> {
        environment.0.port.check()?;
        let settings = environment.0.enter()?;
        let core = Arc::new_cyclic(|core| Core {
            common: Common {
                environment: environment.0.clone(),
                core: core.clone(),
                id: environment.0.port.draw(),
            },
            connection: Mutex::new(Connection::new(settings)),
            looking: AtomicUsize::new(0),
        });
        Ok(Self(Arc::new(Handle(core))))
    }

    /// Overrides an attribute, for this session alone.
    ///
    /// # Errors
    /// [`Code::InvalidState`] once the handshake was started, [`Code::EnvironmentOnly`], or the
    /// attribute's own.
    //= spec/port.md#inherited
    pub fn set(&self, attribute: Attribute) -> Result<(), Error> {
        let (core, mut connection) = self.locked()?;
        if !matches!(connection.state, SessionState::Open | SessionState::Heard) {
            return Err(Code::InvalidState.into());
        }
        let key = attribute.key();
        if !key.row().session {
            return Err(Code::EnvironmentOnly.into());
        }
        if let Attribute::Resumption(true) = attribute
            && !core.common.environment.resumption()
        {
            return Err(Code::BadResumption.into());
        }
        Arc::make_mut(&mut connection.settings).set(attribute)?;
        Ok(())
    }

    /// Starts the handshake over a connected stream socket, which the session owns from now on.
    /// Returns at once; the completion is posted under `tag`.
    ///
    /// # Errors
    /// [`Code::InvalidState`] when it was started before, [`Code::EnvironmentClosed`], the error of
    /// an attribute that does not fit the others, [`Code::System`]. The session stays open then, and
    /// the socket is closed.
    //= spec/port.md#handshake
    pub fn start_handshake(&self, socket: impl Into<OwnedFd>, tag: u64) -> Result<(), Error> {
        let socket = socket.into();
        let (core, mut connection) = self.locked()?;
        let port = &core.common.environment.port;
        port.alive()?;
        if connection.state != SessionState::Open {
            return Err(Code::InvalidState.into());
        }
        let settings = connection.settings.clone();
        let establishment = core.common.environment.establishment(&settings)?;
        let target = match settings.role {
            Role::Initiator => Some(settings.target.as_deref().ok_or(Code::BadTarget)?),
            Role::Acceptor => None,
        };
        let target = target.and_then(target_name);
        let shake = Shake::new(establishment, settings.framing, target, settings.hello)?;
        rustix::io::ioctl_fionbio(&socket, true)
            .map_err(|error| Error::of_system(&error.into()))?;
        connection.shake = shake;
        connection.handshake = Some(Handshake {
            tag,
            session: self.clone(),
            deadline: Instant::now() + settings.handshake_timeout,
        });
        connection.state = SessionState::Handshaking;
        // The driver may be told of the socket at once, and begins when this lock is released.
        let driver = port.driver(core.common.id);
        let first = connection.shake.speaks_first();
        let key = match driver.add(core, socket.as_fd(), first) {
            Ok(Some(key)) => key,
            answer => {
                connection.shake = Shake::Over;
                connection.state = SessionState::Open;
                let started = connection.handshake.take();
                drop(connection);
                // This handle is not the last: the caller holds one.
                drop(started);
                return Err(match answer {
                    Err(error) => Error::of_system(&error),
                    Ok(_) => Code::PortDestroyed.into(),
                });
            }
        };
        connection.link = Some(Link::new(socket, driver, key, first));
        connection.take_place(&core.common);
        connection.arm();
        if port.is_driven_by_waiters() {
            // Who will drive is here: most peers that connect have spoken already.
            core.advance_here(connection);
        }
        Ok(())
    }

    /// Goes on with a handshake that was started, once the initiator's hello was heard
    /// ([`Operation::Hello`]): it is answered as the attributes say now. The handshake's timeout has been running all the time.
    ///
    /// # Errors
    /// [`Code::InvalidState`] unless it was heard, [`Code::EnvironmentClosed`], the error of an
    /// attribute that does not fit the others: the session stays as it is.
    //= spec/port.md#hello
    pub fn go_on(&self) -> Result<(), Error> {
        let (core, mut connection) = self.locked()?;
        core.common.environment.port.alive()?;
        if connection.state != SessionState::Heard {
            return Err(Code::InvalidState.into());
        }
        let settings = connection.settings.clone();
        let establishment = core.common.environment.establishment(&settings)?;
        let Establishment::Acceptor(config) = establishment else {
            return Err(Code::BadRole.into());
        };
        let shake = core::mem::replace(&mut connection.shake, Shake::Over);
        let (shake, heard) = shake.go_on(config).ok_or(Code::InvalidState)?;
        connection.shake = shake;
        connection.heard = Some(heard);
        connection.state = SessionState::Handshaking;
        core.advance_here(connection);
        Ok(())
    }

    /// Enters the session's context into the ledger now, so that its identifier is known while the
    /// handshake goes on. A session that is not established ends it, and its release is delivered.
    /// Answers the same when it is called again.
    ///
    /// # Errors
    /// [`Code::InvalidState`] unless it was heard, [`Code::NotActivated`].
    //= spec/port.md#hello
    pub fn reserve(&self) -> Result<SessionIdentifier, Error> {
        let (core, mut connection) = self.locked()?;
        if connection.state != SessionState::Heard {
            return Err(Code::InvalidState.into());
        }
        let reserved = match connection.reserved.take() {
            Some(reserved) => reserved,
            None => Reserved::new(&core.common.environment.domain)
                .map_err(|status| Error::told(Code::NotActivated, Some(status), ""))?,
        };
        let identifier = reserved.session_identifier();
        connection.reserved = Some(reserved);
        Ok(identifier)
    }

    /// What the initiator has said first; none before [`Operation::Hello`].
    pub fn hello(&self) -> Option<Hello> {
        let (_, connection) = self.locked().ok()?;
        connection.hello.as_deref().cloned()
    }

    /// Starts to receive up to `buffer.len()` bytes, 1 to [`RECEIVE_LIMIT`]; the completion has
    /// the buffer. Returns at once.
    ///
    /// # Errors
    /// [`Code::InvalidState`] unless it is established, [`Code::AlreadyPending`],
    /// [`Code::BadBuffer`].
    //= spec/port.md#receive
    pub fn start_receive(&self, buffer: Vec<u8>, amount: Amount, tag: u64) -> Result<(), Error> {
        let (core, mut connection) = self.established()?;
        if connection.receive.is_some() {
            return Err(Code::AlreadyPending.into());
        }
        if buffer.is_empty() || buffer.len() > RECEIVE_LIMIT {
            return Err(Code::BadBuffer.into());
        }
        let patience = connection.settings.read_timeout;
        connection.receive = Some(Receive {
            tag,
            session: self.clone(),
            buffer,
            filled: 0,
            amount,
            deadline: patience.map(|patience| Instant::now() + patience),
        });
        core.advance_here(connection);
        Ok(())
    }

    /// Starts to send: the completion comes once the connection has taken all of `data`, and gives
    /// the buffer back. Sends are made in the order in which they were started; together at most
    /// the session's unsent limit are pending. Returns at once.
    ///
    /// # Errors
    /// [`Code::InvalidState`] unless it is established, [`Code::SendFull`] when less is pending
    /// first, [`Code::BadBuffer`] when `data` are empty or longer than the limit. The data come
    /// back.
    //= spec/port.md#send
    pub fn start_send(&self, data: Vec<u8>, tag: u64) -> Result<(), NotSent> {
        let (core, mut connection) = match self.established() {
            Ok(established) => established,
            Err(error) => return Err(NotSent { error, data }),
        };
        let limit = connection.settings.unsent_limit;
        let patience = connection.settings.send_timeout;
        let pending: usize = connection.sends.iter().map(|send| send.data.len()).sum();
        let refused = match data.len() {
            0 => Some(Code::BadBuffer),
            length if length > limit => Some(Code::BadBuffer),
            length if length > limit - pending.min(limit) => Some(Code::SendFull),
            _ => None,
        };
        if let Some(code) = refused {
            let error = code.into();
            return Err(NotSent { error, data });
        }
        connection.sends.push_back(Send {
            tag,
            session: self.clone(),
            data,
            sealed: 0,
            deadline: patience.map(|patience| Instant::now() + patience),
            end: None,
        });
        core.advance_here(connection);
        Ok(())
    }

    /// Cancels the pending operations of one kind, and answers how many; each is completed with
    /// [`Code::Cancelled`] and what was done of it. A cancelled handshake is the session's end. Of
    /// a cancelled send, what was sealed is sent; what follows in the stream is the next send.
    ///
    /// # Errors
    /// [`Code::PortForked`].
    //= spec/port.md#cancel
    pub fn cancel(&self, operation: Operation) -> Result<usize, Error> {
        let (core, mut connection) = self.locked()?;
        let count = connection.pending(operation);
        match operation {
            Operation::Handshake if count > 0 => {
                connection.break_off(&core.common, Code::Cancelled);
            }
            Operation::Receive => {
                connection.end_receive(&core.common, Some(Code::Cancelled.into()));
            }
            Operation::Send => connection.abandon_sends(&core.common, &Code::Cancelled.into()),
            _ => {}
        }
        Ok(count)
    }

    /// Whether an operation of this kind is pending: started, and its completion not posted.
    pub fn is_pending(&self, operation: Operation) -> bool {
        self.locked()
            .is_ok_and(|(_, connection)| connection.pending(operation) > 0)
    }

    /// Closes the session: its pending operations are completed with [`Code::SessionClosed`], the
    /// context ends, and the peer is told. Bytes that were sealed leave, if the peer takes them
    /// within 2 seconds.
    ///
    /// # Errors
    /// [`Code::InvalidState`] when it was closed before.
    //= spec/port.md#close
    pub fn close(&self) -> Result<(), Error> {
        let (core, mut connection) = self.locked()?;
        if connection.state == SessionState::Closed {
            return Err(Code::InvalidState.into());
        }
        connection.close(&core.common, None);
        Ok(())
    }

    /// Closes a session whose peer the application does not let in, and that is established or was
    /// heard: as [`Session::close`], but the peer is told a fatal alert. In message framing, which
    /// has no alerts once it is established, it is told the end then.
    ///
    /// # Errors
    /// [`Code::InvalidState`] unless it is established or was heard.
    //= spec/port.md#abort
    pub fn abort(&self, alert: Alert) -> Result<(), Error> {
        let (core, mut connection) = self.locked()?;
        if !matches!(
            connection.state,
            SessionState::Established | SessionState::Heard
        ) {
            return Err(Code::InvalidState.into());
        }
        connection.close(&core.common, Some(alert));
        Ok(())
    }

    /// Gives up an established session: its context, alive, with its connection, for this process
    /// to use otherwise or to export to another. The session is closed then, and nobody is told.
    ///
    /// # Errors
    /// [`Code::InvalidState`] unless it is established, [`Code::AlreadyPending`] while a receive
    /// or a send is; the session stays as it is.
    //= spec/port.md#detach
    pub fn detach(&self) -> Result<Parts, Error> {
        let (core, mut connection) = self.locked()?;
        if connection.state != SessionState::Established {
            return Err(Code::InvalidState.into());
        }
        if connection.receive.is_some() || !connection.sends.is_empty() {
            return Err(Code::AlreadyPending.into());
        }
        let (Some(live), Some(link)) = (connection.live.take(), connection.link.take()) else {
            return Err(Code::InvalidState.into());
        };
        let unsent = connection.unsent.take();
        let parts = Parts {
            live: *live,
            socket: link.unlink(),
            unsent,
        };
        connection.state = SessionState::Closed;
        connection.leave(&core.common);
        Ok(parts)
    }

    /// Ends the session's tickets, and those of the sessions it was resumed from or that were
    /// resumed from it; at an initiator, all tickets of its acceptor. The session goes on. Whether
    /// there were any.
    ///
    /// # Errors
    /// [`Code::PortForked`].
    //= spec/port.md#session-cache
    pub fn drop_from_cache(&self) -> Result<bool, Error> {
        let (core, connection) = self.locked()?;
        let cache = core.common.environment.cache(&connection.settings);
        match (cache, &connection.resumable) {
            (Some(cache), Some(resumable)) => {
                cache.forget(resumable);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Its state.
    pub fn state(&self) -> SessionState {
        self.locked()
            .map_or(SessionState::Closed, |(_, connection)| connection.state)
    }

    /// The number of the session, of no other of its port.
    pub fn id(&self) -> u64 {
        self.0.0.common.id
    }

    /// The session identifier of the context, the same on every hop; none unless established or
    /// [reserved](Session::reserve).
    pub fn identifier(&self) -> Option<SessionIdentifier> {
        let (_, connection) = self.locked().ok()?;
        let reserved = connection.reserved.as_ref();
        match &connection.live {
            Some(live) => Some(live.session()),
            None => reserved.map(Reserved::session_identifier),
        }
    }

    /// Looks at what is known of the context. In `look` every call of this session answers
    /// [`Code::InvalidState`]; what answers no error, the closed state and nothing pending.
    ///
    /// # Errors
    /// [`Code::InvalidState`] unless it is established.
    //= spec/port.md#callbacks
    pub fn facts<T>(&self, look: impl FnOnce(&Facts) -> T) -> Result<T, Error> {
        /// Nobody looks any more, however it ended.
        struct Looking<'a>(&'a AtomicUsize);
        impl Drop for Looking<'_> {
            fn drop(&mut self) {
                self.0.store(0, Ordering::Relaxed);
            }
        }
        let (core, connection) = self.locked()?;
        match &connection.live {
            Some(live) if connection.state == SessionState::Established => {
                core.looking.store(me(), Ordering::Relaxed);
                let _looking = Looking(&core.looking);
                Ok(look(live.facts()))
            }
            _ => Err(Code::InvalidState.into()),
        }
    }

    /// What the peer's certificates are worth, once it is established.
    pub fn standing(&self) -> Standing {
        self.locked()
            .map_or(Standing::Unproved, |(_, connection)| connection.standing)
    }

    /// The peer's certificates, DER, leaf first; none when it presented none.
    pub fn peer_chain(&self) -> Vec<Vec<u8>> {
        self.locked()
            .map(|(_, connection)| connection.chain.clone())
            .unwrap_or_default()
    }

    /// The session under its lock, in the process it belongs to.
    fn locked(&self) -> Result<(&Arc<Core>, MutexGuard<'_, Connection>), Error> {
        let core = &self.0.0;
        core.common.environment.port.here()?;
        if core.looking.load(Ordering::Relaxed) == me() {
            return Err(Code::InvalidState.into());
        }
        Ok((core, core.connection()))
    }

    fn established(&self) -> Result<(&Arc<Core>, MutexGuard<'_, Connection>), Error> {
        let (core, connection) = self.locked()?;
        core.common.environment.port.alive()?;
        match connection.state {
            SessionState::Established => Ok((core, connection)),
            _ => Err(Code::InvalidState.into()),
        }
    }
}

impl core::fmt::Debug for Session {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Session").field(&self.id()).finish()
    }
}
