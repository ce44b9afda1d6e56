//! The control socket: operators' questions to the supervisor (`spec/control.md`).
//!
//! | room | what lives there |
//! |---|---|
//! | [`answer`] | questions and answers, as they are written |
//! | [`place`] | the socket's name |
//! | `gate` | who may ask |
//! | [`ask`](mod@ask) | the other end |
//!
//! Invariants: it waits for no client; clients, what they ask, and the answers that wait to be
//! taken are bounded in number, bytes and time; a question is one line and gets one answer.
//!
//! SECURITY: it lives in the supervisor's loop, which has no secret of a peer's, and reads only
//! what a process of the operator wrote (`gate`): who is refused is not read.

pub mod answer;
pub mod ask;
mod gate;
pub mod place;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use crate::session::log;

use super::poller::{Keys, Poller};
use answer::{Answer, Code, MAX_REQUEST, Request, to_line};
use gate::Asker;
use place::{Absent, Named};

/// Clients at once.
//= spec/control.md#bounds
const MOST_CLIENTS: usize = 8;
/// How long a client may take to ask.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take for its answer.
const TAKE_LIMIT: Duration = Duration::from_secs(5);
/// Connections accepted in one turn of the loop.
const AT_ONCE: usize = 16;
/// How long the socket is left alone when there is no descriptor.
const PAUSE: Duration = Duration::from_millis(500);
/// How long no further stranger is told of.
const QUIET: Duration = Duration::from_secs(60);
/// Bytes of answers that may wait to be taken when another is made.
const MOST_UNTAKEN: usize = 8 << 20;

/// The socket and its clients; nothing at all where it is off.
#[derive(Default)]
pub(super) struct Control {
    named: Option<Named>,
    key: u64,
    clients: HashMap<u64, Client>,
    /// Nobody is accepted: as many as may be are here, or there is no descriptor.
    closed: bool,
    /// And not before then.
    paused: Option<Instant>,
    /// When a stranger was last told of.
    told: Option<Instant>,
}

struct Client {
    socket: UnixStream,
    asker: Asker,
    asked: Vec<u8>,
    /// The answer, from here on.
    answer: Option<(Vec<u8>, usize)>,
    until: Instant,
}

/// A question that has been read.
pub(super) struct Asked {
    /// To be answered under this key.
    pub(super) client: u64,
    /// What is asked.
    pub(super) request: Request,
    /// The process that asks.
    pub(super) process: u32,
    /// Its user.
    pub(super) user: u32,
}

