//! What travels, and what a hostile exporter may try.

use proptest::prelude::*;

use super::*;

/// A state with something in every field that can hold something at once.
fn full() -> (Record, Record) {
    let limits = Limits::default()
        .records(1000)
        .received(2000)
        .fragment(9000)
        .padding(Padding::Block(32));
    let mut server = side(Suite::Aes256Gcm, true, limits);
    let (_, mut client) = pair(Suite::Aes256Gcm);
    client.write(b"unread").unwrap();
    client.key_update(true).unwrap();
    client.write(b"unopened").unwrap();
    client.key_update(true).unwrap();
    server.write(b"unsent").unwrap();
    let wire = client.take_output();
    server.feed(&wire[..wire.len() - 3]).unwrap();
    assert_eq!(server.read(&mut [0; 2]), Ok(Read::Data(2)));
    server.sent(3);
    (server, client)
}

fn frozen(record: &Record) -> Scratch {
    let mut bytes = Scratch::with_capacity(0);
    codec::encode(&record.freeze().unwrap(), &mut bytes, 1 << 20).unwrap();
    bytes
}

//= proves spec/records.md#freeze C2
#[test]
fn a_state_that_moved_is_the_same_state() {
    let (server, _) = full();
    let first = frozen(&server);
    let moved = hop(&server).unwrap();
    assert_eq!(frozen(&moved)[..], first[..]);
    assert_eq!(moved.plaintext(), b"read");
    assert_eq!(format!("{moved:?}"), format!("{server:?}"));
}

//= proves spec/records.md#freeze C2
#[test]
fn a_collected_message_and_a_waiting_ticket_move() {
    let (_, mut client) = pair(Suite::Aes128Gcm);
    let mut forger = Forger::new(Suite::Aes128Gcm, true);
    let messages = [ticket(10), ticket(20)].concat();
    let (first, second) = messages.split_at(messages.len() - 9);
    client.feed(&forger.record(22, first)).unwrap();
    assert_eq!(
        client.read(&mut [0; 1]),
        Ok(Read::Ticket(ticket(10)[4..].to_vec()))
    );
    let mut client = hop(&client).unwrap();
    assert_eq!(
        client.read(&mut [0; 1]),
        Ok(Read::Incomplete { needed: HEADER })
    );
    client.feed(&forger.record(22, second)).unwrap();
    let mut client = hop(&client).unwrap();
    assert_eq!(
        client.read(&mut [0; 1]),
        Ok(Read::Ticket(ticket(20)[4..].to_vec()))
    );
}

//= proves spec/records.md#freeze
#[test]
fn up_to_64_kib_travel_and_no_more() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    let mut wire = Vec::new();
    client.seal(&[1; 49_935 - 4 * OVERHEAD], &mut wire).unwrap();
    assert_eq!(server.feed(&wire), Ok(49_935));
    server
        .write(&vec![2; TRANSFER_LIMIT - 49_935 - OVERHEAD])
        .unwrap();
    let mut moved = hop(&server).unwrap();
    assert_eq!(
        drain(&mut client, &moved.take_output()).unwrap().0.len(),
        15_579
    );
    server.write(b"").unwrap();
    assert!(server.freeze().is_some(), "nothing was written");
    server.write(b"1").unwrap();
    assert!(server.freeze().is_none());
    // Reading makes it travel again.
    assert_eq!(server.read(&mut [0; 100]), Ok(Read::Data(100)));
    assert!(hop(&server).is_some());
}

/// The encoded state with one field changed: where it lies is found by what it held.
fn altered(find: &[u8], with: &[u8]) -> Result<(), Defect> {
    let (server, _) = full();
    let bytes = frozen(&server);
    let at = bytes
        .windows(find.len())
        .position(|window| window == find)
        .unwrap();
    let changed = [&bytes[..at], with, &bytes[at + find.len()..]].concat();
    let (state, _) = codec::decode::<Frozen<'_>>(&changed)?;
    Record::thaw(state).map(drop)
}

