//! Accepting connections, and the handshakes in progress.
//!
//! Invariants: at most so many at once as the limits say; each is over, well or not, within
//! [`HANDSHAKE_LIMIT`]; what the machine has no room for waits in the kernel's queue, without this
//! process turning.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::ledger::Domain;
use crate::session::log;

use super::gate::{Closed, Gate};
use super::handshake::Reason;
use super::handshake::{Handshake, Live, Policy, Progress};
use super::limits::{Limits, Over};
use super::poller::{Keys, Poller};
use super::tally::Handshakes;

/// A handshake must be done this long after its connection was accepted, its refusal included.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// When no more handshakes may begin, one that has taken so long makes room.
const FAIR: Duration = Duration::from_secs(1);
/// How long the listener is left alone when there is no room.
const PAUSE: Duration = Duration::from_millis(200);
/// Connections accepted in one turn of the loop.
const AT_ONCE: usize = 64;

/// The listener and the handshakes.
pub struct Reception {
    /// None once nothing more is accepted.
    listener: Option<TcpListener>,
    key: u64,
    policy: Policy,
    limits: Limits,
    gate: Gate,
    handshakes: HashMap<u64, Handshake>,
    /// Handshakes in the order in which they began; those that are over are passed over.
    order: VecDeque<(Instant, u64)>,
    /// The listener is left alone until then.
    paused: Option<Instant>,
    /// What was counted, until it is taken from here.
    pub tally: Handshakes,
}

/// Whether there is room for a connection beyond the handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Now,
    /// There will be: what comes waits.
    Soon,
    /// There are as many sessions as there may be.
    None,
}

/// A handshake that came to its good end.
pub struct Established {
    /// The context.
    pub live: Box<Live>,
    /// The connection.
    pub socket: TcpStream,
    /// The peer's address.
    pub remote: SocketAddr,
    /// What must be sent before anything else.
    pub unsent: Vec<u8>,
}

impl Reception {
    /// Waits for connections, told under `key`.
    pub fn new(
        listener: TcpListener,
        policy: Policy,
        limits: Limits,
        key: u64,
        poller: &Poller,
    ) -> std::io::Result<Self> {
        poller.add(&listener, key, EventFlags::IN)?;
        Ok(Self {
            listener: Some(listener),
            key,
            policy,
            gate: Gate::new(limits.rate),
            limits,
            handshakes: HashMap::new(),
            order: VecDeque::new(),
            paused: None,
            tally: Handshakes::default(),
        })
    }

    /// Who gets in, of those whose handshakes begin from now on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Handshakes that have begun and not ended.
    pub fn in_progress(&self) -> usize {
        self.handshakes.len()
    }

    /// When something is due although nothing happens.
    pub fn next_due(&self) -> Option<Instant> {
        let handshake = self
            .order
            .front()
            .map(|(began, _)| *began + HANDSHAKE_LIMIT);
        handshake.into_iter().chain(self.paused).min()
    }

    /// Accepts what is waiting, as far as there is `room`, and answers the new keys, which are to be
    /// advanced: most clients have spoken by the time they are accepted. What is over a limit waits
    /// or is refused, as the limits say.
    //= spec/processes.md#limits
    pub fn accept(&mut self, room: Room, poller: &Poller, keys: &mut Keys) -> Vec<u64> {
        let mut accepted = Vec::new();
        for _ in 0..AT_ONCE {
            if self.paused.is_some() {
                break;
            }
            let place = room == Room::Now && self.has_place(poller);
            if room == Room::Now && !place {
                self.tally.limits.handshakes += 1;
            }
            if !place && (room == Room::Soon || self.limits.over == Over::Wait) {
                self.pause(poller);
                break;
            }
            let Some(listener) = &self.listener else {
                break;
            };
            match accept(listener) {
                // Dropped, a connection is closed.
                Ok((_, remote)) if !self.gate.admits(remote) => {}
                Ok((_, remote)) if !place => self.gate.closed(remote, Closed::Room),
                Ok((socket, remote)) => accepted.extend(self.begin(socket, remote, poller, keys)),
                Err(Errno::AGAIN) => break,
                // Of that connection, or of nothing: the next may be better.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM) => {}
                Err(error) => {
                    self.tally.limits.system += 1;
                    log::line(format_args!("not accepting for a moment: {error}"));
                    self.pause(poller);
                }
            }
        }
        accepted
    }

