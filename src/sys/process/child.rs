//! Making a child, and hearing its end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, pidfd_send_signal, waitpid,
};

use super::identity::open_pidfd;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The process that called, and its new child.
    Parent(Child),
    /// The new process. All it holds is a copy; it has one thread, the one that called.
    Child,
}

/// Makes a copy of this process (`fork`).
///
/// The error is the kernel's: no memory, or too many processes.
///
/// # In the child
/// - Every secret of the parent is gone ([`crate::secret::Slot`]), every context dead. What the
///   child is to go on with reaches it as a token.
/// - References into secret memory that were taken before the fork must not be used: the bytes
///   are zeros. Owners of secrets are safe to use, and to drop.
/// - Locks that other threads held stay locked. In a program with more threads than this one,
///   the child may use this crate and the allocator, and must be wary of all else.
/// - Returning runs the parent's destructors on the copies. End with [`exit_now`] instead.
///
/// ```
/// use baton::sys::process::{Fork, exit_now, fork};
/// match fork()? {
///     Fork::Child => exit_now(7),
///     Fork::Parent(mut child) => assert_eq!(child.wait()?.code(), Some(7)),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn fork() -> io::Result<Fork> {
    Ok(match fork_one_of_many()? {
        None => Fork::Child,
        // The child cannot be anyone else yet: its number is not used again before `wait`. (Where
        // SIGCHLD is ignored it may be; then there may be no descriptor.)
        Some(pid) => Fork::Parent(Child {
            pid,
            pidfd: open_pidfd(pid.as_raw_pid().unsigned_abs()).ok().flatten(),
            status: None,
        }),
    })
}

/// [`fork`], for who waits for whichever child ends: the new child's number, and none in the child.
pub fn fork_one_of_many() -> io::Result<Option<Pid>> {
    // SAFETY: The C library's `fork` keeps its own locks consistent in the child. Nothing of this
    // crate relies on a thread that is not there: locks of secret memory are wiped open.
    let pid = unsafe { libc::fork() };
    match Pid::from_raw(pid) {
        Some(_) if pid < 0 => Err(io::Error::last_os_error()),
        child => Ok(child),
    }
}

/// Ends this process at once: no destructor runs, no buffer is flushed, no exit handler called.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` ends the process and nothing else.
    unsafe { libc::_exit(code.into()) }
}

/// A child of this process. Dropping it leaves the child running, and unwaited for.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: Option<OwnedFd>,
    status: Option<ExitStatus>,
}

impl Child {
    /// One that was started and not waited for.
    pub(super) fn started(number: u32) -> io::Result<Self> {
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        Ok(Self {
            pid: pid.ok_or(io::ErrorKind::NotFound)?,
            pidfd: open_pidfd(number).ok().flatten(),
            status: None,
        })
    }

    /// Takes note that somebody else in this process has waited for it.
    pub fn was_waited_for(&mut self, status: ExitStatus) {
        self.status = Some(status);
    }

    /// Sends a signal to the process group that it leads; nothing when it was waited for, since the
    /// group's number may be another's then.
    pub fn kill_group(&self, signal: Signal) -> io::Result<()> {
        if self.status.is_none() {
            kill_process_group(self.pid, signal)?;
        }
        Ok(())
    }

    /// Sends a signal to what is left of the process group that it led, also when it was waited for:
    /// the group is found by the descriptor, so that it is no later one of the same number.
    ///
    /// Needs Linux 6.9; the error before that is `InvalidInput`.
    pub fn kill_rest_of_group(&self, signal: Signal) -> io::Result<()> {
        const PROCESS_GROUP: libc::c_uint = 1 << 2;
        let Some(pidfd) = &self.pidfd else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        // SAFETY: A null pointer stands for the information that `kill` would give; the rest are
        // numbers.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_raw_fd(),
                signal.as_raw(),
                std::ptr::null::<libc::siginfo_t>(),
                PROCESS_GROUP,
            )
        };
        match answer {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Its descriptor, readable once it has ended; none before Linux 5.3.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Waits until it has ended; answers the same at every later call.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            // Without NOHANG there is an answer or an error.
            if let Some(status) = self.look(WaitOptions::empty())? {
                return Ok(status);
            }
        }
    }

    /// Waits until it has ended, no longer than until then; none when it has not. Without a descriptor
    /// of the process it is only looked at.
    pub fn wait_until(&mut self, by: Instant) -> io::Result<Option<ExitStatus>> {
        while let (None, Some(pidfd)) = (self.status, &self.pidfd) {
            let left = by.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        self.try_wait()
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.look(WaitOptions::NOHANG)
    }

    /// Waits until a signal has stopped it: true. False when it has ended instead.
    pub fn wait_stopped(&mut self) -> io::Result<bool> {
        loop {
            match self.raw_wait(WaitOptions::UNTRACED)? {
                Some(raw) if libc::WIFSTOPPED(raw) => return Ok(true),
                Some(raw) => {
                    self.status = Some(ExitStatus::from_raw(raw));
                    return Ok(false);
                }
                None if self.status.is_some() => return Ok(false),
                None => {}
            }
        }
    }

    fn look(&mut self, options: WaitOptions) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.raw_wait(options)?.map(ExitStatus::from_raw);
        }
        Ok(self.status)
    }

    fn raw_wait(&self, options: WaitOptions) -> io::Result<Option<i32>> {
        if self.status.is_some() {
            return Ok(None);
        }
        loop {
            match waitpid(Some(self.pid), options) {
                Err(Errno::INTR) => {}
                answer => return Ok(answer?.map(|(_, status)| status.as_raw())),
            }
        }
    }

    /// Sends it a signal; nothing when it has ended and was waited for.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        if self.status.is_some() {
            return Ok(());
        }
        // Not waited for, so the number is still its own too.
        match &self.pidfd {
            Some(pidfd) => pidfd_send_signal(pidfd, signal)?,
            None => kill_process(self.pid, signal)?,
        }
        Ok(())
    }
}
