use super::*;

/// A receiver with some history: two generations, a window with holes.
fn experienced(suite: Suite) -> (Message, Message) {
    let (mut initiator, mut acceptor) = pair(suite, ALL);
    for i in 0..40u8 {
        if i == 30 {
            initiator.state.tx.messages = MESSAGES_PER_KEY;
        }
        let token = Token::mic(&mut initiator, &[i]);
        if i % 7 != 0 {
            token.give(&mut acceptor).unwrap();
        }
    }
    assert_eq!(acceptor.state.rx.generation, 1);
    assert!(acceptor.previous.is_some());
    (initiator, acceptor)
}

//= proves spec/messages.md#forged
#[test]
fn every_flipped_bit_is_refused_and_changes_nothing() {
    for suite in SUITES {
        let (mut initiator, mut acceptor) = experienced(suite);
        for token in tokens(&mut initiator, b"message") {
            for bit in 0..token.bytes.len() * 8 {
                let mut bytes = token.bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let error = token.with(bytes).refused(&mut acceptor);
                let header = [Error::Malformed, Error::Reflected, Error::Forged];
                assert!(bit < HEADER * 8 && header.contains(&error) || error == Error::Forged);
            }
            // The real one is still the next: nothing was spent.
            assert_eq!(token.give(&mut acceptor), Ok(Supplementary::default()));
        }
    }
}

proptest! {
    /// Any generation, number, flag and content under a key the forger does not have.
    //= proves spec/messages.md#forged
    //= proves spec/messages.md#ahead
    #[test]
    fn a_forged_token_changes_nothing(
        suite in suites(),
        kind in proptest::sample::select(&[Kind::Wrap, Kind::Mic, Kind::Close][..]),
        flags in 0u8..4, generation in prop_oneof![0u32..8, any::<u32>()],
        sequence in prop_oneof![0u64..300, any::<u64>()],
        body in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (_, mut acceptor) = experienced(suite);
        let mut bytes = vec![kind as u8, flags, 0, 0];
        bytes.extend(generation.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(body);
        Token { kind, message: vec![], bytes }.refused(&mut acceptor);
    }

    #[test]
    fn any_bytes_are_refused_and_change_nothing(
        suite in suites(), bytes: Vec<u8>, message: Vec<u8>,
        kind in proptest::sample::select(&[Kind::Wrap, Kind::Mic, Kind::Close][..]),
    ) {
        let (_, mut acceptor) = experienced(suite);
        Token { kind, message, bytes }.refused(&mut acceptor);
    }

    //= proves spec/messages.md#forged
    #[test]
    fn a_token_put_together_from_others_is_refused(
        suite in suites(), cut in 0usize..60, one in 0usize..3, other in 0usize..3,
    ) {
        let (mut initiator, mut acceptor) = experienced(suite);
        let sent = tokens(&mut initiator, b"message of 24 bytes long");
        let (head, tail) = (&sent[one], &sent[other]);
        let cut = cut.min(head.bytes.len()).min(tail.bytes.len());
        let from = tail.bytes.len() - (head.bytes.len() - cut).min(tail.bytes.len());
        let bytes = [&head.bytes[..cut], &tail.bytes[from..]].concat();
        prop_assume!(sent.iter().all(|token| token.bytes != bytes));
        head.with(bytes).refused(&mut acceptor);
    }
}

//= proves spec/messages.md#malformed
#[test]
fn a_malformed_token_is_refused_before_a_key_is_used() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    let [wrap, plain, mic, close] = tokens(&mut initiator, b"message");
    let refused = |token: &Token, change: &dyn Fn(&mut Vec<u8>), acceptor: &mut Message| {
        let mut bytes = token.bytes.clone();
        change(&mut bytes);
        assert_eq!(token.with(bytes).refused(acceptor), Error::Malformed);
    };
    for token in [&wrap, &plain, &mic, &close] {
        for len in 0..OVERHEAD {
            refused(token, &|bytes| bytes.truncate(len), &mut acceptor);
        }
        for kind in (0..=255).filter(|&kind| kind != token.bytes[0]) {
            refused(token, &|bytes| bytes[0] = kind, &mut acceptor);
        }
        for flags in 4..=255 {
            refused(token, &|bytes| bytes[1] = flags, &mut acceptor);
        }
        refused(token, &|bytes| bytes[2] = 1, &mut acceptor);
        refused(token, &|bytes| bytes[3] = 1, &mut acceptor);
        refused(token, &|bytes| bytes[8..16].fill(0xff), &mut acceptor);
    }
    for token in [&mic, &close] {
        refused(token, &|bytes| bytes[1] |= 1, &mut acceptor);
        refused(token, &|bytes| bytes.push(0), &mut acceptor);
        refused(token, &|bytes| bytes.truncate(OVERHEAD - 1), &mut acceptor);
    }
    // Each is accepted only by the call for its type.
    for token in [&wrap, &plain, &mic, &close] {
        for kind in [Kind::Wrap, Kind::Mic, Kind::Close] {
            if kind != token.kind {
                let misused = Token {
                    kind,
                    ..token.clone()
                };
                assert_eq!(misused.refused(&mut acceptor), Error::Malformed);
            }
        }
    }
}

