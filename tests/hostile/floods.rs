//! What a session does that was taken over, again and again.

#![allow(
    clippy::needless_pass_by_value,
    reason = "a deed has all that its process has"
)]

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::SeqCst;

use baton::session::report::Report;
use baton::sys::{process, socket};

use super::deeds::{ENDED, HELLO, Running, SLOW_TO_CLOSE, greeted, is_ended};
use super::hostile::{Hostile, stay};

pub fn establishes(it: Hostile) {
    let (it, line) = greeted(it);
    let sent = (0..1_000_000).take_while(|_| socket::send_whole(&line, &[2]).is_ok());
    let sent = sent.count();
    assert!(sent < 10_000, "{sent}");
    assert!(is_ended(&line));
    it.tell("establishes: yes");
    stay()
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_add(length as u64);
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(byte).collect()
}

/// One garbage ends the line: the lengths are those of `keeper_hostile`; here it is a large one.
pub fn garbage(it: Hostile) {
    let (it, line) = greeted(it);
    let _ = socket::send_whole(&line, &noise(65_536));
    assert!(is_ended(&line));
    it.tell("garbage: yes");
    stay()
}

pub fn garbage_reports(it: Hostile) {
    for length in (0..200).chain([4096, 65_536]) {
        let _ = rustix::net::send(
            &it.start.reporter,
            &noise(length),
            rustix::net::SendFlags::NOSIGNAL,
        );
    }
    it.tell("garbage reports: yes");
    stay()
}

pub fn garbage_reports_running(it: Hostile) {
    let running = Running::of(it, "");
    running.report(Report::Running {
        process: process::pid(),
        hops: 1,
    });
    let flags = rustix::net::SendFlags::NOSIGNAL;
    let _ = rustix::net::send(&running.reporter, &noise(65), flags);
    running.told("garbage reports of a running one: yes");
    stay()
}

/// Sends messages with as many descriptors as there can be.
fn flood(over: BorrowedFd<'_>, message: &[u8], one: BorrowedFd<'_>, times: usize) -> usize {
    let fds = vec![one; socket::MAX_DESCRIPTORS];
    let send = |_: &usize| {
        let message = [std::io::IoSlice::new(message)];
        socket::send_with_fds(over, &message, &fds).is_ok()
    };
    (0..times).take_while(send).count()
}

pub fn descriptors_over_the_line(it: Hostile) {
    let (it, line) = greeted(it);
    flood(line.as_fd(), HELLO, it.start.parcel.socket.as_fd(), 10_000);
    assert!(is_ended(&line));
    it.tell("descriptors over the line: yes");
    stay()
}

pub fn descriptors_over_the_reports(it: Hostile) {
    let over = it.start.reporter.as_fd();
    flood(over, &[0, 1, 1], it.start.parcel.socket.as_fd(), 3000);
    it.tell("descriptors over the reports: yes");
    stay()
}

/// A TCP socket with a peer that does not read, and that waits on close until it does: the last who
/// has it waits. The test keeps the supervisor from receiving it before it is closed here.
pub fn slow_to_close(it: Hostile) {
    let shared = it.shared;
    let running = Running::of(it, "");
    running.report(Report::Running {
        process: process::pid(),
        hops: 1,
    });
    let linger = std::time::Duration::from_secs(30_000);
    let lingers = rustix::net::sockopt::set_socket_linger(&running.socket, Some(linger));
    assert_eq!(lingers, Err(rustix::io::Errno::PERM));
    let bytes = [0; 65_536];
    while rustix::net::send(&running.socket, &bytes, rustix::net::SendFlags::DONTWAIT).is_ok() {}
    running.told("ready to be slow");
    while shared[3].load(SeqCst) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let message = [std::io::IoSlice::new(&[0, 1, 1])];
    let one = [running.socket.as_fd()];
    socket::send_with_fds(&running.reporter, &message, &one).unwrap();
    socket::send_with_fds(&running.line, &message, &one).unwrap();
    drop(running.socket);
    (running.tell)(&format!("{SLOW_TO_CLOSE}: yes"));
    stay()
}

pub fn reads_no_answers(it: Hostile) {
    let (it, line) = greeted(it);
    let open = [&[4][..], &[0; 24]].concat();
    let sent = (0..100_000).take_while(|_| socket::send_whole(&line, &open).is_ok());
    assert!(sent.count() < 100_000);
    assert!(is_ended(&line));
    it.tell("reads no answers: yes");
    stay()
}

pub fn moving(it: Hostile, reading: bool) {
    let running = Running::of(it, "");
    running.report(Report::Running {
        process: process::pid(),
        hops: 1,
    });
    let mut lines = Vec::new();
    for _ in 0..5000 {
        match reading {
            true => lines.extend(running.reporter.ask_connection()),
            false => running.report(Report::Moving),
        }
    }
    running.told(match reading {
        true => "moving and reading: yes",
        false => "moving and not reading: yes",
    });
    stay()
}

pub fn moving_early(it: Hostile) {
    for _ in 0..5000 {
        it.start.reporter.tell(Report::Moving);
    }
    it.tell("moving before it runs: yes");
    stay()
}

pub fn reports_without_end(it: Hostile) {
    let running = Running::of(it, "");
    for number in 0..100_000 {
        running.report(Report::Running {
            process: number,
            hops: number,
        });
        running.report(ENDED);
    }
    running.told("reports without end: yes");
    stay()
}
