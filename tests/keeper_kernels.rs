//! A keeper on kernels older than this one: a system call filter says what they would say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod keeping;
mod support;

use std::os::unix::process::ExitStatusExt;

use baton::context::Context;
use baton::ledger::keeper::{Keeper, Options, Role};
use baton::ledger::{Cause, Domain};
use baton::message::Message;
use baton::sys::process::Signal;
use baton::transfer::{Export, import};
use keeping::Keeping;
use support::{Talk, forked, pair, pipe};

/// What a kernel does not have: the system call, an argument and its value, and what it answers.
type Missing = (libc::c_long, u32, u32, i32);

/// Linux before 6.5.
const NO_PEERPIDFD: Missing = (
    libc::SYS_getsockopt,
    2,
    libc::SO_PEERPIDFD as u32,
    libc::ENOPROTOOPT,
);
/// Linux before 5.3.
const NO_PIDFD_OPEN: Missing = (libc::SYS_pidfd_open, 1, 0, libc::ENOSYS);
/// Linux before 5.1.
const NO_FUTURE_WRITE: Missing = (libc::SYS_fcntl, 2, 0x17, libc::EINVAL);

/// From here on this process's kernel does not have it.
fn forget((number, position, value, errno): Missing) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const UNLESS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let low_half = if cfg!(target_endian = "big") { 4 } else { 0 };
    let mut steps = [
        step(LOAD, 0, 0),
        step(UNLESS, 3, number as u32),
        step(LOAD, 0, 16 + 8 * position + low_half),
        step(UNLESS, 1, value),
        step(ANSWER, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(ANSWER, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: The program outlives the call that copies it.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    };
    assert!(done, "no system call filters here");
}

/// Members are told apart and their ends are noticed, with what an older kernel tells of them.
//= proves spec/keeper.md#peer
#[test]
fn an_older_kernel_tells_a_keeper_enough() {
    for missing in [&[NO_PEERPIDFD][..], &[NO_PEERPIDFD, NO_PIDFD_OPEN]] {
        let keeping = Keeping::with(&Options::default(), || {
            missing.iter().copied().for_each(forget)
        });
        let domain = keeping.domain(Role::Member);
        let (context, mut peer) = pair::<Message>(&domain);
        let token = context.export(&Export::default()).unwrap();
        let socket = keeping.connect(Role::Worker);
        let (mut from, to) = pipe();
        let mut child = forked(|| {
            use std::io::Write;
            let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
            let mut context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
            let said = Message::say(&mut context, b"here").unwrap();
            (&to).write_all(&(said.len() as u32).to_be_bytes()).unwrap();
            (&to).write_all(&said).unwrap();
            loop {
                rustix::event::pause();
            }
        });
        drop(to);
        drop(socket);
        let mut length = [0; 4];
        std::io::Read::read_exact(&mut from, &mut length).unwrap();
        let mut said = vec![0; u32::from_be_bytes(length) as usize];
        std::io::Read::read_exact(&mut from, &mut said).unwrap();
        assert_eq!(Message::hear(&mut peer, said).unwrap(), b"here");
        // Once only.
        assert!(import::<Message>(&domain, token.as_bytes(), None).is_err());
        child.kill(Signal::KILL).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        keeping.wait_members(1);
        let releases = keeping.releases(1);
        assert_eq!(releases.len(), 1);
        assert_eq!(releases[0].cause, Cause::OwnerDied);
        assert_eq!(releases[0].pid, child.pid());
    }
}

/// One writer alone cannot be had there: it is said, and nothing is kept.
//= proves spec/keeper.md#peer
#[test]
fn a_kernel_that_cannot_seal_has_no_keeper() {
    let mut child = forked(|| {
        forget(NO_FUTURE_WRITE);
        let error = Keeper::new(&Options::default()).err().unwrap();
        u8::from(error.to_string().is_empty())
    });
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
