//! Keys that move, and sequence numbers that end.

use super::super::protocol::{SEQUENCE_END, SEQUENCE_START};
use super::*;

//= proves spec/records.md#key-update-in
#[test]
fn a_key_update_is_followed_and_answered_once() {
    for suite in SUITES {
        let (mut server, mut client) = pair(suite);
        let mut forger = Forger::new(suite, false);
        let mut wire = forger.record(23, b"old, ");
        for value in [1, 1, 0, 1] {
            wire.extend(forger.key_update(value));
        }
        wire.extend(forger.record(23, b"new"));
        assert_eq!(drain(&mut server, &wire).unwrap().0, b"old, new");
        // Three requests, one answer, in front of the data.
        let mut answer = Vec::new();
        server.seal(b"data", &mut answer).unwrap();
        assert_eq!(answer.len(), 5 + OVERHEAD + 4 + OVERHEAD);
        assert_eq!(drain(&mut client, &answer).unwrap().0, b"data");
        assert_eq!(client.take_output().len(), 0, "the answer asks for nothing");
    }
}

//= proves spec/records.md#key-update-in
#[test]
fn a_key_update_out_of_shape_is_refused() {
    let meets = |message: &'static [u8]| server_meets(move |forger| forger.record(22, message));
    assert_eq!(
        meets(&[24, 0, 0, 1, 2]),
        (Error::Illegal, Some(Alert::ILLEGAL_PARAMETER))
    );
    assert_eq!(meets(&[24, 0, 0, 0]), MALFORMED);
    assert_eq!(meets(&[24, 0, 0, 2, 0, 0]), MALFORMED);
    assert_eq!(meets(&[24, 0, 0, 1, 0, 24]), UNEXPECTED);
    assert_eq!(meets(&[24, 0, 0, 1, 0, 24, 0, 0, 1, 0]), UNEXPECTED);
    // The old key is over.
    let stale = server_meets(|forger| {
        let update = forger.record(22, &[24, 0, 0, 1, 0]);
        [update, forger.record(23, b"under the old key")].concat()
    });
    assert_eq!(stale, FORGED);
}

//= proves spec/records.md#key-update-out
//= proves spec/records.md#order
#[test]
fn key_updates_alerts_and_data_leave_in_order() {
    for suite in SUITES {
        let (mut server, mut client) = pair(suite);
        server.write(b"1").unwrap();
        server.key_update(false).unwrap();
        server.write(b"2").unwrap();
        server.key_update(true).unwrap();
        assert_eq!(
            server.seal_in_place(&mut [0; 100], 1),
            Err(Error::OutputFirst)
        );
        let mut wire = Vec::new();
        server.seal(b"3", &mut wire).unwrap();
        assert!(server.output().is_empty());
        let mut buffer = [0; 100];
        let length = server.seal_in_place(&mut buffer, 1).unwrap();
        wire.extend_from_slice(&buffer[..length]);
        server.close_notify();
        wire.extend(server.take_output());
        assert_eq!(
            drain(&mut client, &wire).unwrap(),
            (b"123\0".to_vec(), vec![], true)
        );
        // The client's answer to key_update(true) is one KeyUpdate, and asks for nothing.
        assert_eq!(drain(&mut server, &client.take_output()).unwrap().0, b"");
        client.write(b"4").unwrap();
        assert_eq!(drain(&mut server, &client.take_output()).unwrap().0, b"4");
    }
}

//= proves spec/records.md#order
#[test]
fn a_request_of_our_own_does_not_swallow_an_answer() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    client.key_update(true).unwrap();
    drain(&mut server, &client.take_output()).unwrap();
    server.key_update(true).unwrap();
    let wire = server.take_output();
    assert_eq!(wire.len(), 2 * (5 + OVERHEAD));
    drain(&mut client, &wire).unwrap();
    assert_eq!(client.take_output().len(), 5 + OVERHEAD);
}

