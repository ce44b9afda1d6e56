//! One test for each rule of `spec/records.md`, against a forger.

use super::*;

/// What a server meets in records forged by its client.
fn server_meets(forge: impl FnOnce(&mut Forger) -> Vec<u8>) -> (Error, Option<Alert>) {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    let wire = forge(&mut Forger::new(Suite::Aes128Gcm, false));
    refusal(&mut server, &wire, &mut client)
}

fn client_meets(forge: impl FnOnce(&mut Forger) -> Vec<u8>) -> (Error, Option<Alert>) {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    let wire = forge(&mut Forger::new(Suite::Aes128Gcm, true));
    refusal(&mut client, &wire, &mut server)
}

const UNEXPECTED: (Error, Option<Alert>) = (Error::Unexpected, Some(Alert::UNEXPECTED_MESSAGE));
const MALFORMED: (Error, Option<Alert>) = (Error::Malformed, Some(Alert::DECODE_ERROR));
const OVERFLOW: (Error, Option<Alert>) = (Error::Overflow, Some(Alert::RECORD_OVERFLOW));
const FORGED: (Error, Option<Alert>) = (Error::Forged, Some(Alert::BAD_RECORD_MAC));
const FLOOD: (Error, Option<Alert>) = (Error::Flood, Some(Alert::UNEXPECTED_MESSAGE));

//= proves spec/records.md#outer-type
#[test]
fn another_outer_type_is_refused_at_its_first_byte() {
    for kind in (0..=255).filter(|kind| *kind != 23) {
        assert_eq!(server_meets(|_| vec![kind]), UNEXPECTED, "{kind}");
    }
    // A whole change_cipher_spec, as it is tolerated before Finished and not after.
    assert_eq!(server_meets(|_| vec![20, 3, 3, 0, 1, 1]), UNEXPECTED);
}

//= proves spec/records.md#length
#[test]
fn a_record_that_is_too_long_is_refused_at_its_header() {
    let (mut server, _) = pair(Suite::Aes128Gcm);
    server.feed(&[23, 3, 3, 0x41, 0x00]).unwrap();
    assert_eq!(server.read(&mut [0; 9]), Ok(Read::Incomplete { needed: (1 << 14) + 256 }));
    assert_eq!(server_meets(|_| vec![23, 3, 3, 0x41, 0x01]), OVERFLOW);
    assert_eq!(server_meets(|_| vec![23, 3, 3, 0xFF, 0xFF]), OVERFLOW);
}

//= proves spec/records.md#length
#[test]
fn an_inner_plaintext_that_is_too_long_is_refused() {
    let inner = |content: usize, padding: usize| {
        move |forger: &mut Forger| forger.inner(&[vec![5; content], vec![23], vec![0; padding]].concat())
    };
    let full = drain(
        &mut side(Suite::Aes128Gcm, true, Limits::default()),
        &inner(1 << 14, 0)(&mut Forger::new(Suite::Aes128Gcm, false)),
    );
    assert_eq!(full.unwrap().0.len(), 1 << 14);
    assert_eq!(server_meets(inner(1 << 14, 1)), OVERFLOW);
    assert_eq!(server_meets(inner((1 << 14) + 1, 0)), OVERFLOW);
    assert_eq!(server_meets(inner(10, 1 << 14)), OVERFLOW);
}

//= proves spec/records.md#forged
#[test]
fn a_record_that_does_not_open_gives_nothing_and_bad_record_mac() {
    let honest = Forger::new(Suite::Aes128Gcm, false).record(23, b"some content");
    for bit in 0..honest.len() * 8 {
        let mut wire = honest.clone();
        wire[bit / 8] ^= 1 << (bit % 8);
        let (mut server, mut client) = pair(Suite::Aes128Gcm);
        let expected = match bit / 8 {
            0 => UNEXPECTED,
            3 | 4 if usize::from(wire[3]) << 8 | usize::from(wire[4]) > honest.len() - HEADER => {
                // The length is a longer one now: the record is waited for, or too long.
                continue;
            }
            _ => FORGED,
        };
        assert_eq!(refusal(&mut server, &wire, &mut client), expected, "bit {bit}");
    }
    for length in 0..TAG as u8 {
        assert_eq!(server_meets(|_| [&[23, 3, 3, 0, length][..], &vec![9; length.into()]].concat()), FORGED);
    }
    // A record twice, and a record of the sender's own.
    assert_eq!(server_meets(|_| [&honest[..], &honest].concat()), FORGED);
    assert_eq!(server_meets(|_| Forger::new(Suite::Aes128Gcm, true).record(23, b"mirrored")), FORGED);
}

