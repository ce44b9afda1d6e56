//! Signals as a descriptor, read where an event loop wants them: no handler runs, so nothing is
//! interrupted and nothing races.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Signal;

/// Watched signals: blocked in the calling thread, and in what it forks, until this is dropped.
///
/// A signal that arrives several times before it is read is told once.
pub struct Watch {
    fd: OwnedFd,
    before: libc::sigset_t,
}

/// Becomes readable, and stays so, while one of some watched signals waits to be read: it takes none
/// of them.
pub struct Glance(OwnedFd);

impl Glance {
    /// At `signals`, which are blocked: a [`Watch`] has them.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        descriptor(&set(signals)).map(Self)
    }
}

impl AsFd for Glance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set; it and sigaddset fail only for numbers
    // that are no signals, which `Signal` does not hold.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        set.assume_init()
    }
}

fn descriptor(set: &libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: -1 asks for a new descriptor; `set` is initialised and outlives the call.
    let fd = unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd has just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Watch {
    /// Watches `signals` in the calling thread. In a program of several threads the others must
    /// have them blocked already, or they are delivered there.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let set = set(signals);
        let fd = descriptor(&set)?;
        let mut before = MaybeUninit::uninit();
        // SAFETY: both sets are valid for the call, which fills `before` when it succeeds.
        let refused = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, before.as_mut_ptr()) };
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused));
        }
        // SAFETY: pthread_sigmask succeeded, so it has filled `before`.
        let before = unsafe { before.assume_init() };
        Ok(Self { fd, before })
    }

    /// The next signal that has arrived; none when none has. It does not wait.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let wanted = size_of::<libc::signalfd_siginfo>();
        loop {
            // SAFETY: `info` is writable for the bytes asked for.
            let got = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), wanted) };
            if got == wanted as isize {
                // SAFETY: the kernel filled the structure, which any bytes are valid for.
                let number = unsafe { info.assume_init() }.ssi_signo;
                return Ok(i32::try_from(number).ok().and_then(Signal::from_named_raw));
            }
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                io::ErrorKind::Interrupted => continue,
                _ => Err(error),
            };
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: `before` is the mask that was in force; a null pointer asks for no answer.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_signal_is_read_and_not_delivered() {
        let watch = Watch::new(&[Signal::USR1]).unwrap();
        assert_eq!(watch.next().unwrap(), None);
        // To this thread alone: others of the test program do not block it.
        let thread = rustix::thread::gettid();
        // SAFETY: the thread is this one.
        unsafe {
            libc::syscall(
                libc::SYS_tgkill,
                libc::getpid(),
                thread.as_raw_nonzero().get(),
                libc::SIGUSR1,
            )
        };
        assert_eq!(watch.next().unwrap(), Some(Signal::USR1));
        assert_eq!(watch.next().unwrap(), None);
    }
}
