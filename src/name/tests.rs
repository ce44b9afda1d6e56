use proptest::prelude::*;

use super::*;
use crate::codec::{decode, encode};
use crate::secret::Scratch;

fn service(text: &str) -> Result<String, Defect> {
    Name::host_based_service(text).map(|name| name.to_string())
}

/// DER: one element of at most 255 bytes.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length: &[u8] = match content.len() {
        short @ ..=0x7f => &[short as u8],
        long => &[0x81, u8::try_from(long).unwrap()],
    };
    [&[tag], length, &content].concat()
}

/// The DER of a subject: one attribute in each relative name.
fn subject(attributes: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = attributes
        .iter()
        .map(|(kind, tag, value)| {
            let pair = der(0x30, &[&der(0x06, &[kind]), &der(*tag, &[value])]);
            der(0x31, &[&pair])
        })
        .collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    der(0x30, &parts)
}

const CN: &[u8] = &[0x55, 4, 3];
const O: &[u8] = &[0x55, 4, 10];
const UTF8: u8 = 0x0c;

fn shown(kind: Kind, bytes: &[u8]) -> Result<String, Defect> {
    Name::import(kind, bytes).map(|name| name.to_string())
}

//= proves spec/mechanism.md#names
#[test]
fn one_principal_has_one_name() {
    for (given, canonical) in [
        ("imap@mail.example.com", "imap@mail.example.com"),
        ("imap@MAIL.Example.com.", "imap@mail.example.com"),
        ("imap", "imap"),
        ("host@192.0.2.7", "host@192.0.2.7"),
        ("host@2001:DB8:0:0:0:0:0:1", "host@2001:db8::1"),
        ("a-b_c.9@x", "a-b_c.9@x"),
    ] {
        assert_eq!(service(given).as_deref(), Ok(canonical));
    }
    // A service's name is compared as it is, as in Kerberos.
    assert_ne!(service("IMAP@x"), service("imap@x"));
}

#[test]
fn a_host_that_is_none_is_refused() {
    for wrong in [
        "@",
        "imap@",
        "@host",
        "",
        "imap@a b",
        "imap@a..b",
        "imap@a@b",
        "imap@-",
        "imap@*.a",
        "imap@1.2.3",
        "imap@[::1]",
        "imap@bücher.example",
        "imap@a\0",
        "imap@.",
        "imap@a..",
        "../x@host",
        "-rf@host",
        "imap/x@host",
        "imap@a\n",
    ] {
        assert_eq!(service(wrong), Err(Defect::Malformed), "{wrong:?}");
    }
    let host = |labels: usize| format!("imap@{}", "a.".repeat(labels));
    assert!(service(&host(127)).is_ok());
    assert!(service(&host(128)).is_err());
    assert!(service(&"s".repeat(Name::SERVICE_LIMIT)).is_ok());
    assert!(service(&"s".repeat(Name::SERVICE_LIMIT + 1)).is_err());
}

//= proves spec/mechanism.md#names
#[test]
fn a_user_name_shows_what_it_is() {
    for right in ["ada", "Ada Lovelace", "ада", "a@b", "日本"] {
        assert_eq!(Name::user(right).unwrap().to_string(), right);
    }
    assert!(Name::user(&"u".repeat(Name::USER_LIMIT)).is_ok());
    for wrong in [
        "",
        " ada",
        "ada ",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "a\u{202e}b",
        "a\u{200b}b",
        "\u{feff}a",
        "a\u{a0}\u{a0}",
        &"u".repeat(Name::USER_LIMIT + 1),
    ] {
        assert_eq!(Name::user(wrong), Err(Defect::Malformed), "{wrong:?}");
    }
    assert!(Name::import(Kind::User, b"\xff").is_err());
}

//= proves spec/mechanism.md#names
#[test]
fn nobody_is_not_nobody_else() {
    let nobody = Name::import(Kind::Anonymous, b"ANONYMOUS").unwrap();
    assert_eq!(nobody, Name::anonymous());
    assert!(!nobody.compare(&nobody));
    assert!(Name::import(Kind::Anonymous, b"ada").is_err());
    let ada = Name::user("ada").unwrap();
    assert!(ada.compare(&ada.clone()));
    assert!(!ada.compare(&Name::host_based_service("ada").unwrap()));
}

//= proves spec/mechanism.md#names
#[test]
fn a_subject_is_displayed_on_one_line_that_cannot_lie() {
    let show = |attributes: &[_]| shown(Kind::Certificate, &subject(attributes));
    let plain = show(&[(O, UTF8, b"Example"), (CN, 0x13, b"ada")]);
    assert_eq!(plain.as_deref(), Ok("CN=ada,O=Example"));
    let tricky = show(&[(CN, UTF8, b"a,O=b\0\n\x1b[2J")]);
    assert_eq!(tricky.as_deref(), Ok(r"CN=a\,O=b\00\0a\1b[2J"));
    let turned = show(&[(CN, UTF8, "a\u{202e}b".as_bytes())]);
    assert_eq!(turned.as_deref(), Ok(r"CN=a\e2\80\aeb"));
    let edges = show(&[(CN, UTF8, b" #a ")]);
    assert_eq!(edges.as_deref(), Ok(r"CN=\ #a\ "));
    let unknown = show(&[(&[0x2a, 3], UTF8, b"x")]);
    assert_eq!(unknown.as_deref(), Ok("1.2.3=#0c0178"));
    let number = show(&[(CN, 0x02, b"\x05")]);
    assert_eq!(number.as_deref(), Ok("2.5.4.3=#020105"));
}

