//! A claim that has departed is gone.

use baton::ledger::Claim;

fn after(claim: Claim) -> bool {
    let _ = claim.depart(u64::MAX);
    claim.check().is_ok() //~ E0382 moved value
}

fn main() {}
