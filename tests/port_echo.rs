//! The example `port_echo` as a program, against clients that know nothing of it: `openssl
//! s_client`, `baton connect`, and our own initiator.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;
mod serving;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use baton::port::Port;
use portside::*;
use serving::{Lines, baton, program};

/// The example, listening.
struct Echo {
    server: Child,
    lines: Lines,
    address: String,
}

impl Echo {
    fn start(place: &Place) -> Self {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "run",
            "--quiet",
            "--offline",
            "--example",
            "port_echo",
            "--",
        ]);
        cargo.args([place.path("server.pem"), place.path("server.key")]);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        // What cargo tells a test about its package would make build scripts run again.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                cargo.env_remove(name);
            }
        }
        let mut server = cargo
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Lines::of(server.stdout.take().unwrap());
        let line = lines.wait_for("listening on ");
        let address = line.strip_prefix("listening on ").unwrap().to_owned();
        Self {
            server,
            lines,
            address,
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It has ended, unless the test has failed.
        let _ = self.server.kill();
    }
}

/// Runs a client that has `text` as its input and waits for the echo of it before the end.
fn echoed(mut client: Command, text: &str) {
    client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut client = client.spawn().unwrap();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    stdin.flush().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    let mut heard = Vec::new();
    let mut part = [0; 4096];
    while !String::from_utf8_lossy(&heard).contains(text) {
        let count = stdout.read(&mut part).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&part[..count]);
    }
    drop(stdin);
    while stdout.read(&mut part).unwrap() > 0 {}
    assert!(client.wait().unwrap().success());
}

//= proves spec/port.md#environment-end E4
//= proves spec/port.md#wait E2
#[test]
fn the_example_echoes_to_every_kind_of_client_and_ends_when_they_have() {
    let place = Place::new();
    let mut echo = Echo::start(&place);
    // Ours, which goes on until the very end.
    let port = Port::new().unwrap();
    let environment = place.environment(&port, vec![]);
    let last = initiator(&environment);
    last.start_handshake(TcpStream::connect(&echo.address).unwrap(), 1)
        .unwrap();
    assert!(next(&port).error.is_none());
    let echo_of = |text: &[u8]| {
        send(&port, &last, text);
        assert_eq!(receive(&port, &last, text.len()), text);
    };
    echo_of(&[7; 100_000]);

    let anchors = place.path("anchors.pem");
    if let Some(mut openssl) = program("openssl") {
        openssl.args([
            "s_client",
            "-quiet",
            "-no_ign_eof",
            "-verify_return_error",
            "-verify_hostname",
        ]);
        openssl
            .args([parties::HOST, "-connect", &echo.address, "-CAfile"])
            .arg(&anchors);
        echoed(openssl, "from openssl\n");
    }
    for message in [false, true] {
        let mut connect = baton();
        connect
            .args(["connect", &echo.address, "--name", parties::HOST, "--ca"])
            .arg(&anchors);
        if message {
            connect.arg("--message");
        }
        echoed(connect, "from baton\n");
    }
    // One that is no client, and one that hangs up, cost nobody anything.
    TcpStream::connect(&echo.address)
        .unwrap()
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .unwrap();
    drop(TcpStream::connect(&echo.address).unwrap());
    echo_of(b"still here");

    // Closed, it lets the last session go on, and then ends.
    drop(echo.server.stdin.take());
    echo.lines
        .wait_for("not accepted: the environment was closed");
    echo_of(b"to the very end");
    last.close().unwrap();
    let lines = echo.lines.all();
    assert_eq!(
        lines.last().unwrap(),
        "all sessions have ended",
        "{lines:#?}"
    );
    assert!(echo.server.wait().unwrap().success());
}
