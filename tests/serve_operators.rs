//! The control socket of a real server, and the commands that ask there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod exposition;
mod serving;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::Value;
use serving::{
    Lines, Serving, Talking, baton, children, program, run, runner, signal_to, wait_for_end,
};

fn control(serving: &Serving) -> PathBuf {
    serving.state().path().join("baton/control")
}

/// Under `no_new_privs` everything of these tests is refused.
fn may_ask() -> bool {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let may = text.contains("NoNewPrivs:\t0");
    if !may {
        assert!(std::env::var_os("BATON_TEST_NO_SKIP").is_none_or(|value| value != "1"));
        eprintln!("skipped: no_new_privs is set");
    }
    may
}

/// A command of the operator's, at this server.
fn operator(serving: &Serving, arguments: &[&str]) -> Command {
    let mut command = baton();
    command.args(arguments).arg("--state");
    command.arg(serving.state().path().join("baton"));
    command
}

fn answer(serving: &Serving, arguments: &[&str]) -> String {
    let (output, errors, status) = run(operator(serving, arguments), b"");
    assert!(status.success(), "{arguments:?}: {errors}");
    assert_eq!(errors, "");
    output
}

fn sessions(serving: &Serving) -> Vec<Value> {
    serde_json::from_str(&answer(serving, &["sessions", "--json"])).unwrap()
}

/// The metrics, once they say what is waited for: the handshaker tells its part once a second.
fn metrics(serving: &Serving, until: impl Fn(&exposition::Samples) -> bool) -> String {
    for _ in 0..10_000 {
        let text = answer(serving, &["metrics"]);
        if until(&exposition::read(&text).unwrap()) {
            return text;
        }
        std::thread::yield_now();
    }
    panic!("{}", answer(serving, &["metrics"]));
}

//= proves spec/control.md#sessions
//= proves spec/control.md#place
#[test]
fn sessions_are_listed_while_they_run() {
    if !may_ask() {
        return;
    }
    let serving = Serving::start::<&str>(&[]);
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(control(&serving)), 0o600);
    assert!(sessions(&serving).is_empty());
    assert_eq!(answer(&serving, &["sessions"]).lines().count(), 1);

    let mut records = Talking::start(serving.connect(&[]));
    records.say("one\n");
    assert_eq!(records.hear(), "one\n");
    let mut messages = Talking::start(serving.connect(&["--message"]));
    messages.say("one\n");
    assert_eq!(messages.hear(), "one\n");
    let (session, _) = runner(&serving.log.wait_for_nth(2, "runs it"));

    let listed = sessions(&serving);
    assert_eq!(listed.len(), 2, "{listed:#?}");
    assert_eq!(listed[0]["framing"], "record");
    let second = &listed[1];
    assert_eq!(second["framing"], "message");
    assert_eq!(second["session"], session.as_str());
    assert_eq!(second["local"], serving.address.to_string());
    assert_eq!(second["user"], Value::Null);
    assert_eq!(second["received"], Value::Null);
    assert!(second["cipher"].as_str().unwrap().starts_with("TLS_"));
    assert!(second["hops"].as_u64().unwrap() >= 1);
    let process = u32::try_from(second["process"].as_u64().unwrap()).unwrap();
    assert!(serving.sessions().contains(&process));
    let table = answer(&serving, &["sessions"]);
    assert!(
        table.lines().count() == 3 && table.contains(&session),
        "{table}"
    );

    assert!(records.finish().success() && messages.finish().success());
    serving.log.wait_for_nth(2, "released: closed");
    assert!(sessions(&serving).is_empty());
    let path = control(&serving);
    let (status, _) = serving.stop();
    assert!(status.success());
    assert!(!path.exists(), "removed at the end");
}

