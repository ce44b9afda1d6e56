use std::os::unix::net::UnixStream;

use super::*;
use crate::ledger::keeper::Options;
use crate::session::about::About;
use crate::session::report;

fn pending(session: u8) -> Pending {
    let address = "127.0.0.1:1".parse().unwrap();
    let about = About {
        session: SessionIdentifier::from([session; 16]),
        remote: address,
        local: address,
        cipher: "none",
        framing: "record",
        user: None,
        resumed: false,
        handshake_process: 1,
        processes: Vec::new(),
        hops: 0,
    };
    Pending {
        introduction: Introduction::new(&about, 0x1302),
        parcel: ByteBuf::new(),
        socket: UnixStream::pair().unwrap().0.into(),
        attempts: 0,
    }
}

/// Processes that there are none of: beyond what the kernel gives.
const VICTIM: u32 = 0x4000_0001;
const HOSTILE: u32 = 0x4000_0002;

//= proves spec/processes.md#session
#[test]
fn a_session_that_claims_another_ones_process_takes_nothing_from_it() {
    let (mut keeper, poller) = (
        Keeper::new(&Options::default()).unwrap(),
        Poller::new().unwrap(),
    );
    let mut sessions = Sessions::default();
    let mut tell = Vec::new();
    for (key, process) in [(1, VICTIM), (2, HOSTILE)] {
        let (reporter, reports) = report::channel().unwrap();
        poller
            .add(&reports, key, rustix::event::epoll::EventFlags::IN)
            .unwrap();
        let (member, _) = keeper.connect(Role::Session).unwrap();
        let ordered = Ordered {
            pending: pending(key as u8),
            reports,
            member,
            role: Role::Session,
            zygote: 0,
        };
        sessions.ordered(key, ordered);
        sessions.started(SessionIdentifier::from([key as u8; 16]), process);
        reporter.tell(Report::Running { process, hops: 1 });
        sessions.read(key, &mut keeper, &poller);
        tell.push(reporter);
    }
    let hostile = tell.pop().unwrap();
    for process in [VICTIM, 7, 8, VICTIM] {
        hostile.tell(Report::Running { process, hops: 2 });
        hostile.tell(Report::Command { process });
    }
    sessions.read(2, &mut keeper, &poller);
    assert!(sessions.processes.len() <= 3 && sessions.commands.len() <= 1);
    // The victim's end is the victim's.
    drop(tell);
    sessions.ended(VICTIM, ExitStatus::from_raw(0), &mut keeper, &poller);
    assert!(sessions.settle(&mut keeper).is_empty());
    assert!(!sessions.has(1) && sessions.has(2));
    drop(hostile);
    sessions.ended(HOSTILE, ExitStatus::from_raw(9), &mut keeper, &poller);
    sessions.settle(&mut keeper);
    assert!(sessions.is_empty() && sessions.processes.is_empty());
}

/// A session asks for as many lines to the keeper as it likes: it has three at most, and none to
/// move with when it is not to move.
//= proves spec/processes.md#moving
#[test]
fn a_session_that_asks_for_connections_without_end_has_three() {
    let (mut keeper, poller) = (
        Keeper::new(&Options::default()).unwrap(),
        Poller::new().unwrap(),
    );
    let mut sessions = Sessions::default();
    for (key, role, moves) in [(1, Role::Session, false), (2, Role::Worker, true)] {
        let (reporter, reports) = report::channel().unwrap();
        let (member, _first) = keeper.connect_for(role, [key as u8; 16]).unwrap();
        let ordered = Ordered {
            pending: pending(key as u8),
            reports,
            member,
            role,
            zygote: 0,
        };
        sessions.ordered(key, ordered);
        let before = keeper.members();
        for _ in 0..8 {
            reporter.tell(Report::Moving);
            sessions.read(key, &mut keeper, &poller);
            assert_eq!(reporter.connection().is_some(), moves, "{role:?}");
        }
        assert_eq!(keeper.members() - before, if moves { 2 } else { 0 });
    }
}

/// Whatever a zygote or a session says its process is.
#[test]
fn no_session_is_everybody() {
    for nobody in [0, 1, 1 << 31, u32::MAX] {
        assert_eq!(of_a_session(nobody), None);
    }
    assert!(of_a_session(VICTIM).is_some());
}
