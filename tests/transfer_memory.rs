//! Nothing seen (C1, C5): a process's memory and core file hold no key of a context where none
//! may be. The keys are known to the test because its client, plain rustls, logs them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use baton::context::Context;
use baton::crypto::{self, Suite};
use baton::establish::{Acceptor, Step};
use baton::ledger::Domain;
use baton::record::Record;
use baton::status::Major;
use baton::sys::alloc::WipingAllocator;
use baton::sys::process::Child;
use baton::transfer::{Export, import};
use rustls::pki_types::pem::PemObject;
use support::{Talk, forked, pipe};

// As the program does: what rustls leaves in the heap is wiped when it is freed.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

/// What must not be found, by name.
type Keys = Vec<(String, Vec<u8>)>;

/// The secrets as rustls logs them.
#[derive(Debug, Default)]
struct Log(Mutex<Keys>);

impl rustls::KeyLog for Log {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0
            .lock()
            .unwrap()
            .push((label.to_owned(), secret.to_vec()));
    }
}

/// A process that accepts one connection and then does as it is told, one byte an order.
struct Holder {
    child: Child,
    wire: UnixStream,
    keys: Keys,
}

impl Holder {
    /// Starts the process before there is any key, so that it cannot have one by inheritance.
    fn start() -> Self {
        Self::start_in(Path::new("/"))
    }

    fn start_in(directory: &Path) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // Made here, so that both processes know one authority.
        support::identity();
        let child = forked(|| {
            // Its own copy of our end would keep it from seeing that we are gone.
            support::close_in_child(&ours);
            std::env::set_current_dir(directory).unwrap();
            obey(accept(support::acceptor_config(), theirs))
        });
        let mut holder = Self {
            child,
            wire: ours,
            keys: Vec::new(),
        };
        holder.keys = holder.shake_hands();
        holder
    }

    /// The client side, by rustls and nothing of Baton's. Answers every secret and every key.
    fn shake_hands(&mut self) -> Keys {
        let mut roots = rustls::RootCertStore::empty();
        let authority = support::identity().authority.as_bytes();
        roots
            .add(rustls::pki_types::CertificateDer::from_pem_slice(authority).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let log = Arc::new(Log::default());
        config.key_log = log.clone();
        let name = "localhost".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut wire = self.wire.try_clone().unwrap();
        let mut stream = rustls::Stream::new(&mut client, &mut wire);
        stream.write_all(b"hello").unwrap();
        let mut echoed = [0; 5];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"hello");
        let code = client.negotiated_cipher_suite().unwrap().suite();
        let suite = Suite::from_code(u16::from(code)).unwrap();
        let mut keys: Keys = std::mem::take(&mut *log.0.lock().unwrap());
        keys.retain(|(label, _)| label.ends_with("TRAFFIC_SECRET_0") || label == "EXPORTER_SECRET");
        assert_eq!(keys.len(), 3);
        for (label, secret) in keys.clone() {
            let (mut key, mut iv) = (vec![0; suite.key_len()], [0; crypto::IV]);
            crypto::traffic_key(suite, &secret, &mut key, &mut iv);
            keys.push((format!("key of {label}"), key));
        }
        keys
    }

    /// Gives an order and waits until it is done.
    fn order(&mut self, order: u8) {
        // Behind the TLS session, whose bytes have all been read.
        self.wire.write_all(&[order]).unwrap();
        let mut done = [0];
        self.wire.read_exact(&mut done).unwrap();
        assert_eq!(done[0], order);
    }

    /// The names of the keys that the process's memory holds.
    fn found(&self) -> Vec<String> {
        found(&self.keys, &memory_of(self.child.pid()))
    }
}

/// The names of the keys of which the first eight bytes are somewhere in the memory: whatever
/// overwrote only the rest has not wiped them.
fn found(keys: &Keys, memory: &[(String, Vec<u8>)]) -> Vec<String> {
    let mut hits = Vec::new();
    for (key, bytes) in keys {
        let start = memchr::memmem::Finder::new(&bytes[..8]);
        let holding = memory
            .iter()
            .find(|(_, region)| start.find(region).is_some());
        hits.extend(holding.map(|(place, _)| format!("{key} in {place}")));
    }
    hits
}

