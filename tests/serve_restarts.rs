//! One `baton serve` after another, in a row, under many talking sessions and new connections.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clients;
mod serving;
mod takeover;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use clients::{Client, Clients};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serving::{Serving, signal_to, wait_for_end};

/// How many threads talk, each with its share of the sessions.
const TALKERS: usize = 4;
/// Sessions that begin between two restarts, and stay: so every zygote of the row has some.
const LATER: usize = 2;
/// Far more than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The log of all servers of a row.
struct Log {
    /// The process that is the server from now on; none when the old one goes on.
    servers: Receiver<Option<u32>>,
    reader: std::thread::JoinHandle<Told>,
}

/// What the log tells.
#[derive(Default)]
struct Told {
    /// How often each session was released.
    releases: BTreeMap<String, usize>,
    /// Lines of anything but sessions.
    others: Vec<String>,
}

impl Log {
    fn of(source: PipeReader) -> Self {
        let (server, servers) = channel();
        let reader = std::thread::spawn(move || read(source, &server));
        Self { servers, reader }
    }
}

fn read(source: PipeReader, server: &Sender<Option<u32>>) -> Told {
    let mut told = Told::default();
    for line in BufReader::new(source).lines() {
        let line = line.unwrap();
        if let Some((_, session)) = line.split_once("session ") {
            if line.contains("released: ") {
                *told.releases.entry(session[..32].to_owned()).or_default() += 1;
            }
            continue;
        }
        if line.ends_with("is the server from now on") {
            let (_, rest) = line.split_once("process ").unwrap();
            // Nobody listens when the test has failed.
            let _ = server.send(Some(rest.split(' ').next().unwrap().parse().unwrap()));
        }
        if line.ends_with("this one goes on") {
            let _ = server.send(None);
        }
        told.others.push(line);
    }
    told
}

/// A session that says something all the time.
struct Talk {
    client: Client,
    number: usize,
    said: usize,
}

impl Talk {
    fn begin(clients: &Clients, address: SocketAddr, number: usize) -> Self {
        let client = clients.connect(address).unwrap();
        let timeout = Some(PATIENCE);
        client.0.sock.set_read_timeout(timeout).unwrap();
        Self {
            client,
            number,
            said: 0,
        }
    }

    /// Says some bytes that nobody has said before.
    fn say(&mut self) -> Vec<u8> {
        self.said += 1;
        let mut text = format!("{} of {}: ", self.said, self.number).into_bytes();
        // Of every length, some beyond one record.
        let length = text.len() + (self.said * 7919 + self.number * 104_729) % 997;
        text.resize(length, b'a' + (self.said % 26) as u8);
        self.client.say(str::from_utf8(&text).unwrap()).unwrap();
        text
    }

    fn hear(&mut self, said: &[u8]) {
        let mut heard = vec![0; said.len()];
        let read = self.client.0.read_exact(&mut heard);
        let (number, times) = (self.number, self.said);
        assert!(
            read.is_ok() && heard == said,
            "session {number}, {times}: {read:?}"
        );
    }

    fn end(mut self) {
        self.client.end().unwrap();
        assert_eq!(self.client.rest().unwrap(), "", "session {}", self.number);
    }
}

/// To what the machine allows: beyond the hard limit where this may.
fn raise_descriptor_limit() {
    let raised = |most| Rlimit {
        current: most,
        maximum: most,
    };
    if setrlimit(Resource::Nofile, raised(Some(65_536))).is_err() {
        let most = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, raised(most)).unwrap();
    }
}

/// What a row of restarts came to.
struct Row {
    /// Connections that came and went.
    connections: usize,
    /// How often everybody said something.
    rounds: usize,
    /// From the signal to the new server, each.
    restarts: Vec<Duration>,
    /// The longest time between saying and hearing.
    longest_answer: Duration,
    /// The longest session from beginning to end.
    longest_connection: Duration,
    spent: Duration,
}