/// An idle session ends at once, its peer is cut off, and its release is told once.
//= proves spec/control.md#revoke C4
#[test]
fn a_revoked_session_ends_at_once_and_is_released_once() {
    if !may_ask() {
        return;
    }
    // A command that goes on when its input has ended.
    let folder = tempfile::tempdir().unwrap();
    let leave = folder.path().join("leave");
    let script = format!("cat; until [ -e {} ]; do sleep 0.1; done", leave.display());
    for arguments in [&["--hops", "3"][..], &["--exec", "sh", "-c", &script]] {
        let serving = Serving::start(arguments);
        let mut bystander = Talking::start(serving.connect(&[]));
        bystander.say("one\n");
        assert_eq!(bystander.hear(), "one\n");
        let clients = [
            Some(serving.connect(&["--message"])),
            serving.openssl(&["-quiet"]),
        ];
        let mut count = 0;
        for client in clients.into_iter().flatten() {
            count += 1;
            let mut victim = Talking::start(client);
            victim.say("one\n");
            assert_eq!(victim.hear(), "one\n");
            let (session, _) = runner(&serving.log.wait_for_nth(count + 1, "runs it"));
            let said = answer(&serving, &["sessions", "revoke", &session]);
            assert_eq!(said, format!("session {session} revoked\n"));
            // It says nothing: what it hears is the end.
            assert_eq!(victim.hear(), "");
            serving.log.wait_for_nth(count, "released: revoked");
            if arguments[0] == "--exec" {
                let command = format!("session {session}: command ");
                let line = serving.log.wait_for(&command);
                assert!(line.contains("was killed by signal 9"), "{line}");
            }
            // No process of it is left.
            let left: Vec<Value> = sessions(&serving);
            assert!(left.iter().all(|one| one["session"] != session.as_str()));
            assert_eq!(left.len(), 1);
            let (_, errors, status) =
                run(operator(&serving, &["sessions", "revoke", &session]), b"");
            assert_eq!(status.code(), Some(1));
            assert!(errors.contains("no such session"), "{errors}");
            victim.kill();
        }
        bystander.say("two\n");
        assert_eq!(bystander.hear(), "two\n");
        let text = metrics(&serving, |_| true);
        let samples = exposition::read(&text).unwrap();
        let is = |name: &str| samples[name] as usize;
        assert_eq!(is("baton_sessions_ended_total{reason=\"revoked\"}"), count);
        assert_eq!(is("baton_releases_total{cause=\"revoked\"}"), count);
        std::fs::write(&leave, "").unwrap();
        bystander.kill();
        let (_, log) = serving.stop();
        let told = log.iter().filter(|line| line.contains("released: revoked"));
        assert_eq!(told.count(), count, "{log:#?}");
        assert!(log.iter().any(|line| line.contains(" revoked by process ")));
    }
}

/// Sessions that are only just beginning, or in the middle of a hop, end too.
//= proves spec/control.md#revoke C4
#[test]
fn a_session_is_revoked_at_any_moment_of_its_life() {
    if !may_ask() {
        return;
    }
    let serving = Serving::start(&["--hops", "100000", "--hop-every", "1"]);
    let mut clients: Vec<Talking> = (0..8)
        .map(|_| Talking::start(serving.connect(&[])))
        .collect();
    for client in &mut clients {
        // They move all the time.
        client.say(&"x\n".repeat(2000));
    }
    let mut revoked = 0;
    while revoked < clients.len() {
        for session in sessions(&serving) {
            let session = session["session"].as_str().unwrap();
            let arguments = ["sessions", "revoke", session];
            let (_, errors, status) = run(operator(&serving, &arguments), b"");
            match status.success() {
                true => revoked += 1,
                // It is being killed already.
                false => assert!(errors.contains("no such session"), "{errors}"),
            }
        }
    }
    serving.log.wait_for_nth(clients.len(), "released: revoked");
    for client in clients {
        client.kill();
    }
    assert!(sessions(&serving).is_empty());
    assert!(serving.sessions().is_empty());
    let (status, log) = serving.stop();
    assert!(status.success());
    let told = log.iter().filter(|line| line.contains("released: "));
    assert_eq!(told.count(), 8, "{log:#?}");
}

/// A command of a session is the operator's user, and cannot ask all the same.
//= proves spec/control.md#who
#[test]
fn a_command_of_a_session_cannot_ask() {
    if !may_ask() {
        return;
    }
    let program = env!("CARGO_BIN_EXE_baton");
    let state = Arc::new(tempfile::tempdir().unwrap());
    let folder = state.path().join("baton");
    let script = format!(
        "grep NoNewPrivs /proc/self/status; {program} sessions --state {0} 2>&1; \
         {program} sessions --state {0} revoke $BATON_SESSION_ID 2>&1; echo done",
        folder.display()
    );
    let exec = ["--exec", "sh", "-c", &script];
    // Another user could not even reach the socket: as root, sessions are root's for once.
    let same_user: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["--session-user", "0:0"],
        false => &[],
    };
    let serving = Serving::start_in(&state, &[same_user, &exec].concat(), |_| {});
    let mut talking = Talking::start(serving.connect(&[]));
    assert_eq!(talking.hear(), "NoNewPrivs:\t1\n");
    for _ in 0..2 {
        let line = talking.hear();
        assert!(line.contains("has no_new_privs set"), "{line}");
    }
    assert_eq!(talking.hear(), "done\n");
    talking.kill();
    serving.log.wait_for("control socket: process");
    assert_eq!(serving.log.count("control socket: process"), 1, "told once");
    assert!(serving.log.count("revoked") == 0);
}

