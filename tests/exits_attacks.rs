//! What a worker, a peer or a clumsy caller can do to a pool that it must not notice: processor time,
//! room, time of others, and workers that leave where they are looked for.

#![allow(clippy::unwrap_used, clippy::panic)]

mod exiting;

use std::time::{Duration, Instant};

use baton::exit::{CheckCertList, Question, UserContext};
use baton::pool::{Configuration, Pool, State};
use baton::sys::process::{Fork, exit_now, fork};
use exiting::*;

/// A question that keeps no limit.
fn invalid() -> Question {
    CheckCertList::default().into()
}

//= proves spec/exits.md#end X3
#[test]
fn a_worker_that_is_to_end_and_writes_on_costs_no_processor_time() {
    // A line without end as hello; lines without end once it is needed no more.
    for text in [
        "trap '' TERM; head -c 300000 /dev/zero; while :; do sleep 0.05; done",
        "trap '' TERM; hello 1; yes | head -c 100000000; while :; do sleep 0.05; done",
        "trap '' TERM; hello 1; head -c 100000000 /dev/zero; while :; do sleep 0.05; done",
    ] {
        let mut driven = Driven::new(script(text));
        if text.contains("hello 1") {
            driven.logged("answers tls");
        } else {
            driven.logged("refused: malformed");
        }
        driven.pool.end();
        let mut turns = 0;
        driven.until("it has ended", |driven| {
            turns += 1;
            driven.pool.is_over()
        });
        assert!(turns < 100, "{text}: {turns} turns");
    }
}

//= proves spec/exits.md#failures X3
#[test]
fn who_is_with_a_worker_that_hangs_twice_goes_on() {
    let hangs = r#"hello 9; while :; do question; case $point in check-cert-list) ;; *) good ;; esac; done"#;
    let mut configuration = script(hangs);
    configuration.deadline = Duration::from_secs(1);
    let mut driven = Driven::new(configuration);
    driven.whole(1);
    for number in 1..=3 {
        assert_eq!(driven.call(session(number), init()), "1/0");
    }
    assert_eq!(driven.call(session(1), check(b"1")), "-1 hung");
    assert_eq!(driven.call(session(2), check(b"1")), "-1 hung");
    assert_eq!(driven.call(session(3), init()), "1/0");
    assert_eq!(driven.call(session(3), end()), "1/0");
    driven.whole(1);
    assert_eq!(driven.pool.counters().lost, 0);
}

//= proves spec/exits.md#recycling X3
#[test]
fn no_more_workers_are_recycling_than_the_maximum() {
    let mut configuration = script("hello 2; serve");
    configuration.recycle_after = Some(1);
    let mut driven = Driven::new(configuration);
    // The first is recycling, and holds its session; the second has answered its share, and stays.
    assert_eq!(driven.call(session(1), init()), "1/0");
    assert_eq!(driven.call(session(2), init()), "1/0");
    assert_eq!(driven.call(session(3), init()), "1/0");
    assert_eq!(driven.in_state(State::Recycling), 1);
    assert_eq!(driven.pool.workers().count(), 2);
    // Once the first has ended the second may.
    assert_eq!(driven.call(session(1), end()), "1/0");
    assert_eq!(driven.call(session(2), check(b"1")), "1/0");
    assert_eq!(driven.in_state(State::Recycling), 1);
    assert_eq!(driven.call(session(3), end()), "1/0");
    assert_eq!(driven.call(session(2), end()), "1/0");
    driven.whole(1);
    let counters = driven.pool.counters();
    assert_eq!((counters.recycled, counters.lost), (2, 0));
}

//= proves spec/exits.md#waiting X3
#[test]
fn a_session_that_is_forgotten_makes_room_at_once() {
    let mut configuration = script("hello 1; serve");
    configuration.deadline = Duration::from_secs(20);
    let mut driven = Driven::new(configuration);
    driven.whole(1);
    assert_eq!(driven.call(session(1), init()), "1/0");
    driven.ask(session(2), init(), 2);
    driven.pool.forget(session(1));
    assert_eq!(driven.pool.queue_length(), 0);
    let begin = Instant::now();
    driven.pool.turn(None).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(shown(&driven.completion(2).reply), "1/0");
}