impl Row {
    fn print(mut self) {
        self.restarts.sort_unstable();
        let [median, most] = [self.restarts.len() / 2, self.restarts.len() - 1];
        println!(
            "figure: {} restarts, median {:.0?}, longest {:.0?}; {} rounds of talk, longest {:.0?}; \
             {} connections, longest {:.0?}; {:.0?} in all",
            self.restarts.len(),
            self.restarts[median],
            self.restarts[most],
            self.rounds,
            self.longest_answer,
            self.connections,
            self.longest_connection,
            self.spent
        );
    }
}

/// `restarts` in a row, while `sessions` talk and others come and go. Every byte and every release is
/// counted.
fn in_a_row(arguments: &[&str], sessions: usize, restarts: usize) -> Row {
    in_a_row_with(arguments, sessions, &vec![None; restarts])
}

/// [`in_a_row`], each of them with what is to kill the new server.
fn in_a_row_with(arguments: &[&str], sessions: usize, faults: &[Option<&str>]) -> Row {
    let restarts = faults.len();
    raise_descriptor_limit();
    let (source, log) = std::io::pipe().unwrap();
    let places = (2 * (sessions + LATER * restarts) + 100).to_string();
    let arguments = [&["--sessions", &places], arguments].concat();
    let serving = Serving::start_with(&arguments, |command| {
        command.stderr(log);
    });
    let log = Log::of(source);
    let clients = Clients::new(&serving.identity("ca.pem"));
    let address = serving.address;
    let (going, served) = (AtomicBool::new(true), AtomicUsize::new(0));
    let rounds = [const { AtomicUsize::new(0) }; TALKERS];
    let start = Instant::now();
    let mut process = serving.process();
    let mut took = Vec::new();
    let (mut longest_answer, mut longest_connection) = (Duration::ZERO, Duration::ZERO);
    std::thread::scope(|scope| {
        let going = Going(&going);
        let (clients, served) = (&clients, &served);
        let mut talkers = Vec::new();
        let mut more = Vec::new();
        for (number, rounds) in rounds.iter().enumerate() {
            let (sender, later) = channel::<Talk>();
            more.push(sender);
            let going = going.0;
            talkers.push(scope.spawn(move || {
                let share = (number..sessions).step_by(TALKERS);
                let mut talks: Vec<Talk> = share
                    .map(|number| Talk::begin(clients, address, number))
                    .collect();
                let mut longest = Duration::ZERO;
                while going.load(SeqCst) {
                    talks.extend(later.try_iter());
                    // All have something under way at once.
                    let began = Instant::now();
                    let said: Vec<Vec<u8>> = talks.iter_mut().map(Talk::say).collect();
                    for (talk, said) in talks.iter_mut().zip(&said) {
                        talk.hear(said);
                    }
                    longest = longest.max(began.elapsed());
                    rounds.fetch_add(1, SeqCst);
                }
                talks.extend(later.try_iter());
                talks.into_iter().for_each(Talk::end);
                longest
            }));
        }
        let (connecting, all_here) = (going.0, &rounds);
        let connect = move || {
            let mut longest = Duration::ZERO;
            while connecting.load(SeqCst) {
                let began = Instant::now();
                clients.echo(address).unwrap();
                longest = longest.max(began.elapsed());
                served.fetch_add(1, SeqCst);
            }
            longest
        };
        let connectors = [(); 2].map(|()| scope.spawn(connect));
        let is_failed = || {
            talkers
                .iter()
                .any(std::thread::ScopedJoinHandle::is_finished)
        };
        let mut since = [0; TALKERS];
        for nth in 1..=restarts {
            // Everybody has talked since the last one, and somebody has connected.
            let before = served.load(SeqCst);
            while served.load(SeqCst) == before
                || all_here
                    .iter()
                    .zip(since)
                    .any(|(one, since)| one.load(SeqCst) <= since)
            {
                assert!(!is_failed(), "before restart {nth}");
                std::thread::yield_now();
            }
            since = std::array::from_fn(|number| all_here[number].load(SeqCst));
            let began = Instant::now();
            if let Some(fault) = faults[nth - 1] {
                let (mut killed, _) = takeover::takes_over(&serving, &[], Some(fault));
                assert_eq!(log.servers.recv_timeout(PATIENCE), Ok(None), "{fault}");
                assert!(!killed.wait().unwrap().success(), "{fault}");
            } else {
                signal_to(process, Signal::USR2);
                let next = log.servers.recv_timeout(PATIENCE).unwrap();
                let next = next.expect("a new server");
                took.push(began.elapsed());
                wait_for_end(process);
                process = next;
            }
            for number in 0..LATER {
                let number = sessions + nth * LATER + number;
                let talk = Talk::begin(clients, address, number);
                more[number % TALKERS].send(talk).unwrap();
            }
        }
        going.0.store(false, SeqCst);
        for talker in talkers {
            longest_answer = longest_answer.max(talker.join().unwrap());
        }
        for connector in connectors {
            longest_connection = longest_connection.max(connector.join().unwrap());
        }
    });
    let spent = start.elapsed();
    signal_to(process, Signal::TERM);
    wait_for_end(process);
    drop(serving);
    let told = log.reader.join().unwrap();
    let connections = served.into_inner();
    let all = sessions + restarts * LATER + connections;
    assert_eq!(told.releases.len(), all, "{:#?}", told.others);
    assert!(told.releases.values().all(|count| *count == 1));
    assert!(
        !told.others.iter().any(|line| line.contains("lost")),
        "{:#?}",
        told.others
    );
    Row {
        connections,
        rounds: rounds.iter().map(|one| one.load(SeqCst)).sum(),
        restarts: took,
        longest_answer,
        longest_connection,
        spent,
    }
}

