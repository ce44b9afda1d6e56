//! What a process of the server gives up before it meets a peer (`spec/processes.md#confine`).
//!
//! SECURITY: giving up cannot be taken back, by this process or by what it forks. What is not
//! listed here is refused (EPERM): a list of what is needed fails safe, one of what is dangerous
//! does not.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::sys::process::{self, Identity};

/// What a process is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Accepts, and makes handshakes.
    Handshaker,
    /// Forks sessions of a built-in kind, which keep what it gives up.
    Zygote(Becomes),
}

/// Whom sessions that are forked here become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Becomes {
    /// Nobody else: there is no right to.
    Nobody,
    /// Other users, but never root.
    Users,
    /// Any user: the configuration has a session that is root.
    Anyone,
}

/// What the kernel has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Landlock, or so much of it that files cannot be kept away.
    landlock: bool,
}

/// Why nothing can be given up: the process must not go on.
#[derive(Debug)]
pub(super) struct Refused(&'static str, String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0, self.1)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.landlock {
            true => f.write_str("this kernel has no Landlock: system calls alone keep files away"),
            false => f.write_str("nothing is missing"),
        }
    }
}

impl Missing {
    /// Whether there is anything to say.
    pub(super) fn is_anything(self) -> bool {
        self.landlock
    }
}

fn refused<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> Refused {
    move |error| Refused(what, error.to_string())
}

/// What every process of the server gives up.
pub(super) fn give_up_privileges() -> io::Result<()> {
    process::disable_core_dumps()?;
    process::set_not_dumpable()?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Gives up all that `role` does not need; answers what the kernel has not.
//= spec/processes.md#confine
pub(super) fn confine(role: Role) -> Result<Missing, Refused> {
    // Asked for once in a process, and afterwards needed in every fork of it.
    let identity = Identity::own().map_err(refused("identity"))?;
    process::boot_id().map_err(refused("boot"))?;
    let needs_proc = identity.inode == 0;
    let landlock = keep_away_from_files(needs_proc)?;
    let filter = filter(role, needs_proc)?;
    apply_filter(&filter).map_err(refused("seccomp"))?;
    Ok(Missing {
        landlock: !landlock,
    })
}

/// Whether the kernel keeps files away from now on.
fn keep_away_from_files(needs_proc: bool) -> Result<bool, Refused> {
    let files = AccessFs::from_all(ABI::V5);
    let refused = refused::<landlock::RulesetError>("landlock");
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(files)
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V5)))
        .and_then(Ruleset::create)
        .map_err(&refused)?;
    if needs_proc {
        let proc = PathFd::new("/proc").map_err(self::refused("/proc"))?;
        let read = PathBeneath::new(proc, AccessFs::ReadFile);
        rules = rules.add_rule(read).map_err(&refused)?;
    }
    let status = rules.restrict_self().map_err(&refused)?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// The calls every role needs, whatever their arguments.
const ALWAYS: &[libc::c_long] = &[
    // Descriptors that are there.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_dup3,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_fallocate,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_brk,
    libc::SYS_futex,
    // What this process is, and what time it is.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getpgid,
    libc::SYS_pidfd_open,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Signals and the end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Names of some of these that only this machine has.
#[cfg(target_arch = "x86_64")]
const OLD_NAMES: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_getpgrp, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const OLD_NAMES: &[libc::c_long] = &[];

const OF_HANDSHAKER: &[libc::c_long] = &[libc::SYS_accept4];

const OF_ZYGOTE: &[libc::c_long] = &[
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_pipe2,
    libc::SYS_setpgid,
    libc::SYS_set_robust_list,
];

/// What a test build's fault points do.
#[cfg(feature = "fault")]
const OF_FAULTS: &[libc::c_long] = &[libc::SYS_kill];
#[cfg(not(feature = "fault"))]
const OF_FAULTS: &[libc::c_long] = &[];

fn filter(role: Role, needs_proc: bool) -> Result<BpfProgram, Refused> {
    let of_role = match role {
        Role::Handshaker => OF_HANDSHAKER,
        Role::Zygote(_) => OF_ZYGOTE,
    };
    let refused = refused::<seccompiler::BackendError>("seccomp");
    let calls = ALWAYS
        .iter()
        .chain(OLD_NAMES)
        .chain(of_role)
        .chain(OF_FAULTS);
    #[allow(
        clippy::useless_conversion,
        reason = "not 64 bits long on every machine"
    )]
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls.map(|call| (i64::from(*call), Vec::new())).collect();
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![without(2, executable).map_err(&refused)?]);
    }
    if let Role::Zygote(becomes) = role {
        rules.insert(
            libc::SYS_clone,
            vec![without(0, NAMESPACES).map_err(&refused)?],
        );
        rules.extend(of_becoming(becomes).map_err(&refused)?);
    }
    let only = |argument, values: &[u64]| {
        let is = |value| exactly(argument, value);
        values
            .iter()
            .copied()
            .map(is)
            .collect::<Result<Vec<_>, _>>()
    };
    rules.insert(
        libc::SYS_fcntl,
        only(1, &ABOUT_DESCRIPTORS).map_err(&refused)?,
    );
    rules.insert(libc::SYS_ioctl, only(1, &ON_DESCRIPTORS).map_err(&refused)?);
    let options = SOCKET_OPTIONS.map(|(level, option)| both((1, level), (2, option)));
    let options = options.into_iter().collect::<Result<Vec<_>, _>>();
    rules.insert(libc::SYS_setsockopt, options.map_err(&refused)?);
    if needs_proc {
        rules.insert(
            libc::SYS_openat,
            vec![without(2, WRITING).map_err(&refused)?],
        );
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(&refused)?;
    let otherwise = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, arch)
        .and_then(BpfProgram::try_from)
        .map_err(&refused)
}

