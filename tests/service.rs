//! A service manager's side of `baton serve`: what it passes, what it is told, and its units.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use baton::sys::socket::recv_with_fds;
use rustix::process::Signal;
use serving::{Lines, baton, program, run, signal_to};
use tempfile::TempDir;

/// A server that a manager started.
struct Managed {
    child: Child,
    folder: TempDir,
    output: Lines,
    log: Lines,
}

impl Managed {
    /// Starts it with `passed` as descriptor 3.
    fn start(passed: Option<OwnedFd>, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let script = match passed {
            Some(_) => "LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 0</dev/null",
            None => "exec \"$0\" \"$@\" </dev/null",
        };
        Self::by(script, passed, arguments, variables)
    }

    /// Starts it as the process that is watched.
    fn watched(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let script = "WATCHDOG_PID=$$ exec \"$0\" \"$@\" </dev/null";
        Self::by(script, None, arguments, variables)
    }

    fn by(
        script: &str,
        passed: Option<OwnedFd>,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_baton")]);
        command.args(["serve", "--log", "human", "--state"]);
        command.arg(folder.path().join("baton")).args(arguments);
        command.envs(variables.iter().copied());
        command.process_group(0);
        command.stdin(passed.map_or_else(Stdio::null, Stdio::from));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            output: Lines::of(child.stdout.take().unwrap()),
            log: Lines::of(child.stderr.take().unwrap()),
            child,
            folder,
        }
    }

    fn address(&self) -> SocketAddr {
        let line = self.output.wait_for("Baton listens on ");
        line.split(' ').nth(3).unwrap().parse().unwrap()
    }

    fn connect(&self) -> Command {
        let mut connect = baton();
        connect.arg("connect").arg("--ca");
        connect.arg(self.folder.path().join("baton/identity/ca.pem"));
        connect.arg(self.address().to_string());
        connect
    }

    fn signal(&self, signal: Signal) {
        signal_to(self.child.id(), signal);
    }

    fn wait(mut self) -> (Option<i32>, Vec<String>) {
        let log = self.log.all();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A manager's ear.
struct Ear {
    socket: UnixDatagram,
    descriptors: Vec<OwnedFd>,
}

impl Ear {
    fn new(path: &std::path::Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let patience = Some(Duration::from_secs(60));
        socket.set_read_timeout(patience).unwrap();
        Self {
            socket,
            descriptors: Vec::new(),
        }
    }

    /// What was told next, by key.
    fn hear(&mut self) -> Vec<(String, String)> {
        let mut bytes = [0; 4096];
        let received = recv_with_fds(&self.socket, &mut bytes, &mut self.descriptors, true);
        let length = received.unwrap().len;
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        let pair = |line: &str| {
            let (key, value) = line.split_once('=').unwrap();
            (key.to_owned(), value.to_owned())
        };
        text.lines().map(pair).collect()
    }

    /// Waits until something is told under `key`.
    fn hear_until(&mut self, key: &str) {
        while self.hear()[0].0 != key {}
    }

    /// What was told next but watchdogs.
    fn hear_other(&mut self) -> Vec<(String, String)> {
        loop {
            let told = self.hear();
            if told[0].0 != "WATCHDOG" {
                return told;
            }
        }
    }
}

fn key(told: &[(String, String)]) -> &str {
    &told[0].0
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

//= proves spec/service.md#passed
//= proves spec/service.md#clean
//= proves spec/service.md#kept-open
#[test]
fn a_passed_socket_is_served_and_no_session_sees_it() {
    let (listener, address) = listener();
    let script = "env; echo; ls -l /proc/self/fd; echo; cat";
    let passed = listener.try_clone().unwrap().into();
    let variables = [
        ("LISTEN_FDS", "1"),
        ("LISTEN_FDNAMES", "listen"),
        ("NOTIFY_SOCKET", "/nonexistent/socket"),
        ("WATCHDOG_USEC", "60000000"),
    ];
    let managed = Managed::start(Some(passed), &["--exec", "sh", "-c", script], &variables);
    assert_eq!(managed.address(), address, "whatever --listen says");
    let (output, errors, status) = run(managed.connect(), b"hello\n");
    assert!(status.success(), "{errors}");
    let mut parts = output.split("\n\n");
    let environment = parts.next().unwrap();
    assert!(environment.contains("BATON_SESSION_ID="));
    for name in [
        "LISTEN_",
        "NOTIFY_SOCKET",
        "WATCHDOG_",
        "MAINPID",
        "FDSTORE",
    ] {
        let leaked = environment.lines().find(|line| line.starts_with(name));
        assert_eq!(leaked, None);
    }
    // Pipes, and whatever this test was started with.
    let descriptors = parts.next().unwrap();
    assert!(descriptors.contains("pipe:["), "{descriptors}");
    assert!(!descriptors.contains("socket:["), "{descriptors}");
    assert_eq!(parts.next(), Some("hello\n"));

    // Stopped, it leaves the socket listening: who comes now waits for the next start.
    managed.signal(Signal::TERM);
    let (code, _) = managed.wait();
    assert_eq!(code, Some(0));
    let waiting = TcpStream::connect(address).unwrap();
    drop(waiting);
    let passed = listener.try_clone().unwrap().into();
    let next = Managed::start(Some(passed), &[], &[("LISTEN_FDS", "1")]);
    assert_eq!(next.address(), address);
    let (output, errors, _) = run(next.connect(), b"again\n");
    assert_eq!(output, "again\n", "{errors}");
}

/// Who comes after the server that a manager started is as good as that one.
//= proves spec/service.md#kept-open
//= proves spec/takeover.md#estate
#[test]
fn a_successor_leaves_the_managers_listener_open() {
    let (listener, address) = listener();
    let passed = listener.try_clone().unwrap().into();
    // Its own `listen` does not count, in none of them.
    let arguments = ["--listen", "127.0.0.1:1"];
    let managed = Managed::start(Some(passed), &arguments, &[("LISTEN_FDS", "1")]);
    assert_eq!(managed.address(), address);
    let mut process = managed.child.id();
    for nth in 1..=2 {
        signal_to(process, Signal::USR2);
        process = taken_over(&managed.log, nth);
    }
    signal_to(process, Signal::TERM);
    serving::wait_for_end(process);
    TcpStream::connect(address).unwrap();
}

//= proves spec/service.md#notify
#[test]
fn a_successor_tells_the_managers_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("notify");
    let mut ear = Ear::new(&name);
    let variables = [
        ("NOTIFY_SOCKET", name.to_str().unwrap()),
        ("WATCHDOG_USEC", "200000"),
    ];
    let managed = Managed::watched(&["--listen", "127.0.0.1:0"], &variables);
    managed.address();
    let mut process = managed.child.id();
    for nth in 1..=2 {
        signal_to(process, Signal::USR2);
        // The last that this one tells.
        ear.hear_until("MAINPID");
        let next = taken_over(&managed.log, nth);
        serving::wait_for_end(process);
        process = next;
    }
    for _ in 0..5 {
        ear.hear_until("WATCHDOG");
    }
    signal_to(process, Signal::TERM);
    serving::wait_for_end(process);
}

/// Waits for the `nth` takeover, and answers the new server's process.
fn taken_over(log: &Lines, nth: usize) -> u32 {
    let line = log.wait_for_nth(nth, "is the server from now on");
    let (_, rest) = line.split_once("process ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

//= proves spec/service.md#passed
#[test]
fn what_is_not_one_listening_socket_is_refused() {
    let unconnected = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (listening, address) = listener();
    let connected = TcpStream::connect(address).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for (fd, count, expected) in [
        (
            OwnedFd::from(unconnected),
            "1",
            "not a listening TCP socket",
        ),
        (connected.into(), "1", "not a listening TCP socket"),
        (file.into(), "1", "not a listening TCP socket"),
        (
            listening.try_clone().unwrap().into(),
            "2",
            "no such descriptors",
        ),
        (
            listening.try_clone().unwrap().into(),
            "0",
            "no such descriptors",
        ),
        (
            listening.try_clone().unwrap().into(),
            "65",
            "no such descriptors",
        ),
        (
            listening.try_clone().unwrap().into(),
            "x",
            "no such descriptors",
        ),
    ] {
        let managed = Managed::start(Some(fd), &[], &[("LISTEN_FDS", count)]);
        let (code, log) = managed.wait();
        assert_eq!(code, Some(1), "{count}: {log:?}");
        assert!(log.concat().contains(expected), "{count}: {log:?}");
    }
    // Of another process, it is none of ours.
    let variables = [("LISTEN_FDS", "1"), ("LISTEN_PID", "1")];
    let managed = Managed::start(None, &["--listen", "127.0.0.1:0"], &variables);
    assert_ne!(managed.address(), address);
}

//= proves spec/service.md#notify
//= proves spec/service.md#kept-open
#[test]
fn the_manager_is_told_of_each_phase_and_keeps_the_listener() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("notify");
    let mut ear = Ear::new(&name);
    let configuration = folder.path().join("baton.toml");
    std::fs::write(&configuration, "").unwrap();
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--config",
        configuration.to_str().unwrap(),
    ];
    let managed = Managed::start(
        None,
        &arguments,
        &[
            ("NOTIFY_SOCKET", name.to_str().unwrap()),
            ("WATCHDOG_USEC", "200000"),
        ],
    );
    let told = ear.hear_other();
    assert_eq!(told[0], ("READY".to_owned(), "1".to_owned()));
    assert_eq!(told[1], ("STATUS".to_owned(), "0 sessions".to_owned()));
    let told = ear.hear_other();
    let keys: Vec<&str> = told.iter().map(|(key, _)| &key[..]).collect();
    assert_eq!(keys, ["FDSTORE", "FDNAME", "FDPOLL"]);
    let stored = TcpListener::from(ear.descriptors.pop().unwrap());
    assert!(ear.descriptors.is_empty());
    assert_eq!(stored.local_addr().unwrap(), managed.address());
    for _ in 0..3 {
        assert_eq!(ear.hear(), [("WATCHDOG".to_owned(), "1".to_owned())]);
    }

    // Good terms, and bad ones.
    for (text, line) in [
        ("hops = 1\n", "configuration read"),
        ("hops = \"x\"\n", "configuration not taken over"),
    ] {
        std::fs::write(&configuration, text).unwrap();
        managed.signal(Signal::HUP);
        let told = ear.hear_other();
        assert_eq!(key(&told), "RELOADING");
        assert_eq!(told[1].0, "MONOTONIC_USEC");
        assert!(told[1].1.parse::<u64>().unwrap() > 0);
        assert_eq!(key(&ear.hear_other()), "READY");
        managed.log.wait_for(line);
    }

    let address = managed.address();
    managed.signal(Signal::TERM);
    assert_eq!(key(&ear.hear_other()), "STOPPING");
    assert_eq!(managed.wait().0, Some(0));
    // What was stored still listens, and is what the next start is passed.
    drop(TcpStream::connect(address).unwrap());
    let next = Managed::start(Some(stored.into()), &[], &[("LISTEN_FDS", "1")]);
    assert_eq!(next.address(), address);
    assert!(run(next.connect(), b"").2.success());
}

//= proves spec/service.md#notify
#[test]
fn a_manager_that_does_not_listen_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("notify");
    // It takes as many messages as it has room for, and reads none.
    let deaf = UnixDatagram::bind(&name).unwrap();
    let variables = [
        ("NOTIFY_SOCKET", name.to_str().unwrap()),
        ("WATCHDOG_USEC", "2000"),
    ];
    let managed = Managed::start(None, &["--listen", "127.0.0.1:0"], &variables);
    for _ in 0..5 {
        let (output, errors, _) = run(managed.connect(), b"one\n");
        assert_eq!(output, "one\n", "{errors}");
    }
    managed.signal(Signal::TERM);
    assert_eq!(managed.wait().0, Some(0));
    drop(deaf);
}

#[test]
fn the_units_are_right() {
    let Some(mut analyze) = program("systemd-analyze") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let units = ["baton.service", "baton.socket"].map(|name| {
        let text = std::fs::read_to_string(format!("{}/dist/{name}", env!("CARGO_MANIFEST_DIR")));
        let text = text
            .unwrap()
            .replace("/usr/bin/baton", env!("CARGO_BIN_EXE_baton"));
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    // Not the pages' places on this machine.
    analyze.args(["verify", "--man=no"]).args(&units);
    let (output, errors, status) = run(analyze, b"");
    let about_us = |text: &str| text.lines().any(|line| line.contains("baton"));
    assert!(!about_us(&output) && !about_us(&errors), "{output}{errors}");
    assert!(status.success(), "{output}{errors}");
}
