//! The commands of sessions: what they are told, how either side ends first, how long they have,
//! and how much.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clients;
mod serving;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clients::Clients;
use serving::{Serving, Talking, program, run, wait_for_end};

fn clients(serving: &Serving) -> Clients {
    Clients::new(&serving.identity("ca.pem"))
}

/// The environment that a command saw.
fn environment(serving: &Serving, arguments: &[&str]) -> BTreeMap<String, String> {
    let (output, errors, status) = run(serving.connect(arguments), b"");
    assert!(status.success(), "{errors}");
    let lines = output.split('\0').filter_map(|line| line.split_once('='));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The names that stand on the page, in the table of that anchor.
fn names_on_the_page() -> Vec<String> {
    let page = include_str!("../spec/sessions.md");
    let table = page.split("<a id=\"environment\">").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| {
        let cell = row.split('|').nth(1).unwrap();
        cell.split(',')
            .map(|name| name.trim().trim_matches('`').to_owned())
    })
    .collect()
}

//= proves spec/sessions.md#environment
#[test]
fn a_command_is_told_what_the_page_says_and_nothing_of_others() {
    let arguments = ["--client-auth", "optional", "--exec", "env", "-0"];
    let names = names_on_the_page();
    assert!(names.len() > 25, "{names:?}");
    let serving = Serving::start_with(&arguments, |command| {
        for name in &names {
            command.env(name, "stale");
        }
        for name in [
            "TCPREMOTEHOST",
            "TCPREMOTEINFO",
            "SSLREMOTEHOST",
            "TCPCONNNUM",
        ] {
            command.env(name, "stale");
        }
        command.env("KEPT", "kept");
    });
    let [cert, key] =
        ["client.pem", "client-key.pem"].map(|name| serving.identity(name).display().to_string());
    let port = serving.address.port().to_string();
    for framing in [&[][..], &["--message"]] {
        let host = ["--name", "localhost"];
        let anonymous = environment(&serving, &[framing, &host].concat());
        let known = environment(
            &serving,
            &[framing, &host, &["--cert", &cert, "--key", &key]].concat(),
        );
        for told in [&anonymous, &known] {
            assert!(told.values().all(|value| value != "stale"), "{told:#?}");
            assert_eq!(told["KEPT"], "kept");
            for (name, value) in [
                ("PROTO", "TCP"),
                ("TCPREMOTEIP", "127.0.0.1"),
                ("TCPLOCALIP", "127.0.0.1"),
                ("TCPLOCALPORT", &port),
                ("SSLLOCALPORT", &port),
                ("SSLREMOTEIP", "127.0.0.1"),
                ("SSL_PROTOCOL", "TLSv1.3"),
                ("SSL_SESSION_RESUMED", "Initial"),
            ] {
                assert_eq!(told[name], value, "{name}");
            }
            assert!(told["SSL_CIPHER"].starts_with("TLS_"));
            assert!(told["TCPREMOTEPORT"].parse::<u16>().is_ok());
            assert_eq!(told["SSL_CIPHER_USEKEYSIZE"], told["SSL_CIPHER_ALGKEYSIZE"]);
            let server = told.get("SSL_TLS_SNI_SERVERNAME").map(String::as_str);
            assert_eq!(server, Some("localhost"));
            assert_eq!(told.get("SSL_TLS_SNI"), told.get("SSL_TLS_SNI_SERVERNAME"));
        }
        assert_eq!(anonymous["SSL_CLIENT_VERIFY"], "NONE");
        assert_eq!(known["SSL_CLIENT_VERIFY"], "SUCCESS");
        let of_certificates = |name: &&String| {
            (name.starts_with("SSL_CLIENT_") && *name != "SSL_CLIENT_VERIFY")
                || name.starts_with("SSL_PEER_")
                || *name == "REMOTE_USER"
        };
        assert_eq!(anonymous.keys().find(of_certificates), None);
        let found: Vec<&String> = known.keys().filter(of_certificates).collect();
        let expected = names.iter().filter(of_certificates).count();
        assert_eq!(found.len(), expected, "{found:?}");
        assert_eq!(known["SSL_CLIENT_S_DN"], "CN=Baton development client");
        assert_eq!(known["SSL_PEER_CERT_SUBJECT"], known["SSL_CLIENT_S_DN"]);
        assert_eq!(known["SSL_CLIENT_S_DN_CN"], "Baton development client");
        assert_eq!(known["REMOTE_USER"], known["SSL_CLIENT_S_DN"]);
        if let Some(mut openssl) = program("openssl") {
            openssl.args([
                "x509",
                "-noout",
                "-serial",
                "-dates",
                "-fingerprint",
                "-sha256",
            ]);
            let (output, errors, _) = run(openssl, known["SSL_CLIENT_CERT"].as_bytes());
            let fingerprint = known["SSL_PEER_CERT_HASH"]
                .replace("SHA256:", "")
                .to_uppercase();
            let shown = output.replace(':', "");
            assert!(shown.contains(&fingerprint), "{output} {errors}");
            for (before, name) in [
                ("serial=", "SSL_CLIENT_M_SERIAL"),
                ("notBefore=", "SSL_CLIENT_V_START"),
                ("notAfter=", "SSL_CLIENT_V_END"),
            ] {
                let line = format!("{before}{}\n", known[name]);
                assert!(output.contains(&line), "{line} in {output}");
            }
        }
    }
}

