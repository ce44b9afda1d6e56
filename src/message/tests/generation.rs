use super::*;

/// Has the sender's next token be the first of the next generation.
fn exhaust(sender: &mut Message) {
    sender.state.tx.messages = MESSAGES_PER_KEY;
}

/// A token of the generation `steps` after the sender's present one.
fn after(sender: &mut Message, steps: u32, message: &[u8]) -> Token {
    for _ in 1..steps {
        exhaust(sender);
        sender.wrap(true, b"lost").unwrap();
    }
    exhaust(sender);
    Token::wrap(sender, true, message)
}

fn generations(message: &Message) -> (u32, u32) {
    (
        message.state.tx.chain.generation,
        message.state.rx.generation,
    )
}

//= proves spec/messages.md#move
//= proves spec/messages.md#next
//= proves spec/messages.md#commit
#[test]
fn both_sides_move_on_after_so_many_tokens() {
    for suite in SUITES {
        let (mut initiator, mut acceptor) = pair(suite, ALL);
        for generation in 0..3 {
            initiator.state.tx.messages = MESSAGES_PER_KEY - 2;
            acceptor.state.tx.messages = MESSAGES_PER_KEY - 2;
            for i in 0..4u8 {
                let now = generation + u32::from(i > 1);
                let token = Token::wrap(&mut initiator, true, &[i]);
                assert_eq!(token.header().generation, now);
                assert_eq!(token.give(&mut acceptor), Ok(Supplementary::default()));
                let token = Token::mic(&mut acceptor, &[i]);
                assert_eq!(token.header().generation, now);
                assert_eq!(token.give(&mut initiator), Ok(Supplementary::default()));
                assert_eq!(generations(&initiator), (now, now));
            }
            assert_eq!(initiator.state.tx.messages, 2);
        }
        // Numbers do not start again with a generation.
        assert_eq!(initiator.state.tx.sequence, 12);
    }
}

//= proves spec/messages.md#move
#[test]
fn a_sender_moves_on_before_so_many_bytes() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    initiator.state.tx.bytes = BYTES_PER_KEY - 2 * (16 + 100);
    for (len, generation, bytes) in [
        (100, 0, BYTES_PER_KEY - (16 + 100)),
        (100, 0, BYTES_PER_KEY),
        (0, 1, 16),
        (84, 1, 116),
    ] {
        let token = Token::wrap(&mut initiator, false, &vec![1; len]);
        assert_eq!(
            (token.header().generation, initiator.state.tx.bytes),
            (generation, bytes)
        );
        assert_eq!(token.give(&mut acceptor), Ok(Supplementary::default()));
    }
    assert_eq!(initiator.state.tx.messages, 2);
}

/// With the true limit, not a shortened one.
//= proves spec/messages.md#move
#[test]
fn the_generation_changes_after_2_to_the_20_tokens() {
    let (mut initiator, _) = pair(Suite::Aes128Gcm, ALL);
    for _ in 0..1 << 20 {
        initiator.get_mic(b"").unwrap();
    }
    assert_eq!(generations(&initiator), (0, 0));
    let token = Token::mic(&mut initiator, b"");
    assert_eq!(
        (token.header().generation, token.header().sequence),
        (1, 1 << 20)
    );
}

//= proves spec/messages.md#ahead
#[test]
fn a_receiver_tries_four_generations_ahead_and_no_more() {
    for steps in 1..=6 {
        let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
        Token::wrap(&mut initiator, true, b"first")
            .give(&mut acceptor)
            .unwrap();
        let token = after(&mut initiator, steps, b"ahead");
        assert_eq!(token.header().generation, steps);
        if steps <= 4 {
            assert_eq!(
                token.give(&mut acceptor).map(|told| told.gap),
                Ok(steps > 1)
            );
            assert_eq!(acceptor.state.rx.generation, steps);
            let next = Token::mic(&mut initiator, b"next");
            assert_eq!(next.give(&mut acceptor), Ok(Supplementary::default()));
        } else {
            assert_eq!(token.refused(&mut acceptor), Error::Forged);
        }
    }
}

//= proves spec/messages.md#ahead
//= proves spec/messages.md#forged
#[test]
fn a_forged_later_generation_moves_nothing() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes256Gcm, ALL);
    let token = Token::wrap(&mut initiator, true, b"message");
    for generation in [1, 2, 3, 4, 5, 6, 1000, u32::MAX] {
        let mut bytes = token.bytes.clone();
        bytes[4..8].copy_from_slice(&generation.to_be_bytes());
        assert_eq!(token.with(bytes).refused(&mut acceptor), Error::Forged);
    }
    assert_eq!(token.give(&mut acceptor), Ok(Supplementary::default()));
}

