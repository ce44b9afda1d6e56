//! One hop of a live session, with a successor that dies at each step of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod keeping;
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;

use baton::context::Context;
use baton::ledger::Domain;
use baton::ledger::keeper::Role;
use baton::record::Record;
use baton::session::about::About;
use baton::session::drive::{Hops, Stage, Turn};
use baton::session::hop::{After, hop};
use baton::session::job::Job;
use baton::session::report::{Next, Reason, Report, Reports, channel};
use baton::sys::fault::{self, Action};
use baton::sys::process::{self, Signal};
use keeping::Keeping;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{getpid, kill_process};

/// An echo session in this process, and its client.
struct Session {
    domain: Domain,
    channel: Context<Record>,
    stage: Stage,
    reporter: baton::session::report::Reporter,
    reports: mpsc::Receiver<Report>,
    keeping: Keeping,
    client: Context<Record>,
    socket: TcpStream,
}

fn session(hops: u32) -> Session {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (context, client) = support::pair::<Record>(&domain);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = TcpStream::connect(address).unwrap();
    let (accepted, remote) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let about = About::new(&context, remote, address);
    let stage = Stage::new(accepted, Job::Echo, about, Hops::new(hops, 1), Vec::new());
    let (reporter, theirs) = channel().unwrap();
    let reports = serve(theirs, keeping.connect(Role::Worker));
    Session {
        domain,
        channel: context,
        stage,
        reporter,
        reports,
        keeping,
        client,
        socket,
    }
}

/// The server's part: gives the session `connection` when it asks for one, and passes on all else
/// it reports.
fn serve(reports: Reports, connection: OwnedFd) -> mpsc::Receiver<Report> {
    let (told, all) = mpsc::channel();
    let mut connection = Some(connection);
    std::thread::spawn(move || {
        loop {
            match reports.next() {
                Next::Report(Report::Moving) => reports.give_connection(connection.take().as_ref()),
                Next::Report(report) => drop(told.send(report)),
                Next::Garbage => panic!("garbage"),
                Next::Gone => return,
                Next::Nothing => {
                    let mut fds = [PollFd::from_borrowed_fd(reports.as_fd(), PollFlags::IN)];
                    poll(&mut fds, None).unwrap();
                }
            }
        }
    });
    all
}

/// Sends `text` and reads it back.
fn echoed(client: &mut Context<Record>, mut socket: &TcpStream, text: &[u8]) {
    use support::Talk;
    socket
        .write_all(&Record::say(client, text).unwrap())
        .unwrap();
    let mut heard = Vec::new();
    while heard.len() < text.len() {
        let mut bytes = [0; 4096];
        let length = socket.read(&mut bytes).unwrap();
        assert_ne!(length, 0, "the connection was closed");
        heard.extend(Record::hear(client, bytes[..length].to_vec()).unwrap());
    }
    assert_eq!(heard, text);
}

/// Kills the first other process that passes `step`.
fn kill_another_at(step: &str) {
    let this = process::pid();
    fault::arm(
        step,
        1,
        Action::Call(Box::new(move || {
            if process::pid() != this {
                kill_process(getpid(), Signal::KILL).unwrap();
            }
        })),
    );
}

//= proves spec/sessions.md#hop C1 C2
#[test]
fn the_successor_goes_on_where_the_session_was() {
    let Session {
        mut domain,
        channel,
        mut stage,
        reporter,
        reports,
        keeping: _keeping,
        mut client,
        socket,
    } = session(1);
    match hop(channel, &mut stage, &mut domain, &reporter) {
        After::Elsewhere => {}
        After::Here(mut channel) => {
            // The successor: serves until its client ends.
            let over = stage.run(&mut channel, None) == Turn::Over(Reason::Finished);
            process::exit_now(u8::from(!over));
        }
        After::Lost(reason) => panic!("{reason}"),
    }
    let Ok(Report::Running { process, hops: 1 }) = reports.recv() else {
        panic!("no report of the successor")
    };
    assert_ne!(process, process::pid());
    drop(stage);
    echoed(&mut client, &socket, b"to the successor");
    client.close_notify().unwrap();
    (&socket).write_all(&client.take_output().unwrap()).unwrap();
    (&socket).read_to_end(&mut Vec::new()).unwrap();
}

//= proves spec/sessions.md#back C4
#[test]
fn a_successor_that_dies_before_it_claims_leaves_the_session_here() {
    for step in ["import.opened", "import.admitted"] {
        let Session {
            mut domain,
            channel,
            mut stage,
            reporter,
            reports,
            keeping: _keeping,
            mut client,
            socket,
        } = session(2);
        kill_another_at(step);
        let After::Here(mut channel) = hop(channel, &mut stage, &mut domain, &reporter) else {
            panic!("not here after a crash at {step}")
        };
        fault::disarm();
        assert!(reports.try_recv().is_err());
        assert_eq!(stage.hops.left, 1, "a hop that failed counts");
        channel.check().unwrap();
        let talking = std::thread::spawn(move || {
            echoed(&mut client, &socket, b"as if nothing had been");
            client.close_notify().unwrap();
            (&socket).write_all(&client.take_output().unwrap()).unwrap();
        });
        stage.hops.left = 0;
        assert_eq!(stage.run(&mut channel, None), Turn::Over(Reason::Finished));
        talking.join().unwrap();
    }
}

//= proves spec/sessions.md#back C3 C4
#[test]
fn a_successor_that_dies_with_the_context_ends_the_session() {
    let Session {
        mut domain,
        channel,
        mut stage,
        reporter,
        keeping: _keeping,
        ..
    } = session(1);
    kill_another_at("import.claimed");
    let lost = hop(channel, &mut stage, &mut domain, &reporter);
    fault::disarm();
    assert!(matches!(lost, After::Lost(Reason::SuccessorDied)));
}

#[test]
fn a_context_that_cannot_leave_stays() {
    let Session {
        mut domain,
        channel,
        mut stage,
        reporter,
        keeping,
        mut client,
        ..
    } = session(1);
    let id = channel.session_identifier();
    // A revoked context is nobody's to export; what comes back says so too.
    assert!(keeping.revoke(id.as_bytes()));
    let After::Here(channel) = hop(channel, &mut stage, &mut domain, &reporter) else {
        panic!("not here")
    };
    assert!(channel.check().is_err());
    assert_eq!(stage.hops.left, 0);
    client.close_notify().unwrap();
}
