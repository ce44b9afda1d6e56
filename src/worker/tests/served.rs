//! Workers in Rust, and what they write.

use super::*;

/// Has a worker read these lines, and answers what it wrote behind its hello.
fn served(worker: Worker, lines: &[String]) -> (Result<(), Error>, Vec<serde_json::Value>) {
    let accepted = r#"{"type":"accepted","version":1,"holds":9,"deadline_ms":1,"services":[]}"#;
    let mut input = format!("{accepted}\n");
    for line in lines {
        input += line;
        input += "\n";
    }
    let mut output = Vec::new();
    let ended = worker.serve_on(input.as_bytes(), &mut output);
    let text = String::from_utf8(output).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let hello: serde_json::Value = lines.next().unwrap();
    assert_eq!(hello["type"], "hello");
    (ended, lines.collect())
}

fn question(number: u64, question: impl Into<Question>) -> String {
    let mut line = Vec::new();
    let context = UserContext::default();
    write_question(&mut line, number, SESSION, &context, &mut question.into()).unwrap();
    line.pop();
    String::from_utf8(line).unwrap()
}

//= proves spec/exits.md#bad-question
//= proves spec/exits.md#types
//= proves spec/exits.md#cancel
#[test]
fn a_worker_in_rust_answers_every_question_once_and_passes_over_the_rest() {
    let worker = || {
        Worker::new()
            .on(
                |call, question: CheckCertList| match question.cert_list[0][0] {
                    0 => panic!("as a test"),
                    1 => Answer::refused(Reason::Revoked),
                    2 => Answer::accepted(CheckCertListOutput {
                        peer_name: Override::Replace("a\nb".to_owned()),
                    }),
                    _ => {
                        call.say("so\nit is");
                        Answer::accepted(CheckCertListOutput::default())
                            .with_user_context(UserContext::new(b"left".to_vec()).unwrap())
                    }
                },
            )
            .on(|_, question: Computation| {
                Answer::accepted(ComputationOutput {
                    result: Override::Replace(question.data),
                })
            })
    };
    let certificate = |first| check_of(vec![vec![first]]);
    let broken = question(5, certificate(3)).replace("cert_list", "cert_lisp");
    let unknown = question(6, certificate(3)).replace("check-cert-list", "check-cert-lisp");
    let later = question(7, certificate(3)).replace("\"tls\"", "\"later\"");
    let signed = Computation {
        key_reference: "k".to_owned(),
        data: b"to be signed".to_vec(),
        ..Computation::default()
    };
    let lines = [
        r#"{"type":"later","more":[]}"#.to_owned(),
        question(1, certificate(0)),
        question(2, certificate(1)),
        question(3, certificate(2)),
        question(4, certificate(3)),
        broken,
        unknown,
        later,
        format!(r#"{{"type":"cancel","number":4,"session":"{}"}}"#, hex()),
        question(8, HandshakeDone::default()),
        question(9, signed),
    ];
    let expected = [
        json!({"number": 1, "return_code": -1}),
        json!({"number": 2, "return_code": 1, "status": -1, "reason": "revoked"}),
        json!({"number": 3, "return_code": -1}),
        json!({"number": 4, "return_code": 1, "status": 0, "output": {}, "user_context": "bGVmdA==",
               "text": "soit is"}),
        json!({"number": 5, "return_code": -1}),
        json!({"number": 6, "return_code": 0}),
        json!({"number": 7, "return_code": 0}),
        json!({"number": 8, "return_code": 0}),
        json!({"number": 9, "return_code": 1, "status": 0,
               "output": {"result": {"override": true, "value": "dG8gYmUgc2lnbmVk"}}}),
    ];
    for threads in [1, 3] {
        let (ended, mut answers) = served(worker().threads(threads), &lines);
        ended.unwrap();
        answers.sort_by_key(|answer| answer["number"].as_u64());
        for answer in &mut answers {
            let answer = answer.as_object_mut().unwrap();
            assert_eq!(answer.remove("type"), Some(json!("answer")));
            assert_eq!(answer.remove("session"), Some(json!(hex())));
        }
        assert_eq!(answers, expected);
    }
}

//= proves spec/exits.md#garbage
//= proves spec/exits.md#refused
#[test]
fn a_worker_in_rust_ends_at_garbage_and_when_it_is_refused() {
    for threads in [1, 2] {
        let (ended, answers) = served(Worker::new().threads(threads), &["[]".to_owned()]);
        assert!(matches!(ended, Err(Error::Garbage(Garbage::NotJson))));
        assert!(answers.is_empty());
    }
    let mut refused = Vec::new();
    write_refused(&mut refused, Refusal::Version);
    let ended = Worker::new().serve_on(&refused[..], Vec::new());
    assert!(matches!(ended, Err(Error::Refused(reason)) if reason == "version"));
    assert!(Worker::new().serve_on(&b""[..], Vec::new()).is_ok());
}
