//! The supervisor that goes, and the one that comes (`spec/takeover.md`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::ledger::keeper::{Keeper, Role as Member};
use crate::session::log;
use crate::session::report::Reports;
use crate::sys::process::open_pidfd;
use crate::sys::{fault, socket};

use super::super::control::answer::GRANTED;
use super::super::link::{Link, decode};
use super::super::poller::{Keys, Poller};
use super::super::sessions::{Pending, Sessions, estate};
use super::super::subprocess::{Next, Subprocess};
use super::super::takeover::{self, Failed, Heard, Predecessor, Successor};
use super::super::telling::{FromHandshaker, ToHandshaker};
use super::super::{Error, Kept, Server};
use super::forked::{Forked, become_one};
use super::operators::Operators;
use super::start::{Common, More, Own, system};
use super::stopping::Stopping;
use super::{Role, Supervisor};

/// The one version of the estate.
pub(in crate::server) const VERSION: u16 = 1;

/// Everything a server has, but for descriptors and keys.
//= spec/takeover.md#estate
#[derive(Serialize, Deserialize)]
pub(in crate::server) struct Estate {
    pub(in crate::server) version: u16,
    pub(in crate::server) keeper: ByteBuf,
    pub(in crate::server) keeper_fds: u64,
    pub(in crate::server) zygotes: Vec<u32>,
    pub(in crate::server) handshakers: Vec<u32>,
    pub(in crate::server) sessions: estate::Estate,
    pub(in crate::server) unstarted: Vec<estate::Carried>,
}

/// A server that is to come after this one.
pub(super) struct Coming {
    successor: Successor,
    key: u64,
    process: u32,
}

impl Coming {
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    pub(super) fn until(&self) -> Instant {
        self.successor.until
    }
}

impl Supervisor {
    /// Starts the program that is at this one's path now, to come after it.
    //= spec/takeover.md#start
    pub(super) fn start_successor(&mut self) {
        if !self.may_be_succeeded() {
            return;
        }
        let started = Link::pair_with_far().and_then(|(link, far)| {
            let program = self.program.as_ref().ok_or(io::ErrorKind::NotFound)?;
            Ok((link, program.start(far)?.id()))
        });
        match started {
            Ok((link, process)) => self.expect_successor(link, process),
            Err(error) => log::line(format_args!("no new server: {error}")),
        }
    }

    /// Who asked over `socket` is to come after this one.
    //= spec/takeover.md#start
    pub(super) fn grant(&mut self, socket: &UnixStream, process: u32) {
        if !self.may_be_succeeded() {
            return;
        }
        let granted = Link::pair_with_far().and_then(|(link, far)| {
            let message = [io::IoSlice::new(GRANTED)];
            socket::send_with_fds(socket, &message, &[far.as_fd()])?;
            Ok(link)
        });
        match granted {
            Ok(link) => self.expect_successor(link, process),
            Err(error) => log::line(format_args!("no new server: {error}")),
        }
    }

    pub(super) fn may_be_succeeded(&self) -> bool {
        let may = matches!(self.stopping, Stopping::No) && self.successor.is_none();
        if !may {
            log::line(format_args!(
                "no new server: this one is stopping, or another one is coming already"
            ));
        }
        may
    }

    fn expect_successor(&mut self, link: Link, process: u32) {
        let key = self.keys.draw();
        if let Err(error) = link.watch(key, &self.poller) {
            log::line(format_args!("no new server: {error}"));
            return;
        }
        log::line(format_args!("process {process} is to be the server"));
        self.successor = Some(Coming {
            successor: Successor::new(link),
            key,
            process,
        });
    }

    pub(super) fn hear_successor(&mut self) {
        let shared = self.operators.service.has_listener();
        let Some(coming) = &mut self.successor else {
            return;
        };
        match coming.successor.hear((self.listener.as_fd(), shared)) {
            Heard::Nothing => {
                // It can only fail for a descriptor that is not in.
                let _ = coming
                    .successor
                    .link()
                    .watch_again(coming.key, &self.poller);
            }
            Heard::Failed(failed) => self.go_on(&failed),
            Heard::Ready => self.hand_over(),
        }
    }

