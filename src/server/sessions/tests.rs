use std::os::unix::net::UnixStream;

use super::*;
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
    let (domain, poller) = (Domain::inherited(4).unwrap(), Poller::new().unwrap());
    let mut sessions = Sessions::default();
    let mut tell = Vec::new();
    for (key, process) in [(1, VICTIM), (2, HOSTILE)] {
        let (reporter, reports) = report::channel().unwrap();
        poller
            .add(&reports, key, rustix::event::epoll::EventFlags::IN)
            .unwrap();
        sessions.ordered(key, pending(key as u8), reports);
        sessions.started(SessionIdentifier::from([key as u8; 16]), process);
        reporter.tell(Report::Running { process, hops: 1 });
        sessions.read(key, &poller);
        tell.push(reporter);
    }
    let hostile = tell.pop().unwrap();
    for process in [VICTIM, 7, 8, VICTIM] {
        hostile.tell(Report::Running { process, hops: 2 });
        hostile.tell(Report::Command { process });
    }
    sessions.read(2, &poller);
    assert!(sessions.processes.len() <= 3 && sessions.commands.len() <= 1);
    // The victim's end is the victim's.
    drop(tell);
    sessions.ended(VICTIM, ExitStatus::from_raw(0), &domain, &poller);
    assert!(sessions.settle(&domain).is_empty());
    assert!(!sessions.has(1) && sessions.has(2));
    drop(hostile);
    sessions.ended(HOSTILE, ExitStatus::from_raw(9), &domain, &poller);
    sessions.settle(&domain);
    assert!(sessions.is_empty() && sessions.processes.is_empty());
}
