//! A claim cannot be copied: there is one runner.

fn two(claim: &baton::ledger::Claim) -> baton::ledger::Claim {
    claim.clone() //~ E0308 mismatched types
}

fn main() {}
