//! The service manager that started the server: what it passes and what it is told
//! (`spec/service.md`).
//!
//! Invariants: telling waits for nobody; without the manager's variables nothing is done.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with, sockopt,
};
use rustix::time::{ClockId, clock_gettime};

use crate::sys::{passed, process};

/// How often the number of sessions is told, at most.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// When what was not taken is told again.
const AGAIN: Duration = Duration::from_secs(1);

/// Why the sockets that were passed are of no use.
#[derive(Debug)]
pub enum Unfit {
    /// There are not as many as was said.
    Missing(io::Error),
    /// One of them is no listening TCP socket.
    Kind,
    /// They are of two addresses.
    Several,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(error) => write!(f, "LISTEN_FDS: no such descriptors: {error}"),
            Self::Kind => f.write_str("LISTEN_FDS: not a listening TCP socket"),
            Self::Several => f.write_str("LISTEN_FDS: sockets of several addresses"),
        }
    }
}

impl std::error::Error for Unfit {}

/// The socket that the service manager passed, if it did. To be called before anything is opened.
///
/// # Errors
/// When what was passed is something else.
//= spec/service.md#passed
pub fn passed_listener() -> Result<Option<TcpListener>, Unfit> {
    let mut first: Option<TcpListener> = None;
    for fd in passed::descriptors().map_err(Unfit::Missing)? {
        let listener = listener(fd).ok_or(Unfit::Kind)?;
        match &first {
            None => first = Some(listener),
            Some(first) => {
                let address = |listener: &TcpListener| listener.local_addr().ok();
                if address(first) != address(&listener) {
                    return Err(Unfit::Several);
                }
            }
        }
    }
    Ok(first)
}

fn listener(fd: OwnedFd) -> Option<TcpListener> {
    let family = sockopt::socket_domain(&fd).ok()?;
    let is_tcp = [AddressFamily::INET, AddressFamily::INET6].contains(&family)
        && sockopt::socket_type(&fd) == Ok(SocketType::STREAM);
    (is_tcp && sockopt::socket_acceptconn(&fd) == Ok(true)).then(|| fd.into())
}

/// What the server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Connections are accepted.
    Ready,
    /// New terms are asked for.
    Reloading,
    /// Nothing more is accepted.
    Stopping,
}

/// The service manager's ear, if there is one.
pub(super) struct Service {
    socket: Option<(OwnedFd, SocketAddrUnix)>,
    /// The manager passed the listener.
    passed: bool,
    stored: bool,
    phase: Option<Phase>,
    /// Sessions that were told of, and when.
    told: (usize, Instant),
    /// Sessions there are.
    sessions: usize,
    /// Something was not taken.
    again: Option<Instant>,
    watchdog: Option<(Duration, Instant)>,
}

impl Service {
    /// What the environment says.
    //= spec/service.md#notify
    pub(super) fn from_environment(passed: bool) -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| ear(&name));
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let ours = match std::env::var_os("WATCHDOG_PID") {
            Some(_) => number("WATCHDOG_PID") == Some(process::pid().into()),
            None => true,
        };
        let watchdog = number("WATCHDOG_USEC").filter(|time| *time > 1 && ours);
        let now = Instant::now();
        Self {
            socket,
            passed,
            stored: false,
            phase: None,
            told: (0, now),
            sessions: 0,
            again: None,
            watchdog: watchdog.map(|time| (Duration::from_micros(time / 2), now)),
        }
    }

    /// Whether the listener may be the manager's, too.
    //= spec/service.md#kept-open
    pub(super) fn has_listener(&self) -> bool {
        self.passed || self.stored
    }

    /// When something is to be told although nothing happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.socket.as_ref()?;
        let (told, when) = self.told;
        let status = (told != self.sessions).then_some(when + STATUS_EVERY);
        let watchdog = self.watchdog.map(|(_, due)| due);
        self.again.into_iter().chain(status).chain(watchdog).min()
    }

    /// SIGHUP has come: whatever comes of it, it is told as begun.
    pub(super) fn reloading(&mut self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        let state = format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=Reloading");
        if self.send(&state, None) {
            self.phase = Some(Phase::Reloading);
        }
    }

    /// Another process is the server from now on. Whether that is told, or need not be.
    pub(super) fn hand_over(&self, process: u32) -> bool {
        self.socket.is_none() || self.send(&format!("MAINPID={process}"), None)
    }

    /// Tells what has changed.
    pub(super) fn tell(&mut self, phase: Phase, sessions: usize, listener: &TcpListener) {
        if self.socket.is_none() {
            return;
        }
        let now = Instant::now();
        self.sessions = sessions;
        self.again.take_if(|again| *again <= now);
        if self.again.is_none() {
            self.tell_now(phase, now, listener);
        }
        if let Some((every, due)) = self.watchdog
            && due <= now
        {
            self.send("WATCHDOG=1", None);
            self.watchdog = Some((every, now + every));
        }
    }

    fn tell_now(&mut self, phase: Phase, now: Instant, listener: &TcpListener) {
        let (told, when) = self.told;
        let status = match self.sessions {
            1 => "STATUS=1 session".to_owned(),
            sessions => format!("STATUS={sessions} sessions"),
        };
        let state = match phase {
            Phase::Ready => "READY=1\n",
            // It was told when it began.
            Phase::Reloading => "",
            Phase::Stopping => "STOPPING=1\n",
        };
        let changed = self.phase != Some(phase) && !state.is_empty();
        let state = if changed { state } else { "" };
        if changed || (told != self.sessions && when + STATUS_EVERY <= now) {
            if !self.send(&format!("{state}{status}"), None) {
                self.again = Some(now + AGAIN);
                return;
            }
            self.told = (self.sessions, now);
            if changed {
                self.phase = Some(phase);
            }
        }
        if phase == Phase::Ready && !self.stored {
            let store = "FDSTORE=1\nFDNAME=listen\nFDPOLL=0";
            self.stored = self.send(store, Some(listener.as_fd()));
            self.again = (!self.stored).then_some(now + AGAIN);
        }
    }

    /// Whether it was taken.
    fn send(&self, state: &str, fd: Option<BorrowedFd<'_>>) -> bool {
        let Some((socket, address)) = &self.socket else {
            return false;
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return false;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let slices = [IoSlice::new(state.as_bytes())];
        sendmsg_addr(socket, address, &slices, &mut control, flags).is_ok()
    }
}

/// A socket to tell on, and where.
fn ear(name: &OsString) -> Option<(OwnedFd, SocketAddrUnix)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
        [b'/', ..] => SocketAddrUnix::new(name.as_os_str()),
        _ => return None,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
    Some((socket.ok()?, address.ok()?))
}
