//! Post-handshake messages and floods of them, against a forger.

use super::*;

//= proves spec/records.md#messages
#[test]
fn messages_are_put_together_from_any_pieces() {
    let messages = [ticket(1), ticket(300), ticket(5000)].concat();
    for size in [100, 311, 5000, 16_384] {
        let (_, mut client) = pair(Suite::Aes128Gcm);
        let mut forger = Forger::new(Suite::Aes128Gcm, true);
        let wire = messages
            .chunks(size)
            .flat_map(|piece| forger.record(22, piece))
            .collect::<Vec<_>>();
        let (_, tickets, _) = drain(&mut client, &wire).unwrap();
        assert_eq!(tickets.len(), 3);
        assert_eq!(tickets[1], ticket(300)[4..]);
        // In place, one event a call.
        let (_, mut client) = pair(Suite::Aes128Gcm);
        let (mut wire, mut at, mut told) = (wire, 0, Vec::new());
        loop {
            let Opened { consumed, event } = client.open(&mut wire[at..]).unwrap();
            at += consumed;
            match event {
                Event::Ticket(body) => told.push(body),
                Event::Nothing => {}
                Event::Incomplete { needed: HEADER } => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((told, at), (tickets, wire.len()));
    }
}

//= proves spec/records.md#messages
#[test]
fn nothing_stands_between_the_pieces_of_a_message() {
    for between in [(23, &b"data"[..]), (23, b""), (21, &[1, 0]), (21, &[2, 80])] {
        let cut = |forger: &mut Forger| {
            let first = forger.record(22, &ticket(9)[..10]);
            [first, forger.inner(&[between.1, &[between.0]].concat())].concat()
        };
        assert_eq!(client_meets(cut), UNEXPECTED);
    }
}

//= proves spec/records.md#messages
#[test]
fn other_messages_are_refused_at_their_first_byte() {
    for kind in (0..=255).filter(|kind| ![4, 24].contains(kind)) {
        assert_eq!(
            client_meets(|forger| forger.record(22, &[kind])),
            UNEXPECTED,
            "{kind}"
        );
        assert_eq!(
            server_meets(|forger| forger.record(22, &[kind])),
            UNEXPECTED,
            "{kind}"
        );
    }
    // And one behind a ticket that was taken.
    assert_eq!(
        client_meets(|forger| forger.record(22, &[&ticket(5)[..], &[13]].concat())),
        UNEXPECTED
    );
    assert_eq!(
        client_meets(|forger| forger.record(22, &[4, 1, 0, 0])),
        MALFORMED
    );
    assert_eq!(
        client_meets(|forger| forger.record(22, &[4, 255, 255, 255])),
        MALFORMED
    );
}

//= proves spec/records.md#ticket
#[test]
fn tickets_are_for_clients_and_of_one_shape() {
    assert_eq!(
        server_meets(|forger| forger.record(22, &ticket(5))),
        UNEXPECTED
    );
    let good = ticket(5);
    for length in 0..good.len() - MESSAGE_HEADER {
        let mut short = good[..MESSAGE_HEADER + length].to_vec();
        short[3] = length as u8;
        assert_eq!(
            client_meets(|forger| forger.record(22, &short)),
            MALFORMED,
            "{length}"
        );
    }
    let mut long = [&good[..], &[0]].concat();
    long[3] += 1;
    assert_eq!(client_meets(|forger| forger.record(22, &long)), MALFORMED);
    assert_eq!(
        client_meets(|forger| forger.record(22, &ticket(0))),
        MALFORMED
    );
}

/// A peer that asks for new keys, pays with a byte each time, and reads nothing.
//= proves spec/records.md#buffers
#[test]
fn answers_nobody_reads_do_not_pile_up() {
    let mut forger = Forger::new(Suite::Aes128Gcm, true);
    let (_, mut client) = pair(Suite::Aes128Gcm);
    for _ in 0..2500 {
        let asking = [forger.key_update(1), forger.record(23, b"1")].concat();
        drain(&mut client, &asking).unwrap();
        assert!(client.output().len() <= 3 * MAX_CONTENT + 64);
    }
    // What is owed is answered as soon as there is room.
    client.sent(usize::MAX);
    assert!(!client.output().is_empty());
    client.sent(usize::MAX);
    assert!(client.output().is_empty());
    // Whoever takes all of it takes the answer too.
    let full = vec![0; 3 * MAX_CONTENT];
    assert_eq!(client.write(&full), Ok(full.len()));
    drain(&mut client, &forger.key_update(1)).unwrap();
    let sealed = client.output().len();
    assert!(client.take_output().len() > sealed);
    assert!(client.take_output().is_empty());
}

//= proves spec/records.md#flood
#[test]
fn floods_are_cut_at_their_caps() {
    type Forge = fn(&mut Forger) -> Vec<u8>;
    let kinds: [(usize, Forge); 5] = [
        (32, |forger| forger.key_update(0)),
        (32, |forger| forger.key_update(1)),
        (32, |forger| forger.inner(&[23, 0, 0, 0])),
        (4, |forger| forger.record(21, &[1, 90])),
        // Each counts as a record and as a ticket.
        (32, |forger| forger.record(22, &ticket(1))),
    ];
    for (cap, forge) in kinds {
        let mut forger = Forger::new(Suite::Aes128Gcm, true);
        let (mut server, mut client) = pair(Suite::Aes128Gcm);
        for _round in 0..3 {
            for _ in 0..cap {
                drain(&mut client, &forge(&mut forger)).unwrap();
            }
            drain(&mut client, &forger.record(23, b"data pays for all")).unwrap();
        }
        for _ in 0..cap {
            drain(&mut client, &forge(&mut forger)).unwrap();
        }
        assert_eq!(
            refusal(&mut client, &forge(&mut forger), &mut server),
            FLOOD
        );
    }
    // Tiny pieces of one long message, and many tickets in one record.
    let long = ticket(60_000);
    let pieces = |forger: &mut Forger| {
        long.chunks(1)
            .flat_map(|piece| forger.record(22, piece))
            .collect()
    };
    assert_eq!(client_meets(pieces), FLOOD);
    assert_eq!(
        client_meets(|forger| forger.record(22, &ticket(1).repeat(64))),
        FLOOD
    );
}

//= proves spec/records.md#flood
#[test]
fn key_updates_that_were_asked_for_are_no_flood() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    for _ in 0..200 {
        server.key_update(true).unwrap();
        drain(&mut client, &server.take_output()).unwrap_or_else(|error| panic!("{error}"));
        drain(&mut server, &client.take_output()).unwrap();
        server.write(b"x").unwrap();
        drain(&mut client, &server.take_output()).unwrap();
    }
}
