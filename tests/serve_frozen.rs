//! What begins while one server gives everything to the next: nobody answers then.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;
mod takeover;

use rustix::process::Signal;
use serving::{Serving, Talking, children, run, signal_to, wait_for_end};
use takeover::{answers, releases, says, stop, taken_over, takes_over, wait_for_stop};

/// Where the old server is while a session wants to move.
const STEPS_OF_THE_OLD: [&str; 5] = [
    "takeover.pieces",
    "takeover.given",
    "takeover.taken",
    "keeper.moved_out",
    "takeover.gone",
];

/// And the new one.
const STEPS_OF_THE_NEW: [&str; 4] = [
    "takeover.ready",
    "takeover.kept",
    "takeover.taking",
    "takeover.told",
];

/// Each of them moves once it has been quiet for a moment, or has echoed enough: when the steps begin,
/// in the middle of them, and behind them.
//= proves spec/takeover.md#steps C4
//= proves spec/processes.md#moving
#[test]
fn sessions_that_move_in_the_middle_of_a_takeover_arrive() {
    let old = STEPS_OF_THE_OLD.iter().map(|step| (Some(*step), None));
    let new = STEPS_OF_THE_NEW.iter().map(|step| (None, Some(*step)));
    for (step, step_of_new) in old.chain(new) {
        let serving = Serving::start_with(&["--hops", "3", "--hop-every", "8"], |command| {
            if let Some(step) = step {
                command.env("BATON_FAULT", format!("{step}=stop"));
            }
        });
        let mut talking = [0; 6].map(|_| Talking::start(serving.connect(&[])));
        for one in &mut talking {
            says(one, "before\n");
        }
        let fault = step_of_new.map(|step| format!("{step}=stop"));
        let (mut child, log) = takes_over(&serving, &[], fault.as_deref());
        let stopped = step.map_or(child.id(), |_| serving.process());
        wait_for_stop(stopped);
        for one in &mut talking {
            // Whoever moves already echoes it later.
            one.say("move on\n");
        }
        signal_to(stopped, Signal::CONT);
        taken_over(&serving.log, 1);
        wait_for_end(serving.process());
        for mut one in talking {
            assert_eq!(one.hear(), "move on\n", "{step:?} {step_of_new:?}");
            says(&mut one, "and on\n");
            assert!(one.finish().success());
        }
        log.wait_for_nth(6, "released: closed");
        signal_to(child.id(), Signal::TERM);
        assert!(child.wait().unwrap().success());
        let (before, after) = (serving.log.all(), log.all());
        let all = || before.iter().chain(&after);
        let released = releases(all());
        assert!(
            released.len() == 6 && released.values().all(|count| *count == 1),
            "{after:#?}"
        );
        let moved = all().filter(|line| line.contains(" 4 hops; released"));
        assert_eq!(moved.count(), 6, "{after:#?}");
    }
}

/// The same, and the new server dies: the old one answers.
//= proves spec/takeover.md#steps C4
#[test]
fn sessions_that_move_while_a_new_server_dies_arrive() {
    for step in STEPS_OF_THE_NEW {
        let serving = Serving::start(&["--hops", "3", "--hop-every", "8"]);
        let mut talking = [0; 6].map(|_| Talking::start(serving.connect(&[])));
        for one in &mut talking {
            says(one, "before\n");
        }
        let (mut child, _log) = takes_over(&serving, &[], Some(&format!("{step}=stop")));
        wait_for_stop(child.id());
        for one in &mut talking {
            one.say("move on\n");
        }
        signal_to(child.id(), Signal::KILL);
        child.wait().unwrap();
        serving.log.wait_for("this one goes on");
        for mut one in talking {
            assert_eq!(one.hear(), "move on\n", "{step}");
            assert!(one.finish().success());
        }
        answers(&serving);
        let (status, log) = serving.stop();
        assert!(status.success());
        assert!(releases(&log).values().all(|count| *count == 1), "{log:#?}");
    }
}

/// Users of a server's processes and of its sessions.
fn users(serving: &Serving, server: u32) -> (Vec<u32>, String) {
    let (output, errors, status) = run(serving.connect(&[]), b"");
    assert!(status.success(), "{errors}");
    let status_of = |process: u32| {
        let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = text
            .lines()
            .find(|line| line.starts_with("Uid:"))?
            .to_owned();
        line.split_whitespace().nth(2)?.parse().ok()
    };
    let children = children(server).into_iter();
    let mut all: Vec<u32> = children.filter_map(status_of).collect();
    all.sort_unstable();
    all.dedup();
    (all, output)
}

/// As root each process of the new server runs as a user of its own, as those of the old one did.
//= proves spec/processes.md#users
//= proves spec/takeover.md#start
#[test]
fn a_new_servers_processes_are_the_users_they_are_to_be() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let serving = Serving::start(&["--exec", "id", "-u"]);
    let before = users(&serving, serving.process());
    assert!(before.0.len() == 2 && !before.0.contains(&0), "{before:?}");
    assert_ne!(before.1, "0\n");
    let mut process = serving.process();
    for nth in 1..=2 {
        signal_to(process, Signal::USR2);
        let next = taken_over(&serving.log, nth);
        wait_for_end(process);
        assert_eq!(users(&serving, next), before);
        process = next;
    }
    stop(process);
}
