//! The configuration file, its check and its reload, and the forms of the log, of a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serving::{Serving, Talking, baton, run};

/// A folder with a configuration of these lines.
fn configured(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("baton.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

fn check(path: &str) -> (String, String, Option<i32>) {
    let mut command = baton();
    command.args(["serve", "--check", "--config", path]);
    let (output, errors, status) = run(command, b"");
    (output, errors, status.code())
}

//= proves spec/configuration.md#check
//= proves spec/configuration.md#mistakes
#[test]
fn a_check_names_every_mistake_and_does_nothing_else() {
    let (_folder, path) = configured("sessions = 5\nlog = \"json\"\n");
    let (output, errors, code) = check(&path);
    assert_eq!((output, code), (format!("{path}: no mistakes\n"), Some(0)));
    assert_eq!(errors, "");

    let (_folder, path) = configured("sesions = 5\nhops = \"x\"\nhops = 1\n\ncert = \"c\"\n");
    let (output, errors, code) = check(&path);
    assert_eq!((&output[..], code), ("", Some(1)));
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), 4, "{errors}");
    let expected = [
        (1, "unknown key sesions; expected sessions?"),
        (2, "hops: the string \"x\"; expected integer (0 to 100000)"),
        (3, "duplicate key hops; expected each key once"),
        (5, "cert: is there without key; expected both or neither"),
    ];
    for (line, (number, what)) in lines.iter().zip(expected) {
        assert!(
            line.starts_with(&format!("baton: {path}:{number}: ")),
            "{line}"
        );
        assert!(line.contains(what), "{line}");
    }

    fs::write(&path, b"hops = 1\n\xff\n").unwrap();
    let (_, errors, code) = check(&path);
    assert!(errors.contains(":2: bytes that are no UTF-8"), "{errors}");
    assert_eq!(code, Some(1));
    fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
    assert!(check(&path).1.contains("longer than"));
    assert!(check("/no/such/file").1.contains("No such file"));
    let (_, _, status) = run(
        {
            let mut command = baton();
            command.args(["serve", "--check"]);
            command
        },
        b"",
    );
    assert_eq!(status.code(), Some(2), "there is nothing to check");
}

/// A mistake in what is named is one of the line that names it.
//= proves spec/configuration.md#check
#[test]
fn a_check_reads_what_the_configuration_names() {
    let serving = Serving::start::<&str>(&[]);
    let [cert, key, ca, client_key] = ["server.pem", "server-key.pem", "ca.pem", "client-key.pem"]
        .map(|name| serving.identity(name).to_str().unwrap().to_owned());
    let (folder, path) = configured("");
    let in_folder = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (nonsense, passwords) = (
        in_folder("nonsense", "x\n"),
        in_folder("passwords", "a:long enough to be one\n"),
    );
    let write = |lines: [&str; 6]| {
        let keys = ["cert", "key", "client-ca", "password-file"];
        let mut text: String = keys
            .iter()
            .zip(lines)
            .map(|(key, path)| format!("{key} = {path:?}\n"))
            .collect();
        text += &format!("exec = [{:?}]\nclient-auth = {:?}\n", lines[4], lines[5]);
        fs::write(&path, text).unwrap();
    };
    let good = [&cert[..], &key, &ca, &passwords, "cat", "none"];
    write(good);
    let (output, errors, code) = check(&path);
    assert_eq!(
        (output, code),
        (format!("{path}: no mistakes\n"), Some(0)),
        "{errors}"
    );
    for (place, value, what) in [
        (0, "/none", "cert: "),
        (0, &nonsense[..], "cert: "),
        (1, "/none", "key: "),
        // Another certificate's.
        (1, &client_key, "cert: "),
        (2, "/none", "client-ca: "),
        (2, &nonsense, "client-ca: "),
        (3, "/none", "password-file: "),
        (3, &nonsense, "line 1"),
        (4, "/none", "exec: "),
        (4, "no-such-program-anywhere", "exec: "),
        // It is there, and no program.
        (4, &passwords, "exec: "),
    ] {
        let mut lines = good;
        lines[place] = value;
        write(lines);
        let (output, errors, code) = check(&path);
        let line = if what == "cert: " { 0 } else { place } + 1;
        let begins = format!("baton: {path}:{line}: ");
        assert!(
            errors.starts_with(&begins) && errors.contains(what),
            "{errors}"
        );
        assert_eq!(
            (errors.lines().count(), &output[..], code),
            (1, "", Some(1))
        );
    }
}

/// What an echo answers, or a page.
fn answer(serving: &Serving) -> String {
    let (output, errors, status) = run(serving.connect(&[]), b"GET / HTTP/1.0\r\n\r\n");
    assert!(status.success(), "{errors}");
    output
}

