//! The first words of a ledger and of a keyring, and where the areas of a ledger begin.

use super::control::MAX_PROCESSES;
use super::marks;
use super::word::Word;

/// Words of a page, to which areas are rounded.
pub(super) const PAGE: usize = 512;
/// Words of an entry and of a process slot.
pub(super) const ENTRY: usize = 8;
/// Entries at most: an index has 24 bits.
pub(super) const MAX_ENTRIES: u64 = 1 << 24;

/// First word of a ledger, and the one version of `spec/ledger.md`.
pub(super) const LEDGER: (u64, u64) = (0x4241_544f_4e4c_4744, 1);
/// First word of a keyring, and the one version of `spec/domains.md`.
pub(super) const KEYRING: (u64, u64) = (0x4241_544f_4e4b_4559, 1);

/// Words of the header that change, each pair on a cache line of its own.
pub(super) const ENTRIES_USED: usize = 16;
pub(super) const ENTRIES_BACKED: usize = 17;
pub(super) const PROCESSES_USED: usize = 24;
pub(super) const PROCESSES_BACKED: usize = 25;
pub(super) const SWEPT: usize = 32;
/// The thread that keeps the domain, as long as it lives; zero when nobody does.
pub(super) const KEEPER: usize = 40;

const FIXED: usize = 12;

/// What does not change: words 0 to 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Magic and version.
    pub(super) kind: (u64, u64),
    /// Entries and processes; key slots and zero.
    pub(super) sizes: (u64, u64),
    pub(super) domain: [u8; 16],
    pub(super) boot: [u8; 16],
    pub(super) options: u64,
    /// Device and inode; zeros for a memfd.
    pub(super) home: (u64, u64),
}

impl Header {
    fn words(&self) -> [u64; FIXED] {
        let (domain, boot) = (halves(&self.domain), halves(&self.boot));
        let mut words = [
            self.kind.0,
            self.kind.1,
            self.sizes.0,
            self.sizes.1,
            domain[0],
            domain[1],
            boot[0],
            boot[1],
            self.options,
            self.home.0,
            self.home.1,
            0,
        ];
        words[FIXED - 1] = check_word(&words[..FIXED - 1]);
        words
    }

    /// Writes it to a mapping nobody else has yet.
    //= spec/ledger.md#header
    pub(super) fn write<W: Word>(&self, mapping: &[W]) {
        for (word, value) in mapping.iter().zip(self.words()) {
            word.put(value);
        }
    }

    /// Reads it. None when the mapping is too short or the check word does not fit.
    //= spec/ledger.md#header
    pub(super) fn read<W: Word>(mapping: &[W]) -> Option<Self> {
        let mut words = [0; FIXED];
        for (value, word) in words.iter_mut().zip(mapping.get(..FIXED)?) {
            *value = word.get();
        }
        let header = Self {
            kind: (words[0], words[1]),
            sizes: (words[2], words[3]),
            domain: joined([words[4], words[5]]),
            boot: joined([words[6], words[7]]),
            options: words[8],
            home: (words[9], words[10]),
        };
        (header.words() == words).then_some(header)
    }
}

/// Two words of 16 bytes, each in the machine's order.
pub(super) fn halves(bytes: &[u8; 16]) -> [u64; 2] {
    [0, 8].map(|at| {
        let mut half = [0; 8];
        half.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(half)
    })
}

/// The 16 bytes of two words.
pub(super) fn joined(words: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&words[1].to_ne_bytes());
    bytes
}

fn check_word(words: &[u64]) -> u64 {
    words
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |check: u64, word| {
            (check ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(29)
        })
}

/// Where the areas of a ledger begin, in words, and its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) capacity: usize,
    pub(super) processes: usize,
    pub(super) process_slots: usize,
    pub(super) process_marks: usize,
    pub(super) free_marks: usize,
    pub(super) ended_marks: usize,
    pub(super) entries: usize,
    /// Words of the whole.
    pub(super) len: usize,
}

impl Layout {
    /// None when a size is out of bounds.
    pub(super) fn new((entries, processes): (u64, u64)) -> Option<Self> {
        if !(1..=MAX_ENTRIES).contains(&entries) || !(1..=MAX_PROCESSES).contains(&processes) {
            return None;
        }
        let (capacity, processes) = (entries as usize, processes as usize);
        let process_slots = PAGE;
        let process_marks = process_slots + (processes * ENTRY).next_multiple_of(PAGE);
        let free_marks = process_marks + marks::words(processes).next_multiple_of(PAGE);
        let ended_marks = free_marks + marks::words(capacity).next_multiple_of(PAGE);
        let entries = ended_marks + marks::words(capacity).next_multiple_of(PAGE);
        let len = entries + (capacity * ENTRY).next_multiple_of(PAGE);
        Some(Self {
            capacity,
            processes,
            process_slots,
            process_marks,
            free_marks,
            ended_marks,
            entries,
            len,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    fn header() -> Header {
        Header {
            kind: LEDGER,
            sizes: (1000, 10),
            domain: *b"0123456789abcdef",
            boot: *b"fedcba9876543210",
            options: 1,
            home: (2, 3),
        }
    }

    //= proves spec/ledger.md#header
    #[test]
    fn a_header_is_read_as_it_was_written_and_every_bit_of_it_counts() {
        let mapping: Vec<AtomicU64> = (0..PAGE).map(|_| AtomicU64::new(0)).collect();
        assert_eq!(Header::read(&mapping), None);
        header().write(&mapping);
        assert_eq!(mapping[0].get().to_be_bytes(), *b"BATONLGD");
        assert_eq!(Header::read(&mapping), Some(header()));
        assert_eq!(Header::read(&mapping[..FIXED - 1]), None);
        for bit in 0..FIXED * 64 {
            let word = &mapping[bit / 64];
            let before = word.get();
            word.put(before ^ 1 << (bit % 64));
            assert_eq!(Header::read(&mapping), None, "bit {bit}");
            word.put(before);
        }
    }

    #[test]
    fn a_million_entries_have_their_place() {
        assert_eq!(Layout::new((0, 1)), None);
        assert_eq!(Layout::new((1, 0)), None);
        assert_eq!(Layout::new((MAX_ENTRIES + 1, 1)), None);
        assert_eq!(Layout::new((1, MAX_PROCESSES + 1)), None);
        let layout = Layout::new((1_000_000, 131_071)).expect("within bounds");
        assert_eq!(layout.process_marks, 512 + 131_072 * 8);
        assert_eq!(layout.free_marks, layout.process_marks + 2560);
        assert_eq!(layout.ended_marks, layout.free_marks + 16_384);
        assert_eq!(
            layout.len,
            layout.entries + 1_000_000usize.next_multiple_of(64) * 8
        );
        assert!(Layout::new((MAX_ENTRIES, MAX_PROCESSES)).is_some());
    }
}