//= proves spec/control.md#stale
//= proves spec/control.md#place
#[test]
fn a_live_socket_is_left_alone_and_a_stale_one_replaced() {
    if !may_ask() {
        return;
    }
    let first = Serving::start::<&str>(&[]);
    let state = Arc::clone(first.state());
    let second = Serving::start_in::<&str>(&state, &[], |_| {});
    let line = second.log.wait_for("no control socket");
    assert!(line.contains("another server answers at"), "{line}");
    assert_eq!(second.log.count("no control socket"), 1);
    let (_, log) = second.stop();
    assert_eq!(
        log.iter().filter(|line| line.contains("control")).count(),
        1
    );
    // It is the first one's still, and answers.
    let first_process = first.process();
    assert!(sessions(&first).is_empty());
    // Killed, it leaves its socket behind.
    signal_to(first_process, Signal::KILL);
    wait_for_end(first_process);
    drop(first);
    let path = state.path().join("baton/control");
    assert!(path.exists());
    let (_, errors, status) = run(
        {
            let mut command = baton();
            command.args(["sessions", "--control"]).arg(&path);
            command
        },
        b"",
    );
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("no server answers at"), "{errors}");
    let third = Serving::start_in::<&str>(&state, &[], |_| {});
    assert!(sessions(&third).is_empty());
    assert_eq!(third.log.count("control"), 0);

    // Elsewhere, and nowhere.
    let place = state.path().join("place/of/socket");
    let place = place.to_str().unwrap();
    let elsewhere = Serving::start(&["--control", place]);
    assert!(!control(&elsewhere).exists());
    let (output, errors, _) = run(operator(&third, &["metrics", "--control", place]), b"");
    assert!(output.contains(&elsewhere.process().to_string()) || errors.is_empty());
    let nowhere = Serving::start(&["--control", "none"]);
    assert!(!control(&nowhere).exists());
    // What was asked for and cannot be had is an error.
    let loose = state.path().join("loose");
    std::fs::create_dir(&loose).unwrap();
    std::fs::set_permissions(&loose, PermissionsExt::from_mode(0o755)).unwrap();
    let fresh = Arc::new(tempfile::tempdir().unwrap());
    let refused = Serving::try_start_in(
        &fresh,
        &["--control", loose.join("socket").to_str().unwrap()],
        |_| {},
    );
    let log = refused.err().expect("it does not start").all();
    assert!(log.concat().contains("open to others"), "{log:#?}");
}