//= proves spec/exits.md#order X2
//= proves spec/exits.md#failures X3
#[test]
fn a_question_that_is_not_asked_does_not_free_the_worker_that_is_asked() {
    // Answers the first question once it is told to.
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("go");
    let shown_flag = flag.display();
    let text =
        format!("hello 1; question; while ! [ -e {shown_flag} ]; do sleep 0.02; done; good; serve");
    let mut configuration = script(&text);
    configuration.recycle_after = Some(1);
    let mut driven = Driven::new(configuration);
    driven.whole(1);
    driven.ask(session(1), init(), 1);
    driven.ask(session(1), invalid(), 2);
    assert_eq!(shown(&driven.completion(2).reply), "-1 invalid");
    driven.ask(session(2), init(), 3);
    // It holds one session and has not answered for it.
    assert_eq!(driven.pool.queue_length(), 1);
    assert_eq!(driven.in_state(State::Busy), 1);
    std::fs::write(&flag, "").unwrap();
    // The session has failed: what was good comes too late.
    assert_eq!(shown(&driven.completion(1).reply), "-1 ended");
    assert_eq!(shown(&driven.completion(3).reply), "1/0");
    assert_eq!(driven.call(session(1), end()), "-1 ended");
    assert_eq!(driven.pool.counters().lost, 0);
}

//= proves spec/exits.md#failures X3
#[test]
fn a_first_question_that_waits_is_not_asked_once_its_session_has_failed() {
    let mut driven = Driven::new(script("hello 1; serve"));
    driven.whole(1);
    assert_eq!(driven.call(session(1), init()), "1/0");
    driven.ask(session(2), init(), 2);
    driven.ask(session(2), invalid(), 3);
    assert_eq!(shown(&driven.completion(3).reply), "-1 invalid");
    assert_eq!(shown(&driven.completion(2).reply), "-1 ended");
    assert_eq!(driven.pool.queue_length(), 0);
    // The same of a session's end.
    driven.ask(session(3), init(), 4);
    for tag in 5..=21 {
        driven.ask(session(3), end(), tag);
    }
    assert_eq!(shown(&driven.completion(21).reply), "-1 overloaded");
    for tag in 4..=20 {
        assert_eq!(shown(&driven.completion(tag).reply), "-1 ended");
    }
    assert_eq!(driven.call(session(1), end()), "1/0");
    driven.whole(1);
}

//= proves spec/exits.md#recycling X3
#[test]
fn a_recycling_worker_whose_last_session_fails_unasked_ends() {
    let mut configuration = script("hello 9; serve");
    configuration.recycle_after = Some(1);
    let mut driven = Driven::new(configuration);
    assert_eq!(driven.call(session(1), init()), "1/0");
    assert_eq!(driven.in_state(State::Recycling), 1);
    assert_eq!(driven.call(session(1), invalid()), "-1 invalid");
    driven.whole(1);
    assert_eq!(driven.pool.counters().lost, 0);
}

/// Leaves its process group for that of the pool's process, and hangs.
const LEAVES: &str = "import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setpgid(0, os.getpgid(os.getppid()))
print('{\"type\":\"hello\",\"version\":1,\"families\":[\"tls\"]}', flush=True)
while True: time.sleep(1)
";

//= proves spec/exits.md#end X3
#[test]
fn a_worker_that_leaves_its_process_group_is_killed_and_waited_for() {
    let Some(python) = python() else { return };
    let mut configuration = Configuration::new("test", python);
    configuration.arguments = vec!["-c".into(), LEAVES.into()];
    configuration.grace = Duration::from_millis(200);
    let mut driven = Driven::new(configuration.clone());
    driven.whole(1);
    driven.pool.end();
    driven.until("it has ended", |driven| driven.pool.is_over());
    // Nor is a pool that is dropped held up.
    let mut driven = Driven::new(configuration);
    driven.whole(1);
    let begin = Instant::now();
    drop(driven);
    assert!(begin.elapsed() < Duration::from_secs(20));
}

