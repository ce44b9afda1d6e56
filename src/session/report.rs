//! What a session tells the server that started it, over a socket of its own.
//!
//! Only the process that runs the session, and for the moment of a hop its successor, hold the
//! session's end: when the server's end reads the end of file, no process of the session is left.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::sys::socket;

/// How many seconds a session waits for the answer to [`Report::Moving`].
const PATIENCE: i64 = 10;
/// That answer, with a descriptor, and without.
const GIVEN: u8 = 1;
const REFUSED: u8 = 0;

/// One message of a session. The longest encodes to well under [`MAX_REPORT`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A process has imported the context and runs the session.
    Running {
        /// The process.
        process: u32,
        /// Hops so far, the one to the first session process included.
        hops: u32,
    },
    /// A command was started on the session's plaintext.
    Command {
        /// The command's process.
        process: u32,
    },
    /// The session is to move: a connection to the keeper is asked for, for its next process.
    Moving,
    /// The session is over, in good order or not.
    Ended(Ending),
}

/// How a session ended, and what it had carried by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Why it ended.
    pub reason: Reason,
    /// Plaintext bytes from the peer.
    pub received: u64,
    /// Plaintext bytes to the peer.
    pub sent: u64,
    /// Hops, the one to the first session process included.
    pub hops: u32,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Both sides had said all they had to say.
    Finished,
    /// The connection was cut: reset, or ended without a close_notify.
    Cut,
    /// The peer was silent for longer than the job waits.
    Idle,
    /// The context refused; the minor status code.
    Refused(u32),
    /// The successor of a hop had taken the context over and died.
    SuccessorDied,
    /// The server is gone.
    ServerGone,
    /// The operating system refused; the error number, 0 when there is none.
    System(i32),
    /// The session had lasted as long as one may.
    TimeUp,
}

/// Bytes a report never exceeds.
pub const MAX_REPORT: usize = 64;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Cut => f.write_str("the connection was cut"),
            Self::Idle => f.write_str("the peer was silent for too long"),
            Self::Refused(code) => {
                use crate::status::Minor;
                match Minor::ALL.iter().find(|minor| minor.code() == *code) {
                    Some(minor) => minor.fmt(f),
                    None => write!(f, "minor status {code}"),
                }
            }
            Self::TimeUp => f.write_str("its time was up"),
            Self::ServerGone => f.write_str("the server is gone"),
            Self::SuccessorDied => f.write_str("the process it was moved to died"),
            Self::System(code) => io::Error::from_raw_os_error(*code).fmt(f),
        }
    }
}

/// The session's end.
#[derive(Debug)]
pub struct Reporter(OwnedFd);

/// The server's end. Reading does not wait.
#[derive(Debug)]
pub struct Reports(OwnedFd);

/// Makes the two ends.
pub fn channel() -> io::Result<(Reporter, Reports)> {
    let flags = SocketFlags::CLOEXEC;
    let (near, far) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // A session that asks for connections and takes none has a few of them waiting, not hundreds.
    rustix::net::sockopt::set_socket_send_buffer_size(&far, 0)?;
    Ok((Reporter(near), Reports(far)))
}

impl From<OwnedFd> for Reporter {
    /// The end that another process made.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<OwnedFd> for Reports {
    /// The end that another process had.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Reporter> for OwnedFd {
    /// To be given to another process.
    fn from(reporter: Reporter) -> Self {
        reporter.0
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Reporter {
    /// Asks the server for a connection to the keeper, for the process this session moves to. None
    /// when there is none to be had.
    //= spec/processes.md#moving
    pub fn ask_connection(&self) -> Option<OwnedFd> {
        self.tell(Report::Moving);
        self.connection()
    }

    /// The answer to [`Report::Moving`].
    pub(crate) fn connection(&self) -> Option<OwnedFd> {
        let limit = Timespec {
            tv_sec: PATIENCE,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit))).ok()?;
        let (mut answer, mut fds) = ([0; 2], Vec::new());
        let got = socket::recv_with_fds(&self.0, &mut answer, &mut fds, false).ok()?;
        match (&answer[..got.len], fds.pop()) {
            (&[GIVEN], Some(connection)) if fds.is_empty() => Some(connection),
            _ => None,
        }
    }

    /// Tells the server. A server that is gone is told nothing: the session goes on without it.
    pub fn tell(&self, report: Report) {
        let mut bytes = [0; MAX_REPORT];
        if let Ok(message) = postcard::to_slice(&report, &mut bytes) {
            let _ = rustix::io::retry_on_intr(|| {
                rustix::net::send(&self.0, &*message, SendFlags::NOSIGNAL)
            });
        }
    }
}

/// What [`Reports::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A report.
    Report(Report),
    /// Something that is no report.
    Garbage,
    /// Nothing now.
    Nothing,
    /// No process of the session is left.
    Gone,
}

impl Reports {
    /// Answers [`Report::Moving`]. A session that does not take it has no successor.
    pub fn give_connection(&self, connection: Option<&OwnedFd>) {
        let answer = [if connection.is_some() { GIVEN } else { REFUSED }];
        let fds: Vec<BorrowedFd<'_>> = connection.into_iter().map(AsFd::as_fd).collect();
        // One that asks and does not read is not waited for.
        let _ = socket::send_with_fds_now(&self.0, &[IoSlice::new(&answer)], &fds);
    }

    /// The next report, without waiting for one.
    pub fn next(&self) -> Next {
        // One byte more than the longest, to see that a message was longer.
        let mut bytes = [0; MAX_REPORT + 1];
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.0, &mut bytes, RecvFlags::DONTWAIT)
        });
        match received.map(|(length, _)| length) {
            Err(rustix::io::Errno::AGAIN) => Next::Nothing,
            Ok(0) | Err(_) => Next::Gone,
            Ok(length) => match postcard::take_from_bytes(&bytes[..length]) {
                Ok((report, [])) => Next::Report(report),
                _ => Next::Garbage,
            },
        }
    }
}

impl AsFd for Reports {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_in_order_and_the_end_is_seen() {
        let (reporter, reports) = channel().unwrap();
        assert_eq!(reports.next(), Next::Nothing);
        let running = Report::Running {
            process: u32::MAX,
            hops: u32::MAX,
        };
        let reason = Reason::System(i32::MIN);
        let ended = Report::Ended(Ending {
            reason,
            received: u64::MAX,
            sent: u64::MAX,
            hops: u32::MAX,
        });
        reporter.tell(running);
        reporter.tell(ended);
        assert_eq!(reports.next(), Next::Report(running));
        assert_eq!(reports.next(), Next::Report(ended));
        drop(reporter);
        assert_eq!(reports.next(), Next::Gone);
    }

    #[test]
    fn what_is_no_report_is_told_as_such() {
        let (reporter, reports) = channel().unwrap();
        for garbage in [&[9u8][..], &[0, 1, 1, 7], &[0; 65], &[2, 3, 0xff]] {
            rustix::net::send(&reporter.0, garbage, SendFlags::NOSIGNAL).unwrap();
            assert_eq!(reports.next(), Next::Garbage);
        }
    }

    #[test]
    fn a_server_that_is_gone_is_not_waited_for() {
        let (reporter, reports) = channel().unwrap();
        drop(reports);
        reporter.tell(Report::Command { process: 1 });
    }
}
