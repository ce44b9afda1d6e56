//! The loop of a session: connection, context and job, moved on without any of them waiting for
//! another.
//!
//! Invariant: every buffer on the way is bounded, and each stage takes from the one before it
//! only what it can hold. So a peer that does not read stops, in turn, the sealing, the job and
//! the reading, and nothing grows.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::status::Status;

use super::about::About;
use super::channel::{Channel, MOST_FED, Opened};
use super::flow::Flow;
use super::job::Job;
use super::page::Wish;
use super::report::Reason;

/// Bytes sealed at once: a full record.
const PIECE: usize = 16 * 1024;
/// Nothing more is sealed while this much is unsent.
const UNSENT: usize = 128 * 1024;
/// Bytes that are read from the connection at first; more once there are more.
const FIRST_FED: usize = 2 * 1024;
/// A connection with hops due is moved when it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(20);
/// How long a session that is over tries to have its last bytes taken.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// How long the peer may then go on sending before it is cut off.
const LINGER: Duration = Duration::from_secs(2);

/// When the connection moves on to the next process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hops {
    /// Hops left.
    pub left: u32,
    /// Bytes of the connection between two hops; in a quiet moment it moves sooner.
    pub every: u64,
    /// Bytes of the connection since the last hop.
    since: u64,
}

impl Hops {
    /// `left` hops, `every` so many bytes.
    pub fn new(left: u32, every: u64) -> Self {
        Self {
            left,
            every,
            since: 0,
        }
    }

    /// One hop has been tried.
    pub fn tried(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.since = 0;
    }

    fn due(&self) -> bool {
        self.left > 0 && self.since >= self.every
    }
}

/// How long a session lasts at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// Without a byte of the connection, either way.
    pub idle: Option<Duration>,
    /// In all.
    pub total: Option<Duration>,
}

/// Everything of a session but its context: what does not need to be sealed to move.
pub struct Stage {
    /// The connection; it does not block.
    pub socket: TcpStream,
    /// The plaintext.
    pub flow: Flow,
    /// What runs on it.
    pub job: Job,
    /// What it knows of itself.
    pub about: About,
    /// The hops to come.
    pub hops: Hops,
    /// Plaintext bytes from the peer.
    pub received: u64,
    /// Plaintext bytes to the peer.
    pub sent: u64,
    /// Sealed bytes that the connection has not taken yet.
    unsent: Unsent,
    /// Where bytes of the connection come to.
    input: Vec<u8>,
    patience: Patience,
    /// When the session began. All processes of a machine read the same clock, which nobody sets.
    began: Instant,
    /// When the connection last had or took a byte.
    active: Instant,
    /// The context wants more bytes before it can say anything.
    hungry: bool,
    /// The peer has been told that nothing follows.
    finished: bool,
}

/// Bytes for the connection, and how many of them it has taken.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    taken: usize,
}

/// Why the loop came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The connection is to be moved now.
    Hop,
    /// The session is over.
    Over(Reason),
}

enum Waited {
    Ready(PollFlags),
    Quiet,
}

impl From<Status> for Reason {
    fn from(status: Status) -> Self {
        Self::Refused(status.minor().code())
    }
}

fn cut_or(error: &io::Error) -> Reason {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | TimedOut => Reason::Cut,
        _ => Reason::System(error.raw_os_error().unwrap_or(0)),
    }
}

impl Stage {
    /// A session's beginning. `unsent` is what the handshake has not sent yet.
    pub fn new(socket: TcpStream, job: Job, about: About, hops: Hops, unsent: Vec<u8>) -> Self {
        Self {
            socket,
            flow: Flow {
                hops_left: hops.left,
                ..Flow::default()
            },
            job,
            about,
            hops,
            received: 0,
            sent: 0,
            unsent: Unsent {
                bytes: unsent,
                taken: 0,
            },
            input: Vec::new(),
            patience: Patience::default(),
            began: Instant::now(),
            active: Instant::now(),
            hungry: false,
            finished: false,
        }
    }

