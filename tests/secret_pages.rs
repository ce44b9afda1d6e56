//! Nothing seen: secrets are gone from memory when they are dropped, in every forked child from
//! the start, and are never in a core file. Each test looks for a mark in the real memory of a
//! real process, and first finds it there, so that the looking is proved as well.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "secret/child.rs"]
mod child;
#[path = "secret/memory.rs"]
mod memory;

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use baton::secret::{self, Depth, Scratch, Slot, scrubbed};
use baton::sys::memory::Mapping;
use baton::sys::process::{self, Fork, exit_now, fork};
use baton::sys::scrub::scrub_stack;
use child::{in_child, skip, status_of};
use memory::{MARK, count_in_memory, flags_of, marks_in, marks_in_memory, write_mark};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A slot that holds a mark and was filled in place.
fn marked(seed: u64) -> Slot<[u8; 1400]> {
    let mut slot = Slot::<[u8; 1400]>::zeroed();
    write_mark(&mut slot[..], seed);
    slot
}

#[test]
fn a_dropped_slot_leaves_nothing() {
    let slot = marked(1);
    assert_eq!(marks_in_memory(1), 1);
    drop(slot);
    assert_eq!(marks_in_memory(1), 0);
}

#[inline(never)]
fn moved_in(seed: u64) -> Slot<[u8; 1400]> {
    let mut bytes = [0; 1400];
    write_mark(&mut bytes, seed);
    Slot::new(bytes)
}

#[test]
fn a_value_that_was_moved_in_leaves_nothing_once_the_stack_is_scrubbed() {
    let slot = scrubbed(Depth::Derived, || moved_in(2));
    assert_eq!(marks_in_memory(2), 1);
    drop(slot);
    assert_eq!(marks_in_memory(2), 0);
}

#[test]
fn scrubbing_reaches_what_a_call_has_left() {
    #[inline(never)]
    fn leave(seed: u64) {
        let mut bytes = [0; 100];
        write_mark(&mut bytes, seed);
        std::hint::black_box(&mut bytes);
    }
    // Deep, so that nothing done between here and the looking overwrites it first.
    #[inline(never)]
    fn leave_below(seed: u64) {
        let mut room = [0u8; 12 * 1024];
        std::hint::black_box(&mut room);
        leave(seed);
    }
    scrubbed(Depth::Derived, || leave_below(3));
    assert_eq!(marks_in_memory(3), 0);
    leave_below(3);
    assert_eq!(marks_in_memory(3), 1, "without scrubbing it is there");
    scrub_stack(64 * 1024);
}

#[test]
fn a_scratch_leaves_nothing_where_it_was_and_what_it_cut_off() {
    let slot = marked(4);
    let mut scratch = Scratch::with_capacity(100);
    scratch.extend_from_slice(&slot[..MARK]);
    assert_eq!(marks_in_memory(4), 2);
    // It moves, more than once, up to several MiB.
    for len in [1000, 10_000, 100_000, 1_000_000, 6_000_000] {
        scratch.resize(len);
        assert_eq!((marks_in(&scratch, 4), marks_in_memory(4)), (1, 2), "{len}");
    }
    scratch.extend_from_slice(&slot[..MARK]);
    assert_eq!(marks_in_memory(4), 3);
    scratch.truncate(6_000_000);
    assert_eq!(marks_in_memory(4), 2);
    scratch.consume(1);
    assert_eq!(marks_in_memory(4), 1, "its mark has lost a byte");
    scratch.clear();
    scratch.extend_from_slice(&slot[..MARK]);
    assert_eq!(marks_in_memory(4), 2);
    drop(scratch);
    assert_eq!(marks_in_memory(4), 1);
}

#[test]
fn random_bytes_that_were_given_out_are_nowhere_else() {
    let mut drawn = Slot::<[u8; 24]>::zeroed();
    secret::random(&mut drawn[..]).unwrap();
    assert_eq!(count_in_memory(24, &|index| drawn[index]), 1);
}

#[test]
fn a_forked_child_reads_zeros_and_so_does_its_child() {
    let slot = marked(6);
    let mut scratch = Scratch::new();
    scratch.extend_from_slice(&slot[..]);
    let places = [&raw const *slot as usize, scratch.as_ptr() as usize];
    let look = move || {
        assert_eq!(marks_in_memory(6), 0);
        for place in places {
            // SAFETY: The pages stay mapped in a child, and bytes may hold anything.
            let byte = |offset| unsafe { ((place + offset) as *const u8).read_volatile() };
            assert!((0..1400).all(|offset| byte(offset) == 0));
        }
    };
    let Fork::Parent(mut child) = fork().unwrap() else {
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            look();
            assert!(!slot.is_here());
            assert_eq!(scratch[..], [0; 1400]);
            let own = marked(6);
            assert_eq!(marks_in_memory(6), 1);
            in_child(look);
            // Dropped here, alive there.
            drop((own, slot, scratch));
            look();
        }));
        exit_now(panicked.is_err().into())
    };
    assert!(child.wait().unwrap().success());
    assert_eq!(marks_in_memory(6), 2);
    assert!(slot.is_here() && marks_in(&slot[..], 6) == 1 && marks_in(&scratch, 6) == 1);
}

