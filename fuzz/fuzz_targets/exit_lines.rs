//! Lines of exit workers, and of the server to them.
//!
//! The first byte says which: below 9 an answer at that point, 9 a line of the server, from 10 the
//! input of a point; from 128 what follows is a stream, cut into lines. Held is: what is read is
//! written and read again as the same, in its limits; a line that does not say both 1 and 0 is
//! accepted by nobody; a stream gives the lines that are in it, or is too long.

#![no_main]

use baton::exit::{Answer, Point, SessionIdentifier, Status, UserContext, Verdict};
use baton::worker::{
    FromServer, FromWorker, Lines, input_of, read_from_server, read_from_worker, write_answer,
    write_question,
};
use libfuzzer_sys::fuzz_target;

fn answer(point: Point, line: &[u8]) {
    let Ok(FromWorker::Answer(answer)) = read_from_worker(line) else {
        return;
    };
    let (number, session) = (answer.number, answer.session);
    let Ok(mut reply) = answer.reply(point) else {
        return;
    };
    if let Answer::Done {
        verdict: Verdict::Accepted(_),
        ..
    } = &reply.answer
    {
        let says = |text: &[u8]| line.windows(text.len()).any(|part| part == text);
        let escaped = says(b"\\u");
        assert!(escaped || says(b"\"return_code\"") && says(b"\"status\""));
    }
    let (code, status) = (reply.answer.return_code(), reply.answer.status());
    assert!(status.is_none() || code.number() == 1);
    assert!(status != Some(Status::Refused) || reply.answer.alert().is_some());
    let mut again = Vec::new();
    if write_answer(&mut again, number, session, point, &mut reply).is_err() {
        // An output that is absent is written as an empty one.
        assert!(line.len() + 32 > point.line_limit());
        return;
    }
    again.pop();
    let Ok(FromWorker::Answer(answer)) = read_from_worker(&again) else {
        panic!("what was written is read");
    };
    assert_eq!((answer.number, answer.session), (number, session));
    let reply = answer.reply(point).expect("what was written is read");
    assert_eq!(
        (reply.answer.return_code(), reply.answer.status()),
        (code, status)
    );
}

fn input(point: Point, bytes: &[u8]) {
    let Ok(mut question) = input_of(point, bytes) else {
        return;
    };
    let session = SessionIdentifier::from([7; 16]);
    let mut line = Vec::new();
    let none = UserContext::default();
    if write_question(&mut line, 1, session, &none, &mut question).is_err() {
        // The line around it may be too much, where the input alone was not.
        assert!(bytes.len() + 1024 > point.line_limit() && line.is_empty());
        return;
    }
    assert!(line.len() <= point.line_limit());
    line.pop();
    match read_from_server(&line) {
        Ok(FromServer::Question {
            number: 1,
            question: Ok(Some(read)),
            ..
        }) => assert_eq!(read, question),
        other => panic!("{other:?}"),
    }
}

fn stream(limit: usize, bytes: &[u8]) {
    let mut lines = Lines::new(limit);
    let mut rest = bytes;
    let mut expected = bytes.split(|byte| *byte == b'\n');
    loop {
        match lines.next() {
            Ok(Some(line)) => {
                assert_eq!(Some(line), expected.next());
                continue;
            }
            Ok(None) => {}
            Err(_) => {
                assert!(expected.next().is_some_and(|line| line.len() >= limit));
                return;
            }
        }
        let count = lines.fill(|space| std::io::Read::read(&mut rest, space));
        if count.expect("memory is read") == 0 {
            break;
        }
    }
    assert_eq!(Some(lines.rest()), expected.next());
    assert_eq!(expected.next(), None);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, rest)) = bytes.split_first() else {
        return;
    };
    let point = |number: u8| Point::ALL[usize::from(number) % Point::ALL.len()];
    match how {
        0..9 => answer(point(how), rest),
        9 => drop(read_from_server(rest)),
        10..128 => input(point(how - 10), rest),
        _ => stream(usize::from(how), rest),
    }
});
