//! A claim does not reach a log.

fn printed(claim: &baton::ledger::Claim) -> String {
    format!("{claim:?}") //~ E0277 doesn't implement `Debug`
}

fn main() {}
