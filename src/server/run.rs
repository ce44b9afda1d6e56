//! The server's loop.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::Signal;

use crate::session::about::About;
use crate::session::channel::Channel;
use crate::session::drive::Hops;
use crate::session::{Parcel, Sealed, Start, log, report};
use crate::sys::process::{self, Fork, fork};
use crate::sys::signal::Watch;
use crate::transfer::{Export, Importer};

use super::handshake::{Handshake, Live, Progress};
use super::poller::Poller;
use super::sessions::Sessions;
use super::{Error, Server};

/// Handshakes in progress at once.
const MOST_HANDSHAKES: usize = 1024;
/// A handshake must be done this long after its connection was accepted, refusal included.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// When no more handshakes may begin, one that has taken so long makes room.
const HANDSHAKE_FAIR: Duration = Duration::from_secs(1);
/// How long a session's process has to import its context.
const IMPORT_LIMIT: Duration = Duration::from_secs(30);
/// How long the loop leaves alone what the machine had no room for.
const PAUSE: Duration = Duration::from_millis(200);
/// How long sessions may go on after the first signal to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Connections accepted in one turn of the loop.
const ACCEPTED_AT_ONCE: usize = 64;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;

/// What this process is when [`Server::run`] comes back.
pub enum Role {
    /// The server, which has stopped.
    Stopped,
    /// A process forked from the server, which is to run this session. Nothing of the server is
    /// left in it.
    Session(Box<Start>),
}

/// A turn's outcome: go on, or leave the loop as a session.
type Turn = ControlFlow<Role>;

struct Running {
    server: Server,
    poller: Poller,
    signals: Watch,
    next_key: u64,
    handshakes: HashMap<u64, Handshake>,
    /// Handshakes in the order in which they began; those that are over are passed over.
    order: VecDeque<(Instant, u64)>,
    sessions: Sessions,
    /// Connections for which no process could be forked, or whose process died too early, and how
    /// many were tried.
    unstarted: VecDeque<(Parcel, u32)>,
    /// The listener is not waited for until then.
    paused: Option<Instant>,
    /// Since when the server is stopping, and whether its sessions were told.
    stopping: Option<(Instant, bool)>,
}

impl Server {
    /// Serves until a signal stops it. Comes back also in every process that is forked to run a
    /// session.
    pub fn run(self) -> Result<Role, Error> {
        let system = |what| move |error: io::Error| Error::System(what, error);
        // Processes that sessions leave behind become this one's children, to be waited for.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| Error::System("child subreaper", error.into()))?;
        let signals = Watch::new(&[Signal::TERM, Signal::INT, Signal::CHILD])
            .map_err(system("signals"))?;
        let poller = Poller::new().map_err(system("epoll"))?;
        poller.add(&signals, SIGNALS, EventFlags::IN).map_err(system("epoll"))?;
        poller.add(&self.listener, LISTENER, EventFlags::IN).map_err(system("epoll"))?;
        let mut running = Running {
            server: self,
            poller,
            signals,
            next_key: SIGNALS + 1,
            handshakes: HashMap::new(),
            order: VecDeque::new(),
            sessions: Sessions::default(),
            unstarted: VecDeque::new(),
            paused: None,
            stopping: None,
        };
        while !running.is_done() {
            let limit = running.patience();
            let ready = running.poller.wait(limit).map_err(system("epoll"))?;
            if let ControlFlow::Break(role) = running.turn(&ready) {
                // `running` is dropped here: in a session's process, all that the server held.
                return Ok(role);
            }
        }
        Ok(Role::Stopped)
    }
}

impl Running {
    fn is_done(&self) -> bool {
        self.stopping.is_some() && self.sessions.is_empty()
    }