    /// Gives up one that is late, or for which there is no time any more.
    pub(super) fn press_successor(&mut self) {
        let stopping = !matches!(self.stopping, Stopping::No);
        let late = |coming: &Coming| coming.until() <= Instant::now() || stopping;
        if self.successor.as_ref().is_some_and(late) {
            self.go_on(&Failed::Late);
        }
    }

    fn go_on(&mut self, failed: &Failed) {
        if let Some(coming) = self.successor.take() {
            self.poller.remove(coming.successor.link());
            let process = coming.process;
            log::line(format_args!(
                "process {process} is not the server: {failed}; this one goes on"
            ));
        }
    }

    /// Gives everything to the one that is ready, and is over; or goes on.
    //= spec/takeover.md#steps
    fn hand_over(&mut self) {
        // Its processes are told before: it is the other one that hears them from then on.
        self.handshaker
            .send(&ToHandshaker::Accept { yes: false }, Vec::new());
        if let Some((mut candidate, _)) = self.candidate.take() {
            candidate.retire(&self.poller);
        }
        self.fork_due = false;
        // What has ended is told by who saw it.
        self.sessions.collect(&mut self.keeper);
        let Some(mut coming) = self.successor.take() else {
            return;
        };
        self.poller.remove(coming.successor.link());
        let given = self.give(&mut coming.successor);
        let process = coming.process;
        match given {
            Ok(()) => {
                log::line(format_args!("process {process} is the server from now on"));
                self.operators.service.hand_over(process);
                self.pass_signals_on(process);
                self.succeeded = Some(process);
            }
            Err(failed) => {
                log::line(format_args!(
                    "process {process} is not the server: {failed}; this one goes on"
                ));
                self.accepting = true;
                self.handshaker
                    .send(&ToHandshaker::Accept { yes: true }, Vec::new());
                if let Err(error) = self.open_control() {
                    log::line(format_args!("{error}"));
                }
            }
        }
    }

    /// What this process was told meanwhile is for the server.
    //= spec/takeover.md#signals
    fn pass_signals_on(&self, process: u32) {
        let server = i32::try_from(process).ok().and_then(Pid::from_raw);
        while let Ok(Some(signal)) = self.signals.next() {
            if let (Signal::TERM | Signal::INT | Signal::HUP, Some(server)) = (signal, server) {
                // One that has ended needs no telling.
                let _ = kill_process(server, signal);
            }
        }
    }

