//! The server's loop.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::process::Signal;

use crate::ledger::Domain;
use crate::session::about::About;
use crate::session::channel::Channel;
use crate::session::drive::Hops;
use crate::session::job::Kind;
use crate::session::{Parcel, Sealed, Start, log, report};
use crate::sys::process::{self, Fork, fork};
use crate::sys::signal::Watch;
use crate::transfer::{Export, Importer};

use super::handshake::Live;
use super::poller::{Keys, Poller};
use super::reception::{Established, Reception};
use super::sessions::Sessions;
use super::{Error, Reload, Server, Terms};

/// How long a session's process has to import its context.
const IMPORT_LIMIT: Duration = Duration::from_secs(30);
/// How long sessions may go on after the first signal to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long they then have to obey.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// What this process is when [`Server::run`] comes back.
pub enum Role {
    /// The server, which has stopped.
    Stopped,
    /// A process forked from the server, which is to run this session. Nothing of the server is
    /// left in it.
    Session(Box<Start>),
}

/// A turn's outcome: go on, or leave the loop as a session's process.
type Turn = ControlFlow<Role>;

struct Running {
    poller: Poller,
    keys: Keys,
    listener: u64,
    signals: (Watch, u64),
    reception: Reception,
    sessions: Sessions,
    /// Connections for which no process could be forked, or whose process died too early, and how
    /// many were tried.
    unstarted: VecDeque<(Parcel, u32)>,
    stopping: Stopping,
    domain: Domain,
    kind: Kind,
    hops: Hops,
    limit: usize,
    reload: Option<Reload>,
}

#[derive(Clone, Copy)]
enum Stopping {
    No,
    /// Sessions may end by themselves until then.
    Waiting(Instant),
    /// They were told to end, and are killed then.
    Told(Instant),
}

impl Server {
    /// Serves until a signal stops it. Comes back also in every process that is forked to run a
    /// session.
    ///
    /// # Errors
    /// The system's, of what the server cannot do without.
    pub fn run(self) -> Result<Role, Error> {
        let mut running = Running::new(self)?;
        while !running.is_done() {
            let limit = running.next_due();
            let limit = limit.map(|due| due.saturating_duration_since(Instant::now()));
            let ready = running.poller.wait(limit).map_err(system("epoll"))?;
            if let ControlFlow::Break(role) = running.turn(&ready) {
                // `running` is dropped here: in a session's process, all that the server held.
                return Ok(role);
            }
        }
        Ok(Role::Stopped)
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::System(what, error)
}

impl Running {
    fn new(server: Server) -> Result<Self, Error> {
        // Processes that sessions leave behind become this one's children, to be waited for.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| Error::System("child subreaper", error.into()))?;
        let mut keys = Keys::default();
        let (listener, signals) = (keys.draw(), keys.draw());
        let poller = Poller::new().map_err(system("epoll"))?;
        poller
            .add(&server.signals, signals, EventFlags::IN)
            .map_err(system("epoll"))?;
        let reception = Reception::new(server.listener, server.terms.policy, listener, &poller)
            .map_err(system("epoll"))?;
        Ok(Self {
            poller,
            keys,
            listener,
            signals: (server.signals, signals),
            reception,
            sessions: Sessions::default(),
            unstarted: VecDeque::new(),
            stopping: Stopping::No,
            domain: server.domain,
            kind: server.terms.kind,
            hops: server.terms.hops,
            limit: server.terms.sessions,
            reload: server.reload,
        })
    }

    fn is_done(&self) -> bool {
        !matches!(self.stopping, Stopping::No) && self.sessions.is_empty()
    }

    /// When something is due although nothing happens.
    fn next_due(&self) -> Option<Instant> {
        let stop = match self.stopping {
            Stopping::No => None,
            Stopping::Waiting(until) | Stopping::Told(until) => Some(until),
        };
        self.reception.next_due().into_iter().chain(stop).min()
    }

    fn turn(&mut self, ready: &[(u64, EventFlags)]) -> Turn {
        let (mut accept, mut settle) = (false, false);
        for &(key, _) in ready {
            if key == self.listener {
                accept = true;
            } else if key == self.signals.1 {
                settle |= self.take_signals();
            } else if self.sessions.has(key) {
                self.sessions.read(key, &self.poller);
                settle = true;
            } else {
                self.advance(key)?;
            }
        }
        if settle {
            self.unstarted.extend(self.sessions.settle(&self.domain));
        }
        self.reception.expire(&self.poller);
        if self.reception.resume(&self.poller) || settle {
            self.start_late()?;
        }
        if accept {
            let started = self.sessions.len() + self.unstarted.len();
            let room = self.limit.saturating_sub(started);
            for key in self.reception.accept(room, &self.poller, &mut self.keys) {
                self.advance(key)?;
            }
        }
        self.press_on();
        Turn::Continue(())
    }

    // Signals and stopping.

    /// Answers whether a child has ended.
    fn take_signals(&mut self) -> bool {
        let mut child = false;
        // An error of the descriptor is told again by the poller.
        while let Ok(Some(signal)) = self.signals.0.next() {
            match signal {
                Signal::CHILD => child = true,
                Signal::HUP => self.reload(),
                _ => self.stop(),
            }
        }
        child
    }

