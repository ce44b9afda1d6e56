//! A stranger's program: stock rustls and `spec/mechanism.md`, and nothing of Baton's own code on
//! its side. What it says is understood, and what it computes is the same.

#![allow(clippy::unwrap_used, clippy::panic)]

mod parties;

use std::io::{Read, Write};
use std::sync::Arc;

use baton::context::PrfKey;
use baton::establish::{Acceptor, ChannelBindings, Initiator, Step};
use baton::flags::Flags;
use baton::ledger::Domain;
use baton::message::Message;
use baton::status::{Major, Minor};
use parties::*;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

const OID: [u8; 12] = [0x06, 0x0a, 0x2b, 6, 1, 4, 1, 0x81, 0xfd, 0x59, 1, 1];

/// Stock rustls with one suite, so that what follows may be written for it alone.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(provider)
}

fn client(authority: &Authority) -> ClientConnection {
    let mut anchors = RootCertStore::empty();
    let anchor = CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap();
    anchors.add(anchor).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(anchors)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"baton/1".to_vec()];
    ClientConnection::new(Arc::new(config), ServerName::try_from(HOST).unwrap()).unwrap()
}

fn server(authority: &Authority) -> ServerConnection {
    let identity = authority.server();
    let chain = CertificateDer::from_pem_slice(identity.chain.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    config.alpn_protocols = vec![b"baton/1".to_vec()];
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// What a rustls connection has to send.
macro_rules! sent {
    ($connection:expr) => {{
        let mut bytes = Vec::new();
        while $connection.wants_write() {
            $connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }};
}

/// Lets a rustls connection hear a token; what application data it held.
macro_rules! heard {
    ($connection:expr, $token:expr) => {{
        let mut token = &$token[..];
        let mut data = Vec::new();
        while !token.is_empty() {
            $connection.read_tls(&mut token).unwrap();
            $connection.process_new_packets().unwrap();
        }
        // It waits for more where there is none.
        let _ = $connection.reader().read_to_end(&mut data);
        data
    }};
}

fn header(flight: &[u8]) -> Vec<u8> {
    let length = OID.len() + flight.len();
    let length = match length {
        0..=0x7f => vec![length as u8],
        0x80..=0xff => vec![0x81, length as u8],
        _ => [&[0x82][..], &(length as u16).to_be_bytes()].concat(),
    };
    [&[0x60], &length[..], &OID, flight].concat()
}

fn request(flags: u32, bindings: Option<[u8; 32]>, target: &str) -> Vec<u8> {
    let mut message = vec![1];
    message.extend_from_slice(&flags.to_be_bytes());
    message.push(u8::from(bindings.is_some()));
    message.extend_from_slice(&bindings.unwrap_or_default());
    message.extend_from_slice(&(target.len() as u16).to_be_bytes());
    message.extend_from_slice(target.as_bytes());
    message.resize(2048, 0);
    message
}

fn transcript(messages: &[&[u8]]) -> [u8; 32] {
    let mut hash = [0; 32];
    for message in messages {
        let sum = digest(&SHA256, &[&hash[..], message].concat());
        hash.copy_from_slice(sum.as_ref());
    }
    hash
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label of RFC 8446 7.1.
fn expand(secret: &[u8], label: &str, context: &[u8], out: &mut [u8]) {
    let label = format!("tls13 {label}");
    let info = [
        &(out.len() as u16).to_be_bytes()[..],
        &[label.len() as u8],
        label.as_bytes(),
        &[context.len() as u8],
        context,
    ];
    let prk = Prk::new_less_safe(HKDF_SHA256, secret);
    prk.expand(&info, Bytes(out.len()))
        .unwrap()
        .fill(out)
        .unwrap();
}

/// The first wrap token of a direction, not encrypted: `spec/messages.md`.
fn wrap(secret: &[u8], by_acceptor: bool, message: &[u8]) -> Vec<u8> {
    let (mut key, mut iv) = ([0; 16], [0; 12]);
    expand(secret, "key", b"", &mut key);
    expand(secret, "iv", b"", &mut iv);
    let mut token = vec![1, u8::from(by_acceptor) << 1];
    token.resize(16, 0);
    token.extend_from_slice(message);
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap());
    let nonce = Nonce::assume_unique_for_key(iv);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(&token[..]), &mut [])
        .unwrap();
    token.extend_from_slice(tag.as_ref());
    token
}

//= proves spec/mechanism.md#header
//= proves spec/mechanism.md#request
//= proves spec/mechanism.md#answer
//= proves spec/mechanism.md#transcript
//= proves spec/mechanism.md#message-keys
//= proves spec/mechanism.md#prf
#[test]
fn a_strangers_initiator_is_understood() {
    let authority = Authority::new("authority");
    let (acceptor, _) = build(configs(&authority));
    let mut client = client(&authority);
    let acceptor = Acceptor::<Message>::new(acceptor);
    let Ok(Step::Continue { next, output }) = acceptor.step(&header(&sent!(client))) else {
        panic!()
    };
    assert!(heard!(client, output).is_empty());
    // Anonymity, replay detection, confidentiality.
    let request = request(64 | 4 | 16, None, "imap@mail.example");
    client.writer().write_all(&request).unwrap();
    let Ok(Step::Done { finished, output }) = next.step(&sent!(client)) else {
        panic!()
    };
    let answer = heard!(client, output);
    assert_eq!(answer.len(), 64);
    assert_eq!(answer[..6], [2, 0, 0, 0, 0, 2 | 4 | 16 | 32 | 64]);
    assert_eq!(finished.facts().target_name, Some(target()));
    assert!(!finished.facts().flags.contains(Flags::SEQUENCE));

    let mut secrets = [0; 96];
    let context = transcript(&[&request, &answer]);
    client
        .export_keying_material(
            &mut secrets[..],
            b"EXPORTER-Baton-1-message",
            Some(&context),
        )
        .unwrap();
    let domain = Domain::inherited(4).unwrap();
    let mut context = finished.activate(&domain).unwrap();
    let mut token = wrap(&secrets[..32], false, b"hello");
    assert_eq!(context.unwrap(&mut token).unwrap().message, b"hello");
    let ours = context.wrap(false, b"hello").unwrap();
    assert_eq!(ours, wrap(&secrets[32..64], true, b"hello"));

    // TLS-Exporter of RFC 8446 7.5, from the third secret.
    let (mut derived, mut theirs, mut ours) = ([0; 32], [0; 50], [0; 50]);
    let label = "EXPORTER-Baton-1-prf-full";
    let empty = digest(&SHA256, b"");
    expand(&secrets[64..], label, empty.as_ref(), &mut derived);
    let input = digest(&SHA256, b"input");
    expand(&derived, "exporter", input.as_ref(), &mut theirs);
    context
        .pseudo_random(PrfKey::Full, b"input", &mut ours)
        .unwrap();
    assert_eq!(ours, theirs);
}

fn answer(flags: u32, bindings: Option<[u8; 32]>) -> Vec<u8> {
    let mut message = vec![2, 0];
    message.extend_from_slice(&flags.to_be_bytes());
    message.push(u8::from(bindings.is_some()));
    message.extend_from_slice(&bindings.unwrap_or_default());
    message.extend_from_slice(&600_u32.to_be_bytes());
    message.resize(64, 0);
    message
}

//= proves spec/mechanism.md#header
//= proves spec/mechanism.md#request
//= proves spec/mechanism.md#message-keys
//= proves spec/mechanism.md#lifetime
#[test]
fn a_strangers_acceptor_is_understood() {
    let authority = Authority::new("authority");
    let (_, initiator) = build(configs(&authority));
    let mut server = server(&authority);
    let initiator = Initiator::<Message>::new(initiator, target()).unwrap();
    let Ok(Step::Continue { next, output }) = initiator.step(&[]) else {
        panic!()
    };
    let flight = output.iter().position(|byte| *byte == 0x16).unwrap();
    assert_eq!(output, header(&output[flight..]));
    heard!(server, output[flight..]);
    let Ok(Step::Continue { next, output }) = next.step(&sent!(server)) else {
        panic!()
    };
    let request = heard!(server, output);
    let wanted = 2 | 4 | 8 | 16 | 32 | 64;
    assert_eq!(request, self::request(wanted, None, "imap@mail.example"));
    let answer = answer(2 | 8 | 32 | 64, None);
    server.writer().write_all(&answer).unwrap();
    let Ok(Step::Done { finished, .. }) = next.step(&sent!(server)) else {
        panic!()
    };
    let facts = finished.facts();
    assert_eq!(facts.expires, Some(facts.established + 600));
    assert!(facts.flags.contains(Flags::SEQUENCE));
    assert!(!facts.flags.contains(Flags::CONFIDENTIALITY));

    let mut secrets = [0; 96];
    let context = transcript(&[&request, &answer]);
    server
        .export_keying_material(
            &mut secrets[..],
            b"EXPORTER-Baton-1-message",
            Some(&context),
        )
        .unwrap();
    let domain = Domain::inherited(4).unwrap();
    let mut context = finished.activate(&domain).unwrap();
    let mut token = wrap(&secrets[32..64], true, b"hello");
    assert_eq!(context.unwrap(&mut token).unwrap().message, b"hello");
    let ours = context.wrap(false, b"hello").unwrap();
    assert_eq!(ours, wrap(&secrets[..32], false, b"hello"));
}

/// What becomes of our acceptor when a stranger's request is this, and how it is told.
fn accept(authority: &Authority, request: &[u8]) -> Result<Vec<u8>, (Minor, Vec<u8>)> {
    let (acceptor, _) = build(configs(authority));
    let mut client = client(authority);
    let acceptor = Acceptor::<Message>::new(acceptor);
    let Ok(Step::Continue { next, output }) = acceptor.step(&header(&sent!(client))) else {
        panic!()
    };
    heard!(client, output);
    client.writer().write_all(request).unwrap();
    match next.step(&sent!(client)) {
        Ok(Step::Done { output, .. } | Step::Continue { output, .. }) => Ok(heard!(client, output)),
        Err(failed) => Err((failed.status.minor(), failed.output)),
    }
}

//= proves spec/mechanism.md#tokens
//= proves spec/mechanism.md#identity
//= proves spec/mechanism.md#flags
#[test]
fn a_hostile_request_is_refused_past_authentication() {
    let authority = Authority::new("authority");
    let good = request(64, None, "imap@mail.example");
    assert!(accept(&authority, &good).is_ok());
    // Flags nobody knows are passed over.
    let flags = request(64 | 0xffff_f600, None, "imap@mail.example");
    assert_eq!(
        accept(&authority, &flags).unwrap()[2..6],
        [0, 0, 0, 2 | 32 | 64]
    );

    let defective: [&[u8]; 7] = [
        b"",
        b"x",
        &good[..2047],
        &[&good[..], b"\0"].concat(),
        &[&good[..], &good].concat(),
        &[0; 2048],
        &[0xff; 2048],
    ];
    for request in defective {
        let (minor, output) = accept(&authority, request).unwrap_err();
        assert_eq!(minor, Minor::ContextTokenMalformed);
        assert!(!output.is_empty(), "an alert");
    }
    // A password beside anonymity.
    let mut both = good.clone();
    both[57] = 1;
    both[58..66].copy_from_slice(b"\0\x03ada\0\x01x");
    assert_eq!(
        accept(&authority, &both).unwrap_err().0,
        Minor::ContextTokenMalformed
    );
    // Nothing at all.
    let nothing = request(0, None, "imap@mail.example");
    assert_eq!(
        accept(&authority, &nothing).unwrap_err().0.major(),
        Major::NoCred
    );
    let bound = request(64, Some([1; 32]), "imap@mail.example");
    assert_eq!(
        accept(&authority, &bound).unwrap_err().0,
        Minor::BindingsDiffer
    );
}

/// What becomes of our initiator when a stranger's answer is this.
fn initiate(
    authority: &Authority,
    bound: Option<&ChannelBindings>,
    answer: &[u8],
) -> Option<Minor> {
    let (_, initiator) = build(configs(authority));
    let mut server = server(authority);
    let mut initiator = Initiator::<Message>::new(initiator, target()).unwrap();
    if let Some(bindings) = bound {
        initiator = initiator.bindings(bindings);
    }
    let Ok(Step::Continue { next, output }) = initiator.step(&[]) else {
        panic!()
    };
    let flight = output.iter().position(|byte| *byte == 0x16).unwrap();
    heard!(server, output[flight..]);
    let Ok(Step::Continue { next, output }) = next.step(&sent!(server)) else {
        panic!()
    };
    heard!(server, output);
    server.writer().write_all(answer).unwrap();
    next.step(&sent!(server))
        .err()
        .map(|failed| failed.status.minor())
}

//= proves spec/mechanism.md#answer
//= proves spec/mechanism.md#flags
//= proves spec/mechanism.md#bindings
#[test]
fn a_hostile_answer_is_refused() {
    let authority = Authority::new("authority");
    let malformed = Some(Minor::ContextTokenMalformed);
    let flags = |flags| initiate(&authority, None, &answer(flags, None));
    assert_eq!(flags(2 | 32 | 64), None);
    assert_eq!(flags(2 | 4 | 8 | 16 | 32 | 64), None);
    // Granted: not what always is; not anonymity; what nobody wanted (protection is ready).
    for wrong in [32 | 64, 2 | 64, 2 | 32, 2 | 32 | 64 | 128] {
        assert_eq!(flags(wrong), malformed, "{wrong}");
    }
    let good = answer(2 | 32 | 64, None);
    for wrong in [
        &b""[..],
        &good[..63],
        &[&good[..], b"\0"].concat(),
        &[2; 64],
    ] {
        assert_eq!(initiate(&authority, None, wrong), malformed);
    }
    // An acceptor that lets bindings pass, or has others.
    let differ = Some(Minor::BindingsDiffer);
    let ours = ChannelBindings::application_data(b"ours".to_vec());
    assert_eq!(initiate(&authority, Some(&ours), &good), differ);
    let other = answer(2 | 32 | 64, Some([1; 32]));
    assert_eq!(initiate(&authority, Some(&ours), &other), differ);
    assert_eq!(initiate(&authority, None, &other), differ);
}
