//! One session's connection: its handshake, its pending operations, its bytes on the way.
//!
//! Everything here (but the feeding of a handshake) runs under the session's lock, on whichever thread has something to do. What can
//! be done is done until the socket has nothing, or takes nothing; then the next edge is waited
//! for.
//!
//! Invariants: an operation that is pending ends in exactly one completion; at most [`UNSENT`]
//! sealed bytes and a record wait for the socket; what is opened is at most what the channel
//! holds and the caller's buffer.

use core::time::Duration;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use super::attribute::Settings;
use super::held::Common;
use super::pending::{Handshake, Link, Receive, Send, Unsent};
use super::shake::Shake;
use super::{Amount, Code, Completion, Error, Live, Operation, SessionState};
use crate::channel::Opened;
use crate::establish::{Hello, Reserved, Resumable, Standing, refusal};
use crate::record::Alert;
use crate::status::Status;

/// Sealed bytes that may wait for the socket before more is sealed.
const UNSENT: usize = 64 * 1024;
/// Bytes that are sealed at once.
const PIECE: usize = 16 * 1024;
/// Bytes that are received in a turn, before others have theirs.
const TURN: usize = 256 * 1024;
/// How long a closed connection may take for its last bytes.
const LINGER: Duration = Duration::from_secs(2);

/// One session's connection.
pub(super) struct Connection {
    pub(super) state: SessionState,
    pub(super) settings: Arc<Settings>,
    /// Counted among its environment's sessions.
    pub(super) counted: bool,
    pub(super) link: Option<Link>,
    pub(super) shake: Shake,
    /// What the initiator has said first.
    pub(super) hello: Option<Box<Hello>>,
    /// The context that it will be.
    pub(super) reserved: Option<Reserved>,
    /// What the handshake is fed with when it goes on.
    pub(super) heard: Option<Vec<u8>>,
    pub(super) live: Option<Box<Live>>,
    pub(super) unsent: Unsent,
    pub(super) handshake: Option<Handshake>,
    pub(super) receive: Option<Receive>,
    pub(super) sends: VecDeque<Send>,
    pub(super) standing: Standing,
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) resumable: Option<Resumable>,
    pub(super) resumed: bool,
    /// The handshake has said what it says first.
    pub(super) begun: bool,
    /// The handshake is taken out, to be fed.
    pub(super) stepping: bool,
    /// Something came while it was.
    pub(super) missed: bool,
    /// Among the connections that make room for others.
    pub(super) place: Option<u64>,
    /// When a connection that lingers is closed in any case.
    linger: Option<Instant>,
    /// The peer has closed the connection's other direction, or all of it.
    pub(super) ends: bool,
}

/// Why the socket did not do it.
pub(super) enum Stop {
    /// It will, later.
    Blocked,
    /// It never will.
    Closed,
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Self {
        match error {
            Errno::AGAIN => Self::Blocked,
            _ => Self::Closed,
        }
    }
}

