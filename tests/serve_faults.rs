//! What goes wrong costs the one it went wrong for, and nobody else: the server serves on, and
//! each session's release is delivered exactly once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use baton::sys::fault;
use rustix::process::Signal;
use serving::{Serving, Talking, run, runner, signal_to};

/// That the server serves.
fn serves(serving: &Serving) {
    let (output, errors, status) = run(serving.connect(&[]), b"well\n");
    assert!(status.success(), "{errors}");
    assert_eq!(output, "well\n");
}

/// The sessions that a log tells of, each with the number of its releases.
fn releases(log: &[String]) -> Vec<(String, usize)> {
    let mut sessions: Vec<String> = log
        .iter()
        .filter_map(|line| Some(line.split("session ").nth(1)?.get(..32)?.to_owned()))
        .collect();
    sessions.sort();
    sessions.dedup();
    let count = |session: &String| {
        log.iter()
            .filter(|line| line.contains(session) && line.contains("released: "))
            .count()
    };
    sessions
        .iter()
        .map(|session| (session.clone(), count(session)))
        .collect()
}

//= proves spec/sessions.md#release C4
#[test]
fn a_killed_session_costs_no_other_and_is_released_once() {
    let serving = Serving::start::<&str>(&[]);
    let mut bystander = Talking::start(serving.connect(&[]));
    bystander.say("one\n");
    assert_eq!(bystander.hear(), "one\n");
    let mut victim = Talking::start(serving.connect(&["--message"]));
    let (session, process) = runner(&serving.log.wait_for_nth(2, "runs it"));
    victim.say("one\n");
    assert_eq!(victim.hear(), "one\n");

    signal_to(process, Signal::KILL);
    let errors = victim.errors.clone();
    assert_eq!(victim.wait().code(), Some(1));
    assert!(errors.all().concat().contains("cut"));
    let line = serving.log.wait_for("was killed by signal 9");
    assert!(
        line.contains(&session) && line.contains("released: its process died"),
        "{line}"
    );

    bystander.say("two\n");
    assert_eq!(bystander.hear(), "two\n");
    assert!(bystander.finish().success());
    serves(&serving);
    let (status, log) = serving.stop();
    assert!(status.success());
    let releases = releases(&log);
    assert_eq!(releases.len(), 3, "{log:#?}");
    assert!(releases.iter().all(|(_, count)| *count == 1), "{log:#?}");
}

//= proves spec/sessions.md#release C4
#[test]
fn a_crash_at_any_step_of_a_hop_leaves_a_server_that_serves() {
    let steps = fault::POINTS.iter().filter(|name| {
        name.starts_with("export.") || name.starts_with("import.") || name.starts_with("ledger.")
    });
    let (mut crashed, mut survived) = (0, 0);
    for step in steps {
        // The first passing is in the server, or in the session's first process; the later ones
        // are in the processes of the hops.
        for passing in 1..=3 {
            let fault = format!("{step}=kill@{passing}");
            let state = Arc::new(tempfile::tempdir().unwrap());
            let started = Serving::try_start_in(&state, &["--hops", "2"], |command| {
                command.env("BATON_FAULT", &fault);
            });
            let Ok(mut serving) = started else {
                crashed += 1;
                continue;
            };
            let mut talking = Talking::start(serving.connect(&[]));
            let mut heard = Vec::new();
            for line in ["one\n", "two\n", "three\n"] {
                talking.say(line);
                heard.push(talking.hear());
            }
            talking.kill();
            if serving.has_ended() {
                crashed += 1;
                continue;
            }
            survived += 1;
            let (status, log) = serving.stop();
            // What was echoed is what was said, up to where it broke off.
            let broke_off = heard
                .iter()
                .position(String::is_empty)
                .unwrap_or(heard.len());
            assert_eq!(
                heard[..broke_off],
                ["one\n", "two\n", "three\n"][..broke_off],
                "{fault}"
            );
            assert!(heard[broke_off..].iter().all(String::is_empty), "{fault}");
            if status.success() {
                for (session, count) in releases(&log) {
                    assert_eq!(count, 1, "{fault}: {session} in {log:#?}");
                }
            } else {
                crashed += 1;
            }
        }
    }
    assert!(survived > 0, "{crashed} crashed");
}

#[test]
fn silent_and_broken_handshakes_hold_up_nobody() {
    let serving = Serving::start::<&str>(&[]);
    let connect = || TcpStream::connect(serving.address).unwrap();
    // Silent ones stay open to the end of the test.
    let silent: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    // The beginnings of a hello of either framing, cut at each byte.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let token = [0, 0, 1, 0, 0x60, 0x80];
    for start in [&hello[..], &token] {
        for length in 0..=start.len() {
            let mut socket = connect();
            socket.write_all(&start[..length]).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            // Whatever the server answers, it closes.
            let _ = socket.read_to_end(&mut rest);
        }
    }
    for noise in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"SSH-2.0-x\r\n",
        &[0xff; 70_000],
        &[0; 70_000],
    ] {
        let mut socket = connect();
        // The server may have closed before it has read all of it.
        let _ = socket.write_all(noise);
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
    }
    serves(&serving);
    drop(silent);
    let (status, log) = serving.stop();
    assert!(status.success());
    assert!(
        log.iter()
            .any(|line| line.contains("neither TLS records nor message tokens"))
    );
    assert!(
        log.iter()
            .all(|line| line.len() < 400 && line.bytes().all(|b| (b' '..=b'~').contains(&b)))
    );
}

