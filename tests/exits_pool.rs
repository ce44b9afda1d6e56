//! Pools of good workers: who is asked what, how many there are, and when there are others.

#![allow(clippy::unwrap_used, clippy::panic)]

mod exiting;

use std::time::Duration;

use baton::exit::{Failure, Family, UserContext};
use baton::pool::{Counters, State};
use exiting::*;

//= proves spec/exits.md#start X2
//= proves spec/exits.md#states X2
#[test]
fn as_many_workers_as_wanted_start_and_more_when_sessions_wait() {
    let mut configuration = script("hello 1; serve");
    (configuration.start, configuration.maximum) = (2, 3);
    let mut driven = Driven::new(configuration);
    assert_eq!(driven.in_state(State::Starting), 2);
    driven.whole(2);
    for number in 1..=2 {
        assert_eq!(driven.call(session(number), init()), "1/0");
    }
    assert_eq!(driven.in_state(State::Held), 2);
    // A third is started for the third session; there is no fourth for the fourth.
    assert_eq!(driven.call(session(3), init()), "1/0");
    driven.ask(session(4), init(), 4);
    assert_eq!(driven.pool.queue_length(), 1);
    assert_eq!(driven.pool.workers().count(), 3);
    // One of the three ends: there is room.
    assert_eq!(driven.call(session(1), end()), "1/0");
    assert_eq!(shown(&driven.completion(4).reply), "1/0");
    assert_eq!(driven.in_state(State::Held), 3);
}

//= proves spec/exits.md#order X1 X2
#[test]
fn all_questions_of_a_session_go_to_one_worker_one_at_a_time() {
    // Each worker says who it is in the user context; the pool's caller passes it on.
    let who = r#"hello 100; me=$(printf %04d $(($$ % 10000)) | head -c 4)
        while :; do question; say "\"return_code\":1,\"status\":0,\"user_context\":\"$me\""; done"#;
    let mut configuration = script(who);
    (configuration.start, configuration.maximum) = (3, 3);
    let mut driven = Driven::new(configuration);
    driven.whole(3);
    let rounds = 5;
    for round in 0..rounds {
        for number in 0..9 {
            let tag = u64::from(number) * rounds + round;
            driven.ask(session(number), check(&[number]), tag);
        }
    }
    driven.until("all are answered", |driven| driven.done.len() == 45);
    for number in 0..9 {
        let mut of_session: Vec<_> = driven
            .done
            .iter()
            .filter(|done| done.session == session(number))
            .collect();
        assert!(of_session.windows(2).all(|two| two[0].tag < two[1].tag));
        let context = |reply: &baton::exit::Reply| match &reply.answer {
            baton::exit::Answer::Done { user_context, .. } => {
                user_context.as_ref().unwrap().as_bytes().to_vec()
            }
            other => panic!("{other:?}"),
        };
        let first = context(&of_session.pop().unwrap().reply);
        assert!(of_session.iter().all(|done| context(&done.reply) == first));
    }
    let held: Vec<usize> = driven.pool.workers().map(|(.., held)| held).collect();
    assert_eq!(held, [3, 3, 3]);
}