/// Talking ends, too, when the test fails.
struct Going<'a>(&'a AtomicBool);

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// Fifty restarts with a thousand sessions where BATON_ATTACK_FULL=1 asks for them.
//= proves spec/takeover.md#steps C4
//= proves spec/takeover.md#earlier C4
#[test]
fn restarts_in_a_row_lose_no_byte_and_refuse_nobody() {
    let full = std::env::var_os("BATON_ATTACK_FULL").is_some();
    let (sessions, restarts) = if full { (1000, 50) } else { (100, 8) };
    in_a_row(&[], sessions, restarts).print();
}

/// The same, with sessions that move to another process all the time.
//= proves spec/takeover.md#steps C4
//= proves spec/processes.md#moving
#[test]
fn restarts_in_a_row_lose_nothing_of_sessions_that_move() {
    let full = std::env::var_os("BATON_ATTACK_FULL").is_some();
    let (sessions, restarts, hops) = if full { (200, 50, 50) } else { (20, 6, 100) };
    // What is left of them is made when a session ends.
    let hops = hops.to_string();
    let moving = ["--hops", &hops, "--hop-every", "2048"];
    in_a_row(&moving, sessions, restarts).print();
}

/// New servers that are killed at one step after another, and one that lives, with many sessions.
//= proves spec/takeover.md#steps C4
#[test]
fn new_servers_that_are_killed_cost_no_byte() {
    let full = std::env::var_os("BATON_ATTACK_FULL").is_some();
    let sessions = if full { 200 } else { 50 };
    let steps = ["ready", "kept", "taking", "told"].map(|step| format!("takeover.{step}=kill"));
    let mut faults: Vec<Option<&str>> = Vec::new();
    for step in &steps {
        faults.extend([Some(step.as_str()), Some(step.as_str()), None]);
    }
    in_a_row_with(&[], sessions, &faults).print();
}

/// An estate of five thousand sessions where BATON_ATTACK_FULL=1 asks for it, and the machine lets
/// one process have the descriptors.
//= proves spec/takeover.md#estate
//= proves spec/takeover.md#messages
#[test]
fn a_large_estate_goes_over_in_time() {
    let full = std::env::var_os("BATON_ATTACK_FULL").is_some();
    let (sessions, restarts) = if full { (5000, 3) } else { (400, 2) };
    in_a_row(&[], sessions, restarts).print();
}
