//! `baton top` in a terminal, and without one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use serving::{Serving, Talking, baton, run, signal_to};

/// Under `no_new_privs` the server refuses to answer.
fn may_ask() -> bool {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let may = text.contains("NoNewPrivs:\t0");
    if !may {
        assert!(std::env::var_os("BATON_TEST_NO_SKIP").is_none_or(|value| value != "1"));
        eprintln!("skipped: no_new_privs is set");
    }
    may
}

fn top(serving: &Serving, arguments: &[&str]) -> Command {
    let mut command = baton();
    command.arg("top").args(arguments).arg("--state");
    command.arg(serving.state().path().join("baton"));
    command
}

/// The program in a terminal of its own.
struct InTerminal {
    child: Child,
    /// The far side of the terminal, where its user sits.
    user: File,
    terminal: OwnedFd,
    before: String,
    written: String,
}

fn modes(terminal: &OwnedFd) -> String {
    let Termios {
        input_modes,
        output_modes,
        local_modes,
        ..
    } = tcgetattr(terminal).unwrap();
    format!("{input_modes:?} {output_modes:?} {local_modes:?}")
}

impl InTerminal {
    fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let terminal = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).unwrap();
        let before = modes(&terminal);
        let end = || Stdio::from(terminal.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        command.env("TERM", "xterm");
        let child = command.spawn().unwrap();
        Self {
            child,
            user: user.into(),
            terminal,
            before,
            written: String::new(),
        }
    }

    /// Waits until it has written `text`, in however many pieces.
    fn wait_for(&mut self, text: &str) {
        let mut bytes = [0; 4096];
        while !self.written.contains(text) {
            let count = self.user.read(&mut bytes).unwrap();
            self.written += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    /// Waits for its end, and sees that the terminal is as it was.
    fn end(mut self) {
        // Leaves the other screen, and shows the cursor.
        self.wait_for("\u{1b}[?1049l");
        self.wait_for("\u{1b}[?25h");
        assert!(self.child.wait().unwrap().success());
        assert_eq!(modes(&self.terminal), self.before);
    }
}

#[test]
fn it_shows_the_sessions_and_gives_the_terminal_back() {
    if !may_ask() {
        return;
    }
    let serving = Serving::start::<&str>(&[]);
    let mut talking = Talking::start(serving.connect(&[]));
    talking.say("one\n");
    assert_eq!(talking.hear(), "one\n");
    for end in ["q", "\u{3}", "TERM", "HUP"] {
        let mut shown = InTerminal::start(top(&serving, &[]), 80, 24);
        shown.wait_for("\u{1b}[?1049h");
        shown.wait_for("accepting");
        shown.wait_for("TLS_");
        assert_ne!(modes(&shown.terminal), shown.before, "it takes keys");
        // Keys that move and sort, and some that mean nothing.
        shown
            .user
            .write_all(b"\x1b[A\x1b[B\x1b[C\x1b[Drx\t")
            .unwrap();
        match end {
            "TERM" => signal_to(shown.child.id(), Signal::TERM),
            "HUP" => signal_to(shown.child.id(), Signal::HUP),
            key => shown.user.write_all(key.as_bytes()).unwrap(),
        }
        shown.end();
    }
    // As small as they come.
    for (columns, rows) in [(1, 1), (3, 2), (20, 5), (300, 100)] {
        let mut shown = InTerminal::start(top(&serving, &[]), columns, rows);
        shown.wait_for("\u{1b}[?1049h");
        shown.user.write_all(b"q").unwrap();
        shown.end();
    }
    talking.kill();
}

#[test]
fn without_a_terminal_it_prints_one_frame_or_declines() {
    if !may_ask() {
        return;
    }
    let serving = Serving::start(&["--hops", "2"]);
    let mut talking = Talking::start(serving.connect(&[]));
    talking.say("one\n");
    assert_eq!(talking.hear(), "one\n");
    let (output, errors, status) = run(top(&serving, &["--once"]), b"");
    assert!(status.success(), "{errors}");
    assert!(!output.contains('\u{1b}'), "{output}");
    assert_eq!(output.lines().count(), 24);
    assert!(output.lines().all(|line| line.chars().count() <= 80));
    let address = serving.address.to_string();
    for text in [
        &address[..],
        "sessions 1 of 1000",
        "active 1",
        "zygote",
        "TLS_",
        "record",
    ] {
        assert!(output.contains(text), "{text} in {output}");
    }
    let (output, errors, status) = run(top(&serving, &[]), b"");
    assert_eq!((&output[..], status.code()), ("", Some(1)));
    assert!(errors.contains("--once prints one frame"), "{errors}");
    talking.kill();
    serving.stop();
    let (_, errors, status) = run(
        {
            let mut command = baton();
            command.args(["top", "--once", "--control", "/nonexistent/control"]);
            command
        },
        b"",
    );
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("no server answers at"), "{errors}");
}
