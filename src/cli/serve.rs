//! `baton serve`.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use crate::cred::{AcceptorCredential, Anchors};
use crate::establish::{AcceptorConfig, ClientCertificates};
use crate::server::identity::{self, Identity, Origin};
use crate::server::service;
use crate::server::state::Folder;
use crate::server::users::Users;
use crate::server::{
    self, Plan, Policy, Predecessor, Reload, Role, Server, Started, Terms, passwords,
};
use crate::session::drive::Hops;
use crate::session::job::Kind;
use crate::session::log;
use crate::sys::{clock, memory, process};

use super::arguments::{ClientAuth, LogForm, Serve};
use super::bounds::PeerUser;
use super::configuration::{self, Mistakes};
use super::naming;
use super::operator;

/// Passwords a client may try on one connection.
const ATTEMPTS: u8 = 3;

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
    /// The configuration file.
    Configuration(Mistakes),
    /// What the service manager passed.
    Passed(service::Unfit),
    /// The server to take over cannot be asked: there is no control socket.
    NoControl,
    /// The server to take over listens there, and this one was to listen elsewhere.
    Elsewhere(SocketAddr),
    /// Whom processes were to become.
    Users(String),
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
            Self::Configuration(mistakes) => mistakes.fmt(f),
            Self::Passed(unfit) => unfit.fmt(f),
            Self::NoControl => f.write_str("--takeover needs a control socket"),
            Self::Elsewhere(there) => {
                write!(
                    f,
                    "the running server listens on {there}: --listen must be that"
                )
            }
            Self::Users(text) => f.write_str(text),
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

/// Serves until it is stopped; or, in a process forked from the server, runs its session.
///
/// `given` are the names of the options that stood on the command line.
pub fn run(arguments: &Serve, given: &BTreeSet<String>) -> Result<(), Error> {
    // Before anything is opened.
    let inherited = Predecessor::inherited().map_err(server::Error::Takeover)?;
    let listener = service::passed_listener().map_err(Error::Passed)?;
    let mut options = arguments.clone();
    if let Some(path) = &arguments.config {
        let read = configuration::read(path, &mut options, given);
        //= spec/configuration.md#check
        read.map_err(Error::Configuration)?;
        if arguments.check {
            let wrong = naming::mistakes(&options);
            if !wrong.is_empty() {
                let mistakes = Mistakes::of_keys(path, given, wrong);
                return Err(Error::Configuration(mistakes));
            }
            return writeln!(io::stdout(), "{}: no mistakes", path.display())
                .map_err(Error::System);
        }
    }
    log::set_form(form(&options));
    log::never_wait();
    let predecessor = match inherited {
        None if options.takeover => Some(ask_for_server(&options)?),
        inherited => inherited,
    };
    serve(&options, arguments, given, (listener, predecessor))
}

/// How the log is written.
//= spec/configuration.md#lines
fn form(options: &Serve) -> log::Form {
    match options.log {
        Some(LogForm::Json) => log::Form::Json,
        Some(LogForm::Human) => log::Form::Human,
        None if io::stderr().is_terminal() => log::Form::Human,
        None => log::Form::Json,
    }
}

fn serve(
    options: &Serve,
    arguments: &Serve,
    given: &BTreeSet<String>,
    (listener, mut predecessor): (Option<TcpListener>, Option<Predecessor>),
) -> Result<(), Error> {
    let inherited = predecessor.as_mut().and_then(Predecessor::take_listener);
    let listener = inherited.map(TcpListener::from).or(listener);
    if let Err(error) = check_listener(options, listener.as_ref(), predecessor.as_ref()) {
        if let Some(predecessor) = predecessor {
            predecessor.refuse(&error.to_string());
        }
        return Err(error);
    }
    if let Err(error) = process::set_not_dumpable() {
        log::line(format_args!("this process can be dumped: {error}"));
    }
    let (users, said) = options.bounds.users().map_err(Error::Users)?;
    if let Some(said) = said {
        log::line(format_args!("{said}"));
    }
    // Made, or renewed, before anything else; only the handshaker reads the private key for use.
    let mut identity = identity(options)?;
    if let Some((identity, _)) = &mut identity {
        identity.forget_key();
    }
    let succeeds = predecessor.is_some();
    let server = Server::open(Plan {
        listen: options.listen,
        terms: terms(options, users),
        reload: reload(options, arguments, given),
        session: Box::new(|start| start.run()),
        control: operator::place(options),
        listener,
        predecessor,
    })?;
    if memory::unlocked() {
        log::line(format_args!(
            "RLIMIT_MEMLOCK is too low: some secrets may reach swap"
        ));
    }
    let address = server.address().map_err(Error::System)?;
    let role = match server.start()? {
        Started::Serving(serving) => {
            let greeted = greet(options, address, identity.as_ref());
            // Nobody may read what one that comes after another says: it serves all the same.
            if !succeeds {
                greeted.map_err(Error::System)?;
            }
            // The identity's copy of the private key.
            drop(identity);
            serving.run()?
        }
        Started::Other(role) => {
            drop(identity);
            role
        }
    };
    match role {
        Role::Stopped => log::line(format_args!("stopped")),
        Role::Succeeded(_) => {}
        Role::Done => {}
    }
    Ok(())
}

