//! Workers that die, hang, lie, and flood. Each time: the call is -1, a line of the log says why, its
//! session gets no other answer, the sessions of other workers do not notice, and the pool is whole
//! again.

#![allow(clippy::unwrap_used, clippy::panic)]

mod exiting;

use std::time::{Duration, Instant};

use baton::exit::{Failure, UserContext};
use baton::pool::{Configuration, State};
use exiting::*;

/// Good workers of one session each, two of them, that do `bad` when asked to check certificates.
fn traitors(bad: &str) -> Configuration {
    let text = format!(
        "hello 1\nwhile :; do question; case $point in check-cert-list)\n{bad}\n;; *) good;; esac; done"
    );
    let mut configuration = script(&text);
    (configuration.start, configuration.maximum) = (2, 3);
    configuration
}

/// Has one of two workers do what `bad` says.
fn attack(configuration: Configuration, expected: &str, line: &str) -> Driven {
    let mut driven = Driven::new(configuration);
    driven.whole(2);
    let (victim, bystander) = (session(1), session(2));
    assert_eq!(driven.call(victim, init()), "1/0");
    assert_eq!(driven.call(bystander, init()), "1/0");
    assert_eq!(driven.call(victim, check(b"1")), expected, "{line}");
    // Why, once, with the session and with the worker.
    let ones = "01".repeat(16);
    let call = format!("session {ones}: exit check-cert-list of test");
    assert_eq!(driven.count(&call), 1, "{:?}", driven.log);
    assert_eq!(driven.count(line), 1, "{line}: {:?}", driven.log);
    // It is over for this session, whatever is asked.
    assert_eq!(driven.call(victim, init()), "-1 ended");
    assert_eq!(driven.call(bystander, init()), "1/0");
    assert_eq!(driven.call(victim, end()), "-1 ended");
    assert_eq!(driven.call(bystander, end()), "1/0");
    // And none of it for the next.
    driven.whole(2);
    assert_eq!(driven.call(victim, init()), "1/0");
    assert_eq!(
        driven.pool.counters().lost,
        1,
        "{bad}",
        bad = driven.log.borrow().join("\n")
    );
    driven
}

