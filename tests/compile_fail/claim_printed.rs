//! A claim does not reach a log.

fn printed(claim: &baton::ledger::Claim) -> String {
    format!("{claim:?}")
}

fn main() {}
