//! A claim is made by a step of the ledger, and by nothing else.

use baton::ledger::{Claim, Ledger};

fn forged(ledger: Ledger) -> Claim {
    Claim { ledger, control: 2 << 61 | 1, born: baton::sys::process::word(), place: 0 }
}

fn also_forged() -> Claim {
    Claim::default()
}

fn main() {}