#[test]
fn a_subject_is_whole_and_alone() {
    let good = subject(&[(CN, UTF8, b"ada")]);
    assert!(Name::import(Kind::Certificate, &good).is_ok());
    for cut in 0..good.len() {
        assert!(
            Name::import(Kind::Certificate, &good[..cut]).is_err(),
            "{cut}"
        );
    }
    assert!(Name::import(Kind::Certificate, &[&good[..], &[0]].concat()).is_err());
    assert!(Name::import(Kind::Certificate, &subject(&[])).is_err());
    let long = [b'a'; 250];
    let parts: Vec<_> = (0..5)
        .map(|_| subject(&[(CN, UTF8, &long[..200])]))
        .collect();
    assert!(parts.concat().len() > Name::LIMIT);
    assert!(Name::import(Kind::Certificate, &parts.concat()).is_err());
}

//= proves spec/mechanism.md#names
#[test]
fn an_alternative_name_stands_for_an_empty_subject() {
    for (der, text) in [
        (der(0x81, &[b"ada@example.com"]), "email:ada@example.com"),
        (der(0x82, &[b"a.example"]), "DNS:a.example"),
        (der(0x86, &[b"spiffe://a/b"]), "URI:spiffe://a/b"),
        (der(0x87, &[&[192, 0, 2, 1]]), "IP:192.0.2.1"),
        (der(0x87, &[&[0; 16]]), "IP:::"),
    ] {
        assert_eq!(shown(Kind::Certificate, &der).as_deref(), Ok(text));
    }
    for wrong in [
        der(0x81, &[b"a b"]),
        der(0x81, &[]),
        der(0x81, &[b"a\n"]),
        der(0x82, &["é".as_bytes()]),
        der(0x87, &[b"123"]),
        der(0x83, &[b"x"]),
        der(0xa1, &[b"x"]),
    ] {
        assert!(
            Name::import(Kind::Certificate, &wrong).is_err(),
            "{wrong:?}"
        );
    }
}

//= proves spec/mechanism.md#exported-name
//= proves spec/mechanism.md#oid
#[test]
fn the_exported_form_is_exactly_this() {
    let name = Name::host_based_service("a@b").unwrap();
    let mut exported = vec![4, 1, 0, 12, 6, 10, 0x2b, 6, 1, 4, 1, 0x81, 0xfd, 0x59, 1, 1];
    exported.extend_from_slice(&[0, 0, 0, 4, 1]);
    exported.extend_from_slice(b"a@b");
    assert_eq!(name.export(), exported);
    assert_eq!(Name::import_exported(&exported), Ok(name));

    for cut in 0..exported.len() {
        assert!(Name::import_exported(&exported[..cut]).is_err(), "{cut}");
    }
    assert!(Name::import_exported(&[&exported[..], b"c"].concat()).is_err());
    let change = |at: usize, to: u8| {
        let mut changed = exported.clone();
        changed[at] = to;
        Name::import_exported(&changed)
    };
    assert_eq!(change(15, 2), Err(Defect::UnknownType));
    assert_eq!(change(20, 9), Err(Defect::UnknownType));
    assert_eq!(change(0, 5), Err(Defect::Malformed));
    // A name that is not canonical was not exported by us: it must not become another's.
    assert_eq!(change(23, b'B'), Err(Defect::Malformed));
}

//= proves spec/mechanism.md#name-state
#[test]
fn a_name_that_cannot_be_is_not_decoded() {
    let bytes_of = |value: &(u8, &[u8])| {
        let mut out = Scratch::with_capacity(64);
        encode(value, &mut out, 1 << 16).unwrap();
        out.to_vec()
    };
    // Postcard numbers the kinds in their order, from 0.
    let good = bytes_of(&(1, b"ada"));
    let (name, rest) = decode::<Name>(&good).unwrap();
    assert_eq!((name, rest), (Name::user("ada").unwrap(), &[][..]));
    for (kind, bytes) in [
        (1, &b"a\n"[..]),
        (0, b"A@B"),
        (2, b"ANONYMOUS"),
        (3, b""),
        (4, b"x"),
    ] {
        assert!(decode::<Name>(&bytes_of(&(kind, bytes))).is_err());
    }
}

#[test]
fn kinds_are_known_by_their_oid() {
    for kind in [
        Kind::HostBasedService,
        Kind::User,
        Kind::Anonymous,
        Kind::Certificate,
    ] {
        assert_eq!(Kind::from_oid(kind.oid()), Some(kind));
    }
    assert_eq!(
        Kind::from_oid(&[0x2b, 6, 1, 5, 6, 2]),
        Some(Kind::HostBasedService)
    );
    assert_eq!(Kind::from_oid(&MECHANISM), None);
}

proptest! {
    #[test]
    fn what_is_imported_is_exported_and_imported_again(kind in 1_u8..5, bytes: Vec<u8>) {
        let kind = Kind::from_number(kind).unwrap();
        if let Ok(name) = Name::import(kind, &bytes) {
            prop_assert_eq!(&Name::import_exported(&name.export()).unwrap(), &name);
            prop_assert!(!name.to_string().chars().any(char::is_control));
        }
    }
}
