//! The loop: one epoll instance, connections by their descriptors' numbers, and, from time to time,
//! a predecessor or a successor beside them.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton::cred::AcceptorCredential;
use baton::establish::AcceptorConfig;
use baton::ledger::Domain;
use baton::record::Record;
use baton::succession::{
    Heard, Inheritance, Offer, Patience, Predecessor, Program, Successor, Told,
};
use baton::sys::process::{Signal, raise_descriptor_limit};
use baton::sys::signal::Watch;
use baton::transfer::{Laden, MAX_MEMBERS};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::connection::{Handshake, Live, Progress};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Contexts of the domain, those of both processes together.
const CAPACITY: u32 = 65_536;
/// Descriptors that are no connections.
const RESERVE: u64 = 64;
/// Connections accepted in a row.
const ACCEPTS: usize = 64;

pub struct Settings {
    listen: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
    patience: Patience,
}

impl Settings {
    pub fn of(arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let (mut listen, mut certificate, mut key) = (([127, 0, 0, 1], 0).into(), None, None);
        let mut patience = Patience::default();
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or("an option has no value")?;
            let text = value.to_str().ok_or("not UTF-8")?;
            match name.to_str() {
                Some("--listen") => listen = text.parse()?,
                Some("--cert") => certificate = Some(value.into()),
                Some("--key") => key = Some(value.into()),
                Some("--ready-ms") => patience.ready = Duration::from_millis(text.parse()?),
                Some("--answer-ms") => patience.answer = Duration::from_millis(text.parse()?),
                _ => return Err("usage: hot_restart --cert FILE --key FILE [--listen ADDR]".into()),
            }
        }
        Ok(Self {
            listen,
            certificate: certificate.ok_or("--cert is missing")?,
            key: key.ok_or("--key is missing")?,
            patience,
        })
    }
}

/// Serves until SIGTERM, or until a successor has everything.
pub fn run(settings: &Settings) -> Result<()> {
    // First: later another file may be at this program's path.
    let program = Program::own()?;
    let signals = Watch::new(&[Signal::USR2, Signal::TERM])?;
    let predecessor = Predecessor::inherited()?;
    let credential = AcceptorCredential::from_pem_files(&settings.certificate, &settings.key)
        .and_then(|credential| AcceptorConfig::builder(credential).anonymous(true).build());
    let config = match credential {
        Ok(config) => config,
        Err(error) => {
            if let Some(predecessor) = predecessor {
                predecessor.refuse(&error.to_string());
            }
            return Err(error.into());
        }
    };
    let mut server = Server::new(settings, program, signals, Arc::new(config), predecessor)?;
    server.serve()
}

/// One line about what happened; a standard output that is gone is no reason to stop.
fn tell(what: &str) {
    let _ = writeln!(io::stdout(), "{} {what}", process::id());
}

enum Connection {
    Handshake(Handshake),
    Live(Box<Live>),
}

struct Slot {
    connection: Connection,
    wanted: EventFlags,
    /// It could not travel when it was tried, and nothing has happened to it since; or it has come
    /// back, and is not tried again.
    stays: Stays,
}

#[derive(Clone, Copy, PartialEq)]
enum Stays {
    No,
    ForNow,
    ForGood,
}

struct Server {
    program: Program,
    patience: Patience,
    epoll: OwnedFd,
    signals: Watch,
    config: Arc<AcceptorConfig>,
    domain: Domain,
    listener: TcpListener,
    accepting: bool,
    most: usize,
    /// By descriptor.
    slots: Vec<Option<Slot>>,
    count: usize,
    handshakes: usize,
    predecessor: Option<Inheritance>,
    successor: Option<Successing>,
    /// A successor has all but what came back.
    succeeded: bool,
}

/// A successor, and how far the hand-over is.
struct Successing {
    successor: Successor<Record>,
    /// Where to look for the next connection to give.
    next: usize,
    /// ACCEPT has been said.
    passed: bool,
    given: usize,
    wanted: EventFlags,
}