impl Connection {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self {
            state: SessionState::Open,
            settings,
            counted: true,
            link: None,
            shake: Shake::Over,
            hello: None,
            heard: None,
            reserved: None,
            live: None,
            unsent: Unsent::default(),
            handshake: None,
            receive: None,
            sends: VecDeque::new(),
            standing: Standing::Checked,
            chain: Vec::new(),
            resumable: None,
            resumed: false,
            begun: false,
            stepping: false,
            missed: false,
            place: None,
            linger: None,
            ends: false,
        }
    }

    /// Does what can be done, once the handshake is as far as it can be. Whether there is more for
    /// another turn.
    pub(super) fn advance(&mut self, common: &Common, scratch: &mut [u8]) -> bool {
        let again = match self.state {
            SessionState::Established => self.transfer(common, scratch),
            _ => false,
        };
        let again = match self.linger {
            Some(_) => self.drain(common, scratch),
            None => again,
        };
        self.arm();
        self.leave(common);
        again
    }

    /// Reads the socket once; 0 bytes are its end.
    pub(super) fn read(&self, scratch: &mut [u8]) -> Result<usize, Stop> {
        let link = self.link.as_ref().ok_or(Stop::Closed)?;
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::read(&link.socket, &mut *scratch)
        })?)
    }

    /// Sends what is unsent.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        let link = self.link.as_mut().ok_or(Stop::Closed)?;
        while !self.unsent.waiting().is_empty() {
            let waiting = self.unsent.waiting();
            let sent = rustix::io::retry_on_intr(|| {
                rustix::net::send(&link.socket, waiting, SendFlags::NOSIGNAL)
            });
            if sent == Err(Errno::AGAIN) && !link.room {
                link.room = true;
                link.driver.tell_room(link.key, link.socket.as_fd());
            }
            self.unsent.took(sent?);
        }
        Ok(())
    }

    // ------------------------------------------------------------ data

    /// Sends and receives. Whether there is more to receive.
    fn transfer(&mut self, common: &Common, scratch: &mut [u8]) -> bool {
        self.send(common);
        let again = match self.receive(common, scratch) {
            Ok(again) => again,
            Err(status) => {
                self.fail(common, status);
                return false;
            }
        };
        // What was received may have to be answered.
        self.answer();
        if self.flush().is_ok() && self.receive.is_none() && self.sends.is_empty() {
            self.rest();
        }
        again
    }

    /// Queues what the channel itself has to say, unless much waits already.
    fn answer(&mut self) {
        if let Some(live) = &mut self.live
            && self.unsent.waiting().len() < UNSENT
        {
            live.answer(&mut self.unsent.bytes);
        }
    }

    //= spec/port.md#send
    fn send(&mut self, common: &Common) {
        loop {
            self.answer();
            if let Err(status) = self.seal() {
                return self.fail(common, status);
            }
            let flushed = match self.unsent.waiting().is_empty() {
                true => return self.end_sends(common),
                false => self.flush(),
            };
            self.end_sends(common);
            match flushed {
                Ok(()) => {}
                Err(Stop::Blocked) => return,
                Err(Stop::Closed) => {
                    // What was cut off must not be followed by anything.
                    self.unsent.take();
                    if let Some(link) = &self.link {
                        let _ = rustix::net::shutdown(&link.socket, Shutdown::Write);
                    }
                    return self.abandon_sends(common, &Code::SocketClosed.into());
                }
            }
        }
    }

    /// Seals as much as may wait for the socket.
    fn seal(&mut self) -> Result<(), Status> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        for send in &mut self.sends {
            while send.sealed < send.data.len() {
                if self.unsent.waiting().len() >= UNSENT {
                    return Ok(());
                }
                let rest = &send.data[send.sealed..];
                let piece = &rest[..rest.len().min(PIECE)];
                live.write(piece, &mut self.unsent.bytes)?;
                send.sealed += piece.len();
            }
            if send.end.is_none() {
                send.end = Some(self.unsent.end());
            }
        }
        Ok(())
    }

    /// Completes the sends of which the socket has taken everything.
    fn end_sends(&mut self, common: &Common) {
        let taken = self.unsent.taken;
        let over = |send: &Send| send.end.is_some_and(|end| end <= taken);
        while self.sends.front().is_some_and(over) {
            if let Some(send) = self.sends.pop_front() {
                send.complete(common, None);
            }
        }
    }

    pub(super) fn abandon_sends(&mut self, common: &Common, error: &Error) {
        for send in core::mem::take(&mut self.sends) {
            send.complete(common, Some(error.clone()));
        }
    }

    //= spec/port.md#receive
    fn receive(&mut self, common: &Common, scratch: &mut [u8]) -> Result<bool, Status> {
        let mut turn = 0;
        while let (Some(receive), Some(live)) = (&mut self.receive, &mut self.live) {
            match live.read(&mut receive.buffer[receive.filled..])? {
                Opened::Data(count) => {
                    receive.filled += count;
                    let full = receive.filled == receive.buffer.len();
                    if full || receive.amount == Amount::Some {
                        self.end_receive(common, None);
                    }
                    continue;
                }
                Opened::Ended => {
                    self.end_receive(common, None);
                    continue;
                }
                Opened::More if turn >= TURN => return Ok(true),
                Opened::More => {}
            }
            match self.read(scratch) {
                Err(Stop::Blocked) => return Ok(false),
                Ok(0) | Err(Stop::Closed) => {
                    self.end_receive(common, Some(Code::SocketClosed.into()));
                }
                Ok(count) => {
                    turn += count;
                    if let Some(live) = &mut self.live {
                        live.feed(&scratch[..count])?;
                    }
                }
            }
        }
        Ok(false)
    }

    pub(super) fn end_receive(&mut self, common: &Common, error: Option<Error>) {
        let Some(receive) = self.receive.take() else {
            return;
        };
        let mut data = receive.buffer;
        data.truncate(receive.filled);
        common.post(Completion {
            operation: Operation::Receive,
            tag: receive.tag,
            session: Some(receive.session),
            value: receive.filled as u64,
            data,
            error,
        });
    }

    /// Gives back what an idle session does not need.
    fn rest(&mut self) {
        if let Some(live) = &mut self.live {
            live.rest();
        }
    }

    /// Ends the session after an error of its context, which has an alert to send.
    fn fail(&mut self, common: &Common, status: Status) {
        self.state = SessionState::Failed;
        let error = Error::told(Code::SessionFailed, Some(status), "");
        self.abandon(common, &error);
        if let Some(mut live) = self.live.take() {
            live.answer(&mut self.unsent.bytes);
        }
        self.linger(common);
    }

    // ------------------------------------------------------------ ends

    /// Ends every pending operation with an error.
    pub(super) fn abandon(&mut self, common: &Common, error: &Error) {
        self.end_handshake(common, Some(error.clone()));
        self.end_receive(common, Some(error.clone()));
        self.abandon_sends(common, error);
    }

    /// Closes the session: its pending operations are over, and the peer is told, if it listens.
    /// With an alert it is told that it is not let in.
    //= spec/port.md#close
    //= spec/port.md#abort
    pub(super) fn close(&mut self, common: &Common, alert: Option<Alert>) {
        let before = core::mem::replace(&mut self.state, SessionState::Closed);
        match before {
            SessionState::Established => {
                self.abandon(common, &Code::SessionClosed.into());
                if let Some(live) = self.live.take() {
                    match alert {
                        None => live.close(&mut self.unsent.bytes),
                        Some(alert) => live.abort(alert, &mut self.unsent.bytes),
                    }
                }
                self.linger(common);
            }
            SessionState::Handshaking | SessionState::Heard => {
                let shake = core::mem::replace(&mut self.shake, Shake::Over);
                self.reserved = None;
                self.live = None;
                self.abandon(common, &Code::SessionClosed.into());
                match (shake, alert) {
                    (Shake::Heard(framing, _), Some(alert)) => {
                        self.unsent.put(refusal(framing, alert));
                        self.linger(common);
                    }
                    _ => self.dismiss(common),
                }
            }
            _ => {}
        }
        self.leave(common);
    }

    /// Counts the session out, once it is closed and its connection too: what lingers counts, so
    /// that connections are bounded as sessions are.
    //= spec/port.md#session-states
    pub(super) fn leave(&mut self, common: &Common) {
        if self.state == SessionState::Closed && self.link.is_none() && self.counted {
            self.counted = false;
            common.environment.leave();
        }
    }

    /// Lets the last bytes leave, and then drops what the peer still sends until it closes: a
    /// connection closed on unread bytes would be reset, and take the last bytes with it.
    pub(super) fn linger(&mut self, common: &Common) {
        self.take_place(common);
        self.linger = Some(Instant::now() + LINGER);
        let mut scratch = [0; 4096];
        if self.drain(common, &mut scratch)
            && let Some(link) = &self.link
        {
            link.driver.go_on(link.key);
        }
        self.arm();
    }

    /// One turn of lingering. Whether there is more for another.
    fn drain(&mut self, common: &Common, scratch: &mut [u8]) -> bool {
        match self.flush() {
            Err(Stop::Blocked) => return false,
            Err(Stop::Closed) => {
                self.dismiss(common);
                return false;
            }
            Ok(()) => {}
        }
        let Some(link) = &self.link else {
            return false;
        };
        if rustix::net::shutdown(&link.socket, Shutdown::Write).is_err() {
            self.dismiss(common);
            return false;
        }
        let mut turn = 0;
        while turn < TURN {
            match self.read(scratch) {
                Err(Stop::Blocked) => return false,
                Ok(0) | Err(Stop::Closed) => {
                    self.dismiss(common);
                    return false;
                }
                Ok(count) => turn += count,
            }
        }
        true
    }

    /// Closes the connection.
    pub(super) fn dismiss(&mut self, common: &Common) {
        self.give_up_place(common);
        self.linger = None;
        self.unsent.take();
        if let Some(link) = self.link.take() {
            // A forked process may hold a copy of the descriptor: the connection ends all the same.
            let socket = link.unlink();
            let _ = rustix::net::shutdown(&socket, Shutdown::Both);
        }
    }

    /// What is due at `now`.
    //= spec/port.md#timeouts
    pub(super) fn expire(&mut self, common: &Common, now: Instant) {
        if let Some(link) = &mut self.link {
            link.timer = None;
        }
        let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if over(self.handshake.as_ref().map(|handshake| handshake.deadline)) {
            self.break_off(common, Code::HandshakeTimeout);
        }
        if over(self.receive.as_ref().and_then(|receive| receive.deadline)) {
            self.end_receive(common, Some(Code::ReadTimeout.into()));
        }
        if over(self.sends.front().and_then(|send| send.deadline)) {
            // What is behind it cannot be sent without it.
            self.abandon_sends(common, &Code::SendTimeout.into());
        }
        if over(self.linger) {
            self.dismiss(common);
        }
        self.arm();
        self.leave(common);
    }

    /// Sees to it that the driver looks when something is due: at most one timer a session.
    pub(super) fn arm(&mut self) {
        let handshake = self.handshake.as_ref().map(|pending| pending.deadline);
        let receive = self.receive.as_ref().and_then(|pending| pending.deadline);
        let send = self.sends.front().and_then(|pending| pending.deadline);
        let due = handshake
            .into_iter()
            .chain(receive)
            .chain(send)
            .chain(self.linger)
            .min();
        let (Some(due), Some(link)) = (due, &mut self.link) else {
            return;
        };
        // One that is too early looks, and is set anew.
        if link.timer.is_some_and(|(when, _)| when <= due) {
            return;
        }
        let later = core::mem::replace(&mut link.timer, link.driver.look_at(link.key, due));
        if let Some(later) = later {
            link.driver.forget(later);
        }
    }
}
