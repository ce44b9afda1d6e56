//! What a new user does: starts the server, and talks to it with the programs at hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use serving::{Serving, Talking, children, run, runner};

#[test]
fn openssl_is_echoed() {
    let serving = Serving::start::<&str>(&[]);
    let Some(openssl) = serving.openssl(&["-quiet"]) else {
        return;
    };
    let mut talking = Talking::start(openssl);
    for line in ["one\n", "two\n"] {
        talking.say(line);
        assert_eq!(talking.hear(), line);
    }
    talking.kill();
    let (status, log) = serving.stop();
    assert!(status.success(), "{log:#?}");
}

//= proves spec/sessions.md#cut
#[test]
fn a_connection_that_ends_too_early_is_told_as_cut() {
    for framing in [&[][..], &["--message"]] {
        let serving = Serving::start::<&str>(&[]);
        let mut talking = Talking::start(serving.connect(framing));
        talking.say("one\n");
        assert_eq!(talking.hear(), "one\n");
        talking.kill();
        let ended = serving.log.wait_for(" ended: ");
        assert!(
            ended.contains("the connection was cut; 4 bytes in, 4 out"),
            "{ended}"
        );
    }
}

#[test]
fn the_printed_lines_work_as_they_stand() {
    let serving = Serving::start(&["--http"]);
    let shell = |line: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", line]);
        shell
    };
    if serving::program("curl").is_some() {
        let (page, errors, status) = run(shell(&serving.line_for("curl")), b"");
        assert!(status.success(), "{errors}");
        assert!(page.contains("TLSv1.3, record framing"), "{page}");
    }
    let request = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
    if serving::program("openssl").is_some() {
        let mut talking = Talking::start(shell(&serving.line_for("openssl")));
        talking.say(request);
        let heard = String::from_utf8(talking.hear_all()).unwrap();
        assert!(heard.contains("Verification: OK"), "{heard}");
        assert!(heard.contains("HTTP/1.1 200 OK"), "{heard}");
    }
    let (page, errors, status) = run(shell(&serving.line_for(" connect ")), request.as_bytes());
    assert!(status.success(), "{errors}");
    assert!(page.contains("TLSv1.3, message framing"), "{page}");
}

#[test]
fn curl_is_echoed_by_the_line_for_the_echo() {
    let serving = Serving::start::<&str>(&[]);
    if serving::program("curl").is_none() {
        return;
    }
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &serving.line_for("curl")]);
    let (echo, errors, _) = run(shell, b"");
    assert!(echo.starts_with("GET / HTTP/1.1\r\n"), "{errors}");
}

/// The value of a line of the page.
fn value<'a>(page: &'a str, name: &str) -> &'a str {
    let line = page.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("no {name} in {page}"))[name.len()..].trim()
}

#[test]
fn the_page_names_every_process() {
    let serving = Serving::start(&["--http", "--hops", "3"]);
    let Some(curl) = serving.curl("/", &[]) else {
        return;
    };
    let (page, errors, status) = run(curl, b"");
    assert!(status.success(), "{errors}");
    // Not the server's first process, and none of the session's: see below.
    let handshaker: u32 = value(&page, "handshake")["process ".len()..]
        .parse()
        .unwrap();
    assert!(children(serving.process()).contains(&handshaker));
    let (session, first) = runner(&serving.log.wait_for("runs it"));
    assert_eq!(value(&page, "session"), session);
    assert_eq!(value(&page, "hops"), "4");
    let mut processes: Vec<u32> = value(&page, "after")
        .split(' ')
        .skip(1)
        .chain(value(&page, "served by").split(' ').skip(1).take(1))
        .map(|number| number.parse().unwrap())
        .collect();
    assert_eq!(processes[0], first);
    processes.extend([handshaker, serving.process()]);
    processes.sort_unstable();
    processes.dedup();
    assert_eq!(processes.len(), 6, "all different: {page}");
    let ended = serving.log.wait_for("ended");
    assert!(ended.contains("4 hops; released: closed"), "{ended}");
}