//= proves spec/exits.md#question X8
//= proves spec/exits.md#accepted
//= proves spec/exits.md#transport
#[test]
fn a_worker_is_told_what_the_page_says_and_has_nothing_else() {
    let show = r#"printf '%s %s|' "$PATH" "$BATON_EXITS" >&2; env | wc -l >&2; pwd >&2
        ls -l /proc/self/fd | grep -c -e '->' >&2; ulimit -c >&2
        grep NoNewPrivs /proc/self/status >&2; grep SigBlk /proc/self/status >&2
        hello 1; echo "$line" >&2; while :; do question; echo "$line" >&2; good; done"#;
    let mut configuration = script(show);
    configuration.holds = 7;
    configuration.environment = vec![("COLOUR".into(), "green".into())];
    // Not closed by exec: it is in every program this one starts, but not in a worker.
    let (leaked, _other) = rustix::pipe::pipe().unwrap();
    let mut driven = Driven::new(configuration);
    let context = UserContext::new(b"left by an exit".to_vec()).unwrap();
    driven
        .pool
        .ask(session(0xab), &context, check(b"certificate"), 1);
    driven.completion(1);
    let ab = "ab".repeat(16);
    for line in [
        r#"{"type":"accepted","version":1,"holds":1,"deadline_ms":30000,"services":[]}"#.to_owned(),
        format!(
            "{{\"type\":\"question\",\"number\":1,\"session\":\"{ab}\",\"family\":\"tls\",\
             \"point\":\"check-cert-list\",\"user_context\":\"bGVmdCBieSBhbiBleGl0\",\"input\":\
             {{\"role\":\"acceptor\",\"time\":0,\"cert_list\":[\"Y2VydGlmaWNhdGU=\"]}}}}"
        ),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin 1|".to_owned(),
        "NoNewPrivs:\t1".replace('\t', "\\u{9}"),
        "SigBlk:\\u{9}0000000000000000".to_owned(),
        ": /".to_owned(),
    ] {
        driven.logged(&line);
    }
    // 0, 1, 2, and the folder that ls reads.
    driven.logged(": 4");
    driven.logged(": 0");
    drop(leaked);
}

//= proves spec/exits.md#waiting X3
#[test]
fn at_the_high_water_mark_the_pool_says_stop_until_the_low_water_mark() {
    let mut configuration = script("hello 1; serve");
    (configuration.high_water, configuration.low_water) = (3, 1);
    let mut driven = Driven::new(configuration);
    driven.whole(1);
    assert_eq!(driven.call(session(0), init()), "1/0");
    for number in 1..=13 {
        driven.ask(session(number), init(), number.into());
    }
    assert!(!driven.pool.accepts());
    // Four times the mark wait; the thirteenth does not.
    assert_eq!(shown(&driven.completion(13).reply), "-1 overloaded");
    assert_eq!(driven.call(session(13), end()), "-1 ended");
    for number in 0..=11 {
        assert!(!driven.pool.accepts() || number > 10, "{number}");
        assert_eq!(driven.call(session(number), end()), "1/0");
        assert_eq!(
            shown(&driven.completion(u64::from(number) + 1).reply),
            "1/0"
        );
    }
    assert_eq!(driven.marks, ["stop", "resume"]);
    assert!(driven.pool.accepts());
}

//= proves spec/exits.md#waiting X3
//= proves spec/exits.md#failures X3
#[test]
fn who_waits_too_long_for_a_worker_is_given_up_and_nobody_else() {
    let mut configuration = script("hello 1; serve");
    configuration.deadline = Duration::from_millis(300);
    let mut driven = Driven::new(configuration);
    driven.whole(1);
    assert_eq!(driven.call(session(1), init()), "1/0");
    assert_eq!(driven.call(session(2), init()), "-1 waited");
    assert_eq!(driven.call(session(1), check(b"1")), "1/0");
    assert_eq!(driven.pool.counters().failures(Failure::Waited), 1);
}

