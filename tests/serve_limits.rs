//! Attacks on what a server has only so much of: each costs who makes it, and the others are
//! served.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clients;
mod serving;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clients::Clients;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serving::{Serving, Talking, children, run};

/// The beginning of a client's hello: it announces more than ever comes.
const BEGINNING: [u8; 11] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

fn clients(serving: &Serving) -> Clients {
    Clients::new(&serving.identity("ca.pem"))
}

fn serves(serving: &Serving) {
    let (output, errors, status) = run(serving.connect(&[]), b"well\n");
    assert!(status.success(), "{errors}");
    assert_eq!(output, "well\n");
}

/// A number in the status of a process.
fn number(process: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let field = line
        .unwrap()
        .trim_start_matches(':')
        .split_whitespace()
        .next();
    field.unwrap().parse().unwrap()
}

fn descriptors(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count)
}

/// Hundredths of a second of processor time.
fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// The child of the server that may start nothing.
fn handshaker(serving: &Serving) -> u32 {
    let nothing = |process: &u32| {
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max processes"));
        line.unwrap().split_whitespace().nth(2) == Some("0")
    };
    children(serving.process())
        .into_iter()
        .find(nothing)
        .unwrap()
}

/// As many good clients as there are, in a few threads; how many were served.
fn good_clients(clients: &Clients, address: SocketAddr, count: usize) -> usize {
    let (next, good) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    match clients.echo(address) {
                        Ok(()) => drop(good.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => println!("a good client: {error}"),
                    }
                }
            });
        }
    });
    good.into_inner()
}

