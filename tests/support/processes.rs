//! Children that are real processes, and pipes between them.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use baton::sys::process::{self, Child, Fork, fork};

/// Runs `f` in a forked child; a panic there is exit code 101.
pub fn forked(f: impl FnOnce() -> u8) -> Child {
    match fork().unwrap() {
        Fork::Parent(child) => child,
        Fork::Child => {
            // What the harness would keep of a panic's message ends with the process.
            std::panic::set_hook(Box::new(|panic| {
                let _ = writeln!(std::io::stderr(), "in a forked child: {panic}");
            }));
            process::exit_now(catch_unwind(AssertUnwindSafe(f)).unwrap_or(101))
        }
    }
}

/// Runs `f` in a forked child and answers its exit code; none when a signal ended it.
pub fn in_child(f: impl FnOnce() -> u8) -> Option<i32> {
    forked(f).wait().unwrap().code()
}

pub fn pipe() -> (PipeReader, PipeWriter) {
    std::io::pipe().unwrap()
}

pub fn write_all(mut pipe: &PipeWriter, bytes: &[u8]) {
    pipe.write_all(bytes).unwrap();
}

/// Everything until the last writer is gone.
pub fn read_all(mut pipe: &PipeReader) -> Vec<u8> {
    let mut all = Vec::new();
    pipe.read_to_end(&mut all).unwrap();
    all
}

/// Waits until the last writer is gone: a starting gun for many at once.
pub fn wait_for_end(pipe: &PipeReader) {
    assert!(read_all(pipe).is_empty());
}

/// Closes a forked child's copy of what its parent holds; the child leaves without destructors.
pub fn close_in_child(end: &impl AsRawFd) {
    // SAFETY: the child never uses or drops `end`, which only its parent still owns.
    unsafe { libc::close(end.as_raw_fd()) };
}

/// Says that a test is skipped; where nothing may be skipped, that is a failure.
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("BATON_TEST_NO_SKIP").is_none(),
        "may not be skipped: {why}"
    );
    println!("skipped: {why}");
}

/// Changes this process's user, for good.
pub fn become_user(uid: u32) {
    // SAFETY: a system call without pointers.
    assert_eq!(unsafe { libc::setuid(uid) }, 0);
}

/// Puts this process into a new process group.
pub fn leave_process_group() {
    // SAFETY: a system call without pointers.
    assert_eq!(unsafe { libc::setpgid(0, 0) }, 0);
}

/// Lets this process and its children write core files of any size.
pub fn allow_core_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Core);
    limit.current = limit.maximum;
    setrlimit(Resource::Core, limit).unwrap();
}
