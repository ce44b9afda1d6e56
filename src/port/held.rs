//! A session as its driver and its environment hold it: its connection under its lock, and what is
//! done on it by others than the caller.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::connection::Connection;
use super::driver::SCRATCH;
use super::{Code, Completion, Operation, SessionState, environment};

/// A session as its driver holds it.
pub(super) struct Core {
    pub(super) common: Common,
    pub(super) connection: Mutex<Connection>,
    /// The thread that looks at the facts ([`me`]), or 0.
    pub(super) looking: AtomicUsize,
}

/// What of a session does not change.
pub(super) struct Common {
    pub(super) environment: Arc<environment::Common>,
    pub(super) core: Weak<Core>,
    pub(super) id: u64,
}

impl Common {
    pub(super) fn post(&self, completion: Completion) {
        self.environment.port.post(completion);
    }
}

impl Connection {
    /// Operations of a kind that are pending.
    pub(super) fn pending(&self, operation: Operation) -> usize {
        match operation {
            Operation::Handshake => usize::from(self.handshake.is_some()),
            Operation::Receive => usize::from(self.receive.is_some()),
            Operation::Send => self.sends.len(),
            Operation::Hello | Operation::Ready | Operation::Event | Operation::Ended => 0,
        }
    }
}

impl Core {
    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what can be done now, for the driver. Whether there is more for another turn.
    pub(super) fn advance(&self, ends: bool, scratch: &mut [u8]) -> bool {
        let mut connection = self.connection();
        connection.ends |= ends;
        self.go_on(connection, scratch).1
    }

    /// Does what can be done now, for the caller, who has the lock.
    pub(super) fn advance_here(&self, connection: MutexGuard<'_, Connection>) {
        let mut scratch = [0; SCRATCH];
        if let (connection, true) = self.go_on(connection, &mut scratch)
            && let Some(link) = &connection.link
        {
            link.driver.go_on(link.key);
        }
    }

    /// Does what can be done now. The lock comes back, and whether there is more for another turn.
    pub(super) fn go_on<'a>(
        &'a self,
        mut connection: MutexGuard<'a, Connection>,
        scratch: &mut [u8],
    ) -> (MutexGuard<'a, Connection>, bool) {
        let mut dry = false;
        while let Some(step) = connection.next_step(&self.common, dry, scratch) {
            drop(connection);
            let stepped = step.take(&self.common, scratch);
            connection = self.connection();
            dry = connection.stepped(&self.common, stepped);
        }
        let again = connection.advance(&self.common, scratch);
        (connection, again)
    }

    /// Makes room for another session.
    pub(super) fn make_room(&self) {
        self.connection().make_room(&self.common);
    }

    pub(super) fn expire(&self, now: Instant) {
        self.connection().expire(&self.common, now);
    }

    pub(super) fn close(&self) {
        let mut connection = self.connection();
        if connection.state != SessionState::Closed {
            connection.close(&self.common, None);
        }
    }

    /// The port is destroyed: what is pending is over, and there is no driver any more.
    //= spec/port.md#destroy
    pub(super) fn orphan(&self) {
        let mut connection = self.connection();
        if matches!(
            connection.state,
            SessionState::Handshaking | SessionState::Heard
        ) {
            connection.break_off(&self.common, Code::PortDestroyed);
        }
        connection.abandon(&self.common, &Code::PortDestroyed.into());
        if matches!(
            connection.state,
            SessionState::Failed | SessionState::Closed
        ) {
            connection.dismiss(&self.common);
        }
        connection.leave(&self.common);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // One that lingered when its port was destroyed.
        if self.common.environment.port.here().is_ok() && self.connection().counted {
            self.common.environment.leave();
        }
    }
}
