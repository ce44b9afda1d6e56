//! Keys do not reach a log.

fn printed(keyring: &baton::ledger::Keyring) -> String {
    format!("{keyring:?}") //~ E0277 doesn't implement
}

fn main() {}
