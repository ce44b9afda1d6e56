//! One `baton serve` after another, under live sessions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;
mod takeover;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use serving::{Serving, Talking, baton, run, signal_to, wait_for_end};
use takeover::{answers, releases, says, stop, taken_over, takes_over, wait_for_stop};

//= proves spec/takeover.md#start C4
//= proves spec/takeover.md#steps C4
//= proves spec/takeover.md#estate C4
#[test]
fn sessions_of_every_kind_outlive_the_server_that_began_them() {
    for kind in [
        &[][..],
        &["--hops", "5", "--hop-every", "4"],
        &["--exec", "cat"],
    ] {
        let mut serving = Serving::start(kind);
        let mut record = Talking::start(serving.connect(&[]));
        let mut message = Talking::start(serving.connect(&["--message"]));
        for talking in [&mut record, &mut message] {
            says(talking, "before\n");
        }
        for nth in 1..=3 {
            let process = match nth {
                1 => serving.process(),
                _ => taken_over(&serving.log, nth - 1),
            };
            signal_to(process, Signal::USR2);
            taken_over(&serving.log, nth);
            wait_for_end(process);
            for talking in [&mut record, &mut message] {
                says(talking, "after\n");
            }
            answers(&serving);
        }
        assert!(serving.has_ended());
        assert!(record.finish().success());
        assert!(message.finish().success());
        serving.log.wait_for_nth(5, "released: closed");
        stop(taken_over(&serving.log, 3));
        let log = serving.log.all();
        let released = releases(&log);
        assert!(
            released.len() == 5 && released.values().all(|count| *count == 1),
            "{log:#?}"
        );
        if kind.first() == Some(&"--exec") {
            let ended = log.iter().filter(|line| line.contains(": command "));
            assert_eq!(ended.count(), 5, "{log:#?}");
        }
    }
}

/// An operator's own command, with another configuration.
//= proves spec/takeover.md#start
//= proves spec/takeover.md#earlier
#[test]
fn a_server_that_is_asked_lets_another_one_come_after_it() {
    let serving = Serving::start::<&str>(&[]);
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "before\n");
    let (mut child, log) = takes_over(&serving, &["--exec", "tr", "a-z", "A-Z"], None);
    assert_eq!(taken_over(&serving.log, 1), child.id());
    // What had begun goes on as what it was.
    says(&mut talking, "after\n");
    let (output, _, status) = run(serving.connect(&[]), b"new\n");
    assert!(status.success() && output == "NEW\n");
    assert!(talking.finish().success());
    log.wait_for_nth(2, "released: closed");
    signal_to(child.id(), Signal::TERM);
    assert!(child.wait().unwrap().success());
    let (before, after) = (serving.log.all(), log.all());
    assert_eq!(releases(before.iter().chain(&after)).len(), 2);
}

/// What cannot begin costs nothing, and says why.
//= proves spec/takeover.md#start
//= proves spec/takeover.md#steps C4
#[test]
fn a_server_that_cannot_begin_costs_nothing() {
    let serving = Serving::start::<&str>(&[]);
    let mut talking = Talking::start(serving.connect(&[]));
    for (arguments, reason) in [
        (
            &["--cert", "/none", "--key", "/none"][..],
            "is not the server",
        ),
        (&["--listen", "127.0.0.1:1"], "--listen must be that"),
    ] {
        let mut command = baton();
        command.args(["serve", "--takeover", "--state"]);
        command
            .arg(serving.state().path().join("baton"))
            .args(arguments);
        if arguments[0] != "--listen" {
            command.arg("--listen").arg(serving.address.to_string());
        }
        let (_, errors, status) = run(command, b"");
        assert!(!status.success() && !errors.is_empty());
        serving.log.wait_for(reason);
        says(&mut talking, "still\n");
        answers(&serving);
    }
    assert!(talking.finish().success());
    serving.log.wait_for_nth(3, "released: ");
    let (status, log) = serving.stop();
    assert!(status.success());
    assert!(releases(&log).values().all(|count| *count == 1), "{log:#?}");
}

/// Where the new server is killed, before it has begun.
const STEPS_OF_THE_NEW: [&str; 4] = [
    "takeover.ready",
    "takeover.kept",
    "takeover.taking",
    "takeover.told",
];

