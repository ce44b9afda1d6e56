//! This process, others, and children.
//!
//! A process number says little: it is used again, and a forked child has another one only when
//! asked by a system call. So this process has a [`word`] that a child cannot have, and processes
//! have an [`Identity`] that no later process can have.

mod child;
mod command;
mod identity;
#[cfg(test)]
mod tests;
mod user;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rustix::process::{
    DumpableBehavior, Rlimit, getegid, geteuid, getpgrp, getpid, getrlimit, setpgid, setrlimit,
};

use super::entropy;
use super::page::{PAGE, advise};

pub use child::{Child, Fork, exit_now, fork, fork_one_of_many};
pub use command::{Bounds, start};
pub(super) use identity::OwnIdentity;
pub use identity::{Identity, open_pidfd, pidfd_inode, pidfd_runs};
pub use rustix::process::{Resource, Signal};
pub use user::{Keep, become_user, can_become, lift_lock_limit, lower_limit, set_user};

/// The word of this process: the same at every call, never 0, and another one in every process
/// forked from it, however it was forked.
///
/// One load of one word. In a child the kernel has made it zero, and the child's first call draws
/// a new one. A `vfork` child shares its parent's memory, and word, until it executes.
///
/// Where the kernel cannot wipe on fork ([`supported`] is an error) every call answers another
/// word: what is tied to a word is then never found valid.
#[inline]
pub fn word() -> u64 {
    // Relaxed is enough: the word guards no other memory but the page's own advice, which the
    // kernel has taken before the word was stored.
    match PAGE.word.load(Relaxed) {
        0 => first_word(),
        word => word,
    }
}

#[cold]
fn first_word() -> u64 {
    if advise().is_err() {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        return CALLS.fetch_add(1, Relaxed) | 1 << 63;
    }
    let mut bytes = [0; 8];
    // Without entropy (early boot, a filter) number and time tell parent from child as well: no
    // two processes have both in common while one of them lives.
    let word = match entropy::ask(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => u64::from(pid()) << 40 ^ super::clock::boottime_ms(),
    }
    .max(1);
    match PAGE.word.compare_exchange(0, word, Relaxed, Relaxed) {
        Ok(_) => word,
        Err(others) => others,
    }
}

/// Whether this kernel can keep the promises: Linux 4.14 or newer. The error is its answer to
/// `madvise(MADV_WIPEONFORK)`.
#[inline]
pub fn supported() -> io::Result<()> {
    if PAGE.word.load(Relaxed) == 0 {
        advise()?;
        first_word();
    }
    Ok(())
}

/// The number of this process, in its own process namespace. A system call.
pub fn pid() -> u32 {
    getpid().as_raw_pid().unsigned_abs()
}

/// The effective user of this process: what a peer's credentials show of it.
pub fn uid() -> u32 {
    geteuid().as_raw()
}

/// The effective group of this process.
pub fn gid() -> u32 {
    getegid().as_raw()
}

/// The process group of this process.
pub fn process_group() -> u32 {
    getpgrp().as_raw_pid().unsigned_abs()
}

/// The process group of the process with this number; `NotFound` when there is none.
pub fn process_group_of(pid: u32) -> io::Result<u32> {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or(io::ErrorKind::NotFound)?;
    // Not by rustix: a thread of the kernel's is of group 0, for which it has no number.
    // SAFETY: A system call without pointers.
    let group = unsafe { libc::getpgid(pid) };
    u32::try_from(group).map_err(|_| {
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ESRCH) => io::ErrorKind::NotFound.into(),
            _ => error,
        }
    })
}

/// Sends a signal to every process of this one's group, this one among them.
pub fn tell_own_group(signal: Signal) -> io::Result<()> {
    rustix::process::kill_current_process_group(signal)?;
    Ok(())
}

/// Makes this process the leader of a process group of its own.
pub fn new_process_group() -> io::Result<()> {
    setpgid(None, None)?;
    Ok(())
}

/// The 128 random bits that name this start of the machine (`/proc/sys/kernel/random/boot_id`).
///
/// Read once. The error is that of reading, or `InvalidData`.
pub fn boot_id() -> io::Result<[u8; 16]> {
    // Not a lock: a child must not wait for one which another thread held at the fork. Threads
    // that come at the same time write the same halves.
    static HALVES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    let mut halves = HALVES.each_ref().map(|half| half.load(Relaxed));
    // A half of zeros is one in 2^64 boots, and then is only read again.
    if halves.contains(&0) {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        halves = parse_boot_id(&text).ok_or(io::ErrorKind::InvalidData)?;
        for (kept, half) in HALVES.iter().zip(halves) {
            kept.store(half, Relaxed);
        }
    }
    let mut id = [0; 16];
    id[..8].copy_from_slice(&halves[0].to_be_bytes());
    id[8..].copy_from_slice(&halves[1].to_be_bytes());
    Ok(id)
}

/// 32 hexadecimal digits, with hyphens between.
fn parse_boot_id(text: &str) -> Option<[u64; 2]> {
    let digits: String = text.trim_end().chars().filter(|&c| c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let (first, second) = digits.split_at(16);
    Some([
        u64::from_str_radix(first, 16).ok()?,
        u64::from_str_radix(second, 16).ok()?,
    ])
}

/// No core file of this process, nor of those it starts: `RLIMIT_CORE` is 0 for good.
///
/// Where the kernel pipes core files to a program, that program still gets them; see
/// [`set_not_dumpable`].
pub fn disable_core_dumps() -> io::Result<()> {
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    Ok(())
}

/// No core dump of this process at all, no debugger of the same user, and its files in `/proc`
/// belong to root. A forked child has the same; executing a program resets it.
pub fn set_not_dumpable() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// The soft limit before it was raised; 0 when it was not.
static FIRST_DESCRIPTOR_LIMIT: AtomicU64 = AtomicU64::new(0);

/// Raises the number of descriptors this process may have open to its hard limit, and answers it.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let first = limit.current.unwrap_or(u64::MAX);
    let _ = FIRST_DESCRIPTOR_LIMIT.compare_exchange(0, first, Relaxed, Relaxed);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Lowers the number of descriptors again to what it was before [`raise_descriptor_limit`]; it can
/// be raised again.
pub fn restore_descriptor_limit() -> io::Result<()> {
    let first = FIRST_DESCRIPTOR_LIMIT.load(Relaxed);
    if first > 0 {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = Some(maximum.map_or(first, |maximum| first.min(maximum)));
        setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    }
    Ok(())
}

/// Has `command` run with as many descriptors as this process had before
/// [`raise_descriptor_limit`].
pub fn give_first_descriptor_limit(command: &mut Command) -> &mut Command {
    // SAFETY: What runs between fork and exec loads an atomic and makes two system calls: it takes
    // no lock, and allocates nothing.
    unsafe { command.pre_exec(restore_descriptor_limit) }
}