/// The server that `--takeover` asks for.
fn ask_for_server(options: &Serve) -> Result<Predecessor, Error> {
    let place = operator::place(options).ok_or(Error::NoControl)?;
    Ok(Predecessor::ask(&place.path).map_err(server::Error::Takeover)?)
}

/// A server that comes after another one listens where that one does.
//= spec/takeover.md#start
fn check_listener(
    options: &Serve,
    listener: Option<&TcpListener>,
    predecessor: Option<&Predecessor>,
) -> Result<(), Error> {
    let Some(listener) = listener else {
        return Ok(());
    };
    if predecessor.is_none_or(Predecessor::is_shared) {
        // Where the service manager says.
        return Ok(());
    }
    let there = listener.local_addr().map_err(Error::System)?;
    let wanted = options.listen;
    let same = there.ip() == wanted.ip() && [0, there.port()].contains(&wanted.port());
    match same {
        true => Ok(()),
        false => Err(Error::Elsewhere(there)),
    }
}

/// What the handshaker needs.
fn load(options: &Serve) -> Result<Policy, Error> {
    let (credential, identity) = credential(options)?;
    policy(
        options,
        credential,
        identity.as_ref().map(|(identity, _)| identity),
    )
}

/// What can change while the server runs.
fn terms(options: &Serve, users: Option<Users>) -> Terms {
    let kind = match &options.exec {
        Some(words) => Kind::Exec(words.clone()),
        None if options.http => Kind::Page,
        None => Kind::Echo,
    };
    let again = options.clone();
    Terms {
        load: Box::new(move || load(&again).map_err(|error| error.to_string())),
        kind,
        hops: Hops::new(options.hops, options.hop_every),
        limits: options.bounds.limits(options.hops > 0),
        users,
        patience: options.bounds.patience(options.http),
        allowance: options.bounds.allowance(),
        log: form(options),
    }
}

/// What reads the configuration once more, where there is one.
//= spec/configuration.md#reload
fn reload(running: &Serve, arguments: &Serve, given: &BTreeSet<String>) -> Option<Reload> {
    let path = arguments.config.clone()?;
    let (running, arguments, given) = (running.clone(), arguments.clone(), given.clone());
    Some(Box::new(move || {
        let mut options = arguments.clone();
        configuration::read(&path, &mut options, &given)
            .map_err(|mistakes| mistakes.lines().collect::<Vec<_>>())?;
        let fixed = [
            ("listen", options.listen == running.listen),
            ("state", options.state == running.state),
            ("control", options.control == running.control),
        ];
        let changed: Vec<String> = fixed
            .iter()
            .filter(|(_, same)| !same)
            .map(|(key, _)| {
                let line = configuration::line_of(&path, key);
                let path = path.display();
                format!("{path}:{line}: {key}: cannot change in a running server; expected its old value")
            })
            .collect();
        if !changed.is_empty() {
            return Err(changed);
        }
        let users = options.bounds.users();
        let (users, _) = users.map_err(|text| vec![format!("{}: {text}", path.display())])?;
        let mut terms = terms(&options, users);
        let (load, path) = (terms.load, path.clone());
        terms.load = Box::new(move || load().map_err(|text| format!("{}: {text}", path.display())));
        terms.log = form(&options);
        Ok(terms)
    }))
}

fn credential(options: &Serve) -> Result<(AcceptorCredential, Option<(Identity, Origin)>), Error> {
    if let (Some(cert), Some(key)) = (&options.cert, &options.key) {
        let credential = AcceptorCredential::from_pem_files(cert, key)
            .map_err(|error| Error::Credential("--cert, --key", error))?;
        return Ok((credential, None));
    }
    let (identity, origin) = development(options)?;
    let credential = AcceptorCredential::from_pem(identity.server(), identity.server_key())
        .map_err(|error| Error::Credential("development identity", error))?;
    Ok((credential, Some((identity, origin))))
}

/// The development identity, where no certificate is given.
fn identity(options: &Serve) -> Result<Option<(Identity, Origin)>, Error> {
    if options.cert.is_some() && options.key.is_some() {
        return Ok(None);
    }
    development(options).map(Some)
}

fn development(options: &Serve) -> Result<(Identity, Origin), Error> {
    let refused = |refused| Error::Identity(identity::Error::State(refused));
    let path = match &options.state {
        Some(path) => path.clone(),
        None => Folder::default_path().map_err(refused)?,
    };
    let state = Folder::open_or_make(&path).map_err(refused)?;
    Identity::ensure(&state, clock::unix_seconds()).map_err(Error::Identity)
}