//= proves spec/takeover.md#steps C4
#[test]
fn a_new_server_killed_at_any_step_costs_nothing() {
    let serving = Serving::start(&["--hops", "100", "--hop-every", "4"]);
    let mut talking = [0; 3].map(|_| Talking::start(serving.connect(&[])));
    for (number, step) in STEPS_OF_THE_NEW.iter().enumerate() {
        let fault = format!("{step}=kill");
        let (mut child, _log) = takes_over(&serving, &[], Some(&fault));
        serving.log.wait_for_nth(number + 1, "this one goes on");
        assert!(!child.wait().unwrap().success(), "{step}");
        for one in &mut talking {
            says(one, "still\n");
        }
        answers(&serving);
    }
    // And then one that lives.
    let (mut child, _log) = takes_over(&serving, &[], None);
    taken_over(&serving.log, 1);
    for mut one in talking {
        says(&mut one, "after\n");
        assert!(one.finish().success());
    }
    signal_to(child.id(), Signal::TERM);
    assert!(child.wait().unwrap().success());
}

//= proves spec/takeover.md#steps C4
#[test]
fn an_old_server_killed_at_any_step_has_handed_over_or_takes_all_with_it() {
    for (step, handed_over) in [
        ("takeover.pieces", false),
        ("takeover.given", false),
        ("takeover.taken", false),
        ("keeper.moved_out", true),
        ("takeover.gone", true),
    ] {
        let fault = format!("{step}=kill");
        let serving = Serving::start_with::<&str>(&[], |command| {
            command.env("BATON_FAULT", &fault);
        });
        let mut talking = Talking::start(serving.connect(&[]));
        says(&mut talking, "before\n");
        let (mut child, log) = takes_over(&serving, &[], None);
        wait_for_end(serving.process());
        if !handed_over {
            assert!(!child.wait().unwrap().success(), "{step}");
            assert!(!talking.finish().success(), "{step}");
            continue;
        }
        says(&mut talking, "after\n");
        answers(&serving);
        assert!(talking.finish().success());
        log.wait_for_nth(2, "released: closed");
        signal_to(child.id(), Signal::TERM);
        assert!(child.wait().unwrap().success());
    }
}

