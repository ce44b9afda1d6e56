//! Accepting connections, and their handshakes, on a completion port that this thread drives.
//!
//! Invariants: at most so many at once as the limits say; each is over, well or not, within
//! [`HANDSHAKE_LIMIT`], and its connection 2 seconds later; what the machine has no room for waits
//! in the kernel's queue, without this process turning.
//!
//! SECURITY: the port bounds what strangers can make this process hold. Nothing of what a peer
//! sends reaches the log but through [`Error::reason`], which is printable.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::establish::AcceptorConfig;
use crate::ledger::Domain;
use crate::port::{
    Attribute, Code, Completion, Environment, Error, Live, Operation, Parts, Port, Readiness,
    Session, Watch,
};
use crate::record::Alert;
use crate::session::log;
use crate::status::Minor;

use super::gate::{Closed, Gate};
use super::limits::{Limits, Over};
use super::tally::{Handshakes, Refused};

/// The most handshakes in progress at once, whatever the limits say: a port has no more sessions.
const MOST_HANDSHAKES: usize = 1_000_000;
/// A handshake must be done this long after its connection was accepted.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// When no more handshakes may begin, one that has taken so long makes room.
const FAIR: Duration = Duration::from_secs(1);
/// How long the listener is left alone when there is no room.
const PAUSE: Duration = Duration::from_millis(200);
/// Connections accepted in a row, before others get their turn.
const AT_ONCE: usize = 64;

/// Who gets in.
#[derive(Clone)]
pub struct Policy {
    /// How contexts are established, in either framing.
    pub config: Arc<AcceptorConfig>,
    /// Whether clients that prove nothing get in, in record framing too: there the configuration
    /// asks for certificates only, and a password has no place.
    pub anonymous: bool,
}

/// The listener and the handshakes. Its completions have tags of its own.
pub struct Reception {
    listener: Watch<TcpListener>,
    environment: Environment,
    anonymous: bool,
    /// What those are told who prove nothing, and may not.
    refusal: Alert,
    limits: Limits,
    gate: Gate,
    /// For the next connection.
    place: Option<Session>,
    /// The peers of the handshakes in progress, and since when, under their tags.
    peers: HashMap<u64, (SocketAddr, Instant)>,
    drawn: u64,
    /// What was counted, until it is taken from here.
    pub tally: Handshakes,
}

/// Whether there is room for a connection beyond the handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Now,
    /// There may be, here or with another handshaker: what comes waits.
    Soon,
    /// There are as many sessions as there may be.
    None,
}

/// A handshake that came to its good end.
pub struct Established {
    /// The context.
    pub live: Live,
    /// The connection.
    pub socket: TcpStream,
    /// The peer's address.
    pub remote: SocketAddr,
    /// What must be sent before anything else.
    pub unsent: Vec<u8>,
}

impl Reception {
    /// Waits for connections.
    ///
    /// # Errors
    /// The port's.
    pub fn new(
        port: &Port,
        domain: &Domain,
        listener: TcpListener,
        policy: Policy,
        limits: Limits,
    ) -> Result<Self, Error> {
        let limits = Limits {
            handshakes: limits.handshakes.min(MOST_HANDSHAKES),
            ..limits
        };
        //= spec/processes.md#no-name
        let refusal = match policy.config.asks_for_certificates() {
            true => Alert::CERTIFICATE_REQUIRED,
            false => Alert::ACCESS_DENIED,
        };
        let environment = Environment::open(port, domain)?;
        for attribute in [
            Attribute::Configuration(policy.config),
            // The first byte tells.
            Attribute::Framing(None),
            Attribute::HandshakeTimeout(HANDSHAKE_LIMIT),
            Attribute::SessionLimit(limits.handshakes),
            Attribute::MakeRoomAfter(Some(FAIR)),
        ] {
            environment.set(attribute)?;
        }
        environment.init()?;
        let reception = Self {
            listener: Watch::open(port, listener)?,
            environment,
            anonymous: policy.anonymous,
            refusal,
            gate: Gate::new(limits.rate),
            limits,
            place: None,
            peers: HashMap::new(),
            drawn: 0,
            tally: Handshakes::default(),
        };
        reception.listen()?;
        Ok(reception)
    }

    /// Handshakes that have begun and not ended.
    pub fn in_progress(&self) -> usize {
        self.peers.len()
    }

    /// Waits for a connection, which is told by [`Operation::Ready`].
    fn listen(&self) -> Result<(), Error> {
        self.listener.start(Readiness::Read, 0)
    }

    /// Leaves the listener alone for a while, instead of being told again and again. The end of
    /// that is told by [`Operation::Event`].
    fn pause(&self, port: &Port) -> Result<(), Error> {
        port.post_after(PAUSE, 0, 0)
    }

    /// Accepts what is waiting, as far as there is `room`, and goes on waiting: to be called when the
    /// listener is ready, or its pause is over. What is over a limit waits or is refused, as the
    /// limits say.
    ///
    /// # Errors
    /// The port's.
    //= spec/processes.md#handshakes
    //= spec/processes.md#limits
    pub fn accept(&mut self, room: Room, port: &Port) -> Result<(), Error> {
        for _ in 0..AT_ONCE {
            let place = match room {
                // A slow handshake makes room for somebody, not for nobody.
                Room::Now if self.is_full() && !self.somebody_waits() => break,
                // First, so that no connection is accepted that has to wait for a place.
                Room::Now => self.has_place()?,
                Room::Soon | Room::None => false,
            };
            if !place && (room == Room::Soon || self.limits.over == Over::Wait) {
                self.tally.limits.handshakes += u64::from(room == Room::Now);
                return self.pause(port);
            }
            match accept(self.listener.get_ref()) {
                // Dropped, a connection is closed.
                Ok((_, remote)) if !self.gate.admits(remote) => self.tally.closed.rate += 1,
                Ok((_, remote)) if !place => {
                    self.tally.closed.room += 1;
                    self.gate.closed(remote, Closed::Room);
                }
                Ok((socket, remote)) => self.begin(socket, remote),
                Err(Errno::AGAIN) => break,
                // The server stops, and has shut it.
                Err(Errno::INVAL) => return Ok(()),
                // Of that connection, or of nothing: the next may be better.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM) => {}
                Err(error) => {
                    self.tally.limits.system += 1;
                    log::line(format_args!("not accepting for a moment: {error}"));
                    return self.pause(port);
                }
            }
        }
        self.listen()
    }

