//! The zygote: forks session processes, and waits for those it forked.
//!
//! SECURITY: one thread, no key, no peer. It holds what a session needs for as long as a fork
//! takes; what it forks has nothing of other sessions. Taken over, it can start sessions with
//! what it is given, as any user but root where there are users, and nothing else.

use std::convert::Infallible;
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::process::{Signal, WaitOptions, wait};

use crate::session::Start;
use crate::session::drive::{Hops, Patience};
use crate::session::job::Kind;
use crate::session::log;
use crate::session::parcel::{Introduction, Parcel};
use crate::session::report::Reporter;
use crate::session::user::User;
use crate::sys::memory;
use crate::sys::process::{Keep, fork_one_of_many};
use crate::sys::signal::Watch;

use super::RunSession;
use super::confine::{Becomes, Role, confine};
use super::limits::{self, Allowance};
use super::link::{Broken, Link};
use super::poller::Poller;
use super::telling::{FromZygote, ToZygote};
use super::users::Users;

//= spec/processes.md#zygote
/// What the zygote starts from, and gives to each session.
pub(super) struct Zygote {
    pub(super) link: Link,
    pub(super) signals: Watch,
    /// What runs a session in the process forked for it.
    pub(super) session: RunSession,
    pub(super) kind: Kind,
    pub(super) hops: Hops,
    /// What its processes may be, and may have.
    pub(super) bounds: Bounds,
}

/// What bounds a zygote and the sessions it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Whom its processes become, where they can.
    pub(super) users: Option<Users>,
    /// How long a session lasts.
    pub(super) patience: Patience,
    /// How much it has.
    pub(super) allowance: Allowance,
}

/// What comes with an order.
struct Given {
    socket: TcpStream,
    reporter: OwnedFd,
    keeper: OwnedFd,
    user: Option<User>,
}

const LINK: u64 = 0;
const SIGNALS: u64 = 1;

