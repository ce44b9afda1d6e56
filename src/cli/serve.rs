//! `baton serve`.

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::cred::{AcceptorCredential, Anchors};
use crate::establish::{AcceptorConfig, ClientCertificates};
use crate::server::identity::{self, Identity, Origin};
use crate::server::state::Folder;
use crate::server::{self, Plan, Role, Server, passwords};
use crate::session::job::Kind;
use crate::session::log;
use crate::sys::{clock, memory, process};

use super::arguments::{ClientAuth, Serve};

/// Passwords a client may try on one connection.
const ATTEMPTS: u8 = 3;
/// Processes, descriptors of which each session needs: its reports, and for a moment its socket.
const DESCRIPTORS_LEFT: u64 = 64;

/// Why it did not serve.
#[derive(Debug)]
pub enum Error {
    /// The development identity.
    Identity(identity::Error),
    /// A certificate, a key or an authority, with the option that named it.
    Credential(&'static str, crate::cred::Error),
    /// The password file.
    Passwords(passwords::Error),
    /// Certificates of clients are asked for, and nothing says by which authority.
    NoClientCa,
    /// The server.
    Server(server::Error),
    /// Standard output, or the address that was listened on.
    System(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(error) => error.fmt(f),
            Self::Credential(option, error) => write!(f, "{option}: {error}"),
            Self::Passwords(error) => error.fmt(f),
            Self::NoClientCa => f.write_str("--client-auth with --cert needs --client-ca"),
            Self::Server(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<server::Error> for Error {
    fn from(error: server::Error) -> Self {
        Self::Server(error)
    }
}

/// What the server proves itself with, and what to tell the reader about it.
struct Proof {
    credential: AcceptorCredential,
    /// The development identity and where its state is, unless the user gave a certificate.
    identity: Option<(Identity, Origin, PathBuf)>,
}

/// Serves until it is stopped; or, in a process forked from the server, runs its session.
pub fn run(options: Serve) -> Result<(), Error> {
    if let Err(error) = process::set_not_dumpable() {
        log::line(format_args!("this process can be dumped: {error}"));
    }
    let proof = proof(&options)?;
    let config = config(&options, &proof)?;
    let Proof { identity, .. } = proof;
    let most = match process::raise_descriptor_limit() {
        Ok(limit) => limit.saturating_sub(DESCRIPTORS_LEFT),
        Err(_) => u64::MAX,
    };
    let sessions = u64::from(options.sessions).min(most);
    let kind = match &options.exec {
        Some(words) => Kind::Exec(words.clone()),
        None if options.http => Kind::Page,
        None => Kind::Echo,
    };
    let server = Server::open(Plan {
        listen: options.listen,
        config,
        kind: kind.clone(),
        hops: options.hops,
        hop_every: options.hop_every,
        sessions: usize::try_from(sessions).unwrap_or(usize::MAX),
    })?;
    if memory::unlocked() {
        log::line(format_args!(
            "RLIMIT_MEMLOCK is too low to lock all secrets: some may reach swap"
        ));
    }
    let address = server.address().map_err(Error::System)?;
    greet(&options, &kind, address, identity.as_ref()).map_err(Error::System)?;
    match server.run()? {
        Role::Stopped => log::line(format_args!("stopped")),
        Role::Session(start) => start.run(),
    }
    Ok(())
}

fn proof(options: &Serve) -> Result<Proof, Error> {
    if let (Some(cert), Some(key)) = (&options.cert, &options.key) {
        let credential = AcceptorCredential::from_pem_files(cert, key)
            .map_err(|error| Error::Credential("--cert, --key", error))?;
        return Ok(Proof { credential, identity: None });
    }
    let path = match &options.state {
        Some(path) => path.clone(),
        None => Folder::default_path().map_err(|error| Error::Identity(error.into()))?,
    };
    let state = Folder::open_or_make(&path).map_err(|error| Error::Identity(error.into()))?;
    let (identity, origin) =
        Identity::ensure(&state, clock::unix_seconds()).map_err(Error::Identity)?;
    let credential = AcceptorCredential::from_pem(identity.server(), identity.server_key())
        .map_err(|error| Error::Credential("development identity", error))?;
    Ok(Proof { credential, identity: Some((identity, origin, path)) })
}

fn config(options: &Serve, proof: &Proof) -> Result<AcceptorConfig, Error> {
    let anchors = || match (&options.client_ca, &proof.identity) {
        (Some(path), _) => {
            Anchors::from_pem_file(path).map_err(|error| Error::Credential("--client-ca", error))
        }
        (None, Some((identity, ..))) => Anchors::from_pem(identity.authority())
            .map_err(|error| Error::Credential("development authority", error)),
        (None, None) => Err(Error::NoClientCa),
    };
    let clients = match options.client_auth {
        ClientAuth::None => ClientCertificates::None,
        ClientAuth::Optional => ClientCertificates::Optional(anchors()?),
        ClientAuth::Required => ClientCertificates::Required(anchors()?),
    };
    // Who is not asked for anything may stay nobody, in either framing.
    let anonymous = options.client_auth != ClientAuth::Required && options.password_file.is_none();
    let mut builder = AcceptorConfig::builder(proof.credential()?)
        .client_certificates(clients)
        .anonymous(anonymous);
    if options.http {
        builder = builder.application_protocols(&[b"http/1.1"]);
    }
    if let Some(path) = &options.password_file {
        let file = passwords::File::read(path).map_err(Error::Passwords)?;
        builder = builder.passwords(Arc::new(file), ATTEMPTS);
    }
    builder.build().map_err(|error| Error::Credential("configuration", error))
}