//= proves spec/records.md#padding-in
#[test]
fn padding_of_any_length_is_stripped() {
    for padding in (0..70).chain([255, 1000, 16_380]) {
        let (mut server, _) = pair(Suite::Aes128Gcm);
        let wire =
            Forger::new(Suite::Aes128Gcm, false).inner(&[b"a\0\0", &[23][..], &vec![0; padding]].concat());
        assert_eq!(drain(&mut server, &wire).unwrap().0, b"a\0\0");
        assert_eq!(server_meets(|forger| forger.inner(&vec![0; padding])), UNEXPECTED);
    }
}

//= proves spec/records.md#padding-out
#[test]
fn padding_fills_blocks_and_never_too_much() {
    for (block, content, inner) in
        [(0, 5, 6), (1, 5, 6), (16, 0, 16), (16, 15, 16), (16, 16, 32), (16_384, 1, 16_384), (65_535, 1, 16_384)]
    {
        let limits = Limits::default().padding(Padding::Block(block));
        let mut server = side(Suite::Aes128Gcm, true, limits);
        let mut client = side(Suite::Aes128Gcm, false, limits);
        assert_eq!(server.record_len(content), HEADER + inner + TAG, "{block} {content}");
        assert_eq!(server.record_len(MAX_CONTENT), HEADER + MAX_CONTENT + 1 + TAG);
        let mut wire = vec![7; server.record_len(content)];
        assert_eq!(server.seal_in_place(&mut wire, content), Ok(wire.len()));
        server.write(&vec![7; content]).unwrap();
        let written = server.take_output();
        assert!(written.is_empty() && content == 0 || written.len() == wire.len());
        let both = [wire, written].concat();
        assert_eq!(drain(&mut client, &both).unwrap().0, vec![7; 2 * content]);
        client.close_notify();
        assert_eq!(client.output().len(), client.record_len(2));
    }
}

//= proves spec/records.md#content-type
#[test]
fn unknown_content_types_and_empty_control_records_are_refused() {
    for kind in (1..=255).filter(|kind| !(21..=23).contains(kind)) {
        assert_eq!(server_meets(|forger| forger.record(kind, b"\x01")), UNEXPECTED, "{kind}");
    }
    for kind in [21, 22] {
        assert_eq!(server_meets(|forger| forger.inner(&[kind, 0, 0])), UNEXPECTED);
    }
}

//= proves spec/records.md#fragment
#[test]
fn content_is_cut_to_the_limit_and_small_pieces_share_records() {
    for fragment in [0, 64, 1000, 16_384, 65_535] {
        let limits = Limits::default().fragment(fragment);
        let mut server = side(Suite::Aes128Gcm, true, limits);
        let mut client = side(Suite::Aes128Gcm, false, limits);
        let most = usize::from(fragment.clamp(64, 16_384));
        let data = (0..40_000u32).map(|i| i as u8).collect::<Vec<_>>();
        let mut wire = Vec::new();
        server.seal(&data, &mut wire).unwrap();
        assert_eq!(wire.len(), data.len() + data.len().div_ceil(most) * OVERHEAD);
        assert_eq!(drain(&mut client, &wire).unwrap().0, data);
        assert_eq!(server.seal_in_place(&mut vec![0; 20_000], most + 1), Err(Error::Buffer));

        let pieces = data[..most].chunks(7).map(IoSlice::new).collect::<Vec<_>>();
        assert_eq!(server.write_vectored(&pieces), Ok(most));
        assert_eq!(server.output().len(), most + OVERHEAD);
        assert_eq!(drain(&mut client, &server.take_output()).unwrap().0, data[..most]);
    }
}

