//! A server in a process of its own, some of whose sessions do what the test says instead of what
//! they are for; and its clients.

#![allow(dead_code)]

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use baton::cred::AcceptorCredential;
use baton::establish::AcceptorConfig;
use baton::server::limits::{Allowance, Limits};
use baton::server::{Plan, Policy, Role, RunSession, Server, Started, Terms};
use baton::session::Start;
use baton::session::drive::{Hops, Patience};
use baton::session::job::Kind;
use baton::session::log;
use baton::sys::process::{Child, Signal};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::process::set_parent_process_death_signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::serving::{self, Lines, signal_to};
use crate::support::{forked, identity, pipe};

/// What a session does that was taken over. The process ends when it comes back.
pub type Deed = fn(Hostile);

/// A session process that was taken over.
pub struct Hostile {
    /// What the server gave it.
    pub start: Start,
    /// Words that all processes of the server share.
    pub shared: &'static Shared,
    pub told: PipeWriter,
    /// A pipe that all of them have.
    pub between: (PipeReader, PipeWriter),
}

impl Hostile {
    /// Tells the test.
    pub fn tell(&self, text: &str) {
        (&self.told)
            .write_all(format!("{text}\n").as_bytes())
            .unwrap();
    }
}

/// Is there until it is killed.
pub fn stay() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

pub type Shared = [AtomicU64; 16];

/// Words that all processes forked from here share.
fn shared() -> &'static Shared {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: A new mapping, which nobody ever takes away; zeros are atomics.
    unsafe {
        let page = mmap_anonymous(std::ptr::null_mut(), 4096, access, MapFlags::SHARED).unwrap();
        &*page.cast()
    }
}

/// A server, of which this is the test's end.
pub struct House {
    server: Child,
    pub address: SocketAddr,
    pub log: Lines,
    /// What hostile sessions tell.
    pub told: Lines,
    /// The first word is the deed of the next session, counted from 1; 0 when it is to be good.
    pub shared: &'static Shared,
    pub between: (PipeReader, PipeWriter),
}

/// Closes what this process has inherited of other tests.
fn close_all_but(kept: &[&dyn AsRawFd]) {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.extend([2, u32::MAX]);
    kept.sort_unstable();
    for pair in kept.windows(2) {
        if pair[0] + 1 < pair[1] {
            // SAFETY: nothing else of this process uses or drops what it has inherited.
            unsafe { libc::close_range(pair[0] + 1, pair[1] - 1, 0) };
        }
    }
}

fn policy() -> Policy {
    let identity = identity();
    let credential =
        AcceptorCredential::from_pem(identity.certificate.as_bytes(), identity.key.as_bytes())
            .unwrap();
    let config = AcceptorConfig::builder(credential).anonymous(true).build();
    Policy {
        config: Arc::new(config.unwrap()),
        anonymous: true,
    }
}

