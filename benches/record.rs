//! Sealing and opening records, over what ring's AEAD alone takes for the same bytes, and over
//! rustls's own connections.
//!
//! Both sides of a comparison run in turns, some hundred microseconds each, and each pair of turns
//! gives one ratio: what disturbs the machine disturbs both. A figure is the median of its ratios.
//! `BATON_BENCH_QUICK=1` takes under 8 s in all, else it is a minute.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and stops when it fails"
)]

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton::crypto::Suite;
use baton::record::{Event, HEADER, Limits, MAX_CONTENT, OVERHEAD, Read, Record, Secrets};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Bytes of one turn.
const TURN: usize = 1 << 19;

/// ring's AEAD with nothing around it but a counting nonce, over buffers laid out as records.
struct Bare {
    key: LessSafeKey,
    sequence: u64,
}

impl Bare {
    fn new() -> Self {
        let key = UnboundKey::new(&AES_128_GCM, &[3; 16]).unwrap();
        Self {
            key: LessSafeKey::new(key),
            sequence: 0,
        }
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.sequence.to_be_bytes());
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, record: &mut [u8]) {
        let nonce = self.nonce();
        let (header, rest) = record.split_at_mut(HEADER);
        let (inner, tag) = rest.split_last_chunk_mut::<16>().unwrap();
        let made = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&*header), inner);
        tag.copy_from_slice(made.unwrap().as_ref());
    }

    fn open(&mut self, record: &mut [u8]) {
        let nonce = self.nonce();
        let (header, rest) = record.split_at_mut(HEADER);
        let opened = self.key.open_in_place(nonce, Aad::from(&*header), rest);
        black_box(opened.unwrap());
    }
}

/// A server and its client, as a handshake would leave them.
fn pair() -> (Record, Record) {
    let side = |server, tx_secret, rx_secret| {
        let secrets = Secrets {
            suite: Suite::Aes128Gcm,
            server,
            tx_secret,
            rx_secret,
            tx_sequence: 0,
            rx_sequence: 0,
        };
        Record::new(&secrets, Limits::default(), &[]).unwrap()
    };
    (
        side(true, &[1; 32], &[2; 32]),
        side(false, &[2; 32], &[1; 32]),
    )
}

fn seal(record: &mut Record, buffer: &mut [u8]) {
    record
        .seal_in_place(buffer, buffer.len() - OVERHEAD)
        .unwrap();
}

fn open(record: &mut Record, buffer: &mut [u8]) {
    match record.open(buffer).unwrap().event {
        Event::Data(data) => drop(black_box(data)),
        other => unreachable!("only data was sealed: {other:?}"),
    }
}

fn median<T: PartialOrd + Copy>(values: &mut [T]) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

/// The throughput of `ours` over that of `theirs`: each answers how long one turn of it took.
fn compare(
    what: &str,
    time: Duration,
    mut ours: impl FnMut() -> Duration,
    mut theirs: impl FnMut() -> Duration,
) -> f64 {
    let (mut ratios, mut times) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < time {
        // In turns also as to which is first.
        let (a, b) = if ratios.len() % 2 == 0 {
            let a = ours();
            (a, theirs())
        } else {
            let b = theirs();
            (ours(), b)
        };
        ratios.push(b.as_secs_f64() / a.as_secs_f64());
        times.push(a);
    }
    let ratio = median(&mut ratios);
    let speed = TURN as f64 / median(&mut times).as_secs_f64() / 1e9;
    println!("{what}: {speed:.2} GB/s, {ratio:.3} of its throughput");
    ratio
}

/// Times `run` on every buffer, after `prepare` on every one.
fn turn(
    buffers: &mut [Vec<u8>],
    mut prepare: impl FnMut(&mut [u8]),
    mut run: impl FnMut(&mut [u8]),
) -> Duration {
    for buffer in &mut *buffers {
        prepare(buffer);
    }
    let start = Instant::now();
    for buffer in buffers {
        run(black_box(buffer));
    }
    start.elapsed()
}

