use std::collections::HashSet;
use std::fs::File;
use std::sync::atomic::Ordering::Relaxed;

use super::super::kernel::{in_child, refuse, skip};
use super::super::process;
use super::*;

#[test]
fn cells_are_apart_and_used_again() {
    let mut cells: Vec<_> = (0..5000u64).map(|i| Cell::new([i; 40])).collect();
    let places: HashSet<_> = cells
        .iter()
        .map(|cell| (&raw const **cell).addr())
        .collect();
    assert_eq!(places.len(), cells.len());
    cells.retain(|cell| cell[0] % 2 == 0);
    cells.extend((5000..7500).map(|i| Cell::new([i; 40])));
    assert!(
        cells
            .iter()
            .all(|cell| cell.iter().all(|&word| word == cell[0]))
    );
    assert!(
        cells[2500..]
            .iter()
            .all(|cell| places.contains(&(&raw const **cell).addr()))
    );
}

#[test]
fn fresh_memory_is_zero_however_often_it_was_used() {
    for _ in 0..3 {
        let mut cells: Vec<_> = (0..100).map(|_| Cell::<[u8; 700]>::zeroed()).collect();
        for cell in &mut cells {
            assert_eq!(**cell, [0; 700]);
            cell.fill(7);
        }
    }
}

#[test]
fn values_keep_their_alignment() {
    #[repr(align(64))]
    struct Wide([u8; 100]);
    let cells: Vec<_> = (0..50u8).map(|i| Cell::new(Wide([i; 100]))).collect();
    for (i, cell) in cells.iter().enumerate() {
        assert_eq!((&raw const **cell).addr() % 64, 0);
        assert_eq!(usize::from(cell.0[99]), i);
    }
}

#[test]
fn a_buffer_grows_as_a_vector_does() {
    let (mut buffer, mut model) = (Buffer::new(), Vec::new());
    assert!(buffer.is_empty() && buffer.as_slice().is_empty() && buffer.capacity() == 0);
    // Through every kind of size: fine, coarse, large, and beyond all.
    for step in 1..70 {
        let piece = vec![step as u8; step * step * 60];
        buffer.extend_from_slice(&piece);
        model.extend_from_slice(&piece);
        if step % 7 == 0 {
            buffer.truncate(model.len() * 9 / 10);
            model.truncate(model.len() * 9 / 10);
            buffer.grow(step);
            model.resize(model.len() + step, 0);
        }
        assert!(buffer.as_slice() == model && buffer.capacity() >= model.len());
    }
    assert!(model.len() > 3 << 20);
    buffer.truncate(0);
    buffer.grow(model.len());
    assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
    drop(Buffer::with_capacity(9 << 20));
}

#[test]
fn large_buffers_are_used_again() {
    let place = |buffer: &Buffer| buffer.as_slice().as_ptr().addr();
    // Sizes of no other test, which may run beside.
    for len in [333_333, 2_222_222] {
        let first = Buffer::with_capacity(len);
        let address = place(&first);
        drop(first);
        assert_eq!(place(&Buffer::with_capacity(len)), address);
    }
}

#[test]
fn a_child_owns_nothing_and_starts_anew() {
    let cell = Cell::new([7u8; 500]);
    let mut buffer = Buffer::new();
    buffer.extend_from_slice(&[7; 3000]);
    let large = Buffer::with_capacity(1 << 20);
    let inherited = (&raw const *cell).addr();
    in_child(move || {
        assert!(!cell.is_here() && !buffer.is_here() && !large.is_here());
        assert_eq!(buffer.as_slice(), [0; 3000]);
        let looked = std::panic::catch_unwind(|| cell[0]);
        assert!(looked.is_err());
        // What it writes where the parent's memory was is wiped, and never handed out.
        buffer.as_mut_slice().fill(9);
        let place = buffer.as_slice().as_ptr();
        drop(large);
        drop(cell);
        buffer.grow(1);
        assert!(buffer.is_here() && buffer.as_slice().as_ptr() != place);
        assert_eq!(buffer.as_slice()[..3000], [9; 3000]);
        // SAFETY: The parent's region stays mapped for the child's life.
        assert_eq!(unsafe { place.read_volatile() }, 0);
        let new: Vec<_> = (0..1000).map(|_| Cell::new([1u8; 500])).collect();
        assert!(
            new.iter()
                .all(|cell| (&raw const **cell).addr() != inherited && cell.is_here())
        );
    });
}

fn may_lock() -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    limit.current.is_none_or(|bytes| bytes >= 1 << 20)
}

