//! Who gets in: client certificates in both framings, passwords in message framing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serving::{Serving, run};

/// A command that shows who the client is.
const WHO: [&str; 4] = ["--exec", "sh", "-c", "echo user=$REMOTE_USER"];

fn client(serving: &Serving) -> [String; 2] {
    ["client.pem", "client-key.pem"].map(|name| serving.identity(name).display().to_string())
}

#[test]
fn a_required_certificate_lets_in_who_has_one() {
    let serving = Serving::start(&[&["--client-auth", "required"][..], &WHO].concat());
    let [cert, key] = client(&serving);
    for framing in [&[][..], &["--message"]] {
        let with = [framing, &["--cert", &cert, "--key", &key]].concat();
        let (output, errors, status) = run(serving.connect(&with), b"");
        assert!(status.success(), "{errors}");
        assert_eq!(output, "user=CN=Baton development client\n");
        let (output, errors, status) = run(serving.connect(framing), b"");
        assert_eq!((output.as_str(), status.code()), ("", Some(1)), "{errors}");
    }
    let refused = serving.log.wait_for_nth(2, "refused: ");
    assert!(refused.contains("NO_CRED"), "{refused}");
    if let Some(openssl) = serving.openssl(&["-quiet", "-cert", &cert, "-key", &key]) {
        let (output, errors, _) = run(openssl, b"");
        assert_eq!(output, "user=CN=Baton development client\n", "{errors}");
    }
    if let Some(openssl) = serving.openssl(&["-quiet"]) {
        let (output, errors, _) = run(openssl, b"");
        assert_eq!(output, "");
        assert!(errors.contains("certificate required"), "{errors}");
    }
}

#[test]
fn a_curl_with_a_certificate_is_known_and_without_one_is_not() {
    let serving = Serving::start(&["--http", "--client-auth", "optional"]);
    let [cert, key] = client(&serving);
    for (arguments, user) in [
        (
            &["--cert", &cert, "--key", &key][..],
            "user         CN=Baton development client\n",
        ),
        (&[], "user         none\n"),
    ] {
        let Some(curl) = serving.curl("/", arguments) else {
            return;
        };
        let (page, errors, status) = run(curl, b"");
        assert!(status.success(), "{errors}");
        assert!(page.contains(user), "{page}");
    }
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let serving = Serving::start(&["--client-auth", "optional"]);
    let stranger = Serving::start::<&str>(&[]);
    let [cert, key] = client(&stranger);
    for framing in [&[][..], &["--message"]] {
        let with = [framing, &["--cert", &cert, "--key", &key]].concat();
        let (output, errors, status) = run(serving.connect(&with), b"hello\n");
        assert_eq!((output.as_str(), status.code()), ("", Some(1)), "{errors}");
    }
    let refused = serving.log.wait_for_nth(2, "refused: ");
    assert!(refused.contains("UNAUTHORIZED"), "{refused}");
}

#[test]
fn a_server_of_another_authority_is_refused() {
    let serving = Serving::start::<&str>(&[]);
    let stranger = Serving::start::<&str>(&[]);
    for framing in [&[][..], &["--message"]] {
        let mut connect = serving::baton();
        connect
            .arg("connect")
            .arg("--ca")
            .arg(stranger.identity("ca.pem"))
            .args(framing);
        connect.arg(serving.address.to_string());
        let (output, errors, status) = run(connect, b"hello\n");
        assert_eq!((output.as_str(), status.code()), ("", Some(1)));
        assert!(errors.contains("UNAUTHORIZED"), "{errors}");
        let named = [framing, &["--name", "elsewhere.example"]].concat();
        let (_, errors, status) = run(serving.connect(&named), b"hello\n");
        assert_eq!(status.code(), Some(1), "{errors}");
    }
}

/// `baton connect --message --user` with a password on descriptor 3.
fn log_in(
    serving: &Serving,
    user: &str,
    password: &str,
    more: &[&str],
) -> (String, String, Option<i32>) {
    let connect =
        serving.connect(&[&["--message", "--user", user, "--password-fd", "3"], more].concat());
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" 3<<END\n$PASSWORD\nEND"]);
    shell
        .env("PASSWORD", password)
        .arg(connect.get_program())
        .args(connect.get_args());
    let (output, errors, status) = run(shell, b"");
    (output, errors, status.code())
}