fn policy(
    options: &Serve,
    credential: AcceptorCredential,
    identity: Option<&Identity>,
) -> Result<Policy, Error> {
    let anchors = || match (&options.client_ca, identity) {
        (Some(path), _) => {
            Anchors::from_pem_file(path).map_err(|error| Error::Credential("--client-ca", error))
        }
        (None, Some(identity)) => Anchors::from_pem(identity.authority())
            .map_err(|error| Error::Credential("development authority", error)),
        (None, None) => Err(Error::NoClientCa),
    };
    let clients = match options.client_auth {
        ClientAuth::None => ClientCertificates::None,
        ClientAuth::Optional => ClientCertificates::Optional(anchors()?),
        ClientAuth::Required => ClientCertificates::Required(anchors()?),
    };
    // Who is not asked for anything may stay nobody, in either framing.
    let anonymous = options.client_auth != ClientAuth::Required
        && options.password_file.is_none()
        && options.bounds.peer_user != PeerUser::Required;
    let mut builder = AcceptorConfig::builder(credential)
        .client_certificates(clients)
        .anonymous(anonymous);
    if options.http {
        builder = builder.application_protocols(&[b"http/1.1"]);
    }
    if let Some(path) = &options.password_file {
        let file = passwords::File::read(path).map_err(Error::Passwords)?;
        //= spec/passwords.md#file
        if file.in_clear() > 0 {
            log::line(format_args!(
                "{}: {} of {} passwords in clear: baton passwd makes hashes of them",
                path.display(),
                file.in_clear(),
                file.users()
            ));
        }
        builder = builder.passwords(Arc::new(file), ATTEMPTS);
    }
    let config = builder
        .build()
        .map_err(|error| Error::Credential("configuration", error))?;
    Ok(Policy {
        config: Arc::new(config),
        anonymous,
    })
}

/// Says where the server listens, and what to try, in lines that work as they stand.
fn greet(
    options: &Serve,
    address: SocketAddr,
    identity: Option<&(Identity, Origin)>,
) -> io::Result<()> {
    let what = match (&options.exec, options.http) {
        (Some(_), _) => "runs a command for each connection",
        (None, true) => "serves a page about each connection",
        (None, false) => "echoes",
    };
    let mut out = io::stdout().lock();
    writeln!(out, "Baton listens on {address} and {what}.")?;
    if let Some((identity, origin)) = identity {
        let what = match origin {
            Origin::Made => "made",
            Origin::Kept => "kept",
            Origin::LeavesRenewed => "certificates renewed",
            Origin::Renewed => "authority and certificates renewed",
        };
        writeln!(
            out,
            "Development identity {what}: {}",
            identity.folder().display()
        )?;
    }
    // From another machine one would name this one's address; to try, the loopback serves.
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let near = SocketAddr::new(ip, address.port());
    writeln!(out, "Try, in another terminal:")?;
    for line in lines(options, near, identity.map(|(identity, _)| identity)) {
        writeln!(out, "  {line}")?;
    }
    out.flush()
}

/// The lines to try, for `openssl`, `curl` and this program.
fn lines(options: &Serve, near: SocketAddr, identity: Option<&Identity>) -> [String; 3] {
    let program = std::env::args_os().next().unwrap_or_else(|| "baton".into());
    let program = quoted(Path::new(&program));
    let mut openssl = format!("openssl s_client -connect {near}");
    // A page answers in HTTP; anything else is not what curl expects, and never ends.
    let mut curl = match options.http {
        true => "curl".to_owned(),
        false => "curl --http0.9 --max-time 1".to_owned(),
    };
    let mut connect = format!("{program} connect --message");
    if let Some(identity) = identity {
        let authority = quoted(&identity.authority_path());
        openssl += &format!(" -CAfile {authority}");
        curl += &format!(" --cacert {authority}");
        connect += &format!(" --ca {authority}");
        if options.client_auth == ClientAuth::Required {
            let (cert, key) = identity.client_paths();
            let (cert, key) = (quoted(&cert), quoted(&key));
            openssl += &format!(" -cert {cert} -key {key}");
            curl += &format!(" --cert {cert} --key {key}");
            connect += &format!(" --cert {cert} --key {key}");
        }
        // The development certificate is for the loopback's names.
        if !near.ip().is_loopback() {
            curl += &format!(" --connect-to ::{near}");
            connect += " --name localhost";
        }
    }
    if options.password_file.is_some() {
        connect += " --user NAME";
    }
    let host = match identity {
        Some(_) => format!("localhost:{}", near.port()),
        None => near.to_string(),
    };
    [
        openssl,
        format!("{curl} https://{host}/"),
        format!("{connect} {near}"),
    ]
}

/// A path as a word of a shell's command.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    match text.chars().all(plain) && !text.is_empty() {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}
