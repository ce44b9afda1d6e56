//! What runs on the plaintext of a session.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::process::Command;

use rustix::event::PollFlags;

use super::about::About;
use super::environment::Environment;
use super::flow::Flow;
use super::page::{Page, Wish};
use super::relay::Relay;

/// Which job sessions run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every byte comes back.
    Echo,
    /// [`Page`].
    Page,
    /// A command with its arguments, on [`Relay`].
    Exec(Vec<OsString>),
}

/// A running job.
pub enum Job {
    /// Every byte comes back.
    Echo,
    /// The built-in page.
    Page(Box<Page>),
    /// The plaintext passed on.
    Relay(Relay),
}

impl Job {
    /// Starts a job; of a command, its process number is answered too. A command alone is told its
    /// `environment`.
    ///
    /// # Errors
    /// The system's, when a command cannot be started.
    pub fn start(
        kind: &Kind,
        environment: impl FnOnce() -> Environment,
    ) -> io::Result<(Self, Option<u32>)> {
        Ok(match kind {
            Kind::Echo => (Self::Echo, None),
            Kind::Page => (Self::Page(Box::default()), None),
            Kind::Exec(words) => {
                let (program, arguments) =
                    words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
                let mut command = Command::new(program);
                environment().describe_to(command.args(arguments));
                let (relay, process) = Relay::to_command(&mut command)?;
                (Self::Relay(relay), Some(process))
            }
        })
    }

    /// Moves what can be moved without waiting.
    pub fn work(&mut self, flow: &mut Flow, about: &About) -> Wish {
        match self {
            Self::Echo => echo(flow),
            Self::Page(page) => page.work(flow, about),
            Self::Relay(relay) => match relay.work(flow) {
                true => Wish::End,
                false => Wish::Wait,
            },
        }
    }

    /// Descriptors of the job's own to wait for.
    pub fn interest(&self, flow: &Flow) -> [Option<(BorrowedFd<'_>, PollFlags)>; 2] {
        match self {
            Self::Relay(relay) => relay.interest(flow),
            Self::Echo | Self::Page(_) => [None, None],
        }
    }
}

fn echo(flow: &mut Flow) -> Wish {
    if flow.outbox.is_empty() {
        std::mem::swap(&mut flow.inbox, &mut flow.outbox);
    } else {
        let taken = flow.outbox.push(flow.inbox.as_slice());
        flow.inbox.consume(taken);
    }
    if flow.peer_ended && flow.inbox.is_empty() {
        flow.job_ended = true;
        return Wish::End;
    }
    Wish::Wait
}
