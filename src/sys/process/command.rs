//! Starting a program that is given nothing but what it is given.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Resource;
use rustix::thread::set_no_new_privs;

use super::{Child, lower_limit, restore_descriptor_limit};

/// What a started program may have at most; none is what this process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of address space.
    pub memory: Option<u64>,
    /// Seconds of processor time, in its whole life.
    pub seconds: Option<u64>,
    /// Descriptors.
    pub files: Option<u64>,
}

/// Starts `command` within `bounds`: leader of a process group of its own, with no signal blocked
/// or ignored, without core dumps, unable to gain privileges by what it executes, and with no descriptor but 0,
/// 1 and 2.
///
/// # Errors
/// The system's, of making the process or executing the program.
pub fn start(command: &mut Command, bounds: Bounds) -> io::Result<Child> {
    command.process_group(0);
    let before = move || {
        restore_descriptor_limit()?;
        let limits = [
            (Resource::As, bounds.memory),
            (Resource::Cpu, bounds.seconds),
            (Resource::Nofile, bounds.files),
            (Resource::Core, Some(0)),
        ];
        for (resource, limit) in limits {
            if let Some(limit) = limit {
                lower_limit(resource, limit)?;
            }
        }
        set_no_new_privs(true)?;
        heed_signals();
        unblock_signals()?;
        close_descriptors()
    };
    // SAFETY: What runs between fork and exec loads an atomic and makes system calls: it takes no
    // lock, and allocates nothing.
    unsafe { command.pre_exec(before) };
    let child = command.spawn()?;
    Child::started(child.id())
}

/// Has every signal do what it does by default: exec leaves ignored what was ignored.
fn heed_signals() {
    // SAFETY: An action of zeros is the default one, with an empty mask; an error, for a signal that
    // has no other action or is the C library's own, changes nothing.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=libc::SIGRTMAX() {
            libc::sigaction(signal, &raw const default, std::ptr::null_mut());
        }
    }
}

fn unblock_signals() -> io::Result<()> {
    let mut none = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set and cannot fail; the set is read after that; a
    // null pointer asks for no answer.
    let refused = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    match refused {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Has every descriptor from 3 on closed by exec.
fn close_descriptors() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: takes numbers only.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if answer == 0 {
        return Ok(());
    }
    // Before Linux 5.11, or where a filter hides the call: one by one.
    let most = rustix::process::getrlimit(Resource::Nofile).current;
    let most = most.unwrap_or(1 << 20).min(1 << 20) as libc::c_int;
    for fd in FIRST as libc::c_int..most {
        // SAFETY: F_SETFD takes an integer and touches no memory; a number that is no descriptor is
        // an error, which says that there is nothing to close.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}