//= proves spec/exits.md#order X1
#[test]
fn a_forked_copy_of_a_pool_is_nobody_s() {
    let mut driven = Driven::new(script("hello 9; serve"));
    assert_eq!(driven.call(session(1), init()), "1/0");
    // One question is with a worker, and its answer perhaps there.
    driven.ask(session(1), check(b"1"), 7);
    match fork().unwrap() {
        Fork::Child => {
            let pool = &mut driven.pool;
            let asked = pool.ask(session(2), &UserContext::default(), init(), 1);
            pool.cancel(asked);
            let turned = pool.turn(Some(Duration::ZERO));
            let mut dead = 0;
            while let Some(baton::pool::Event::Completed(done)) = pool.next_event() {
                dead += usize::from(done.tag == 1 && shown(&done.reply) == "-1 ended");
                dead += 10 * usize::from(done.tag != 1);
            }
            pool.forget(session(1));
            pool.end();
            let good = turned.is_ok() && dead == 1 && pool.workers().count() == 0;
            let _ = pool.turn(Some(Duration::ZERO));
            exit_now(u8::from(!(good && pool.is_over() && !pool.accepts())))
        }
        Fork::Parent(mut child) => assert_eq!(child.wait().unwrap().code(), Some(0)),
    }
    assert_eq!(shown(&driven.completion(7).reply), "1/0");
    assert_eq!(driven.call(session(1), end()), "1/0");
    assert_eq!(driven.pool.counters().lost, 0);
}

//= proves spec/exits.md#end X3
#[test]
fn at_the_end_every_open_question_is_minus_one_and_in_order() {
    let mut configuration = script("hello 1; while :; do question; done");
    (configuration.start, configuration.maximum) = (2, 2);
    let mut driven = Driven::new(configuration);
    driven.whole(2);
    // With a worker, behind one that is, and waiting for a worker.
    for tag in 0..12 {
        driven.ask(session(u8::try_from(tag % 4).unwrap()), init(), tag);
    }
    driven.pool.turn(Some(Duration::ZERO)).unwrap();
    driven.pool.end();
    driven.until("all have ended", |driven| driven.pool.is_over());
    let done: Vec<(u64, String)> = driven
        .done
        .iter()
        .map(|done| (done.tag, shown(&done.reply)))
        .collect();
    assert_eq!(done.len(), 12);
    assert!(done.iter().all(|(_, reply)| reply == "-1 ended"));
    for number in 0..4 {
        let of: Vec<u64> = done
            .iter()
            .map(|it| it.0)
            .filter(|tag| tag % 4 == number)
            .collect();
        assert!(of.is_sorted(), "{of:?}");
    }
    assert_eq!(driven.pool.counters().lost, 0);
}

//= proves spec/exits.md#lines X3
#[test]
fn a_hello_longer_than_its_line_is_refused() {
    let text = r#"printf '{"type":"hello","version":1,"families":["tls"],"x":"%070000d"}\n' 0
        read -r line; exit 0"#;
    let mut driven = Driven::new(script(text));
    driven.logged("refused: malformed");
}

//= proves spec/exits.md#stderr X3
#[test]
fn empty_lines_on_standard_error_do_not_fill_the_log() {
    let mut driven = Driven::new(script("hello 1; yes '' >&2"));
    let begin = Instant::now();
    driven.until("three seconds are over", |_| {
        begin.elapsed() > Duration::from_secs(3)
    });
    let lines = driven.log.borrow().len();
    assert!(lines < 40_000, "{lines}");
}

