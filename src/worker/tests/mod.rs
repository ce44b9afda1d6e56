mod served;

use std::io::Read;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::exit::{
    Answer, CheckCertList, CheckCertListOutput, Computation, ComputationOutput, Failure, Fields,
    GetCertList, GetCertListOutput, HandshakeDone, Input, Kind, LARGEST, Limits, NoOutput, Output,
    Override, Point, Question, Reason, Reply, ReturnCode, SessionEnd, SessionIdentifier,
    SessionInit, Status, Unfit, UserContext, Verdict,
};

/// The session of every question here.
const SESSION: SessionIdentifier = SessionIdentifier::new([0xab; 16]);

fn hex() -> String {
    SESSION.to_string()
}

/// Reads an answer as the pool does: number and session have to be the question's.
fn reply_to(line: &[u8], number: u64, point: Point) -> Result<Reply, Failure> {
    match read_from_worker(line) {
        Ok(FromWorker::Answer(answer)) if answer.number != number => Err(Failure::Unasked),
        Ok(FromWorker::Answer(answer)) if answer.session != SESSION => Err(Failure::WrongSession),
        Ok(FromWorker::Answer(answer)) => answer.reply(point).map_err(|_| Failure::Garbage),
        _ => Err(Failure::Garbage),
    }
}

/// Whether the reply lets anything happen: the exit's yes, or the server's own doing.
fn lets(reply: &Result<Reply, Failure>) -> Option<i64> {
    match reply {
        Ok(Reply { answer, .. }) => match answer {
            Answer::Done {
                verdict: Verdict::Accepted(_),
                ..
            } => Some(1),
            Answer::Nothing => Some(0),
            _ => None,
        },
        Err(_) => None,
    }
}

/// What stands in the line by another reader's word.
fn says(line: &[u8], number: u64) -> Option<i64> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    let right = value["type"] == "answer"
        && value["number"] == number
        && value["session"].as_str()? == hex();
    match (right, &value["return_code"], &value["status"]) {
        (true, code, status) if *code == json!(1) && *status == json!(0) => Some(1),
        (true, code, _) if *code == json!(0) => Some(0),
        _ => None,
    }
}

fn member() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        Just(json!(false)),
        Just(json!(0)),
        Just(json!(1)),
        Just(json!(-1)),
        Just(json!(2)),
        Just(json!(0.0)),
        Just(json!(1.0)),
        Just(json!("0")),
        Just(json!("1")),
        Just(json!("good")),
        Just(json!("revoked")),
        Just(json!([1])),
        Just(json!({})),
        Just(json!({"peer_name": {"override": true, "value": "ada"}})),
        Just(json!({"peer_name": {"override": true}})),
        Just(json!({"result": {"override": true, "value": "AAAA"}})),
    ]
}