use crate::codec::Defect;

//= proves spec/records.md#thaw
#[test]
fn a_state_out_of_bounds_is_refused() {
    let varint = |number: u64| {
        let mut bytes = Scratch::with_capacity(0);
        codec::encode(&number, &mut bytes, 16).unwrap();
        bytes.to_vec()
    };
    let limits = |records: u64, received: u64, fragment: u64, padding: u64| {
        [records, received, fragment, padding].map(varint).concat()
    };
    let suite_and_side = [&varint(0x1302)[..], &[1, 48]].concat();
    let head = |suite: u64, side: u8| [&varint(suite)[..], &[side, 48]].concat();
    let honest = limits(1000, 2000, 9000, 32);
    let flags = |flags: [u8; 5], requests: u8, counts: [u8; 4]| {
        [&honest[..], &flags, &[requests], &counts].concat()
    };
    let honest_flags = flags([0; 5], 0, [0; 4]);
    let good: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (suite_and_side.clone(), head(0x1302, 0)),
        (honest.clone(), limits(1, 1, 64, 2)),
        (honest.clone(), limits(1 << 24, 1 << 23, 1 << 14, 1 << 14)),
        (
            honest_flags.clone(),
            flags([0, 0, 1, 1, 1], 255, [32, 64, 32, 4]),
        ),
    ];
    for (find, with) in good {
        assert_eq!(altered(&find, &with), Ok(()), "{with:?}");
    }
    let bad: Vec<(Vec<u8>, Vec<u8>)> = vec![
        // A suite that is none, or whose secrets are of another length; a side that is none.
        (suite_and_side.clone(), head(0x1304, 1)),
        (suite_and_side.clone(), head(0, 1)),
        (suite_and_side.clone(), head(0x1301, 1)),
        (suite_and_side.clone(), head(0x1303, 1)),
        (suite_and_side.clone(), head(0x1302, 2)),
        (honest.clone(), limits(0, 2000, 9000, 32)),
        (honest.clone(), limits((1 << 24) + 1, 2000, 9000, 32)),
        (honest.clone(), limits(1000, 0, 9000, 32)),
        (honest.clone(), limits(1000, (1 << 23) + 1, 9000, 32)),
        (honest.clone(), limits(1000, 1 << 40, 9000, 32)),
        (honest.clone(), limits(1000, 2000, 63, 32)),
        (honest.clone(), limits(1000, 2000, 16_385, 32)),
        (honest.clone(), limits(1000, 2000, 9000, 1)),
        (honest.clone(), limits(1000, 2000, 9000, 16_385)),
        (honest_flags.clone(), flags([1, 0, 1, 0, 0], 0, [0; 4])),
        (honest_flags.clone(), flags([1, 0, 0, 1, 0], 0, [0; 4])),
        // Ciphertext behind the end.
        (honest_flags.clone(), flags([0, 1, 0, 0, 0], 0, [0; 4])),
        (honest_flags.clone(), flags([0, 0, 7, 0, 0], 0, [0; 4])),
        (honest_flags.clone(), flags([0; 5], 0, [33, 0, 0, 0])),
        (honest_flags.clone(), flags([0; 5], 0, [0, 65, 0, 0])),
        (honest_flags.clone(), flags([0; 5], 0, [0, 0, 33, 0])),
        (honest_flags.clone(), flags([0; 5], 0, [0, 0, 0, 5])),
    ];
    for (find, with) in bad {
        assert_eq!(altered(&find, &with), Err(Defect), "{with:?}");
    }
    // Sequence numbers stand behind the IV, before the other secret and the limits.
    let (server, _) = full();
    let iv = server.protocol.keys.tx.iv().to_vec();
    let sequence = |number: u64| [&iv[..], &varint(number)].concat();
    assert_eq!(altered(&sequence(1), &sequence((1 << 24) + 3)), Ok(()));
    for number in [23_726_566, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(altered(&sequence(1), &sequence(number)), Err(Defect));
    }
    // Lengths of IV and key.
    assert_eq!(
        altered(&[&[12][..], &iv].concat(), &[&[11][..], &iv[..11]].concat()),
        Err(Defect)
    );
    let key = server.protocol.keys.tx.key(Suite::Aes256Gcm).to_vec();
    assert_eq!(
        altered(
            &[&[32][..], &key].concat(),
            &[&[16][..], &key[..16]].concat()
        ),
        Err(Defect)
    );
    // Plaintext longer than a record, and more than travels.
    for (length, answer) in [(1 << 14, Ok(())), ((1 << 14) + 1, Err(Defect))] {
        let long = [varint(length), vec![1; length as usize]].concat();
        assert_eq!(altered(b"\x04read", &long), answer);
    }
    let long = [varint(TRANSFER_LIMIT as u64), vec![1; TRANSFER_LIMIT]].concat();
    assert_eq!(
        altered(b"\x00\x04read", &[&long[..], b"\x04read"].concat()),
        Err(Defect)
    );
}