//= proves spec/sessions.md#exec
#[test]
fn either_side_may_end_first_and_the_end_is_logged() {
    // The client ends; the command answers after that.
    let serving = Serving::start(&["--exec", "sh", "-c", "cat; echo and after; exit 3"]);
    let mut client = clients(&serving).connect(serving.address).unwrap();
    client.say("before\n").unwrap();
    client.end().unwrap();
    assert_eq!(client.rest().unwrap(), "before\nand after\n");
    serving.log.wait_for("ended: finished; 7 bytes in, 17 out");
    let line = serving.log.wait_for(": command ");
    assert!(line.ends_with(" ended with status 3"), "{line}");
    // The command ends its output; it hears the client after that.
    let script = "echo before; exec >&-; read line; echo \"heard: $line\" >&2; kill -9 $$";
    let serving = Serving::start(&["--exec", "sh", "-c", script]);
    let mut client = clients(&serving).connect(serving.address).unwrap();
    assert_eq!(client.rest().unwrap(), "before\n");
    client.say("late\n").unwrap();
    serving.log.wait_for("heard: late");
    client.end().unwrap();
    serving.log.wait_for("ended: finished; 5 bytes in, 7 out");
    let line = serving.log.wait_for(": command ");
    assert!(line.ends_with(" was killed by signal 9"), "{line}");
    // What openssl's client makes of it: it ends when the command does, and in good order.
    let serving = Serving::start(&["--exec", "sh", "-c", "read line; echo \"got $line\""]);
    if let Some(openssl) = serving.openssl(&["-quiet"]) {
        let mut talking = Talking::start(openssl);
        talking.say("this\n");
        assert_eq!(String::from_utf8(talking.hear_all()).unwrap(), "got this\n");
        serving.log.wait_for("ended: ");
    }
    // `baton connect` tells a session that was cut by its exit code; this one is not.
    for framing in [&[][..], &["--message"]] {
        let (output, errors, status) = run(serving.connect(framing), b"that\n");
        assert_eq!(output, "got that\n", "{errors}");
        assert!(status.success(), "{errors}");
    }
}

const KINDS: [&[&str]; 3] = [
    &[],
    &["--http"],
    &[
        "--exec",
        "sh",
        "-c",
        "trap '' HUP; while :; do sleep 100 & wait; done",
    ],
];

/// How a session of a silent client ends.
fn silent(arguments: &[&str], reason: &str) {
    for kind in KINDS {
        let serving = Serving::start(&[arguments, kind].concat());
        let start = Instant::now();
        let mut client = clients(&serving).connect(serving.address).unwrap();
        let process = serving::runner(&serving.log.wait_for("runs it")).1;
        // A close_notify came: without one this is an error.
        assert_eq!(client.rest().unwrap(), "", "{kind:?}");
        assert!(start.elapsed() >= Duration::from_secs(1), "{kind:?}");
        let line = serving.log.wait_for(" ended: ");
        assert!(line.contains(reason), "{line}");
        assert!(line.contains("released: closed"), "{line}");
        // In message framing, too: it is no cut connection.
        drop(client);
        if kind.first() == Some(&"--exec") {
            let line = serving.log.wait_for(": command ");
            assert!(line.contains("signal 15"), "{line}");
        }
        wait_for_end(process);
        let message = Talking::start(serving.connect(&["--message"]));
        let errors = message.errors.clone();
        assert!(message.wait().success(), "{:?}", errors.all());
        let line = serving.log.wait_for_nth(2, " ended: ");
        assert!(line.contains(reason), "{line}");
    }
}

//= proves spec/sessions.md#time
#[test]
fn a_silent_session_ends_after_its_idle_time() {
    silent(&["--idle-timeout", "1"], "the peer was silent for too long");
}

