//! The development identity, by the program as a user starts it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use serving::{Serving, baton, run};

fn files(folder: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let entry = |entry: fs::DirEntry| {
        let mode = entry.metadata().unwrap().mode();
        let name = entry.file_name().into_string().unwrap();
        (name, (mode, fs::read(entry.path()).unwrap()))
    };
    fs::read_dir(folder)
        .unwrap()
        .map(|found| entry(found.unwrap()))
        .collect()
}

#[test]
fn a_first_start_makes_an_identity_that_later_ones_keep() {
    let first = Serving::start::<&str>(&[]);
    let state = first.state().clone();
    let folder = first.identity("");
    assert!(first.stop().0.success());
    let made = files(&folder);
    assert_eq!(
        made.keys().collect::<Vec<_>>(),
        [
            "ca-key.pem",
            "ca.pem",
            "client-key.pem",
            "client.pem",
            "server-key.pem",
            "server.pem"
        ]
    );
    assert!(made.values().all(|(mode, _)| *mode == 0o100_600));
    for folder in [state.path().join("baton"), folder.clone()] {
        assert_eq!(fs::metadata(folder).unwrap().mode(), 0o040_700);
    }
    let second = Serving::start_in::<&str>(&state, &[], |_| {});
    assert!(second.stop().0.success());
    assert_eq!(files(&folder), made);
}

#[test]
fn an_identity_that_others_can_read_is_refused() {
    let serving = Serving::start::<&str>(&[]);
    let state = serving.state().clone();
    let key = serving.identity("server-key.pem");
    assert!(serving.stop().0.success());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = baton();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--state"])
        .arg(state.path().join("baton"));
    let (output, errors, status) = run(command, b"");
    assert_eq!((output.as_str(), status.code()), ("", Some(1)));
    assert!(
        errors.contains("server-key.pem: open to others (mode 0644): chmod go="),
        "{errors}"
    );
}

#[test]
fn the_state_is_where_the_environment_says() {
    let home = tempfile::tempdir().unwrap();
    for (variables, expected) in [
        (vec![("HOME", home.path().to_owned())], ".local/state/baton"),
        (
            vec![
                ("HOME", home.path().to_owned()),
                ("XDG_STATE_HOME", home.path().join("x")),
            ],
            "x/baton",
        ),
        (
            vec![
                ("HOME", home.path().join("y")),
                ("XDG_STATE_HOME", "relative".into()),
            ],
            "y/.local/state/baton",
        ),
    ] {
        let mut command = baton();
        command.env_remove("XDG_STATE_HOME").envs(variables);
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let greeting = serving::Lines::of(child.stdout.take().unwrap());
        greeting.wait_for("identity made");
        assert!(home.path().join(expected).join("identity/ca.pem").exists());
        greeting.wait_for(" connect ");
        serving::signal_to(child.id(), rustix::process::Signal::INT);
        assert!(child.wait().unwrap().success());
    }
    let mut homeless = baton();
    homeless
        .env_remove("XDG_STATE_HOME")
        .env_remove("HOME")
        .arg("serve");
    let (_, errors, status) = run(homeless, b"");
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("give --state DIR"), "{errors}");
}

#[test]
fn a_certificate_of_the_users_own_needs_no_state() {
    let serving = Serving::start::<&str>(&[]);
    let (cert, key, ca) = (
        serving.identity("server.pem"),
        serving.identity("server-key.pem"),
        serving.identity("ca.pem"),
    );
    let own = Serving::start_with(
        &[
            "--cert".as_ref(),
            cert.as_os_str(),
            "--key".as_ref(),
            key.as_os_str(),
        ],
        |command: &mut Command| {
            command.env_remove("HOME");
        },
    );
    assert!(!own.identity("").exists());
    let mut connect = baton();
    connect
        .arg("connect")
        .arg("--ca")
        .arg(ca)
        .arg(own.address.to_string());
    let (output, errors, status) = run(connect, b"hello\n");
    assert!(status.success(), "{errors}");
    assert_eq!(output, "hello\n");
}
