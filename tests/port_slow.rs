//! Thousands of slow handshakes in one process: what each costs, and that others do not mind.

#![allow(clippy::unwrap_used, clippy::panic)]

mod portside;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use baton::establish::{Initiator, InitiatorConfig, Step};
use baton::port::{Attribute, Code, Operation, Port, Session};
use baton::record::Record;
use portside::parties::target;
use portside::*;

const SLOW: usize = 2000;
/// What a handshake that waits may cost. (`benches/port.rs` measures it, optimised.)
const MOST: usize = 24 * 1024;

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

/// Threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

//= proves spec/port.md#handshake E2
#[test]
fn slow_handshakes_cost_little_and_hold_up_nobody() {
    let limit = baton::sys::process::raise_descriptor_limit().unwrap();
    let slow = SLOW.min((limit as usize).saturating_sub(200) / 2);
    let (port, place) = (Port::new().unwrap(), Place::new());
    let environment = place.environment(&port, vec![Attribute::HandshakeTimeout(PATIENCE)]);
    let config = InitiatorConfig::builder(place.authority.anchors())
        .build()
        .unwrap();
    let initiator = Initiator::<Record>::new(config.into(), target()).unwrap();
    let Ok(Step::Continue { output: hello, .. }) = initiator.step(&[]) else {
        panic!("an initiator speaks first")
    };
    // Everything that is made once is made.
    let (a, b) = meet(&port, &environment);
    let mut held: Vec<(Session, UnixStream)> = Vec::with_capacity(slow);
    let (before, threads_before) = (resident(), threads());
    for number in 0..slow {
        let (ours, theirs) = sockets();
        let session = Session::open(&environment).unwrap();
        session.start_handshake(ours, number as u64).unwrap();
        // Some say nothing, some half of their hello, most all of it and nothing more.
        let said = match number % 8 {
            0 => 0,
            1 => hello.len() / 2,
            _ => hello.len(),
        };
        (&theirs).write_all(&hello[..said]).unwrap();
        held.push((session, theirs));
    }
    // Each that said all has its answer.
    for (_, theirs) in held
        .iter()
        .enumerate()
        .filter(|(n, _)| n % 8 > 1)
        .map(|(_, held)| held)
    {
        theirs.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(std::io::Read::read(&mut &*theirs, &mut [0; 1]).unwrap(), 1);
    }
    let each = resident().saturating_sub(before) / slow;
    println!("{each} bytes each");
    assert!(each <= MOST, "{each} bytes each");
    assert_eq!(threads(), threads_before);
    // The good ones go on, and new ones come.
    for _ in 0..20 {
        let (c, d) = meet(&port, &environment);
        talk(&port, &c, &d);
    }
    talk(&port, &a, &b);
    assert_eq!(refused(port.wait(Some(Duration::ZERO))), Code::WaitTimeout);
    assert!(
        held.iter()
            .all(|(session, _)| session.is_pending(Operation::Handshake))
    );
    let left = port.destroy();
    assert_eq!(left.len(), slow);
    assert!(
        left.iter()
            .all(|done| code(done) == Some(Code::PortDestroyed))
    );
}
