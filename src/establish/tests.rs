use super::exchange::{
    ANSWER, Answer, REQUEST, Reason, Request, Saying, decode_password, encode_password, extend,
};
use super::*;
use crate::name::{MECHANISM, Name};
use crate::status::{Major, Minor};

fn request(password: Option<(&'static str, &'static str)>) -> Vec<u8> {
    let request = Request {
        flags: 0x16,
        bindings: Some([7; 32]),
        target: Name::host_based_service("imap@mail.example").unwrap(),
        password,
    };
    request.encode().to_vec()
}

//= proves spec/mechanism.md#request
#[test]
fn a_request_is_exactly_this() {
    let bytes = request(Some(("ada", "pw")));
    assert_eq!(bytes.len(), REQUEST);
    let mut expected = vec![1, 0, 0, 0, 0x16, 1];
    expected.extend_from_slice(&[7; 32]);
    expected.extend_from_slice(b"\0\x11imap@mail.example\x01\0\x03ada\0\x02pw");
    assert!(bytes.starts_with(&expected));
    assert!(bytes[expected.len()..].iter().all(|byte| *byte == 0));

    let read = Request::decode(&bytes).unwrap();
    assert_eq!((read.flags, read.bindings), (0x16, Some([7; 32])));
    assert_eq!(read.target.to_string(), "imap@mail.example");
    assert_eq!(read.password, Some(("ada", "pw")));
    let without = request(None);
    assert_eq!(Request::decode(&without).unwrap().password, None);
}

//= proves spec/mechanism.md#request
//= proves spec/mechanism.md#password
#[test]
fn a_request_can_be_written_in_one_way_only() {
    let good = request(Some(("ada", "pw")));
    // Where fields stand: the target's length at 38, its text at 40, the credential at 57, the
    // user's length at 58, the password's at 63, zeros from 67.
    let changes: [(usize, &[u8]); 14] = [
        (0, &[2]),
        (5, &[2]),
        (5, &[0]),
        (39, &[0]),
        (39, &[0x12]),
        (40, b"I M"),
        (45, b"MAIL"),
        (57, &[0]),
        (57, &[2]),
        (59, &[0]),
        (60, b"\n"),
        (65, b"\0"),
        (65, b"\xff"),
        (2047, &[1]),
    ];
    for (at, bytes) in changes {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(Request::decode(&changed).is_err(), "{at}: {bytes:?}");
    }
    let mut long = good.clone();
    long[63..65].copy_from_slice(&1025_u16.to_be_bytes());
    assert!(Request::decode(&long).is_err());
    assert!(Request::decode(&good[..REQUEST - 1]).is_err());
    assert!(Request::decode(&[&good[..], &[0]].concat()).is_err());
    // A target without a host.
    let hostless = Request {
        flags: 0,
        bindings: None,
        target: Name::host_based_service("imap").unwrap(),
        password: None,
    };
    assert!(Request::decode(&hostless.encode()).is_err());
}

//= proves spec/mechanism.md#password
#[test]
fn a_password_is_exactly_this() {
    let bytes = encode_password(("ada", "")).to_vec();
    assert_eq!(bytes.len(), REQUEST);
    assert!(bytes.starts_with(b"\x03\0\x03ada\0\0"));
    assert_eq!(decode_password(&bytes).unwrap(), ("ada", ""));
    assert!(decode_password(&request(None)).is_err());
    assert!(decode_password(&encode_password(("", "x"))).is_err());
    let longest = "p".repeat(1024);
    let longest = encode_password(("ada", &longest)).to_vec();
    assert_eq!(decode_password(&longest).unwrap().1.len(), 1024);
}

//= proves spec/mechanism.md#answer
#[test]
fn an_answer_is_exactly_this() {
    let bindings = Some([7; 32]);
    let all = [
        (
            Saying::Established {
                flags: 0x22,
                lifetime: Some(600),
            },
            [0, 0, 0, 0, 0x22],
            [0, 0, 2, 0x58, 0, 0],
        ),
        (
            Saying::Established {
                flags: 0x22,
                lifetime: None,
            },
            [0, 0, 0, 0, 0x22],
            [0xff, 0xff, 0xff, 0xff, 0, 0],
        ),
        (
            Saying::Password { attempts: 3 },
            [1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 3],
        ),
        (
            Saying::Refused(Reason::Target),
            [2, 0, 0, 0, 0],
            [0, 0, 0, 0, 3, 0],
        ),
    ];
    for (saying, head, tail) in all {
        let answer = Answer { bindings, saying };
        let bytes = answer.encode().to_vec();
        let expected = [&[2][..], &head, &[1], &[7; 32], &tail, &[0; 19]].concat();
        assert_eq!(bytes, expected);
        assert_eq!(bytes.len(), ANSWER);
        assert_eq!(Answer::decode(&bytes).unwrap(), answer);
    }
    let refused = Answer {
        bindings: None,
        saying: Saying::Refused(Reason::Other),
    };
    let good = refused.encode().to_vec();
    for (at, byte) in [
        (0, 1),
        (1, 0),
        (1, 3),
        (5, 1),
        (6, 1),
        (7, 1),
        (39, 1),
        (43, 0),
        (43, 7),
        (44, 1),
        (63, 1),
    ] {
        let mut changed = good.clone();
        changed[at] = byte;
        let decoded = Answer::decode(&changed);
        // Byte 6 alone makes it a bound answer, with a hash of zeros.
        assert_eq!(decoded.is_ok(), at == 6, "{at}");
    }
    let asked = Answer {
        bindings: None,
        saying: Saying::Password { attempts: 0 },
    };
    assert!(Answer::decode(&asked.encode()).is_err());
}

