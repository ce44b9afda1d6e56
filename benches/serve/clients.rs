//! The clients: stock rustls, one thread for each.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

pub(super) struct Clients(Arc<ClientConfig>);

impl Clients {
    pub(super) fn new(authority: &Path) -> Self {
        let mut anchors = RootCertStore::empty();
        anchors
            .add(CertificateDer::from_pem_file(authority).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(anchors)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Self(Arc::new(config))
    }

    fn connect(&self, address: SocketAddr) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(self.0.clone(), name).unwrap();
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(StreamOwned::new(client, socket))
    }

    fn session(&self, address: SocketAddr) -> io::Result<()> {
        let mut stream = self.connect(address)?;
        let text = [7; 64];
        stream.write_all(&text)?;
        let mut echoed = [0; 64];
        stream.read_exact(&mut echoed)?;
        assert_eq!(echoed, text);
        stream.conn.send_close_notify();
        stream.flush()?;
        // Some servers end without saying so: all is said by then.
        match stream.read(&mut echoed) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert!(matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            )),
        }
        Ok(())
    }

    /// A session that has echoed something and goes on until it is dropped.
    pub(super) fn hold(&self, address: SocketAddr) -> io::Result<impl Sized + use<>> {
        let mut stream = self.connect(address)?;
        let mut echoed = [0; 64];
        stream.write_all(&echoed)?;
        stream.read_exact(&mut echoed)?;
        Ok(stream)
    }

    /// Sessions one after the other in each of so many threads, for so long; how many there were,
    /// and how many a second. What fails is no session: some servers refuse when they are busy.
    pub(super) fn sessions(
        &self,
        address: SocketAddr,
        threads: usize,
        span: Duration,
    ) -> (usize, f64) {
        let done = AtomicUsize::new(0);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while start.elapsed() < span {
                        if self.session(address).is_ok() {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let done = done.into_inner();
        (done, done as f64 / start.elapsed().as_secs_f64())
    }

    /// Bytes a second of one session that echoes `bytes`.
    pub(super) fn bulk(&self, address: SocketAddr, bytes: usize) -> f64 {
        let mut stream = self.connect(address).unwrap();
        // What is under way at once: both sides work, and no buffer is full.
        let piece = vec![7; 128 * 1024];
        let mut echoed = vec![0; piece.len()];
        let start = Instant::now();
        stream.write_all(&piece).unwrap();
        let mut sent = piece.len();
        let mut heard = 0;
        while heard < bytes {
            if sent < bytes {
                stream.write_all(&piece).unwrap();
                sent += piece.len();
            }
            let rest = (bytes - heard).min(echoed.len());
            stream.read_exact(&mut echoed[..rest]).unwrap();
            heard += rest;
        }
        let seconds = start.elapsed().as_secs_f64();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        bytes as f64 / seconds
    }
}
