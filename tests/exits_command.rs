//! `baton exit call` and `baton exit check`.

#![allow(clippy::unwrap_used, clippy::panic)]

mod exiting;

use std::ffi::OsString;
use std::process::Command;

use exiting::{PRELUDE, build_example, example, python, source};

/// Standard output, standard error and exit code of `baton exit` with these arguments.
fn exit(arguments: &[OsString]) -> (String, String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
    let output = command.arg("exit").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

fn words(words: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<OsString> {
    words.iter().map(|word| word.as_ref().to_owned()).collect()
}

fn call(point: &str, input: &str, program: &[OsString]) -> (String, String, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input.json");
    std::fs::write(&file, input).unwrap();
    let mut arguments = words(&[&"call", &point, &file, &"--"]);
    arguments.extend_from_slice(program);
    exit(&arguments)
}

const INIT: &str = r#"{"role":"acceptor","listener":"","profile":"web","remote":"192.0.2.1:5","local":"",
    "alpn":["aDI="], "note": "passed over"}"#;

#[test]
fn one_question_is_asked_and_its_answer_printed() {
    let shell = words(&[&"sh", &source("exit_worker.sh")]);
    let (out, err, code) = call("session-init", INIT, &shell);
    assert_eq!(code, Some(0), "{err}");
    let session = "00000000000000000000000000000001";
    let answer = format!(r#"{{"type":"answer","number":1,"session":"{session}","return_code":0}}"#);
    assert_eq!(out, format!("{answer}\n"));
    assert!(err.contains(&format!("session {session} begins")), "{err}");

    let says = |answer: &str| {
        words(&[
            &"/bin/sh",
            &"-c",
            &format!("{PRELUDE}hello 1; question; {answer}; cat >/dev/null"),
        ])
    };
    let (out, _, code) = call(
        "session-init",
        INIT,
        &says(r#"say '"return_code":-1,"text":"tired"'"#),
    );
    assert_eq!(code, Some(0));
    assert!(
        out.ends_with("\"return_code\":-1,\"text\":\"tired\"}\n"),
        "{out}"
    );

    let (out, err, code) = call("session-init", INIT, &says("exit 4"));
    assert_eq!((out.as_str(), code), ("", Some(1)));
    assert!(err.contains("no answer: the worker has ended"), "{err}");
    let (_, err, code) = call("session-init", r#"{"role":"acceptor"}"#, &shell);
    assert!(
        err.contains("the input is not this point's: the field listener"),
        "{err}"
    );
    assert_eq!(code, Some(1));
    let (_, err, code) = call("session-initiation", INIT, &shell);
    assert!(
        err.contains("the points are session-init, build-ca-dn-list"),
        "{err}"
    );
    assert_eq!(code, Some(2));
    let (_, err, code) = call("session-init", INIT, &words(&[&"no-such-program"]));
    assert!(err.contains("no-such-program: no such program"), "{err}");
    assert_eq!(code, Some(1));
}

fn check(deadline: &str, program: &[OsString]) -> (String, Option<i32>) {
    let mut arguments = words(&[&"check", &"--deadline", &deadline]);
    arguments.extend_from_slice(program);
    let (out, _, code) = exit(&arguments);
    (out, code)
}

#[test]
fn the_examples_are_workers() {
    build_example("exit_worker");
    let mut programs = vec![
        words(&[&source("exit_worker.sh")]),
        words(&[&example("exit_worker")]),
    ];
    programs.extend(python().map(|python| words(&[&python, &source("exit_worker.py")])));
    for program in programs {
        let (out, code) = check("30", &program);
        assert!(out.ends_with("8 checks, 0 faults\n"), "{out}");
        assert_eq!(code, Some(0));
    }
}

#[test]
fn each_fault_is_named_by_its_rule() {
    const REFUSED: &str = "hello 1; case $line in *refused*) exit;; esac;";
    let asked = "while :; do question; [ \"$(field type)\" = question ] || continue";
    for (script, anchors) in [
        // Says nothing, or what is no hello.
        (
            "exit 0".to_owned(),
            "hello hello hello hello hello hello hello hello",
        ),
        (
            "echo '{}'; exit".to_owned(),
            "hello hello hello hello hello hello hello hello",
        ),
        // Reads nothing behind the answer to its hello.
        (
            "hello 1; trap '' TERM; while :; do sleep 0.05; done".to_owned(),
            "end order order order order lines order refused",
        ),
        // Accepts whatever it is asked, also signatures that are not there, cancels, and later lines.
        (
            format!("{REFUSED} serve"),
            "answer json bad-question answer order",
        ),
        // For another session, and twice.
        (
            format!("{REFUSED} {asked}; session=01; say '\"return_code\":0'; done"),
            "answer answer answer answer answer answer",
        ),
        (
            format!("{REFUSED} {asked}; say '\"return_code\":0'; say '\"return_code\":0'; done"),
            "order order order order order order",
        ),
        // Ends, but not well.
        (
            format!("{REFUSED} while read -r line; do :; done; exit 3"),
            "end order order order order order order",
        ),
    ] {
        let program = words(&[&"/bin/sh", &"-c", &format!("{PRELUDE}{script}")]);
        let (out, code) = check("1", &program);
        let faults = out.lines().filter(|line| line.starts_with("fault"));
        let named: Vec<&str> = faults
            .map(|line| {
                line.split_once("(spec/exits.md#")
                    .unwrap()
                    .1
                    .trim_end_matches(')')
            })
            .collect();
        assert_eq!(named.join(" "), anchors, "{script}\n{out}");
        assert_eq!(code, Some(1));
        let page = std::fs::read_to_string("spec/exits.md").unwrap();
        for anchor in named {
            assert!(page.contains(&format!("<a id=\"{anchor}\">")), "{anchor}");
        }
    }
}
