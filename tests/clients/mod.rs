//! Stock rustls as a client of the server: another implementation, each direction of which can be
//! ended by itself.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

#[derive(Clone)]
pub struct Clients(Arc<ClientConfig>);

impl Clients {
    /// Clients that trust `authority`.
    pub fn new(authority: &Path) -> Self {
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

    /// Connects, and makes the handshake.
    pub fn connect(&self, address: SocketAddr) -> io::Result<Client> {
        self.over(TcpStream::connect(address)?)
    }

    /// [`Clients::connect`], with `text` right behind the handshake.
    pub fn connect_saying(&self, address: SocketAddr, text: &[u8]) -> io::Result<Client> {
        self.over_saying(TcpStream::connect(address)?, text)
    }

    /// On a connection that is there.
    pub fn over(&self, socket: TcpStream) -> io::Result<Client> {
        self.over_saying(socket, b"")
    }

    fn over_saying(&self, mut socket: TcpStream, text: &[u8]) -> io::Result<Client> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(self.0.clone(), name).unwrap();
        client.writer().write_all(text)?;
        socket.set_nodelay(true)?;
        while client.is_handshaking() {
            client.complete_io(&mut socket)?;
        }
        Ok(Client(StreamOwned::new(client, socket)))
    }

    /// Connects, has a text echoed, and ends in good order; an error is what went wrong.
    pub fn echo(&self, address: SocketAddr) -> io::Result<()> {
        let mut client = self.connect(address)?;
        client.0.write_all(b"well\n")?;
        let mut echoed = [0; 5];
        client.0.read_exact(&mut echoed)?;
        if echoed != *b"well\n" {
            return Err(io::ErrorKind::InvalidData.into());
        }
        client.end()?;
        client.rest().map(drop)
    }
}

pub struct Client(pub StreamOwned<ClientConnection, TcpStream>);

impl Client {
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.0.flush()
    }

    /// Everything until the server's close_notify; an error when the connection ends without one.
    pub fn rest(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.0.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Ends this direction.
    pub fn end(&mut self) -> io::Result<()> {
        self.0.conn.send_close_notify();
        self.0.flush()
    }
}