//= proves spec/records.md#messages
#[test]
fn messages_are_put_together_from_any_pieces() {
    let messages = [ticket(1), ticket(300), ticket(5000)].concat();
    for size in [100, 311, 5000, 16_384] {
        let (_, mut client) = pair(Suite::Aes128Gcm);
        let mut forger = Forger::new(Suite::Aes128Gcm, true);
        let wire = messages.chunks(size).flat_map(|piece| forger.record(22, piece)).collect::<Vec<_>>();
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
        assert_eq!(client_meets(|forger| forger.record(22, &[kind])), UNEXPECTED, "{kind}");
        assert_eq!(server_meets(|forger| forger.record(22, &[kind])), UNEXPECTED, "{kind}");
    }
    // And one behind a ticket that was taken.
    assert_eq!(
        client_meets(|forger| forger.record(22, &[&ticket(5)[..], &[13]].concat())),
        UNEXPECTED
    );
    assert_eq!(client_meets(|forger| forger.record(22, &[4, 1, 0, 0])), MALFORMED);
    assert_eq!(client_meets(|forger| forger.record(22, &[4, 255, 255, 255])), MALFORMED);
}

//= proves spec/records.md#ticket
#[test]
fn tickets_are_for_clients_and_of_one_shape() {
    assert_eq!(server_meets(|forger| forger.record(22, &ticket(5))), UNEXPECTED);
    let good = ticket(5);
    for length in 0..good.len() - MESSAGE {
        let mut short = good[..MESSAGE + length].to_vec();
        short[3] = length as u8;
        assert_eq!(client_meets(|forger| forger.record(22, &short)), MALFORMED, "{length}");
    }
    let mut long = [&good[..], &[0]].concat();
    long[3] += 1;
    assert_eq!(client_meets(|forger| forger.record(22, &long)), MALFORMED);
    assert_eq!(client_meets(|forger| forger.record(22, &ticket(0))), MALFORMED);
}

const MESSAGE: usize = 4;

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
    assert_eq!(meets(&[24, 0, 0, 1, 2]), (Error::Illegal, Some(Alert::ILLEGAL_PARAMETER)));
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
        assert_eq!(server.seal_in_place(&mut [0; 100], 1), Err(Error::OutputFirst));
        let mut wire = Vec::new();
        server.seal(b"3", &mut wire).unwrap();
        assert!(server.output().is_empty());
        let mut buffer = [0; 100];
        let length = server.seal_in_place(&mut buffer, 1).unwrap();
        wire.extend_from_slice(&buffer[..length]);
        server.close_notify();
        wire.extend(server.take_output());
        assert_eq!(drain(&mut client, &wire).unwrap(), (b"123\0".to_vec(), vec![], true));
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
        assert_eq!(updates > 0, limit != 2, "with 2, seal() always comes to the limit first");
        // In one call, too.
        server.limits(64);
        server.write(&[1; 640]).unwrap();
        assert_eq!(drain(&mut client, &server.take_output()).unwrap().0, [1; 640]);
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
    assert_eq!(asked, 9, "once for each key: five records of data, or one KeyUpdate and four... and so on");

    let (mut server, mut client) = (limited(), pair(Suite::Aes128Gcm).1);
    let mut forger = Forger::new(Suite::Aes128Gcm, false);
    let wire = (0..10).flat_map(|_| forger.record(23, b"x")).collect::<Vec<_>>();
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
    assert!(server.take_output().is_empty(), "there is no number for an alert either");

    for (tx_sequence, rx_sequence) in [(SEQUENCE_START + 1, 0), (0, SEQUENCE_START + 1), (u64::MAX, u64::MAX)] {
        let (suite, server) = (Suite::Aes128Gcm, true);
        let secret = secret(suite, server);
        let (tx_secret, rx_secret) = (&secret[..], &secret[..]);
        let secrets = Secrets { suite, server, tx_secret, rx_secret, tx_sequence, rx_sequence };
        assert_eq!(Record::new(&secrets, Limits::default(), &[]).unwrap_err(), Error::Secrets);
    }
}

use super::super::protocol::SEQUENCE_END;

