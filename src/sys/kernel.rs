//! Children in which the kernel is an older or a stricter one, for the tests of this room.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::process::{Fork, exit_now, fork};

/// Runs `test` in a forked child, and fails when it panics there, or takes half a minute.
pub(super) fn in_child(test: impl FnOnce()) {
    // Before the fork: in the child the lock of the hook may be held by a thread it does not have.
    static SPEAK: Once = Once::new();
    SPEAK.call_once(speak_in_children);
    match fork().unwrap() {
        Fork::Parent(mut child) => {
            let status = child.wait().unwrap();
            assert!(status.success(), "in the child: {status}");
        }
        Fork::Child => {
            // SAFETY: Only sets a timer, whose signal ends this child.
            unsafe { libc::alarm(30) };
            exit_now(catch_unwind(AssertUnwindSafe(test)).is_err().into())
        }
    }
}

/// The harness keeps what is printed, and a child's copy of that is lost.
fn speak_in_children() {
    let harness = std::process::id();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::process::id() == harness {
            usual(info);
        } else {
            let _ = writeln!(std::io::stderr(), "in a child: {info}");
        }
    }));
}

/// Says that a test is skipped, and why; fails it where nothing may be skipped.
pub(super) fn skip(why: &str) {
    let strict = std::env::var_os("BATON_TEST_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!strict, "may not be skipped: {why}");
    println!("skipped: {why}");
}

/// From here on, in this process, the system call `number` fails with `errno` when its argument
/// at `position` is `value` (only the lower 32 bits count). False when the kernel has no filters.
pub(super) fn refuse(number: libc::c_long, position: u32, value: u32, errno: i32) -> bool {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const UNLESS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let low_half = if cfg!(target_endian = "big") { 4 } else { 0 };
    // `struct seccomp_data`: the number at 0, the six arguments from 16.
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
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    }
}
