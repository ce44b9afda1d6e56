//! What the options of `baton serve` name elsewhere: files and programs, read as the server would read
//! them (`spec/configuration.md#check`).
//!
//! Invariants: nothing is made, and nothing of a file's content is shown.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::cred::{AcceptorCredential, Anchors};
use crate::server::passwords;
use crate::sys::clock;

use super::arguments::Serve;

/// What is wrong, by the key that names it.
//= spec/configuration.md#check
pub(super) fn mistakes(options: &Serve) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut wrong = |key, what: String| found.push((key, format!("{key}: {what}")));
    let named = [
        ("cert", &options.cert),
        ("key", &options.key),
        ("client-ca", &options.client_ca),
        ("password-file", &options.password_file),
    ];
    let mut unread = Vec::new();
    for (key, path) in named {
        if let Some(Err(error)) = path.as_ref().map(File::open) {
            wrong(key, format!("{error}; expected a file that can be read"));
            unread.push(key);
        }
    }
    let is_read = |key| !unread.contains(&key);
    if let (Some(cert), Some(key)) = (&options.cert, &options.key)
        && is_read("cert")
        && is_read("key")
    {
        match AcceptorCredential::from_pem_files(cert, key) {
            Err(error) => wrong(
                "cert",
                format!("{error}; expected a certificate and its key"),
            ),
            Ok(credential) if credential.valid_until() < clock::unix_seconds() => {
                let what = "the certificate has expired; expected one that is valid";
                wrong("cert", what.to_owned());
            }
            Ok(_) => {}
        }
    }
    if let Some(path) = options.client_ca.as_ref().filter(|_| is_read("client-ca"))
        && let Err(error) = Anchors::from_pem_file(path)
    {
        wrong("client-ca", format!("{error}; expected certificates, PEM"));
    }
    if let Some(path) = &options.password_file
        && is_read("password-file")
        && let Err(error) = passwords::File::read(path)
    {
        wrong("password-file", error.to_string());
    }
    if let Some(program) = options.exec.as_ref().and_then(|words| words.first())
        && !is_program(Path::new(program))
    {
        let what = "there is no such program; expected one that can be executed";
        wrong("exec", what.to_owned());
    }
    found
}

/// Whether a command that begins so can be started.
fn is_program(program: &Path) -> bool {
    let is_one = |path: &Path| {
        path.metadata()
            .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 || program.is_absolute() {
        return is_one(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| is_one(&folder.join(program)))
}
