use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use super::POINTS;

/// The names that the code gives to `fault::point` and `fault::fail`.
fn named(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            named(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            // Put together here, so that this file holds no call.
            for call in ["point", "fail"].map(|function| format!("fault::{function}(")) {
                for rest in text.split(&call).skip(1) {
                    let name = rest
                        .trim_start()
                        .strip_prefix('"')
                        .and_then(|n| n.split_once('"'));
                    names.extend(name.map(|(name, _)| name.to_owned()));
                }
            }
        }
    }
}

#[test]
fn every_point_is_listed_and_every_listed_point_is_there() {
    let mut names = BTreeSet::new();
    named(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut names,
    );
    let listed: BTreeSet<String> = POINTS.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(listed.len(), POINTS.len(), "listed twice");
    assert_eq!(listed, names);
}

#[cfg(feature = "fault")]
mod with_the_feature {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::super::super::process::{Fork, Signal, exit_now, fork};
    use super::super::*;
    use super::*;

    #[test]
    fn an_armed_point_acts_once_at_its_passing() {
        arm("example", 3, Action::Fail);
        assert!(!fail("other") && !fail("example") && !fail("example"));
        assert!(fail("example"));
        assert!(!fail("example") && !disarm());
        arm("example", 1, Action::Fail);
        assert!(
            !std::thread::spawn(|| fail("example")).join().unwrap(),
            "another thread's"
        );
        assert!(disarm() && !fail("example"));
    }

    #[test]
    fn a_point_can_call() {
        let called = Rc::new(Cell::new(0));
        let counter = Rc::clone(&called);
        arm(
            "example",
            2,
            Action::Call(Box::new(move || counter.set(counter.get() + 1))),
        );
        for _ in 0..4 {
            point("example");
        }
        assert_eq!(called.get(), 1);
    }

    #[test]
    fn a_forked_child_is_killed_and_stopped_at_its_point() {
        arm("example", 2, Action::Kill);
        let Fork::Parent(mut child) = fork().unwrap() else {
            point("example");
            point("example");
            exit_now(0)
        };
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        arm("example", 1, Action::Stop);
        let Fork::Parent(mut child) = fork().unwrap() else {
            point("example");
            exit_now(7)
        };
        assert!(child.wait_stopped().unwrap());
        child.kill(Signal::CONT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(7));
        assert!(disarm());
    }

    #[test]
    fn the_environment_arms_a_point() {
        const NAME: &str = "sys::fault::tests::with_the_feature::the_environment_arms_a_point";
        if let Ok(asked) = std::env::var("BATON_FAULT") {
            // The second process: what happens is its parent's to judge.
            let answers = [
                fail("example"),
                fail("example"),
                fail("other"),
                fail("example"),
            ];
            assert_eq!(answers, [false, asked == "example=fail@2", false, false]);
            return;
        }
        let run = |asked: &str| {
            let mut again = Command::new(std::env::current_exe().unwrap());
            again
                .args(["--exact", NAME])
                .env("BATON_FAULT", asked)
                .output()
                .unwrap()
                .status
        };
        assert_eq!(run("example=kill@3").signal(), Some(libc::SIGKILL));
        for asked in [
            "example=fail@2",
            "another=kill",
            "",
            "example",
            "example=kill@0",
            "=@",
        ] {
            assert!(run(asked).success(), "{asked}");
        }
    }
}
