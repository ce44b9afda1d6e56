//! What a hop costs in a kept domain: how many a keeper serves in a second when several members
//! hop at once, how long one takes when nobody else asks, and the check before every operation.
//!
//! The limit each is compared with, in the same run, is as many bare round trips over the same kind
//! of socket, with as many processes.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

#[path = "../tests/keeping/mod.rs"]
mod keeping;
#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::io::{IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Instant;

use baton::context::Context;
use baton::ledger::Domain;
use baton::ledger::keeper::Role;
use baton::message::Message;
use baton::sys::process::Signal;
use baton::sys::socket;
use baton::transfer::{Export, bundle, import, unbundle};
use keeping::Keeping;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::process::set_parent_process_death_signal;
use support::{forked, pair};

#[global_allocator]
static ALLOCATOR: baton::sys::alloc::WipingAllocator = baton::sys::alloc::WipingAllocator;

/// Round trips of one hop: OPEN, ARRIVE, DEPART.
const TRIPS: usize = 3;

fn quick() -> bool {
    std::env::var_os("BATON_BENCH_QUICK").is_some()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (rounds, hops) = if quick() { (5, 8_000) } else { (15, 40_000) };
    let runs: Vec<_> = (0..rounds)
        .map(|_| {
            let ours = hops_at_once(8, hops);
            (ours, bare_at_once(8, hops) / ours)
        })
        .collect();
    let (ours, ratios): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
    println!("figure: keeper_hops_per_s = {:.0} 1/s", median(ours));
    println!(
        "figure: keeper_hops_over_bare = {:.2} ratio",
        median(ratios)
    );
    let runs: Vec<_> = (0..rounds).map(|_| one_at_a_time(hops)).collect();
    let (ours, ratios): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
    println!("figure: keeper_hop_us = {:.2} us", median(ours));
    println!(
        "figure: keeper_hop_over_trips = {:.2} ratio",
        median(ratios)
    );
    let runs: Vec<_> = (0..rounds).map(|_| bundled(hops)).collect();
    println!(
        "figure: keeper_bundled_hops_per_s = {:.0} 1/s",
        median(runs)
    );
    println!("figure: keeper_check_ns = {:.2} ns", check(rounds));
}

fn hop(context: Context<Message>, domain: &Domain, how: &Export) -> Context<Message> {
    let token = context.export(how).unwrap();
    import(domain, black_box(token.as_bytes()), None).unwrap()
}

/// Hops in a second, by `members` processes that hop one context each, at once.
fn hops_at_once(members: usize, hops: usize) -> f64 {
    let keeping = Keeping::new();
    let sockets: Vec<_> = (0..members)
        .map(|_| keeping.connect(Role::Member))
        .collect();
    at_once(&sockets, hops, |socket| {
        let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
        let (context, peer) = pair::<Message>(&domain);
        let (how, mut context) = (Export::default(), Some(context));
        move || {
            let _ = &peer;
            context = Some(hop(context.take().unwrap(), &domain, &how));
        }
    })
}

/// The limit: as many bare round trips as hops have, to one process that sends back what it gets.
fn bare_at_once(members: usize, hops: usize) -> f64 {
    let (near, far): (Vec<_>, Vec<_>) = (0..members).map(|_| socket::pair().unwrap()).unzip();
    let mut server = forked(|| {
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        near.iter().for_each(support::close_in_child);
        serve_bare(&far);
        0
    });
    drop(far);
    let rate = at_once(&near, hops, |socket| {
        let socket = socket.try_clone().unwrap();
        let mut buffer = [0; 256];
        move || {
            for _ in 0..TRIPS {
                socket::send_whole(&socket, &[1; 64]).unwrap();
                socket::recv_whole(&socket, &mut buffer).unwrap();
            }
        }
    });
    server.kill(Signal::KILL).unwrap();
    server.wait().unwrap();
    rate
}

fn serve_bare(sockets: &[OwnedFd]) {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    for (socket, number) in sockets.iter().zip(0..) {
        let data = epoll::EventData::new_u64(number);
        epoll::add(&poller, socket, data, epoll::EventFlags::IN).unwrap();
    }
    let mut buffer = [0; 256];
    loop {
        let mut events = Vec::with_capacity(64);
        epoll::wait(&poller, spare_capacity(&mut events), None).unwrap();
        for event in &events {
            let data = event.data;
            let socket = &sockets[data.u64() as usize];
            match socket::recv_whole(socket, &mut buffer) {
                Ok(length) => drop(socket::send_now(socket, &buffer[..length])),
                // Its client is done.
                Err(_) => epoll::delete(&poller, socket).unwrap(),
            }
        }
    }
}

