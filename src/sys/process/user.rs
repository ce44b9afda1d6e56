//! Becoming another user, for good.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities,
};

use super::{Fork, exit_now, fork, set_not_dumpable};

/// What a process may still do that not everyone may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: no capability is left, and none can be had again.
    Nothing,
    /// Become other users (CAP_SETUID and CAP_SETGID), and nothing else.
    BecomingUsers,
}

/// Becomes another user for good: real, effective and saved user and group, and no further groups.
/// All threads of the process follow. Only root may; the error then is `PermissionDenied`, and
/// after any error the process may be half of each: it had better end.
pub fn set_user(uid: u32, gid: u32) -> io::Result<()> {
    set_user_and_groups(uid, gid, &[])
}

fn set_user_and_groups(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // The C library's, not the kernel's: the kernel's changes one thread.
    // In this order: without its user a process may no longer change its groups.
    // SAFETY: the list is as long as is said, and is read only.
    done(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: takes numbers only.
    done(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: takes numbers only.
    done(unsafe { libc::setresuid(uid, uid, uid) })
}

fn done(answer: libc::c_int) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// [`set_user`] with further groups, in a process of one thread; of the capabilities, only what
/// `keep` says is left, also when the user is root. It cannot be dumped or traced afterwards.
///
/// After an error the process must end.
pub fn become_user(uid: u32, gid: u32, groups: &[u32], keep: Keep) -> io::Result<()> {
    forget_bounding_set()?;
    if keep == Keep::BecomingUsers {
        set_keep_capabilities(true)?;
    }
    set_user_and_groups(uid, gid, groups)?;
    let kept = match keep {
        Keep::Nothing => CapabilitySet::empty(),
        Keep::BecomingUsers => CapabilitySet::SETUID | CapabilitySet::SETGID,
    };
    // What is not permitted cannot be ambient either.
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    if keep == Keep::BecomingUsers {
        set_keep_capabilities(false)?;
    }
    // Another user makes a process dumpable again, or not, as the machine is set.
    set_not_dumpable()
}

/// No program that is executed gains any capability, whoever executes it.
fn forget_bounding_set() -> io::Result<()> {
    for number in 0..64 {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // No such capability, nor any after it; or no right to forget one: then the process
            // that this one was forked from has.
            Err(Errno::INVAL | Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether this process can become each of these users. It is tried, in a child.
pub fn can_become(users: &[(u32, u32)]) -> bool {
    let able = CapabilitySet::SETUID | CapabilitySet::SETGID;
    match capabilities(None) {
        Ok(sets) if sets.effective.contains(able) => {}
        _ => return false,
    }
    let tried = |&(uid, gid): &(u32, u32)| match fork() {
        Ok(Fork::Child) => exit_now(become_user(uid, gid, &[], Keep::Nothing).is_err().into()),
        Ok(Fork::Parent(mut child)) => child.wait().is_ok_and(|status| status.success()),
        Err(_) => false,
    };
    users.iter().all(tried)
}

/// Lowers a limit of this process, soft and hard, to `most`, for good. A limit that is lower
/// already stays.
pub fn lower_limit(resource: Resource, most: u64) -> io::Result<()> {
    let old = rustix::process::getrlimit(resource);
    let lower = |value: Option<u64>| Some(value.map_or(most, |value| value.min(most)));
    setrlimit(
        resource,
        Rlimit {
            current: lower(old.current),
            maximum: lower(old.maximum),
        },
    )?;
    Ok(())
}

/// Locks as much memory as it may, also as another user: as much as it likes, or, without the
/// right to say so (CAP_SYS_RESOURCE), up to its hard limit.
pub fn lift_lock_limit() -> io::Result<()> {
    let limit = |most| Rlimit {
        current: most,
        maximum: most,
    };
    match setrlimit(Resource::Memlock, limit(None)) {
        Err(Errno::PERM) => {
            let hard = rustix::process::getrlimit(Resource::Memlock).maximum;
            Ok(setrlimit(Resource::Memlock, limit(hard))?)
        }
        answer => Ok(answer?),
    }
}
