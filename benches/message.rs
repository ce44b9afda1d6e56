//! Wrapping and unwrapping in place, over what ring's AEAD alone takes for the same bytes.
//!
//! Both sides run in turns, some hundred microseconds each, and each pair of turns gives one
//! ratio: what disturbs the machine disturbs both. A figure is the median of its ratios, the worse of
//! wrap and unwrap. `BATON_BENCH_QUICK=1` takes under 8 s in all, else it is a minute.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and stops when it fails"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use baton::crypto::Suite;
use baton::message::{HEADER, Message, OVERHEAD, Services};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Messages of one turn.
fn turn(len: usize) -> usize {
    (1 << 19) / len
}

/// ring's AEAD with nothing around it but a counting nonce.
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

    /// Seals a buffer laid out as a wrap token, message and tag in its place.
    fn seal(&mut self, buffer: &mut [u8]) {
        let nonce = self.nonce();
        let (header, rest) = buffer.split_at_mut(HEADER);
        let (message, tag) = rest.split_at_mut(rest.len() - 16);
        let aad = Aad::from(&*header);
        let made = self.key.seal_in_place_separate_tag(nonce, aad, message);
        tag.copy_from_slice(made.unwrap().as_ref());
    }

    fn open(&mut self, buffer: &mut [u8]) {
        let nonce = self.nonce();
        let (header, rest) = buffer.split_at_mut(HEADER);
        let opened = self.key.open_in_place(nonce, Aad::from(&*header), rest);
        black_box(opened.unwrap());
    }
}

/// Done to one buffer, a message with room for header and tag.
type Work = Box<dyn FnMut(&mut [u8])>;

/// One side of a comparison: what is done before the clock starts, and what it measures.
struct Side {
    prepare: Work,
    run: Work,
}

impl Side {
    fn time(&mut self, buffers: &mut [Vec<u8>]) -> Duration {
        for buffer in &mut *buffers {
            (self.prepare)(buffer);
        }
        let start = Instant::now();
        for buffer in buffers {
            (self.run)(black_box(buffer));
        }
        start.elapsed()
    }
}

fn median<T: PartialOrd + Copy>(values: &mut [T]) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

/// The throughput of `ours` over that of `ring`, measured for so long.
fn compare(name: &str, len: usize, time: Duration, mut ours: Side, mut ring: Side) -> f64 {
    let mut buffers = vec![vec![7; len + OVERHEAD]; turn(len)];
    let (mut ratios, mut times) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < time {
        // In turns also as to which is first.
        let (a, b) = if ratios.len() % 2 == 0 {
            let a = ours.time(&mut buffers);
            (a, ring.time(&mut buffers))
        } else {
            let b = ring.time(&mut buffers);
            (ours.time(&mut buffers), b)
        };
        ratios.push(b.as_secs_f64() / a.as_secs_f64());
        times.push(a);
    }
    let ratio = median(&mut ratios);
    let nanoseconds = median(&mut times).as_nanos() / buffers.len() as u128;
    println!("{name:6} {len:>6} bytes: {nanoseconds:>5} ns, {ratio:.3} of ring's throughput");
    ratio
}

/// The worse of wrap and unwrap.
fn both(len: usize, time: Duration) -> f64 {
    let services = Services {
        replay: true,
        sequence: true,
        confidentiality: true,
    };
    let pair = || {
        let (one, other) = ([1; 32], [2; 32]);
        (
            Message::new(Suite::Aes128Gcm, true, &one, &other, services),
            Message::new(Suite::Aes128Gcm, false, &other, &one, services),
        )
    };

    let (mut sender, _) = pair();
    let mut sealer = Bare::new();
    let wrap = compare(
        "wrap",
        len,
        time,
        Side {
            prepare: Box::new(|_| ()),
            run: Box::new(move |buffer| sender.wrap_in_place(true, buffer).unwrap()),
        },
        Side {
            prepare: Box::new(|_| ()),
            run: Box::new(move |buffer| sealer.seal(buffer)),
        },
    );

    let (mut sender, mut receiver) = pair();
    let (mut sealer, mut opener) = (Bare::new(), Bare::new());
    let unwrap = compare(
        "unwrap",
        len,
        time,
        Side {
            prepare: Box::new(move |buffer| sender.wrap_in_place(true, buffer).unwrap()),
            run: Box::new(move |buffer| {
                let _ = black_box(receiver.unwrap(buffer).unwrap());
            }),
        },
        Side {
            prepare: Box::new(move |buffer| sealer.seal(buffer)),
            run: Box::new(move |buffer| opener.open(buffer)),
        },
    );
    wrap.min(unwrap)
}

fn main() {
    let quick = std::env::var_os("BATON_BENCH_QUICK").is_some_and(|value| value != "0");
    let time = Duration::from_millis(if quick { 1500 } else { 15_000 });
    let large = both(16 * 1024, time);
    let small = both(1024, time);
    println!("figure: message_16k_over_ring = {large:.3} ratio");
    println!("figure: message_1k_over_ring = {small:.3} ratio");
}
