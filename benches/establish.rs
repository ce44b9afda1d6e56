//! What a server pays for a full handshake: our acceptor, up to a context in a domain's ledger,
//! over a bare rustls connection with ring's stock provider up to the end of its handshake.
//!
//! The same client (stock rustls, in memory), the same certificate, the same suite, no tickets.
//! Only the server's own processor time counts. Both run in turns, each pair of turns gives one
//! ratio, a figure is the median of its ratios. `BATON_BENCH_QUICK=1` takes some 5 s, else it is 30.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench prints, and stops when it fails"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton::cred::AcceptorCredential;
use baton::crypto::Suite;
use baton::establish::{Acceptor, AcceptorConfig, Step};
use baton::ledger::Domain;
use baton::record::Record;
use rcgen::{CertificateParams, KeyPair};
use rustix::time::{ClockId, clock_gettime};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Handshakes of one turn.
const TURN: usize = 8;

/// Nanoseconds of processor time of this thread.
fn cpu() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A certificate for `mail.example`, its own authority.
struct Identity {
    key: KeyPair,
    certificate: rcgen::Certificate,
}

impl Identity {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["mail.example".into()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { key, certificate }
    }

    fn client(&self, provider: Arc<CryptoProvider>) -> Arc<ClientConfig> {
        let mut anchors = RootCertStore::empty();
        anchors.add(self.certificate.der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(anchors)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    fn bare(&self, provider: Arc<CryptoProvider>) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .unwrap();
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    fn ours(&self, suite: Suite) -> Arc<AcceptorConfig> {
        let (chain, key) = (self.certificate.pem(), self.key.serialize_pem());
        let credential = AcceptorCredential::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        let config = AcceptorConfig::builder(credential).suites(&[suite]);
        Arc::new(config.build().unwrap())
    }
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("mail.example").unwrap();
    ClientConnection::new(config.clone(), name).unwrap()
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

/// Processor time of one handshake by our acceptor.
fn ours(config: &Arc<AcceptorConfig>, domain: &Domain, client: &mut ClientConnection) -> u64 {
    let hello = sent(client);
    let start = cpu();
    let acceptor = Acceptor::<Record>::new(config.clone());
    let Ok(Step::Continue { next, output }) = acceptor.step(&hello) else {
        panic!("the hello was refused")
    };
    let first = cpu() - start;
    hears(client, &output);
    let finished = sent(client);
    let start = cpu();
    let Ok(Step::Done { finished, .. }) = next.step(&finished) else {
        panic!("the handshake failed")
    };
    let context = finished.activate(domain).unwrap();
    let second = cpu() - start;
    drop(context);
    first + second
}

/// Processor time of one handshake by bare rustls.
fn bare(config: &Arc<ServerConfig>, client: &mut ClientConnection) -> u64 {
    let hello = sent(client);
    let mut output = Vec::new();
    let start = cpu();
    let mut server = ServerConnection::new(config.clone()).unwrap();
    server.read_tls(&mut hello.as_slice()).unwrap();
    server.process_new_packets().unwrap();
    while server.wants_write() {
        server.write_tls(&mut output).unwrap();
    }
    let first = cpu() - start;
    hears(client, &output);
    let finished = sent(client);
    let start = cpu();
    server.read_tls(&mut finished.as_slice()).unwrap();
    server.process_new_packets().unwrap();
    let second = cpu() - start;
    assert!(!server.is_handshaking());
    first + second
}

fn median<T: Copy + PartialOrd>(values: &mut [T]) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

/// The ratio, and microseconds of ours and of rustls's.
fn compare(suite: Suite, time: Duration) -> (f64, f64, f64) {
    let identity = Identity::new();
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .retain(|known| u16::from(known.suite()) == suite.code());
    let provider = Arc::new(provider);
    let domain = Domain::inherited(64).unwrap();
    let (our_config, bare_config) = (identity.ours(suite), identity.bare(provider.clone()));
    let client_config = identity.client(provider);
    let (mut ratios, mut all_ours, mut all_bare) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < time {
        let (mut our_time, mut bare_time) = (0, 0);
        for _ in 0..TURN {
            our_time += ours(&our_config, &domain, &mut client(&client_config));
            bare_time += bare(&bare_config, &mut client(&client_config));
        }
        ratios.push(our_time as f64 / bare_time as f64);
        all_ours.push(our_time as f64 / TURN as f64 / 1000.0);
        all_bare.push(bare_time as f64 / TURN as f64 / 1000.0);
    }
    (
        median(&mut ratios),
        median(&mut all_ours),
        median(&mut all_bare),
    )
}

fn main() {
    let quick = std::env::var_os("BATON_BENCH_QUICK").is_some_and(|set| set == "1");
    let time = Duration::from_secs(if quick { 2 } else { 12 });
    for (name, suite) in [
        ("establish_over_rustls", Suite::Aes256Gcm),
        ("establish_aes_128_over_rustls", Suite::Aes128Gcm),
    ] {
        let (ratio, ours, bare) = compare(suite, time);
        println!("{}: {ours:.1} us, rustls {bare:.1} us", suite.name());
        println!("figure: {name} = {ratio:.3} ratio");
    }
}
