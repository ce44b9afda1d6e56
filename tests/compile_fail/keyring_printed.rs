//! Keys do not reach a log.

fn printed(keyring: &baton::ledger::Keyring) -> String {
    format!("{keyring:?}")
}

fn main() {}
