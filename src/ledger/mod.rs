//! Who runs each context: the ledger, and the domain of processes that share it.
//!
//! The pages are `spec/ledger.md`, `spec/domains.md` and `spec/keeper.md`. The invariants kept here:
//!
//! - A context runs where the last compare-and-swap of its control word was made; no control
//!   word has the same value twice. Everything else decides only when a context ends.
//! - No lock, no wait: a process may be stopped or killed between any two steps.
//! - A [`Claim`] comes out of a step that succeeded and of nothing else.
//! - What is read from a mapping is hostile: indexes are compared with the capacity first.
//!
//! | room | what lives there |
//! |---|---|
//! | `control`, `header` | the words, packed and unpacked |
//! | `marks`, `table`, `processes` | the algorithms, over a word (`word::Word`) that loom can be |
//! | [`Ledger`], [`Claim`] | the algorithms over a mapping, and the proof they give |
//! | [`Keyring`], [`Domain`] | the sealing keys, and both together |
//! | [`keeper`] | the one process that writes a kept domain's ledger |
//! | `wire`, `link` | what is said between a member and the keeper, and the member's end |
//!
//! The keeper lives here and not above: it runs the algorithms of the ledger, which are this
//! room's own, and claims and domains speak with it.

mod claim;
mod control;
mod domain;
mod error;
mod growth;
mod header;
mod importer;
pub mod keeper;
mod kept;
mod keyring;
mod keys;
mod link;
mod mapped;
mod marks;
mod processes;
mod runtime;
mod table;
mod wire;
mod word;

pub use claim::{Claim, Departure, NotDeparted};
pub use control::Cause;
pub use domain::Domain;
pub use error::{Error, Lost, Refusal, Stay};
pub(crate) use importer::{Permitted, Terms};
pub use keyring::Keyring;
pub(crate) use link::Grant;
pub use mapped::Ledger;
pub(crate) use wire::{Arriving, HANDLE, Handle};

use crate::secret;

/// A context's identifier: 128 random bits, never given twice.
pub type ContextId = [u8; 16];

/// What a ledger is made for. It is fixed when the ledger is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Contexts at once, in any process or in transit: 1 to 2^24. 64 bytes each, once used.
    pub capacity: u32,
    /// Processes at once: 1 to 2^17-1. 64 bytes each, once used.
    pub processes: u32,
    /// Whether ended contexts wait until [`Ledger::collect`] has told their release. When false
    /// nobody is told, and an entry is free as soon as its context has ended.
    pub collect: bool,
}

impl Default for Options {
    /// 65,536 contexts in 16,384 processes, not collected.
    fn default() -> Self {
        Self {
            capacity: 1 << 16,
            processes: 1 << 14,
            collect: false,
        }
    }
}

/// The release of one ended context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The context that has ended.
    pub id: ContextId,
    /// The last epoch it had.
    pub epoch: u64,
    /// Why it has ended.
    pub cause: Cause,
    /// A collector died, or panicked, while it was telling this release: it may have been told.
    pub repeated: bool,
}

/// How many entries are in which state: a count, of a moment that passes while it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Contexts that some process runs.
    pub active: usize,
    /// Contexts whose token is out.
    pub transit: usize,
    /// Ended contexts whose release is not told.
    pub ended: usize,
    /// Contexts that are being made.
    pub draft: usize,
}

/// 128 bits from the system's random source.
fn random_id() -> Result<[u8; 16], Error> {
    let mut id = [0; 16];
    secret::random(&mut id)?;
    Ok(id)
}

#[cfg(test)]
mod tests;