#[test]
fn an_older_kernel_locks_at_once() {
    if !may_lock() {
        return skip("RLIMIT_MEMLOCK is too small");
    }
    in_child(|| {
        // The flag MLOCK_ONFAULT is the third argument of `mlock2`.
        if !refuse(libc::SYS_mlock2, 2, 1, libc::ENOSYS) {
            return skip("no system call filters here");
        }
        let cell = Cell::new([7u8; 500]);
        assert!(cell.is_here() && !unlocked());
    });
}

#[test]
fn memory_that_cannot_be_locked_is_used_and_told() {
    if !may_lock() {
        return skip("RLIMIT_MEMLOCK is too small");
    }
    in_child(|| {
        let cell = Cell::new([7u8; 500]);
        assert!(cell.is_here() && !unlocked());
        if !refuse(libc::SYS_mlock2, 2, 1, libc::ENOMEM) {
            return skip("no system call filters here");
        }
        let cells: Vec<_> = (0..1000u64).map(|i| Cell::new([i; 100])).collect();
        assert!(unlocked());
        assert!(
            cells
                .iter()
                .enumerate()
                .all(|(i, cell)| cell[99] == i as u64)
        );
        in_child(|| assert!(!unlocked()));
    });
}

#[test]
fn random_bytes_differ_in_parent_and_children() {
    let draw = || {
        let mut bytes = [0; 24];
        super::super::entropy::fill(&mut bytes).unwrap();
        bytes
    };
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut all = HashSet::from([draw()]);
    for _ in 0..20 {
        let writer = &mut writer;
        in_child(|| std::io::Write::write_all(writer, &draw()).unwrap());
        assert!(all.insert(draw()));
    }
    drop(writer);
    let mut drawn = Vec::new();
    std::io::Read::read_to_end(&mut &reader, &mut drawn).unwrap();
    assert_eq!(drawn.len(), 20 * 24);
    assert!(
        drawn
            .chunks(24)
            .all(|bytes| all.insert(bytes.try_into().unwrap()))
    );
}

#[test]
fn random_bytes_of_any_length_do_not_repeat() {
    let mut seen = HashSet::new();
    for len in (8..3000).step_by(7) {
        let mut bytes = vec![0; len];
        super::super::entropy::fill(&mut bytes).unwrap();
        assert!(
            bytes
                .chunks_exact(8)
                .all(|chunk| seen.insert(chunk.to_vec()))
        );
    }
    super::super::entropy::fill(&mut []).unwrap();
}

#[test]
fn a_mapping_is_shared_with_children_and_by_descriptor() {
    let mapping = Mapping::create_sealed("test", 1 << 20).unwrap();
    assert!(mapping.is_sealed() && mapping.len() == 1 << 20 && mapping.as_words().len() == 1 << 17);
    assert!(
        mapping
            .as_words()
            .iter()
            .all(|word| word.load(Relaxed) == 0)
    );
    mapping.keep_out_of_core_files().unwrap();
    let same = Mapping::from_fd(mapping.fd().try_clone_to_owned().unwrap()).unwrap();
    in_child(|| mapping.as_words()[(1 << 17) - 1].store(process::word(), Relaxed));
    let written = same.as_words()[(1 << 17) - 1].load(Relaxed);
    assert!(written != 0 && written != process::word());
}

#[test]
fn nobody_changes_the_size_of_a_sealed_mapping() {
    let mapping = Mapping::create_sealed("test", 8192).unwrap();
    for size in [0, 4096, 16384] {
        assert!(rustix::fs::ftruncate(mapping.fd(), size).is_err());
    }
    let none = rustix::fs::SealFlags::empty();
    assert!(
        rustix::fs::fcntl_add_seals(mapping.fd(), none).is_err(),
        "the seals are final"
    );
    in_child(|| {
        // Before Linux 6.3 there is no MFD_NOEXEC_SEAL.
        let flags = (rustix::fs::MemfdFlags::CLOEXEC
            | rustix::fs::MemfdFlags::ALLOW_SEALING
            | rustix::fs::MemfdFlags::NOEXEC_SEAL)
            .bits();
        if !refuse(libc::SYS_memfd_create, 1, flags, libc::EINVAL) {
            return skip("no system call filters here");
        }
        assert!(Mapping::create_sealed("test", 8192).unwrap().is_sealed());
    });
}

#[test]
fn what_cannot_be_mapped_whole_is_refused() {
    for len in [0, 7, 4097] {
        assert!(Mapping::create_sealed("test", len).is_err(), "{len}");
    }
    assert!(Mapping::create_sealed("test", usize::MAX & !7).is_err());
    assert!(Mapping::from_fd(File::open("/dev/null").unwrap().into()).is_err());
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    assert!(!Mapping::from_fd(file.into()).unwrap().is_sealed());
}