/// Every readable region of a stopped or waiting process.
fn memory_of(pid: u32) -> Vec<(String, Vec<u8>)> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let readable = maps
        .lines()
        .filter(|line| line.contains(" r") && !line.contains("[v"));
    let region = |line: &str| {
        let (from, to) = line
            .split_whitespace()
            .next()
            .unwrap()
            .split_once('-')
            .unwrap();
        let parse = |text| u64::from_str_radix(text, 16).unwrap();
        let mut bytes = vec![0; (parse(to) - parse(from)) as usize];
        // Some special mappings cannot be read; they cannot be written to either.
        let read = memory.read_exact_at(&mut bytes, parse(from)).ok();
        read.map(|()| {
            (
                line.split_whitespace()
                    .nth(5)
                    .unwrap_or("anonymous")
                    .to_owned(),
                bytes,
            )
        })
    };
    readable.filter_map(region).collect()
}

fn accept(config: Arc<baton::establish::AcceptorConfig>, mut wire: UnixStream) -> Session {
    let domain = Domain::inherited(8).unwrap();
    let mut acceptor = Acceptor::<Record>::new(config);
    let mut input = vec![0; 16_384];
    let finished = loop {
        let given = wire.read(&mut input).unwrap();
        match acceptor.step(&input[..given]).unwrap() {
            Step::Continue { next, output } => {
                wire.write_all(&output).unwrap();
                acceptor = next;
            }
            Step::Done { finished, output } => {
                wire.write_all(&output).unwrap();
                break finished;
            }
            Step::Password(never) => match never {},
        }
    };
    let mut context = finished.activate(&domain).unwrap();
    let mut heard = Record::hear(&mut context, Vec::new()).unwrap();
    while heard.is_empty() {
        let n = wire.read(&mut input).unwrap();
        heard = Record::hear(&mut context, input[..n].to_vec()).unwrap();
    }
    wire.write_all(&Record::say(&mut context, &heard).unwrap())
        .unwrap();
    Session {
        domain,
        context: Some(context),
        token: Vec::new(),
        wire,
    }
}

struct Session {
    domain: Domain,
    context: Option<Context<Record>>,
    token: Vec<u8>,
    wire: UnixStream,
}

impl Session {
    /// Forks a child that waits until this process is gone; answers its number.
    fn fork_one(&mut self) -> u32 {
        let (wait, go) = pipe();
        let child = forked(|| {
            support::close_in_child(&go);
            support::wait_for_end(&wait);
            0
        });
        // Held until this process ends.
        std::mem::forget(go);
        child.pid()
    }
}

fn obey(mut session: Session) -> u8 {
    let mut order = [0];
    while session.wire.read(&mut order).unwrap() == 1 {
        match order[0] {
            b'e' => {
                let context = session.context.take().unwrap();
                // For as long as a slow machine takes to look through all the memory.
                let how = Export::default().within(Duration::from_secs(3600));
                session.token = context.export(&how).unwrap().into_bytes();
            }
            b'i' => {
                let imported = import(&session.domain, &session.token, None).unwrap();
                session.context = Some(imported);
            }
            b'r' => {
                let refused = import::<Record>(&session.domain, &session.token, None);
                assert_eq!(refused.unwrap_err().major(), Major::NoContext);
            }
            b'd' => drop(session.context.take()),
            b'k' => {
                session.wire.write_all(&order).unwrap();
                let wire = &mut session.wire;
                let keyring = session.domain.keyring().expect("keys");
                keyring
                    .with_current(|_, key| wire.write_all(key).unwrap())
                    .unwrap();
                wire.write_all(&session.token[12..28]).unwrap();
                continue;
            }
            b'f' => {
                session.wire.write_all(&order).unwrap();
                let pid = session.fork_one();
                session.wire.write_all(&pid.to_ne_bytes()).unwrap();
                continue;
            }
            b'n' => {}
            b'a' => std::process::abort(),
            other => panic!("no order: {other}"),
        }
        session.wire.write_all(&order).unwrap();
    }
    0
}

