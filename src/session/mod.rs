//! Sessions: what a process does with a context it was handed.
//!
//! A session is a live context, its connection and a job on the plaintext. It begins with an
//! import and can move on to a successor at any moment between two steps of its loop, however
//! much is half read, unread or unsent then.
//!
//! | room | what lives there |
//! |---|---|
//! | [`channel`] | a context as a stream of plaintext, in both framings |
//! | [`flow`], [`job`], [`page`], [`relay`] | what runs on the plaintext |
//! | [`drive`] | the loop |
//! | [`user`], [`environment`] | whose the processes are, and what a command is told |
//! | [`parcel`] | a session on its way to its first process |
//! | [`hop`] | from one process to the next |
//! | [`report`], [`log`], [`about`] | what is told of a session |
//!
//! SECURITY: a session process faces one peer. It holds that peer's context and, in the server's
//! kept domain, nothing with which another's could be had. It holds no private key: the server's
//! was never in the process it was forked from. Taken over, it can lie to the server about itself, and to nobody about others.

pub mod about;
pub mod drive;
pub mod environment;
pub mod flow;
pub mod hop;
pub mod job;
pub mod log;
pub mod page;
pub mod parcel;
pub mod relay;
pub mod report;
pub mod user;

pub use crate::channel;

use std::os::fd::{AsFd, OwnedFd};

use crate::context::Context;
use crate::ledger::Domain;
use crate::record::Record;
use crate::sys::process::{self, Signal};

use channel::{Channel, Messages};
use drive::{Hops, Patience, Stage, Turn};
use environment::Environment;
use hop::After;
use job::{Job, Kind};
use parcel::{Parcel, Sealed};
use report::{Ending, Reason, Report, Reporter};
use user::User;

/// What a process needs to run a session.
pub struct Start {
    /// The connection.
    pub parcel: Parcel,
    /// What to run on it.
    pub kind: Kind,
    /// When to move it on.
    pub hops: Hops,
    /// The process's connection to the keeper, made for this context.
    pub keeper: OwnedFd,
    /// How long it lasts.
    pub patience: Patience,
    /// Whom this process has become for it, where it has.
    pub user: Option<User>,
    /// Whom to tell.
    pub reporter: Reporter,
}

impl Start {
    /// Imports the context and runs the session in this process, until it is over or has moved on;
    /// then the process ends, at once: what it leaves, the kernel wipes for less.
    ///
    /// The process becomes the leader of a process group, which the session's later processes and
    /// commands share.
    pub fn run(self) -> ! {
        let Self {
            parcel,
            kind,
            hops,
            keeper,
            patience,
            user,
            reporter,
        } = self;
        let Parcel {
            sealed,
            socket,
            about,
            unsent,
        } = parcel;
        let domain = match sealed.token().join(keeper) {
            Ok(domain) => domain,
            Err(error) => {
                // As an import that fails.
                log::of_session(about.session, format_args!(": not imported: {error}"));
                process::exit_now(0)
            }
        };
        // The job needs to be told what only the import tells, so it starts as the simplest one.
        let mut stage = Stage::new(socket, Job::Echo, about, hops, unsent);
        stage.set_patience(patience);
        let here = Here {
            stage,
            kind,
            user,
            domain,
            reporter,
        };
        match sealed {
            Sealed::Record(sealed) => here.import::<Context<Record>>(sealed),
            Sealed::Message(sealed) => here.import::<Messages>(sealed),
        }
        process::exit_now(0)
    }
}

/// A session in this process, but for its context.
struct Here {
    stage: Stage,
    kind: Kind,
    user: Option<User>,
    domain: Domain,
    reporter: Reporter,
}

impl Here {
    fn import<C: Channel>(self, sealed: C::Sealed) {
        match C::import(&self.domain, sealed, self.stage.socket.as_fd()) {
            Ok(channel) => self.run(channel),
            // Not told as an end: the server has the token still, and may try another process.
            Err((_, status)) => {
                let session = self.stage.about.session;
                log::of_session(session, format_args!(": not imported: {status}"));
            }
        }
    }

    fn run<C: Channel>(mut self, channel: C) {
        // Its own group from here on: a terminal's signals are for the server, which ends its
        // sessions in good order.
        let _ = rustix::process::setpgid(None, None);
        hop::begin(&channel, &mut self.stage, &self.reporter);
        let (about, user) = (&self.stage.about, self.user.take());
        let environment = || Environment::of(about, channel.facts(), user);
        match Job::start(&self.kind, environment) {
            Ok((job, command)) => {
                self.stage.job = job;
                if let Some(process) = command {
                    self.reporter.tell(Report::Command { process });
                }
                self.serve(channel);
            }
            Err(error) => {
                let session = self.stage.about.session;
                log::of_session(
                    session,
                    format_args!(": the command does not start: {error}"),
                );
                let reason = Reason::System(error.raw_os_error().unwrap_or(0));
                self.end(Some(channel), reason);
            }
        }
    }

    fn serve<C: Channel>(mut self, mut channel: C) {
        loop {
            match self.stage.run(&mut channel, Some(self.reporter.as_fd())) {
                Turn::Over(reason) => self.end(Some(channel), reason),
                Turn::Hop => {
                    match hop::hop(channel, &mut self.stage, &mut self.domain, &self.reporter) {
                        After::Here(moved) => channel = moved,
                        After::Elsewhere => process::exit_now(0),
                        After::Lost(reason) => self.end::<C>(None, reason),
                    }
                }
            }
        }
    }

    fn end<C: Channel>(self, channel: Option<C>, reason: Reason) -> ! {
        let Self {
            stage,
            reporter,
            kind,
            ..
        } = self;
        let ending = Ending {
            reason,
            received: stage.received,
            sent: stage.sent,
            hops: stage.about.hops,
        };
        // Told before the connection's last bytes are waited for: the context ends first.
        let told = || reporter.tell(Report::Ended(ending));
        match channel {
            Some(channel) => stage.close(channel, told),
            None => told(),
        }
        //= spec/sessions.md#time
        if matches!(reason, Reason::Idle | Reason::TimeUp) && matches!(kind, Kind::Exec(_)) {
            // A command that waits for something else is not to outlive its session: all of the
            // group is told, this process with it.
            let _ = process::tell_own_group(Signal::TERM);
        }
        // The context has ended: the kernel drops the rest for less.
        process::exit_now(0)
    }
}