//= proves spec/exits.md#recycling X3
#[test]
fn a_worker_is_replaced_after_its_share_of_answers_and_its_sessions_go_on() {
    let mut configuration = script(r#"hello 10; while :; do question; good; echo "$$" >&2; done"#);
    configuration.recycle_after = Some(3);
    let mut driven = Driven::new(configuration);
    driven.whole(1);
    for number in [1, 2, 1] {
        assert_eq!(driven.call(session(number), init()), "1/0");
    }
    assert_eq!(driven.in_state(State::Recycling), 1);
    // The first one's sessions are still its own; a new session is another's.
    assert_eq!(driven.call(session(3), init()), "1/0");
    assert_eq!(driven.pool.workers().count(), 2);
    for number in [1, 2] {
        assert_eq!(driven.call(session(number), check(b"1")), "1/0");
        assert_eq!(driven.call(session(number), end()), "1/0");
    }
    driven.logged("recycled after 7 answers");
    driven.until("it has ended", |driven| driven.pool.workers().count() == 1);
    let counters: &Counters = driven.pool.counters();
    assert_eq!(
        (counters.recycled, counters.lost, counters.started),
        (1, 0, 2)
    );
}

//= proves spec/exits.md#families X2
//= proves spec/exits.md#hello X2
#[test]
fn families_and_sessions_are_what_worker_and_configuration_both_have() {
    let hello = r#"echo '{"families":["other","tls"],"version":1,"type":"hello","new":[{}]}'
        read -r line; echo "$line" >&2; serve"#;
    let mut driven = Driven::new(script(hello));
    // Without `holds` it is one session.
    driven.logged(r#""holds":1,"#);
    assert_eq!(driven.call(session(1), init()), "1/0");
    driven.ask(session(2), init(), 2);
    assert_eq!(driven.pool.queue_length(), 1);
    driven.logged("answers tls; holds 1");
    assert_eq!(Family::named("other"), None);
}

//= proves spec/exits.md#cancel
#[test]
fn a_cancelled_question_is_not_completed_and_its_session_goes_on() {
    // Answers to a session-init only once something else has come.
    let late = r#"hello 2; question; first=$number; IFS= read -r line; echo "$line" >&2
        number=$first; good; serve"#;
    let mut driven = Driven::new(script(late));
    let asked = driven.ask(session(1), init(), 1);
    driven.until("it is asked", |driven| driven.in_state(State::Busy) == 1);
    driven.pool.cancel(asked);
    let ones = "01".repeat(16);
    driven.logged(&format!(
        r#"{{"type":"cancel","number":1,"session":"{ones}"}}"#
    ));
    assert_eq!(driven.call(session(1), check(b"1")), "1/0");
    assert!(driven.done.is_empty());
    // One that waits is as if it had not been asked.
    driven.call(session(2), init());
    let waiting = driven.ask(session(3), init(), 3);
    driven.pool.cancel(waiting);
    assert_eq!(driven.pool.queue_length(), 0);
    assert_eq!(driven.pool.counters().cancelled, 2);
    // And a session nobody knows any more makes room.
    driven.pool.forget(session(2));
    assert_eq!(driven.call(session(4), init()), "1/0");
}

//= proves spec/exits.md#end
#[test]
fn workers_end_when_their_input_ends_and_are_made_to_otherwise() {
    for (text, marks) in [
        ("hello 1; question; good; question", "of its own"),
        (
            "hello 1; trap 'echo term >&2; exit 3' TERM; question; good; while :; do sleep 0.05; done",
            "term",
        ),
        (
            "trap '' TERM; hello 1; question; good; while :; do sleep 0.05; done",
            "kill",
        ),
    ] {
        let mut driven = Driven::new(script(text));
        assert_eq!(driven.call(session(1), init()), "1/0");
        driven.pool.end();
        assert_eq!(driven.call(session(2), init()), "-1 ended");
        driven.until("all have ended", |driven| driven.pool.is_over());
        assert_eq!(driven.count(": term"), usize::from(marks == "term"));
        assert_eq!(driven.pool.counters().lost, 0);
    }
}

#[test]
fn a_pool_counts_what_it_does() {
    let answers = r#"hello 9; question; good; question; say '"return_code":0'
        question; say '"return_code":1,"status":-1,"reason":"revoked","text":"so it is"'
        question; say '"return_code":-1'; serve"#;
    let mut driven = Driven::new(script(answers));
    let shown: Vec<String> = (1..=4).map(|n| driven.call(session(n), init())).collect();
    assert_eq!(shown, ["1/0", "0", "1/-1 revoked", "-1 answered"]);
    let counters = driven.pool.counters();
    assert_eq!(counters.asked, 4);
    assert_eq!(
        (counters.accepted, counters.nothing, counters.refused),
        (1, 1, 1)
    );
    assert_eq!(counters.failures(Failure::Answered), 1);
    assert_eq!(counters.latencies.iter().sum::<u64>(), 4);
    let threes = "03".repeat(16);
    let line = format!("session {threes}: exit session-init of test 1 refuses: revoked: so it is");
    assert_eq!(driven.count(&line), 1);
    // X8: the session that was answered -1 is told its end, by the same worker.
    assert_eq!(driven.call(session(4), end()), "1/0");
}
