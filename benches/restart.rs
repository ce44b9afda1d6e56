//! What a hot restart costs: how long 20,000 live connections take into a successor that was
//! executed, and the longest anybody waits meanwhile. The servers are that of
//! `examples/hot_restart.rs`, which this program, executed once more, is, and `baton serve` with a
//! process a session.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

#[path = "../examples/hot_restart/connection.rs"]
mod connection;
#[path = "../examples/hot_restart/server.rs"]
mod server;
mod connections;
#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use baton::context::Context;
use baton::cred::Anchors;
use baton::establish::{Initiator, InitiatorConfig, Step};
use baton::ledger::Domain;
use baton::name::Name;
use baton::record::{Read as Fed, Record};
use baton::succession::{Heard, Offer, Patience, Predecessor, Program, Successor, Told};
use baton::sys::process::{self, Signal};
use baton::transfer::{Laden, Luggage, MAX_MEMBERS};
use connections::connections;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, kill_process, kill_process_group};
use support::identity;

#[global_allocator]
static ALLOCATOR: baton::sys::alloc::WipingAllocator = baton::sys::alloc::WipingAllocator;

/// What this program is to be, when it is not the bench.
const ROLE: &str = "BATON_BENCH_ROLE";
fn quick() -> bool {
    std::env::var_os("BATON_BENCH_QUICK").is_some()
}

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("receive") => receive(),
        Ok("serve") => {
            let options = std::env::args_os()
                .skip_while(|word| word != "serve")
                .skip(1);
            server::run(&server::Settings::of(options).unwrap()).unwrap();
        }
        _ => {
            handover();
            pause(Kind::Library);
            pause(Kind::Baton);
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// ---------------------------------------------------------------- 20,000 connections

fn handover() {
    let most = process::raise_descriptor_limit().unwrap() as usize - 64;
    let count = if quick() { 2_000 } else { most.min(20_000) };
    let runs = if quick() { 1 } else { 3 };
    println!(
        "{count} connections in each of {runs} runs; the descriptor limit is {}",
        most + 64
    );
    let (mut times, mut moves) = (vec![], vec![]);
    for _ in 0..runs {
        let domain = Domain::inherited(65_536).unwrap();
        let (connections, _far) = connections(&domain, count);
        let (all, moved) = hand_over(&domain, connections);
        times.push(all);
        moves.push(moved);
    }
    println!("figure: handover_20k_ms = {:.1} ms", median(times));
    println!(
        "figure: handover_ready_to_last_ms = {:.1} ms",
        median(moves)
    );
}

/// Milliseconds from the order until the successor has imported the last, and from its READY.
fn hand_over(domain: &Domain, connections: Vec<(Context<Record>, OwnedFd)>) -> (f64, f64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let program = Program::new("/usr/bin/env")
        .arg(format!("{ROLE}=receive"))
        .arg(std::env::current_exe().unwrap());
    let mut connections = connections.into_iter();
    let offer = Offer {
        domain,
        listeners: &[listener.as_fd()],
        note: &[],
        connections: connections.len(),
    };
    let start = Instant::now();
    let mut successor = Successor::<Record>::start(&program, &offer, Patience::default()).unwrap();
    let (mut ready, mut accepted) = (0.0, false);
    loop {
        let has_work = successor.has_room();
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, successor.has_unsent() || has_work);
        let socket = successor.socket();
        poll(&mut [PollFd::from_borrowed_fd(socket, flags)], None).unwrap();
        match successor.hear().unwrap() {
            Heard::Nothing => {}
            Heard::Ready => ready = start.elapsed().as_secs_f64() * 1e3,
            Heard::Returned(_) => panic!("it has descriptors enough"),
            Heard::Taken => break,
        }
        if successor.has_room() {
            let laden = |(context, socket)| Laden {
                context,
                socket,
                luggage: Luggage::none(),
            };
            let next: Vec<_> = connections.by_ref().take(MAX_MEMBERS).map(laden).collect();
            match (next.is_empty(), accepted) {
                (false, _) => assert!(successor.hand_over(next).is_empty()),
                (true, false) => {
                    successor.accept();
                    accepted = true;
                }
                (true, true) => successor.end(),
            }
        }
    }
    // TAKEN comes right behind the last import.
    let all = start.elapsed().as_secs_f64() * 1e3;
    (all, all - ready)
}