    /// How long nothing needs to be done unless something happens.
    fn patience(&self) -> Option<Duration> {
        let handshake = self.order.front().map(|(began, _)| *began + HANDSHAKE_LIMIT);
        let stop = self.stopping.map(|(since, told)| {
            since + if told { STOP_LIMIT + PAUSE } else { STOP_LIMIT }
        });
        let next = [handshake, self.paused, stop].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn turn(&mut self, ready: &[(u64, EventFlags)]) -> Turn {
        let mut sessions_moved = false;
        let mut accept = false;
        for &(key, _) in ready {
            match key {
                LISTENER => accept = true,
                SIGNALS => sessions_moved |= self.take_signals(),
                _ if self.sessions.has(key) => {
                    self.sessions.read(key, &self.poller);
                    sessions_moved = true;
                }
                _ => self.advance(key)?,
            }
        }
        if sessions_moved {
            let again = self.sessions.settle(&self.server.domain);
            self.unstarted.extend(again);
        }
        self.expire();
        self.retry()?;
        if accept && self.paused.is_none() {
            self.accept()?;
        }
        self.press_on();
        Turn::Continue(())
    }

    // Signals and stopping.

    /// Answers whether a child has ended.
    fn take_signals(&mut self) -> bool {
        let mut child = false;
        // An error of the descriptor is told again by the poller.
        while let Ok(Some(signal)) = self.signals.next() {
            if signal == Signal::CHILD {
                child = true;
            } else {
                self.stop();
            }
        }
        child
    }

    fn stop(&mut self) {
        if let Some((_, told)) = &mut self.stopping {
            if !std::mem::replace(told, true) {
                log::line(format_args!("ending {} sessions now", self.sessions.len()));
                self.sessions.kill(Signal::TERM);
            }
            return;
        }
        self.stopping = Some((Instant::now(), false));
        self.poller.remove(&self.server.listener);
        self.paused = None;
        for (_, handshake) in self.handshakes.drain() {
            self.poller.remove(&handshake.socket);
        }
        self.order.clear();
        self.unstarted.clear();
        log::line(format_args!(
            "stopping: no new connections; {} sessions have {} seconds (once more: now)",
            self.sessions.len(),
            STOP_LIMIT.as_secs()
        ));
    }

    /// Ends what has not ended by itself in time.
    fn press_on(&mut self) {
        let Some((since, told)) = self.stopping else { return };
        if !told && since.elapsed() >= STOP_LIMIT {
            self.stop();
        } else if told && since.elapsed() >= STOP_LIMIT + PAUSE {
            self.sessions.kill(Signal::KILL);
        }
    }

    // Accepting.

    fn accept(&mut self) -> Turn {
        for _ in 0..ACCEPTED_AT_ONCE {
            if !self.has_room() {
                self.pause();
                break;
            }
            match accept(&self.server.listener) {
                Ok((socket, remote)) => self.begin(socket, remote)?,
                Err(Errno::AGAIN) => break,
                // Of that connection, or nothing: the next may be better.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM) => {}
                Err(error) => {
                    log::line(format_args!("not accepting for a moment: {error}"));
                    self.pause();
                    break;
                }
            }
        }
        Turn::Continue(())
    }

    /// Whether one more connection can be taken, which may cost a slow one its place.
    fn has_room(&mut self) -> bool {
        let started = self.sessions.len() + self.unstarted.len();
        if started + self.handshakes.len() >= self.server.limit.saturating_add(MOST_HANDSHAKES)
            || started >= self.server.limit
            || !self.unstarted.is_empty()
        {
            return false;
        }
        if self.handshakes.len() < MOST_HANDSHAKES {
            return true;
        }
        match self.order.front() {
            Some((began, key)) if began.elapsed() >= HANDSHAKE_FAIR => {
                let key = *key;
                self.drop_handshake(key, "others wait");
                true
            }
            _ => false,
        }
    }

    /// Leaves the listener alone for a while, instead of being told again and again.
    fn pause(&mut self) {
        self.poller.remove(&self.server.listener);
        self.paused = Some(Instant::now() + PAUSE);
    }

    fn begin(&mut self, socket: TcpStream, remote: SocketAddr) -> Turn {
        let key = self.next_key;
        self.next_key += 1;
        let handshake = Handshake::new(socket, remote, Arc::clone(&self.server.config));
        if let Err(error) = self.poller.add(&handshake.socket, key, EventFlags::IN) {
            log::line(format_args!("connection from {remote} dropped: {error}"));
            return Turn::Continue(());
        }
        self.order.push_back((handshake.began, key));
        self.handshakes.insert(key, handshake);
        // Most clients have spoken by the time they are accepted.
        self.advance(key)
    }

    // Handshakes.

    fn advance(&mut self, key: u64) -> Turn {
        let Some(handshake) = self.handshakes.get_mut(&key) else { return Turn::Continue(()) };
        let remote = handshake.remote;
        let progress = handshake.advance(&self.server.domain, |refusal| {
            log::line(format_args!("connection from {remote} refused: {}", refusal.0));
        });
        match progress {
            Progress::Wants(flags) => {
                let _ = self.poller.change(&handshake.socket, key, flags);
            }
            Progress::Over => {
                self.forget(key);
            }
            Progress::Established(live, unsent) => {
                if let Some(handshake) = self.forget(key) {
                    let parcel = match live {
                        Live::Record(context) => {
                            self.pack(context, handshake, unsent, Sealed::Record)
                        }
                        Live::Message(messages) => {
                            self.pack(messages, handshake, unsent, Sealed::Message)
                        }
                    };
                    return match parcel {
                        Some(parcel) => self.start(parcel, 0),
                        None => Turn::Continue(()),
                    };
                }
            }
        }
        Turn::Continue(())
    }

    fn forget(&mut self, key: u64) -> Option<Handshake> {
        let handshake = self.handshakes.remove(&key)?;
        self.poller.remove(&handshake.socket);
        Some(handshake)
    }

    fn drop_handshake(&mut self, key: u64, why: &str) {
        if let Some(handshake) = self.forget(key) {
            if !handshake.is_refused() {
                let remote = handshake.remote;
                log::line(format_args!("connection from {remote} dropped: {why}"));
            }
        }
        self.trim_order();
    }

    fn trim_order(&mut self) {
        while self.order.front().is_some_and(|(_, key)| !self.handshakes.contains_key(key)) {
            self.order.pop_front();
        }
    }

    fn expire(&mut self) {
        self.trim_order();
        while let Some(&(began, key)) = self.order.front() {
            if began.elapsed() < HANDSHAKE_LIMIT {
                return;
            }
            self.drop_handshake(key, "the handshake took too long");
        }
    }

    // Sessions.

    /// Exports a context that has just been established, for the process that will run it.
    fn pack<C: Channel>(
        &self,
        channel: C,
        handshake: Handshake,
        unsent: Vec<u8>,
        sealed: impl FnOnce(C::Sealed) -> Sealed,
    ) -> Option<Parcel> {
        let Handshake { socket, remote, .. } = handshake;
        let session = channel.session();
        let packed = socket.local_addr().map_err(|error| error.to_string()).and_then(|local| {
            let about = About::new(&channel, remote, local);
            let how = Export::default()
                .to(Importer::ProcessGroup(process::process_group()))
                .within(IMPORT_LIMIT)
                .tied_to(socket.as_fd())
                .map_err(|status| status.to_string())?;
            let exported = channel.export(&how).map_err(|(_, status)| status.to_string())?;
            Ok((sealed(exported), about))
        });
        match packed {
            Ok((sealed, about)) => Some(Parcel { sealed, socket, about, unsent }),
            Err(error) => {
                log::line(format_args!("session {session} from {remote} not exported: {error}"));
                None
            }
        }
    }

    /// Forks a process for a session; in it, breaks out of the loop. What cannot be forked now is
    /// kept for later.
    fn start(&mut self, parcel: Parcel, attempts: u32) -> Turn {
        let forked = report::channel()
            .and_then(|(reporter, reports)| fork().map(|side| (side, reporter, reports)));
        match forked {
            Ok((Fork::Child, reporter, _)) => {
                let Server { kind, hops, hop_every, domain, .. } = &self.server;
                Turn::Break(Role::Session(Box::new(Start {
                    parcel,
                    kind: kind.clone(),
                    hops: Hops::new(*hops, *hop_every),
                    domain: domain.clone(),
                    reporter,
                })))
            }
            Ok((Fork::Parent(child), _, reports)) => {
                let key = self.next_key;
                self.next_key += 1;
                if let Err(error) = self.poller.add(&reports, key, EventFlags::IN) {
                    // Nothing would be heard of it: it ends when it reports.
                    let session = parcel.about.session;
                    log::line(format_args!("session {session} dropped: {error}"));
                    return Turn::Continue(());
                }
                self.sessions.started(key, child.pid(), parcel, attempts + 1, reports);
                Turn::Continue(())
            }
            Err(error) => {
                log::line(format_args!("session {}: no process: {error}", parcel.about.session));
                self.unstarted.push_back((parcel, attempts));
                if self.paused.is_none() && self.stopping.is_none() {
                    self.pause();
                }
                Turn::Continue(())
            }
        }
    }

    /// After a pause: starts what could not be started, and listens again.
    fn retry(&mut self) -> Turn {
        if self.paused.is_some_and(|until| Instant::now() < until) {
            return Turn::Continue(());
        }
        let resumed = self.paused.take().is_some();
        for _ in 0..self.unstarted.len() {
            if let Some((parcel, attempts)) = self.unstarted.pop_front() {
                self.start(parcel, attempts)?;
            }
        }
        if resumed && self.paused.is_none() {
            let listener = &self.server.listener;
            if let Err(error) = self.poller.add(listener, LISTENER, EventFlags::IN) {
                log::line(format_args!("not accepting for a moment: {error}"));
                self.paused = Some(Instant::now() + PAUSE);
            }
        }
        Turn::Continue(())
    }
}

/// Accepts a connection that does not block, and that tells when its peer's machine is gone.
fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, remote) = rustix::net::acceptfrom_with(listener, flags)?;
    // Neither is needed to serve.
    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&socket, true);
    let remote = remote.and_then(|remote| SocketAddr::try_from(remote).ok()).ok_or(Errno::CONNABORTED)?;
    Ok((socket.into(), remote))
}
