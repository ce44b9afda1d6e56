//! Secrets that can be looked for without being held: a mark is 32 bytes computed from a number,
//! and memory is compared with it byte by byte as it is read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use baton::secret::Scratch;

/// Bytes of a mark.
pub(crate) const MARK: usize = 32;

/// One byte of the mark `seed`. Not inlined, so that no caller has several at once in registers,
/// from where they could get onto its stack.
#[inline(never)]
pub(crate) fn mark(seed: u64, index: usize) -> u8 {
    let mut z = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add((index as u64).wrapping_mul(0xd134_2543_de82_ef95));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as u8
}

/// Writes the mark over the first [`MARK`] bytes.
pub(crate) fn write_mark(bytes: &mut [u8], seed: u64) {
    for (index, byte) in bytes[..MARK].iter_mut().enumerate() {
        *byte = mark(seed, index);
    }
}

/// How often the mark stands in `bytes`.
pub(crate) fn marks_in(bytes: &[u8], seed: u64) -> usize {
    count(bytes, MARK, &|index| mark(seed, index))
}

/// How often the mark stands in the memory of this process.
pub(crate) fn marks_in_memory(seed: u64) -> usize {
    count_in_memory(MARK, &|index| mark(seed, index))
}

fn count(bytes: &[u8], len: usize, wanted: &dyn Fn(usize) -> u8) -> usize {
    let first = wanted(0);
    let starts = bytes.iter().enumerate().filter(|&(_, &byte)| byte == first);
    let whole = |&(start, _): &(usize, &u8)| {
        bytes.len() - start >= len && (1..len).all(|index| bytes[start + index] == wanted(index))
    };
    starts.filter(whole).count()
}

/// How often the `len` bytes that `wanted` gives one by one stand in the memory of this process:
/// everywhere it can write, heap, stacks, secret pages; read as a debugger would.
pub(crate) fn count_in_memory(len: usize, wanted: &dyn Fn(usize) -> u8) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut maps = String::new();
    File::open("/proc/self/maps")
        .unwrap()
        .read_to_string(&mut maps)
        .unwrap();
    // Only one thread at a time: what it has just read, another would find. And in secret memory,
    // so that a child forked by a third thread has no copy of it.
    let _alone = alone();
    let mut buffer = Scratch::new();
    buffer.resize(CHUNK);
    let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + CHUNK as u64;
    let zeros = vec![0; CHUNK];
    let mut found = 0;
    let mut seen = 0;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        if !rest.starts_with("rw") {
            continue;
        }
        let (start, end) = address_range(range);
        // Mappings may have become one while the list was read: then a part stands there twice.
        let start = start.max(seen);
        seen = end.max(seen);
        // Up to our own buffer and from there on, if it lies within.
        for (mut at, end) in [(start, end.min(own.start)), (start.max(own.end), end)] {
            while at < end {
                let most = CHUNK.min((end - at) as usize);
                // What another thread has unmapped meanwhile holds nothing; what is behind it may.
                let Ok(read @ 1..) = memory.read_at(&mut buffer[..most], at) else {
                    at = (at | (PAGE - 1)) + 1;
                    continue;
                };
                if buffer[..read] != zeros[..read] {
                    found += count(&buffer[..read], len, wanted);
                }
                at += read as u64;
                if read == most && at < end {
                    // What is wanted may lie across two readings; what ended here was found. (Less
                    // was read: there is a hole.)
                    at -= len as u64 - 1;
                }
            }
        }
    }
    found
}

/// No page is smaller.
const PAGE: u64 = 4096;
/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

struct Alone;

/// Waits until no other thread of this process looks. A lock of the standard library would stay
/// locked in a child that was forked while another thread held it.
fn alone() -> Alone {
    let own = std::process::id();
    loop {
        match LOOKING.compare_exchange(0, own, Acquire, Relaxed) {
            Ok(_) => return Alone,
            Err(holder) if holder == own => std::thread::yield_now(),
            // A thread of the parent, which is not here.
            Err(holder) => {
                let _ = LOOKING.compare_exchange(holder, 0, Relaxed, Relaxed);
            }
        }
    }
}

/// The process of which a thread is looking, or 0.
static LOOKING: AtomicU32 = AtomicU32::new(0);

impl Drop for Alone {
    fn drop(&mut self) {
        LOOKING.store(0, Release);
    }
}

fn address_range(text: &str) -> (u64, u64) {
    let (start, end) = text.split_once('-').unwrap();
    (
        u64::from_str_radix(start, 16).unwrap(),
        u64::from_str_radix(end, 16).unwrap(),
    )
}

/// The `VmFlags` of the mapping that holds `address`, as proc_pid_smaps(5) abbreviates them.
pub(crate) fn flags_of(address: usize) -> Vec<String> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap();
        if first.contains('-') && !first.ends_with(':') {
            let (start, end) = address_range(first);
            inside = (start..end).contains(&(address as u64));
        } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return flags.split_ascii_whitespace().map(str::to_owned).collect();
        }
    }
    panic!("no mapping holds {address:x}");
}