//= proves spec/exits.md#failures X3
//= proves spec/exits.md#garbage X3
//= proves spec/exits.md#types X3
//= proves spec/exits.md#json X3
//= proves spec/exits.md#lines X3
//= proves spec/exits.md#answer X3 X4
#[test]
fn whatever_a_worker_does_its_call_is_minus_one_and_the_others_do_not_notice() {
    let head = r#"printf '{"type":"answer","number":%s,"session":"%s"' "$number" "$session""#;
    let cut = format!("{head}; exit 0");
    let deep = format!("{head}; printf ',\"x\":'; printf '%20s' '' | tr ' ' '['; good");
    let twice_a_key =
        format!("{head}; printf ',\"x\":1,\"x\":1,\"return_code\":1,\"status\":0}}\\n'");
    let table: &[(&str, &str, &str)] = &[
        // Death.
        ("exit 7", "-1 died", "it has ended: exit status: 7"),
        ("kill -9 $$", "-1 died", "it has ended: signal: 9"),
        (&cut, "-1 died", "it has ended: exit status: 0"),
        ("kill -SEGV $$", "-1 died", "it has ended: signal: 11"),
        // Lies.
        (
            "number=99999; good",
            "-1 unasked",
            "it answered what it was not asked",
        ),
        (
            "session=02020202020202020202020202020202; good",
            "-1 wrong-session",
            "it answered for another session",
        ),
        // Garbage.
        (
            "head -c 104857600 /dev/zero | tr '\\0' x",
            "-1 garbage",
            "a line is too long",
        ),
        (
            "head -c 300000 /dev/zero | tr '\\0' ' '; good",
            "-1 garbage",
            "a line is too long",
        ),
        (&deep, "-1 garbage", "a line is nested too deep"),
        (&twice_a_key, "-1 garbage", "a line has one key twice"),
        (
            "printf '{\"type\":\"ans\\377wer\"}\\n'",
            "-1 garbage",
            "not one JSON object",
        ),
        ("printf '[]\\n'", "-1 garbage", "not one JSON object"),
        ("printf '\\n'", "-1 garbage", "not one JSON object"),
        (
            "printf '{\"type\":\"log\",\"text\":\"hi\"}\\n'",
            "-1 garbage",
            "of a type that does not",
        ),
        ("hello 1", "-1 garbage", "of a type that does not"),
        (
            "say '\"return_code\":2'",
            "-1 garbage",
            "the field return_code",
        ),
        (
            "say '\"return_code\":true'",
            "-1 garbage",
            "the field return_code",
        ),
        (
            "say '\"return_code\":1.0,\"status\":0'",
            "-1 garbage",
            "the field return_code",
        ),
        ("say '\"status\":0'", "-1 garbage", "the field return_code"),
        ("say '\"return_code\":1'", "-1 garbage", "the field status"),
        (
            "say '\"return_code\":1,\"status\":1'",
            "-1 garbage",
            "the field status",
        ),
        (
            "say '\"return_code\":1,\"status\":-1'",
            "-1 garbage",
            "the field reason",
        ),
        (
            "say '\"return_code\":1,\"status\":-1,\"reason\":\"tired\"'",
            "-1 garbage",
            "the field reason",
        ),
        (
            "say '\"return_code\":1,\"status\":0,\"user_context\":\"?\"'",
            "-1 garbage",
            "the field user_context",
        ),
        (
            "say '\"return_code\":1,\"status\":0,\"output\":{\"peer_name\":{\"override\":1}}'",
            "-1 garbage",
            "the field peer_name",
        ),
        (
            "say '\"return_code\":1,\"status\":0,\"output\":{\"peer_name\":{\"override\":true,\"value\":\"\"}}'",
            "-1 garbage",
            "the field peer_name",
        ),
        // Closed pipes, and a process that lives on.
        (
            "exec 1>&-; sleep 100",
            "-1 garbage",
            "it closed its input or output",
        ),
    ];
    for (bad, expected, line) in table {
        attack(traitors(bad), expected, line);
    }
}

//= proves spec/exits.md#failures X3
#[test]
fn an_answer_given_twice_ends_the_session_behind_the_first() {
    let mut driven = Driven::new(traitors("good; good"));
    driven.whole(2);
    assert_eq!(driven.call(session(1), init()), "1/0");
    assert_eq!(driven.call(session(2), init()), "1/0");
    assert_eq!(driven.call(session(1), check(b"1")), "1/0");
    driven.logged("it answered what it was not asked; 1 sessions have failed");
    assert_eq!(driven.call(session(1), init()), "-1 ended");
    assert_eq!(driven.call(session(2), init()), "1/0");
    assert_eq!(driven.call(session(2), end()), "1/0");
    driven.whole(2);
}

//= proves spec/exits.md#failures X3
#[test]
fn a_worker_that_ends_right_after_its_answer_has_answered() {
    let mut driven = Driven::new(traitors("good; exit 0"));
    driven.whole(2);
    assert_eq!(driven.call(session(1), init()), "1/0");
    assert_eq!(driven.call(session(1), check(b"1")), "1/0");
    driven.logged("it has ended: exit status: 0; 1 sessions have failed");
    assert_eq!(driven.call(session(1), end()), "-1 ended");
    driven.whole(2);
}

//= proves spec/exits.md#failures X3
#[test]
fn a_worker_that_hangs_is_given_up_at_the_deadline() {
    let mut configuration = traitors("while :; do sleep 0.05; done");
    configuration.deadline = Duration::from_secs(2);
    let begin = Instant::now();
    attack(configuration, "-1 hung", "it did not answer in time");
    assert!(begin.elapsed() >= Duration::from_secs(2));
}

