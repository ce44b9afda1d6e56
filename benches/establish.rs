//! What a server pays for a full handshake: our acceptor, up to a finished handshake with its
//! record layer, over a bare rustls connection with ring's stock provider up to the same point;
//! both made and dropped, since rustls keeps until the end what our acceptor lets go at once.
//! `establish_activated_over_rustls` adds the context's life in a domain's ledger.
//!
//! The same client (stock rustls, in memory), the same certificate, the same suite (the one that
//! is agreed on by default), no tickets. Only the server's own processor time counts. They run in
//! turns of one handshake each, so that what disturbs the machine disturbs few of them; each round
//! gives one ratio, a figure is the median of its ratios.
//! `BATON_BENCH_QUICK=1` takes some 5 s, else it is 30.

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

/// Processor time of one handshake by our acceptor; in a domain, of the context's life too.
fn ours(
    config: &Arc<AcceptorConfig>,
    domain: Option<&Domain>,
    client: &mut ClientConnection,
) -> u64 {
    let hello = sent(client);
    let start = cpu();
    let acceptor = Acceptor::<Record>::new(config.clone());
    let Ok(Step::Continue { next, output }) = acceptor.step(&hello) else {
        panic!("the hello was refused")
    };
    let first = cpu() - start;
    hears(client, &output);
    let flight = sent(client);
    let start = cpu();
    let Ok(Step::Done { finished, .. }) = next.step(&flight) else {
        panic!("the handshake failed")
    };
    match domain {
        Some(domain) => drop(finished.activate(domain).unwrap()),
        None => drop(finished),
    }
    first + (cpu() - start)
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
    assert!(!server.is_handshaking());
    drop(server);
    first + (cpu() - start)
}

/// The ratios of the handshake and of the handshake with the context's activation, and
/// microseconds of ours and of rustls's.
fn compare(suite: Suite, time: Duration) -> [f64; 4] {
    let identity = Identity::new();
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .retain(|known| u16::from(known.suite()) == suite.code());
    let provider = Arc::new(provider);
    let domain = Domain::inherited(64).unwrap();
    let (our_config, bare_config) = (identity.ours(suite), identity.bare(provider.clone()));
    let client_config = identity.client(provider);
    let mut series: [Vec<f64>; 4] = Default::default();
    let start = Instant::now();
    while start.elapsed() < time {
        let next_client = || client(&client_config);
        let finished = ours(&our_config, None, &mut next_client()) as f64;
        let activated = ours(&our_config, Some(&domain), &mut next_client()) as f64;
        let theirs = bare(&bare_config, &mut next_client()) as f64;
        let turn = [
            finished / theirs,
            activated / theirs,
            finished / 1000.0,
            theirs / 1000.0,
        ];
        for (values, value) in series.iter_mut().zip(turn) {
            values.push(value);
        }
    }
    series.map(|mut values| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    })
}

fn main() {
    let quick = std::env::var_os("BATON_BENCH_QUICK").is_some_and(|set| set == "1");
    let time = Duration::from_secs(if quick { 2 } else { 12 });
    let [finished, activated, ours, theirs] = compare(Suite::Aes256Gcm, time);
    println!("AES-256-GCM, SHA-384: {ours:.1} us, rustls {theirs:.1} us");
    println!("figure: establish_over_rustls = {finished:.3} ratio");
    println!("figure: establish_activated_over_rustls = {activated:.3} ratio");
    let [finished, _, ours, theirs] = compare(Suite::Aes128Gcm, time);
    println!("AES-128-GCM, SHA-256: {ours:.1} us, rustls {theirs:.1} us");
    println!("figure: establish_aes_128_over_rustls = {finished:.3} ratio");
}