impl Server {
    fn new(
        settings: &Settings,
        program: Program,
        signals: Watch,
        config: Arc<AcceptorConfig>,
        predecessor: Option<Predecessor>,
    ) -> Result<Self> {
        let most = raise_descriptor_limit()?.saturating_sub(RESERVE);
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        add(&epoll, &signals, EventFlags::IN)?;
        let (domain, listener, predecessor) = match predecessor {
            None => {
                let listener = TcpListener::bind(settings.listen)?;
                // More may come at once than the standard library's queue holds.
                rustix::net::listen(&listener, 4096)?;
                listener.set_nonblocking(true)?;
                (Domain::inherited(CAPACITY)?, listener, None)
            }
            Some(mut predecessor) => {
                let listener = predecessor.take_listeners().pop();
                let listener = listener.ok_or("no listening socket was offered")?;
                let domain = predecessor.domain().clone();
                let inheritance = predecessor.ready()?;
                add(&epoll, inheritance.socket(), EventFlags::IN)?;
                (domain, listener.into(), Some(inheritance))
            }
        };
        let mut server = Self {
            program,
            patience: settings.patience,
            epoll,
            signals,
            config,
            domain,
            listener,
            accepting: false,
            most: usize::try_from(most)?,
            slots: Vec::new(),
            count: 0,
            handshakes: 0,
            predecessor,
            successor: None,
            succeeded: false,
        };
        if server.predecessor.is_none() {
            server.accept_from_now_on()?;
            tell(&format!("serves {}", server.listener.local_addr()?));
        }
        Ok(server)
    }

