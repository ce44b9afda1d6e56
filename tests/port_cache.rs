//! The session cache of an environment: resumed, not resumed, too late, reset, dropped. With our
//! own initiator, and with a client that knows nothing of us.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;
mod serving;

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use baton::port::{Amount, Attribute, Code, Environment, Operation, Port, Session};
use portside::*;

const HOUR: Duration = Duration::from_secs(3600);

fn resuming(place: &Place, port: &Port, timeout: Duration) -> Environment {
    let attributes = vec![
        Attribute::Resumption(true),
        Attribute::SessionTimeout(timeout),
    ];
    place.environment(port, attributes)
}

/// One session between an acceptor and an initiator, which takes its tickets; whether it was
/// resumed.
fn session(port: &Port, ours: &Session, theirs: &Session) -> bool {
    let (one, other) = sockets();
    ours.start_handshake(one, 1).unwrap();
    theirs.start_handshake(other, 2).unwrap();
    let done = [next(port), next(port)];
    let resumed = done.each_ref().map(|done| done.result().unwrap());
    assert_eq!(resumed[0], resumed[1]);
    assert_eq!(ours.facts(|facts| facts.resumed).unwrap(), resumed[0] == 1);
    // The tickets are before the data.
    talk(port, ours, theirs);
    resumed[0] == 1
}

/// The same between two environments.
fn between(port: &Port, ours: &Environment, theirs: &Environment) -> bool {
    session(port, &Session::open(ours).unwrap(), &initiator(theirs))
}

/// Waits until so much time has passed.
fn later(port: &Port, time: Duration) {
    port.post_after(time, 5, 0).unwrap();
    assert_eq!(next(port).tag, 5);
}

//= proves spec/port.md#session-cache E6
#[test]
fn sessions_are_resumed_where_their_environments_want_it() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let off = place.environment(&port, vec![]);
    assert!(!between(&port, &off, &off) && !between(&port, &off, &off));
    let on = resuming(&place, &port, HOUR);
    assert!(!between(&port, &on, &off));
    assert!(!between(&port, &on, &on));
    assert!(between(&port, &on, &on));
    // A session that wants none, among those that do.
    let alone = initiator(&on);
    alone.set(Attribute::Resumption(false)).unwrap();
    assert!(!session(&port, &Session::open(&on).unwrap(), &alone));
    assert!(!alone.drop_from_cache().unwrap());
    // One with attributes of its own shares the cache all the same.
    let own = Session::open(&on).unwrap();
    own.set(Attribute::Lifetime(Some(HOUR))).unwrap();
    assert!(session(&port, &own, &initiator(&on)));
}

//= proves spec/port.md#session-cache E6
#[test]
fn a_session_is_resumed_no_later_than_its_timeout() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    const SECOND: Duration = Duration::from_secs(1);
    let (short, long) = (
        resuming(&place, &port, SECOND),
        resuming(&place, &port, HOUR),
    );
    for (ours, theirs) in [(&short, &long), (&long, &short)] {
        assert!(!between(&port, ours, theirs));
        later(&port, SECOND);
        assert!(!between(&port, ours, theirs));
    }
    assert!(between(&port, &long, &long) || between(&port, &long, &long));
}

//= proves spec/port.md#session-cache E6
#[test]
fn a_cache_is_reset_and_a_session_dropped_from_it() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let (ours, theirs) = (resuming(&place, &port, HOUR), resuming(&place, &port, HOUR));
    for reset in [&ours, &theirs] {
        assert!(!between(&port, &ours, &theirs));
        assert!(between(&port, &ours, &theirs));
        reset.reset_session_cache().unwrap();
    }
    let drop_one = |of_ours: bool| {
        let (acceptor, initiator) = (Session::open(&ours).unwrap(), initiator(&theirs));
        session(&port, &acceptor, &initiator);
        let dropped = if of_ours { &acceptor } else { &initiator };
        assert!(dropped.drop_from_cache().unwrap());
        talk(&port, &acceptor, &initiator);
    };
    theirs.reset_session_cache().unwrap();
    for of_ours in [true, false] {
        drop_one(of_ours);
        assert!(!between(&port, &ours, &theirs), "dropped");
        assert!(between(&port, &ours, &theirs));
        theirs.reset_session_cache().unwrap();
    }
}

/// A session with `openssl s_client`, which reads its session from `from` and keeps it in `to`.
fn openssl(
    port: &Port,
    environment: &Environment,
    [from, to]: [Option<&Path>; 2],
) -> Option<(bool, Session)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = serving::program("openssl")?;
    command.args(["s_client", "-tls1_3", "-ign_eof", "-connect"]);
    command.arg(listener.local_addr().unwrap().to_string());
    for (option, path) in [("-sess_in", from), ("-sess_out", to)] {
        path.map(|path| command.arg(option).arg(path));
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut client = command.spawn().unwrap();
    let acceptor = Session::open(environment).unwrap();
    acceptor
        .start_handshake(listener.accept().unwrap().0, 1)
        .unwrap();
    let done = next(port);
    assert_eq!(done.operation, Operation::Handshake);
    let resumed = done.result().unwrap() == 1;
    // It has the tickets once it has said something behind them.
    use std::io::Write;
    client
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"hello\n")
        .unwrap();
    acceptor.start_receive(vec![0; 6], Amount::Full, 2).unwrap();
    assert_eq!(next(port).data, b"hello\n");
    acceptor.close().unwrap();
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.contains("Reused, TLSv1.3"), resumed, "{said}");
    Some((resumed, acceptor))
}

//= proves spec/port.md#session-cache E6
#[test]
fn a_real_clients_sessions_are_resumed_reset_and_dropped() {
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = resuming(&place, &port, HOUR);
    let file = place.path("session");
    let fresh = |to: bool| openssl(&port, &environment, [None, to.then_some(&file)]);
    let again = || openssl(&port, &environment, [Some(&file), None]).unwrap().0;
    let Some((resumed, first)) = fresh(true) else {
        return;
    };
    assert!(!resumed && again());
    assert!(first.drop_from_cache().unwrap(), "also when it is over");
    assert!(!again(), "dropped");
    fresh(true).unwrap();
    assert!(again());
    environment.reset_session_cache().unwrap();
    assert!(!again(), "reset");
    // Switched off, there is nothing to keep.
    let off = place.environment(&port, vec![]);
    let kept = place.path("kept");
    assert!(!openssl(&port, &off, [None, Some(&kept)]).unwrap().0);
    assert!(!kept.exists());
    assert_eq!(refused(port.wait(Some(Duration::ZERO))), Code::WaitTimeout);
}
