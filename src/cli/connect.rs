//! `baton connect`: standard input and output on a context.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::cred::{self, Anchors, InitiatorCredential, Password};
use crate::establish::{
    Failed, Initiator, InitiatorConfig, PasswordAsked, Step, TOKEN_LIMIT, Tokens,
};
use crate::ledger::{self, Domain};
use crate::message::Message;
use crate::name::Name;
use crate::record::Record;
use crate::server::identity::Identity;
use crate::server::state::{Folder, Refused};
use crate::session::about::About;
use crate::session::channel::{Channel, Messages};
use crate::session::drive::{Hops, Stage, Turn};
use crate::session::job::Job;
use crate::session::log::Escaped;
use crate::session::relay::Relay;
use crate::session::report::Reason;
use crate::status::Status;

use super::arguments::Connect;
use super::terminal;

/// How long the server may be silent during the handshake.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there was no connection, or why it did not end well.
#[derive(Debug)]
pub enum Error {
    /// Not `HOST:PORT`, or no name a server can have.
    Target(String),
    /// No authority is named, and there is no state folder either.
    State(Refused),
    /// No authority is named, and the development authority is not there.
    NoAuthority(PathBuf),
    /// Authorities, certificate, key or password.
    Credential(cred::Error),
    /// The password was not to be had.
    Password(io::Error),
    /// The password did not fit this side's bounds: not UTF-8, or with a NUL.
    PasswordText,
    /// The server wants a password, and nobody said whose.
    PasswordWanted,
    /// The password that was passed is wrong, and there is nobody to ask for another.
    PasswordRefused,
    /// The network.
    System(io::Error),
    /// The server closed the connection during the handshake.
    Closed,
    /// The handshake failed.
    Handshake(Box<Failed>),
    /// The ledger, or the context itself.
    Ledger(ledger::Error),
    /// The context could not be made.
    Context(Status),
    /// The session did not end well.
    Session(Reason),
    /// The user gave up.
    Interrupted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(text) => write!(f, "not HOST:PORT: {}", Escaped(text.as_bytes())),
            Self::State(refused) => refused.fmt(f),
            Self::NoAuthority(path) => {
                write!(
                    f,
                    "no --ca, and no development authority in {}",
                    path.display()
                )
            }
            Self::Credential(error) => error.fmt(f),
            Self::Password(error) => write!(f, "no password: {error}"),
            Self::PasswordText => f.write_str("no password: not UTF-8"),
            Self::PasswordWanted => f.write_str("the server wants a password: give --user"),
            Self::PasswordRefused => f.write_str("the server refuses the password"),
            Self::System(error) => error.fmt(f),
            Self::Closed => f.write_str("the server closed the connection during the handshake"),
            Self::Handshake(failed) => failed.fmt(f),
            Self::Ledger(error) => error.fmt(f),
            Self::Context(status) => status.fmt(f),
            Self::Session(reason) => reason.fmt(f),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {}

impl From<cred::Error> for Error {
    fn from(error: cred::Error) -> Self {
        Self::Credential(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        Self::Handshake(Box::new(failed))
    }
}

/// Connects, and passes on until the server ends or the user does.
pub fn run(options: &Connect) -> Result<(), Error> {
    let not_a_target = || Error::Target(options.server.clone());
    let (host, _) = options.server.rsplit_once(':').ok_or_else(not_a_target)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = options.name.as_deref().unwrap_or(host);
    let target = Name::host_based_service(&format!("baton@{name}")).map_err(|_| not_a_target())?;
    let config = Arc::new(config(options)?);
    let domain = Domain::inherited(1).map_err(Error::Ledger)?;

    let socket = TcpStream::connect(&options.server)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if options.message {
        let (messages, unsent) = establish_message(&socket, config, target, options, &domain)?;
        pass_on(socket, messages, unsent)
    } else {
        let (context, unsent) = establish_record(&socket, config, target, &domain)?;
        pass_on(socket, context, unsent)
    }
}

fn config(options: &Connect) -> Result<InitiatorConfig, Error> {
    let authority = match (&options.ca, &options.state) {
        (Some(path), _) => path.clone(),
        (None, Some(state)) => Identity::authority_path_in(state),
        (None, None) => Identity::authority_path_in(&Folder::default_path().map_err(Error::State)?),
    };
    if options.ca.is_none() && !authority.exists() {
        return Err(Error::NoAuthority(authority));
    }
    let mut credential = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => InitiatorCredential::from_pem_files(cert, key)?,
        _ => InitiatorCredential::anonymous(),
    };
    if let Some(user) = &options.user {
        credential = credential.with_password(password(user, options, "Password")?);
    }
    let anchors = Anchors::from_pem_file(&authority)?;
    Ok(InitiatorConfig::builder(anchors)
        .credential(credential)
        .build()?)
}

fn password(user: &str, options: &Connect, prompt: &str) -> Result<Password, Error> {
    let secret = match options.password_fd {
        Some(number) => terminal::password_from(number),
        None => terminal::ask_password(&format!("{prompt} of {}: ", Escaped(user.as_bytes()))),
    };
    let secret = secret.map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Error::Interrupted,
        _ => Error::Password(error),
    })?;
    let text = std::str::from_utf8(&secret).map_err(|_| Error::PasswordText)?;
    Ok(Password::new(user, text)?)
}

