//! What a server pays for full handshakes through the completion port, over a bare rustls
//! connection with ring's stock provider in memory.
//!
//! `port_handshakes_over_rustls`: handshakes per second of the server's processor time, through the
//! port over theirs. Ours is everything the server's side does for a handshake over a socket pair:
//! the session opened, its handshake started, the driver's turns (epoll, reading, the handshake,
//! writing), the context in a domain's ledger, the completion waited for, the context and the
//! connection taken out (as for an export) and dropped. Theirs is a connection made, fed, asked
//! for its bytes, and dropped: no socket and no system call. So the port's own costs and the
//! kernel's are all on our side, and 1 cannot be reached. Both in one thread, by its processor
//! time; the clients (stock rustls, the same for both) are made and driven outside of it. The
//! same certificate, the same suite, no tickets; turns of [`BATCH`] handshakes at once, so that one
//! of the driver's turns finds several, as under load, and as many of theirs one after the other;
//! each pair of turns gives one ratio, the figure is the median.
//!
//! `bytes_per_slow_handshake`: how much more of this process is in memory (resident) for each of 2,000
//! handshakes that have sent their first flight and wait.
//!
//! `BATON_BENCH_QUICK=1` takes some 4 s, else it is 20.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench prints, and stops when it fails"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton::crypto::Suite;
use baton::ledger::Domain;
use baton::port::{Attribute, Environment, Operation, Port, Session};
use rcgen::{CertificateParams, KeyPair};
use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Handshakes at once.
const BATCH: usize = 16;
const SLOW: usize = 2000;

/// Nanoseconds of processor time of this thread.
fn cpu() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

struct Sides {
    client: Arc<ClientConfig>,
    bare: Arc<ServerConfig>,
    port: Port,
    environment: Environment,
}

impl Sides {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["mail.example".into()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut provider = rustls::crypto::ring::default_provider();
        let suite = Suite::Aes256Gcm;
        provider
            .cipher_suites
            .retain(|known| u16::from(known.suite()) == suite.code());
        let provider = Arc::new(provider);
        let mut anchors = RootCertStore::empty();
        anchors.add(certificate.der().clone()).unwrap();
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(anchors)
            .with_no_client_auth();
        client.resumption = rustls::client::Resumption::disabled();
        let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut bare = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], der)
            .unwrap();
        bare.send_tls13_tickets = 0;

        let folder = tempfile::tempdir().unwrap();
        let (chain, secret) = (folder.path().join("chain"), folder.path().join("key"));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&secret, key.serialize_pem()).unwrap();
        let port = Port::with_drivers(0).unwrap();
        let domain = Domain::inherited(4096).unwrap();
        let environment = Environment::open(&port, &domain).unwrap();
        for attribute in [
            Attribute::Certificate(chain),
            Attribute::Key(secret),
            Attribute::Suites(vec![suite]),
            Attribute::HandshakeTimeout(Duration::from_secs(600)),
        ] {
            environment.set(attribute).unwrap();
        }
        environment.init().unwrap();
        Self {
            client: Arc::new(client),
            bare: Arc::new(bare),
            port,
            environment,
        }
    }

    fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("mail.example").unwrap();
        ClientConnection::new(self.client.clone(), name).unwrap()
    }

    /// Processor time of [`BATCH`] handshakes through the port.
    fn through_the_port(&self) -> u64 {
        let mut clients: Vec<_> = (0..BATCH)
            .map(|_| {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let mut client = self.client();
                (&theirs).write_all(&sent(&mut client)).unwrap();
                (client, theirs, Some(ours))
            })
            .collect();
        let start = cpu();
        for (tag, (_, _, ours)) in clients.iter_mut().enumerate() {
            let session = Session::open(&self.environment).unwrap();
            session
                .start_handshake(ours.take().unwrap(), tag as u64)
                .unwrap();
        }
        self.port.drive(Some(Duration::ZERO)).unwrap();
        let first = cpu() - start;
        for (client, theirs, _) in &mut clients {
            let mut heard = vec![0; 16 * 1024];
            while client.is_handshaking() {
                let count = theirs.read(&mut heard).unwrap();
                hears(client, &heard[..count]);
            }
            theirs.write_all(&sent(client)).unwrap();
        }
        let start = cpu();
        let mut done = 0;
        while done < BATCH {
            self.port.drive(Some(Duration::ZERO)).unwrap();
            while let Ok(completion) = self.port.wait(Some(Duration::ZERO)) {
                completion.result().unwrap();
                drop(completion.session.unwrap().detach().unwrap());
                done += 1;
            }
        }
        first + (cpu() - start)
    }

    /// Processor time of [`BATCH`] handshakes by bare rustls.
    fn bare(&self) -> u64 {
        (0..BATCH).map(|_| self.one_bare()).sum()
    }

    fn one_bare(&self) -> u64 {
        let mut client = self.client();
        let hello = sent(&mut client);
        let mut output = Vec::new();
        let start = cpu();
        let mut server = ServerConnection::new(self.bare.clone()).unwrap();
        server.read_tls(&mut hello.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        while server.wants_write() {
            server.write_tls(&mut output).unwrap();
        }
        let first = cpu() - start;
        hears(&mut client, &output);
        let finished = sent(&mut client);
        let start = cpu();
        server.read_tls(&mut finished.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        assert!(!server.is_handshaking());
        drop(server);
        first + (cpu() - start)
    }

    /// Memory of each handshake that waits.
    fn slow(&self, number: usize) -> usize {
        let hello = sent(&mut self.client());
        let mut held = Vec::with_capacity(number);
        let before = resident();
        for tag in 0..number {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (&theirs).write_all(&hello).unwrap();
            let session = Session::open(&self.environment).unwrap();
            session.start_handshake(ours, tag as u64).unwrap();
            held.push((session, theirs));
            self.port.drive(Some(Duration::ZERO)).unwrap();
        }
        let each = resident().saturating_sub(before) / number;
        for (session, mut theirs) in held {
            assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 1, "it has been answered");
            // Pending, it would hold a handle itself.
            assert_eq!(session.cancel(Operation::Handshake).unwrap(), 1);
            self.port.wait(None).unwrap();
        }
        each
    }
}

fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn hears(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
    }
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

fn main() {
    let limit = baton::sys::process::raise_descriptor_limit().unwrap() as usize;
    let quick = std::env::var_os("BATON_BENCH_QUICK").is_some_and(|set| set == "1");
    let sides = Sides::new();
    // What is made once is made; then memory, while the heap has no holes.
    sides.through_the_port();
    let number = SLOW.min(limit.saturating_sub(100) / 2);
    let each = sides.slow(number);
    println!("figure: bytes_per_slow_handshake = {each} bytes");

    let time = Duration::from_secs(if quick { 3 } else { 18 });
    let mut turns: Vec<[f64; 3]> = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let (ours, theirs) = (sides.through_the_port() as f64, sides.bare() as f64);
        let us = |time: f64| time / 1000.0 / BATCH as f64;
        turns.push([theirs / ours, us(ours), us(theirs)]);
    }
    let median = |of: usize| {
        let mut values: Vec<f64> = turns.iter().map(|turn| turn[of]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [ratio, ours, theirs] = [0, 1, 2].map(median);
    println!("{ours:.1} us through the port, {theirs:.1} us by rustls");
    println!("figure: port_handshakes_over_rustls = {ratio:.3} ratio");
}