fn answers() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        Just("type"),
        Just("number"),
        Just("session"),
        Just("return_code"),
        Just("status"),
        Just("reason"),
        Just("output"),
        Just("user_context"),
        Just("text"),
        Just("other"),
    ];
    let others = proptest::collection::vec((key, member()), 0..6);
    let flips = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    // What matters stands there most of the time, and is wrong half of it.
    let number = || {
        let likely = prop_oneof![
            Just(json!(1)),
            Just(json!(0)),
            Just(json!(-1)),
            Just(json!(2))
        ];
        proptest::option::weighted(0.9, prop_oneof![3 => likely, 1 => member()])
    };
    let code = (number(), number());
    (others, any::<bool>(), flips, code).prop_map(|(others, sane, flips, (code, status))| {
        let mut line = serde_json::Map::new();
        line.extend(code.map(|code| ("return_code".to_owned(), code)));
        line.extend(status.map(|status| ("status".to_owned(), status)));
        if sane {
            line.insert("type".into(), json!("answer"));
            line.insert("number".into(), json!(7));
            line.insert("session".into(), json!(hex()));
        }
        for (key, value) in others {
            line.insert(key.into(), value);
        }
        let mut bytes = serde_json::to_vec(&line).unwrap();
        for (place, by) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= by;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    //= proves spec/exits.md#answer X4
    #[test]
    fn nothing_but_a_valid_success_is_one(line in answers(), point in 0..Point::ALL.len()) {
        let reply = reply_to(&line, 7, Point::ALL[point]);
        if let Some(code) = lets(&reply) {
            prop_assert_eq!(says(&line, 7), Some(code));
        }
        // Another number, another session: whatever it says.
        prop_assert_eq!(lets(&reply_to(&line, 8, Point::ALL[point])), None);
    }

    #[test]
    fn no_bytes_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(lets(&reply_to(&line, 7, Point::SessionInit)), None);
        let _ = read_from_server(&line);
        let _ = input_of(Point::CheckCertList, &line);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    //= proves spec/exits.md#lines
    #[test]
    fn lines_come_whole_however_they_are_cut(
        lines in proptest::collection::vec(proptest::collection::vec(0_u8..9, 0..40_000), 0..8),
        cuts in proptest::collection::vec(1_usize..30_000, 1..8),
    ) {
        let stream: Vec<u8> = lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect();
        let mut source = &stream[..];
        let mut reader = Lines::new(40_001);
        let mut read = Vec::new();
        for cut in cuts.iter().cycle() {
            while let Some(line) = reader.next().unwrap() {
                read.push(line.to_vec());
            }
            let fill = |space: &mut [u8]| {
                let most = space.len().min(*cut);
                source.read(&mut space[..most])
            };
            if reader.fill(fill).unwrap() == 0 {
                break;
            }
        }
        prop_assert_eq!(read, lines);
    }

    //= proves spec/exits.md#question
    #[test]
    fn a_question_arrives_as_it_was_asked(
        certificates in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..400), 1..16),
        name in proptest::option::of("[ -~äß\u{1F600}]{1,60}"),
        time in 0..=LARGEST,
        context in proptest::collection::vec(any::<u8>(), 0..=UserContext::LIMIT),
    ) {
        let question = CheckCertList {
            cert_list: certificates,
            server_name: name,
            time,
            ..CheckCertList::default()
        };
        let mut asked = Question::from(question);
        let mut line = Vec::new();
        let given = UserContext::new(context.clone()).unwrap();
        write_question(&mut line, 7, SESSION, &given, &mut asked).unwrap();
        prop_assert_eq!(line.pop(), Some(b'\n'));
        match read_from_server(&line).unwrap() {
            FromServer::Question { number, session, user_context, question } => {
                prop_assert_eq!((number, session), (7, SESSION));
                prop_assert_eq!(user_context.as_bytes(), &context[..]);
                prop_assert_eq!(question.unwrap(), Some(asked));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

/// Names the fields of a value.
#[derive(Default)]
struct Names(Vec<&'static str>);

impl Fields for Names {
    type Error = Unfit;

    fn field<T: Kind>(&mut self, name: &'static str, _: &mut T, _: &Limits) -> Result<(), Unfit> {
        self.0.push(name);
        Ok(())
    }

    fn optional<T: Kind>(
        &mut self,
        name: &'static str,
        _: &mut Option<T>,
        _: &Limits,
    ) -> Result<(), Unfit> {
        self.0.push(name);
        Ok(())
    }

    fn overridden<T: Kind>(
        &mut self,
        name: &'static str,
        _: &mut Override<T>,
        _: &Limits,
        _: bool,
    ) -> Result<(), Unfit> {
        self.0.push(name);
        Ok(())
    }
}

/// The fields a table of the page names.
fn in_table(section: &str, head: &str) -> Vec<String> {
    let rows = section.lines().skip_while(|line| !line.starts_with(head));
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| {
        let cell = row.split('|').nth(1).unwrap();
        cell.split(',')
            .map(|name| name.trim().trim_matches('`').to_owned())
    })
    .collect()
}

//= proves spec/exits.md#points X6
#[test]
fn the_page_has_every_point_with_every_field() {
    let page = include_str!("../../../spec/exits.md");
    let mut places = Vec::new();
    for point in Point::ALL {
        let heading = format!("\n### {point}\n");
        let place = page.find(&heading).unwrap_or_else(|| panic!("{point}"));
        places.push(place);
        let section = &page[place + heading.len()..];
        let section = section.split("\n### ").next().unwrap();
        let (mut asked, mut answered) = (Names::default(), Names::default());
        Question::blank(point).describe(&mut asked).unwrap();
        Output::blank(point).describe(&mut answered).unwrap();
        assert_eq!(in_table(section, "| input "), asked.0, "{point}");
        assert_eq!(in_table(section, "| output "), answered.0, "{point}");
        assert_eq!(Question::blank(point).point(), point);
        assert_eq!(Point::named(point.family(), point.name()), Some(point));
    }
    assert!(places.is_sorted());
    assert_eq!(page.matches("\n### ").count(), Point::ALL.len());
}

fn check_of(cert_list: Vec<Vec<u8>>) -> Question {
    CheckCertList {
        cert_list,
        ..CheckCertList::default()
    }
    .into()
}

//= proves spec/exits.md#lines
//= proves spec/exits.md#points
#[test]
fn a_question_out_of_its_limits_is_not_asked() {
    let none = UserContext::default();
    let written = |mut question: Question| {
        let mut line = Vec::new();
        let outcome = write_question(&mut line, 1, SESSION, &none, &mut question);
        assert!(outcome.is_ok() || line.is_empty());
        assert!(line.len() <= question.point().line_limit());
        outcome
    };
    assert_eq!(written(check_of(vec![vec![0; 65_536]; 2])), Ok(()));
    assert!(written(check_of(vec![vec![0; 65_536], vec![0; 65_536], vec![0]])).is_err());
    assert!(written(check_of(vec![vec![0; 65_537]])).is_err());
    assert!(written(check_of(vec![vec![]])).is_err());
    assert!(written(check_of(vec![])).is_err());
    assert!(written(check_of(vec![vec![0]; 17])).is_err());
    assert_eq!(written(check_of(vec![vec![0]; 16])), Ok(()));
    let init = |name: &str| SessionInit {
        server_name: Some(name.to_owned()),
        ..SessionInit::default()
    };
    assert_eq!(written(init(&"a".repeat(255)).into()), Ok(()));
    for wrong in ["", "a\nb", "a\u{85}b", &"a".repeat(256)] {
        assert!(written(init(wrong).into()).is_err(), "{wrong:?}");
    }
    let end = |seconds| SessionEnd {
        seconds,
        ..SessionEnd::default()
    };
    assert_eq!(written(end(LARGEST).into()), Ok(()));
    assert!(written(end(LARGEST + 1).into()).is_err());
    // The longest of every kind fits into its line.
    let widest = GetCertList {
        signature_schemes: vec![u16::MAX; 64],
        ca_dn_list: vec![vec![0; 256]; 128],
        ..GetCertList::default()
    };
    assert_eq!(written(widest.into()), Ok(()));
    let signed = Computation {
        key_reference: "k".repeat(256),
        data: vec![0; 8192],
        ..Computation::default()
    };
    assert_eq!(written(signed.into()), Ok(()));
}

fn answer_with(more: &str) -> Vec<u8> {
    let session = hex();
    format!(r#"{{"type":"answer","number":7,"session":"{session}",{more}}}"#).into_bytes()
}

//= proves spec/exits.md#json
#[test]
fn json_is_strict_also_where_nobody_reads() {
    let read = |more: &str| match read_from_worker(&answer_with(more)) {
        Ok(FromWorker::Answer(answer)) => answer.reply(Point::SessionInit).map(|_| ()),
        Ok(FromWorker::Hello(_)) => panic!(),
        Err(garbage) => Err(garbage),
    };
    let deep = |depth: usize| {
        format!(
            r#""return_code":0,"x":{}1{}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    let many = |keys: std::ops::Range<u32>| {
        let keys: Vec<String> = keys.map(|key| format!("\"k{key}\":0")).collect();
        keys.join(",")
    };
    // The object itself is one of the sixteen.
    assert_eq!(read(&deep(15)), Ok(()));
    assert_eq!(read(&deep(16)), Err(Garbage::Deep));
    assert_eq!(read(&deep(100_000)), Err(Garbage::Deep));
    assert_eq!(
        read(r#""return_code":0,"x":{"a":1,"a":1}"#),
        Err(Garbage::Twice)
    );
    assert_eq!(
        read(r#""return_code":0,"\u0074ype":1"#),
        Err(Garbage::Twice)
    );
    assert_eq!(
        read(&format!(r#""return_code":0,"x":{{{}}}"#, many(0..5000))),
        Ok(())
    );
    let twice = format!(r#""return_code":0,"x":{{{},"k77":0}}"#, many(0..5000));
    assert_eq!(read(&twice), Err(Garbage::Twice));
    assert_eq!(read(r#""return_code":0} {"#), Err(Garbage::NotJson));
    assert_eq!(
        read(r#""return_code":0e0"#),
        Err(Garbage::Field("return_code"))
    );
    assert_eq!(
        read(r#""return_code":0,"text":"a\u0000""#),
        Err(Garbage::Field("text"))
    );
    assert_eq!(
        read(r#""return_code":0,"x":"\ud800""#),
        Err(Garbage::NotJson)
    );
    assert_eq!(
        read(r#""return_code":0 , "x" : 1e999"#),
        Err(Garbage::NotJson)
    );
    assert_eq!(read("\"return_code\":0,\"x\":\"\u{e9}\""), Ok(()));
    let padding = |text: &str| {
        read(&format!(
            r#""return_code":1,"status":0,"user_context":"{text}""#
        ))
    };
    assert_eq!(padding("AAA="), Ok(()));
    assert_eq!(padding(r"\u0041AA="), Ok(()));
    for wrong in ["AAA", "AAB=", "AA==\\n", "A A=", "-_A=", "AAA=="] {
        assert_eq!(
            padding(wrong),
            Err(Garbage::Field("user_context")),
            "{wrong}"
        );
    }
}

//= proves spec/exits.md#override X5
#[test]
fn only_what_is_flagged_is_overridden() {
    let output = |more: &str| {
        let line = answer_with(&format!(r#""return_code":1,"status":0{more}"#));
        match reply_to(&line, 7, Point::GetCertList).map(|reply| reply.answer) {
            Ok(Answer::Done {
                verdict: Verdict::Accepted(Output::GetCertList(output)),
                ..
            }) => Some(output),
            _ => None,
        }
    };
    let none = GetCertListOutput::default();
    for nothing in [
        "",
        r#","output":null"#,
        r#","output":{}"#,
        r#","output":{"key_reference":null}"#,
        r#","output":{"key_reference":{"value":"k"}}"#,
        r#","output":{"key_reference":{"override":false,"value":7}}"#,
        r#","output":{"other":{"override":true,"value":"k"}}"#,
    ] {
        assert_eq!(output(nothing), Some(none.clone()), "{nothing}");
    }
    let key = output(r#","output":{"key_reference":{"override":true,"value":"k"}}"#).unwrap();
    assert_eq!(key.key_reference.or("profile".to_owned()), "k");
    assert_eq!(key.cert_list.or(vec![vec![1]]), [[1]]);
    for wrong in [
        r#","output":[]"#,
        r#","output":{"key_reference":"k"}"#,
        r#","output":{"key_reference":{"override":"true","value":"k"}}"#,
        r#","output":{"key_reference":{"override":true}}"#,
        r#","output":{"key_reference":{"override":true,"value":null}}"#,
        r#","output":{"cert_list":{"override":true,"value":[]}}"#,
        r#","output":{"cert_list":{"override":true,"value":["AAAA",1]}}"#,
    ] {
        assert_eq!(output(wrong), None, "{wrong}");
    }
    // A computation has no value but the exit's.
    let line = answer_with(r#""return_code":1,"status":0"#);
    assert_eq!(lets(&reply_to(&line, 7, Point::Computation)), None);
    let line = answer_with(
        r#""return_code":1,"status":0,"output":{"result":{"override":true,"value":"AAAA"}}"#,
    );
    assert_eq!(lets(&reply_to(&line, 7, Point::Computation)), Some(1));
}

#[test]
fn what_a_worker_writes_the_server_reads() {
    let accepted = |output: Output| Reply::from(Answer::accepted(output));
    let everything = [
        accepted(CheckCertListOutput::default().into()),
        accepted(
            CheckCertListOutput {
                peer_name: Override::Replace("\"ä\\".into()),
            }
            .into(),
        ),
        Reply::from(Answer::<NoOutput>::refused(Reason::ChainTooLong)).saying("why"),
        Reply::from(Answer::<NoOutput>::Nothing),
        Reply::from(Failure::Hung),
    ];
    for mut reply in everything {
        let mut line = Vec::new();
        write_answer(&mut line, 7, SESSION, CheckCertList::POINT, &mut reply).unwrap();
        line.pop();
        let read = reply_to(&line, 7, CheckCertList::POINT).unwrap();
        assert_eq!(read.answer.return_code(), reply.answer.return_code());
        assert_eq!(read.answer.status(), reply.answer.status());
        assert_eq!(read.text, reply.text);
    }
    assert_eq!(ReturnCode::of(2), None);
    assert_eq!(Status::of(1), None);
}