/// What a client does at the socket costs nobody else: sessions go on, the server stops in time.
//= proves spec/control.md#bounds
#[test]
fn clients_that_say_nothing_cost_nothing() {
    if !may_ask() {
        return;
    }
    let serving = Serving::start::<&str>(&[]);
    let path = control(&serving);
    let mut idle: Vec<UnixStream> = (0..12)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    let mut talking = Talking::start(serving.connect(&[]));
    talking.say("one\n");
    assert_eq!(talking.hear(), "one\n");
    // Behind them.
    assert_eq!(sessions(&serving).len(), 1);
    for socket in &mut idle {
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
    assert!(talking.finish().success());
    let held = UnixStream::connect(&path).unwrap();
    let (status, _) = serving.stop();
    assert!(status.success());
    drop(held);
}

//= proves spec/control.md#metrics
//= proves spec/control.md#counts
//= proves spec/processes.md#from-handshaker
#[test]
fn metrics_say_what_has_happened_in_text_that_prometheus_reads() {
    if !may_ask() {
        return;
    }
    let serving = Serving::start(&["--hops", "2", "--sessions", "5"]);
    for text in ["a\n", "b\n", "c\n"] {
        let (output, errors, _) = run(serving.connect(&[]), text.as_bytes());
        assert_eq!(output, text, "{errors}");
    }
    serving.log.wait_for_nth(3, "released: closed");
    // Not TLS; closed at once; no name that is trusted.
    let mut noise = TcpStream::connect(serving.address).unwrap();
    noise.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let _ = noise.read_to_end(&mut Vec::new());
    drop(noise);
    drop(TcpStream::connect(serving.address).unwrap());
    serving.log.wait_for_nth(2, "refused");
    let zygote = children(serving.process());
    let mut open = Talking::start(serving.connect(&[]));
    open.say("d\n");
    assert_eq!(open.hear(), "d\n");
    let handshaker = serving_process(&serving, "handshaker");
    // Everything is told before the one that counted it is killed.
    metrics(&serving, |samples| {
        samples["baton_handshakes_total{result=\"established\"}"] == 4.0
            && samples["baton_handshakes_total{result=\"closed\"}"] == 1.0
            && samples["baton_handshakes_in_progress"] == 0.0
    });
    assert!(zygote.contains(&handshaker));
    signal_to(handshaker, Signal::KILL);
    serving.log.wait_for("handshaker: process");
    let text = metrics(&serving, |samples| {
        samples["baton_process_restarts_total{process=\"handshaker\"}"] == 1.0
    });
    let samples = exposition::read(&text).unwrap();
    for (name, value) in [
        ("baton_up", 1.0),
        ("baton_connections_total", 6.0),
        ("baton_handshakes_total{result=\"established\"}", 4.0),
        ("baton_handshakes_total{result=\"garbage\"}", 1.0),
        ("baton_handshakes_total{result=\"closed\"}", 1.0),
        ("baton_handshakes_total{result=\"slow\"}", 0.0),
        ("baton_handshake_duration_seconds_count", 4.0),
        ("baton_sessions", 1.0),
        ("baton_sessions_limit", 5.0),
        ("baton_sessions_started_total", 4.0),
        ("baton_sessions_ended_total{reason=\"finished\"}", 3.0),
        ("baton_session_duration_seconds_count", 3.0),
        ("baton_session_bytes_total{direction=\"received\"}", 6.0),
        ("baton_session_bytes_total{direction=\"sent\"}", 6.0),
        ("baton_contexts{state=\"active\"}", 1.0),
        ("baton_releases_total{cause=\"closed\"}", 3.0),
        ("baton_process_restarts_total{process=\"zygote\"}", 0.0),
        ("baton_accepting", 1.0),
        ("baton_log_lines_lost_total", 0.0),
    ] {
        assert_eq!(samples[name], value, "{name} in {text}");
    }
    assert!(samples["baton_hops_total"] >= 3.0 * 3.0 + 1.0, "{text}");
    assert!(samples["baton_process_resident_bytes{process=\"supervisor\"}"] > 1e6);
    assert!(samples["baton_start_time_seconds"] > 1.7e9);
    if let Some(mut promtool) = program("promtool") {
        promtool.args(["check", "metrics"]);
        let (output, errors, status) = run(promtool, text.as_bytes());
        assert!(status.success(), "{output}{errors}");
    }
    open.kill();
}

//= proves spec/control.md#counts
#[test]
fn limits_losses_and_restarts_are_counted() {
    if !may_ask() {
        return;
    }
    // A log that takes nothing.
    let full = std::fs::File::create("/dev/full").unwrap();
    let serving = Serving::start_with_errors(&["--sessions", "1"], Stdio::from(full));
    let mut first = Talking::start(serving.connect(&[]));
    first.say("one\n");
    assert_eq!(first.hear(), "one\n");
    metrics(&serving, |samples| {
        samples["baton_accepting"] == 0.0
            && samples["baton_limits_total{limit=\"sessions\"}"] == 1.0
            && samples["baton_log_lines_lost_total"] > 0.0
    });
    let mut second = Talking::start(serving.connect(&[]));
    second.say("two\n");
    assert!(first.finish().success());
    assert_eq!(second.hear(), "two\n");
    let zygote = serving_process(&serving, "zygote");
    signal_to(zygote, Signal::KILL);
    let text = metrics(&serving, |samples| {
        samples["baton_process_restarts_total{process=\"zygote\"}"] == 1.0
    });
    assert_eq!(exposition::read(&text).unwrap()["baton_sessions"], 1.0);
    assert_ne!(serving_process(&serving, "zygote"), zygote);
    second.say("three\n");
    assert_eq!(second.hear(), "three\n");
    second.kill();
}

/// What is closed before it is a handshake counts as that, and a session whose time was up as that.
//= proves spec/control.md#counts
//= proves spec/processes.md#rate
#[test]
fn what_limits_close_is_counted() {
    if !may_ask() {
        return;
    }
    let is = |samples: &exposition::Samples, counts: &[(&str, f64)]| {
        let each = counts.iter();
        each.fold(true, |all, (name, count)| all && samples[*name] == *count)
    };
    let serving = Serving::start(&[
        "--address-rate",
        "1",
        "--address-burst",
        "1",
        "--session-timeout",
        "1",
        "--idle-timeout",
        "0",
    ]);
    let open = Talking::start(serving.connect(&[]));
    serving.log.wait_for("its time was up");
    drop(open);
    let ended = [
        ("baton_sessions_ended_total{reason=\"time_up\"}", 1.0),
        ("baton_sessions_ended_total{reason=\"idle\"}", 0.0),
    ];
    metrics(&serving, |samples| is(samples, &ended));
    // Each is either let in, at the rate, or closed.
    for _ in 0..20 {
        drop(TcpStream::connect(serving.address).unwrap());
    }
    metrics(&serving, |samples| {
        let closed = samples["baton_connections_closed_total{reason=\"rate\"}"];
        closed >= 10.0 && closed + samples["baton_connections_total"] == 21.0
    });

    let serving = Serving::start(&["--sessions", "1", "--over-limit", "refuse"]);
    let mut only = Talking::start(serving.connect(&[]));
    only.say("one\n");
    assert_eq!(only.hear(), "one\n");
    // Not before the handshaker was told.
    metrics(&serving, |samples| samples["baton_accepting"] == 0.0);
    let name = "baton_connections_closed_total{reason=\"room\"}";
    metrics(&serving, |samples| {
        let _ = TcpStream::connect(serving.address);
        samples[name] > 0.0
    });
    only.kill();
}

/// A process of the server's, as `baton top` tells it.
fn serving_process(serving: &Serving, role: &str) -> u32 {
    let mut socket = UnixStream::connect(control(serving)).unwrap();
    socket
        .write_all(b"{\"version\":1,\"request\":\"status\"}\n")
        .unwrap();
    let mut line = String::new();
    socket.read_to_string(&mut line).unwrap();
    let status: Value = serde_json::from_str(&line).unwrap();
    let processes = status["server"]["processes"].as_array().unwrap();
    let of_role = processes.iter().find(|one| one["role"] == role).unwrap();
    u32::try_from(of_role["process"].as_u64().unwrap()).unwrap()
}

//= proves spec/control.md#metrics
#[test]
fn the_exporter_answers_whoever_asks_in_http() {
    if !may_ask() {
        return;
    }
    let serving = Serving::start::<&str>(&[]);
    let mut command = operator(&serving, &["metrics", "--listen", "127.0.0.1:0"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut exporter = command.spawn().unwrap();
    let lines = Lines::of(exporter.stdout.take().unwrap());
    let line = lines.wait_for("Metrics at http://");
    let address = line
        .strip_prefix("Metrics at http://")
        .and_then(|rest| rest.strip_suffix("/metrics"))
        .unwrap();
    let exchange = |request: &[u8]| {
        let mut socket = TcpStream::connect(address).unwrap();
        // It may have closed before all is written.
        let _ = socket.write_all(request);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut response = String::new();
        let _ = socket.read_to_string(&mut response);
        response
    };
    let metrics = |response: &str| {
        let (header, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(header.starts_with("HTTP/1.1 200 OK\r\n"), "{header}");
        assert!(header.contains("\r\nContent-Type: text/plain; version=0.0.4"));
        assert!(header.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
        exposition::read(body).unwrap()
    };
    // Silent ones hold up nobody.
    let silent: Vec<TcpStream> = (0..15)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let samples = metrics(&exchange(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(samples["baton_up"], 1.0);
    drop(silent);
    let head = exchange(b"HEAD /metrics?x=1 HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"));
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"GET /metrics\r\n\r\n", "400"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", "400"),
        (b"\xff\xfe\x00\r\n\r\n", "400"),
        (b"GET /metrics HTTP/1.1\r\n", "400"),
        (&[b'x'; 100_000], "400"),
        (b"", "400"),
    ] {
        let response = exchange(request);
        // Of a request that is not read to its end, the answer may be lost.
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")) || request.len() > 10_000,
            "{response}"
        );
    }
    if let Some(mut curl) = program("curl") {
        curl.args(["--silent", "--show-error", "--fail"]);
        curl.arg(format!("http://{address}/metrics"));
        let (output, errors, status) = run(curl, b"");
        assert!(status.success(), "{errors}");
        assert_eq!(exposition::read(&output).unwrap()["baton_up"], 1.0);
    }
    // A server that is gone is an answer, too.
    serving.stop();
    let samples = metrics(&exchange(b"GET /metrics HTTP/1.1\r\n\r\n"));
    assert_eq!(
        samples.into_iter().collect::<Vec<_>>(),
        [("baton_up".to_owned(), 0.0)]
    );
    exporter.kill().unwrap();
    exporter.wait().unwrap();
}
