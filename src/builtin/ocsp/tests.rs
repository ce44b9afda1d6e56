use proptest::prelude::*;

use super::der::{Reader, SEQUENCE, seconds, write};
use super::message::{Identity, Nothing, Status, read};
use super::*;

#[test]
fn times_are_read_to_the_second() {
    for (text, expected) in [
        ("19700101000000Z", Some(0)),
        ("20000229235959Z", Some(951_868_799)),
        ("20260101000000Z", Some(1_767_225_600)),
        ("21000228000000Z", Some(4_107_456_000)),
        ("99991231235959Z", Some(253_402_300_799)),
        ("21000229000000Z", None),
        ("20010229000000Z", None),
        ("19691231235959Z", None),
        ("20261301000000Z", None),
        ("20260100000000Z", None),
        ("20260101240000Z", None),
        ("20260101000060Z", None),
        ("20260101000000", None),
        ("20260101000000z", None),
        ("20260101000000.5Z", None),
        ("2026010100000+Z", None),
    ] {
        assert_eq!(seconds(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn only_the_one_form_is_read() {
    for (bytes, reads) in [
        (&b"\x30\x00"[..], true),
        (b"\x30\x80\x00\x00", false),
        (b"\x30\x81\x01a", false),
        (b"\x30\x82\x00\x81", false),
        (b"\x30\x83\x00\x00\x01a", false),
        (b"\x30\x05a", false),
        (b"\x30", false),
        (b"", false),
    ] {
        assert_eq!(
            Reader::new(bytes).value(SEQUENCE).is_some(),
            reads,
            "{bytes:x?}"
        );
    }
    for length in [0, 0x7f, 0x80, 0xff, 0x100, 0xffff] {
        let content = vec![7; length];
        let whole = write(SEQUENCE, &[&content]);
        let mut reader = Reader::new(&whole);
        assert_eq!(reader.value(SEQUENCE), Some(&*content));
        assert!(reader.is_empty());
    }
}

/// A request of OpenSSL 3.0 for serial number 0x1234 of `/O=Root`, without its issuer's key.
#[test]
fn a_request_names_the_certificate_and_the_nonce() {
    let identity = Identity {
        name: b"name",
        key: b"key",
        serial: &[0x12, 0x34],
    };
    let plain = identity.request(None);
    let hash = crypto::sha1(b"name");
    assert!(plain.windows(20).any(|window| window == hash));
    assert!(plain.ends_with(&[2, 2, 0x12, 0x34]));
    let asking = identity.request(Some(&[9; 32]));
    assert!(asking.ends_with(&[&[4, 34, 4, 32][..], &[9; 32]].concat()));
    // No request is a response.
    assert!(matches!(read(&plain), Err(Nothing::Malformed)));
}

//= proves spec/builtin.md#ocsp-cache
#[test]
fn the_cache_ends_with_its_size_and_with_the_next_update() {
    let cache = Cache::new(2);
    let key = |number| [number; 32];
    cache.keep(key(1), Status::Good, 100, 10);
    cache.keep(key(2), Status::Revoked, 50, 10);
    assert_eq!(cache.find(&key(1), 99), Some(Status::Good));
    assert_eq!(cache.find(&key(1), 100), None);
    assert_eq!(cache.find(&key(2), 49), Some(Status::Revoked));
    // The one that ends soonest goes.
    cache.keep(key(3), Status::Good, 80, 10);
    assert_eq!(cache.find(&key(2), 10), None);
    assert!(cache.find(&key(1), 10).is_some() && cache.find(&key(3), 10).is_some());
    // Before any that still counts, those that do not.
    cache.keep(key(4), Status::Good, 200, 90);
    assert!(cache.find(&key(1), 90).is_some() && cache.find(&key(4), 90).is_some());
    // A status in the past is not kept, and one that is there is replaced.
    cache.keep(key(5), Status::Good, 90, 90);
    assert_eq!(cache.find(&key(5), 10), None);
    cache.keep(key(4), Status::Revoked, 300, 90);
    assert_eq!(cache.find(&key(4), 250), Some(Status::Revoked));
    let none = Cache::new(0);
    none.keep(key(1), Status::Good, 100, 10);
    assert_eq!(none.find(&key(1), 20), None);
}

#[test]
fn addresses_are_plain_http() {
    for (text, good) in [
        ("http://a", true),
        ("http://192.0.2.1:80/x?y", true),
        ("https://a", false),
        ("http://", false),
        ("http:///a", false),
        ("file:///etc/passwd", false),
        ("http://a b", false),
        ("http://a\r\nb", false),
        ("", false),
    ] {
        assert_eq!(is_address(text), good, "{text}");
    }
    assert!(!is_address(&format!("http://{}", "a".repeat(1024))));
}

proptest! {
    #[test]
    fn any_bytes_are_a_response_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        // The same where a response has its signed part.
        let status = write(0x0a, &[&[0]]);
        let basic = write(0x30, &[&write(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]]), &write(4, &[&bytes])]);
        let _ = read(&write(0x30, &[&status, &write(0xa0, &[&basic])]));
    }
}