fn with_passwords(text: &str, mode: u32) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    (file, path)
}

#[test]
fn a_password_lets_in_its_user_and_no_other() {
    let (_file, path) = with_passwords("alice:open sesame\nbob:\u{fc}ber\n", 0o600);
    let serving = Serving::start(&[&["--password-file", &path][..], &WHO].concat());
    for (user, password) in [("alice", "open sesame"), ("bob", "\u{fc}ber")] {
        let (output, errors, code) = log_in(&serving, user, password, &[]);
        assert_eq!(
            (output, code),
            (format!("user={user}\n"), Some(0)),
            "{errors}"
        );
    }
    for (user, password) in [
        ("alice", "open sesam"),
        ("alice", ""),
        ("bob", "open sesame"),
        ("carol", "open sesame"),
    ] {
        let (output, errors, code) = log_in(&serving, user, password, &[]);
        assert_eq!((output.as_str(), code), ("", Some(1)), "{user}: {errors}");
    }
    // Nobody, where everybody is to be somebody.
    let (output, errors, status) = run(serving.connect(&["--message"]), b"");
    assert_eq!((output.as_str(), status.code()), ("", Some(1)));
    assert!(
        errors.contains("anonymous initiators are not admitted"),
        "{errors}"
    );
    // Record framing has no place for a password.
    let (output, errors, status) = run(serving.connect(&[]), b"");
    assert_eq!((output.as_str(), status.code()), ("", Some(1)), "{errors}");
    if let Some(openssl) = serving.openssl(&["-quiet"]) {
        let (output, errors, _) = run(openssl, b"");
        assert_eq!(output, "");
        assert!(errors.contains("access denied"), "{errors}");
    }
    // Neither file, log nor client's errors show a password.
    let (_, log) = serving.stop();
    assert!(
        log.iter()
            .chain([&errors])
            .all(|line| !line.contains("sesam")),
        "{log:#?}"
    );
}

//= proves spec/passwords.md#file
#[test]
fn a_hash_lets_in_its_user_and_no_other() {
    let (file, path) = with_passwords("bob:clear\n", 0o600);
    let mut passwd = Command::new("sh");
    passwd.args(["-c", "echo 'open sesame' | \"$0\" passwd \"$1\" alice"]);
    passwd.args([env!("CARGO_BIN_EXE_baton"), &path]);
    assert!(passwd.status().unwrap().success());
    let text = fs::read_to_string(&path).unwrap();
    let serving = Serving::start(&[&["--password-file", &path][..], &WHO].concat());
    let (output, errors, code) = log_in(&serving, "alice", "open sesame", &[]);
    assert_eq!((&*output, code), ("user=alice\n", Some(0)), "{errors}");
    let hash = text.lines().nth(1).unwrap().strip_prefix("alice:").unwrap();
    for (user, password) in [
        ("alice", "open sesam"),
        ("alice", hash),
        ("carol", "open sesame"),
    ] {
        let (output, errors, code) = log_in(&serving, user, password, &[]);
        assert_eq!((output.as_str(), code), ("", Some(1)), "{user}: {errors}");
    }
    let (_, log) = serving.stop();
    assert!(
        log.iter()
            .any(|line| line.contains("1 of 2 passwords in clear")),
        "{log:#?}"
    );
    drop(file);
}

#[test]
fn a_certificate_needs_no_password() {
    let (_file, path) = with_passwords("alice:secret\n", 0o600);
    let serving = Serving::start(
        &[
            &["--password-file", &path, "--client-auth", "optional"][..],
            &WHO,
        ]
        .concat(),
    );
    let [cert, key] = client(&serving);
    let with = ["--message", "--cert", &cert, "--key", &key];
    let (output, errors, status) = run(serving.connect(&with), b"");
    assert!(status.success(), "{errors}");
    assert_eq!(output, "user=CN=Baton development client\n");
}

#[test]
fn a_password_file_that_others_can_read_is_refused() {
    let (_file, path) = with_passwords("alice:secret\n", 0o640);
    let state = tempfile::tempdir().unwrap();
    let mut command = serving::baton();
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--password-file",
        &path,
        "--state",
    ]);
    command.arg(state.path().join("baton"));
    let (_, errors, status) = run(command, b"");
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("open to others (mode 0640)"), "{errors}");
}