//= proves spec/exits.md#failures X3
#[test]
fn who_is_with_a_worker_that_hangs_goes_on_and_the_late_answer_is_passed_over() {
    // Answers the certificate's question only once something else is asked.
    let late = r#"hello 3; while :; do question; case $point in
        check-cert-list) n=$number s=$session ;;
        *) good; if [ "$n" ]; then number=$n session=$s; good; n=; fi ;; esac; done"#;
    let mut configuration = script(late);
    configuration.deadline = Duration::from_secs(2);
    let mut driven = Driven::new(configuration);
    driven.whole(1);
    assert_eq!(driven.call(session(1), init()), "1/0");
    assert_eq!(driven.call(session(2), init()), "1/0");
    assert_eq!(driven.call(session(1), check(b"1")), "-1 hung");
    assert_eq!(driven.in_state(State::Recycling), 1);
    // The other session of this worker does not notice, and the answer comes too late.
    assert_eq!(driven.call(session(2), init()), "1/0");
    driven.logged("it answered too late");
    assert_eq!(driven.call(session(1), init()), "-1 ended");
    assert_eq!(driven.call(session(2), end()), "1/0");
    driven.whole(1);
    let counters = driven.pool.counters();
    assert_eq!((counters.late, counters.lost, counters.recycled), (1, 0, 1));
}

//= proves spec/exits.md#failures X3
#[test]
fn a_dead_worker_s_child_that_keeps_the_pipes_hides_nothing() {
    let driven = attack(
        traitors("setsid sleep 300 & echo child $! >&2; exit 1"),
        "-1 died",
        "it has ended: exit status: 1",
    );
    // What has left the process group is not the pool's to kill: the test does.
    let log = driven.log.borrow();
    let line = log.iter().find(|line| line.contains("child ")).unwrap();
    let child: i32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
}

//= proves spec/exits.md#failures X3
//= proves spec/exits.md#end
#[test]
fn a_faulty_worker_that_ignores_sigterm_is_killed() {
    let driven = attack(
        traitors("trap '' TERM; echo nonsense; while :; do sleep 0.05; done"),
        "-1 garbage",
        "not one JSON object",
    );
    assert_eq!(driven.pool.counters().failures(Failure::Garbage), 1);
}

//= proves spec/exits.md#stderr X3
#[test]
fn standard_error_without_end_holds_nobody_up() {
    let flood = "while :; do printf '%0200d\\033[2J\\n' 7; done >&2";
    let mut configuration = traitors(flood);
    configuration.deadline = Duration::from_secs(2);
    let driven = attack(configuration, "-1 hung", "it did not answer in time");
    let log = driven.log.borrow();
    let bytes: usize = log.iter().map(String::len).sum();
    // A few seconds of at most 256 KiB, with names and escapes.
    assert!(bytes < 8 << 20, "{bytes}");
    assert!(log.iter().any(|line| line.contains("0007\\u{1b}[2J")));
    assert!(!log.iter().any(|line| line.contains('\u{1b}')));
}

//= proves spec/exits.md#transport X3
#[test]
fn a_worker_that_eats_memory_meets_its_limit() {
    let eats = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x$x$x; done";
    let mut configuration = traitors(eats);
    configuration.bounds.memory = Some(64 << 20);
    configuration.bounds.seconds = Some(20);
    configuration.bounds.files = Some(64);
    attack(configuration, "-1 died", "it has ended");
}

//= proves spec/exits.md#back-off X3
#[test]
fn a_program_that_ends_at_once_is_started_less_and_less_often() {
    for (program, line) in [
        ("exit 3", "it has ended: exit status: 3"),
        ("echo nonsense; exit 0", "refused: malformed"),
        ("head -c 300000 /dev/zero; read -r x", "refused: malformed"),
        (
            "printf '{\"type\":\"answer\"}\\n'; read -r x",
            "refused: malformed",
        ),
    ] {
        let mut configuration = script(program);
        (configuration.start, configuration.maximum) = (1, 2);
        configuration.deadline = Duration::from_secs(1);
        let begin = Instant::now();
        let mut driven = Driven::new(configuration);
        assert_eq!(driven.call(session(1), init()), "-1 waited");
        driven.logged(line);
        // At 0, 0.1, 0.3, 0.7, 1.5 seconds and so on.
        let most = 2 + (begin.elapsed().as_millis() / 100 + 1).ilog2();
        let started = driven.pool.counters().started;
        assert!(started >= 2 && started <= u64::from(most), "{started}");
    }
    let mut missing = Configuration::new("test", "/no/such/program");
    missing.deadline = Duration::from_secs(1);
    let mut driven = Driven::new(missing);
    assert_eq!(driven.call(session(1), init()), "-1 waited");
    assert!(driven.count("not started: No such file") <= 5);
}