    fn begin(
        &mut self,
        socket: TcpStream,
        remote: SocketAddr,
        poller: &Poller,
        keys: &mut Keys,
    ) -> Option<u64> {
        let key = keys.draw();
        self.tally.connections += 1;
        let handshake = Handshake::new(socket, remote, self.policy.clone());
        if let Err(error) = poller.add(&handshake.socket, key, EventFlags::IN) {
            log::line(format_args!("connection from {remote} dropped: {error}"));
            self.tally.refused.system += 1;
            return None;
        }
        self.order.push_back((handshake.began, key));
        self.handshakes.insert(key, handshake);
        Some(key)
    }

    /// Whether one more handshake may begin, which may cost a slow one its place.
    fn has_place(&mut self, poller: &Poller) -> bool {
        if self.handshakes.len() < self.limits.handshakes {
            return true;
        }
        self.trim_order();
        match self.order.front() {
            Some(&(began, key)) if began.elapsed() >= FAIR => {
                let crowded: Reason = |refused| &mut refused.crowded;
                self.drop_handshake(key, "others wait", crowded, poller);
                true
            }
            _ => false,
        }
    }

    /// Leaves the listener alone for a while, instead of being told again and again.
    pub fn pause(&mut self, poller: &Poller) {
        if let (Some(listener), None) = (&self.listener, self.paused) {
            poller.remove(listener);
            self.paused = Some(Instant::now() + PAUSE);
        }
    }

    /// Listens again, if a pause is over. Answers whether one was.
    pub fn resume(&mut self, poller: &Poller) -> bool {
        let (Some(listener), Some(until)) = (&self.listener, self.paused) else {
            return false;
        };
        if until > Instant::now() {
            return false;
        }
        self.paused = match poller.add(listener, self.key, EventFlags::IN) {
            Ok(()) => None,
            Err(_) => Some(Instant::now() + PAUSE),
        };
        true
    }

    /// Accepts nothing more, and drops the handshakes.
    pub fn close(&mut self, poller: &Poller) {
        self.pause(poller);
        self.paused = None;
        self.listener = None;
        for (_, handshake) in self.handshakes.drain() {
            poller.remove(&handshake.socket);
        }
        self.order.clear();
    }

    /// Moves a handshake on. Answers its good end, when it has come.
    pub fn advance(&mut self, key: u64, domain: &Domain, poller: &Poller) -> Option<Established> {
        let handshake = self.handshakes.get_mut(&key)?;
        let remote = handshake.remote;
        let progress = handshake.advance(domain, |refusal| {
            *(refusal.reason)(&mut self.tally.refused) += 1;
            log::line(format_args!(
                "connection from {remote} refused: {}",
                refusal.text
            ));
        });
        match progress {
            Progress::Wants(flags) => {
                // It cannot fail for a descriptor that is in.
                let _ = poller.change(&handshake.socket, key, flags);
                None
            }
            Progress::Over => {
                self.take_out(key, poller);
                None
            }
            Progress::Established(live, unsent) => {
                let Handshake {
                    socket,
                    remote,
                    began,
                    ..
                } = self.take_out(key, poller)?;
                self.tally.established(began.elapsed());
                Some(Established {
                    live,
                    socket,
                    remote,
                    unsent,
                })
            }
        }
    }

    /// Drops the handshakes that have taken too long.
    pub fn expire(&mut self, poller: &Poller) {
        loop {
            self.trim_order();
            match self.order.front() {
                Some(&(began, key)) if began.elapsed() >= HANDSHAKE_LIMIT => {
                    let slow: Reason = |refused| &mut refused.slow;
                    self.drop_handshake(key, "the handshake took too long", slow, poller);
                }
                _ => return,
            }
        }
    }

    fn take_out(&mut self, key: u64, poller: &Poller) -> Option<Handshake> {
        let handshake = self.handshakes.remove(&key)?;
        poller.remove(&handshake.socket);
        Some(handshake)
    }

    fn drop_handshake(&mut self, key: u64, why: &str, reason: Reason, poller: &Poller) {
        match self.take_out(key, poller) {
            Some(handshake) if !handshake.is_refused() => {
                *reason(&mut self.tally.refused) += 1;
                let remote = handshake.remote;
                log::line(format_args!("connection from {remote} dropped: {why}"));
            }
            _ => {}
        }
    }

    fn trim_order(&mut self) {
        while let Some((_, key)) = self.order.front()
            && !self.handshakes.contains_key(key)
        {
            self.order.pop_front();
        }
    }
}

/// Accepts a connection that does not block, and that tells when its peer's machine is gone.
fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, remote) = rustix::net::acceptfrom_with(listener, flags)?;
    // Neither is needed to serve.
    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&socket, true);
    let remote = remote.and_then(|remote| SocketAddr::try_from(remote).ok());
    Ok((socket.into(), remote.ok_or(Errno::CONNABORTED)?))
}
