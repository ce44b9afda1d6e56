//! Whatever workers do, in whatever order: every question is completed once, nothing but an exit's own
//! good answer is one, a session that has failed stays failed, and nothing is left over.
//!
//! Alone in its process, since it counts the process's descriptors and children.

#![allow(clippy::unwrap_used, clippy::panic)]

mod exiting;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use baton::exit::{Point, SessionInit};
use baton::sys::process::{Fork, exit_now, fork};
use exiting::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// What a worker is told to do, what it answers where it does, and whether its session is over then.
const DEEDS: [(&str, &str, &str); 10] = [
    ("good", "1/0", "good"),
    ("zero", "0", "say '\"return_code\":0'"),
    (
        "refuse",
        "1/-1 revoked",
        "say '\"return_code\":1,\"status\":-1,\"reason\":\"revoked\"'",
    ),
    ("fatal", "-1 answered", "say '\"return_code\":-1'"),
    ("die", "-1 died", "exit 1"),
    ("garble", "-1 garbage", "echo '{\"type\":\"answer\"'"),
    ("bare", "-1 garbage", "say '\"status\":0'"),
    (
        "stray",
        "-1 wrong-session",
        "session=ffffffffffffffffffffffffffffffff; good",
    ),
    ("guess", "-1 unasked", "number=1000000; good"),
    ("hang", "-1 hung", "exec sleep 300"),
];

fn worker() -> String {
    let mut script = String::from("hello 2; while :; do question; case $(field server_name) in\n");
    for (name, _, deed) in DEEDS {
        script += &format!("{name}) {deed} ;;\n");
    }
    // Ends of sessions.
    script + "*) good ;; esac; done"
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u8, usize),
    End(u8),
    Forget(u8),
    Cancel(prop::sample::Index),
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let deed = prop_oneof![8 => 0..4_usize, 5 => 4..9_usize, 1 => Just(9_usize)];
    let step = prop_oneof![
        10 => (0..5_u8, deed).prop_map(|(session, deed)| Step::Ask(session, deed)),
        2 => (0..5_u8).prop_map(Step::End),
        1 => (0..5_u8).prop_map(Step::Forget),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        6 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 1..25)
}

fn run(steps: &[Step]) {
    let mut configuration = script(&worker());
    (configuration.start, configuration.maximum) = (2, 2);
    configuration.deadline = Duration::from_millis(1500);
    configuration.grace = Duration::from_millis(100);
    configuration.recycle_after = Some(5);
    let mut driven = Driven::new(configuration);
    // What was asked: its number, and what may come of it.
    let mut asked: BTreeMap<u64, (u64, Option<usize>)> = BTreeMap::new();
    let mut cancelled = BTreeSet::new();
    let mut of_session: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
    let mut generation = [0_u8; 5];
    // An identifier is used once.
    let name = |number: u8, generation: u8| {
        let mut bytes = [number; 16];
        bytes[15] = generation;
        baton::exit::SessionIdentifier::from(bytes)
    };
    for (tag, step) in (0..).zip(steps) {
        match step {
            Step::Ask(number, deed) => {
                let question = SessionInit {
                    server_name: Some(DEEDS[*deed].0.to_owned()),
                    ..SessionInit::default()
                };
                let session = name(*number, generation[usize::from(*number)]);
                let call = driven.ask(session, question.into(), tag);
                asked.insert(tag, (call, Some(*deed)));
                of_session.entry(*number).or_default().push(tag);
            }
            Step::End(number) => {
                let generation = &mut generation[usize::from(*number)];
                let call = driven.ask(name(*number, *generation), end(), tag);
                asked.insert(tag, (call, None));
                *generation += 1;
            }
            Step::Forget(number) => {
                let generation = &mut generation[usize::from(*number)];
                let gone = name(*number, *generation);
                driven.pool.forget(gone);
                *generation += 1;
                for tag in of_session.entry(*number).or_default().drain(..) {
                    cancelled.insert(tag);
                }
            }
            Step::Cancel(which) => {
                let tags: Vec<u64> = asked.keys().copied().collect();
                if !tags.is_empty() {
                    let tag = *which.get(&tags);
                    driven.pool.cancel(asked[&tag].0);
                    cancelled.insert(tag);
                }
            }
            Step::Wait => driven.pool.turn(Some(Duration::from_millis(20))).unwrap(),
        }
    }
    driven.until("all is completed", |driven| {
        let done: BTreeSet<u64> = driven.done.iter().map(|done| done.tag).collect();
        asked
            .keys()
            .all(|tag| done.contains(tag) || cancelled.contains(tag))
    });
    let mut failed = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for done in &driven.done {
        assert!(seen.insert(done.tag), "{} was completed twice", done.tag);
        let (_, deed) = asked[&done.tag];
        let reply = shown(&done.reply);
        // An answer is the one that this question got, or none.
        let own = deed.map_or("1/0", |deed| DEEDS[deed].1);
        assert!(
            reply == own || reply.starts_with("-1 "),
            "{reply}, not {own}"
        );
        if failed.contains(&done.session) {
            assert_eq!(reply, "-1 ended");
        }
        if reply.starts_with("-1 ") && reply != "-1 answered" {
            failed.insert(done.session);
        }
        assert!(deed.is_some() || done.point == Point::SessionEnd);
    }
    let counters = driven.pool.counters();
    assert!(counters.lost <= counters.started);
    driven.pool.end();
    driven.until("all have ended", |driven| driven.pool.is_over());
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn has_children() -> bool {
    let options = rustix::process::WaitOptions::NOHANG;
    !matches!(
        rustix::process::wait(options),
        Err(rustix::io::Errno::CHILD)
    )
}

//= proves spec/exits.md#failures X3 X4
//= proves spec/exits.md#order X1 X2
#[test]
fn every_question_is_completed_once_and_nothing_but_a_good_answer_is_one() {
    // A child that drops its copy of a pool ends nobody's workers.
    let mut driven = Driven::new(script("hello 9; serve"));
    assert_eq!(driven.call(session(1), init()), "1/0");
    match fork().unwrap() {
        Fork::Child => {
            drop(driven);
            exit_now(0)
        }
        Fork::Parent(mut child) => assert!(child.wait().unwrap().success()),
    }
    assert_eq!(driven.call(session(1), init()), "1/0");
    drop(driven);
    assert!(!has_children());

    // One that waits for all children of its process tells the pool about a worker's end.
    let mut driven = Driven::new(script("hello 9; question; good; exit 5"));
    assert_eq!(driven.call(session(1), init()), "1/0");
    let waited = rustix::process::wait(rustix::process::WaitOptions::empty());
    let (process, status) = waited.unwrap().unwrap();
    let process = process.as_raw_pid().unsigned_abs();
    let status = std::process::ExitStatus::from_raw(status.as_raw());
    assert!(driven.pool.was_waited_for(process, status));
    assert!(!driven.pool.was_waited_for(process, status));
    driven.logged("it has ended: exit status: 5; 1 sessions have failed");
    assert_eq!(driven.call(session(1), init()), "-1 ended");
    assert_eq!(driven.call(session(2), init()), "1/0");
    drop(driven);
    assert!(!has_children());

    let before = descriptors();
    let config = Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            run(&steps);
            Ok(())
        })
        .unwrap();
    assert_eq!(descriptors(), before);
    assert!(!has_children());
}
