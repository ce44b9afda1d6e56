//! Marks that find a free or an ended entry without a search: two levels of bits.
//!
//! Marks are hints and the control word is the truth, so nothing here needs to be exact: a mark
//! too many is dropped by who takes it, and one that was lost with a process comes back by the
//! next sweep. That is what makes a bitmap safe where a linked list of free entries is not: a
//! list loses its tail with the process that dies in the middle of an insertion, and is fooled
//! by an entry that comes back while somebody sleeps.

use super::word::Word;

/// Words of marks for `bits` entries: the bits, then their summary.
pub(super) const fn words(bits: usize) -> usize {
    let words = bits.div_ceil(64);
    words + words.div_ceil(64)
}

/// Marks over shared words.
//= spec/ledger.md#marks
pub(super) struct Marks<'a, W> {
    bits: &'a [W],
    summary: &'a [W],
}

impl<'a, W: Word> Marks<'a, W> {
    /// The marks for `bits` entries in an area of [`words`]`(bits)` words or more.
    pub(super) fn new(area: &'a [W], bits: usize) -> Self {
        let (bits, rest) = area.split_at(bits.div_ceil(64));
        let (summary, _) = rest.split_at(bits.len().div_ceil(64));
        Self { bits, summary }
    }

    /// Sets the mark of `index`.
    pub(super) fn set(&self, index: usize) {
        let word = index / 64;
        if let Some(bits) = self.bits.get(word)
            && bits.set(1 << (index % 64)) == 0
        {
            self.note(word);
        }
    }

    /// Whether `index` is marked.
    pub(super) fn is_set(&self, index: usize) -> bool {
        self.bits
            .get(index / 64)
            .is_some_and(|bits| bits.get() & 1 << (index % 64) != 0)
    }

    /// Takes some mark, first near the index `near`. None when no mark can be found.
    ///
    /// The index may be beyond the last entry if somebody wrote noise.
    pub(super) fn take(&self, near: usize) -> Option<usize> {
        let near = near / 64;
        if let Some(index) = self.take_in(near) {
            return Some(index);
        }
        let groups = self.summary.len();
        for group in (near / 64..groups).chain(0..groups.min(near / 64)) {
            let mut seen = self.summary[group].get();
            while seen != 0 {
                if let Some(index) = self.take_in(group * 64 + seen.trailing_zeros() as usize) {
                    return Some(index);
                }
                seen &= seen - 1;
            }
        }
        None
    }

    /// Sets the summary bits that were lost.
    pub(super) fn mend(&self) {
        for (word, bits) in self.bits.iter().enumerate() {
            if bits.get() != 0 {
                self.note(word);
            }
        }
    }

    fn take_in(&self, word: usize) -> Option<usize> {
        let bits = self.bits.get(word)?;
        loop {
            let seen = bits.get();
            if seen == 0 {
                self.forget(word);
                return None;
            }
            let lowest = seen & seen.wrapping_neg();
            let before = bits.clear(lowest);
            if before & lowest != 0 {
                if before == lowest {
                    self.forget(word);
                }
                return Some(word * 64 + lowest.trailing_zeros() as usize);
            }
        }
    }

    /// Sets the summary bit, also when it seems set: being a change, and not a mere look, it has
    /// its place before or after the change in [`Marks::forget`], and one of the two sees the
    /// other.
    fn note(&self, word: usize) {
        self.summary[word / 64].set(1 << (word % 64));
    }

    /// Clears the summary bit of a word without bits, and sets it again if the word has one by
    /// then: who set that one may have set the summary bit before it was cleared.
    fn forget(&self, word: usize) {
        let bit = 1 << (word % 64);
        let summary = &self.summary[word / 64];
        if summary.get() & bit == 0 {
            return;
        }
        summary.clear(bit);
        if self.bits[word].get() != 0 {
            summary.set(bit);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    fn area(bits: usize) -> Vec<AtomicU64> {
        (0..words(bits)).map(|_| AtomicU64::new(0)).collect()
    }

    //= proves spec/ledger.md#marks
    #[test]
    fn every_mark_is_taken_once_and_from_anywhere() {
        for count in [1, 63, 64, 65, 4096, 4097, 10_000] {
            let area = area(count);
            let marks = Marks::new(&area, count);
            for near in [0, count / 2, count - 1, usize::MAX / 2] {
                assert_eq!(marks.take(near), None);
                for index in 0..count {
                    marks.set(index);
                }
                let mut taken: Vec<_> = core::iter::from_fn(|| marks.take(near)).collect();
                taken.sort_unstable();
                assert!(
                    taken.iter().copied().eq(0..count),
                    "{count} marks from {near}"
                );
                assert!(area.iter().all(|word| word.get() == 0));
            }
        }
    }

    //= proves spec/ledger.md#hints
    #[test]
    fn a_lost_summary_bit_comes_back() {
        let area = area(10_000);
        let marks = Marks::new(&area, 10_000);
        area[77].put(1 << 5); // set by a process that died before the summary
        assert_eq!(marks.take(0), None);
        marks.mend();
        assert_eq!(marks.take(0), Some(77 * 64 + 5));
    }

    //= proves spec/ledger.md#hints
    #[test]
    fn noise_in_the_marks_ends() {
        let area = area(100);
        for word in &area {
            word.put(u64::MAX);
        }
        let marks = Marks::new(&area, 100);
        assert_eq!(core::iter::from_fn(|| marks.take(0)).count(), 128);
    }
}
