//! How the supervisor begins: the keeper, the zygote, the handshaker, in that order; it serves once
//! the handshaker is ready.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, poll};

use crate::succession::Program;
use crate::sys::signal::Watch;

use super::super::confine;
use super::super::poller::{Keys, Poller};
use super::super::reception::HANDSHAKE_LIMIT;
use super::super::subprocess::{Next, Subprocess};
use super::super::telling::FromHandshaker;
use super::super::{Error, Kept, Reload, RunSession, Server, Terms};
use super::operators::Operators;
use super::stopping::Stopping;
use super::succession::{self, Inherited};
use super::{Role, Supervisor};

/// Starts the processes. Comes back with the supervisor once the handshaker is ready, or, in a
/// forked process, with what that is to be.
//= spec/processes.md#start
pub(in crate::server) fn start(server: Server) -> Result<Result<Supervisor, Role>, Error> {
    confine::give_up_privileges().map_err(system("privileges"))?;
    // Processes that sessions leave behind become this one's children, to be waited for.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Error::System("child subreaper", error.into()))?;
    let keeper = match server.domain {
        Kept::New(keeper) => keeper,
        Kept::After(_) => return succession::start_after(server),
    };
    let own = Own {
        poller: Poller::new().map_err(system("epoll"))?,
        keys: Keys::default(),
        common: Common {
            signals: server.signals,
            listener: server.listener,
            terms: server.terms,
            session: server.session,
        },
        zygote: Subprocess::new("zygote"),
        handshaker: Subprocess::new("handshaker"),
    };
    let more = More {
        reload: server.reload,
        program: server.program,
        operators: Operators::new(server.control, server.passed),
    };
    let mut supervisor = own.supervisor(Inherited::nothing(*keeper), more)?;
    // The zygote first: it is forked from a process that has read no private key.
    if let Some(forked) = supervisor.fork_zygote().map_err(system("zygote"))? {
        return Ok(Err(supervisor.become_one(forked)));
    }
    if let Some(forked) = supervisor.fork_handshaker().map_err(system("handshaker"))? {
        return Ok(Err(supervisor.become_one(forked)));
    }
    supervisor.wait_until_ready()?;
    supervisor.open_control()?;
    Ok(Ok(supervisor))
}

/// What every process of the server that is forked here starts from.
pub(super) struct Common {
    pub(super) signals: Watch,
    pub(super) listener: TcpListener,
    pub(super) terms: Terms,
    pub(super) session: RunSession,
}

/// What a supervisor is made of, before it is the server.
pub(super) struct Own {
    pub(super) poller: Poller,
    pub(super) keys: Keys,
    pub(super) common: Common,
    pub(super) zygote: Subprocess,
    pub(super) handshaker: Subprocess,
}

/// What it does besides serving.
pub(super) struct More {
    pub(super) reload: Option<Reload>,
    pub(super) program: Option<Program>,
    pub(super) operators: Operators,
}

impl Own {
    /// The supervisor, which goes on with what it has inherited.
    pub(super) fn supervisor(self, inherited: Inherited, more: More) -> Result<Supervisor, Error> {
        let Self {
            poller,
            mut keys,
            common,
            zygote,
            handshaker,
        } = self;
        let Common {
            signals,
            listener,
            terms,
            session,
        } = common;
        let (signals_key, keeper_key) = (keys.draw(), keys.draw());
        let keeper = inherited.keeper;
        poller
            .add(&signals, signals_key, EventFlags::IN)
            .and_then(|()| poller.add(&keeper, keeper_key, EventFlags::IN))
            .map_err(system("epoll"))?;
        let until = Instant::now() + HANDSHAKE_LIMIT;
        let retiring = inherited.handshakers.into_iter();
        Ok(Supervisor {
            poller,
            keys,
            signals,
            signals_key,
            listener,
            terms,
            session,
            reload: more.reload,
            candidate: None,
            retiring: retiring.map(|one| (one, until)).collect(),
            zygote,
            earlier_zygotes: inherited.zygotes,
            handshaker,
            sessions: inherited.sessions,
            // What waits for a process is tried at once.
            retry: inherited.unstarted.front().map(|_| Instant::now()),
            unstarted: inherited.unstarted,
            fork_due: false,
            accepting: true,
            stopping: Stopping::No,
            keeper,
            keeper_key,
            operators: more.operators,
            program: more.program,
            successor: None,
            succeeded: None,
        })
    }
}

impl Supervisor {
    fn wait_until_ready(&mut self) -> Result<(), Error> {
        loop {
            match self.handshaker.next::<FromHandshaker>() {
                Next::Message(FromHandshaker::Ready, _) => return Ok(()),
                Next::Message(FromHandshaker::Loaded, _) => {}
                Next::Message(FromHandshaker::Failed { text }, _) => {
                    return Err(Error::Handshaker(text));
                }
                Next::Message(..) | Next::Broken(_) => {
                    return Err(Error::Handshaker("the handshaker did not start".to_owned()));
                }
                Next::Nothing => {
                    // It greets the keeper first.
                    let ends = self.handshaker.link().map(AsFd::as_fd);
                    wait_readable(ends.into_iter().chain([self.keeper.fd()]))
                        .map_err(system("poll"))?;
                    self.hear_members();
                }
            }
        }
    }
}

/// Waits, without limit, until one of these can be read.
pub(super) fn wait_readable<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = fds
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
    Ok(())
}

pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::System(what, error)
}