//= proves spec/records.md#key-limit-out
#[test]
fn our_key_moves_before_its_limit() {
    for limit in [1, 2, 7] {
        let mut server = side(Suite::Aes128Gcm, true, Limits::default().records(limit));
        let (_, mut client) = pair(Suite::Aes128Gcm);
        let mut updates = 0;
        for round in 0..20u8 {
            let mut buffer = [round; 100];
            let mut wire = Vec::new();
            let length = match server.seal_in_place(&mut buffer, 1) {
                Err(Error::OutputFirst) => {
                    wire = server.take_output();
                    updates += 1;
                    server.seal_in_place(&mut buffer, 1).unwrap()
                }
                other => other.unwrap(),
            };
            wire.extend_from_slice(&buffer[..length]);
            server.seal(&[round], &mut wire).unwrap();
            assert_eq!(drain(&mut client, &wire).unwrap().0, [round; 2]);
            assert!(server.protocol.tx_sequence <= u64::from(limit));
        }
        assert!(
            updates > 0,
            "in place, it says when the output must go first"
        );
        // In one call, too.
        server.limits(64);
        server.write(&[1; 640]).unwrap();
        assert_eq!(
            drain(&mut client, &server.take_output()).unwrap().0,
            [1; 640]
        );
    }
}

impl Record {
    /// Small records from here on.
    fn limits(&mut self, fragment: u16) {
        self.protocol.limits = self.protocol.limits.fragment(fragment);
    }
}

//= proves spec/records.md#key-limit-in
#[test]
fn the_peer_is_asked_to_move_and_cut_off_when_it_does_not() {
    let limited = || side(Suite::Aes128Gcm, true, Limits::default().received(5));
    let (mut server, mut client) = (limited(), pair(Suite::Aes128Gcm).1);
    let mut asked = 0;
    for _ in 0..50 {
        client.write(b"x").unwrap();
        assert_eq!(drain(&mut server, &client.take_output()).unwrap().0, b"x");
        let request = server.take_output();
        asked += usize::from(!request.is_empty());
        drain(&mut client, &request).unwrap();
    }
    assert_eq!(asked, 10, "once for each key");

    let (mut server, mut client) = (limited(), pair(Suite::Aes128Gcm).1);
    let mut forger = Forger::new(Suite::Aes128Gcm, false);
    let wire = (0..10)
        .flat_map(|_| forger.record(23, b"x"))
        .collect::<Vec<_>>();
    assert_eq!(drain(&mut server, &wire).unwrap().0.len(), 10);
    let last = forger.record(23, b"x");
    let worn_out = (Error::KeyWornOut, Some(Alert::INTERNAL_ERROR));
    assert_eq!(refusal(&mut server, &last, &mut client), worn_out);
    // Who has closed cannot ask.
    let mut server = limited();
    server.close_notify();
    let closing = server.take_output();
    drain(&mut server, &wire).unwrap();
    assert!(!closing.is_empty() && server.take_output().is_empty());
}

//= proves spec/records.md#sequence
#[test]
fn a_sequence_number_at_its_end_is_refused() {
    let (mut server, _) = pair(Suite::Aes128Gcm);
    server.protocol.limits.records = u32::MAX;
    server.protocol.tx_sequence = SEQUENCE_END - 1;
    let mut buffer = [0; 64];
    server.seal_in_place(&mut buffer, 3).unwrap();
    assert_eq!(server.seal_in_place(&mut buffer, 3), Err(Error::UsedUp));
    assert_eq!(server.write(b"x"), Err(Error::UsedUp));
    assert!(
        server.take_output().is_empty(),
        "there is no number for an alert either"
    );

    for (tx_sequence, rx_sequence) in [
        (SEQUENCE_START + 1, 0),
        (0, SEQUENCE_START + 1),
        (u64::MAX, u64::MAX),
    ] {
        let (suite, server) = (Suite::Aes128Gcm, true);
        let secret = secret(suite, server);
        let (tx_secret, rx_secret) = (&secret[..], &secret[..]);
        let secrets = Secrets {
            suite,
            server,
            tx_secret,
            rx_secret,
            tx_sequence,
            rx_sequence,
        };
        assert_eq!(
            Record::new(&secrets, Limits::default(), &[]).unwrap_err(),
            Error::Secrets
        );
    }
}

//= proves spec/records.md#sequence
#[test]
fn a_sequence_number_seals_once_and_moves_with_each_record() {
    for suite in SUITES {
        let (mut server, _) = pair(suite);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..50 {
            server.write(&[0; 32]).unwrap();
            assert!(
                seen.insert(server.take_output()),
                "equal plaintext never gives equal records"
            );
        }
        assert_eq!(server.protocol.tx_sequence, 50);
    }
}
