//! The layouts of the page, byte by byte, and every other length refused.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn leaving_one() -> Leaving {
    Leaving {
        index: 7,
        control: 0x4002_0000_0000_0005,
        cookie: Some(9),
    }
}

fn arriving_one() -> Arriving {
    Arriving {
        index: 7,
        id: *b"0123456789abcdef",
        epoch: 6,
        cookie: None,
    }
}

/// Every request, as the page lays it out.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let mut written: Vec<Vec<u8>> = vec![Vec::new(); 5];
    write_hello(&mut written[0], None);
    write_hello(&mut written[4], Some(&[1; HANDLE]));
    let importer = Permitted::Process {
        pid: 1,
        started: 2,
        inode: 3,
        namespace: 4,
    };
    let terms = Terms {
        importer,
        deadline: 5,
    };
    write_depart(&mut written[1], &terms, &[leaving_one()]);
    write_arrive(&mut written[2], &[arriving_one()]);
    write_end(&mut written[3], &[(7, 8)]);
    let texts = [
        "01 42544b 01",
        "03 0000000000000005 03 00000001 0000000000000002 0000000000000003 0000000000000004
         0001 00000007 4002000000000005 01 0000000000000009",
        "05 0001 00000007 30313233343536373839616263646566 0000000000000006
         00 0000000000000000",
        "06 0001 00000007 0000000000000008",
        "01 42544b 01 010101010101010101010101010101010101010101010101",
    ];
    texts.into_iter().zip(written).collect()
}

//= proves spec/keeper.md#messages
#[test]
fn requests_are_laid_out_as_the_page_says_and_every_other_length_is_refused() {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for (text, written) in vectors() {
        assert_eq!(written, hex(text));
        all.push(written);
    }
    all.push(vec![2]);
    all.push([&[4][..], &[1; HANDLE]].concat());
    all.push([&[7][..], &[1; 16]].concat());
    for message in all {
        assert!(Request::read(&message).is_some(), "{message:02x?}");
        for length in 0..message.len() {
            // A greeting that names no departure is one, too.
            let named = message[0] == 1 && length == 5;
            let expected = named.then_some(Request::Hello(None));
            assert_eq!(Request::read(&message[..length]), expected, "{length}");
        }
        assert_eq!(Request::read(&[&message[..], &[0]].concat()), None);
    }
}

#[test]
fn what_was_written_is_read() {
    let [_, depart, arrive, end, _] = &vectors()[..] else {
        panic!("five")
    };
    let Some(Request::Depart(terms, items)) = Request::read(&depart.1) else {
        panic!("a departure")
    };
    assert_eq!(terms.deadline, 5);
    assert_eq!(leaving(items).next(), Some(Some(leaving_one())));
    let Some(Request::Arrive(items)) = Request::read(&arrive.1) else {
        panic!("an arrival")
    };
    assert_eq!(arriving(items).next(), Some(Some(arriving_one())));
    let Some(Request::End(items)) = Request::read(&end.1) else {
        panic!("an end")
    };
    assert_eq!(ending(items).next(), Some(Some((7, 8))));
}

#[test]
fn counts_and_fields_out_of_bounds_are_refused() {
    let many = vec![(1, 2); MOST];
    let mut message = Vec::new();
    write_end(&mut message, &many);
    assert!(Request::read(&message).is_some());
    assert!(message.len() <= LONGEST_REQUEST);
    // One more, and none at all.
    message.extend_from_slice(&[0; ENDING]);
    message[2] += 1;
    assert_eq!(Request::read(&message), None);
    assert_eq!(Request::read(&[6, 0, 0]), None);
    // An importer of no kind, one with numbers too many, a cookie that is neither.
    let depart = hex(vectors()[1].0);
    for (at, byte) in [(9, 4), (9, 0), (9, 1), (52, 2), (52, 0)] {
        let mut changed = depart.clone();
        changed[at] = byte;
        let read = Request::read(&changed);
        let items = read.and_then(|request| match request {
            Request::Depart(_, items) => leaving(items).next().flatten(),
            _ => None,
        });
        assert_eq!(items, None, "{at}: {byte}");
    }
    let mut longest = Vec::new();
    write_arrive(&mut longest, &vec![arriving_one(); MOST]);
    assert_eq!(longest.len(), LONGEST_REQUEST);
}

#[test]
fn codes_and_welcomes_go_both_ways() {
    for code in Code::ALL {
        assert_eq!(Code::read(code as u8), Some(code));
    }
    assert_eq!(Code::read(12), None);
    let welcome = Welcome {
        role: Role::Worker,
        quota: 3,
        key: 4,
        domain: [5; 16],
    };
    let mut message = Vec::new();
    welcome.write(&mut message);
    let read = |bytes| Welcome::read(&mut Reader(bytes));
    assert_eq!(read(&message), Some(welcome));
    for length in 0..message.len() {
        assert_eq!(read(&message[..length]), None);
    }
}