impl House {
    /// Sessions have so many hops; the deeds are those of its hostile ones.
    pub fn open(hops: u32, deeds: &'static [(&'static str, Deed)]) -> Self {
        let shared = shared();
        let (log_reader, log_writer) = pipe();
        let (told_reader, told) = pipe();
        let (address_reader, address) = pipe();
        let between = pipe();
        identity();
        let server = forked(|| {
            set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
            rustix::process::setpgid(None, None).unwrap();
            rustix::stdio::dup2_stderr(&log_writer).unwrap();
            close_all_but(&[&told, &address, &between.0, &between.1]);
            let (told, ours) = (told.try_clone().unwrap(), &between);
            let between = (ours.0.try_clone().unwrap(), ours.1.try_clone().unwrap());
            let session = move |start: Start| match shared[0].swap(0, SeqCst) {
                0 => start.run(),
                number => {
                    let (_, deed) = deeds[number as usize - 1];
                    deed(Hostile {
                        start,
                        shared,
                        told: told.try_clone().unwrap(),
                        between: (
                            between.0.try_clone().unwrap(),
                            between.1.try_clone().unwrap(),
                        ),
                    });
                }
            };
            let server = Server::open(plan(hops, Box::new(session))).unwrap();
            writeln!(&address, "{}", server.address().unwrap()).unwrap();
            let role = match server.start().unwrap() {
                Started::Serving(serving) => serving.run().unwrap(),
                Started::Other(role) => role,
            };
            if matches!(role, Role::Stopped) {
                log::line(format_args!("stopped"));
            }
            0
        });
        drop((log_writer, told, address));
        let mut line = String::new();
        let mut reader = BufReader::new(address_reader);
        reader.read_line(&mut line).unwrap();
        Self {
            server,
            address: line.trim().parse().unwrap(),
            log: Lines::of(log_reader),
            told: Lines::of(told_reader),
            shared,
            between,
        }
    }

    /// The next session does this.
    pub fn order(&self, number: usize) {
        self.shared[0].store(number as u64 + 1, SeqCst);
    }

    pub fn process(&self) -> u32 {
        self.server.pid()
    }

    /// Whether a process is one of the server's, but for the supervisor.
    pub fn is_below(&self, process: u32) -> bool {
        let parent = serving::parent(process);
        parent == Some(self.process()) || parent.and_then(serving::parent) == Some(self.process())
    }

    /// Whether a process has the listening socket.
    pub fn listens(&self, process: u32) -> bool {
        let port = format!(":{:04X} 00000000:0000 0A", self.address.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let line = table.lines().find(|line| line.contains(&port)).unwrap();
        let socket = format!("socket:[{}]", line.split_whitespace().nth(9).unwrap());
        let Ok(fds) = std::fs::read_dir(format!("/proc/{process}/fd")) else {
            return false;
        };
        let names = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        names
            .into_iter()
            .any(|name| name.as_os_str() == socket.as_str())
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address).unwrap()
    }

    /// A session from beginning to end.
    pub fn serves(&self) {
        let mut client = self.connect();
        client.talk("well");
        client.finish();
    }

    /// Descriptors of the supervisor.
    pub fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.process());
        std::fs::read_dir(folder).unwrap().count()
    }

    /// Resident memory of the supervisor in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.unwrap().split_whitespace().nth(1);
        number.unwrap().parse().unwrap()
    }

    /// Hundredths of a second of processor time of the supervisor.
    pub fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Stops the server, its sessions at once, and answers its log. It ends when no process of it
    /// is left: each has the log.
    pub fn stop(mut self) -> Vec<String> {
        signal_to(self.process(), Signal::TERM);
        self.log.wait_for("stopping: no new");
        signal_to(self.process(), Signal::TERM);
        self.log.wait_for("stopped");
        let log = self.log.all();
        assert_eq!(self.server.wait().unwrap().code(), Some(0), "{log:#?}");
        assert!(
            !log.iter().any(|line| line.contains("in a forked child")),
            "{log:#?}"
        );
        log
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#?}", self.log.so_far());
        }
        let _ = self.server.kill(Signal::KILL);
        let _ = self.server.wait();
    }
}

fn plan(hops: u32, session: RunSession) -> Plan {
    Plan {
        listen: "127.0.0.1:0".parse().unwrap(),
        terms: Terms {
            load: Box::new(|| Ok(policy())),
            kind: Kind::Echo,
            hops: Hops::new(hops, 1 << 20),
            limits: Limits::new(500, 100, None, 4096, hops > 0),
            users: None,
            patience: Patience {
                idle: None,
                total: None,
            },
            allowance: Allowance {
                memory: None,
                files: None,
                processes: None,
            },
            log: log::Form::Human,
        },
        reload: None,
        session,
        control: None,
        listener: None,
        predecessor: None,
    }
}

/// The sessions that a log tells of, each with the number of its releases.
pub fn releases(log: &[String]) -> Vec<(String, usize)> {
    let mut sessions: Vec<String> = log
        .iter()
        .filter_map(|line| Some(line.split("session ").nth(1)?.get(..32)?.to_owned()))
        .collect();
    sessions.sort();
    sessions.dedup();
    let count = |session: &String| {
        log.iter()
            .filter(|line| line.contains(session) && line.contains("released: "))
            .count()
    };
    sessions
        .iter()
        .map(|session| (session.clone(), count(session)))
        .collect()
}

/// A peer: stock rustls.
pub struct Client(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    /// Comes back once the handshake is done.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut anchors = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(identity().authority.as_bytes()).unwrap();
        anchors.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(anchors)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Self(StreamOwned::new(connection, socket)))
    }

    /// Says a line, and hears it.
    pub fn try_talk(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.0.flush()?;
        let mut heard = vec![0; text.len()];
        self.0.read_exact(&mut heard)?;
        assert_eq!(heard, text.as_bytes());
        Ok(())
    }

    pub fn talk(&mut self, text: &str) {
        self.try_talk(text).unwrap();
    }

    /// Ends it in good order, and hears the server's end.
    pub fn try_finish(mut self) -> io::Result<()> {
        self.0.conn.send_close_notify();
        self.0.flush()?;
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest)?;
        assert!(rest.is_empty());
        Ok(())
    }

    pub fn finish(self) {
        self.try_finish().unwrap();
    }

    /// Waits until the server has ended the connection, in whatever way.
    pub fn wait_for_end(mut self) {
        let _ = self.0.sock.shutdown(Shutdown::Write);
        while matches!(self.0.sock.read(&mut [0; 4096]), Ok(count) if count > 0) {}
    }
}
