//! What operators ask of the supervisor (`spec/control.md`).

use std::time::Instant;

use crate::exit::SessionIdentifier;
use crate::server::Error;
use crate::server::control::Control;
use crate::server::control::answer::{Answer, Code, Contexts, Process, Request, Server};
use crate::server::control::place::Place;
use crate::server::service::{Phase, Service};
use crate::server::tally::Tally;
use crate::session::log;
use crate::sys::{clock, process};

use super::{Stopping, Supervisor};

/// The supervisor's side of the control socket.
pub(super) struct Operators {
    pub(super) control: Control,
    /// What was counted; of sessions, these count themselves.
    pub(super) tally: Tally,
    /// Who started the server, where that is a service manager.
    pub(super) service: Service,
    place: Option<Place>,
    began: Instant,
    since: u64,
}

impl Operators {
    /// Nobody can ask yet.
    pub(super) fn new(place: Option<Place>, passed: bool) -> Self {
        Self {
            control: Control::default(),
            tally: Tally::default(),
            service: Service::from_environment(passed),
            place,
            began: Instant::now(),
            since: clock::unix_seconds(),
        }
    }

    /// When something is due although nothing happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let control = self.control.next_due().into_iter();
        control.chain(self.service.next_due()).min()
    }
}

impl Supervisor {
    /// From here on operators can ask.
    //= spec/control.md#place
    pub(super) fn open_control(&mut self) -> Result<(), Error> {
        let Some(place) = &self.operators.place else {
            return Ok(());
        };
        match Control::open(&place.path, &mut self.keys, &self.poller) {
            Ok(control) => self.operators.control = control,
            Err(absent) if place.asked_for && !absent.is_bearable() => {
                return Err(Error::Control(absent));
            }
            Err(absent) => log::line(format_args!("{absent}")),
        }
        Ok(())
    }

    /// Tells the service manager what has changed.
    pub(super) fn tell_service(&mut self) {
        let phase = match (&self.stopping, &self.candidate) {
            (Stopping::No, None) => Phase::Ready,
            (Stopping::No, Some(_)) => Phase::Reloading,
            _ => Phase::Stopping,
        };
        let sessions = self.sessions.len();
        self.operators.service.tell(phase, sessions, &self.listener);
    }

    /// Does what is asked under `key`; answers whether a session may be over.
    pub(super) fn hear_operators(&mut self, key: u64) -> bool {
        let control = &mut self.operators.control;
        let Some(asked) = control.hear(key, &mut self.keys, &self.poller) else {
            return false;
        };
        let mut settle = false;
        let answer = match asked.request {
            Request::Status {} => Answer::Status {
                server: Box::new(self.describe()),
            },
            Request::Sessions {} => Answer::Sessions {
                sessions: self.sessions.list(),
            },
            Request::Revoke { session } => match session.parse() {
                Err(_) => Answer::error(Code::Malformed, "no session identifier"),
                Ok(id) if self.revoke(id) => {
                    settle = true;
                    let (user, process) = (asked.user, asked.process);
                    log::of_session(
                        id,
                        format_args!(" revoked by process {process} of user {user}"),
                    );
                    Answer::Revoked {
                        session: id.to_string(),
                    }
                }
                Ok(_) => Answer::error(Code::UnknownSession, "no such session"),
            },
            Request::Takeover {} if self.may_be_succeeded() => {
                let given = self.operators.control.take_out(asked.client, &self.poller);
                if let Some((socket, asker)) = given {
                    self.grant(&socket, asker.process);
                }
                return false;
            }
            Request::Takeover {} => Answer::error(
                Code::Unsupported,
                "this server is stopping, or another one is coming already",
            ),
        };
        let control = &mut self.operators.control;
        control.answer(asked.client, &answer, &self.poller);
        settle
    }

    /// Ends a session wherever it is; false when there is none.
    //= spec/control.md#revoke
    fn revoke(&mut self, session: SessionIdentifier) -> bool {
        if !self.keeper.revoke(session.as_bytes()) {
            return false;
        }
        // What nobody can import is not started.
        self.unstarted
            .retain(|pending| pending.introduction.session() != session);
        self.sessions.cut_off(session);
        true
    }

    fn describe(&self) -> Server {
        let census = self.keeper.census();
        let mut tally = self.operators.tally;
        tally.sessions = self.sessions.tally;
        tally.log_lost = log::lost();
        let processes = [
            ("supervisor", Some(process::pid())),
            ("handshaker", self.handshaker.process()),
            ("zygote", self.zygote.process()),
        ];
        let processes = processes.into_iter().filter_map(|(role, process)| {
            process.map(|process| Process {
                role: role.to_owned(),
                process,
                resident: resident(process).unwrap_or(0),
            })
        });
        let stopping = !matches!(self.stopping, Stopping::No);
        let milliseconds = self.operators.began.elapsed().as_millis();
        Server {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            address: self.listener.local_addr().ok(),
            since: self.operators.since,
            milliseconds: u64::try_from(milliseconds).unwrap_or(u64::MAX),
            stopping,
            accepting: self.accepting && !stopping,
            processes: processes.collect(),
            contexts: Contexts {
                active: census.active as u64,
                transit: census.transit as u64,
                ended: census.ended as u64,
                draft: census.draft as u64,
            },
            sessions: self.sessions.len() as u64,
            sessions_limit: self.terms.limits.sessions as u64,
            sessions_waiting: self.unstarted.len() as u64,
            tally,
        }
    }
}

/// Resident memory of a process, in bytes (proc_pid_statm(5)).
fn resident(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