//= proves spec/messages.md#commit
//= proves spec/messages.md#ahead
#[test]
fn late_tokens_of_the_generation_before_are_accepted_until_the_window_has_passed() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    let older = Token::wrap(&mut initiator, true, b"generation 0");
    let late: Vec<Token> = [true, false]
        .map(|confidential| {
            if initiator.state.tx.chain.generation == 0 {
                exhaust(&mut initiator);
            }
            Token::wrap(&mut initiator, confidential, b"generation 1")
        })
        .into();
    exhaust(&mut initiator);
    let first = Token::mic(&mut initiator, b"generation 2");
    assert!(first.give(&mut acceptor).unwrap().gap);

    // Number 3 caused the move; one of the two generations before it is kept.
    assert_eq!(acceptor.state.since, 3);
    assert_eq!(older.refused(&mut acceptor), Error::Forged);
    assert!(late[0].give(&mut acceptor).unwrap().unsequenced);
    for number in 4..3 + 255 {
        assert_eq!(
            Token::mic(&mut initiator, b"").give(&mut acceptor),
            Ok(Supplementary::default())
        );
        assert!(acceptor.previous.is_some(), "{number}");
    }
    let mut other = hop(&acceptor);
    assert!(late[1].give(&mut other).unwrap().unsequenced);

    // With the 255th after it the window has passed all that could be of an earlier generation.
    let passes = Token::mic(&mut initiator, b"");
    assert_eq!(passes.header().sequence, 3 + 255);
    passes.give(&mut acceptor).unwrap();
    assert!(acceptor.previous.is_none());
    assert_eq!(late[1].refused(&mut acceptor), Error::Forged);
}

/// A jump of the numbers far over the window, with a late token of the generation after that.
//= proves spec/messages.md#commit
#[test]
fn no_key_is_kept_for_a_token_that_is_already_behind_the_window() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    let sequence = |initiator: &mut Message, to| initiator.state.tx.sequence = to;
    sequence(&mut initiator, 1000);
    Token::mic(&mut initiator, b"").give(&mut acceptor).unwrap();
    // A peer that breaks the rules: an old number under a new generation.
    sequence(&mut initiator, 10);
    exhaust(&mut initiator);
    assert!(
        Token::mic(&mut initiator, b"")
            .give(&mut acceptor)
            .unwrap()
            .old
    );
    assert!(acceptor.previous.is_none());
    assert_eq!(acceptor.state.since, 10);
    frozen(&hop(&acceptor));
}

/// A peer that breaks the rules: a number for fewer tokens than there were generations. What the
/// receiver takes, it can also hand on.
//= proves spec/messages.md#bounds
#[test]
fn a_generation_that_began_too_early_hops_all_the_same() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    for generation in 0..3 {
        exhaust(&mut initiator);
        initiator.state.tx.sequence = 0;
        let token = Token::mic(&mut initiator, b"");
        assert_eq!(token.give(&mut acceptor).unwrap().duplicate, generation > 0);
    }
    assert_eq!(acceptor.state.since, 0);
    let mut acceptor = hop(&acceptor);
    let next = Token::wrap(&mut initiator, true, b"on the other side");
    next.give(&mut acceptor).unwrap();
}

//= proves spec/messages.md#last-generation
#[test]
fn a_sender_does_not_go_past_the_last_generation() {
    let (mut initiator, _) = pair(Suite::Aes128Gcm, ALL);
    initiator.state.tx.chain.generation = u32::MAX - 1;
    exhaust(&mut initiator);
    let token = Token::wrap(&mut initiator, true, b"");
    assert_eq!(token.header().generation, u32::MAX);
    exhaust(&mut initiator);
    let (messages, sequence) = (initiator.state.tx.messages, initiator.state.tx.sequence);
    assert_eq!(initiator.wrap(true, b""), Err(Error::UsedUp));
    assert_eq!(initiator.get_mic(b""), Err(Error::UsedUp));
    assert_eq!(
        (initiator.state.tx.messages, initiator.state.tx.sequence),
        (messages, sequence)
    );
}

/// Near the last generation the receiver looks ahead over the end and does not wrap around.
#[test]
fn a_receiver_does_not_look_past_the_last_generation() {
    let (mut initiator, mut acceptor) = pair(Suite::Aes128Gcm, ALL);
    acceptor.state.rx.generation = u32::MAX;
    let token = Token::wrap(&mut initiator, true, b"");
    for generation in [0, 1, 3, u32::MAX - 5, u32::MAX - 1, u32::MAX] {
        let mut bytes = token.bytes.clone();
        bytes[4..8].copy_from_slice(&generation.to_be_bytes());
        let before = acceptor.state.window;
        assert_eq!(token.with(bytes).give(&mut acceptor), Err(Error::Forged));
        assert_eq!(acceptor.state.window, before);
    }
}
