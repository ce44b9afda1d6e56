//! The floor: rustls alone. One process makes all handshakes, and forks for each connection that is
//! established; the child has everything in its copy of the memory and echoes.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use baton::sys::process::{self, Child, Fork, Signal, fork};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::process::{WaitOptions, set_parent_process_death_signal, wait};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Server {
    pub(super) fn start(identity: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        match fork().unwrap() {
            Fork::Parent(child) => Self { child, address },
            Fork::Child => {
                set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
                serve(&listener, &config(identity));
                process::exit_now(0)
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn config(identity: &Path) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(identity.join("server.pem")).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(identity.join("server-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

struct Connection {
    socket: TcpStream,
    tls: ServerConnection,
}

fn serve(listener: &TcpListener, config: &Arc<ServerConfig>) {
    const LISTENER: u64 = u64::MAX;
    listener.set_nonblocking(true).unwrap();
    let poller = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let add = |fd: BorrowedFd<'_>, key| {
        epoll::add(&poller, fd, EventData::new_u64(key), EventFlags::IN).unwrap();
    };
    add(listener.as_fd(), LISTENER);
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        if epoll::wait(&poller, spare, None).is_err() {
            continue;
        }
        for event in &events {
            let key = event.data.u64();
            if key == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    socket.set_nonblocking(true).unwrap();
                    socket.set_nodelay(true).unwrap();
                    let key = socket.as_raw_fd() as u64;
                    add(socket.as_fd(), key);
                    let tls = ServerConnection::new(config.clone()).unwrap();
                    connections.insert(key, Connection { socket, tls });
                }
            } else if let Some(connection) = connections.get_mut(&key) {
                match connection.advance() {
                    None => drop(connections.remove(&key)),
                    Some(true) => {
                        let connection = connections.remove(&key).unwrap();
                        epoll::delete(&poller, &connection.socket).unwrap();
                        if let Ok(Fork::Child) = fork() {
                            connection.echo();
                            process::exit_now(0);
                        }
                    }
                    Some(false) => {}
                }
            }
        }
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}

impl Connection {
    /// Moves the handshake on; true when it is done, none when the connection is over.
    fn advance(&mut self) -> Option<bool> {
        match self.tls.read_tls(&mut self.socket) {
            Ok(0) => return None,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return None,
            _ => {}
        }
        self.tls.process_new_packets().ok()?;
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket).ok()?;
        }
        Some(!self.tls.is_handshaking())
    }

    fn echo(mut self) {
        self.socket.set_nonblocking(false).unwrap();
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = match self.tls.reader().read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match self.tls.read_tls(&mut self.socket) {
                        Ok(0) | Err(_) => return,
                        Ok(_) => drop(self.tls.process_new_packets().unwrap()),
                    }
                    continue;
                }
                Err(_) => return,
            };
            self.tls.writer().write_all(&bytes[..count]).unwrap();
            self.flush();
        }
        self.tls.send_close_notify();
        self.flush();
    }

    fn flush(&mut self) {
        while self.tls.wants_write() {
            if self.tls.write_tls(&mut self.socket).is_err() {
                process::exit_now(1);
            }
        }
    }
}

/// Microseconds of processor time of the server's side of one handshake, in memory.
pub(super) fn handshake(identity: &Path) -> f64 {
    const TIMES: u32 = 200;
    let server = config(identity);
    let client = client_config(identity);
    let mut spent = 0.0;
    for _ in 0..TIMES {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(client.clone(), name).unwrap();
        let start = cpu();
        let mut connection = ServerConnection::new(server.clone()).unwrap();
        spent += cpu() - start;
        while client.is_handshaking() || connection.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let start = cpu();
            connection.read_tls(&mut &bytes[..]).unwrap();
            connection.process_new_packets().unwrap();
            let mut answer = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut answer).unwrap();
            }
            spent += cpu() - start;
            let mut answer = &answer[..];
            while !answer.is_empty() {
                client.read_tls(&mut answer).unwrap();
                client.process_new_packets().unwrap();
            }
        }
    }
    spent / f64::from(TIMES)
}

fn client_config(identity: &Path) -> Arc<ClientConfig> {
    let mut anchors = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(identity.join("ca.pem")).unwrap();
    anchors.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(anchors)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// Microseconds of processor time of this thread.
fn cpu() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

/// Microseconds of a fork of a small process that exits and is waited for. Nothing else runs
/// meanwhile, so that it is time of a processor.
pub(super) fn fork_exit_wait() -> f64 {
    const TIMES: u32 = 200;
    let start = Instant::now();
    for _ in 0..TIMES {
        match fork().unwrap() {
            Fork::Child => process::exit_now(0),
            Fork::Parent(mut child) => drop(child.wait().unwrap()),
        }
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES)
}
