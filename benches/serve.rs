//! What a session costs on the server: `baton serve`, a process for each, over a bare rustls server
//! that makes handshakes in one process and forks once established, exporting nothing.
//!
//! The same certificate, the same clients (stock rustls, full handshakes, no tickets) on the same
//! two processors, both servers alive throughout, measured in turns; a figure is the median of the
//! turns' ratios. A session is: connect, handshake, 64 bytes echoed, closed by both.
//!
//! - `sessions_over_forkafter`: sessions a second, 64 clients at once.
//! - `session_over_floor`: the server's processor time for a session, all its processes, over that
//!   of a bare rustls handshake in memory and of a fork that exits and is waited for.
//! - `bulk_over_bare`: one session that echoes 1 GiB.
//! - `exec_over_best`: sessions a second with `--exec cat`, over the better of `socat` and
//!   `stunnel` where these are installed.
//! - `fork_us`: the zygote's fork, with no other session, and how it grows with 100,000 (quick: 5,000)
//!   live ones; `start_us` is all that the supervisor waits for, from its order to the answer.
//! - `bytes_per_session_process`: private memory of an idle session's process beside 200 others, its
//!   page tables not counted: they are told apart.
//!
//! `BATON_BENCH_QUICK=1` takes some 10 s.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench prints, and stops when it fails"
)]

#[path = "serve/bare.rs"]
mod bare;
#[path = "serve/clients.rs"]
mod clients;
#[path = "serve/growth.rs"]
mod growth;
#[path = "serve/idle.rs"]
mod idle;
#[path = "serve/others.rs"]
mod others;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clients::Clients;

const AT_ONCE: usize = 64;

fn quick() -> bool {
    std::env::var_os("BATON_BENCH_QUICK").is_some()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (rounds, span) = match quick() {
        true => (3, Duration::from_millis(500)),
        false => (9, Duration::from_secs(3)),
    };
    growth::run(quick());
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("baton");
    let ours = Serving::start(&state, &[]);
    let bare = bare::Server::start(&state.join("identity"));
    let clients = Clients::new(&state.join("identity/ca.pem"));
    let idle = if quick() { 50 } else { 200 };
    idle::run(&clients, ours.child.id(), ours.address, idle);
    let (mut sessions, mut absolute, mut costs) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        let before = ours.cpu();
        let (count, rate) = clients.sessions(ours.address, AT_ONCE, span);
        // What has just ended is waited for before its time is counted.
        let cost = (ours.cpu() - before) / count as f64;
        let (_, bare_rate) = clients.sessions(bare.address, AT_ONCE, span);
        sessions.push(rate / bare_rate);
        absolute.push(rate);
        costs.push(cost / (bare::handshake(&state.join("identity")) + bare::fork_exit_wait()));
    }
    println!("{:.0} sessions a second", median(absolute));
    println!(
        "figure: sessions_over_forkafter = {:.2} ratio",
        median(sessions)
    );
    println!("figure: session_over_floor = {:.2} ratio", median(costs));

    let bytes = if quick() { 32 << 20 } else { 1 << 30 };
    let bulk = |_| clients.bulk(ours.address, bytes) / clients.bulk(bare.address, bytes);
    let bulk = median((0..3).map(bulk).collect());
    println!("figure: bulk_over_bare = {bulk:.2} ratio");
    drop(ours);

    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("baton");
    let cat = Serving::start(&state, &["--exec", "cat"]);
    let clients = Clients::new(&state.join("identity/ca.pem"));
    let mut best: f64 = 0.0;
    for other in others::start(&state.join("identity")) {
        let rate = |_| clients.sessions(other.address, AT_ONCE, span).1;
        let rate = median((0..3).map(rate).collect());
        println!("{}: {rate:.0} sessions a second", other.name);
        best = best.max(rate);
    }
    let rate = |_| clients.sessions(cat.address, AT_ONCE, span).1;
    let rate = median((0..3).map(rate).collect());
    println!("baton serve --exec cat: {rate:.0} sessions a second");
    match best {
        0.0 => println!("exec_over_best not measured: neither socat nor stunnel is installed"),
        best => println!("figure: exec_over_best = {:.2} ratio", rate / best),
    }
}

/// A running `baton serve`.
struct Serving {
    child: Child,
    address: SocketAddr,
}

impl Serving {
    fn start(state: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_baton"))
            .args(["serve", "--listen", "127.0.0.1:0", "--state"])
            .arg(state)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next().unwrap().unwrap();
        let address = address
            .strip_prefix("Baton listens on ")
            .and_then(|rest| rest.split(' ').next())
            .unwrap()
            .parse()
            .unwrap();
        // The rest of what it prints is not read by anybody, and fits the pipe.
        std::mem::forget(lines);
        Self { child, address }
    }

    /// Microseconds of processor time of all its processes so far, those that have ended among
    /// them, in hundredths of a second.
    fn cpu(&self) -> f64 {
        let server = self.child.id();
        let numbers = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
        let ticks: u64 = numbers.filter_map(|process| ticks(process, server)).sum();
        ticks as f64 * 1e6 / rustix::param::clock_ticks_per_second() as f64
    }
}

/// The time of a process of this server, and of the children it has waited for.
fn ticks(process: u32, server: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(") ").next()?.split_whitespace().collect();
    let is_parent = |number: &str| number.parse() == Ok(server);
    if process != server && !is_parent(fields[1]) {
        return None;
    }
    let times = fields[11..15].iter();
    Some(times.map(|time| time.parse::<u64>().unwrap()).sum())
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