/// Slow handshakes, begun anew as the server drops them, until this is dropped.
struct Crowd {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Crowd {
    fn gather(address: SocketAddr, count: usize) -> Self {
        let begin = move || {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.write_all(&BEGINNING).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let mut sockets: Vec<TcpStream> = (0..count).map(|_| begin()).collect();
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut again = 0;
            while !stopped.load(Ordering::Relaxed) {
                for socket in &mut sockets {
                    // An end, or a reset: anything but nothing yet.
                    let dropped = match socket.read(&mut [0; 64]) {
                        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
                        Ok(_) => true,
                    };
                    if dropped && !stopped.load(Ordering::Relaxed) {
                        *socket = begin();
                        again += 1;
                    }
                }
                std::thread::yield_now();
            }
            again
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// How many were begun anew.
    fn disperse(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Ten thousand where the machine's limits allow it, and in a build that is fast; fewer in others.
/// BATON_ATTACK_FULL=1 asks for all in any build.
//= proves spec/processes.md#limits
#[test]
fn slow_handshakes_cost_a_descriptor_each_and_nobody_else() {
    let full = !cfg!(debug_assertions) || std::env::var_os("BATON_ATTACK_FULL").is_some();
    let (mut slow, good) = if full { (10_000, 1000) } else { (2000, 200) };
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let there = usize::try_from(limit.maximum.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    // The server keeps some for sessions.
    let most = there / 4 * 3 - 1500;
    if most < slow {
        slow = most;
        println!("smaller: {slow} slow handshakes, for RLIMIT_NOFILE is {there}");
    }
    let most = (slow + 500).to_string();
    let serving = Serving::start(&["--handshakes", &most, "--sessions", "400"]);
    let (clients, handshaker) = (clients(&serving), handshaker(&serving));
    serves(&serving);
    serving.log.wait_for(" ended: ");
    let before = (
        descriptors(handshaker),
        number(handshaker, "VmRSS"),
        ticks(handshaker),
    );
    let processes = children(serving.process()).len();

    let start = Instant::now();
    let crowd = Crowd::gather(serving.address, slow);
    // All are in progress, in one thread of one process.
    while descriptors(handshaker) < before.0 + slow * 9 / 10 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{} came",
            descriptors(handshaker)
        );
        std::thread::yield_now();
    }
    let here = descriptors(handshaker) - before.0;
    assert!(here <= slow + 8, "{here} descriptors");
    assert_eq!(number(handshaker, "Threads"), 1);
    assert_eq!(children(serving.process()).len(), processes);
    let each = (number(handshaker, "VmRSS") - before.1) * 1024 / here as u64;
    assert!(each <= 32 << 10, "{each} bytes for each");

    let served = good_clients(&clients, serving.address, good);
    let spent = start.elapsed();
    let again = crowd.disperse();
    println!(
        "figure: {here} slow handshakes at once, {again} begun anew, {each} bytes each; {served} of {good} good clients in {spent:.1?}"
    );
    assert_eq!(served, good);
    serves(&serving);
    let (status, _) = serving.stop();
    assert!(status.success());
}

/// More handshakes than there may be: good clients get their turn all the same.
//= proves spec/processes.md#limits
#[test]
fn slow_handshakes_over_the_limit_make_room() {
    let serving = Serving::start(&["--handshakes", "20"]);
    let clients = clients(&serving);
    let crowd: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut socket = TcpStream::connect(serving.address).unwrap();
            socket.write_all(&BEGINNING).unwrap();
            socket
        })
        .collect();
    assert_eq!(good_clients(&clients, serving.address, 8), 8);
    assert!(serving.log.count("dropped: others wait") >= 20);
    drop(crowd);
    serves(&serving);
}

//= proves spec/processes.md#limits
#[test]
fn connections_over_a_limit_are_refused_where_the_configuration_says_so() {
    let serving = Serving::start(&["--connections", "8", "--over-limit", "refuse"]);
    let clients = clients(&serving);
    // A quarter are handshakes: six sessions.
    let mut first: Vec<Talking> = Vec::new();
    for number in 1..=6 {
        first.push(Talking::start(serving.connect(&[])));
        serving.log.wait_for_nth(number, "runs it");
    }
    for talking in &mut first {
        talking.say("one\n");
        assert_eq!(talking.hear(), "one\n");
    }
    let start = Instant::now();
    // Closed at once, without a handshake; not before the handshaker was told.
    while clients.connect(serving.address).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    let line = serving.log.wait_for("refused: there is no room");
    assert!(line.len() < 250, "{line}");
    for talking in &mut first {
        talking.say("two\n");
        assert_eq!(talking.hear(), "two\n");
    }
    assert!(first.pop().unwrap().finish().success());
    // And there is room again.
    while clients.echo(serving.address).is_err() {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}

//= proves spec/processes.md#rate
#[test]
fn an_address_over_its_rate_is_closed_at_once() {
    let serving = Serving::start(&["--address-rate", "1", "--address-burst", "10"]);
    let clients = clients(&serving);
    let handshaker = handshaker(&serving);
    let good = (0..10)
        .filter(|_| clients.echo(serving.address).is_ok())
        .count();
    assert_eq!(good, 10);
    let (before, start) = (ticks(handshaker), Instant::now());
    let closed = (0..1000)
        .filter(|_| is_closed_at_once(serving.address))
        .count();
    let spent = ticks(handshaker) - before;
    // At its rate some are let in.
    let allowed = usize::try_from(start.elapsed().as_secs()).unwrap() + 15;
    assert!(closed + allowed >= 1000, "{closed} closed");
    assert!(spent < 100, "{spent} hundredths of a second for refusals");
    // The log is not flooded by it.
    let told = serving.log.count("refused: its address makes too many");
    assert!((1..=2 + allowed).contains(&told), "{told} lines");
    // Another address does not suffer. All of 127/8 is this machine.
    let other = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&other, &SocketAddr::from(([127, 0, 0, 77], 0))).unwrap();
    rustix::net::connect(&other, &serving.address).unwrap();
    let mut other = clients.over(TcpStream::from(other)).unwrap();
    other.say("one\n").unwrap();
    other.end().unwrap();
    assert_eq!(other.rest().unwrap(), "one\n");
}

/// Whether a connection is closed before anything was sent on it, by either side; of one that was
/// let in, false, without waiting long.
fn is_closed_at_once(address: SocketAddr) -> bool {
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    match socket.read(&mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// A server whose limit of descriptors is this low.
fn with_descriptors(limit: u32, arguments: &[&str]) -> Serving {
    Serving::start_with(arguments, |command| {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(command.get_program());
        shell.args(command.get_args()).stdin(Stdio::null());
        shell.stdout(Stdio::piped()).stderr(Stdio::piped());
        *command = shell;
    })
}

/// Descriptors run out: sessions and handshakes share what there is, nobody is lost, nothing
/// turns, and afterwards all is as before.
//= proves spec/processes.md#limits
#[test]
fn a_server_short_of_descriptors_loses_nobody() {
    for limit in [48, 64, 128] {
        let serving = with_descriptors(limit, &[]);
        let clients = clients(&serving);
        // Many more than fit, all at once; each waits for its turn.
        let served = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..60 {
                scope.spawn(|| match clients.echo(serving.address) {
                    Ok(()) => drop(served.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => println!("limit {limit}: {error}"),
                });
            }
        });
        assert_eq!(served.into_inner(), 60, "limit {limit}");
        assert_eq!(serving.log.count("is lost"), 0);
        // Sessions that stay, to the last place; then nothing turns.
        let silent: Vec<TcpStream> = (0..60)
            .map(|_| TcpStream::connect(serving.address).unwrap())
            .collect();
        serving.log.wait_for_nth(2, "dropped: others wait");
        let all = || {
            let own = children(serving.process());
            own.iter().map(|process| ticks(*process)).sum::<u64>() + ticks(serving.process())
        };
        let (before, start) = (all(), Instant::now());
        let dropped = serving.log.count("dropped: others wait");
        serving
            .log
            .wait_for_nth(dropped + 2, "dropped: others wait");
        let (spent, passed) = (all() - before, start.elapsed());
        assert!(
            u128::from(spent) * 10 < passed.as_millis().max(1000) / 2,
            "{spent} hundredths in {passed:?}"
        );
        drop(silent);
        serves(&serving);
        let (status, _) = serving.stop();
        assert!(status.success());
    }
}

//= proves spec/configuration.md#full
#[test]
fn a_log_that_is_full_or_unread_stops_nothing() {
    // A full disk.
    let full = Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let serving = Serving::start_with_errors::<&str>(&[], full);
    assert_eq!(good_clients(&clients(&serving), serving.address, 20), 20);
    let (status, _) = serving.stop();
    assert!(status.success());
    // A pipe that nobody reads, as small as pipes are; and a socket that nobody reads.
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    unread(reader, writer);
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&writer, 2048).unwrap();
    unread(reader.into(), writer.into());
}

fn unread(reader: OwnedFd, writer: OwnedFd) {
    let serving = Serving::start_with_errors(&["--log", "json"], Stdio::from(writer));
    let clients = clients(&serving);
    // Two lines for each fill it many times over.
    assert_eq!(good_clients(&clients, serving.address, 100), 100);
    // Somebody reads again: the next lines come, and one says how many did not.
    let (lines, heard) = (serving::Lines::of(File::from(reader)), Instant::now());
    while lines.count("lines of this process's log were lost") == 0 {
        assert_eq!(good_clients(&clients, serving.address, 1), 1);
        assert!(heard.elapsed() < Duration::from_secs(60));
    }
    let (status, _) = serving.stop();
    assert!(status.success());
}

/// Sources that may ask what time people's clocks show: log lines, certificates and what expires
/// with them.
const CALENDAR: [&str; 12] = [
    "src/cli/naming.rs",
    // The clock itself, and the time stamps of lines.
    "src/sys/clock.rs",
    "src/session/log.rs",
    // When something began, shown to operators.
    "src/server/sessions/listing.rs",
    "src/server/supervisor/operators.rs",
    // Making the development identity, whether certificates are valid, and the lifetimes of contexts,
    // which end with those of certificates and travel between machines.
    "src/cli/serve.rs",
    "src/context/mod.rs",
    "src/establish/acceptor.rs",
    "src/establish/finished.rs",
    "src/establish/initiator.rs",
    "src/port/environment.rs",
    "src/tls/config.rs",
];

/// A clock that is set, forwards or back, changes the time stamps of log lines and what certificates
/// are worth; no deadline, no limit and no time of a session. A clock of the machine cannot be set
/// for a test alone (no namespace has one of its own), so the proof is that nothing else looks.
//= proves spec/processes.md#clocks
#[test]
fn only_certificates_and_log_lines_look_at_a_clock_that_is_set() {
    let mut found = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            // Tests may.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let looks = [
                "SystemTime",
                "unix_seconds",
                "ClockId::Realtime",
                "CLOCK_REALTIME",
                "UnixTime::now",
                "gettimeofday(",
                "libc::time(",
            ];
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            let is_tests = name
                .components()
                .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
            if !is_tests && looks.iter().any(|word| text.contains(word)) {
                found.push(name.display().to_string());
            }
        }
    }
    found.sort();
    let mut expected = CALENDAR.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(found, expected);
}