//= proves spec/messages.md#reflection
#[test]
fn a_token_sent_back_is_refused() {
    for suite in SUITES {
        let (mut initiator, mut acceptor) = pair(suite, ALL);
        for (sender, flag) in [(&mut initiator, 0), (&mut acceptor, 2)] {
            for token in tokens(sender, b"message") {
                assert_eq!(token.bytes[1] & 2, flag);
                assert_eq!(token.refused(sender), Error::Reflected);
                // With the flag altered it meets the other direction's key.
                let mut bytes = token.bytes.clone();
                bytes[1] ^= 2;
                assert_eq!(token.with(bytes).refused(sender), Error::Forged);
            }
        }
    }
}

//= proves spec/messages.md#mic
#[test]
fn a_mic_is_no_wrap_token_of_the_same_message() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    let mic = initiator.get_mic(b"message").unwrap();
    let bytes = [&[1], &mic[1..HEADER], b"message", &mic[HEADER..]].concat();
    let forged = Token {
        kind: Kind::Wrap,
        message: b"message".to_vec(),
        bytes,
    };
    assert_eq!(forged.refused(&mut acceptor), Error::Forged);
    // Nor is the MIC of an empty message a close token.
    let mut bytes = initiator.get_mic(b"").unwrap().to_vec();
    bytes[0] = 3;
    let forged = Token {
        kind: Kind::Close,
        message: vec![],
        bytes,
    };
    assert_eq!(forged.refused(&mut acceptor), Error::Forged);
    assert!(!acceptor.is_closed_by_peer());
}

#[test]
fn a_mic_of_another_message_is_refused() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    let mic = Token::mic(&mut initiator, b"message");
    for message in [&b""[..], b"messagf", b"message ", b"messag"] {
        let other = Token {
            message: message.to_vec(),
            ..mic.clone()
        };
        assert_eq!(other.refused(&mut acceptor), Error::Forged);
    }
}

//= proves spec/messages.md#sequence
#[test]
fn the_last_sequence_number_is_never_used() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    initiator.state.tx.sequence = u64::MAX - 1;
    let last = Token::wrap(&mut initiator, true, b"last");
    assert_eq!(last.header().sequence, u64::MAX - 1);
    assert!(last.give(&mut acceptor).unwrap().gap);
    let before = frozen(&initiator);
    for _ in 0..2 {
        assert_eq!(initiator.wrap(true, b""), Err(Error::UsedUp));
        assert_eq!(initiator.get_mic(b""), Err(Error::UsedUp));
        assert_eq!(initiator.close(), Err(Error::UsedUp));
    }
    assert_eq!(frozen(&initiator), before);
    assert!(!initiator.is_closed_here());
    // The receiver stands at its end too, and still tells a repeat.
    assert!(last.give(&mut acceptor).unwrap().duplicate);
}

#[test]
fn a_forked_copy_is_dead() {
    use crate::sys::process::{Fork, exit_now, fork};

    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    let mut sent = tokens(&mut acceptor, b"message");
    let dead = Err(Error::Forked);
    match fork().unwrap() {
        Fork::Child => {
            let [wrap, plain, mic, close] = &mut sent;
            let refused = [
                initiator.wrap_in_place(true, &mut [0; 40]) == dead,
                initiator.get_mic(b"").map(drop) == dead,
                initiator.close().map(drop) == dead,
                initiator.unwrap(&mut wrap.bytes).map(drop) == dead,
                initiator.unwrap(&mut plain.bytes).map(drop) == dead,
                initiator.verify_mic(b"message", &mic.bytes).map(drop) == dead,
                initiator.process(&close.bytes).map(drop) == dead,
                initiator.freeze().is_none(),
                !initiator.is_closed_here() && !initiator.is_closed_by_peer(),
            ];
            drop(initiator);
            exit_now(refused.iter().filter(|refused| **refused).count() as u8);
        }
        Fork::Parent(mut child) => assert_eq!(child.wait().unwrap().code(), Some(9)),
    }
    for token in sent {
        assert_eq!(token.give(&mut initiator), Ok(Supplementary::default()));
    }
}