    /// The session lasts no longer than that; without this, for ever.
    //= spec/sessions.md#time
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Runs until the session is over or is to be moved. Of a server's session, `server` is a socket
    /// whose other end the server has: when that is gone, the session ends.
    pub fn run<C: Channel>(&mut self, channel: &mut C, server: Option<BorrowedFd<'_>>) -> Turn {
        loop {
            let turn = match self.step(channel, server) {
                Ok(turn) => turn,
                Err(reason) => {
                    // The alert that tells the peer why.
                    channel.answer(&mut self.unsent.bytes);
                    Some(Turn::Over(reason))
                }
            };
            if let Some(turn) = turn {
                return turn;
            }
        }
    }

    /// Moves all that can be moved; waits only when that was nothing.
    fn step<C: Channel>(
        &mut self,
        channel: &mut C,
        server: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Turn>, Reason> {
        let before = self.progress();
        // A peer that is never silent does not come to the wait below.
        if due(self.patience.total, self.began) {
            return Err(Reason::TimeUp);
        }
        self.open(channel)?;
        if self.flow.peer_ended && self.hops.left > 0 {
            // The last opportunity: the job's end may be near.
            return Ok(Some(Turn::Hop));
        }
        self.flow.hops_left = self.hops.left;
        let wish = self.job.work(&mut self.flow, &self.about);
        self.seal(channel)?;
        self.send()?;
        match wish {
            Wish::Hops if self.hops.left > 0 => return Ok(Some(Turn::Hop)),
            Wish::End if self.finished && self.unsent.is_empty() => {
                return Ok(Some(Turn::Over(Reason::Finished)));
            }
            _ if self.progress() != before => return Ok(None),
            _ => {}
        }
        match self.wait(server)? {
            Waited::Quiet => return Ok(Some(Turn::Hop)),
            Waited::Ready(events) => self.take(channel, events)?,
        }
        // Right behind the read: a record is most often half read then, others not read at all.
        Ok(self.hops.due().then_some(Turn::Hop))
    }

    /// What grows whenever anything moves.
    fn progress(&self) -> (u64, u64, usize, usize, usize, bool, bool) {
        let Flow {
            inbox,
            outbox,
            peer_ended,
            job_ended,
            ..
        } = &self.flow;
        (
            self.received,
            self.sent,
            self.unsent.len(),
            inbox.len(),
            outbox.len(),
            *peer_ended,
            *job_ended,
        )
    }

    fn open<C: Channel>(&mut self, channel: &mut C) -> Result<(), Reason> {
        while !self.flow.peer_ended && self.flow.inbox.room() > 0 {
            self.hungry = false;
            match channel.read(self.flow.inbox.spare())? {
                Opened::Data(count) => {
                    self.flow.inbox.filled(count);
                    self.received += count as u64;
                }
                Opened::More => {
                    self.hungry = true;
                    break;
                }
                Opened::Ended => self.flow.peer_ended = true,
            }
        }
        Ok(())
    }

    fn seal<C: Channel>(&mut self, channel: &mut C) -> Result<(), Reason> {
        // Also answers wait for a peer that does not read.
        if self.unsent.len() < UNSENT {
            channel.answer(&mut self.unsent.bytes);
        }
        while !self.flow.outbox.is_empty() && self.unsent.len() < UNSENT {
            let waiting = self.flow.outbox.as_slice();
            let piece = &waiting[..waiting.len().min(PIECE)];
            channel.write(piece, &mut self.unsent.bytes)?;
            let count = piece.len();
            self.flow.outbox.consume(count);
            self.sent += count as u64;
        }
        if self.flow.job_ended && self.flow.outbox.is_empty() && !self.finished {
            channel.finish(&mut self.unsent.bytes)?;
            self.finished = true;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Reason> {
        while !self.unsent.is_empty() {
            match (&self.socket).write(self.unsent.waiting()) {
                Ok(count) => {
                    self.unsent.took(count);
                    self.active = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cut_or(&error)),
            }
        }
        Ok(())
    }

    fn wait(&self, server: Option<BorrowedFd<'_>>) -> Result<Waited, Reason> {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.hungry && !self.flow.peer_ended);
        wanted.set(PollFlags::OUT, !self.unsent.is_empty());
        let mut fds = vec![PollFd::from_borrowed_fd(self.socket.as_fd(), wanted)];
        // Nothing is wanted of it; that its other end is gone is told all the same.
        fds.extend(server.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty())));
        let own = self.job.interest(&self.flow);
        fds.extend(
            own.iter()
                .flatten()
                .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)),
        );
        let hop_due = self.hops.left > 0 && self.hops.since > 0;
        let limits = [
            hop_due.then_some(QUIET),
            left(self.patience.idle, self.active),
            left(self.patience.total, self.began),
        ];
        let limit = limits.into_iter().flatten().min();
        match rustix::io::retry_on_intr(|| poll(&mut fds, limit.map(timespec).as_ref())) {
            Ok(0) if due(self.patience.total, self.began) => Err(Reason::TimeUp),
            Ok(0) if due(self.patience.idle, self.active) => Err(Reason::Idle),
            Ok(0) if hop_due => Ok(Waited::Quiet),
            // The clock of the wait is not quite this one: once more.
            Ok(0) => Ok(Waited::Ready(PollFlags::empty())),
            //= spec/processes.md#end
            Ok(_) if server.is_some() && !fds[1].revents().is_empty() => Err(Reason::ServerGone),
            Ok(_) => Ok(Waited::Ready(fds[0].revents())),
            Err(error) => Err(Reason::System(error.raw_os_error())),
        }
    }

    /// Takes what the connection has, if it has something and the context wants it.
    fn take<C: Channel>(&mut self, channel: &mut C, events: PollFlags) -> Result<(), Reason> {
        let broken = events.intersects(PollFlags::ERR | PollFlags::HUP);
        if self.flow.peer_ended || !self.hungry {
            return if broken { Err(Reason::Cut) } else { Ok(()) };
        }
        if !broken && !events.intersects(PollFlags::IN) {
            return Ok(());
        }
        if self.input.is_empty() {
            self.input.resize(FIRST_FED, 0);
        }
        match (&self.socket).read(&mut self.input) {
            //= spec/sessions.md#cut
            Ok(0) => Err(Reason::Cut),
            Ok(count) => {
                self.hops.since += count as u64;
                self.active = Instant::now();
                self.hungry = false;
                channel.feed(&self.input[..count])?;
                if count == self.input.len() {
                    self.input.resize((4 * count).min(MOST_FED), 0);
                }
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
                _ => Err(cut_or(&error)),
            },
        }
    }

    /// Ends the context, and then the connection: the last bytes are given time to be taken, and
    /// what the peer still sends is dropped for a while, for a connection closed on unread bytes
    /// would be reset and take the last bytes with it.
    ///
    /// `ended` is called between the two.
    pub fn close<C: Channel>(mut self, channel: C, ended: impl FnOnce()) {
        channel.close(&mut self.unsent.bytes);
        ended();
        drop((self.flow, self.job));
        let until = Instant::now() + LAST_BYTES;
        while !self.unsent.is_empty() {
            match (&self.socket).write(self.unsent.waiting()) {
                Ok(count) => self.unsent.took(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !ready(&self.socket, PollFlags::OUT, until) {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let until = Instant::now() + LINGER;
        let mut dropped = [0; 4096];
        while ready(&self.socket, PollFlags::IN, until) {
            match (&self.socket).read(&mut dropped) {
                Ok(0) => return,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
                _ => {}
            }
        }
    }
}

impl Unsent {
    fn waiting(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn took(&mut self, count: usize) {
        self.taken += count;
        // Moving the rest up costs no more than has been sent since the last time.
        if self.taken * 2 >= self.bytes.len() {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }
}

/// What is left of a time since `start`, rounded up: the wait must not end too early.
fn left(limit: Option<Duration>, start: Instant) -> Option<Duration> {
    let left = limit?.saturating_sub(start.elapsed());
    Some(left + Duration::from_millis(1))
}

fn due(limit: Option<Duration>, start: Instant) -> bool {
    limit.is_some_and(|limit| start.elapsed() >= limit)
}

/// Waits until `socket` is ready for `wanted`, at most until `until`.
fn ready(socket: &TcpStream, wanted: PollFlags, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let mut fds = [PollFd::new(socket, wanted)];
    !left.is_zero()
        && rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timespec(left)))).is_ok_and(|n| n > 0)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