impl Zygote {
    /// Runs until the supervisor is gone.
    //= spec/processes.md#end
    pub(super) fn run(self) {
        // What its sessions leave behind comes to it, and not to the supervisor alone: that one may be
        // another one's by then.
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            log::line(format_args!("zygote: child subreaper: {error}"));
            return;
        }
        // What cannot be had is not needed.
        let _ = memory::gather_code();
        if let Err(error) = self.give_up() {
            log::line(format_args!("zygote: {error}"));
            return;
        }
        match self.obey_all() {
            Err(Broken::Gone) => {}
            Err(error) => log::line(format_args!("zygote: {error}")),
        }
    }

    /// Gives up all that neither this process nor the sessions need.
    //= spec/processes.md#confine
    fn give_up(&self) -> Result<(), String> {
        let becomes = match &self.bounds.users {
            None => Becomes::Nobody,
            Some(users) => {
                let become_it = users.zygote.become_it(Keep::BecomingUsers);
                become_it.map_err(|error| format!("its user: {error}"))?;
                match users.root_is_a_session() {
                    true => Becomes::Anyone,
                    false => Becomes::Users,
                }
            }
        };
        if self.runs_commands() {
            return Ok(());
        }
        limits::hold_zygote().map_err(|error| format!("its limits: {error}"))?;
        match confine(Role::Zygote(becomes)) {
            Ok(_) => Ok(()),
            Err(refused) => Err(refused.to_string()),
        }
    }

    fn runs_commands(&self) -> bool {
        matches!(self.kind, Kind::Exec(_))
    }

    fn obey_all(mut self) -> Result<Infallible, Broken> {
        let poller = Poller::new().map_err(Broken::System)?;
        self.link.watch(LINK, &poller).map_err(Broken::System)?;
        poller
            .add(&self.signals, SIGNALS, EventFlags::IN)
            .map_err(Broken::System)?;
        loop {
            for (key, _) in poller.wait(None).map_err(Broken::System)? {
                match key {
                    LINK => {
                        self.link.flush()?;
                        while let Some((order, fds)) = self.link.receive::<ToZygote>()? {
                            if let Some(start) = self.obey(order, fds)? {
                                drop(poller);
                                self.become_session(start);
                            }
                        }
                    }
                    _ => self.wait_for_ended()?,
                }
            }
            self.link
                .watch_again(LINK, &poller)
                .map_err(Broken::System)?;
        }
    }

    /// In the process that was just forked for a session: runs it. What is the zygote's and holds
    /// nothing is left as it is, for freeing a copy would first make one.
    fn become_session(self, start: Start) -> ! {
        let Self {
            link,
            signals,
            session,
            kind,
            bounds,
            ..
        } = self;
        link.abandon();
        drop(signals);
        std::mem::forget((kind, bounds));
        session(start);
        crate::sys::process::exit_now(0)
    }

    /// Forks; in the new process, answers what it is to run.
    fn obey(&mut self, order: ToZygote, fds: Vec<OwnedFd>) -> Result<Option<Start>, Broken> {
        let ToZygote::Start {
            introduction,
            parcel,
            user,
        } = order;
        let Ok([socket, reporter, keeper]) = <[OwnedFd; 3]>::try_from(fds) else {
            return Err(Broken::Garbage);
        };
        let session = *introduction.session().as_bytes();
        match fork_one_of_many() {
            Ok(None) => {
                // Before anything is made of what came from a peer.
                if let Err(error) = self.settle_in(user.as_ref()) {
                    let session = introduction.session();
                    log::of_session(session, format_args!(": not its user's process: {error}"));
                    crate::sys::process::exit_now(1);
                }
                let given = Given {
                    socket: TcpStream::from(socket),
                    reporter,
                    keeper,
                    user,
                };
                let start = self.start(&introduction, &parcel, given);
                std::mem::forget((introduction, parcel));
                Ok(Some(start))
            }
            Ok(Some(child)) => {
                let process = child.as_raw_pid().unsigned_abs();
                self.tell(FromZygote::Started { session, process })
            }
            Err(error) => {
                let error = error.raw_os_error().unwrap_or(0);
                self.tell(FromZygote::NotStarted { session, error })
            }
        }
    }

    /// Makes the process that was just forked a session's: its user, and what it may have.
    //= spec/processes.md#users
    fn settle_in(&self, user: Option<&User>) -> std::io::Result<()> {
        let can_become = self.bounds.users.is_some();
        if user.is_some() != can_become {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        if let Some(user) = user {
            user.become_it(Keep::Nothing)?;
            if self.runs_commands() {
                user.go_home()?;
            }
        }
        self.bounds.allowance.hold(self.runs_commands())
    }

    //= spec/processes.md#session
    /// What the process that was just forked is to run. It ends when there is nothing: the
    /// supervisor sees that no process is left, and has the token still.
    fn start(&self, introduction: &Introduction, parcel: &[u8], given: Given) -> Start {
        let Given {
            socket,
            reporter,
            keeper,
            user,
        } = given;
        let Some(parcel) = Parcel::from_bytes(introduction, parcel, socket) else {
            crate::sys::process::exit_now(1);
        };
        Start {
            parcel,
            kind: self.kind.clone(),
            hops: self.hops,
            keeper,
            patience: self.bounds.patience,
            user,
            reporter: Reporter::from(reporter),
        }
    }

    fn tell<T>(&mut self, message: FromZygote) -> Result<Option<T>, Broken> {
        self.link.send(&message, Vec::new())?;
        Ok(None)
    }

    fn wait_for_ended(&mut self) -> Result<(), Broken> {
        while let Ok(Some(signal)) = self.signals.next() {
            // Signals to stop are for the supervisor, which ends this process by going.
            if signal != Signal::CHILD {
                continue;
            }
            let next = || rustix::io::retry_on_intr(|| wait(WaitOptions::NOHANG));
            while let Ok(Some((pid, status))) = next() {
                let ended = FromZygote::Ended {
                    process: pid.as_raw_pid().unsigned_abs(),
                    status: status.as_raw(),
                };
                self.link.send(&ended, Vec::new())?;
            }
        }
        Ok(())
    }
}