//= proves spec/records.md#sequence
#[test]
fn a_sequence_number_seals_once_and_moves_with_each_record() {
    for suite in SUITES {
        let (mut server, _) = pair(suite);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..50 {
            server.write(&[0; 32]).unwrap();
            assert!(seen.insert(server.take_output()), "equal plaintext never gives equal records");
        }
        assert_eq!(server.protocol.tx_sequence, 50);
    }
}

//= proves spec/records.md#alert-in
#[test]
fn alerts_are_taken_as_the_rfc_says() {
    let known_or_not = (1..=255).filter(|code| *code != 90);
    for code in known_or_not {
        for level in [1, 2, 77] {
            let met = server_meets(|forger| forger.record(21, &[level, code]));
            assert_eq!(met, (Error::PeerAlert(Alert(code)), None));
        }
    }
    for content in [&[1][..], &[1, 0, 0], &[1, 0, 1, 0]] {
        assert_eq!(server_meets(|forger| forger.record(21, content)), MALFORMED);
    }
    let (mut server, _) = pair(Suite::Aes128Gcm);
    let mut forger = Forger::new(Suite::Aes128Gcm, false);
    let wire = [forger.record(21, &[1, 90]), forger.record(21, &[2, 0])].concat();
    assert_eq!(drain(&mut server, &wire).unwrap(), (vec![], vec![], true));
}

//= proves spec/records.md#alert-out
#[test]
fn an_abort_sends_one_alert_behind_the_data() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    server.write(b"last words").unwrap();
    server.abort(Alert::ACCESS_DENIED);
    server.abort(Alert::INTERNAL_ERROR);
    assert_eq!(server.write(b"x"), Err(Error::Aborted(Alert::ACCESS_DENIED)));
    let wire = server.take_output();
    client.feed(&wire).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(client.read(&mut buffer), Ok(Read::Data(10)));
    assert_eq!(client.read(&mut buffer), Err(Error::PeerAlert(Alert::ACCESS_DENIED)));
    assert!(client.take_output().is_empty(), "an alert is not answered");
}

//= proves spec/records.md#alert-out
#[test]
fn no_alert_follows_a_close_notify() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    server.close_notify();
    drain(&mut server, &[20]).unwrap_err();
    let wire = server.take_output();
    assert_eq!(wire.len(), 2 + OVERHEAD);
    assert_eq!(drain(&mut client, &wire).unwrap(), (vec![], vec![], true));
}

//= proves spec/records.md#half-close
#[test]
fn each_direction_closes_by_itself() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    client.write(b"all I have to say").unwrap();
    client.close_notify();
    client.close_notify();
    assert_eq!(client.write(b"x"), Err(Error::ClosedHere));
    assert_eq!(client.seal(b"x", &mut Vec::new()), Err(Error::ClosedHere));
    assert_eq!(client.seal_in_place(&mut [0; 64], 1), Err(Error::ClosedHere));
    assert_eq!(client.key_update(true), Err(Error::ClosedHere));
    let wire = [&client.take_output()[..], b"noise behind the end"].concat();
    assert_eq!(drain(&mut server, &wire).unwrap(), (b"all I have to say".to_vec(), vec![], true));
    assert!(server.peer_closed() && !server.closed() && client.closed() && !client.peer_closed());
    assert_eq!(server.buffered(), 0);
    assert_eq!(server.feed(&[0; 100_000]), Ok(100_000), "ignored, and not kept");
    // The other direction goes on, with new keys, until it closes.
    server.write(b"answer").unwrap();
    server.key_update(true).unwrap();
    server.write(b"s").unwrap();
    assert_eq!(drain(&mut client, &server.take_output()).unwrap().0, b"answers");
    assert!(client.take_output().is_empty(), "who has closed owes no answer");
    server.close_notify();
    assert!(drain(&mut client, &server.take_output()).unwrap().2);
    let mut noise = vec![20; 50];
    let opened = client.open(&mut noise).unwrap();
    assert!(matches!(opened, Opened { consumed: 50, event: Event::Closed }));
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
        assert_eq!(refusal(&mut client, &forge(&mut forger), &mut server), FLOOD);
    }
    // Tiny pieces of one long message, and many tickets in one record.
    let long = ticket(60_000);
    let pieces = |forger: &mut Forger| long.chunks(1).flat_map(|piece| forger.record(22, piece)).collect();
    assert_eq!(client_meets(pieces), FLOOD);
    assert_eq!(client_meets(|forger| forger.record(22, &ticket(1).repeat(64))), FLOOD);
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

