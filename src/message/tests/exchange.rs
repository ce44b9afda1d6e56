use super::*;

fn quiet() -> Result<Supplementary, Error> {
    Ok(Supplementary::default())
}

proptest! {
    //= proves spec/messages.md#keys
    //= proves spec/messages.md#wrap
    //= proves spec/messages.md#integrity
    //= proves spec/messages.md#mic
    //= proves spec/messages.md#close
    #[test]
    fn what_one_side_sends_the_other_accepts(
        suite in suites(), message: Vec<u8>, answer: Vec<u8>,
    ) {
        let (mut initiator, mut acceptor) = pair(suite, ALL);
        for token in tokens(&mut initiator, &message) {
            prop_assert_eq!(token.give(&mut acceptor), quiet());
        }
        for token in tokens(&mut acceptor, &answer) {
            prop_assert_eq!(token.give(&mut initiator), quiet());
        }
    }
}

//= proves spec/messages.md#header
#[test]
fn a_header_is_the_one_of_the_page() {
    let header = Header {
        kind: Kind::Wrap,
        confidential: true,
        from_acceptor: true,
        generation: 0x0102_0304,
        sequence: 0x1112_1314_1516_1718,
    };
    let bytes = [
        1, 3, 0, 0, 1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
    ];
    assert_eq!(header.encode(), bytes);
    let token = [&bytes[..], &[0; TAG]].concat();
    assert_eq!(Header::parse(&token, Kind::Wrap), Ok(header));

    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    let starts = |token: &Token| (token.bytes[0], token.bytes[1], token.header().sequence);
    let sent = tokens(&mut initiator, b"").map(|token| starts(&token));
    assert_eq!(sent, [(1, 1, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3)]);
    let sent = tokens(&mut acceptor, b"").map(|token| starts(&token));
    assert_eq!(sent, [(1, 3, 0), (1, 2, 1), (2, 2, 2), (3, 2, 3)]);
}

#[test]
fn an_encrypted_message_does_not_show_and_a_plain_one_does() {
    let (mut initiator, _) = pair(Suite::Aes256Gcm, ALL);
    let message = *b"a message of some length";
    let shows = |token: &[u8]| token.windows(message.len()).any(|part| part == message);
    assert!(!shows(&initiator.wrap(true, &message).unwrap()));
    assert!(shows(&initiator.wrap(false, &message).unwrap()));
    assert!(!shows(&initiator.get_mic(&message).unwrap()));
}

//= proves spec/messages.md#size
#[test]
fn sizes_are_those_of_the_page() {
    let (mut initiator, _) = pair(Suite::Aes128Gcm, ALL);
    for len in [0, 1, 15, 16, 1000] {
        for confidential in [true, false] {
            let token = initiator.wrap(confidential, &vec![7; len]).unwrap();
            assert_eq!(token.len(), len + OVERHEAD);
            assert_eq!(Message::wrap_size_limit(confidential, token.len()), len);
        }
        assert_eq!(initiator.get_mic(&vec![7; len]).unwrap().len(), 32);
    }
    for (token, message) in [
        (0, 0),
        (31, 0),
        (32, 0),
        (33, 1),
        (MAX_MESSAGE + 33, MAX_MESSAGE),
        (usize::MAX, MAX_MESSAGE),
    ] {
        assert_eq!(Message::wrap_size_limit(true, token), message);
    }
}

/// Zeroed memory that is never touched costs nothing, so that the limit itself can be tried.
//= proves spec/messages.md#size
#[test]
fn a_message_over_the_limit_is_refused_and_takes_no_number() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    let before = frozen(&initiator);
    let mut large = vec![0; MAX_MESSAGE + 1 + OVERHEAD];
    assert_eq!(
        initiator.wrap(true, &large[OVERHEAD..]),
        Err(Error::TooLarge)
    );
    assert_eq!(
        initiator.wrap_in_place(true, &mut large),
        Err(Error::TooLarge)
    );
    assert_eq!(initiator.get_mic(&large[OVERHEAD..]), Err(Error::TooLarge));
    assert_eq!(frozen(&initiator), before);

    let mic = initiator.get_mic(b"").unwrap();
    let before = frozen(&acceptor);
    assert_eq!(
        acceptor.verify_mic(&large[OVERHEAD..], &mic),
        Err(Error::TooLarge)
    );
    large[0] = 1;
    assert_eq!(acceptor.unwrap(&mut large).unwrap_err(), Error::Malformed);
    assert_eq!(frozen(&acceptor), before);
}

