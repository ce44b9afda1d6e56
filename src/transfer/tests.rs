//! Golden tokens: `spec/vectors/tokens/` against what this program seals and opens.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_bytes::ByteArray;

use super::binding::Binding;
use super::format::{self, BUCKETS, HEADER, Header, KEPT_TOKEN, TOKEN};
use crate::codec::Framing;
use crate::context::{Context, Parts};
use crate::crypto::{REST_NONCE, TAG};
use crate::ledger::{Domain, HANDLE, Permitted};
use crate::message::Message;
use crate::record::Record;
use crate::secret::Scratch;

const DOMAIN: [u8; 16] = *b"a golden domain!";
const KEY_ID: u64 = 0x0123_4567_89ab_cdef;
const KEY: [u8; 32] = [0x42; 32];
const NONCE: [u8; REST_NONCE] = [0x17; REST_NONCE];

fn binding<F: Framing>(importer: Permitted, cookie: Option<u64>) -> Binding {
    Binding {
        context: ByteArray::new(*b"a golden context"),
        index: 5,
        epoch: 1234,
        deadline: 5_678_901,
        boot: ByteArray::new(*b"a golden machine"),
        framing: F::CODE,
        importer,
        cookie,
    }
}

/// The token of `context`, under the golden key and nonce.
fn sealed<F: Framing>(context: &Context<F>, binding: &Binding) -> Vec<u8> {
    let mut scratch = Scratch::with_capacity(BUCKETS[0]);
    scratch.extend_from_slice(&[0; HEADER]);
    format::write_member(&mut scratch, binding, context).unwrap();
    let size = BUCKETS
        .into_iter()
        .find(|size| *size >= scratch.len() + TAG)
        .unwrap();
    scratch.resize(size - TAG);
    let key = (KEY_ID, &KEY);
    let tag = format::seal_under(&mut scratch, TOKEN, &DOMAIN, key, NONCE).unwrap();
    [&scratch[..], &tag].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The lines `name: value` of a vector file, values in hexadecimal.
fn lines(name: &str, made: &[(&str, Vec<u8>)]) -> Vec<Vec<u8>> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "spec/vectors/tokens", name]
        .iter()
        .collect();
    if std::env::var_os("BATON_WRITE").is_some() {
        let text = made
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", hex(value)));
        std::fs::write(&path, text.collect::<String>()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let parse = |(line, (name, _)): (&str, &(&str, Vec<u8>))| {
        unhex(line.strip_prefix(name).unwrap().strip_prefix(": ").unwrap())
    };
    assert_eq!(text.lines().count(), made.len());
    text.lines().zip(made).map(parse).collect()
}

fn golden<F: Framing>(name: &str, context: &Context<F>, binding: Binding) {
    let token = sealed(context, &binding);
    let made = [
        ("domain", DOMAIN.to_vec()),
        ("key id", KEY_ID.to_be_bytes().to_vec()),
        ("key", KEY.to_vec()),
        ("token", token),
    ];
    let kept = lines(name, &made);
    for ((what, made), kept) in made.iter().zip(&kept) {
        assert_eq!(hex(made), hex(kept), "{name}: {what}");
    }
    // And back: what is kept opens, says what it is bound to, and is a context's state.
    let mut token = kept[3].clone();
    let header = Header::read(&token, (TOKEN, KEPT_TOKEN)).unwrap();
    assert_eq!((header.key, header.nonce), (KEY_ID, NONCE));
    let opened = format::open_under(&mut token, &header, &DOMAIN, &KEY).unwrap();
    let (read, body) = Binding::read(opened).unwrap();
    assert_eq!(read, binding);
    let (parts, padding): (Parts<F>, _) = format::read_body(body).unwrap();
    assert!(padding.iter().all(|byte| *byte == 0));
    assert_eq!(parts.facts.hops, 1);
    let (ours, theirs) = (parts.protection.freeze(), context.protection().freeze());
    assert!(ours.is_some() && theirs.is_some());
}

/// C9: the tokens of version 1, byte for byte.
//= proves spec/token.md#versions
//= proves spec/token.md#sealing
#[test]
fn golden_tokens_are_sealed_and_opened_byte_for_byte() {
    let domain = Domain::inherited(8).unwrap();
    let (acceptor, initiator) = super::forge::messages(&domain).unwrap();
    golden(
        "v1-message-acceptor.txt",
        &acceptor,
        binding::<Message>(Permitted::Anyone, None),
    );
    golden(
        "v1-message-initiator.txt",
        &initiator,
        binding::<Message>(Permitted::User(1000), None),
    );
    let (acceptor, initiator) = super::forge::records(&domain).unwrap();
    let tied = binding::<Record>(Permitted::ProcessGroup(77), Some(u64::MAX));
    golden("v1-record-server.txt", &acceptor, tied);
    let process = Permitted::Process {
        pid: 7,
        started: 8,
        inode: 9,
        namespace: 10,
    };
    golden(
        "v1-record-client.txt",
        &initiator,
        binding::<Record>(process, None),
    );
}

#[test]
fn the_header_is_where_the_page_says() {
    assert_eq!(HEADER, 36);
    assert_eq!(BUCKETS, [512, 2048, 8192, 32_768, 131_072]);
}

/// A token of a kept domain begins as the page says, and every byte in clear is authentic.
//= proves spec/keeper.md#token C5
#[test]
fn a_kept_token_has_its_handle_behind_the_header() {
    let mut scratch = Scratch::with_capacity(BUCKETS[0]);
    scratch.extend_from_slice(&[0; HEADER]);
    scratch.extend_from_slice(&[0x24; HANDLE]);
    scratch.extend_from_slice(b"a golden state");
    scratch.resize(BUCKETS[0] - TAG);
    let key = (KEY_ID, &KEY);
    let tag = format::seal_under(&mut scratch, KEPT_TOKEN, &DOMAIN, key, NONCE).unwrap();
    let token = [&scratch[..], &tag].concat();
    assert_eq!(token[..4], *b"BKN\x01");
    assert_eq!(token[4..12], KEY_ID.to_be_bytes());
    assert_eq!(token[12..HEADER], NONCE);
    assert_eq!(token[HEADER..HEADER + HANDLE], [0x24; HANDLE]);
    let header = format::look(&token).unwrap();
    assert_eq!(header.handle, Some([0x24; HANDLE]));
    let mut copy = token.clone();
    let opened = format::open_under(&mut copy, &header, &DOMAIN, &KEY).unwrap();
    assert!(opened.starts_with(b"a golden state"));
    for at in [
        0,
        3,
        4,
        12,
        HEADER,
        HEADER + HANDLE - 1,
        HEADER + HANDLE,
        511,
    ] {
        let mut changed = token.clone();
        changed[at] ^= 1;
        assert!(
            format::open_under(&mut changed, &header, &DOMAIN, &KEY).is_err(),
            "{at}"
        );
    }
}
