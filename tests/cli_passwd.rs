//! `baton passwd`: what it writes, what it refuses, and that a file is replaced whole or not at all.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn start(file: &Path, arguments: &[&str], input: &[u8]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
    command.arg("passwd").arg(file).args(arguments);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // What it does not read is nothing it needs.
    let _ = child.stdin.take().unwrap().write_all(input);
    child
}

/// Exit code and standard error.
fn passwd(file: &Path, arguments: &[&str], input: &[u8]) -> (Option<i32>, String) {
    let output = start(file, arguments, input).wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn done() -> (Option<i32>, String) {
    (Some(0), String::new())
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> (Self, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passwords");
        (Self(folder), file)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        entries.map(name).collect()
    }
}

fn write(file: &Path, text: &str, mode: u32) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

//= proves spec/passwords.md#command
//= proves spec/passwords.md#change
#[test]
fn users_are_added_changed_checked_and_removed() {
    let (place, file) = Place::new();
    assert_eq!(passwd(&file, &["alice"], b"open sesame\nmore"), done());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(passwd(&file, &["bob"], "\u{fc}ber".as_bytes()), done());
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with("alice:$argon2id$v=19$m=19456,t=2,p=1$"),
        "{text}"
    );
    assert!(!text.contains("sesame"));
    assert_eq!(passwd(&file, &["alice", "--check"], b"open sesame"), done());
    let wrong = (Some(1), "baton: it is not the user's password\n".to_owned());
    for (user, password) in [
        ("alice", "open sesam"),
        ("carol", "open sesame"),
        ("bob", ""),
    ] {
        let (code, error) = passwd(&file, &[user, "--check"], password.as_bytes());
        assert_eq!(code, wrong.0);
        assert!(error.contains("it is not the user's password"), "{error}");
    }
    // A change leaves all other lines as they are.
    write(
        &file,
        &format!("# people\n\n{}\nclear:as it is\n{}", lines[0], lines[1]),
        0o600,
    );
    let (code, error) = passwd(&file, &["--check"], b"");
    assert_eq!(code, Some(1));
    assert!(
        error.contains("one password stands in the file in clear"),
        "{error}"
    );
    assert_eq!(passwd(&file, &["alice"], b"changed"), done());
    let after = fs::read_to_string(&file).unwrap();
    let rest = format!("clear:as it is\n{}\n", lines[1]);
    assert!(
        after.starts_with("# people\n\nalice:$argon2id$") && after.ends_with(&rest),
        "{after}"
    );
    assert_eq!(passwd(&file, &["alice", "--check"], b"changed"), done());
    assert_eq!(passwd(&file, &["clear", "--delete"], b""), done());
    assert_eq!(passwd(&file, &["--check"], b""), done());
    let (code, error) = passwd(&file, &["clear", "--delete"], b"");
    assert_eq!(code, Some(1));
    assert!(error.contains("the user is not in the file"), "{error}");
    assert_eq!(place.names(), ["passwords"]);
}

//= proves spec/passwords.md#change
#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let (place, file) = Place::new();
    let refused = |arguments: &[&str], input: &[u8], expected: &str| {
        let before = fs::read(&file).ok();
        let (code, error) = passwd(&file, arguments, input);
        assert_eq!(code, Some(1), "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert_eq!(fs::read(&file).ok(), before);
        assert!(place.names().len() <= 1, "{:?}", place.names());
    };
    let long = "a".repeat(257);
    for name in ["", "a:b", "#a", " a", "a\nb", "a\u{7}", "a\u{202e}b", &long] {
        refused(&[name], b"secret", "the user name is none");
        refused(&[name, "--delete"], b"", "the user name is none");
    }
    let none = "the password is none";
    refused(&["a"], b"", none);
    refused(&["a"], b"\nb", none);
    refused(&["a"], b"a\0b", none);
    refused(&["a"], b"\xff", none);
    refused(&["a"], &[b'a'; 1025], "no password");
    // A file that the server would not use is not made worse.
    write(&file, "alice", 0o600);
    refused(&["bob"], b"secret", "line 1: not NAME:PASSWORD");
    write(
        &file,
        "alice:$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu\n",
        0o600,
    );
    refused(&["bob"], b"secret", "line 1: costs more than 256 MiB");
    refused(
        &["alice", "--check"],
        b"secret",
        "line 1: costs more than 256 MiB",
    );
    write(&file, "alice:secret\n", 0o640);
    refused(&["bob"], b"secret", "open to others (mode 0640)");
    write(&file, &format!("{}\n", "#".repeat(65_500)), 0o600);
    refused(&["bob"], b"secret", "larger than 65536 bytes");
    // What would become the file is no one's link to somewhere else.
    write(&file, "", 0o600);
    let victim = place.0.path().join("passwords.new");
    symlink("/dev/null", &victim).unwrap();
    let (code, error) = passwd(&file, &["bob"], b"secret");
    assert_eq!(code, Some(1));
    assert!(error.contains("passwords.new"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"");
}

//= proves spec/passwords.md#change
#[test]
fn changes_at_once_come_one_after_the_other() {
    let (place, file) = Place::new();
    // What one that was killed has left behind.
    write(&place.0.path().join("passwords.new"), "half a li", 0o600);
    let link = place.0.path().join("link");
    let names: Vec<String> = (0..8).map(|number| format!("user{number}")).collect();
    let children: Vec<Child> = names
        .iter()
        .map(|name| start(&file, &[name], name.as_bytes()))
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 8);
    // Through a symbolic link, what it leads to.
    symlink(&file, &link).unwrap();
    assert_eq!(passwd(&link, &["user3"], b"new"), done());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    for name in &names {
        let password = if name == "user3" { "new" } else { name };
        assert_eq!(
            passwd(&file, &[name, "--check"], password.as_bytes()),
            done()
        );
    }
    assert_eq!(place.names().len(), 2);
}