fn assert_nothing(found: &[String]) {
    assert!(found.is_empty(), "{found:#?}");
}

/// The test itself can fail: while the context is here, its keys are.
#[test]
fn a_live_context_has_its_keys_in_memory() {
    let holder = Holder::start();
    assert_eq!(
        holder.found().len(),
        holder.keys.len() - 1,
        "{:?}",
        holder.found()
    );
}

/// C1: everything the process held for the context is freed, and wiped.
#[test]
fn after_export_no_key_is_left() {
    let mut holder = Holder::start();
    holder.order(b'e');
    assert_nothing(&holder.found());
    holder.order(b'i');
    assert!(!holder.found().is_empty());
    holder.order(b'e');
    assert_nothing(&holder.found());
}

#[test]
fn after_drop_no_key_is_left() {
    let mut holder = Holder::start();
    holder.order(b'd');
    assert_nothing(&holder.found());
}

/// An import that is refused at its last step has had the keys in its hands.
#[test]
fn after_a_refused_import_no_key_is_left() {
    let mut holder = Holder::start();
    for order in *b"eidr" {
        holder.order(order);
    }
    assert_nothing(&holder.found());
}

/// C5: the domain's sealing key is in its page, which core files leave out, and nowhere else; nor
/// is the key that one token is sealed with.
#[test]
fn after_export_and_import_no_sealing_key_is_left() {
    let mut holder = Holder::start();
    for last in [b'e', b'i', b'e', b'r'] {
        if last == b'r' {
            holder.order(b'i');
            holder.order(b'd');
        }
        holder.order(last);
        let (mut key, mut nonce) = ([0; 32], [0; 16]);
        holder.order(b'k');
        holder.wire.read_exact(&mut key).unwrap();
        holder.wire.read_exact(&mut nonce).unwrap();
        holder.order(b'n');
        let one = chacha20::hchacha::<chacha20::R20>(&key.into(), &nonce.into());
        let keys = vec![
            ("the domain's key".to_owned(), key.to_vec()),
            ("the token's key".to_owned(), one.to_vec()),
        ];
        let mut memory = memory_of(holder.child.pid());
        memory.retain(|(name, _)| !name.contains("baton-keys"));
        let found = found(&keys, &memory);
        assert!(found.is_empty(), "{last}: {found:?}");
    }
}

/// C3: a forked child has none of its parent's keys, whatever it does.
#[test]
fn a_forked_child_has_no_key() {
    let mut holder = Holder::start();
    holder.order(b'f');
    let mut pid = [0; 4];
    holder.wire.read_exact(&mut pid).unwrap();
    let memory = memory_of(u32::from_ne_bytes(pid));
    assert!(
        memory.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > 1 << 20,
        "it was read"
    );
    assert_nothing(&found(&holder.keys, &memory));
    assert!(!holder.found().is_empty(), "its parent goes on");
}

/// C5: a core file of a process that runs a context holds none of its keys.
#[test]
fn a_core_file_holds_no_key() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with('|') || pattern.contains('/') {
        support::skip("core files of this machine do not go to the current directory");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place: PathBuf = directory.path().to_owned();
    support::allow_core_files();
    let mut holder = Holder::start_in(&place);
    assert_eq!(
        holder.found().len(),
        holder.keys.len() - 1,
        "the keys are in its memory"
    );
    holder.wire.write_all(b"a").unwrap();
    let status = holder.child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    let Some(core) = fs::read_dir(&place).unwrap().next() else {
        support::skip("this machine wrote no core file");
        return;
    };
    let core = fs::read(core.unwrap().path()).unwrap();
    assert!(core.len() > 100_000, "a core file has the heap in it");
    assert_nothing(&found(&holder.keys, &[("the core file".to_owned(), core)]));
}