/// In place, the worse of sealing and opening, over ring.
fn over_ring(len: usize, time: Duration) -> f64 {
    let buffers = || vec![vec![7; len + OVERHEAD]; TURN / len];
    let (mut mine, mut bare) = (buffers(), buffers());
    let ((mut sender, _), mut sealer) = (pair(), Bare::new());
    let sealed = compare(
        &format!("seal {len} bytes in place, over ring"),
        time,
        || turn(&mut mine, |_| (), |buffer| seal(&mut sender, buffer)),
        || turn(&mut bare, |_| (), |buffer| sealer.seal(buffer)),
    );
    // The sequence numbers of a new pair are in step.
    let (mut sender, mut receiver) = pair();
    let (mut sealer, mut opener) = (Bare::new(), Bare::new());
    let opened = compare(
        &format!("open {len} bytes in place, over ring"),
        time,
        || {
            turn(
                &mut mine,
                |buffer| seal(&mut sender, buffer),
                |buffer| open(&mut receiver, buffer),
            )
        },
        || {
            turn(
                &mut bare,
                |buffer| sealer.seal(buffer),
                |buffer| opener.open(buffer),
            )
        },
    );
    sealed.min(opened)
}

/// rustls on both sides, after a handshake with the suite of [`pair`].
fn rustls_pair() -> (ServerConnection, ClientConnection) {
    let provider = || {
        let mut provider: CryptoProvider = rustls::crypto::ring::default_provider();
        provider
            .cipher_suites
            .retain(|suite| u16::from(suite.suite()) == Suite::Aes128Gcm.code());
        Arc::new(provider)
    };
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let accept = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let connect = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConnection::new(Arc::new(accept)).unwrap();
    let name = "localhost".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(connect), name).unwrap();
    while server.is_handshaking() || client.is_handshaking() || server.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets().unwrap();
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (server, client)
}

/// From the sender's data to the receiver's buffer, over rustls: both with buffers inside, or
/// (`in_place`) ours as a program uses it that has its own.
fn over_rustls(time: Duration, in_place: bool) -> f64 {
    let data = vec![7; MAX_CONTENT];
    let (mut received, mut wire) = (vec![0; MAX_CONTENT], Vec::new());
    let ((mut sender, mut receiver), (mut server, mut client)) = (pair(), rustls_pair());
    let mut also_received = received.clone();
    let buffered = |time: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..TURN / MAX_CONTENT {
            time();
        }
        start.elapsed()
    };
    let theirs = || {
        buffered(&mut || {
            server.writer().write_all(black_box(&data)).unwrap();
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut wire = &wire[..];
            while !wire.is_empty() {
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets().unwrap();
            }
            client.reader().read_exact(&mut also_received).unwrap();
            black_box(&also_received);
        })
    };
    let mut record = Vec::new();
    let ours = || {
        buffered(&mut || {
            if in_place {
                record.clear();
                sender.seal(black_box(&data), &mut record).unwrap();
                open(&mut receiver, &mut record);
                return;
            }
            assert_eq!(sender.write(black_box(&data)), Ok(MAX_CONTENT));
            let output = sender.output();
            assert_eq!(receiver.feed(output), Ok(output.len()));
            sender.sent(usize::MAX);
            assert_eq!(receiver.read(&mut received), Ok(Read::Data(MAX_CONTENT)));
            black_box(&received);
        })
    };
    let how = if in_place {
        "opened in place"
    } else {
        "buffered"
    };
    compare(
        &format!("seal and open 16384 bytes, {how}, over rustls"),
        time,
        ours,
        theirs,
    )
}

fn main() {
    let quick = std::env::var_os("BATON_BENCH_QUICK").is_some_and(|value| value != "0");
    let time = Duration::from_millis(if quick { 1000 } else { 8_000 });
    let large = over_ring(MAX_CONTENT, time);
    let small = over_ring(1024, time);
    let in_place = over_rustls(time, true);
    let buffered = over_rustls(time, false);
    println!("figure: record_16k_over_ring = {large:.3} ratio");
    println!("figure: record_1k_over_ring = {small:.3} ratio");
    println!("figure: record_16k_over_rustls = {buffered:.3} ratio");
    println!("figure: record_16k_in_place_over_rustls = {in_place:.3} ratio");
}