/// The successor: takes everything, puts each connection where it is waited for, and ends.
fn receive() {
    let predecessor = Predecessor::inherited().unwrap().unwrap();
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    let mut inheritance = predecessor.ready().unwrap();
    let mut all = Vec::new();
    loop {
        let socket = inheritance.socket();
        poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], None).unwrap();
        match inheritance.receive::<Record>().unwrap() {
            Told::Arrived { connections, .. } => {
                for laden in connections {
                    let data = rustix::event::epoll::EventData::new_u64(all.len() as u64);
                    let flags = rustix::event::epoll::EventFlags::IN;
                    rustix::event::epoll::add(&epoll, &laden.socket, data, flags).unwrap();
                    all.push(laden);
                }
            }
            Told::Over { .. } => process::exit_now(0),
            Told::Nothing | Told::Accept => {}
        }
    }
}

// ---------------------------------------------------------------- the longest wait

/// How often each session says something.
const EVERY: Duration = Duration::from_millis(100);

/// Which server is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// All connections in one process, which gives them to its successor.
    Library,
    /// `baton serve`.
    Baton,
}

fn pause(kind: Kind) {
    let sessions = if quick() { 200 } else { 1000 };
    let restarts = if quick() { 3 } else { 9 };
    println!(
        "{kind:?}: {sessions} sessions that talk every {} ms, {restarts} restarts",
        EVERY.as_millis()
    );
    let mut server = Server::start(kind);
    let anchors = Anchors::from_pem(identity().authority.as_bytes()).unwrap();
    let clients = Clients {
        address: server.address,
        config: Arc::new(InitiatorConfig::builder(anchors).build().unwrap()),
        domain: Domain::inherited(65_536).unwrap(),
    };
    let mut talking: Vec<_> = (0..sessions).map(|_| clients.connect()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let newcomers = newcomers(clients, Arc::clone(&stop));
    let (mut quiet, mut spans) = (Vec::new(), Vec::new());
    for _ in 0..restarts {
        let until = Instant::now() + 5 * EVERY;
        let worst = talk(&mut talking, || Instant::now() >= until);
        quiet.push(worst.as_secs_f64() * 1e3);
        let start = Instant::now();
        server.signal();
        // Everybody is heard once more after it.
        let mut end = None;
        let worst = talk(&mut talking, || {
            if end.is_none() && server.has_succeeded() {
                end = Some(Instant::now() + EVERY);
            }
            end.is_some_and(|end| Instant::now() >= end)
        });
        spans.push((start, Instant::now(), worst));
    }
    stop.store(true, Ordering::Relaxed);
    let newcomers = newcomers.join().unwrap();
    let (mut worst, mut new) = (Vec::new(), Vec::new());
    for (from, to, session) in spans {
        let within = |(start, took): &&(Instant, Duration)| *start <= to && *start + *took >= from;
        let newcomer = newcomers.iter().filter(within).map(|(_, took)| *took).max();
        let newcomer = newcomer.unwrap_or_default();
        new.push(newcomer.as_secs_f64() * 1e3);
        worst.push(session.max(newcomer).as_secs_f64() * 1e3);
    }
    println!("{} new connections, none refused", newcomers.len());
    let name = match kind {
        Kind::Library => "library_",
        Kind::Baton => "",
    };
    println!("figure: {name}quiet_pause_ms = {:.1} ms", median(quiet));
    println!(
        "figure: {name}restart_new_connection_ms = {:.1} ms",
        median(new)
    );
    println!("figure: {name}restart_pause_ms = {:.1} ms", median(worst));
}

/// New connections, one every few milliseconds: when each began, and how long it took until its
/// first answer.
fn newcomers(
    clients: Clients,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<Vec<(Instant, Duration)>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let mut session = clients.connect();
            session.say();
            while session.hear().is_none() {
                std::thread::sleep(Duration::from_micros(200));
            }
            all.push((start, start.elapsed()));
            std::thread::sleep(Duration::from_millis(4));
        }
        all
    })
}

/// Lets the sessions talk, spread over [`EVERY`], until `is_over`; answers the longest that any
/// waited for its answer.
fn talk(sessions: &mut [Session], mut is_over: impl FnMut() -> bool) -> Duration {
    let step = EVERY / sessions.len() as u32;
    let (mut worst, mut said, start) = (Duration::ZERO, 0_usize, Instant::now());
    let mut waiting: Vec<usize> = Vec::new();
    let mut over = false;
    while !over || !waiting.is_empty() {
        over = over || is_over();
        while !over && start + step * said as u32 <= Instant::now() {
            let at = said % sessions.len();
            if sessions[at].said.is_none() {
                sessions[at].say();
                waiting.push(at);
            }
            said += 1;
        }
        waiting.retain(|at| match sessions[*at].hear() {
            Some(took) => {
                worst = worst.max(took);
                false
            }
            None => true,
        });
        std::thread::sleep(Duration::from_micros(200));
    }
    worst
}