    fn give(&mut self, successor: &mut Successor) -> Result<(), Failed> {
        let inherited = |one: &Subprocess| {
            let process = one.process()?;
            Some((process, open_pidfd(process).ok()??))
        };
        let zygotes = std::iter::once(&self.zygote).chain(&self.earlier_zygotes);
        let zygotes: Vec<&Subprocess> = zygotes.filter(|one| one.link().is_some()).collect();
        let handshakers = std::iter::once(&self.handshaker);
        let handshakers = handshakers.chain(self.retiring.iter().map(|(one, _)| one));
        let handshakers: Vec<&Subprocess> =
            handshakers.filter(|one| one.link().is_some()).collect();
        let full = |one: &&&Subprocess| one.is_full();
        if zygotes.iter().chain(&handshakers).any(|one| full(&one)) {
            // A message that is half way would be lost.
            return Err(Failed::Late);
        }
        let mut own = Vec::new();
        for one in zygotes.iter().chain(&handshakers) {
            own.push(inherited(one).ok_or(Failed::Gone)?);
        }
        let keys: Vec<u64> = zygotes.iter().map(|one| one.key()).collect();
        // From here on nobody is answered until it is over, well or not.
        let keeper = self.keeper.retire();
        let inventory = keeper.inventory().map_err(io::Error::from)?;
        let mut fds = keeper.fds();
        let keeper_fds = fds.len() as u64;
        for (one, (_, pidfd)) in zygotes.iter().chain(&handshakers).zip(&own) {
            fds.extend(one.link().map(AsFd::as_fd));
            fds.push(pidfd.as_fd());
        }
        let (sessions, of_sessions) = self.sessions.estate(&keys);
        fds.extend(of_sessions);
        fds.extend(self.unstarted.iter().map(|pending| pending.socket.as_fd()));
        let numbers = |some: &[&Subprocess]| some.iter().filter_map(|one| one.process()).collect();
        let estate = Estate {
            version: VERSION,
            keeper: ByteBuf::from(inventory),
            keeper_fds,
            zygotes: numbers(&zygotes),
            handshakers: numbers(&handshakers),
            sessions,
            unstarted: self.unstarted.iter().map(Pending::carried).collect(),
        };
        let estate = postcard::to_allocvec(&estate).map_err(|_| Failed::Garbage)?;
        // The other one's name is free when it begins.
        self.operators.control.close(&self.poller);
        successor.give(&estate, &fds, &keeper)?;
        keeper.leave();
        Ok(())
    }
}

/// Starts the processes of a server that comes after another one. Comes back with the supervisor
/// once this is the server.
//= spec/takeover.md#steps
pub(super) fn start_after(server: Server) -> Result<Result<Supervisor, Role>, Error> {
    let Kept::After(mut predecessor) = server.domain else {
        return Err(Error::Takeover(Failed::Garbage));
    };
    let common = Common {
        signals: server.signals,
        listener: server.listener,
        terms: server.terms,
        session: server.session,
    };
    let poller = Poller::new().map_err(system("epoll"))?;
    let mut keys = Keys::default();
    let mut zygote = Subprocess::new("zygote");
    if let Some(link) = zygote.fork(&poller, &mut keys).map_err(system("zygote"))? {
        drop((predecessor, zygote, poller));
        return Ok(Err(become_one(common, Forked::Zygote(link))));
    }
    let (near, far) = Keeper::connection().map_err(Error::Ledger)?;
    let mut handshaker = Subprocess::new("handshaker");
    let forked = handshaker.fork(&poller, &mut keys);
    if let Some(link) = forked.map_err(system("handshaker"))? {
        drop((predecessor, zygote, handshaker, poller, near));
        return Ok(Err(become_one(common, Forked::Handshaker(link, far))));
    }
    drop(far);
    if let Err(error) = wait_until_loaded(&mut handshaker, &mut predecessor) {
        predecessor.refuse(&error.to_string());
        return Err(error);
    }
    let estate = predecessor.receive().map_err(Error::Takeover)?;
    let mut own = Own {
        poller,
        keys,
        common,
        zygote,
        handshaker,
    };
    let inherited = match inherit(&own.poller, &mut own.keys, estate) {
        Ok(inherited) => inherited,
        Err(failed) => {
            predecessor.refuse(&failed.to_string());
            return Err(Error::Takeover(failed));
        }
    };
    predecessor.taken().map_err(Error::Takeover)?;
    let more = More {
        reload: server.reload,
        program: server.program,
        operators: Operators::new(server.control, server.passed),
    };
    let mut supervisor = own.supervisor(inherited, more)?;
    // Handshakes begin when it is answered.
    let added = supervisor.keeper.add(near, Member::Handshaker);
    added.map_err(Error::Ledger)?;
    predecessor.begun().map_err(Error::Takeover)?;
    // From here on this is the server, whatever happens: who has no control socket serves without.
    if let Err(error) = supervisor.open_control() {
        log::line(format_args!("{error}"));
    }
    Ok(Ok(supervisor))
}

