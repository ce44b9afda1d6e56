//! One hop of a live session: out of this process, into a successor forked for it.
//!
//! The context goes as a token. What is not secret of the context's (buffers, the job's
//! descriptors, counters) the successor has from the fork. This process keeps its copy of the
//! socket, and no key, until the successor has acknowledged; if none does, it takes the context
//! back, which it can as long as nobody has imported it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::ledger::Domain;
use crate::status::Minor;
use crate::sys::process::{self, Fork, fork};
use crate::sys::socket;
use crate::transfer::{Export, Importer};

use super::channel::Channel;
use super::drive::Stage;
use super::log;
use super::report::{Reason, Report, Reporter};

/// How long the successor has to import the context.
const ALLOWANCE: Duration = Duration::from_secs(30);

/// Where the session is after a hop, seen from the process that returns from it.
pub enum After<C> {
    /// Here: in the successor, or, when the hop failed, where it was.
    Here(C),
    /// In another process: this one has nothing more to do with it.
    Elsewhere,
    /// Nowhere: it has ended.
    Lost(Reason),
}

/// Moves `channel` and what `stage` holds to a new process. `domain` is in the new one that of its
/// own connection to the keeper.
//= spec/sessions.md#hop
pub fn hop<C: Channel>(
    channel: C,
    stage: &mut Stage,
    domain: &mut Domain,
    reporter: &Reporter,
) -> After<C> {
    let session = channel.session();
    // Also a hop that fails counts: one that always fails must not be tried for ever.
    stage.hops.tried();
    let Some(keeper) = reporter.ask_connection() else {
        log::of_session(
            session,
            format_args!(": no hop: the keeper takes no further process"),
        );
        return After::Here(channel);
    };
    let tied = Export::default()
        .to(Importer::ProcessGroup(process::process_group()))
        .within(ALLOWANCE)
        .tied_to(stage.socket.as_fd());
    let exported = match tied {
        Ok(how) => channel.export(&how),
        Err(status) => Err((channel, status)),
    };
    let sealed = match exported {
        Ok(sealed) => sealed,
        Err((channel, status)) => {
            log::of_session(session, format_args!(": no hop: {status}"));
            return After::Here(channel);
        }
    };
    let failed = match acknowledged_fork(&keeper) {
        Ok(Side::Successor(acknowledge)) => {
            let own = Domain::kept(keeper);
            let imported = match own {
                Ok(own) => {
                    // The connection of the process before, which is none here.
                    *domain = own;
                    C::import(domain, sealed, stage.socket.as_fd()).map_err(|(_, status)| status)
                }
                Err(_) => Err(Minor::System.into()),
            };
            return match imported {
                Ok(channel) => {
                    begin(&channel, stage, reporter);
                    // The predecessor may be dead; the session is not.
                    let _ = File::from(acknowledge).write_all(&[1]);
                    After::Here(channel)
                }
                Err(status) => {
                    log::of_session(session, format_args!(": not imported: {status}"));
                    // The predecessor sees this end and takes the context back.
                    After::Elsewhere
                }
            };
        }
        Ok(Side::Predecessor { acknowledged: true }) => return After::Elsewhere,
        Ok(Side::Predecessor {
            acknowledged: false,
        }) => "the successor died".to_owned(),
        Err(error) => error.to_string(),
    };
    log::of_session(session, format_args!(": no hop: {failed}"));
    //= spec/sessions.md#back
    match C::import(domain, sealed, stage.socket.as_fd()) {
        Ok(channel) => After::Here(channel),
        Err(_) => After::Lost(Reason::SuccessorDied),
    }
}

/// Writes down that this process runs the session now.
pub fn begin<C: Channel>(channel: &C, stage: &mut Stage, reporter: &Reporter) {
    let process = process::pid();
    stage.about.processes.push(process);
    stage.about.hops = channel.facts().hops;
    reporter.tell(Report::Running {
        process,
        hops: stage.about.hops,
    });
}

enum Side {
    /// The new process, with what to acknowledge on.
    Successor(OwnedFd),
    /// The old one, once the new one has acknowledged or ended.
    Predecessor { acknowledged: bool },
}

/// Forks, and in the parent waits until the child has written to the pipe it was given. One that
/// does not has no part in the domain any more: `keeper`, the connection it was to have, is ended.
///
/// It is not killed for that: a process that may send signals could send them to others.
fn acknowledged_fork(keeper: &OwnedFd) -> std::io::Result<Side> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    match fork()? {
        Fork::Child => Ok(Side::Successor(writer)),
        Fork::Parent(mut child) => {
            // Or its end could not be read here.
            drop(writer);
            let in_time = readable(&reader);
            let acknowledged = in_time && {
                let mut byte = [0];
                File::from(reader).read_exact(&mut byte).is_ok()
            };
            if !acknowledged {
                // It must not import any more when this process tries to.
                socket::end(keeper);
                if in_time {
                    // It has ended, or is about to.
                    let _ = child.wait();
                }
            }
            Ok(Side::Predecessor { acknowledged })
        }
    }
}

fn readable(pipe: &OwnedFd) -> bool {
    let limit = Timespec {
        tv_sec: ALLOWANCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit))).is_ok_and(|ready| ready > 0)
}