/// Talking sessions and new connections over one restart after another: no byte is lost, nobody is
/// refused.
//= proves spec/takeover.md#earlier C4
//= proves spec/takeover.md#messages
#[test]
fn restarts_in_a_row_refuse_nobody_and_lose_nothing() {
    let serving = Arc::new(Serving::start::<&str>(&[]));
    let going = Arc::new(AtomicBool::new(true));
    let served = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    for _ in 0..4 {
        let (serving, going, served) = (serving.clone(), going.clone(), served.clone());
        threads.push(std::thread::spawn(move || {
            while going.load(Ordering::Relaxed) {
                answers(&serving);
                served.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut talking: Vec<Talking> = (0..20)
        .map(|_| Talking::start(serving.connect(&[])))
        .collect();
    let mut process = serving.process();
    for nth in 1..=10 {
        signal_to(process, Signal::USR2);
        for (number, one) in talking.iter_mut().enumerate() {
            says(one, &format!("{nth} of {number}\n"));
        }
        process = taken_over(&serving.log, nth);
    }
    going.store(false, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    for one in talking {
        assert!(one.finish().success());
    }
    let sessions = 20 + served.load(Ordering::Relaxed);
    serving.log.wait_for_nth(sessions, "released: closed");
    stop(process);
    let log = serving.log.all();
    let released = releases(&log);
    assert_eq!(released.len(), sessions);
    for (session, count) in released {
        let of_it = log.iter().filter(|line| line.contains(&session));
        assert_eq!(count, 1, "{:#?}", of_it.collect::<Vec<_>>());
    }
}

/// Servers come and go; a command is started as by the first one.
//= proves spec/takeover.md#clean
//= proves spec/succession.md#start
#[test]
fn commands_see_nothing_of_a_takeover() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::os::unix::process::CommandExt;
    let few = Rlimit {
        current: Some(321),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let tell = ["--exec", "/bin/sh", "-c", "ulimit -Sn; env"];
    let serving = Serving::start_with(&tell, |command| {
        let limited = move || Ok(setrlimit(Resource::Nofile, few)?);
        // SAFETY: one system call between fork and exec.
        unsafe { command.pre_exec(limited) };
    });
    let told = |serving: &Serving| {
        let (output, errors, status) = run(serving.connect(&[]), b"");
        assert!(status.success(), "{errors}");
        assert!(!output.contains("BATON_SUCCESSION"), "{output}");
        let limit = output.lines().next().map(str::to_owned);
        assert_eq!(limit.as_deref(), Some("321"), "{output}");
        let names = output
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once('='));
        let mut names: Vec<String> = names.map(|(name, _)| name.to_owned()).collect();
        names.sort_unstable();
        names
    };
    let before = told(&serving);
    assert!(before.iter().any(|name| name == "BATON_SESSION_ID"));
    let mut process = serving.process();
    for nth in 1..=2 {
        signal_to(process, Signal::USR2);
        let next = taken_over(&serving.log, nth);
        wait_for_end(process);
        assert_eq!(told(&serving), before);
        process = next;
    }
    stop(process);
}

/// One that is late has not begun, whatever it thinks: the two agree who goes on.
//= proves spec/takeover.md#begun C4
//= proves spec/takeover.md#steps C4
#[test]
fn a_new_server_that_comes_too_late_is_none() {
    for old_stops in [false, true] {
        let serving = Serving::start_with(&["--hops", "100", "--hop-every", "4"], |command| {
            if old_stops {
                command.env("BATON_FAULT", "takeover.too_late=stop");
            }
        });
        let mut talking = Talking::start(serving.connect(&[]));
        says(&mut talking, "before\n");
        let (mut child, _log) = takes_over(&serving, &[], Some("takeover.told=stop"));
        if old_stops {
            wait_for_stop(serving.process());
            signal_to(child.id(), Signal::CONT);
            signal_to(serving.process(), Signal::CONT);
        }
        serving.log.wait_for("this one goes on");
        signal_to(child.id(), Signal::CONT);
        assert!(!child.wait().unwrap().success());
        says(&mut talking, "after\n");
        answers(&serving);
        assert!(talking.finish().success());
        let (status, log) = serving.stop();
        assert!(status.success());
        let released = releases(&log);
        assert!(released.values().all(|count| *count == 1), "{log:#?}");
    }
}

/// A new server that waits in vain ends, and takes nothing with it.
//= proves spec/takeover.md#steps C4
#[test]
fn an_old_server_that_is_late_goes_on_with_all_it_had() {
    let serving = Serving::start_with(&["--hops", "100", "--hop-every", "4"], |command| {
        command.env("BATON_FAULT", "takeover.taken=stop");
    });
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "before\n");
    let (mut child, _log) = takes_over(&serving, &[], None);
    wait_for_stop(serving.process());
    assert!(!child.wait().unwrap().success());
    signal_to(serving.process(), Signal::CONT);
    serving.log.wait_for("this one goes on");
    says(&mut talking, "still\n");
    answers(&serving);
    assert!(talking.finish().success());
}

/// Once it has begun, what it can do without does not end it.
//= proves spec/takeover.md#begun C4
#[test]
fn a_new_server_without_a_control_socket_serves() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("baton.toml");
    let control = folder.path().join("control/socket");
    std::fs::write(&file, format!("control = {control:?}\n")).unwrap();
    let serving = Serving::start(&["--config", file.to_str().unwrap()]);
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "before\n");
    std::fs::write(&file, format!("control = {:?}\n", file.join("socket"))).unwrap();
    signal_to(serving.process(), Signal::USR2);
    let process = taken_over(&serving.log, 1);
    wait_for_end(serving.process());
    says(&mut talking, "after\n");
    answers(&serving);
    assert!(talking.finish().success());
    stop(process);
}

/// Sessions whose zygote was killed end, and are told to have ended, although nobody waits for them.
//= proves spec/takeover.md#earlier C6
#[test]
fn sessions_of_an_earlier_zygote_that_was_killed_are_released_once() {
    let serving = Serving::start::<&str>(&[]);
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "before\n");
    let session = serving.sessions()[0];
    let zygote = serving::children(serving.process())
        .into_iter()
        .find(|process| serving::children(*process).contains(&session))
        .unwrap();
    signal_to(serving.process(), Signal::USR2);
    let process = taken_over(&serving.log, 1);
    wait_for_end(serving.process());
    signal_to(zygote, Signal::KILL);
    wait_for_end(zygote);
    says(&mut talking, "after\n");
    assert!(talking.finish().success());
    serving.log.wait_for("released: closed");
    stop(process);
    let log = serving.log.all();
    assert!(releases(&log).values().eq([&1]), "{log:#?}");
}

/// Who was told to stop meanwhile says so to who is the server then.
//= proves spec/takeover.md#signals C4
#[test]
fn a_server_told_to_stop_while_it_hands_over_stops() {
    let serving = Serving::start_with::<&str>(&[], |command| {
        command.env("BATON_FAULT", "takeover.taken=stop");
    });
    let (mut child, log) = takes_over(&serving, &[], None);
    wait_for_stop(serving.process());
    signal_to(serving.process(), Signal::TERM);
    signal_to(serving.process(), Signal::CONT);
    assert!(child.wait().unwrap().success());
    log.wait_for("stopping: ");
}

//= proves spec/takeover.md#start
#[test]
fn no_command_sees_that_its_server_came_after_another() {
    let serving = Serving::start(&["--exec", "env"]);
    signal_to(serving.process(), Signal::USR2);
    let process = taken_over(&serving.log, 1);
    let (output, errors, status) = run(serving.connect(&[]), b"");
    assert!(status.success(), "{errors}");
    let leaks = output.contains("BATON_SUCCESSION");
    assert!(output.contains("PATH=") && !leaks, "{output}");
    stop(process);
}