impl Control {
    /// Listens at `path`.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn open(path: &Path, keys: &mut Keys, poller: &Poller) -> Result<Self, Absent> {
        let system = |error| Absent::System(path.to_owned(), error);
        if !gate::is_possible().map_err(system)? {
            return Err(Absent::Kernel);
        }
        let named = Named::make(path)?;
        let key = keys.draw();
        poller
            .add(&named.listener, key, EventFlags::IN)
            .map_err(system)?;
        Ok(Self {
            named: Some(named),
            key,
            ..Self::default()
        })
    }

    /// Whether `key` is the socket's, or a client's.
    pub(super) fn has(&self, key: u64) -> bool {
        self.named.is_some() && (key == self.key || self.clients.contains_key(&key))
    }

    /// When something is due although nothing happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let clients = self.clients.values().map(|client| client.until);
        clients.chain(self.paused).min()
    }

    /// Accepts, reads or writes, as the descriptor under `key` is ready for. Answers the question,
    /// when one has come.
    pub(super) fn hear(&mut self, key: u64, keys: &mut Keys, poller: &Poller) -> Option<Asked> {
        if key == self.key {
            self.accept(keys, poller);
            return None;
        }
        let client = self.clients.get_mut(&key)?;
        if client.answer.is_some() {
            self.write(key, poller);
            return None;
        }
        let question = match client.read() {
            Ok(None) => return None,
            Ok(Some(question)) => question,
            Err(_) => {
                self.drop_client(key, poller);
                return None;
            }
        };
        match question {
            Ok(request) => Some(Asked {
                client: key,
                request,
                process: client.asker.process,
                user: client.asker.user,
            }),
            Err(answer) => {
                self.answer(key, &answer, poller);
                None
            }
        }
    }

    fn accept(&mut self, keys: &mut Keys, poller: &Poller) {
        for _ in 0..AT_ONCE {
            let Some(Named { listener, .. }) = &self.named else {
                return;
            };
            if self.clients.len() >= MOST_CLIENTS {
                return self.leave_alone(poller);
            }
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // There is no descriptor: the poller would tell of it again and again.
                Err(_) => {
                    self.paused = Some(Instant::now() + PAUSE);
                    return self.leave_alone(poller);
                }
            };
            let key = keys.draw();
            let prepared = socket.set_nonblocking(true);
            let asker = match gate::admit(&socket) {
                Ok(asker) if prepared.is_ok() => asker,
                Ok(_) => continue,
                Err(stranger) => {
                    // Into an empty buffer: it is taken whole, or the stranger is gone.
                    let answer = Answer::error(Code::Refused, stranger.to_string());
                    let _ = (&socket).write(&to_line(&answer));
                    // A command that tries again and again does not fill the log.
                    if self.told.is_none_or(|told| told.elapsed() > QUIET) {
                        self.told = Some(Instant::now());
                        log::line(format_args!("control socket: {stranger}"));
                    }
                    continue;
                }
            };
            if poller.add(&socket, key, EventFlags::IN).is_ok() {
                let client = Client {
                    socket,
                    asker,
                    asked: Vec::new(),
                    answer: None,
                    until: Instant::now() + ASK_LIMIT,
                };
                self.clients.insert(key, client);
            }
        }
    }

    /// The poller is not to tell of more.
    fn leave_alone(&mut self, poller: &Poller) {
        if let (Some(named), false) = (&self.named, self.closed) {
            self.closed = true;
            poller.remove(&named.listener);
        }
    }

    /// Answers the client under `key`, now or when it takes the answer.
    pub(super) fn answer(&mut self, key: u64, answer: &Answer, poller: &Poller) {
        let untaken = |client: &Client| client.answer.as_ref().map_or(0, |(line, _)| line.len());
        let waiting: usize = self.clients.values().map(untaken).sum();
        let line = match waiting > MOST_UNTAKEN {
            true => to_line(&Answer::error(Code::Busy, "too many answers wait")),
            false => to_line(answer),
        };
        if let Some(client) = self.clients.get_mut(&key) {
            client.answer = Some((line, 0));
            client.until = Instant::now() + TAKE_LIMIT;
            self.write(key, poller);
        }
    }

    fn write(&mut self, key: u64, poller: &Poller) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        match client.write() {
            // It cannot fail for a descriptor that is in.
            Ok(false) => drop(poller.change(&client.socket, key, EventFlags::OUT)),
            Ok(true) | Err(_) => self.drop_client(key, poller),
        }
    }

    fn drop_client(&mut self, key: u64, poller: &Poller) {
        if let Some(client) = self.clients.remove(&key) {
            poller.remove(&client.socket);
        }
        self.accept_again(poller);
    }

    fn accept_again(&mut self, poller: &Poller) {
        if let (Some(named), true, None) = (&self.named, self.closed, self.paused) {
            self.closed = poller
                .add(&named.listener, self.key, EventFlags::IN)
                .is_err();
        }
    }

    /// Drops the clients that have taken too long.
    pub(super) fn expire(&mut self, poller: &Poller) {
        let now = Instant::now();
        let late = |(key, client): (&u64, &Client)| (client.until <= now).then_some(*key);
        let late: Vec<u64> = self.clients.iter().filter_map(late).collect();
        for key in late {
            self.drop_client(key, poller);
        }
        if self.paused.take_if(|until| *until <= now).is_some() {
            self.accept_again(poller);
        }
    }

    /// Gives the connection of the client under `key` away, with the process that made it. What it
    /// sent behind its question is lost.
    pub(super) fn take_out(&mut self, key: u64, poller: &Poller) -> Option<(UnixStream, Asker)> {
        let Client { socket, asker, .. } = self.clients.remove(&key)?;
        poller.remove(&socket);
        self.accept_again(poller);
        Some((socket, asker))
    }

    /// Drops the clients, and takes the socket's name away.
    pub(super) fn close(&mut self, poller: &Poller) {
        for (_, client) in self.clients.drain() {
            poller.remove(&client.socket);
        }
        if let Some(named) = self.named.take() {
            if !self.closed {
                poller.remove(&named.listener);
            }
            named.remove();
        }
    }
}

/// A question, or what is answered to one that is none.
type Question = Result<Request, Answer>;

impl Client {
    //= spec/control.md#exchange
    fn read(&mut self) -> io::Result<Option<Question>> {
        let mut bytes = [0; MAX_REQUEST];
        let malformed = |text| Ok(Some(Err(Answer::error(Code::Malformed, text))));
        loop {
            let room = MAX_REQUEST - self.asked.len();
            let count = match (&self.socket).read(&mut bytes[..room]) {
                Ok(0) if self.asked.is_empty() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(0) => return malformed("no line feed"),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.asked.extend_from_slice(&bytes[..count]);
            if let Some(end) = self.asked.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(Request::from_line(&self.asked[..end])));
            }
            if self.asked.len() == MAX_REQUEST {
                return malformed("longer than 4096 bytes");
            }
        }
    }

    /// Whether all is written.
    fn write(&mut self) -> io::Result<bool> {
        let Some((line, from)) = &mut self.answer else {
            return Ok(false);
        };
        while let Some(rest) = line.get(*from..).filter(|rest| !rest.is_empty()) {
            match (&self.socket).write(rest) {
                Ok(count) => *from += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
