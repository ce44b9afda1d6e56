//! The word the algorithms are written over, so that loom can run them off the map.

/// A 64-bit word that several processes read and change.
///
/// Reads acquire and changes release: what was written before a change is seen by who reads it.
//= spec/ledger.md#words
pub(super) trait Word {
    /// Reads it.
    fn get(&self) -> u64;
    /// Writes it, whatever it held. Only for words that one process alone may change at the time.
    fn put(&self, value: u64);
    /// The step of `spec/ledger.md`: from `from` to `to`, or what it holds instead.
    fn step(&self, from: u64, to: u64) -> Result<(), u64>;
    /// Sets bits; answers what it held.
    fn set(&self, bits: u64) -> u64;
    /// Clears bits; answers what it held.
    fn clear(&self, bits: u64) -> u64;
    /// Adds, modulo 2^64.
    fn add(&self, number: u64);
}

macro_rules! word {
    ($atomic:ty, $ordering:ident) => {
        impl Word for $atomic {
            #[inline]
            fn get(&self) -> u64 {
                self.load($ordering::Acquire)
            }
            #[inline]
            fn put(&self, value: u64) {
                self.store(value, $ordering::Release);
            }
            #[inline]
            fn step(&self, from: u64, to: u64) -> Result<(), u64> {
                self.compare_exchange(from, to, $ordering::AcqRel, $ordering::Acquire)
                    .map(drop)
            }
            #[inline]
            fn set(&self, bits: u64) -> u64 {
                self.fetch_or(bits, $ordering::AcqRel)
            }
            #[inline]
            fn clear(&self, bits: u64) -> u64 {
                self.fetch_and(!bits, $ordering::AcqRel)
            }
            #[inline]
            fn add(&self, number: u64) {
                self.fetch_add(number, $ordering::AcqRel);
            }
        }
    };
}

use core::sync::atomic::{AtomicU64, Ordering};
word!(AtomicU64, Ordering);

#[cfg(loom)]
mod in_loom {
    use super::Word;
    use loom::sync::atomic::{AtomicU64, Ordering};
    word!(AtomicU64, Ordering);
}