struct Clients {
    address: SocketAddr,
    config: Arc<InitiatorConfig>,
    domain: Domain,
}

impl Clients {
    fn connect(&self) -> Session {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_nodelay(true).unwrap();
        set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        let name = Name::host_based_service("test@localhost").unwrap();
        let mut initiator = Initiator::<Record>::new(Arc::clone(&self.config), name).unwrap();
        let (mut buffer, mut length) = ([0; 8192], 0);
        loop {
            match initiator.step(&buffer[..length]).unwrap() {
                Step::Continue { next, output } => {
                    initiator = next;
                    socket.write_all(&output).unwrap();
                }
                Step::Done { finished, output } => {
                    socket.write_all(&output).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    return Session {
                        context: finished.activate(&self.domain).unwrap(),
                        socket,
                        said: None,
                    };
                }
                Step::Password(_) => panic!("no password was configured"),
            }
            length = socket.read(&mut buffer).unwrap();
            assert!(length > 0, "refused");
        }
    }
}

/// A session that says something and hears it.
struct Session {
    socket: TcpStream,
    context: Context<Record>,
    said: Option<Instant>,
}

const TEXT: &[u8] = &[b'x'; 200];

impl Session {
    fn say(&mut self) {
        let mut out = Vec::new();
        self.context.seal(TEXT, &mut out).unwrap();
        self.said = Some(Instant::now());
        self.socket.write_all(&out).unwrap();
    }

    /// How long the answer took, once it is there.
    fn hear(&mut self) -> Option<Duration> {
        let mut buffer = [0; 1024];
        let count = match self.socket.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            other => other.unwrap(),
        };
        assert!(count > 0, "closed");
        self.context.feed(&buffer[..count]).unwrap();
        match self.context.read(&mut buffer).unwrap() {
            Fed::Data(count) => assert_eq!(&buffer[..count], TEXT),
            _ => return None,
        }
        self.said.take().map(|said| said.elapsed())
    }
}

/// This program once more, as the server, and what succeeds it.
struct Server {
    first: Process,
    pid: i32,
    address: SocketAddr,
    lines: Receiver<String>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert"), folder.path().join("key"));
        std::fs::write(&certificate, &identity().certificate).unwrap();
        std::fs::write(&key, &identity().key).unwrap();
        let mut command = match kind {
            Kind::Library => Command::new(std::env::current_exe().unwrap()),
            Kind::Baton => Command::new(env!("CARGO_BIN_EXE_baton")),
        };
        command.arg("serve").arg("--cert").arg(certificate);
        command.arg("--key").arg(key).env(ROLE, "serve");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        if kind == Kind::Baton {
            command.args(["--listen", "127.0.0.1:0", "--log", "human"]);
            command.args(["--sessions", "4000", "--state"]);
            command.arg(folder.path()).stderr(Stdio::piped());
        }
        let mut first = command.process_group(0).spawn().unwrap();
        let (told, lines) = channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            first.stdout.take().map(|one| Box::new(one) as _),
            first.stderr.take().map(|one| Box::new(one) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let told = told.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = told.send(line);
                }
            });
        }
        let address = loop {
            let line: String = lines.recv().unwrap();
            let mut words = line.split(' ');
            if let Some(address) = words.find_map(|word| word.parse().ok()) {
                break address;
            }
        };
        Self {
            pid: first.id() as i32,
            first,
            address,
            lines,
            _folder: folder,
        }
    }

    fn signal(&self) {
        kill_process(Pid::from_raw(self.pid).unwrap(), Signal::USR2).unwrap();
    }

    fn has_succeeded(&mut self) -> bool {
        while let Ok(line) = self.lines.try_recv() {
            assert!(!line.contains("goes on"), "{line}");
            if line.contains(" succeeds with ") || line.contains("is the server from now on") {
                let mut words = line.split(' ');
                self.pid = words.find_map(|word| word.parse().ok()).unwrap();
                return true;
            }
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.first), Signal::KILL);
        let _ = self.first.wait();
    }
}
