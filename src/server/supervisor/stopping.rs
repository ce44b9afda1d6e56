//! How the server stops: first nobody connects any more, then sessions are told to end, then they are
//! killed.

use std::time::{Duration, Instant};

use rustix::net::Shutdown;
use rustix::process::Signal;

use crate::session::log;

use super::super::telling::ToHandshaker;
use super::Supervisor;

/// How long sessions may go on after the first signal to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long they then have to obey.
const KILL_LIMIT: Duration = Duration::from_secs(1);
/// How often they are killed before they are left behind.
const KILLS: u32 = 5;

#[derive(Clone, Copy)]
pub(super) enum Stopping {
    No,
    /// Sessions may end by themselves until then.
    Waiting(Instant),
    /// They were told to end, and are killed then; so often more, before they are left behind.
    Told(Instant, u32),
}

impl Supervisor {
    //= spec/processes.md#stop
    pub(super) fn stop(&mut self) {
        let sessions = self.sessions.len();
        match self.stopping {
            Stopping::No => {
                self.stopping = Stopping::Waiting(Instant::now() + STOP_LIMIT);
                // Nobody listens any more, whichever process has the listener.
                if !self.operators.service.has_listener() {
                    let _ = rustix::net::shutdown(&self.listener, Shutdown::Read);
                }
                self.handshaker.send(&ToHandshaker::Stop, Vec::new());
                self.unstarted.clear();
                let candidate = self.candidate.take().map(|(one, _)| one);
                let retiring = self.retiring.drain(..).map(|(one, _)| one);
                for mut one in candidate.into_iter().chain(retiring) {
                    one.retire(&self.poller);
                }
                self.fork_due = false;
                log::line(format_args!(
                    "stopping: no new connections; {sessions} sessions have {} seconds",
                    STOP_LIMIT.as_secs()
                ));
            }
            Stopping::Waiting(_) => {
                self.stopping = Stopping::Told(Instant::now() + KILL_LIMIT, KILLS);
                log::line(format_args!("stopping: ending {sessions} sessions"));
                self.sessions.kill(Signal::TERM);
            }
            Stopping::Told(..) => {}
        }
    }

    /// Ends what has not ended by itself in time.
    pub(super) fn press_on(&mut self) {
        match self.stopping {
            Stopping::Waiting(until) if until <= Instant::now() => self.stop(),
            Stopping::Told(until, 0) if until <= Instant::now() => {
                let left = self.sessions.abandon(&mut self.keeper);
                log::line(format_args!("stopping: {left} sessions do not end"));
            }
            Stopping::Told(until, left) if until <= Instant::now() => {
                self.stopping = Stopping::Told(Instant::now() + KILL_LIMIT, left - 1);
                self.sessions.kill(Signal::KILL);
                self.kill_leftovers();
            }
            _ => {}
        }
    }
}