#[test]
fn a_server_out_of_descriptors_waits_and_goes_on() {
    let serving = Serving::start_with::<&str>(&[], |command| {
        // The shell's limit is the server's: the program itself is started in its place.
        let program = command.get_program().to_owned();
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", "ulimit -n 24; exec \"$0\" \"$@\""])
            .arg(program)
            .args(arguments);
        shell.stdin(std::process::Stdio::null());
        shell
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        *command = shell;
    });
    let crowd: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(serving.address).unwrap())
        .collect();
    serving.log.wait_for("dropped: others wait");
    let before = ticks(serving.process());
    // As long as there is no room, nobody is served; then somebody is.
    let waiting = Talking::start(serving.connect(&[]));
    serving.log.wait_for_nth(3, "dropped: others wait");
    let spent = ticks(serving.process()) - before;
    assert!(spent < 30, "{spent} hundredths of a second of turning");
    drop(crowd);
    assert!(waiting.finish().success());
    serves(&serving);
}

/// Hundredths of a second of processor time.
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn more_clients_than_sessions_wait_for_their_turn() {
    let serving = Serving::start(&["--sessions", "2"]);
    let mut first: Vec<Talking> = (0..2)
        .map(|_| Talking::start(serving.connect(&[])))
        .collect();
    serving.log.wait_for_nth(2, "runs it");
    let mut third = Talking::start(serving.connect(&[]));
    third.say("now\n");
    for talking in &mut first {
        talking.say("still here\n");
        assert_eq!(talking.hear(), "still here\n");
    }
    assert_eq!(serving.log.count("runs it"), 2);
    assert!(first.pop().unwrap().finish().success());
    assert_eq!(third.hear(), "now\n");
    assert!(third.finish().success());
}

#[test]
fn a_stop_lets_sessions_end_and_a_second_one_ends_them() {
    let serving = Serving::start::<&str>(&[]);
    let mut talking = Talking::start(serving.connect(&[]));
    serving.log.wait_for("runs it");
    serving.signal(Signal::TERM);
    serving
        .log
        .wait_for("stopping: no new connections; 1 sessions");
    // The line comes once the listener is closed.
    assert!(TcpStream::connect(serving.address).is_err());
    talking.say("last words\n");
    assert_eq!(talking.hear(), "last words\n");
    let (status, log) = serving.stop();
    assert!(status.success());
    assert!(
        log.iter()
            .any(|line| line.contains("was killed by signal 15")),
        "{log:#?}"
    );
    assert_eq!(log.last().unwrap(), "baton: stopped");
    assert_eq!(talking.wait().code(), Some(1));
}

#[test]
fn nothing_is_left_of_many_sessions() {
    let serving = Serving::start(&["--hops", "2"]);
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", serving.process()))
            .unwrap()
            .count()
    };
    serves(&serving);
    serving.log.wait_for(" ended: ");
    let before = descriptors();
    for number in 2..=20 {
        serves(&serving);
        serving.log.wait_for_nth(number, " ended: ");
    }
    // The line comes before the server has closed what it had of a session: eight descriptors at
    // most. One left behind by each would be nineteen.
    let process = serving.process();
    assert!(descriptors() <= before + 8);
    let (status, log) = serving.stop();
    assert!(status.success() && serving::group(process).is_empty());
    assert!(
        releases(&log).iter().all(|(_, count)| *count == 1),
        "{log:#?}"
    );
}

/// A server that waits for its last sessions waits: it does not turn.
//= proves spec/processes.md#stop
#[test]
fn a_stopping_server_uses_no_processor() {
    let serving = Serving::start::<&str>(&[]);
    let mut talking = Talking::start(serving.connect(&[]));
    serving.log.wait_for("runs it");
    serving.signal(Signal::TERM);
    serving.log.wait_for("stopping: ");
    serving.log.wait_for("handshaker: process ");
    let (before, start) = (ticks(serving.process()), std::time::Instant::now());
    while start.elapsed() < std::time::Duration::from_millis(600) {
        talking.say("still here\n");
        assert_eq!(talking.hear(), "still here\n");
    }
    // 60 hundredths of a second have gone by.
    let spent = ticks(serving.process()) - before;
    assert!(spent < 6, "{spent}");
    assert!(talking.finish().success());
}