    fn serve(&mut self) -> Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(512);
        loop {
            let limit = self.limit();
            events.clear();
            let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), limit.as_ref());
            match waited {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let number = event.data.u64() as RawFd;
                if number == self.listener.as_raw_fd() {
                    self.accept()?;
                } else if number == self.signals.as_fd().as_raw_fd() {
                    while let Some(signal) = self.signals.next()? {
                        if signal == Signal::TERM {
                            return Ok(());
                        }
                        self.start_successor();
                    }
                } else if self.slots.get(number as usize).is_some_and(Option::is_some) {
                    self.advance(number);
                }
            }
            self.end_late_handshakes();
            self.receive()?;
            self.hand_over()?;
            if self.succeeded && self.count == 0 {
                return Ok(());
            }
        }
    }

    /// How long to wait for events.
    fn limit(&self) -> Option<Timespec> {
        let until = match &self.successor {
            Some(it) if it.successor.has_room() && self.has_to_give(it) => Some(Instant::now()),
            Some(it) => it.successor.deadline(),
            None => None,
        };
        let handshakes = (self.handshakes > 0).then(|| Instant::now() + Duration::from_secs(1));
        let until = [until, handshakes].into_iter().flatten().min()?;
        let left = until.saturating_duration_since(Instant::now());
        Some(Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        })
    }

    fn accept_from_now_on(&mut self) -> Result<()> {
        if !self.accepting {
            add(&self.epoll, &self.listener, EventFlags::IN)?;
            self.accepting = true;
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        for _ in 0..ACCEPTS {
            if !self.accepting || self.count >= self.most {
                return Ok(());
            }
            let Ok((socket, _)) = self.listener.accept() else {
                return Ok(());
            };
            socket.set_nonblocking(true)?;
            // An echo is small, and its peer waits for it.
            let _ = socket.set_nodelay(true);
            let number = socket.as_raw_fd();
            let handshake = Handshake::new(socket, &self.config);
            self.handshakes += 1;
            self.insert(number, Connection::Handshake(handshake))?;
            self.advance(number);
        }
        Ok(())
    }

    fn insert(&mut self, number: RawFd, connection: Connection) -> Result<()> {
        let at = number as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        match &connection {
            Connection::Handshake(it) => add(&self.epoll, &it.socket, EventFlags::IN)?,
            Connection::Live(it) => add(&self.epoll, &it.socket, EventFlags::IN)?,
        }
        self.count += 1;
        self.slots[at] = Some(Slot {
            connection,
            wanted: EventFlags::IN,
            stays: Stays::No,
        });
        Ok(())
    }

    fn remove(&mut self, number: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(number)?.take()?;
        self.count -= 1;
        match &slot.connection {
            Connection::Handshake(it) => {
                self.handshakes -= 1;
                epoll::delete(&self.epoll, &it.socket).ok()?;
            }
            Connection::Live(it) => epoll::delete(&self.epoll, &it.socket).ok()?,
        }
        Some(slot)
    }

    fn advance(&mut self, number: RawFd) {
        let at = number as usize;
        let Some(Some(slot)) = self.slots.get_mut(at) else {
            return;
        };
        if slot.stays == Stays::ForNow {
            slot.stays = Stays::No;
        }
        if let Connection::Handshake(handshake) = &mut slot.connection {
            match handshake.advance(&self.domain) {
                Progress::Wants(flags) => return self.want(at, Some(flags)),
                Progress::Over => return self.want(at, None),
                Progress::Live(context) => {
                    let Some(Slot {
                        connection: Connection::Handshake(handshake),
                        ..
                    }) = self.remove(at)
                    else {
                        return;
                    };
                    let live = Live::new(*context, handshake.socket);
                    let live = Connection::Live(Box::new(live));
                    if self.insert(number, live).is_ok() {
                        self.advance(number);
                    }
                    return;
                }
            }
        }
        if let Connection::Live(live) = &mut slot.connection {
            let wanted = live.advance();
            self.want(at, wanted);
        }
    }

    fn want(&mut self, at: usize, wanted: Option<EventFlags>) {
        let Some(Some(slot)) = self.slots.get_mut(at) else {
            return;
        };
        let Some(wanted) = wanted else {
            self.remove(at);
            return;
        };
        if slot.wanted != wanted {
            slot.wanted = wanted;
            let data = EventData::new_u64(at as u64);
            let socket = match &slot.connection {
                Connection::Handshake(it) => it.socket.as_fd(),
                Connection::Live(it) => it.socket.as_fd(),
            };
            if epoll::modify(&self.epoll, socket, data, wanted).is_err() {
                self.remove(at);
            }
        }
    }

    fn end_late_handshakes(&mut self) {
        if self.handshakes == 0 {
            return;
        }
        let now = Instant::now();
        let is_late = |slot: &Option<Slot>| matches!(slot, Some(Slot { connection: Connection::Handshake(it), .. }) if it.until <= now);
        let late = (0..self.slots.len()).filter(|at| is_late(&self.slots[*at]));
        for at in late.collect::<Vec<_>>() {
            self.remove(at);
        }
    }

    fn adopt(&mut self, laden: Laden<Record>, stays: Stays) -> Result<()> {
        let mut live = Live::unladen(laden);
        let number = live.socket.as_raw_fd();
        let is_idle = live.is_idle();
        self.insert(number, Connection::Live(Box::new(live)))?;
        if let Some(Some(slot)) = self.slots.get_mut(number as usize) {
            slot.stays = stays;
        }
        if !is_idle {
            self.advance(number);
        }
        Ok(())
    }

    // ------------------------------------------------------------ from the predecessor

    fn receive(&mut self) -> Result<()> {
        let Some(predecessor) = &mut self.predecessor else {
            return Ok(());
        };
        match predecessor.receive::<Record>()? {
            Told::Nothing => {}
            Told::Arrived {
                connections,
                refused,
            } => {
                if let Some(status) = refused.first() {
                    tell(&format!("left {} behind: {status}", refused.len()));
                }
                for laden in connections {
                    self.adopt(laden, Stays::No)?;
                }
            }
            Told::Accept => self.accept_from_now_on()?,
            Told::Over { orphaned } => {
                epoll::delete(&self.epoll, predecessor.socket())?;
                self.predecessor = None;
                self.accept_from_now_on()?;
                let how = if orphaned { "orphaned" } else { "succeeds" };
                tell(&format!("{how} with {}", self.count));
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------ to the successor

    fn start_successor(&mut self) {
        // One after the other: what is on its way in goes out the next time it is asked for.
        if self.successor.is_some() || self.predecessor.is_some() || self.succeeded {
            tell("is in a succession already");
            return;
        }
        let offer = Offer {
            domain: &self.domain,
            listeners: &[self.listener.as_fd()],
            note: b"",
            connections: self.count,
        };
        let started = Successor::start(&self.program, &offer, self.patience);
        let watched = started.and_then(|successor| {
            add(&self.epoll, successor.socket(), EventFlags::IN)?;
            Ok(successor)
        });
        match watched {
            Ok(successor) => {
                self.successor = Some(Successing {
                    successor,
                    next: 0,
                    passed: false,
                    given: 0,
                    wanted: EventFlags::IN,
                });
            }
            Err(error) => tell(&format!("goes on with all: {error}")),
        }
    }

    fn hand_over(&mut self) -> Result<()> {
        let Some(mut it) = self.successor.take() else {
            return Ok(());
        };
        match it.successor.hear() {
            Ok(Heard::Nothing) => {}
            Ok(Heard::Ready) => tell("has a successor that is ready"),
            Ok(Heard::Returned(connections)) => {
                tell(&format!("got {} back", connections.len()));
                it.given -= connections.len();
                for laden in connections {
                    self.adopt(laden, Stays::ForGood)?;
                }
            }
            Ok(Heard::Taken) => {
                let (given, left) = (it.given, self.count);
                tell(&format!("handed over {given}, keeps {left}"));
                epoll::delete(&self.epoll, it.successor.socket())?;
                self.succeeded = true;
                return Ok(());
            }
            Err(error) => {
                // Killed and waited for before anything is taken back; out of the epoll first.
                epoll::delete(&self.epoll, it.successor.socket())?;
                let back = it.successor.take_back();
                let (count, lost) = (back.connections.len(), back.lost);
                for laden in back.connections {
                    self.adopt(laden, Stays::No)?;
                }
                self.accept_from_now_on()?;
                tell(&format!(
                    "goes on with {}, {count} back, {lost} lost: {error}",
                    self.count
                ));
                return Ok(());
            }
        }
        if it.successor.has_room() {
            self.give(&mut it);
        }
        let mut wanted = EventFlags::IN;
        wanted.set(EventFlags::OUT, it.successor.has_unsent());
        if wanted != it.wanted {
            it.wanted = wanted;
            let data = EventData::new_u64(it.successor.socket().as_raw_fd() as u64);
            epoll::modify(&self.epoll, it.successor.socket(), data, wanted)?;
        }
        self.successor = Some(it);
        Ok(())
    }

    /// One bundle of connections; or, when there is none to give, the next word.
    fn give(&mut self, it: &mut Successing) {
        let mut connections = Vec::with_capacity(MAX_MEMBERS);
        while connections.len() < MAX_MEMBERS
            && let Some(at) = self.next_to_give(it.next)
        {
            it.next = at + 1;
            if let Some(Slot {
                connection: Connection::Live(live),
                ..
            }) = self.remove(at)
            {
                connections.push(live.laden());
            }
        }
        if !connections.is_empty() {
            it.given += connections.len();
            for (laden, _) in it.successor.hand_over(connections) {
                it.given -= 1;
                if self.adopt(laden, Stays::ForNow).is_err() {
                    tell("lost one that could not travel");
                }
            }
            return;
        }
        it.next = 0;
        if !it.passed {
            it.passed = true;
            self.accepting = false;
            // It is watched as long as this process accepts.
            let _ = epoll::delete(&self.epoll, &self.listener);
            it.successor.accept();
        } else if self.next_to_give(0).is_none() && self.count == self.staying() {
            it.successor.end();
        }
    }

    /// Whether there is something to give now, if only a word.
    fn has_to_give(&self, it: &Successing) -> bool {
        !it.passed || self.next_to_give(it.next).is_some() || self.count == self.staying()
    }

    /// How many are not to be handed over any more.
    fn staying(&self) -> usize {
        let stays = |slot: &&Slot| slot.stays == Stays::ForGood;
        self.slots.iter().flatten().filter(stays).count()
    }

    /// The first connection from `from` on that can be given.
    fn next_to_give(&self, from: usize) -> Option<usize> {
        let can = |slot: &Option<Slot>| {
            matches!(
                slot,
                Some(Slot {
                    connection: Connection::Live(_),
                    stays: Stays::No,
                    ..
                })
            )
        };
        (from..self.slots.len()).find(|at| can(&self.slots[*at]))
    }
}

fn add(epoll: &OwnedFd, fd: impl AsFd, flags: EventFlags) -> io::Result<()> {
    let fd = fd.as_fd();
    let data = EventData::new_u64(fd.as_raw_fd() as u64);
    Ok(epoll::add(epoll, fd, data, flags)?)
}