    /// Takes new terms over, or none of them.
    //= spec/configuration.md#reload
    fn reload(&mut self) {
        match self.reload.as_mut().map(|reload| reload()) {
            Some(Ok(terms)) => {
                let Terms {
                    policy,
                    kind,
                    hops,
                    sessions,
                } = terms;
                self.reception.set_policy(policy);
                (self.kind, self.hops, self.limit) = (kind, hops, sessions);
                log::line(format_args!("configuration read: it holds from now on"));
            }
            Some(Err(mistakes)) => {
                for mistake in &mistakes {
                    log::line(format_args!("{mistake}"));
                }
                let count = mistakes.len();
                log::line(format_args!(
                    "configuration not taken over ({count} wrong): the old one goes on"
                ));
            }
            None => {}
        }
    }

    fn stop(&mut self) {
        let sessions = self.sessions.len();
        match self.stopping {
            Stopping::No => {
                self.stopping = Stopping::Waiting(Instant::now() + STOP_LIMIT);
                self.reception.close(&self.poller);
                self.unstarted.clear();
                log::line(format_args!(
                    "stopping: no new connections; {sessions} sessions have {} seconds",
                    STOP_LIMIT.as_secs()
                ));
            }
            Stopping::Waiting(_) => {
                self.stopping = Stopping::Told(Instant::now() + KILL_LIMIT);
                log::line(format_args!("stopping: ending {sessions} sessions"));
                self.sessions.kill(Signal::TERM);
            }
            Stopping::Told(_) => {}
        }
    }

    /// Ends what has not ended by itself in time.
    fn press_on(&mut self) {
        match self.stopping {
            Stopping::Waiting(until) if until <= Instant::now() => self.stop(),
            Stopping::Told(until) if until <= Instant::now() => {
                self.stopping = Stopping::Told(Instant::now() + KILL_LIMIT);
                self.sessions.kill(Signal::KILL);
            }
            _ => {}
        }
    }

    // From handshake to session.

    fn advance(&mut self, key: u64) -> Turn {
        let established = self.reception.advance(key, &self.domain, &self.poller);
        let Some(Established {
            live,
            socket,
            remote,
            unsent,
        }) = established
        else {
            return Turn::Continue(());
        };
        let connection = Connection {
            socket,
            remote,
            unsent,
        };
        let parcel = match *live {
            Live::Record(context) => connection.pack(context, Sealed::Record),
            Live::Message(messages) => connection.pack(messages, Sealed::Message),
        };
        match parcel {
            Some(parcel) => self.start(parcel, 0),
            None => Turn::Continue(()),
        }
    }

    /// Forks a process for a session; in it, breaks out of the loop. What cannot be forked now is
    /// kept for later.
    fn start(&mut self, parcel: Parcel, attempts: u32) -> Turn {
        if self.sessions.len() >= self.limit {
            self.unstarted.push_back((parcel, attempts));
            return Turn::Continue(());
        }
        let session = parcel.about.session;
        let forked = report::channel()
            .and_then(|(reporter, reports)| fork().map(|side| (side, reporter, reports)));
        match forked {
            Ok((Fork::Child, reporter, _)) => {
                return Turn::Break(Role::Session(Box::new(Start {
                    parcel,
                    kind: self.kind.clone(),
                    hops: self.hops,
                    domain: self.domain.clone(),
                    reporter,
                })));
            }
            Ok((Fork::Parent(child), _, reports)) => {
                let key = self.keys.draw();
                match self.poller.add(&reports, key, EventFlags::IN) {
                    Ok(()) => {
                        self.sessions
                            .started(key, child.pid(), parcel, attempts + 1, reports);
                    }
                    // It runs, and nothing will be heard of it but its release.
                    Err(error) => log::of_session(session, format_args!(" unheard: {error}")),
                }
            }
            Err(error) => {
                log::of_session(session, format_args!(" has no process yet: {error}"));
                self.unstarted.push_back((parcel, attempts));
                // What else needs a process would fare no better.
                self.reception.pause(&self.poller);
            }
        }
        Turn::Continue(())
    }

    /// Starts what could not be started before.
    fn start_late(&mut self) -> Turn {
        for _ in 0..self.unstarted.len() {
            if let Some((parcel, attempts)) = self.unstarted.pop_front() {
                self.start(parcel, attempts)?;
            }
        }
        Turn::Continue(())
    }
}

/// A connection whose context is elsewhere.
struct Connection {
    socket: std::net::TcpStream,
    remote: std::net::SocketAddr,
    unsent: Vec<u8>,
}

impl Connection {
    /// Exports a context that has just been established, for the process that will run it.
    fn pack<C: Channel>(
        self,
        channel: C,
        sealed: impl FnOnce(C::Sealed) -> Sealed,
    ) -> Option<Parcel> {
        let Self {
            socket,
            remote,
            unsent,
        } = self;
        let session = channel.session();
        let packed = socket
            .local_addr()
            .map_err(|error| error.to_string())
            .and_then(|local| {
                let about = About::new(&channel, remote, local);
                let how = Export::default()
                    .to(Importer::ProcessGroup(process::process_group()))
                    .within(IMPORT_LIMIT)
                    .tied_to(socket.as_fd())
                    .map_err(|status| status.to_string())?;
                let exported = channel.export(&how);
                let exported = exported.map_err(|(_, status)| status.to_string())?;
                Ok((sealed(exported), about))
            });
        match packed {
            Ok((sealed, about)) => Some(Parcel {
                sealed,
                socket,
                about,
                unsent,
            }),
            Err(error) => {
                log::of_session(
                    session,
                    format_args!(" from {remote} not exported: {error}"),
                );
                None
            }
        }
    }
}