#[test]
fn reasons_have_their_statuses() {
    let majors = [
        (Reason::Bindings, Major::BadBindings),
        (Reason::Password, Major::Unauthorized),
        (Reason::Target, Major::Unauthorized),
        (Reason::Unproved, Major::NoCred),
        (Reason::Anonymous, Major::Unauthorized),
        (Reason::Other, Major::Unauthorized),
    ];
    for (reason, major) in majors {
        assert_eq!(reason.error().status().major(), major);
    }
}

//= proves spec/mechanism.md#transcript
#[test]
fn a_transcript_is_a_chain_of_hashes() {
    let mut transcript = [0; 32];
    extend(&mut transcript, b"one");
    extend(&mut transcript, b"two");
    let first = crate::crypto::sha256(&[&[0; 32], b"one"]);
    assert_eq!(transcript, crate::crypto::sha256(&[&first, b"two"]));
}

//= proves spec/mechanism.md#header
#[test]
fn the_initial_token_has_one_header() {
    let oid = [&[6, 10][..], &MECHANISM].concat();
    for (length, head) in [
        (0, &[0x60, 12][..]),
        (115, &[0x60, 127]),
        (116, &[0x60, 0x81, 128]),
        (243, &[0x60, 0x81, 255]),
        (244, &[0x60, 0x82, 1, 0]),
        (65_523, &[0x60, 0x82, 0xff, 0xff]),
        (65_524, &[0x60, 0x83, 1, 0, 0]),
    ] {
        let flight = vec![0x16; length];
        let token = token::wrap(&flight);
        assert_eq!(token, [head, &oid, &flight].concat());
        assert_eq!(token::unwrap(&token).unwrap(), flight);
        assert!(token::unwrap(&token[..token.len() - 1]).is_err());
        assert!(token::unwrap(&[&token[..], &[0]].concat()).is_err());
    }
    let minor = |token: &[u8]| token::unwrap(token).unwrap_err().status().minor();
    let good = token::wrap(b"flight");
    let mut other = good.clone();
    other[13] = 2;
    assert_eq!(minor(&other), Minor::MechanismUnknown);
    let kerberos = b"\x60\x0d\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x01\x00";
    assert_eq!(minor(kerberos), Minor::MechanismUnknown);
    let long_form = [&[0x60, 0x81, 18][..], &good[2..]].concat();
    for malformed in [
        &b""[..],
        b"\x60",
        b"\x60\x80",
        b"\x61\x0c",
        &long_form,
        b"\x60\x84\0\0\0\x0c",
    ] {
        assert_eq!(minor(malformed), Minor::ContextTokenMalformed);
    }
}

//= proves spec/mechanism.md#stream
#[test]
fn tokens_are_cut_out_of_a_stream_wherever_it_is_cut() {
    let sent: [&[u8]; 3] = [b"a", &[7; 1000], b"last"];
    let stream: Vec<u8> = sent.iter().flat_map(|token| Tokens::frame(token)).collect();
    assert_eq!(stream[..6], [0, 0, 0, 1, b'a', 0]);
    for piece in [1, 3, 4, 5, 100, 2000] {
        let mut tokens = Tokens::new(1000);
        let mut read = Vec::new();
        for mut part in stream.chunks(piece) {
            while let Some(token) = tokens.next(&mut part).unwrap() {
                read.push(token);
            }
            assert!(part.is_empty());
        }
        assert_eq!(read, sent);
        assert!(!tokens.is_partial());
    }
    let minor = |mut bytes: &[u8]| {
        Tokens::new(1000)
            .next(&mut bytes)
            .unwrap_err()
            .status()
            .minor()
    };
    assert_eq!(minor(&[0, 0, 3, 0xe9]), Minor::ContextTokenTooLarge);
    assert_eq!(minor(&[0, 0, 0, 0]), Minor::ContextTokenTooLarge);
    assert_eq!(minor(&[0xff; 4]), Minor::ContextTokenTooLarge);
    // Announced is not held: only what came in is.
    let mut tokens = Tokens::new(usize::MAX);
    assert_eq!(tokens.next(&mut &[0, 0xff, 0xff, 0xff, 1][..]), Ok(None));
    assert!(tokens.is_partial());
    assert!(Tokens::frame(b"").is_empty());
}

//= proves spec/mechanism.md#first-byte
#[test]
fn the_first_byte_tells_the_framing() {
    for first in 0..=255 {
        let expected = match first {
            0 => Some(Framing::Message),
            0x16 => Some(Framing::Record),
            _ => None,
        };
        assert_eq!(Framing::of(first), expected);
    }
    assert_eq!(
        Framing::of(Tokens::frame(&[0x60; 1000])[0]),
        Some(Framing::Message)
    );
}

//= proves spec/mechanism.md#bindings
#[test]
fn channel_bindings_are_hashed_field_by_field() {
    let bindings = ChannelBindings {
        initiator_address_type: 2,
        initiator_address: vec![1],
        acceptor_address_type: 3,
        acceptor_address: vec![4, 5],
        application_data: b"data".to_vec(),
    };
    let bytes = b"\0\0\0\x02\0\0\0\x01\x01\0\0\0\x03\0\0\0\x02\x04\x05\0\0\0\x04data";
    assert_eq!(bindings.hash(), crate::crypto::sha256(&[bytes]));
    let exporter = ChannelBindings::tls_exporter(&[b'x'; 32]);
    let text = [&b"tls-exporter:"[..], &[b'x'; 32]].concat();
    assert_eq!(exporter.application_data, text);
    let end_point = ChannelBindings::tls_server_end_point(b"hash");
    assert_eq!(end_point.application_data, b"tls-server-end-point:hash");
}
