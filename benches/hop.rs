//! What a hop costs: export plus import in one process, contexts with their sockets from process
//! to process, the check before every operation, the memory of an idle context.
//!
//! Each figure is a median of several runs, ours and what it is compared with in turn.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod connections;
#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use baton::context::Context;
use baton::crypto;
use baton::ledger::Domain;
use baton::message::Message;
use baton::record::Record;
use baton::sys::process::{self, Signal};
use baton::sys::socket;
use baton::transfer::{Export, MAX_MEMBERS, Parcel, Receiver, Sender, bundle, import};
use connections::{Far, connections};
use rustix::process::set_parent_process_death_signal;
use support::{Talk, forked, pair};

#[global_allocator]
static ALLOCATOR: baton::sys::alloc::WipingAllocator = baton::sys::alloc::WipingAllocator;

fn quick() -> bool {
    std::env::var_os("BATON_BENCH_QUICK").is_some()
}

fn main() {
    let rounds = if quick() { 7 } else { 15 };
    let (message, over_aead) = hop::<Message>(rounds);
    println!("figure: hop_us = {message:.2} us");
    println!("figure: hop_over_aead = {over_aead:.2} ratio");
    let (record, over_aead) = hop::<Record>(rounds);
    println!("figure: hop_record_us = {record:.2} us");
    println!("figure: hop_record_over_aead = {over_aead:.2} ratio");
    println!("figure: active_check_ns = {:.2} ns", check(rounds));
    println!(
        "figure: bytes_per_idle_context = {} bytes",
        idle::<Record>()
    );
    println!(
        "figure: bytes_per_idle_message_context = {} bytes",
        idle::<Message>()
    );
    moves();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Microseconds of one hop, and over bare sealing and opening of the same bytes.
fn hop<F: Talk>(rounds: usize) -> (f64, f64) {
    const HOPS: u32 = 20_000;
    let domain = Domain::inherited(1024).unwrap();
    let (context, _peer) = pair::<F>(&domain);
    let mut context = Some(context);
    let how = Export::default();
    let mut size = 0;
    let (mut ours, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..HOPS {
            let token = context.take().unwrap().export(&how).unwrap();
            size = token.as_bytes().len();
            context = Some(import(&domain, black_box(token.as_bytes()), None).unwrap());
        }
        let us = start.elapsed().as_secs_f64() * 1e6 / f64::from(HOPS);
        let bare = bare_aead(size, HOPS);
        ours.push(us);
        ratios.push(us / bare);
    }
    (median(ours), median(ratios))
}

fn bare_aead(size: usize, times: u32) -> f64 {
    let (key, nonce, aad) = ([7; 32], [9; 24], [1; 62]);
    let mut text = vec![0; size - 36];
    let length = text.len() - 16;
    let start = Instant::now();
    for _ in 0..times {
        let tag = crypto::seal_at_rest(&key, &nonce, &aad, &mut text[..length]).unwrap();
        text[length..].copy_from_slice(&tag);
        crypto::open_at_rest(&key, &nonce, &aad, black_box(&mut text)).unwrap();
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(times)
}

/// Nanoseconds of the check that this process still runs the context.
fn check(rounds: usize) -> f64 {
    const TIMES: u32 = 5_000_000;
    let domain = Domain::inherited(1024).unwrap();
    let (context, _peer) = pair::<Message>(&domain);
    let run = |_| {
        let start = Instant::now();
        for _ in 0..TIMES {
            black_box(black_box(&context).check()).unwrap();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
    };
    median((0..rounds).map(run).collect())
}

/// Resident bytes each further imported, idle context costs, ledger entry and all.
fn idle<F: Talk>() -> u64 {
    const COUNT: usize = 4000;
    let domain = Domain::inherited(16_384).unwrap();
    // The peers are made and dropped first, and the tokens are kept outside what is measured.
    let tokens: Vec<_> = (0..COUNT)
        .map(|_| pair::<F>(&domain).0.export(&Export::default()).unwrap())
        .collect();
    let mut contexts: Vec<Context<F>> = Vec::with_capacity(COUNT);
    let (warm, measured) = tokens.split_at(COUNT / 4);
    contexts.extend(
        warm.iter()
            .map(|t| import(&domain, t.as_bytes(), None).unwrap()),
    );
    let before = resident();
    contexts.extend(
        measured
            .iter()
            .map(|t| import(&domain, t.as_bytes(), None).unwrap()),
    );
    (resident() - before) / measured.len() as u64
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("Rss:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// Live connections with their sockets, from this process to a child.
fn moves() {
    let most = process::raise_descriptor_limit().unwrap() as usize - 2 * MAX_MEMBERS;
    let count = if quick() { 2_000 } else { most.min(20_000) };
    let runs = 3;
    println!("{count} connections in each of {runs} runs");
    let domain = Domain::inherited(65_536).unwrap();
    let (mut bundles, mut ratios, mut singles, mut untied) = (vec![], vec![], vec![], vec![]);
    for _ in 0..runs {
        let tied = Export::default();
        let seconds = move_in_bundles(&domain, count, &tied);
        bundles.push(count as f64 / seconds);
        let bare = move_bare(&domain, count);
        ratios.push(seconds / bare);
        untied.push(count as f64 / move_in_bundles(&domain, count, &tied.clone().tie_each(false)));
        singles.push(count as f64 / move_one_by_one(&domain, count));
    }
    println!("figure: moves_per_s = {:.0} 1/s", median(bundles));
    println!("figure: moves_untied_per_s = {:.0} 1/s", median(untied));
    println!(
        "figure: moves_one_by_one_per_s = {:.0} 1/s",
        median(singles)
    );
    println!("figure: bundle_over_bare = {:.2} ratio", median(ratios));
}

/// Seconds from the first export until the child has every context active. The child is there
/// before what is sent is made, as a successor is that was executed: nothing of this process's
/// memory is shared with it and copied when written. What `prepare` made besides, the far ends,
/// is closed after the clock has stopped: that belongs to nobody's move, and takes longer.
fn timed<T, F, R>(
    receive: impl FnOnce(OwnedFd) -> R,
    prepare: impl FnOnce() -> (T, F),
    send: impl FnOnce(OwnedFd, T),
) -> f64 {
    let (near, far) = socket::pair().unwrap();
    let (mut done, done_in_child) = std::io::pipe().unwrap();
    let mut child = forked(|| {
        // It holds the sending end, too: without its parent it would wait for ever.
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        let _kept = receive(far);
        (&done_in_child).write_all(b"!").unwrap();
        // As long as this process has the sockets, closing them costs the other next to nothing.
        loop {
            std::thread::park();
        }
    });
    drop(done_in_child);
    let (prepared, _far) = prepare();
    let start = Instant::now();
    send(near, prepared);
    done.read_exact(&mut [0]).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    child.kill(Signal::KILL).unwrap();
    child.wait().unwrap();
    seconds
}

fn receive_all(
    domain: &Domain,
    socket: OwnedFd,
    count: usize,
) -> Vec<(Context<Record>, Option<OwnedFd>)> {
    let mut receiver = Receiver::new(socket).unwrap();
    let mut arrived = Vec::with_capacity(count);
    while arrived.len() < count {
        let arrivals = receiver.receive::<Record>(domain).unwrap().unwrap();
        arrived.extend(arrivals.into_iter().map(Result::unwrap));
    }
    arrived
}

fn move_in_bundles(domain: &Domain, count: usize, how: &Export) -> f64 {
    timed(
        |socket| receive_all(domain, socket, count),
        || connections(domain, count),
        |socket, near| {
            let mut sender = Sender::new(socket).unwrap();
            let mut near = near.into_iter();
            while near.len() > 0 {
                let bundled = bundle(near.by_ref().take(MAX_MEMBERS).collect(), how);
                assert!(bundled.kept.is_empty());
                bundled
                    .parcels
                    .into_iter()
                    .for_each(|parcel| sender.send(parcel).unwrap());
            }
            sender.finish().unwrap();
        },
    )
}

fn move_one_by_one(domain: &Domain, count: usize) -> f64 {
    timed(
        |socket| receive_all(domain, socket, count),
        || connections(domain, count),
        |fd, near| {
            let mut sender = Sender::new(fd).unwrap();
            for (context, socket) in near {
                let how = Export::default().tied_to(socket.as_fd()).unwrap();
                let token = context.export(&how).unwrap();
                sender.send(Parcel::new(token, Some(socket))).unwrap();
            }
            sender.finish().unwrap();
        },
    )
}

/// The floor: the same descriptors and as many bytes, from process to process, and no more.
fn move_bare(domain: &Domain, count: usize) -> f64 {
    timed(
        |fd| {
            let mut buffer = vec![0; 256 * 1024];
            let mut all = Vec::with_capacity(count);
            while all.len() < count {
                socket::recv_with_fds(fd.as_fd(), &mut buffer, &mut all, true).unwrap();
            }
            all
        },
        || bare_load(domain, count),
        |fd, (bytes, sockets)| {
            socket::set_buffers(fd.as_fd(), 1 << 20).unwrap();
            for group in sockets.chunks(MAX_MEMBERS) {
                let group: Vec<BorrowedFd<'_>> = group.iter().map(AsFd::as_fd).collect();
                let bytes = [std::io::IoSlice::new(&bytes)];
                socket::send_with_fds(fd.as_fd(), &bytes, &group).unwrap();
            }
            drop(sockets);
        },
    )
}

/// As many descriptors as connections, and the bytes of one full bundle.
fn bare_load(domain: &Domain, count: usize) -> ((Vec<u8>, Vec<OwnedFd>), Far) {
    let (mut near, far) = connections(domain, count);
    let sample = near.split_off(near.len() - MAX_MEMBERS);
    let bundled = bundle(sample, &Export::default());
    let bytes = bundled.parcels[0].as_bytes().to_vec();
    let mut sockets: Vec<OwnedFd> = bundled.parcels.iter().flat_map(copies).collect();
    sockets.extend(near.into_iter().map(|(_, socket)| socket));
    ((bytes, sockets), far)
}

fn copies(parcel: &Parcel) -> Vec<OwnedFd> {
    parcel
        .sockets()
        .iter()
        .map(|socket| socket.try_clone().unwrap())
        .collect()
}