#[test]
fn a_connection_serves_many_requests() {
    let serving = Serving::start(&["--http"]);
    let Some(mut curl) = serving.curl("/", &[]) else {
        return;
    };
    curl.args(["--write-out", "%{num_connects}"]);
    curl.arg(format!("https://localhost:{}/", serving.address.port()));
    let (pages, errors, status) = run(curl, b"");
    assert!(status.success(), "{errors}");
    assert_eq!(pages.matches("handshake").count(), 2);
    assert!(
        pages.trim_end().ends_with('0'),
        "the second used the first's connection: {pages}"
    );
}

#[test]
fn a_command_runs_on_the_plaintext() {
    let serving = Serving::start(&["--exec", "cat"]);
    let Some(openssl) = serving.openssl(&["-quiet"]) else {
        return;
    };
    let mut talking = Talking::start(openssl);
    talking.say("through cat\n");
    assert_eq!(talking.hear(), "through cat\n");
    talking.kill();
    serving.log.wait_for("ended with status 0");
}

#[test]
fn a_command_hears_the_clients_end_and_answers_after_it() {
    for framing in [&[][..], &["--message"]] {
        let serving = Serving::start(&["--hops", "4", "--exec", "wc", "-c"]);
        let input = vec![b'x'; 3_000_000];
        let (output, errors, status) = run(serving.connect(framing), &input);
        assert!(status.success(), "{errors}");
        assert_eq!(output.trim(), "3000000");
        let ended = serving.log.wait_for(" hops; released");
        assert!(
            ended.contains("finished; 3000000 bytes in, 8 out, 5 hops"),
            "{ended}"
        );
    }
}

#[test]
fn a_command_knows_its_connection() {
    let serving = Serving::start_with(&["--exec", "env"], |command| {
        command
            .env("REMOTE_USER", "somebody")
            .env("TCPREMOTEHOST", "elsewhere");
    });
    let (output, errors, status) = run(serving.connect(&[]), b"");
    assert!(status.success(), "{errors}");
    let (session, _) = runner(&serving.log.wait_for("runs it"));
    for line in [
        "PROTO=TCP".to_owned(),
        "TCPREMOTEIP=127.0.0.1".to_owned(),
        format!("TCPLOCALPORT={}", serving.address.port()),
        "SSL_PROTOCOL=TLSv1.3".to_owned(),
        format!("BATON_SESSION_ID={session}"),
    ] {
        assert!(
            output.lines().any(|found| found == line),
            "{line} in {output}"
        );
    }
    assert!(
        !output.contains("REMOTE_USER") && !output.contains("TCPREMOTEHOST"),
        "{output}"
    );
}

#[test]
fn a_command_holds_no_descriptor_of_the_servers() {
    let script = "ls -l /proc/self/fd | sed 's/.* \\([0-9]*\\) -> /\\1 /'";
    let serving = Serving::start(&["--exec", "sh", "-c", script]);
    let (output, errors, status) = run(serving.connect(&[]), b"");
    assert!(status.success(), "{errors}");
    let foreign = output.lines().filter(|line| {
        ["socket:", "memfd:", "anon_inode:", "identity"]
            .iter()
            .any(|kind| line.contains(kind))
    });
    assert_eq!(foreign.collect::<Vec<_>>(), [""; 0], "{output}");
}

#[test]
fn a_command_that_is_not_there_ends_the_session_only() {
    let serving = Serving::start(&["--exec", "/nonexistent/command"]);
    let (output, _, status) = run(serving.connect(&[]), b"hello\n");
    assert_eq!((output.as_str(), status.code()), ("", Some(0)));
    serving.log.wait_for("the command does not start");
    serving.log.wait_for("released: closed");
    let (_, _, again) = run(serving.connect(&[]), b"");
    assert!(again.success());
}

#[test]
fn messages_are_echoed() {
    let serving = Serving::start(&["--hops", "5"]);
    let mut talking = Talking::start(serving.connect(&["--message"]));
    for line in ["one\n", "two\n", "three\n"] {
        talking.say(line);
        assert_eq!(talking.hear(), line);
    }
    assert!(talking.finish().success());
    let ended = serving.log.wait_for("ended");
    assert!(
        ended.contains("finished; 14 bytes in, 14 out, 6 hops; released: closed"),
        "{ended}"
    );
}
