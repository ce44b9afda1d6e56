//! One connection: its handshake, then its echo. What is read and not yet echoed is what travels
//! as luggage; what is half-read or sealed and unsent travels in the context.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton::context::Context;
use baton::establish::{Acceptor, AcceptorConfig, Step};
use baton::ledger::Domain;
use baton::record::{MAX_CONTENT, Read, Record};
use baton::status::Status;
use baton::transfer::{Laden, Luggage};
use rustix::event::epoll::EventFlags;

/// Plaintext kept for a peer that does not read; then it is not read from either.
const BACKLOG: usize = 32 * 1024;
/// Reads from a socket in a row, before others get their turn.
const READS: usize = 4;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A handshake in progress.
pub struct Handshake {
    pub socket: TcpStream,
    pub until: Instant,
    acceptor: Option<Acceptor<Record>>,
    unsent: Vec<u8>,
}

/// What became of it.
pub enum Progress {
    Wants(EventFlags),
    Live(Box<Context<Record>>),
    Over,
}

impl Handshake {
    pub fn new(socket: TcpStream, config: &Arc<AcceptorConfig>) -> Self {
        Self {
            socket,
            until: Instant::now() + HANDSHAKE,
            acceptor: Some(Acceptor::new(Arc::clone(config))),
            unsent: Vec::new(),
        }
    }

    pub fn advance(&mut self, domain: &Domain) -> Progress {
        self.try_advance(domain).unwrap_or(Progress::Over)
    }

    fn try_advance(&mut self, domain: &Domain) -> io::Result<Progress> {
        let mut buffer = [0; MAX_CONTENT];
        loop {
            while !self.unsent.is_empty() {
                match blocked(self.socket.write(&self.unsent))? {
                    Some(sent) => drop(self.unsent.drain(..sent)),
                    None => return Ok(Progress::Wants(EventFlags::OUT)),
                }
            }
            let Some(received) = blocked(self.socket.read(&mut buffer))? else {
                return Ok(Progress::Wants(EventFlags::IN));
            };
            let acceptor = self.acceptor.take().filter(|_| received > 0);
            let Some(acceptor) = acceptor else {
                return Ok(Progress::Over);
            };
            match acceptor.step(&buffer[..received]) {
                Ok(Step::Continue { next, output }) => {
                    self.acceptor = Some(next);
                    self.unsent = output;
                }
                Ok(Step::Done { finished, output }) => {
                    // A server's last flight is empty: its tickets are off.
                    self.socket.write_all(&output)?;
                    let context = finished.activate(domain).map_err(io::Error::other)?;
                    return Ok(Progress::Live(Box::new(context)));
                }
                Ok(Step::Password(never)) => match never {},
                Err(failed) => {
                    // The alert, as far as the socket takes it.
                    let _ = self.socket.write(&failed.output);
                    return Ok(Progress::Over);
                }
            }
        }
    }
}

/// A live connection.
pub struct Live {
    pub context: Context<Record>,
    pub socket: TcpStream,
    /// Read and not yet echoed.
    echo: Vec<u8>,
    /// Bytes read in all, in whichever process.
    total: u64,
}

impl Live {
    pub fn new(context: Context<Record>, socket: TcpStream) -> Self {
        Self {
            context,
            socket,
            echo: Vec::new(),
            total: 0,
        }
    }

    /// As it travels.
    pub fn laden(self) -> Laden<Record> {
        let mut luggage = Vec::new();
        if self.total > 0 {
            luggage.extend(self.total.to_be_bytes());
            luggage.extend(&self.echo);
        }
        Laden {
            context: self.context,
            socket: self.socket.into(),
            // Far below what luggage may be.
            luggage: Luggage::new(&luggage).unwrap_or_default(),
        }
    }

    /// As it has travelled.
    pub fn unladen(laden: Laden<Record>) -> Self {
        let mut live = Self::new(laden.context, laden.socket.into());
        if let Some((total, echo)) = laden.luggage.split_first_chunk::<8>() {
            live.total = u64::from_be_bytes(*total);
            live.echo = echo.to_vec();
        }
        live
    }

    /// Whether there is nothing to do before the peer sends something.
    pub fn is_idle(&mut self) -> bool {
        self.echo.is_empty()
            && self.context.buffered() == 0
            && self.context.output().is_ok_and(<[u8]>::is_empty)
    }

    /// Echoes as far as it goes; what to wait for then, or none at its end.
    pub fn advance(&mut self) -> Option<EventFlags> {
        self.try_advance().ok().flatten()
    }

    fn try_advance(&mut self) -> io::Result<Option<EventFlags>> {
        let mut buffer = [0; MAX_CONTENT];
        let (mut reads, mut peer_closed) = (READS, false);
        loop {
            let unsent = self.flush()?;
            if !unsent && !self.echo.is_empty() {
                let next = &self.echo[..self.echo.len().min(MAX_CONTENT)];
                let sealed = self.context.write(next).map_err(failed)?;
                self.echo.drain(..sealed);
                continue;
            }
            if peer_closed && !unsent {
                self.context.close_notify().map_err(failed)?;
                self.flush()?;
                return Ok(None);
            }
            if self.echo.len() >= BACKLOG || peer_closed {
                return Ok(Some(EventFlags::OUT));
            }
            match self.context.read(&mut buffer).map_err(failed)? {
                Read::Data(count) => {
                    self.echo.extend_from_slice(&buffer[..count]);
                    self.total += count as u64;
                }
                Read::Closed => peer_closed = true,
                Read::Ticket(_) => {}
                Read::Incomplete { .. } => {
                    let received = match reads {
                        0 => None,
                        _ => blocked(self.socket.read(&mut buffer))?,
                    };
                    reads = reads.saturating_sub(1);
                    match received {
                        Some(0) => return Ok(None),
                        Some(count) => {
                            let fed = self.context.feed(&buffer[..count]).map_err(failed)?;
                            if fed < count {
                                return Err(io::ErrorKind::InvalidData.into());
                            }
                        }
                        None if unsent => return Ok(Some(EventFlags::IN | EventFlags::OUT)),
                        None => return Ok(Some(EventFlags::IN)),
                    }
                }
            }
        }
    }

    /// Sends what is sealed; whether something is left.
    fn flush(&mut self) -> io::Result<bool> {
        loop {
            let output = self.context.output().map_err(failed)?;
            if output.is_empty() {
                return Ok(false);
            }
            match blocked(self.socket.write(output))? {
                Some(sent) => self.context.sent(sent),
                None => return Ok(true),
            }
        }
    }
}

fn failed(status: Status) -> io::Error {
    io::Error::other(status.to_string())
}

/// None when it would block.
fn blocked(outcome: io::Result<usize>) -> io::Result<Option<usize>> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}
