//! The workers of `examples/`, in three languages: each is written from `spec/exits.md`, and each
//! answers what the page says.

#![allow(clippy::unwrap_used, clippy::panic)]

mod exiting;

use baton::exit::{Answer, Output, UserContext, Verdict};
use baton::pool::Configuration;
use exiting::*;

fn digest(bytes: &[u8]) -> String {
    let digest = baton::crypto::sha256(&[bytes]);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two sessions at once, one of a peer that is known and one of a stranger.
fn let_in_and_refuse(mut configuration: Configuration) -> Driven {
    let known = digest(b"certificate");
    configuration.arguments.push(known.clone().into());
    let mut driven = Driven::new(configuration);
    let (peer, stranger) = (session(1), session(2));
    let init = driven.call(peer, init());
    assert!(["0", "1/0"].contains(&&*init), "{init}");
    assert_eq!(driven.call(stranger, exiting::init()), init);
    let context = UserContext::new(b"step".to_vec()).unwrap();
    driven.pool.ask(peer, &context, check(b"certificate"), 1);
    assert_eq!(
        driven.call(stranger, check(b"another")),
        "1/-1 access-denied"
    );
    match driven.completion(1).reply.answer {
        Answer::Done {
            verdict: Verdict::Accepted(Output::CheckCertList(output)),
            ..
        } => assert_eq!(output.peer_name.replaced(), Some(&known)),
        other => panic!("{other:?}"),
    }
    driven
}

fn ends_well(mut driven: Driven) {
    for number in 1..=2 {
        assert_eq!(driven.call(session(number), end()), "0");
    }
    driven.whole(1);
    driven.pool.end();
    driven.until("the worker has ended", |driven| driven.pool.is_over());
    assert_eq!(driven.pool.counters().lost, 0);
}

//= proves spec/exits.md#answer X4 X5
#[test]
fn a_worker_in_rust_lets_in_whom_it_knows() {
    build_example("exit_worker");
    let driven = let_in_and_refuse(Configuration::new("rust", example("exit_worker")));
    let stranger = "02".repeat(16);
    let another = digest(b"another");
    let line = format!(
        "session {stranger}: exit check-cert-list of rust 1 refuses: access-denied: {another} is not in the list"
    );
    assert_eq!(driven.count(&line), 1);
    ends_well(driven);
}

//= proves spec/exits.md#answer X4 X5
#[test]
fn a_worker_in_plain_python_lets_in_whom_it_knows() {
    let Some(python) = python() else { return };
    let mut configuration = Configuration::new("python", python);
    configuration.arguments = vec![source("exit_worker.py").into()];
    let mut driven = let_in_and_refuse(configuration);
    // A question it cannot use is answered -1, and the worker goes on.
    driven
        .pool
        .ask(session(3), &UserContext::default(), init(), 3);
    assert_eq!(shown(&driven.completion(3).reply), "1/0");
    driven.pool.forget(session(3));
    ends_well(driven);
}

//= proves spec/exits.md#question
//= proves spec/exits.md#end
#[test]
fn a_worker_in_posix_shell_leaves_everything_to_the_server() {
    let mut configuration = Configuration::new("shell", "/bin/sh");
    configuration.arguments = vec![source("exit_worker.sh").into()];
    let mut driven = Driven::new(configuration);
    for number in 1..=3 {
        assert_eq!(driven.call(session(number), init()), "0");
        assert_eq!(driven.call(session(number), check(&[b'x'; 60_000])), "0");
    }
    driven.logged(&format!("session {} begins", "03".repeat(16)));
    assert_eq!(driven.call(session(3), end()), "0");
    driven.pool.forget(session(1));
    driven.pool.forget(session(2));
    driven.logged(&format!("session {} ends", "03".repeat(16)));
    driven.whole(1);
    driven.pool.end();
    driven.until("the worker has ended", |driven| driven.pool.is_over());
    assert_eq!(driven.pool.counters().lost, 0);
}