fn establish_record(
    mut socket: &TcpStream,
    config: Arc<InitiatorConfig>,
    target: Name,
    domain: &Domain,
) -> Result<(Context<Record>, Vec<u8>), Error> {
    let mut initiator = Initiator::<Record>::new(config, target)?;
    let mut input = Vec::new();
    let mut bytes = [0; 16 * 1024];
    loop {
        match told(socket, initiator.step(&input), |output| output)? {
            Step::Continue { next, output } => {
                socket.write_all(&output)?;
                initiator = next;
            }
            Step::Done { finished, output } => {
                let activated = finished.activate(domain);
                return Ok((
                    activated.map_err(|kept| Error::Context(kept.error))?,
                    output,
                ));
            }
            Step::Password(never) => match never {},
        }
        input = match socket.read(&mut bytes)? {
            0 => return Err(Error::Closed),
            count => bytes[..count].to_vec(),
        };
    }
}

fn establish_message(
    mut socket: &TcpStream,
    config: Arc<InitiatorConfig>,
    target: Name,
    options: &Connect,
    domain: &Domain,
) -> Result<(Messages, Vec<u8>), Error> {
    let mut initiator = Initiator::<Message>::new(config, target)?;
    let mut stream = Incoming {
        socket,
        tokens: Tokens::new(TOKEN_LIMIT),
        bytes: Vec::new(),
    };
    let mut token = Vec::new();
    loop {
        match told(socket, initiator.step(&token), |output| {
            Tokens::frame(&output)
        })? {
            Step::Continue { next, output } => {
                socket.write_all(&Tokens::frame(&output))?;
                initiator = next;
            }
            Step::Done { finished, output } => {
                let activated = finished.activate(domain);
                let context = activated.map_err(|kept| Error::Context(kept.error))?;
                return Ok((Messages::new(context, stream.bytes), Tokens::frame(&output)));
            }
            Step::Password(asked) => {
                let output;
                (initiator, output) = answer(asked, options)?;
                socket.write_all(&Tokens::frame(&output))?;
            }
        }
        token = stream.next()?;
    }
}

/// Answers the server's question for a password, which one it has refused may have led to.
fn answer(asked: PasswordAsked, options: &Connect) -> Result<(Initiator<Message>, Vec<u8>), Error> {
    let Some(user) = &options.user else {
        return Err(Error::PasswordWanted);
    };
    if options.password_fd.is_some() {
        return Err(Error::PasswordRefused);
    }
    let attempts = asked.attempts();
    let prompt = format!("Refused. Password ({attempts} left)");
    Ok(asked.answer(&password(user, options, &prompt)?)?)
}

/// A step's outcome; of a failure, the server is told first.
fn told<T>(
    mut socket: &TcpStream,
    step: Result<T, Failed>,
    framed: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> Result<T, Error> {
    step.map_err(|mut failed| {
        // The failure is what is reported, whether the server hears of it or not.
        let _ = socket.write_all(&framed(std::mem::take(&mut failed.output)));
        failed.into()
    })
}

/// The server's tokens.
struct Incoming<'a> {
    socket: &'a TcpStream,
    tokens: Tokens,
    bytes: Vec<u8>,
}

impl Incoming<'_> {
    fn next(&mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = [0; 16 * 1024];
        loop {
            let mut rest = self.bytes.as_slice();
            let token = self.tokens.next(&mut rest)?;
            self.bytes = rest.to_vec();
            if let Some(token) = token {
                return Ok(token);
            }
            match self.socket.read(&mut bytes)? {
                0 => return Err(Error::Closed),
                count => self.bytes.extend_from_slice(&bytes[..count]),
            }
        }
    }
}

/// Joins standard input and output to the context, until it ends.
fn pass_on<C: Channel>(socket: TcpStream, mut channel: C, unsent: Vec<u8>) -> Result<(), Error> {
    socket.set_nonblocking(true)?;
    let about = About::new(&channel, socket.peer_addr()?, socket.local_addr()?);
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let job = Job::Relay(Relay::between(input, output));
    let mut stage = Stage::new(socket, job, about, Hops::new(0, 1), unsent);
    let reason = match stage.run(&mut channel, None) {
        Turn::Over(reason) => reason,
        Turn::Hop => Reason::Finished,
    };
    stage.close(channel, || ());
    match reason {
        Reason::Finished => Ok(()),
        reason => Err(Error::Session(reason)),
    }
}