/// Waits until the handshaker can greet the keeper.
fn wait_until_loaded(
    handshaker: &mut Subprocess,
    predecessor: &mut Predecessor,
) -> Result<(), Error> {
    loop {
        match handshaker.next::<FromHandshaker>() {
            Next::Message(FromHandshaker::Loaded, _) => return Ok(()),
            Next::Message(FromHandshaker::Failed { text }, _) => {
                return Err(Error::Handshaker(text));
            }
            Next::Message(..) | Next::Broken(_) => {
                return Err(Error::Handshaker("the handshaker did not start".to_owned()));
            }
            Next::Nothing => {
                let link = handshaker.link().map(AsFd::as_fd);
                let waited = predecessor.wait_with(link.into_iter());
                waited.map_err(Error::Takeover)?;
            }
        }
    }
}

/// What the server before it had.
pub(in crate::server) struct Inherited {
    pub(in crate::server) keeper: Keeper,
    pub(super) zygotes: Vec<Subprocess>,
    pub(super) handshakers: Vec<Subprocess>,
    pub(in crate::server) sessions: Sessions,
    pub(super) unstarted: VecDeque<Pending>,
}

impl Inherited {
    /// Of a server that comes after none.
    pub(super) fn nothing(keeper: Keeper) -> Self {
        Self {
            keeper,
            zygotes: Vec::new(),
            handshakers: Vec::new(),
            sessions: Sessions::default(),
            unstarted: VecDeque::new(),
        }
    }
}

/// Takes all that the server before this one has given.
//= spec/takeover.md#estate
pub(in crate::server) fn inherit(
    poller: &Poller,
    keys: &mut Keys,
    estate: takeover::Estate,
) -> Result<Inherited, Failed> {
    let takeover::Estate {
        bytes,
        fds,
        keys: secrets,
    } = estate;
    let estate = decode::<Estate>(&bytes).ok_or(Failed::Garbage)?;
    if estate.version != VERSION {
        return Err(Failed::Version);
    }
    let mut fds = fds.into_iter();
    let of_keeper = usize::try_from(estate.keeper_fds).unwrap_or(usize::MAX);
    let of_keeper: Vec<OwnedFd> = fds.by_ref().take(of_keeper).collect();
    let keeper = Keeper::succeed(&estate.keeper, &secrets, of_keeper);
    let keeper = keeper.map_err(io::Error::from)?;
    fault::point("takeover.kept");
    let mut subprocess = |name, process| {
        let both = (fds.next(), fds.next());
        let (Some(link), Some(pidfd)) = both else {
            return Err(Failed::Garbage);
        };
        Ok(Subprocess::inherit(
            name,
            (process, pidfd),
            link,
            poller,
            keys,
        )?)
    };
    let zygotes = estate.zygotes.into_iter();
    let zygotes = zygotes.map(|process| subprocess("zygote", process));
    let zygotes = zygotes.collect::<Result<Vec<_>, Failed>>()?;
    let handshakers = estate.handshakers.into_iter();
    let handshakers = handshakers.map(|process| subprocess("handshaker", process));
    let handshakers = handshakers.collect::<Result<Vec<_>, Failed>>()?;
    let watch = |reports: Option<&Reports>| {
        let key = keys.draw();
        if let Some(reports) = reports {
            poller.add(reports, key, EventFlags::IN).ok()?;
        }
        Some(key)
    };
    let waiting: Vec<u64> = zygotes.iter().map(Subprocess::key).collect();
    let sessions = Sessions::inherit(estate.sessions, &waiting, &mut fds, watch);
    let sessions = sessions.ok_or(Failed::Garbage)?;
    let mut unstarted = VecDeque::new();
    for carried in estate.unstarted {
        unstarted.push_back(carried.pending(fds.next().ok_or(Failed::Garbage)?));
    }
    match fds.next() {
        Some(_) => Err(Failed::Garbage),
        None => Ok(Inherited {
            keeper,
            zygotes,
            handshakers,
            sessions,
            unstarted,
        }),
    }
}
