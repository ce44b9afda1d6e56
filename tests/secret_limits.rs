//! Secret memory at its ends: a million secrets, no right to lock any, no memory at all, and
//! forks while every thread is in the middle of it.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "secret/child.rs"]
mod child;

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use baton::secret::{self, Scratch, Slot};
use baton::sys::process;
use child::{in_child, skip, status_of};
use rustix::process::{Resource, Rlimit, setrlimit};

fn limit(resource: Resource, bytes: u64) {
    let both = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    setrlimit(resource, both).unwrap();
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .count()
}

#[test]
fn a_million_secrets_are_few_mappings() {
    in_child(|| {
        let before = mappings();
        let mut slots: Vec<_> = (0..1_000_000u64).map(|i| Slot::new([i; 2])).collect();
        assert!(
            slots
                .iter()
                .enumerate()
                .all(|(i, slot)| **slot == [i as u64; 2])
        );
        assert!(mappings() - before < 100, "{}", mappings() - before);
        slots.truncate(20_000);
        let more: Vec<_> = (0..20_000u64).map(|i| Slot::new([i; 175])).collect();
        assert!(
            more.iter()
                .enumerate()
                .all(|(i, slot)| slot[174] == i as u64)
        );
        assert!(mappings() - before < 120);
    });
}

/// The bytes that idle secrets of the size of a context's keys take, pages and all.
#[test]
fn little_memory_is_wasted() {
    in_child(|| {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
            pages * rustix::param::page_size()
        };
        let mut slots = Vec::with_capacity(20_000);
        let before = resident();
        slots.extend((0..20_000).map(|_| Slot::new([7u8; 1392])));
        let each = (resident() - before) / slots.len();
        assert!(each < 1392 + 200, "{each}");
    });
}

#[test]
fn without_the_right_to_lock_secrets_work_and_it_is_told() {
    in_child(|| {
        if process::uid() == 0 {
            // Root may lock whatever the limit says.
            process::set_user(65534, 65534).unwrap();
        }
        limit(Resource::Memlock, 1 << 20);
        assert!(!secret::unlocked());
        let slots: Vec<_> = (0..20_000u64).map(|i| Slot::new([i; 100])).collect();
        assert!(secret::unlocked(), "16 MB do not fit the limit");
        assert!(
            slots
                .iter()
                .enumerate()
                .all(|(i, slot)| slot[99] == i as u64)
        );
        drop(slots);
        assert!(secret::unlocked(), "it stays so");
        in_child(|| {
            assert!(!secret::unlocked());
            limit(Resource::Memlock, 0);
            let slot = Slot::new([7u8; 100]);
            assert!(secret::unlocked() && slot[99] == 7);
        });
    });
}

#[test]
fn without_memory_the_program_ends_as_any_does() {
    let status = status_of(|| {
        limit(Resource::Core, 0);
        limit(Resource::As, 0);
        let slots: Vec<Slot<[u8; 4000]>> = (0..8).map(|_| Slot::zeroed()).collect();
        // Not reached: this child's heap is empty, and nothing can be mapped.
        drop(slots);
    });
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    let status = status_of(|| {
        limit(Resource::Core, 0);
        drop(Scratch::with_capacity(usize::MAX));
    });
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
}

#[test]
fn threads_do_not_share_secrets() {
    let threads: Vec<_> = (0..8u64)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut slots = Vec::new();
                for round in 0..20_000u64 {
                    slots.push(Slot::new([thread << 32 | round; 30]));
                    if round % 3 == 0 {
                        let slot = slots.swap_remove(round as usize * 7919 % slots.len());
                        assert!(
                            slot.iter()
                                .all(|&word| word == slot[0] && word >> 32 == thread)
                        );
                    }
                }
                slots
            })
        })
        .collect();
    // And other threads drop them.
    for (thread, slots) in threads.into_iter().enumerate() {
        for slot in slots.join().unwrap() {
            assert!(
                slot.iter()
                    .all(|&word| word == slot[0] && word >> 32 == thread as u64)
            );
        }
    }
}

/// Locks, lists and random pool are in the middle of something at every fork, and no child waits
/// for any of it.
#[test]
fn a_child_never_waits_for_a_thread_it_does_not_have() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let busy = || {
        let mut bytes = [0; 24];
        while !STOP.load(Relaxed) {
            secret::random(&mut bytes).unwrap();
            let slot = Slot::new([bytes[0]; 1000]);
            let mut scratch = Scratch::with_capacity(100);
            scratch.resize(usize::from(bytes[0]) * 100);
            drop((slot, scratch));
        }
    };
    let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(busy)).collect();
    let kept = Slot::new([7u8; 1000]);
    for _ in 0..300 {
        in_child(|| {
            let mut bytes = [0; 24];
            secret::random(&mut bytes).unwrap();
            let slots: Vec<_> = (0..50).map(|_| Slot::new([7u8; 1000])).collect();
            let mut scratch = Scratch::new();
            scratch.resize(20_000);
            assert!(slots.iter().all(|slot| **slot == [7; 1000]) && !kept.is_here());
        });
    }
    STOP.store(true, Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(*kept, [7; 1000]);
}

#[test]
fn root_s_locks_are_told_apart() {
    if process::uid() != 0 {
        return skip("not root");
    }
    in_child(|| {
        limit(Resource::Memlock, 0);
        let slot = Slot::new([7u8; 100]);
        // With CAP_IPC_LOCK the limit does not count; without, it does: either is told.
        let smaps = std::fs::read_to_string("/proc/self/status").unwrap();
        let locked = smaps
            .lines()
            .find_map(|line| line.strip_prefix("VmLck:"))
            .unwrap();
        assert_eq!(locked.trim() == "0 kB", secret::unlocked());
        assert_eq!(slot[0], 7);
    });
}
