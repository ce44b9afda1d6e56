//! Descriptors that a service manager passed to this process (sd_listen_fds(3)).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::process;

/// The first of them.
const FIRST: RawFd = 3;
/// More than anyone passes.
const MOST: RawFd = 64;

/// The descriptors that `LISTEN_PID` and `LISTEN_FDS` tell of, all of them closing on `exec` from
/// now on. None when they were passed to another process, or were asked for before.
///
/// To be called before this process opens anything: what it has opened by then would pass for what
/// was passed.
///
/// # Errors
/// `InvalidData` when there are not as many as they say; then nothing is taken.
//= spec/service.md#passed
pub fn descriptors() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name| std::env::var(name).ok()?.parse::<RawFd>().ok();
    let ours = i32::try_from(process::pid()).ok();
    if number("LISTEN_PID").is_none() || number("LISTEN_PID") != ours {
        return Ok(Vec::new());
    }
    let count = match number("LISTEN_FDS") {
        Some(count @ 1..=MOST) => count,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    if TAKEN.swap(true, Relaxed) {
        return Ok(Vec::new());
    }
    for fd in FIRST..FIRST + count {
        // SAFETY: F_SETFD takes an integer and touches no memory; a number that is no descriptor is
        // an error.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    // SAFETY: they are open, as the call above has seen; the process had them when it began and has
    // opened nothing since, so nobody here owns them; and this is reached once in its life.
    let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((FIRST..FIRST + count).map(own).collect())
}
