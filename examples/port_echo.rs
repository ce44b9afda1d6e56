//! An echo server over a completion port: one thread accepts, several workers wait on the port, and
//! whatever a client sends comes back, to any number of clients at once.
//!
//! `cargo run --example port_echo -- CHAIN.pem KEY.pem [ADDRESS]`
//!
//! It says where it listens, a line for each session, and ends when its standard input does: the
//! environment is closed, the sessions go on, and when the last has ended so does the server.
//! Try it with `openssl s_client -connect ADDRESS`.

#![allow(clippy::print_stdout, missing_docs)]

use std::error::Error;
use std::io::{Read, Write, stdin, stdout};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use baton::ledger::Domain;
use baton::port::{
    Amount, Attribute, Completion, Environment, EnvironmentState, Operation, Port, Session,
};

const WORKERS: usize = 4;
const BUFFER: usize = 16 * 1024;
/// The tag of the environment's end.
const CLOSED: u64 = u64::MAX;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(chain), Some(key)) = (arguments.next(), arguments.next()) else {
        return Err("usage: port_echo CHAIN.pem KEY.pem [ADDRESS]".into());
    };
    let address = arguments.next().unwrap_or("127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address)?;

    // The port, and the environment: opened, told its attributes, initialised.
    let port = Port::with_drivers(2)?;
    let environment = Environment::open(&port, &Domain::inherited(4096)?)?;
    environment.set(Attribute::Certificate(chain.into()))?;
    environment.set(Attribute::Key(key.into()))?;
    environment.set(Attribute::HandshakeTimeout(Duration::from_secs(10)))?;
    environment.set(Attribute::ReadTimeout(Some(Duration::from_secs(600))))?;
    environment.set(Attribute::Resumption(true))?;
    // TLS records or message tokens, as the client begins. There are no names here.
    environment.set(Attribute::Framing(None))?;
    environment.set(Attribute::Anonymous(true))?;
    environment.init()?;
    say(&format!("listening on {}", listener.local_addr()?));

    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| work(&port));
        }
        scope.spawn(|| {
            // The end of the standard input is the end of the server.
            let _ = stdin().read_to_end(&mut Vec::new());
            let _ = environment.close(CLOSED);
            // The thread that accepts may be asleep.
            if let Ok(address) = listener.local_addr() {
                let _ = std::net::TcpStream::connect(address);
            }
        });
        for (socket, tag) in listener.incoming().zip(0..) {
            // A session inherits the environment's attributes; from here on the workers have it.
            let started = socket.map_err(Into::into).and_then(|socket| {
                let session = Session::open(&environment)?;
                session.start_handshake(socket, tag)?;
                Ok::<_, Box<dyn Error>>(())
            });
            if let Err(error) = started {
                say(&format!("not accepted: {error}"));
                if environment.state() != EnvironmentState::Initialized {
                    break;
                }
            }
        }
    });
    say("all sessions have ended");
    Ok(())
}

/// Takes completions until the port is destroyed.
fn work(port: &Port) {
    while let Ok(done) = port.wait(None) {
        if done.tag == CLOSED {
            // The others are woken, and nothing is pending any more.
            port.destroy();
            return;
        }
        let tag = done.tag;
        match go_on(done) {
            Ok(None) => {}
            Ok(Some(news)) => say(&format!("session {tag}: {news}")),
            Err(error) => say(&format!("session {tag}: {error}")),
        }
    }
}

/// Starts what comes after a completed operation. When a session is told nothing more, its last
/// handle is dropped here, which closes it.
fn go_on(done: Completion) -> Result<Option<String>, Box<dyn Error>> {
    if let Some(error) = done.error {
        return Err(error.into());
    }
    let (Some(session), tag) = (done.session, done.tag) else {
        return Ok(None);
    };
    match done.operation {
        Operation::Handshake => {
            session.start_receive(vec![0; BUFFER], Amount::Some, tag)?;
            let resumed = if done.value == 1 { ", resumed" } else { "" };
            Ok(Some(format!("established{resumed}")))
        }
        Operation::Receive if done.value == 0 => {
            session.close()?;
            Ok(Some("closed".to_owned()))
        }
        Operation::Receive => {
            session.start_send(done.data, tag)?;
            Ok(None)
        }
        Operation::Send => {
            // The buffer comes back, and is used again.
            let mut buffer = done.data;
            buffer.resize(BUFFER, 0);
            session.start_receive(buffer, Amount::Some, tag)?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn say(line: &str) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