/// `clone` without the C library, which then runs no handler that a library could have left.
#[test]
fn a_raw_clone_reads_zeros() {
    let slot = marked(7);
    let place = (&raw const *slot).cast::<u8>();
    let parent = process::word();
    // SAFETY: A copy of this process, like `fork`. The child allocates only in secret memory.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        // SAFETY: As in the test above.
        let zeros = (0..1400).all(|offset| unsafe { place.add(offset).read_volatile() } == 0);
        let own = marked(7);
        let alive = own.is_here() && !slot.is_here() && process::word() != parent;
        drop(own);
        exit_now((!zeros || !alive).into());
    }
    let mut status = 0;
    // SAFETY: The status is written where it is expected.
    let waited = unsafe { libc::waitpid(pid as i32, &raw mut status, 0) };
    assert_eq!((i64::from(waited), status), (pid, 0));
    assert!(slot.is_here() && marks_in(&slot[..], 7) == 1);
}

/// A program started without a copy of the memory (`vfork`) shares it until then: nothing happens
/// to the parent's secrets.
#[test]
fn starting_a_program_leaves_secrets_as_they_are() {
    let slot = marked(8);
    let word = process::word();
    assert!(Command::new("true").status().unwrap().success());
    assert!(slot.is_here() && marks_in(&slot[..], 8) == 1 && process::word() == word);
}

#[test]
fn secret_pages_are_marked_so_in_the_kernel() {
    let slot = marked(9);
    let mut large = Scratch::new();
    large.resize(5 << 20);
    for place in [&raw const *slot as usize, large.as_ptr() as usize] {
        let flags = flags_of(place);
        // wf: wiped on fork; dd: not dumped; lo: locked.
        for flag in ["wf", "dd"] {
            assert!(flags.iter().any(|have| have == flag), "{flag} in {flags:?}");
        }
        if secret::unlocked() {
            skip("RLIMIT_MEMLOCK is too small to lock everything");
        } else {
            assert!(flags.iter().any(|have| have == "lo"), "{flags:?}");
        }
    }
}

#[test]
fn a_shared_mapping_is_locked_and_not_dumped() {
    let mapping = Mapping::create_sealed("test", 1 << 16).unwrap();
    mapping.keep_out_of_core_files().unwrap();
    let locked = mapping.lock();
    let flags = flags_of(mapping.as_words().as_ptr() as usize);
    assert!(flags.iter().any(|flag| flag == "dd") && !flags.iter().any(|flag| flag == "wf"));
    assert_eq!(flags.iter().any(|flag| flag == "lo"), locked);
}

#[test]
fn a_core_file_holds_no_secret() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/']) {
        return skip("core files do not come to the working directory");
    }
    let limit = getrlimit(Resource::Core);
    if limit.maximum == Some(0) {
        return skip("core files are forbidden");
    }
    let folder = tempfile::tempdir().unwrap();
    let status = status_of(|| {
        std::env::set_current_dir(folder.path()).unwrap();
        let whole = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Core, whole).unwrap();
        let secret = marked(10);
        let mut scratch = Scratch::new();
        scratch.extend_from_slice(&secret[..]);
        let mut ordinary = vec![0; 100];
        write_mark(&mut ordinary, 11);
        let mapping = Mapping::create_sealed("test", 4096).unwrap();
        mapping.keep_out_of_core_files().unwrap();
        for (word, bytes) in mapping.as_words().iter().zip(secret.chunks_exact(8)) {
            let value = u64::from_ne_bytes(bytes.try_into().unwrap());
            word.store(value, std::sync::atomic::Ordering::Relaxed);
        }
        scrub_stack(64 * 1024);
        assert_eq!(marks_in_memory(10), 3);
        std::hint::black_box(&ordinary);
        std::process::abort();
    });
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    if !status.core_dumped() {
        return skip("the kernel wrote no core file");
    }
    let file = std::fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let core = std::fs::read(file.path()).unwrap();
    assert!(marks_in(&core, 11) >= 1, "ordinary memory is in it");
    assert_eq!(marks_in(&core, 10), 0);
}
