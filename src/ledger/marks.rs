//! Marks that find a free or an ended entry without a search: three levels of bits.
//!
//! Marks are hints and the control word is the truth, so nothing here needs to be exact: a mark
//! too many is dropped by who takes it, and one that was lost with a process comes back by the
//! next sweep. That is what makes a bitmap safe where a linked list of free entries is not: a
//! list loses its tail with the process that dies in the middle of an insertion, and is fooled
//! by an entry that comes back while somebody sleeps.

use super::word::Word;

/// The marks, their summary, and its summary.
const LEVELS: usize = 3;

/// Words of the marks for `bits` entries, all levels.
pub(super) const fn words(bits: usize) -> usize {
    let marks = bits.div_ceil(64);
    let summary = marks.div_ceil(64);
    marks + summary + summary.div_ceil(64)
}

/// Marks over shared words.
//= spec/ledger.md#marks
pub(super) struct Marks<'a, W> {
    levels: [&'a [W]; LEVELS],
}

impl<'a, W: Word> Marks<'a, W> {
    /// The marks for `bits` entries in an area of [`words`]`(bits)` words or more.
    pub(super) fn new(area: &'a [W], bits: usize) -> Self {
        let (marks, rest) = area.split_at(bits.div_ceil(64));
        let (summary, rest) = rest.split_at(marks.len().div_ceil(64));
        let (top, _) = rest.split_at(summary.len().div_ceil(64));
        Self {
            levels: [marks, summary, top],
        }
    }

    /// Sets the mark of `index`, if there is such an index.
    pub(super) fn set(&self, index: usize) {
        self.set_at(0, index);
    }

    /// Whether `index` is marked.
    pub(super) fn is_set(&self, index: usize) -> bool {
        self.word(0, index / 64) & 1 << (index % 64) != 0
    }

    /// Takes some mark, first near the index `near`. None when no mark can be found.
    ///
    /// The index may be beyond the last entry if somebody wrote noise.
    pub(super) fn take(&self, near: usize) -> Option<usize> {
        let near = near / 64;
        self.take_in(near)
            .or_else(|| self.take_below(LEVELS - 1, near / 4096))
    }

    /// Sets the summary bits that were lost.
    pub(super) fn mend(&self) {
        for level in 0..LEVELS - 1 {
            for (number, word) in self.levels[level].iter().enumerate() {
                if word.get() != 0 {
                    self.set_at(level + 1, number);
                }
            }
        }
    }

    /// Takes a mark below any of the bits of `level`, from the word `first` on.
    fn take_below(&self, level: usize, first: usize) -> Option<usize> {
        let words = self.levels[level].len();
        (0..words).find_map(|n| self.take_below_word(level, (first % words + n) % words))
    }

    fn take_below_word(&self, level: usize, word: usize) -> Option<usize> {
        if level == 0 {
            return self.take_in(word);
        }
        let mut seen = self.word(level, word);
        if seen == 0 {
            self.forget(level, word);
        }
        while seen != 0 {
            let below = word * 64 + seen.trailing_zeros() as usize;
            if let Some(index) = self.take_below_word(level - 1, below) {
                return Some(index);
            }
            seen &= seen - 1;
        }
        None
    }

    /// Takes a mark of this word of marks.
    fn take_in(&self, word: usize) -> Option<usize> {
        loop {
            let seen = self.word(0, word);
            if seen == 0 {
                self.forget(0, word);
                return None;
            }
            let index = word * 64 + seen.trailing_zeros() as usize;
            if self.clear_at(0, index) {
                return Some(index);
            }
        }
    }

    /// Sets a bit, and the bit above if the word had none.
    ///
    /// The bit above is set also when it seems set: being a change, and not a mere look, that has
    /// its place before or after the change in [`Marks::forget`], and one of the two sees the
    /// other.
    fn set_at(&self, level: usize, index: usize) {
        if let Some(word) = self
            .levels
            .get(level)
            .and_then(|words| words.get(index / 64))
            && word.set(1 << (index % 64)) == 0
        {
            self.set_at(level + 1, index / 64);
        }
    }

    /// Clears a bit, and the bit above if it was the last of the word; whether it was set.
    fn clear_at(&self, level: usize, index: usize) -> bool {
        let Some(word) = self
            .levels
            .get(level)
            .and_then(|words| words.get(index / 64))
        else {
            return false;
        };
        let bit = 1 << (index % 64);
        let before = word.clear(bit);
        if before == bit {
            self.forget(level, index / 64);
        }
        before & bit != 0
    }

    /// Clears the bit above a word without bits, and sets it again if the word has one by then:
    /// who set that one may have set the bit above before it was cleared.
    fn forget(&self, level: usize, word: usize) {
        if self.clear_at(level + 1, word) && self.word(level, word) != 0 {
            self.set_at(level + 1, word);
        }
    }

    fn word(&self, level: usize, word: usize) -> u64 {
        self.levels[level].get(word).map_or(0, W::get)
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
        // Set by a process that died before it set the summary, or the summary of that.
        for summary in [false, true] {
            area[77].put(1 << 5);
            area[157 + 1].put(u64::from(summary) << (77 - 64));
            assert_eq!(marks.take(0), None);
            marks.mend();
            assert_eq!(marks.take(0), Some(77 * 64 + 5));
            assert!(area.iter().all(|word| word.get() == 0));
        }
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