    /// Accepts nothing more; the handshakes end with the port.
    pub fn close(&mut self) {
        self.peers.clear();
    }

    /// Whether one more handshake can begin only in the place of another.
    fn is_full(&self) -> bool {
        self.place.is_none() && self.environment.sessions() >= self.limits.handshakes
    }

    /// Whether one more handshake may begin, which may cost a slow one its place.
    fn has_place(&mut self) -> Result<bool, Error> {
        if self.place.is_none() {
            match Session::open(&self.environment) {
                Ok(place) => self.place = Some(place),
                Err(error) if error.code() == Code::SessionsFull => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.place.is_some())
    }

    fn somebody_waits(&self) -> bool {
        let mut listener = [PollFd::new(self.listener.get_ref(), PollFlags::IN)];
        poll(&mut listener, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn begin(&mut self, socket: OwnedFd, remote: SocketAddr) {
        let Some(session) = self.place.take() else {
            return;
        };
        self.drawn += 1;
        self.tally.connections += 1;
        let began = Instant::now();
        match session.start_handshake(socket, self.drawn) {
            Ok(()) => drop(self.peers.insert(self.drawn, (remote, began))),
            Err(error) => {
                self.tally.refused.system += 1;
                log::line(format_args!("connection from {remote} dropped: {error}"));
            }
        }
    }

    /// What a handshake has come to: its good end, or nothing, and the log has the reason.
    pub fn over(&mut self, done: Completion) -> Option<Established> {
        debug_assert_eq!(done.operation, Operation::Handshake);
        let ((remote, began), session) = (self.peers.remove(&done.tag)?, done.session?);
        if let Some(error) = done.error {
            *reason(&error, &mut self.tally.refused) += 1;
            tell(remote, &error);
            return None;
        }
        let nobody = |session: &Session| {
            let proved = session.facts(|facts| facts.initiator_name.is_some());
            !self.anonymous && proved == Ok(false)
        };
        if nobody(&session) {
            self.tally.refused.anonymous += 1;
            log::line(format_args!(
                "connection from {remote} refused: the client proves no name"
            ));
            // Nothing is left to be told but this.
            let _ = session.abort(self.refusal);
            return None;
        }
        match session.detach() {
            Ok(Parts {
                live,
                socket,
                unsent,
            }) => {
                self.tally.established(began.elapsed());
                Some(Established {
                    live,
                    socket: socket.into(),
                    remote,
                    unsent,
                })
            }
            Err(error) => {
                self.tally.refused.local += 1;
                log::line(format_args!("connection from {remote} dropped: {error}"));
                None
            }
        }
    }
}

/// What a handshake counts as that did not come to a good end: by what the peer is to blame for.
fn reason<'a>(error: &Error, refused: &'a mut Refused) -> &'a mut u64 {
    let minor = match error.code() {
        Code::HandshakeTimeout => return &mut refused.slow,
        Code::MadeRoom => return &mut refused.crowded,
        Code::SocketClosed => return &mut refused.closed,
        Code::NotActivated => return &mut refused.local,
        Code::HandshakeFailed => error.status().map(|status| status.minor()),
        _ => return &mut refused.system,
    };
    match minor {
        Some(
            Minor::CertificateRefused
            | Minor::CertificateMissing
            | Minor::PasswordRefused
            | Minor::PasswordMissing
            | Minor::NameMismatch
            | Minor::BindingsDiffer,
        ) => &mut refused.credential,
        Some(Minor::AnonymousRefused) => &mut refused.anonymous,
        Some(
            Minor::ContextTokenMalformed | Minor::ContextTokenTooLarge | Minor::FramingUnknown,
        ) => &mut refused.garbage,
        _ => &mut refused.protocol,
    }
}

/// Says why a handshake did not come to a good end.
fn tell(remote: SocketAddr, error: &Error) {
    let (outcome, why) = match error.code() {
        Code::HandshakeTimeout => ("dropped", "the handshake took too long".to_owned()),
        Code::MadeRoom => ("dropped", "others wait".to_owned()),
        Code::SocketClosed => ("refused", "the peer closed the connection".to_owned()),
        _ => match (error.status(), error.reason()) {
            (Some(status), "") => ("refused", status.to_string()),
            (Some(status), reason) => ("refused", format!("{status} ({reason})")),
            (None, _) => ("refused", error.to_string()),
        },
    };
    log::line(format_args!("connection from {remote} {outcome}: {why}"));
}

/// Accepts a connection that does not block, and that tells when its peer's machine is gone.
fn accept(listener: &TcpListener) -> Result<(OwnedFd, SocketAddr), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, remote) = rustix::net::acceptfrom_with(listener, flags)?;
    // Neither is needed to serve.
    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&socket, true);
    let remote = remote.and_then(|remote| SocketAddr::try_from(remote).ok());
    Ok((socket, remote.ok_or(Errno::CONNABORTED)?))
}