#[test]
fn wrapping_in_place_and_wrapping_give_the_same_token() {
    let (mut one, mut other) = (pair(Suite::Aes128Gcm, ALL).0, pair(Suite::Aes128Gcm, ALL).0);
    for confidential in [true, false] {
        // What lies where header and tag come does not matter.
        let mut buffer = [&[0xaa; HEADER][..], b"message", &[0xbb; TAG]].concat();
        one.wrap_in_place(confidential, &mut buffer).unwrap();
        assert_eq!(buffer, other.wrap(confidential, b"message").unwrap());
    }
    for len in 0..OVERHEAD {
        assert_eq!(
            one.wrap_in_place(true, &mut vec![0; len]),
            Err(Error::BufferTooShort)
        );
    }
}

/// The table by which `Window` is tested holds for tokens of every kind; here the services decide.
//= proves spec/messages.md#services
//= proves spec/messages.md#supplementary
#[test]
fn a_duplicate_is_delivered_and_told() {
    for (replay, sequence) in [(false, false), (true, false), (false, true), (true, true)] {
        let services = Services {
            replay,
            sequence,
            confidentiality: true,
        };
        let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, services);
        let sent: Vec<Token> = (0..300u32)
            .map(|i| match i % 3 {
                0 => Token::wrap(&mut initiator, true, &i.to_be_bytes()),
                1 => Token::wrap(&mut initiator, false, &i.to_be_bytes()),
                _ => Token::mic(&mut initiator, &i.to_be_bytes()),
            })
            .collect();
        let told = |duplicate, old, unsequenced, gap| Supplementary {
            duplicate: duplicate && (replay || sequence),
            old: old && (replay || sequence),
            unsequenced: unsequenced && sequence,
            gap: gap && sequence,
        };
        let cases = [
            (0, told(false, false, false, false)),
            (0, told(true, false, false, false)),
            (299, told(false, false, false, true)),
            (298, told(false, false, true, false)),
            (298, told(true, false, false, false)),
            (44, told(false, false, true, false)),
            (43, told(false, true, false, false)),
        ];
        for (i, expected) in cases {
            assert_eq!(
                sent[i].give(&mut acceptor),
                Ok(expected),
                "{i} {services:?}"
            );
        }
    }
}

//= proves spec/messages.md#close
//= proves spec/messages.md#closed
#[test]
fn closing_ends_one_direction_and_not_the_other() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    let late = Token::wrap(&mut initiator, true, b"late");
    let close = Token::close(&mut initiator);
    assert!(initiator.is_closed_here() && !initiator.is_closed_by_peer());
    assert_eq!(initiator.wrap(true, b""), Err(Error::ClosedHere));
    assert_eq!(initiator.get_mic(b""), Err(Error::ClosedHere));
    assert_eq!(initiator.close(), Err(Error::ClosedHere));

    // The message before it has not arrived, and is told missing.
    assert!(close.give(&mut acceptor).unwrap().gap);
    assert!(acceptor.is_closed_by_peer() && !acceptor.is_closed_here());
    assert_eq!(late.refused(&mut acceptor), Error::ClosedByPeer);
    assert_eq!(close.refused(&mut acceptor), Error::ClosedByPeer);

    assert_eq!(
        Token::wrap(&mut acceptor, true, b"answer").give(&mut initiator),
        quiet()
    );
    assert_eq!(Token::close(&mut acceptor).give(&mut initiator), quiet());
    assert!(hop(&initiator).is_closed_here() && hop(&initiator).is_closed_by_peer());
}

#[test]
fn encryption_that_was_not_granted_is_refused_on_both_sides() {
    let (mut plain, mut acceptor) = pair(Suite::Aes128Gcm, NONE);
    let before = frozen(&plain);
    assert_eq!(plain.wrap(true, b"message"), Err(Error::NotConfidential));
    assert_eq!(frozen(&plain), before);
    let (mut initiator, _) = pair(Suite::Aes128Gcm, ALL);
    let token = Token::wrap(&mut initiator, true, b"message");
    assert_eq!(token.refused(&mut acceptor), Error::Malformed);
    assert_eq!(
        Token::wrap(&mut plain, false, b"message").give(&mut acceptor),
        quiet()
    );
}

#[test]
fn every_error_has_the_status_of_the_page() {
    use crate::status::{Major, Status};
    let table = [
        (Error::Malformed, Major::DefectiveToken),
        (Error::Forged, Major::BadMic),
        (Error::Reflected, Major::BadMic),
        (Error::ClosedByPeer, Major::NoContext),
        (Error::TooLarge, Major::Failure),
        (Error::BufferTooShort, Major::Failure),
        (Error::NotConfidential, Major::Unavailable),
        (Error::ClosedHere, Major::NoContext),
        (Error::Forked, Major::NoContext),
        (Error::UsedUp, Major::ContextExpired),
    ];
    for (error, major) in table {
        assert_eq!(Status::from(error).major(), major);
        assert!(!error.to_string().is_empty());
    }
}
