//! One session's handshake: reading, feeding, and its end.
//!
//! The session's lock is not held while the handshake is fed, in which the application is called
//! back: a callback may call its own session as any other. What came of it meanwhile counts: a
//! handshake that was ended is not gone on with, and a context that came of it ends.

use super::connection::{Connection, Stop};
use super::driver::SCRATCH;
use super::held::Common;
use super::pending;
use super::shake::{Done, Fed, Place, Shake};
use super::{Code, Completion, Error, Operation, SessionState};
use crate::establish::{Hello, Reserved};

/// A handshake that is taken out to be fed.
pub(super) struct Step {
    shake: Shake,
    count: usize,
    /// Instead of what was read, what was heard before.
    heard: Option<Vec<u8>>,
    reserved: Option<Reserved>,
}

/// What came of it.
pub(super) struct Stepped {
    shake: Shake,
    fed: Result<Fed, Error>,
    unsent: Vec<u8>,
    reserved: Option<Reserved>,
    /// The socket had no more.
    dry: bool,
}

impl Step {
    /// Feeds the handshake with what was read.
    //= spec/port.md#callbacks
    pub(super) fn take(self, common: &Common, scratch: &[u8]) -> Stepped {
        let Self {
            mut shake,
            count,
            heard,
            mut reserved,
        } = self;
        let mut unsent = Vec::new();
        let mut place = Place {
            domain: &common.environment.domain,
            reserved: &mut reserved,
        };
        let input = heard.as_deref().unwrap_or(&scratch[..count]);
        let feed = || shake.feed(input, &mut place, &mut unsent);
        let fed = common.environment.port.calling_back(feed);
        Stepped {
            shake,
            fed,
            unsent,
            reserved,
            dry: 0 < count && count < SCRATCH,
        }
    }
}

impl Connection {
    /// What the handshake goes on with, if it is to go on. `dry` when the socket had no more a
    /// moment ago: an edge tells when it has.
    pub(super) fn next_step(
        &mut self,
        common: &Common,
        dry: bool,
        scratch: &mut [u8],
    ) -> Option<Step> {
        if self.state != SessionState::Handshaking {
            return None;
        }
        if self.stepping {
            // Of another thread, which has to look again.
            self.missed = true;
            return None;
        }
        if let Some(heard) = self.heard.take() {
            return Some(self.step(0, Some(heard)));
        }
        match self.read_step(common, dry, scratch) {
            Ok(None) => None,
            Ok(Some(count)) => Some(self.step(count, None)),
            Err(error) => {
                self.fail_handshake(common, error);
                None
            }
        }
    }

    fn step(&mut self, count: usize, heard: Option<Vec<u8>>) -> Step {
        self.stepping = true;
        let shake = core::mem::replace(&mut self.shake, Shake::Over);
        Step {
            shake,
            count,
            heard,
            reserved: self.reserved.take(),
        }
    }

    //= spec/port.md#handshake
    fn read_step(
        &mut self,
        common: &Common,
        dry: bool,
        scratch: &mut [u8],
    ) -> Result<Option<usize>, Error> {
        let begun = core::mem::replace(&mut self.begun, true);
        if !begun && self.shake.speaks_first() {
            return Ok(Some(0));
        }
        match self.flush() {
            Ok(()) => {}
            Err(Stop::Blocked) => return Ok(None),
            Err(Stop::Closed) => return Err(Code::SocketClosed.into()),
        }
        if self.live.is_some() {
            self.state = SessionState::Established;
            self.give_up_place(common);
            self.end_handshake(common, None);
            return Ok(None);
        }
        if dry && !self.ends {
            return Ok(None);
        }
        match self.read(scratch) {
            Ok(0) | Err(Stop::Closed) => Err(Code::SocketClosed.into()),
            Ok(count) => Ok(Some(count)),
            Err(Stop::Blocked) => Ok(None),
        }
    }

    /// Goes on with what came of a step, unless the handshake was ended meanwhile. Whether the
    /// socket has no more.
    pub(super) fn stepped(&mut self, common: &Common, stepped: Stepped) -> bool {
        self.stepping = false;
        let missed = core::mem::take(&mut self.missed);
        if self.state != SessionState::Handshaking {
            return false;
        }
        let dry = stepped.dry && !missed;
        self.unsent.put(stepped.unsent);
        self.reserved = stepped.reserved;
        match stepped.fed {
            Ok(Fed::More) => self.shake = stepped.shake,
            Ok(Fed::Hello(hello)) => {
                self.shake = stepped.shake;
                self.heard(common, hello);
            }
            Ok(Fed::Done(done)) => self.established(*done),
            Err(error) => self.fail_handshake(common, error),
        }
        dry
    }

    /// Waits for the application to go on.
    //= spec/port.md#hello
    fn heard(&mut self, common: &Common, hello: Box<Hello>) {
        self.state = SessionState::Heard;
        self.hello = Some(hello);
        if let Some(pending::Handshake { tag, session, .. }) = &self.handshake {
            common.post(Completion {
                operation: Operation::Hello,
                tag: *tag,
                session: Some(session.clone()),
                value: 0,
                data: Vec::new(),
                error: None,
            });
        }
    }

    fn fail_handshake(&mut self, common: &Common, error: Error) {
        self.shake = Shake::Over;
        self.reserved = None;
        self.state = SessionState::Failed;
        self.end_handshake(common, Some(error));
        self.linger(common);
    }

    fn established(&mut self, done: Done) {
        self.resumed = done.live.facts().resumed;
        self.live = Some(Box::new(done.live));
        self.standing = done.standing;
        self.chain = done.chain;
        self.resumable = done.resumable;
    }

    pub(super) fn end_handshake(&mut self, common: &Common, error: Option<Error>) {
        let Some(pending::Handshake { tag, session, .. }) = self.handshake.take() else {
            return;
        };
        common.post(Completion {
            operation: Operation::Handshake,
            tag,
            session: Some(session),
            value: u64::from(error.is_none() && self.resumed),
            data: Vec::new(),
            error,
        });
    }

    /// Ends a handshake without a word: a peer that is slow is not waited for once more.
    pub(super) fn break_off(&mut self, common: &Common, code: Code) {
        self.shake = Shake::Over;
        self.reserved = None;
        self.live = None;
        self.state = SessionState::Failed;
        self.end_handshake(common, Some(code.into()));
        self.dismiss(common);
    }

    // ------------------------------------------------------------ places

    /// Takes a place among the connections that make room for others, where such are kept.
    //= spec/port.md#room
    pub(super) fn take_place(&mut self, common: &Common) {
        if self.place.is_none() {
            self.place = common.environment.place(&common.core);
        }
    }

    pub(super) fn give_up_place(&mut self, common: &Common) {
        if let Some(place) = self.place.take() {
            common.environment.vacate(place);
        }
    }

    /// Makes room for another session, if it is a handshake still, or a connection that lingers.
    //= spec/port.md#room
    pub(super) fn make_room(&mut self, common: &Common) {
        self.place = None;
        match self.state {
            SessionState::Handshaking | SessionState::Heard => {
                self.break_off(common, Code::MadeRoom);
            }
            SessionState::Failed | SessionState::Closed => self.dismiss(common),
            SessionState::Open | SessionState::Established => return,
        }
        // What is left of it is a completion, and who holds the session.
        if core::mem::replace(&mut self.counted, false) {
            common.environment.leave();
        }
    }
}