//= proves spec/configuration.md#file
//= proves spec/configuration.md#reload
#[test]
fn a_reload_is_taken_over_as_a_whole_or_not_at_all() {
    let (_folder, path) = configured("http = true\nhops = 2\nlisten = \"127.0.0.1:1\"\n");
    // On the command line the address counts, and not the file's.
    let serving = Serving::start(&["--config", &path]);
    assert!(answer(&serving).starts_with("HTTP/1."));
    serving.log.wait_for("3 hops; released");

    let reload = |text: &str, nth, what: &str| {
        fs::write(&path, text).unwrap();
        serving.signal(Signal::HUP);
        serving.log.wait_for_nth(nth, what);
    };
    reload("hops = 0\n", 1, "configuration read");
    let mut echoes = Talking::start(serving.connect(&[]));
    echoes.say("one\n");
    assert_eq!(echoes.hear(), "one\n");

    // One good key and one mistake: neither counts.
    reload("http = true\nhop = 1\n", 1, "not taken over (1 wrong)");
    serving
        .log
        .wait_for(&format!("{path}:2: unknown key hop; expected hops?"));
    assert!(answer(&serving).starts_with("GET /"), "it echoes still");
}

/// The handshaker of the old terms leaves the listener alone: what it has no room for is not refused
/// by it, although that is what its terms say of a server that is full.
//= proves spec/processes.md#to-handshaker
#[test]
fn a_reload_refuses_nobody() {
    let (_folder, path) = configured("over-limit = \"refuse\"\n");
    let serving = Serving::start(&["--config", &path]);
    for nth in 1..=3 {
        serving.signal(Signal::HUP);
        serving.log.wait_for_nth(nth, "configuration read");
        for _ in 0..20 {
            assert!(answer(&serving).starts_with("GET /"));
        }
    }
    assert_eq!(serving.log.count("there is no room"), 0);
}

//= proves spec/configuration.md#reload
#[test]
fn what_cannot_change_does_not() {
    let (_folder, path) = configured("http = true\n");
    let serving = Serving::start(&["--config", &path]);
    fs::write(&path, "password-file = \"/no/such/file\"\n").unwrap();
    serving.signal(Signal::HUP);
    serving.log.wait_for_nth(1, "not taken over (1 wrong)");
    assert!(answer(&serving).starts_with("HTTP/1."));
    let state = tempfile::tempdir().unwrap();
    // This one is told all by its file.
    let text = |port: u16, state: &Path| {
        format!(
            "listen = \"127.0.0.1:{port}\"\n\nstate = \"{}\"\nlog = \"human\"\n",
            state.display()
        )
    };
    fs::write(&path, text(0, &state.path().join("baton"))).unwrap();
    let mut command = baton();
    command
        .args(["serve", "--config", &path])
        .process_group_of_its_own();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let greeting = serving::Lines::of(child.stdout.take().unwrap());
    let log = serving::Lines::of(child.stderr.take().unwrap());
    greeting.wait_for("connect");
    fs::write(&path, text(1, Path::new("/elsewhere"))).unwrap();
    serving::signal_to(child.id(), Signal::HUP);
    log.wait_for(&format!("{path}:1: listen: cannot change"));
    log.wait_for(&format!("{path}:3: state: cannot change"));
    log.wait_for("not taken over (2 wrong)");
    serving::signal_to(child.id(), Signal::TERM);
    assert!(child.wait().unwrap().success());
}

trait OwnGroup {
    fn process_group_of_its_own(&mut self) -> &mut Self;
}

impl OwnGroup for Command {
    fn process_group_of_its_own(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}

/// Every line of a log that is not a terminal's is an object, and those of a session name it.
//= proves spec/configuration.md#json
//= proves spec/configuration.md#lines
#[test]
fn a_log_for_programs_is_json() {
    let serving = Serving::start(&["--log", "json", "--exec", "sh", "-c", "cat; exit 3"]);
    let (_, errors, status) = run(serving.connect(&[]), b"well\n");
    assert!(status.success(), "{errors}");
    serving.log.wait_for("released: closed");
    let (_, log) = serving.stop();
    let mut of_sessions = 0;
    for line in &log {
        assert!(
            line.starts_with("{\"time\":\"20") && line.ends_with("\"}"),
            "{line}"
        );
        assert!(
            line.contains("Z\",\"pid\":") && line.contains(",\"message\":\""),
            "{line}"
        );
        if let Some((_, session)) = line.split_once("\"session\":\"") {
            let (session, _) = session.split_once('"').unwrap();
            assert!(
                session.len() == 32 && session.bytes().all(|b| b.is_ascii_hexdigit()),
                "{line}"
            );
            of_sessions += 1;
        }
    }
    // It runs; its command has ended; it has.
    assert_eq!(of_sessions, 3, "{log:#?}");
    assert!(
        log.iter()
            .any(|line| line.contains("\"message\":\"command ")),
        "{log:#?}"
    );
    assert!(
        log.iter()
            .any(|line| line.contains("\"message\":\"stopped\"")),
        "{log:#?}"
    );
}

//= proves spec/configuration.md#full
#[test]
fn a_log_that_takes_nothing_costs_nothing() {
    for form in ["human", "json"] {
        let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
        let serving = Serving::start_with_errors(&["--log", form], full());
        assert_eq!(answer(&serving), "GET / HTTP/1.0\r\n\r\n");
        assert_eq!(answer(&serving), "GET / HTTP/1.0\r\n\r\n");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let serving = Serving::start_with_errors(&["--log", form], writer.into());
        assert_eq!(answer(&serving), "GET / HTTP/1.0\r\n\r\n");
        assert_eq!(answer(&serving), "GET / HTTP/1.0\r\n\r\n");
    }
}
