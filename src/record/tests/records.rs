//! One record at a time, against a forger.

use std::io::IoSlice;

use super::*;

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
    assert_eq!(
        server.read(&mut [0; 9]),
        Ok(Read::Incomplete {
            needed: (1 << 14) + 256
        })
    );
    assert_eq!(server_meets(|_| vec![23, 3, 3, 0x41, 0x01]), OVERFLOW);
    assert_eq!(server_meets(|_| vec![23, 3, 3, 0xFF, 0xFF]), OVERFLOW);
}

//= proves spec/records.md#length
#[test]
fn an_inner_plaintext_that_is_too_long_is_refused() {
    let inner = |content: usize, padding: usize| {
        move |forger: &mut Forger| {
            forger.inner(&[vec![5; content], vec![23], vec![0; padding]].concat())
        }
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
        assert_eq!(
            refusal(&mut server, &wire, &mut client),
            expected,
            "bit {bit}"
        );
    }
    for length in 0..TAG as u8 {
        assert_eq!(
            server_meets(|_| [&[23, 3, 3, 0, length][..], &vec![9; length.into()]].concat()),
            FORGED
        );
    }
    // A record twice, and a record of the sender's own.
    assert_eq!(server_meets(|_| [&honest[..], &honest].concat()), FORGED);
    assert_eq!(
        server_meets(|_| Forger::new(Suite::Aes128Gcm, true).record(23, b"mirrored")),
        FORGED
    );
}

//= proves spec/records.md#padding-in
#[test]
fn padding_of_any_length_is_stripped() {
    for padding in (0..70).chain([255, 1000, 16_380]) {
        let (mut server, _) = pair(Suite::Aes128Gcm);
        let wire = Forger::new(Suite::Aes128Gcm, false)
            .inner(&[b"a\0\0", &[23][..], &vec![0; padding]].concat());
        assert_eq!(drain(&mut server, &wire).unwrap().0, b"a\0\0");
        assert_eq!(
            server_meets(|forger| forger.inner(&vec![0; padding])),
            UNEXPECTED
        );
    }
}

//= proves spec/records.md#padding-out
#[test]
fn padding_fills_blocks_and_never_too_much() {
    for (block, content, inner) in [
        (0, 5, 6),
        (1, 5, 6),
        (16, 0, 16),
        (16, 15, 16),
        (16, 16, 32),
        (16_384, 1, 16_384),
        (65_535, 1, 16_384),
    ] {
        let limits = Limits::default().padding(Padding::Block(block));
        let mut server = side(Suite::Aes128Gcm, true, limits);
        let mut client = side(Suite::Aes128Gcm, false, limits);
        assert_eq!(
            server.record_len(content),
            HEADER + inner + TAG,
            "{block} {content}"
        );
        assert_eq!(
            server.record_len(MAX_CONTENT),
            HEADER + MAX_CONTENT + 1 + TAG
        );
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
        assert_eq!(
            server_meets(|forger| forger.record(kind, b"\x01")),
            UNEXPECTED,
            "{kind}"
        );
    }
    for kind in [21, 22] {
        assert_eq!(
            server_meets(|forger| forger.inner(&[kind, 0, 0])),
            UNEXPECTED
        );
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
        assert_eq!(
            wire.len(),
            data.len() + data.len().div_ceil(most) * OVERHEAD
        );
        assert_eq!(drain(&mut client, &wire).unwrap().0, data);
        assert_eq!(
            server.seal_in_place(&mut vec![0; 20_000], most + 1),
            Err(Error::Buffer)
        );

        let pieces = data[..most].chunks(7).map(IoSlice::new).collect::<Vec<_>>();
        assert_eq!(server.write_vectored(&pieces), Ok(most));
        assert_eq!(server.output().len(), most + OVERHEAD);
        assert_eq!(
            drain(&mut client, &server.take_output()).unwrap().0,
            data[..most]
        );
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
    // A slot has a header, and lies in a cell of whole 64 bytes.
    let size = size_of::<Record>() + (size_of::<Keys>() + 16).next_multiple_of(64);
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
    assert_eq!(
        server.seal_in_place(&mut short, usize::MAX),
        Err(Error::Buffer)
    );
    assert_eq!(short, [9; 24]);
    server.write(b"fine").unwrap();
    assert_eq!(drain(&mut client, server.output()).unwrap().0, b"fine");
    assert_eq!(server.read(&mut []), Ok(Read::Data(0)));
    for suite in SUITES {
        for length in [0, 31, 33, 47, 49, 64] {
            let bad = vec![1; length];
            let good = secret(suite, true);
            for (tx_secret, rx_secret) in [(&bad, &good), (&good, &bad)] {
                let secrets = Secrets {
                    suite,
                    server: true,
                    tx_secret,
                    rx_secret,
                    tx_sequence: 0,
                    rx_sequence: 0,
                };
                assert_eq!(
                    Record::new(&secrets, Limits::default(), &[]).unwrap_err(),
                    Error::Secrets
                );
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