/// What a session does to become its user, and to be held to its allowance.
fn of_becoming(
    becomes: Becomes,
) -> Result<Vec<(i64, Vec<SeccompRule>)>, seccompiler::BackendError> {
    // Of its own limits: hard ones are lowered for good.
    let mut rules = vec![(libc::SYS_prlimit64, vec![exactly(0, 0)?])];
    if becomes != Becomes::Nobody {
        let not_root = |argument| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0)
        };
        let users = match becomes {
            Becomes::Anyone => Vec::new(),
            _ => vec![SeccompRule::new(vec![
                not_root(0)?,
                not_root(1)?,
                not_root(2)?,
            ])?],
        };
        let dumpable = u64::from(libc::PR_SET_DUMPABLE.unsigned_abs());
        rules.extend([
            (libc::SYS_setresuid, users),
            (libc::SYS_setresgid, Vec::new()),
            (libc::SYS_setgroups, Vec::new()),
            (libc::SYS_capset, Vec::new()),
            (libc::SYS_prctl, vec![exactly(0, dumpable)?]),
        ]);
    }
    #[allow(
        clippy::useless_conversion,
        reason = "not 64 bits long on every machine"
    )]
    let rules = rules
        .into_iter()
        .map(|(call, rules)| (i64::from(call), rules));
    Ok(rules.collect())
}

/// What `fcntl` may do: nothing that has a signal sent, or a file locked.
const ABOUT_DESCRIPTORS: [u64; 6] = [
    libc::F_GETFD as u64,
    libc::F_SETFD as u64,
    libc::F_GETFL as u64,
    libc::F_SETFL as u64,
    libc::F_DUPFD_CLOEXEC as u64,
    libc::F_GET_SEALS as u64,
];

/// What `ioctl` may do: nothing to a terminal.
const ON_DESCRIPTORS: [u64; 2] = [libc::FIONBIO, libc::FIOCLEX];

/// What `setsockopt` may set, and of which level. Above all not `SO_LINGER`: the last process that
/// closes such a socket waits, and with a descriptor that is sent to it that can be any process.
const SOCKET_OPTIONS: [(u64, u64); 6] = [
    (libc::SOL_SOCKET as u64, libc::SO_RCVTIMEO as u64),
    (libc::SOL_SOCKET as u64, libc::SO_SNDTIMEO as u64),
    (libc::SOL_SOCKET as u64, libc::SO_RCVTIMEO_NEW as u64),
    (libc::SOL_SOCKET as u64, libc::SO_SNDTIMEO_NEW as u64),
    (libc::SOL_SOCKET as u64, libc::SO_KEEPALIVE as u64),
    (libc::IPPROTO_TCP as u64, libc::TCP_NODELAY as u64),
];

/// What `openat` may not be asked for.
const WRITING: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;

/// Every kind of namespace that `clone` makes.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// A call whose argument is `value`.
fn exactly(argument: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let equal = SeccompCmpOp::Eq;
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, equal, value)?;
    SeccompRule::new(vec![condition])
}

/// A call two of whose arguments are these.
fn both(one: (u8, u64), other: (u8, u64)) -> Result<SeccompRule, seccompiler::BackendError> {
    let is = |(argument, value)| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
    };
    SeccompRule::new(vec![is(one)?, is(other)?])
}

/// A call whose argument has none of `bits`.
fn without(argument: u8, bits: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let none = SeccompCmpOp::MaskedEq(bits);
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, none, 0)?;
    SeccompRule::new(vec![condition])
}

#[cfg(test)]
mod tests;