//= proves spec/sessions.md#time
#[test]
fn any_session_ends_after_its_time() {
    silent(
        &["--session-timeout", "1", "--idle-timeout", "0"],
        "its time was up",
    );
    // Also one that is never silent, through hops.
    let serving = Serving::start(&[
        "--session-timeout",
        "1",
        "--idle-timeout",
        "1",
        "--hops",
        "5",
        "--hop-every",
        "100",
    ]);
    let mut client = clients(&serving).connect(serving.address).unwrap();
    let start = Instant::now();
    let mut echoed = [0; 10];
    while client.say("0123456789").is_ok()
        && std::io::Read::read_exact(&mut client.0, &mut echoed).is_ok()
    {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    assert!(start.elapsed() >= Duration::from_secs(1));
    let line = serving.log.wait_for(" ended: ");
    assert!(
        line.contains("its time was up") && line.contains(" 6 hops"),
        "{line}"
    );
}

#[test]
fn a_session_that_is_not_silent_is_not_idle() {
    let serving = Serving::start(&["--idle-timeout", "2"]);
    let mut client = clients(&serving).connect(serving.address).unwrap();
    let start = Instant::now();
    let mut echoed = [0; 1];
    // Bytes of the connection count, one way or the other.
    while start.elapsed() < Duration::from_millis(4500) {
        client.say(".").unwrap();
        std::io::Read::read_exact(&mut client.0, &mut echoed).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    client.end().unwrap();
    assert_eq!(client.rest().unwrap(), "");
    let line = serving.log.wait_for(" ended: ");
    assert!(line.contains("finished"), "{line}");
}

/// Soft and hard limit of a process.
fn limit(limits: &str, name: &str) -> [String; 2] {
    let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
    let fields: Vec<&str> = line[name.len()..].split_whitespace().collect();
    [fields[0], fields[1]].map(str::to_owned)
}

//= proves spec/processes.md#rlimits
#[test]
fn processes_are_held_to_their_limits() {
    let of = |process: u32| std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let serving = Serving::start(&["--handshakes", "100", "--session-memory", "4096"]);
    let mut talking = Talking::start(serving.connect(&[]));
    talking.say("one\n");
    assert_eq!(talking.hear(), "one\n");
    let children = serving::children(serving.process());
    let limits: Vec<String> = children.iter().map(|process| of(*process)).collect();
    let handshaker = limits
        .iter()
        .find(|limits| limit(limits, "Max processes")[1] == "0");
    let handshaker = handshaker.expect("a handshaker that starts nothing");
    assert_eq!(limit(handshaker, "Max open files"), ["132", "132"]);
    assert_eq!(limit(handshaker, "Max file size"), ["0", "0"]);
    let zygote = limits.iter().find(|limits| *limits != handshaker);
    let zygote = zygote.expect("a zygote");
    assert_eq!(limit(zygote, "Max file size"), ["0", "0"]);
    assert_eq!(limit(zygote, "Max core file size"), ["0", "0"]);
    let [session] = serving.sessions()[..] else {
        panic!("no session")
    };
    let session = of(session);
    let memory = (4096u64 << 20).to_string();
    assert_eq!(limit(&session, "Max address space"), [&memory[..], &memory]);
    assert_eq!(limit(&session, "Max open files"), ["64", "64"]);
    assert_eq!(limit(&session, "Max file size"), ["0", "0"]);
    assert!(talking.finish().success());

    let serving = Serving::start_with(
        &[
            "--session-processes",
            "400",
            "--exec",
            "cat",
            "/proc/self/limits",
        ],
        |command| {
            // The server raises the soft limit for itself, and its commands do not notice.
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", "ulimit -Sn 100; exec \"$0\" \"$@\""]);
            shell.arg(command.get_program()).args(command.get_args());
            shell.stdin(std::process::Stdio::null());
            shell
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped());
            *command = shell;
        },
    );
    let (output, errors, _) = run(serving.connect(&[]), b"");
    assert_eq!(limit(&output, "Max open files")[0], "100", "{errors}");
    assert_eq!(limit(&output, "Max processes"), ["400", "400"]);
    assert_eq!(limit(&output, "Max core file size"), ["0", "0"]);
    let serving = Serving::start(&[
        "--session-files",
        "40",
        "--exec",
        "cat",
        "/proc/self/limits",
    ]);
    let (output, _, _) = run(serving.connect(&[]), b"");
    assert_eq!(limit(&output, "Max open files"), ["40", "40"]);
}
