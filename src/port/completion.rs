//! What is posted to a port.

use core::fmt;

use super::{Error, Session};

/// What was started, or happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// [`Session::start_handshake`].
    Handshake,
    /// [`Session::start_receive`].
    Receive,
    /// [`Session::start_send`].
    Send,
    /// [`Watch::start`](super::Watch::start).
    Ready,
    /// [`Port::post`](super::Port::post) and [`Port::post_after`](super::Port::post_after).
    Event,
    /// [`Environment::close`](super::Environment::close), once the last session has ended.
    Ended,
    /// The initiator's hello was heard in a handshake that was started, whose own completion is
    /// still to come: it waits for [`Session::go_on`].
    Hello,
}

/// The end of one operation; each that was started comes exactly once.
//= spec/port.md#completion
pub struct Completion {
    /// What has ended.
    pub operation: Operation,
    /// The caller's, as it was given at the start.
    pub tag: u64,
    /// The session; none of a watch, an event and an environment's end.
    pub session: Option<Session>,
    /// Of a handshake, 1 when it resumed an earlier session, else 0. Of a receive, the bytes
    /// received; 0 without an error is the end: the peer has said that nothing follows. Of a send,
    /// the bytes of it that were sealed, which the connection has all taken when there is no
    /// error. Of a watch, what the descriptor is ready for
    /// ([`Readiness::number`](super::Readiness::number)). Of an event, the caller's. Of an environment, the sessions it has had.
    pub value: u64,
    /// Of a receive, what was received, also when it came with an error. Of a send, the buffer,
    /// given back. Else empty.
    pub data: Vec<u8>,
    /// Why the operation did not succeed.
    pub error: Option<Error>,
}

impl Completion {
    /// The value, or why there is none.
    ///
    /// # Errors
    /// The completion's.
    pub fn result(&self) -> Result<u64, &Error> {
        match &self.error {
            None => Ok(self.value),
            Some(error) => Err(error),
        }
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Data are the session's plaintext.
        f.debug_struct("Completion")
            .field("operation", &self.operation)
            .field("tag", &self.tag)
            .field("value", &self.value)
            .field("data", &format_args!("{} bytes", self.data.len()))
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}
