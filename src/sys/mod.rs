//! STUB
#![allow(missing_docs)]
pub mod process {
    pub fn word() -> u64 {
        1
    }
}