//= proves spec/exits.md#back-off X3
#[test]
fn a_worker_that_ends_unasked_and_one_that_ends_when_asked_are_started_with_pauses() {
    let begin = Instant::now();
    let mut driven = Driven::new(script("hello 1; exit 4"));
    driven.until("a fourth is started", |driven| {
        driven.pool.counters().started == 4
    });
    assert!(begin.elapsed() >= Duration::from_millis(700));
    // One that peers can make fail comes back sooner, and not in a storm.
    let begin = Instant::now();
    let mut driven = Driven::new(script("hello 1; question; exit 5"));
    for number in 1..=8 {
        assert_eq!(driven.call(session(number), init()), "-1 died");
    }
    assert!(begin.elapsed() >= Duration::from_millis(700));
    assert!(driven.pool.counters().started <= 9);
}

//= proves spec/exits.md#back-off X3
#[test]
fn a_worker_that_crashes_once_before_its_hello_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("crashed");
    let flag = flag.display();
    let text = format!("[ -e {flag} ] || {{ : > {flag}; exit 1; }}; hello 1; serve");
    let mut driven = Driven::new(script(&text));
    assert_eq!(driven.call(session(1), init()), "1/0");
    assert_eq!(driven.pool.counters().started, 2);
    assert_eq!(driven.pool.counters().lost, 1);
}

//= proves spec/exits.md#refused X2
#[test]
fn a_hello_that_cannot_be_accepted_is_refused_by_name() {
    for (hello, reason) in [
        (r#"{"type":"hello","version":2,"new":1}"#, "version"),
        (
            r#"{"type":"hello","version":0,"families":["tls"]}"#,
            "version",
        ),
        (
            r#"{"type":"hello","version":1,"families":["ssh"]}"#,
            "families",
        ),
        (r#"{"type":"hello","version":1,"families":[]}"#, "malformed"),
        (
            r#"{"type":"hello","version":1,"families":["tls"],"holds":0}"#,
            "malformed",
        ),
        (
            r#"{"type":"hello","version":"1","families":["tls"]}"#,
            "malformed",
        ),
        (r#"{"type":"hello"}"#, "malformed"),
    ] {
        let text =
            format!("echo '{hello}'; read -r line; echo \"$line\" >&2; read -r line; exit 0");
        let mut driven = Driven::new(script(&text));
        driven.logged(&format!(
            r#"{{"type":"refused","version":1,"reason":"{reason}","text":"#
        ));
        driven.logged(&format!("refused: {reason}: "));
    }
}

//= proves spec/exits.md#hello X2 X3
#[test]
fn a_worker_that_never_says_hello_is_replaced() {
    let mut configuration = script("exec sleep 300");
    configuration.start_deadline = Duration::from_millis(200);
    let mut driven = Driven::new(configuration);
    driven.logged("it did not say hello in time");
    driven.until("another is started", |driven| {
        driven.pool.counters().started > 1
    });
}

//= proves spec/exits.md#order X1
#[test]
fn a_worker_that_reads_nothing_holds_nobody_up() {
    let mut configuration = traitors("while :; do sleep 0.05; done");
    configuration.holds = 1;
    configuration.deadline = Duration::from_secs(2);
    let mut driven = Driven::new(configuration);
    driven.whole(2);
    // More than a pipe holds.
    let certificate = vec![0; 60_000];
    let question = baton::exit::CheckCertList {
        cert_list: vec![certificate.clone(), certificate],
        ..Default::default()
    };
    driven.call(session(1), init());
    driven.call(session(2), init());
    let context = UserContext::new(vec![7; UserContext::LIMIT]).unwrap();
    driven
        .pool
        .ask(session(1), &context, question.clone().into(), 1);
    driven.ask(session(1), question.into(), 2);
    let begin = Instant::now();
    assert_eq!(driven.call(session(2), init()), "1/0");
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert_eq!(shown(&driven.completion(1).reply), "-1 hung");
    assert_eq!(shown(&driven.completion(2).reply), "-1 ended");
}
