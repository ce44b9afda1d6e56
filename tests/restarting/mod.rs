//! The echo server of `examples/hot_restart.rs` as a process, and clients that compare every byte.

#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use baton::context::Context;
use baton::cred::Anchors;
use baton::establish::{Initiator, InitiatorConfig, Step};
use baton::ledger::Domain;
use baton::name::Name;
use baton::record::{Read as Fed, Record};
use baton::sys::process::Signal;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::support::identity;

/// How long anything may take that is waited for.
const LONG: Duration = Duration::from_secs(60);

/// The folder of this test program's files; the example is `server` and `another` in it.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--offline", "--example", "hot_restart"]);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        // What cargo tells a test about its package would make build scripts run again.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                cargo.env_remove(name);
            }
        }
        assert!(cargo.status().unwrap().success());
        let folder = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        let example = own.parent().unwrap().parent().unwrap();
        // A copy: another build must not replace it meanwhile.
        for name in ["server", "another"] {
            let copy = folder.path().join(name);
            std::fs::copy(example.join("examples/hot_restart"), copy).unwrap();
        }
        std::fs::write(folder.path().join("cert.pem"), &identity().certificate).unwrap();
        std::fs::write(folder.path().join("key.pem"), &identity().key).unwrap();
        folder
    });
    folder.path()
}

/// A server and the processes that succeed it.
pub struct Server {
    first: Child,
    /// The process that serves now.
    pub pid: u32,
    pub address: SocketAddr,
    /// Its program: a file of its own, to be replaced.
    pub program: PathBuf,
    pub key: PathBuf,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Server {
    pub fn start(name: &str, fault: Option<&str>, options: &[&str]) -> Self {
        let program = folder().join(name);
        let key = folder().join(format!("{name}.pem"));
        std::fs::hard_link(folder().join("server"), &program).unwrap();
        std::fs::copy(folder().join("key.pem"), &key).unwrap();
        let mut command = Command::new(&program);
        command
            .args(["--listen", "127.0.0.1:0", "--cert"])
            .arg(folder().join("cert.pem"))
            .arg("--key")
            .arg(&key)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0);
        if let Some(fault) = fault {
            command.env("BATON_FAULT", fault);
        }
        let mut first = command.spawn().unwrap();
        let output = BufReader::new(first.stdout.take().unwrap());
        let (told, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = told.send(line);
            }
        });
        let mut server = Self {
            pid: first.id(),
            first,
            address: ([127, 0, 0, 1], 0).into(),
            program,
            key,
            lines,
            seen: Vec::new(),
        };
        let line = server.wait("serves ");
        server.address = line.rsplit(' ').next().unwrap().parse().unwrap();
        server
    }

    /// The next line that contains `what`.
    pub fn wait(&mut self, what: &str) -> String {
        if let Some(at) = self.seen.iter().position(|line| line.contains(what)) {
            return self.seen.remove(at);
        }
        loop {
            let line = self.lines.recv_timeout(LONG);
            let line = line.unwrap_or_else(|_| panic!("no {what:?} after {:?}", self.seen));
            if line.contains(what) {
                return line;
            }
            self.seen.push(line);
        }
    }

    /// Waits until no process of it has its standard output any more.
    pub fn wait_for_end(&mut self) {
        while self.lines.recv_timeout(LONG).is_ok() {}
        self.first.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Orders a restart and waits until the successor has everything; answers the connections it
    /// has then.
    pub fn restart(&mut self) -> usize {
        self.signal(Signal::USR2);
        let line = self.wait(" succeeds with ");
        self.follow(&line)
    }

    /// Goes on with the process that has written `line`; answers the number at its end.
    pub fn follow(&mut self, line: &str) -> usize {
        let before = self.pid;
        self.pid = line.split(' ').next().unwrap().parse().unwrap();
        assert_ne!(self.pid, before);
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Puts another file at the program's path.
    pub fn replace(&self, by: impl FnOnce(&Path)) {
        let new = self.program.with_extension("new");
        by(&new);
        std::fs::rename(&new, &self.program).unwrap();
    }

    /// Puts a shell's script at the program's path, which ends as the server: `%` is its path.
    pub fn replace_by_script(&self, script: &str) {
        let script = script.replace('%', &folder().join("server").display().to_string());
        self.replace(|new| {
            std::fs::write(new, format!("#!/bin/sh\n{script}\n")).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(new, mode).unwrap();
        });
    }

    /// The successor, and no process before or behind it, has this fault.
    pub fn fault_successor(&self, fault: &str) {
        self.replace_by_script(&format!("BATON_FAULT={fault} exec % \"$@\""));
    }

    pub fn clients(&self, count: usize) -> Vec<Client> {
        (0..count)
            .map(|_| Client::connect(self.address).unwrap())
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.first);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.first.wait();
    }
}

