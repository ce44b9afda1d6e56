//! Who may ask at the control socket.
//!
//! SECURITY: a session's command may be the same user's as the server. What tells it from the
//! operator is `no_new_privs`, which every process of the server has and none below it can lose.
//! The page says what this does not hold off (`spec/control.md#who`).

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::process::{self, pidfd_runs};
use crate::sys::socket::{peer_credentials, peer_pidfd};

/// The process that asks.
pub(crate) struct Asker {
    /// Its number.
    pub(crate) process: u32,
    /// Its user.
    pub(crate) user: u32,
    /// The process itself, whatever becomes of its number.
    #[allow(dead_code, reason = "for what is handed the connection")]
    pub(crate) pidfd: OwnedFd,
}

/// Why it may not.
#[derive(Debug)]
pub(super) enum Stranger {
    /// It is another user's.
    User(u32),
    /// It has `no_new_privs`.
    Confined(u32),
    /// It has ended, or cannot be seen.
    Unseen,
    /// The kernel cannot tell.
    System(io::Error),
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user {user} may not ask here"),
            Self::Confined(process) => write!(f, "process {process} has no_new_privs set"),
            Self::Unseen => f.write_str("the process that asks cannot be seen"),
            Self::System(error) => write!(f, "the process that asks is not known: {error}"),
        }
    }
}

/// Whether the kernel can say which process made a connection.
pub(super) fn is_possible() -> io::Result<bool> {
    let (near, _far) = std::os::unix::net::UnixStream::pair()?;
    Ok(peer_pidfd(&near)?.is_some())
}

/// Lets in the process that made the connection of `socket`, or not.
//= spec/control.md#who
pub(super) fn admit(socket: impl AsFd) -> Result<Asker, Stranger> {
    let socket = socket.as_fd();
    let peer = peer_credentials(socket).map_err(Stranger::System)?;
    let own = process::uid();
    if peer.uid != own && peer.uid != 0 {
        return Err(Stranger::User(peer.uid));
    }
    if peer.pid == 0 {
        return Err(Stranger::Unseen);
    }
    let pidfd = match peer_pidfd(socket) {
        Ok(Some(pidfd)) => pidfd,
        Ok(None) => return Err(Stranger::Unseen),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Stranger::Unseen),
        Err(error) => return Err(Stranger::System(error)),
    };
    // Nothing below a server that is not root's can be root's.
    let asks_below = peer.uid == own;
    if asks_below && is_confined(peer.pid)? {
        return Err(Stranger::Confined(peer.pid));
    }
    // Only now: as it still runs, the number above was its own.
    match pidfd_runs(&pidfd) {
        Ok(true) => Ok(Asker {
            process: peer.pid,
            user: peer.uid,
            pidfd,
        }),
        Ok(false) => Err(Stranger::Unseen),
        Err(error) => Err(Stranger::System(error)),
    }
}

fn is_confined(process: u32) -> Result<bool, Stranger> {
    let text = std::fs::read(format!("/proc/{process}/status")).map_err(|_| Stranger::Unseen)?;
    no_new_privs(&text).ok_or(Stranger::Unseen)
}

/// What the file says (proc_pid_status(5), since Linux 4.10).
fn no_new_privs(text: &[u8]) -> Option<bool> {
    // The first line, with the name that the process chose, has its line feeds escaped.
    let value = text
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"NoNewPrivs:"))?;
    match value.trim_ascii() {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::process::{Fork, exit_now, fork};

    #[test]
    fn what_is_not_clear_is_no() {
        assert_eq!(no_new_privs(b"Name:\tx\nNoNewPrivs:\t0\n"), Some(false));
        assert_eq!(no_new_privs(b"NoNewPrivs:\t1\nSeccomp:\t2\n"), Some(true));
        for unclear in [
            &b""[..],
            b"NoNewPrivs:",
            b"NoNewPrivs:\t2",
            b"Name:\tNoNewPrivs:\t0\n",
            b"xNoNewPrivs:\t0\n",
        ] {
            assert_eq!(no_new_privs(unclear), None);
        }
    }

    //= proves spec/control.md#who
    #[test]
    fn a_process_that_has_ended_and_one_that_is_confined_are_strangers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let from_child = |confined: bool, lives: bool| {
            let (here, there) = UnixStream::pair().unwrap();
            match fork().unwrap() {
                Fork::Child => {
                    drop(here);
                    if confined {
                        rustix::thread::set_no_new_privs(true).unwrap();
                    }
                    let connection = UnixStream::connect(&path).unwrap();
                    if lives {
                        // Until the parent closes its end.
                        let _ = io::Read::read(&mut &there, &mut [0]);
                    }
                    drop(connection);
                    exit_now(0);
                }
                Fork::Parent(mut child) => {
                    drop(there);
                    let (connection, _) = listener.accept().unwrap();
                    if !lives {
                        child.wait().unwrap();
                    }
                    let admitted = admit(&connection);
                    drop(here);
                    if lives {
                        child.wait().unwrap();
                    }
                    (admitted, child.pid())
                }
            }
        };
        let (admitted, process) = from_child(false, true);
        // The test itself may be confined; then so is its child.
        let confined_here = is_confined(process::pid()).unwrap();
        match admitted {
            Ok(asker) if !confined_here => {
                assert_eq!((asker.process, asker.user), (process, process::uid()));
            }
            Err(Stranger::Confined(_)) if confined_here => {}
            other => panic!("{:?}", other.err()),
        }
        let (admitted, process) = from_child(true, true);
        assert!(matches!(admitted, Err(Stranger::Confined(stranger)) if stranger == process));
        let (admitted, _) = from_child(false, false);
        assert!(matches!(admitted, Err(Stranger::Unseen)));
    }
}