#[test]
fn times_that_cannot_be_added_are_refused() {
    let good = Configuration::new("test", "/bin/sh");
    for set in [
        |it: &mut Configuration| it.deadline = Duration::MAX,
        |it: &mut Configuration| it.deadline = Duration::from_micros(1),
        |it: &mut Configuration| it.start_deadline = Duration::MAX,
        |it: &mut Configuration| it.grace = Duration::MAX,
    ] {
        let mut configuration = good.clone();
        set(&mut configuration);
        assert!(configuration.check().is_err());
        // Nor is there a pool of what was not checked.
        assert!(Pool::new(configuration, Box::new(|_, _| ())).is_err());
    }
}

//= proves spec/exits.md#failures X3
#[test]
fn what_a_worker_has_forked_is_killed_also_when_others_waited_for_the_worker() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split('.').map(|part| part.parse().unwrap_or(0));
    if (parts.next(), parts.next()) < (Some(6), Some(9)) {
        println!("skipped: before Linux 6.9 a group cannot be told from a later one");
        return;
    }
    let text = "sleep 300 & echo child $! >&2; hello 1; question; good; exit 5";
    let mut driven = Driven::new(script(text));
    driven.logged("child ");
    let line = driven
        .log
        .borrow()
        .iter()
        .find(|line| line.contains("child "))
        .cloned()
        .unwrap();
    let child: u32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let child = baton::sys::process::open_pidfd(child).unwrap().unwrap();
    let (_, _, process, _) = driven.pool.workers().next().unwrap();
    driven.whole(1);
    driven.ask(session(1), init(), 1);
    let pid = rustix::process::Pid::from_raw(i32::try_from(process).unwrap());
    let options = rustix::process::WaitOptions::empty();
    let (_, status) = rustix::process::waitpid(pid, options).unwrap().unwrap();
    let status = std::os::unix::process::ExitStatusExt::from_raw(status.as_raw());
    assert!(driven.pool.was_waited_for(process, status));
    let flags = rustix::event::PollFlags::IN;
    let mut fds = [rustix::event::PollFd::new(&child, flags)];
    let patience = rustix::event::Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut fds, Some(&patience)).unwrap(), 1);
}

/// Is traced by a child that has left its group: when it dies, only that child is told.
const TRACED: &str = "import ctypes, os, sys, time
c = ctypes.CDLL(None, use_errno=True)
c.prctl(0x59616d61, ctypes.c_ulong(-1 & (2**64 - 1)), 0, 0, 0)
r, w = os.pipe()
worker = os.getpid()
if os.fork() == 0:
    os.setsid()
    good = c.ptrace(0x4206, worker, None, None) == 0
    print('tracer', os.getpid() if good else 'none', file=sys.stderr, flush=True)
    os.write(w, b'x')
    time.sleep(300)
os.read(r, 1)
print('{\"type\":\"hello\",\"version\":1,\"families\":[\"tls\"]}', flush=True)
sys.stdin.readline()
sys.stdin.readline()
os._exit(3)
";

//= proves spec/exits.md#failures X3
#[test]
fn a_worker_whose_end_a_debugger_keeps_is_seen_to_have_ended() {
    let Some(python) = python() else { return };
    let mut configuration = Configuration::new("test", python);
    configuration.arguments = vec!["-c".into(), TRACED.into()];
    configuration.grace = Duration::from_millis(200);
    let mut driven = Driven::new(configuration);
    driven.logged("tracer ");
    let line = driven
        .log
        .borrow()
        .iter()
        .find(|line| line.contains("tracer "))
        .cloned()
        .unwrap();
    let Ok(tracer) = line.rsplit(' ').next().unwrap().parse::<i32>() else {
        println!("skipped: no process may trace here");
        return;
    };
    let begin = Instant::now();
    assert_eq!(driven.call(session(1), init()), "-1 died");
    let mut turns = 0;
    driven.pool.end();
    while begin.elapsed() < Duration::from_secs(2) {
        driven.pool.turn(Some(Duration::from_millis(500))).unwrap();
        turns += 1;
    }
    assert!(turns < 100, "{turns}");
    let tracer = rustix::process::Pid::from_raw(tracer).unwrap();
    rustix::process::kill_process(tracer, rustix::process::Signal::KILL).unwrap();
    driven.until("it has ended", |driven| driven.pool.is_over());
}