fn config() -> Arc<InitiatorConfig> {
    static CONFIG: OnceLock<Arc<InitiatorConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let anchors = Anchors::from_pem(identity().authority.as_bytes()).unwrap();
        Arc::new(InitiatorConfig::builder(anchors).build().unwrap())
    });
    Arc::clone(config)
}

fn domain() -> &'static Domain {
    static DOMAIN: OnceLock<Domain> = OnceLock::new();
    DOMAIN.get_or_init(|| Domain::inherited(65_536).unwrap())
}

pub type Outcome<T> = Result<T, String>;

/// The byte at a place of the stream of a client.
fn byte(client: u64, at: u64) -> u8 {
    (client.wrapping_mul(31) ^ at.wrapping_mul(0x9e37_79b9) >> 7) as u8
}

/// A client that knows what it must hear.
pub struct Client {
    number: u64,
    pub socket: TcpStream,
    context: Context<Record>,
    said: u64,
    heard: u64,
    /// The rest of what was sealed: sent later, so that the server holds half a record meanwhile.
    held: Vec<u8>,
    rounds: u64,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Outcome<Self> {
        Self::connect_slowly(address, || {})
    }

    /// Calls `pause` once half of the first flight has been sent.
    pub fn connect_slowly(address: SocketAddr, pause: impl FnOnce()) -> Outcome<Self> {
        let mut pause = Some(pause);
        static NUMBERS: AtomicUsize = AtomicUsize::new(0);
        let mut socket = TcpStream::connect(address).map_err(|e| format!("connect: {e}"))?;
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let name = Name::host_based_service("test@localhost").unwrap();
        let mut initiator = Initiator::<Record>::new(config(), name).map_err(|e| e.to_string())?;
        let mut buffer = [0; 8192];
        let mut input = 0;
        let finished = loop {
            match initiator
                .step(&buffer[..input])
                .map_err(|e| e.to_string())?
            {
                Step::Continue { next, output } => {
                    initiator = next;
                    let (first, second) = output.split_at(output.len() / 2);
                    socket.write_all(first).map_err(|e| e.to_string())?;
                    pause.take().into_iter().for_each(|pause| pause());
                    socket.write_all(second).map_err(|e| e.to_string())?;
                }
                Step::Done { finished, output } => {
                    socket.write_all(&output).map_err(|e| e.to_string())?;
                    break finished;
                }
                Step::Password(_) => return Err("asked for a password".into()),
            }
            input = socket
                .read(&mut buffer)
                .map_err(|e| format!("handshake: {e}"))?;
            if input == 0 {
                return Err("closed in the handshake".into());
            }
        };
        Ok(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed) as u64,
            socket,
            context: finished
                .activate(domain())
                .map_err(|e| e.error.to_string())?,
            said: 0,
            heard: 0,
            held: Vec::new(),
            rounds: 0,
        })
    }

    fn seal(&mut self, length: u64) -> Vec<u8> {
        let text: Vec<u8> = (self.said..self.said + length)
            .map(|at| byte(self.number, at))
            .collect();
        self.said += length;
        let mut out = Vec::new();
        self.context.seal(&text, &mut out).unwrap();
        out
    }

    /// Sends what was held back, hears all that was said, and says something half.
    pub fn round(&mut self) -> Outcome<()> {
        self.complete()?;
        self.rounds += 1;
        let length = match (self.number + self.rounds) % 16 {
            0 => 40_000,
            odd => 1 + odd * 97,
        };
        let mut sealed = self.seal(length);
        self.held = sealed.split_off(sealed.len() / 2);
        self.socket.write_all(&sealed).map_err(|e| e.to_string())
    }

    /// Sends what was held back and hears all that was said.
    pub fn complete(&mut self) -> Outcome<()> {
        let held = std::mem::take(&mut self.held);
        self.socket.write_all(&held).map_err(|e| e.to_string())?;
        while self.heard < self.said {
            self.hear()?;
        }
        Ok(())
    }

    fn hear(&mut self) -> Outcome<()> {
        let mut buffer = [0; 16_384];
        let count = self.socket.read(&mut buffer).map_err(|e| e.to_string())?;
        if count == 0 {
            return Err("closed".into());
        }
        let mut fed = 0;
        while fed < count {
            fed += self
                .context
                .feed(&buffer[fed..count])
                .map_err(|e| e.to_string())?;
            let mut text = [0; 16_384];
            while let Fed::Data(count) = self.context.read(&mut text).map_err(|e| e.to_string())? {
                for byte_heard in &text[..count] {
                    if *byte_heard != byte(self.number, self.heard) {
                        return Err(format!("another byte at {}", self.heard));
                    }
                    self.heard += 1;
                }
            }
        }
        Ok(())
    }

    /// Says more and more without hearing anything, until the server takes no more.
    pub fn flood(&mut self) {
        // The less the kernel holds, the sooner the server must.
        set_socket_recv_buffer_size(&self.socket, 262_144).unwrap();
        set_socket_send_buffer_size(&self.socket, 262_144).unwrap();
        self.socket
            .set_write_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        loop {
            let sealed = self.seal(16_000);
            let mut sent = 0;
            while sent < sealed.len() {
                match self.socket.write(&sealed[sent..]) {
                    Ok(count) => sent += count,
                    Err(_) => {
                        self.held = sealed[sent..].to_vec();
                        self.socket.set_write_timeout(None).unwrap();
                        return;
                    }
                }
            }
        }
    }

    /// Hears all of a flood while sending its rest.
    pub fn drain(&mut self) -> Outcome<()> {
        let mut writer = self.socket.try_clone().unwrap();
        let held = std::mem::take(&mut self.held);
        let rest = std::thread::spawn(move || writer.write_all(&held));
        while self.heard < self.said {
            self.hear()?;
        }
        rest.join().unwrap().map_err(|e| e.to_string())
    }

    /// Says goodbye, and hears the server's.
    pub fn close(mut self) -> Outcome<()> {
        self.complete()?;
        self.context.close_notify().unwrap();
        let out = self.context.take_output().unwrap();
        self.socket.write_all(&out).map_err(|e| e.to_string())?;
        let mut rest = Vec::new();
        self.socket
            .read_to_end(&mut rest)
            .map_err(|e| e.to_string())?;
        self.context.feed(&rest).map_err(|e| e.to_string())?;
        match self.context.read(&mut [0; 16]) {
            Ok(Fed::Closed) => Ok(()),
            _ => Err("no close_notify".into()),
        }
    }
}

/// Clients that talk, each thread with its share of them, until they are stopped.
pub struct Talking {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Outcome<Vec<Client>>>>,
}

impl Talking {
    pub fn start(clients: Vec<Client>, threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut shares: Vec<Vec<Client>> = (0..threads).map(|_| Vec::new()).collect();
        for (at, client) in clients.into_iter().enumerate() {
            shares[at % threads].push(client);
        }
        let talk = |mut share: Vec<Client>| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    share.iter_mut().try_for_each(Client::round)?;
                }
                Ok(share)
            })
        };
        let threads = shares.into_iter().map(talk).collect();
        Self { stop, threads }
    }

    pub fn stop(self) -> Outcome<Vec<Client>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().unwrap()?);
        }
        Ok(all)
    }
}

/// New connections, one after the other, until they are stopped: each says something, hears it,
/// and closes.
pub struct Newcomers {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Outcome<usize>>,
}

impl Newcomers {
    pub fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                let mut client = Client::connect(address)?;
                client.round()?;
                client.close()?;
                count += 1;
            }
            Ok(count)
        });
        Self { stop, thread }
    }

    pub fn stop(self) -> Outcome<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
