//! Children that are real processes, for the tests of secret memory.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::sync::Once;

use baton::sys::process::{Fork, exit_now, fork};

/// Runs `test` in a forked child, and answers how the child ended: with 1 after a panic, by
/// SIGALRM after a minute.
pub(crate) fn status_of(test: impl FnOnce()) -> ExitStatus {
    // Before the fork: in the child the lock of the hook may be held by a thread it does not have.
    static SPEAK: Once = Once::new();
    SPEAK.call_once(speak_in_children);
    match fork().unwrap() {
        Fork::Parent(mut child) => child.wait().unwrap(),
        Fork::Child => {
            // SAFETY: Only sets a timer, whose signal ends this child.
            unsafe { libc::alarm(60) };
            exit_now(catch_unwind(AssertUnwindSafe(test)).is_err().into())
        }
    }
}

/// Runs `test` in a forked child, and fails when it fails there.
pub(crate) fn in_child(test: impl FnOnce()) {
    let status = status_of(test);
    assert!(status.success(), "in the child: {status}");
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
pub(crate) fn skip(why: &str) {
    let strict = std::env::var_os("BATON_TEST_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!strict, "may not be skipped: {why}");
    eprintln!("skipped: {why}");
}
