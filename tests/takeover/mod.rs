//! What the tests of one `baton serve` after another share.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use crate::serving::{Lines, Serving, Talking, baton, run, signal_to, wait_for_end};

pub fn says(talking: &mut Talking, text: &str) {
    talking.say(text);
    assert_eq!(talking.hear(), text);
}

/// The number in `process N is the server from now on`.
pub fn successor(line: &str) -> u32 {
    let (_, rest) = line.split_once("process ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// Waits for the `nth` takeover, and answers the new server's process.
pub fn taken_over(log: &Lines, nth: usize) -> u32 {
    successor(&log.wait_for_nth(nth, "is the server from now on"))
}

/// `baton serve --takeover` at the same state, with `arguments`, and its log.
pub fn takes_over(serving: &Serving, arguments: &[&str], fault: Option<&str>) -> (Child, Lines) {
    let mut command = baton();
    command.args(["serve", "--takeover", "--log", "human", "--listen"]);
    command.arg(serving.address.to_string()).arg("--state");
    command.arg(serving.state().path().join("baton"));
    command.args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(fault) = fault {
        command.env("BATON_FAULT", fault);
    }
    let mut child = command.spawn().unwrap();
    let log = Lines::of(child.stderr.take().unwrap());
    (child, log)
}

pub fn answers(serving: &Serving) {
    let (output, errors, status) = run(serving.connect(&[]), b"new\n");
    assert!(status.success() && output == "new\n", "{errors}");
}

/// How often each session was released, as the lines of all servers say.
pub fn releases<'a>(lines: impl IntoIterator<Item = &'a String>) -> BTreeMap<String, usize> {
    let mut releases = BTreeMap::new();
    for line in lines.into_iter().filter(|line| line.contains("released: ")) {
        let session = line.split("session ").nth(1).unwrap()[..32].to_owned();
        *releases.entry(session).or_default() += 1;
    }
    releases
}

pub fn stop(process: u32) {
    signal_to(process, Signal::TERM);
    wait_for_end(process);
}

/// Waits until a child of this process is stopped.
pub fn wait_for_stop(process: u32) {
    let pid = Pid::from_raw(process.try_into().unwrap()).unwrap();
    let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), stopped).unwrap();
}