//= proves spec/records.md#thaw
#[test]
fn a_state_cut_short_is_refused() {
    let (server, _) = full();
    let bytes = frozen(&server);
    for length in 0..bytes.len() {
        assert!(codec::decode::<Frozen<'_>>(&bytes[..length]).is_err());
    }
}

proptest! {
    //= proves spec/records.md#thaw
    #[test]
    fn a_state_of_noise_is_refused_or_works(
        noise in proptest::collection::vec((0..400usize, any::<u8>()), 1..20),
        wire in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let (server, _) = full();
        let mut bytes = frozen(&server).to_vec();
        for (at, byte) in noise {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok((state, _)) = codec::decode::<Frozen<'_>>(&bytes)
            && let Ok(mut record) = Record::thaw(state)
        {
            let _ = drain(&mut record, &wire);
            let _ = record.write(b"data");
            let _ = record.key_update(true);
            record.close_notify();
            prop_assert!(record.take_output().len() < 2 * TRANSFER_LIMIT);
        }
    }
}

//= proves spec/records.md#freeze C2
#[test]
fn a_closed_state_moves_and_stays_closed() {
    let (mut server, mut client) = pair(Suite::ChaCha20Poly1305);
    client.write(b"unread").unwrap();
    client.close_notify();
    server.feed(&client.take_output()).unwrap();
    server.close_notify();
    let mut server = hop(&server).unwrap();
    let mut client = hop(&client).unwrap();
    assert_eq!(server.write(b"x"), Err(Error::ClosedHere));
    assert_eq!(client.write(b"x"), Err(Error::ClosedHere));
    assert_eq!(
        drain(&mut server, b"").unwrap(),
        (b"unread".to_vec(), vec![], true)
    );
    let mut server = hop(&server).unwrap();
    assert_eq!(
        drain(&mut server, b"noise").unwrap(),
        (vec![], vec![], true)
    );
    assert!(drain(&mut client, &server.take_output()).unwrap().2);
}

#[test]
fn a_poisoned_state_does_not_move() {
    let (mut server, _) = pair(Suite::Aes128Gcm);
    drain(&mut server, &[20]).unwrap_err();
    assert!(server.freeze().is_none());
}

//= proves spec/records.md#freeze
#[test]
fn the_layout_is_the_one_of_the_page() {
    let (server, _) = pair(Suite::Aes128Gcm);
    let keys = |direction: &Direction| {
        let suite = Suite::Aes128Gcm;
        [
            &[32][..],
            direction.secret(suite),
            &[16],
            direction.key(suite),
            &[12],
            direction.iv(),
            &[0],
        ]
        .concat()
    };
    let expected = [
        &[0x81, 0x26, 1][..],
        &keys(&server.protocol.keys.tx),
        &keys(&server.protocol.keys.rx),
        &[0x80, 0x80, 0x80, 4, 0x80, 0x80, 0x80, 4, 0x80, 0x80, 1, 0],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(frozen(&server)[..], expected);
}