/// How often in a second processes, one for each socket, do together what `prepare` makes ready.
fn at_once<W: FnMut()>(sockets: &[OwnedFd], times: usize, prepare: impl Fn(&OwnedFd) -> W) -> f64 {
    let (start, mut starter) = std::io::pipe().unwrap();
    let (mut done, telling) = std::io::pipe().unwrap();
    let each = times / sockets.len();
    let work = |socket: &OwnedFd| {
        forked(|| {
            set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
            let mut step = prepare(socket);
            step();
            (&telling).write_all(b"r").unwrap();
            (&start).read_exact(&mut [0]).unwrap();
            (0..each).for_each(|_| step());
            (&telling).write_all(b"d").unwrap();
            0
        })
    };
    let children: Vec<_> = sockets.iter().map(work).collect();
    let mut all = vec![0; sockets.len()];
    done.read_exact(&mut all).unwrap();
    let clock = Instant::now();
    starter.write_all(&all).unwrap();
    done.read_exact(&mut all).unwrap();
    let seconds = clock.elapsed().as_secs_f64();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    (each * sockets.len()) as f64 / seconds
}

/// Microseconds of one hop when nobody else asks, and over as many bare round trips.
fn one_at_a_time(hops: usize) -> (f64, f64) {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (mut context, _peer) = pair::<Message>(&domain);
    let how = Export::default();
    let clock = Instant::now();
    for _ in 0..hops {
        context = hop(context, &domain, &how);
    }
    let ours = clock.elapsed().as_secs_f64() * 1e6 / hops as f64;
    (ours, ours / (bare_trips(hops * TRIPS) * TRIPS as f64))
}

/// Microseconds of one round trip to a process that answers each message with another.
fn bare_trips(times: usize) -> f64 {
    let (near, far): (OwnedFd, OwnedFd) = socket::pair().unwrap();
    let child = forked(|| {
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        let mut buffer = [0; 256];
        loop {
            let got = socket::recv_with_fds(&far, &mut buffer, &mut Vec::new(), true).unwrap();
            socket::send_with_fds(&far, &[IoSlice::new(&buffer[..got.len])], &[]).unwrap();
        }
    });
    let mut buffer = [0; 256];
    let clock = Instant::now();
    for _ in 0..times {
        socket::send_with_fds(&near, &[IoSlice::new(&[1; 64])], &[]).unwrap();
        socket::recv_with_fds(&near, &mut buffer, &mut Vec::new(), true).unwrap();
    }
    let us = clock.elapsed().as_secs_f64() * 1e6 / times as f64;
    child.kill(Signal::KILL).unwrap();
    us
}

/// Hops in a second of contexts that travel in bundles of two hundred, in one process.
fn bundled(hops: usize) -> f64 {
    const EACH: usize = 200;
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let member = |_| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        (pair::<Message>(&domain).0, OwnedFd::from(socket))
    };
    let mut members: Vec<_> = (0..EACH).map(member).collect();
    let (how, times) = (Export::default().tie_each(false), hops.div_ceil(EACH));
    let clock = Instant::now();
    for _ in 0..times {
        let bundled = bundle(std::mem::take(&mut members), &how);
        assert!(bundled.kept.is_empty());
        for parcel in bundled.parcels {
            let sockets = parcel
                .sockets()
                .iter()
                .map(|socket| socket.try_clone().unwrap());
            let mut bytes = parcel.as_bytes().to_vec();
            let arrived = unbundle(&domain, &mut bytes, sockets.collect()).unwrap();
            members.extend(arrived.into_iter().map(Result::unwrap));
        }
    }
    (times * EACH) as f64 / clock.elapsed().as_secs_f64()
}

/// Nanoseconds of the check that this process still runs the context, and the keeper lives.
fn check(rounds: usize) -> f64 {
    const TIMES: u32 = 2_000_000;
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (context, _peer) = pair::<Message>(&domain);
    let run = |_| {
        let clock = Instant::now();
        for _ in 0..TIMES {
            black_box(black_box(&context).check()).unwrap();
        }
        clock.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
    };
    median((0..rounds).map(run).collect())
}
