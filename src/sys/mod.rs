//! STUB
#![allow(missing_docs)]
/// Signals as a descriptor.
pub mod signal;
pub mod process {
    pub fn word() -> u64 {
        1
    }
}