//= proves spec/records.md#buffers
#[test]
fn what_is_kept_is_bounded() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    let mut wire = Vec::new();
    client.seal(&[1; 200_000], &mut wire).unwrap();
    assert_eq!(server.feed(&wire), Ok(49_935));
    assert_eq!(server.feed(&wire), Ok(0));
    assert!(server.space().is_empty());
    let mut buffer = [0; 1];
    assert_eq!(server.read(&mut buffer), Ok(Read::Data(1)));
    assert_eq!(server.plaintext().len(), (1 << 14) - 1);
    assert_eq!(server.feed(&wire[49_935..]), Ok(0), "read first");
    let mut buffer = vec![0; 30_000];
    assert_eq!(server.read(&mut buffer), Ok(Read::Data(30_000)));
    assert!(server.feed(&wire[49_935..]).unwrap() > 30_000);
    assert_eq!(server.open(&mut wire).unwrap_err(), Error::InputFirst);

    let (mut server, _) = pair(Suite::Aes128Gcm);
    assert_eq!(server.write(&[1; 200_000]), Ok(3 << 14));
    assert_eq!(server.write(&[1; 200_000]), Ok(0));
    server.sent(20_000);
    assert_eq!(server.write(&[1; 200_000]), Ok(3 << 14));
}

//= proves spec/records.md#idle
#[test]
fn an_idle_record_is_small() {
    let (mut server, mut client) = pair(Suite::Aes256Gcm);
    client.write(&[1; 40_000]).unwrap();
    assert_eq!(drain(&mut server, client.output()).unwrap().0.len(), 40_000);
    client.sent(usize::MAX);
    server.release_buffers();
    client.release_buffers();
    for record in [server, client] {
        assert_eq!(record.output.capacity(), 0);
        assert_eq!(record.input.capacity(), 0);
    }
    let size = size_of::<Record>() + size_of::<Keys>();
    assert!(size <= 1700, "{size}");
}

#[test]
fn what_a_record_shows_holds_no_key_and_no_content() {
    let (mut server, _) = pair(Suite::Aes128Gcm);
    server.write(b"hidden").unwrap();
    assert_eq!(
        format!("{server:?}"),
        "Record { suite: Aes128Gcm, server: true, closed: false, peer_closed: false, failed: None, \
         buffered: 0, unsent: 28, .. }"
    );
}

#[test]
fn misuse_is_refused_and_changes_nothing() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    let mut short = [9; 24];
    assert_eq!(server.seal_in_place(&mut short, 3), Err(Error::Buffer));
    assert_eq!(server.seal_in_place(&mut short, usize::MAX), Err(Error::Buffer));
    assert_eq!(short, [9; 24]);
    server.write(b"fine").unwrap();
    assert_eq!(drain(&mut client, server.output()).unwrap().0, b"fine");
    assert_eq!(server.read(&mut []), Ok(Read::Data(0)));
    for suite in SUITES {
        for length in [0, 31, 33, 47, 49, 64] {
            let bad = vec![1; length];
            let good = secret(suite, true);
            for (tx_secret, rx_secret) in [(&bad, &good), (&good, &bad)] {
                let secrets =
                    Secrets { suite, server: true, tx_secret, rx_secret, tx_sequence: 0, rx_sequence: 0 };
                assert_eq!(Record::new(&secrets, Limits::default(), &[]).unwrap_err(), Error::Secrets);
            }
        }
    }
    let secrets = Secrets {
        suite: Suite::Aes128Gcm,
        server: true,
        tx_secret: &[1; 32],
        rx_secret: &[2; 32],
        tx_sequence: 0,
        rx_sequence: 0,
    };
    assert!(Record::new(&secrets, Limits::default(), &[23; TRANSFER_LIMIT]).is_ok());
    let beyond = Record::new(&secrets, Limits::default(), &[23; TRANSFER_LIMIT + 1]);
    assert_eq!(beyond.unwrap_err(), Error::Secrets);
}
