//! A live TLS 1.3 connection changes process: the parent makes the handshake, exports the context
//! and forks; the child imports it and talks to the client, who notices nothing.
//!
//! `cargo run --example hand_over`

#![allow(clippy::print_stdout, missing_docs)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::id;
use std::sync::Arc;

use baton::context::Context;
use baton::cred::{AcceptorCredential, Anchors};
use baton::establish::{Acceptor, AcceptorConfig, Initiator, InitiatorConfig, Step};
use baton::ledger::Domain;
use baton::name::Name;
use baton::record::Record;
use baton::sys::process::{Fork, exit_now, fork};
use baton::transfer::{Export, import};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn serve(config: Arc<AcceptorConfig>, socket: TcpStream) -> Result<()> {
    // README: from here
    let domain = Domain::inherited(1024)?;
    let context = accept(config, &socket, &domain)?;
    let token = context.export(&Export::default().tied_to(socket.as_fd())?)?;
    println!("parent {} exported {} bytes", id(), token.as_bytes().len());
    let Fork::Parent(mut child) = fork()? else {
        let context = import::<Record>(&domain, token.as_bytes(), Some(socket.as_fd()))?;
        println!(
            "child {} runs session {}",
            id(),
            context.session_identifier()
        );
        exit_now(talk(context, socket).is_err().into());
    };
    println!("child {}: {}", child.pid(), child.wait()?);
    if let Err(refusal) = import::<Record>(&domain, token.as_bytes(), Some(socket.as_fd())) {
        println!("the same token again: {refusal}");
    }
    // README: to here
    Ok(())
}

/// Makes the handshake over a socket that blocks.
fn accept(
    config: Arc<AcceptorConfig>,
    mut socket: &TcpStream,
    domain: &Domain,
) -> Result<Context<Record>> {
    let mut acceptor = Acceptor::<Record>::new(config);
    let mut buffer = [0; 4096];
    loop {
        let received = socket.read(&mut buffer)?;
        match acceptor.step(&buffer[..received])? {
            Step::Continue { next, output } => {
                socket.write_all(&output)?;
                acceptor = next;
            }
            Step::Done { finished, output } => {
                socket.write_all(&output)?;
                return Ok(finished.activate(domain)?);
            }
        }
    }
}

/// Answers one line, and closes.
fn talk(context: Context<Record>, socket: TcpStream) -> Result<()> {
    let mut stream = context.over(socket);
    let mut line = [0; 64];
    let length = stream.read(&mut line)?;
    write!(
        stream,
        "{} from process {}",
        String::from_utf8_lossy(&line[..length]),
        id()
    )?;
    Ok(stream.close_notify()?)
}

/// The other end: any TLS 1.3 program would do.
fn client(config: Arc<InitiatorConfig>, mut socket: TcpStream) -> Result<()> {
    let mut initiator =
        Initiator::<Record>::new(config, Name::host_based_service("echo@localhost")?)?;
    let mut buffer = [0; 4096];
    let mut received = 0;
    let finished = loop {
        match initiator.step(&buffer[..received])? {
            Step::Continue { next, output } => {
                socket.write_all(&output)?;
                initiator = next;
            }
            Step::Done { finished, output } => {
                socket.write_all(&output)?;
                break finished;
            }
        }
        received = socket.read(&mut buffer)?;
    };
    let mut stream = finished.activate(&Domain::inherited(1)?)?.over(socket);
    stream.write_all(b"hello")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    println!("client: {answer}");
    Ok(())
}

fn main() -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()])?
        .self_signed(&key)?
        .pem();
    let credential =
        AcceptorCredential::from_pem(certificate.as_bytes(), key.serialize_pem().as_bytes())?;
    let acceptor = Arc::new(
        AcceptorConfig::builder(credential)
            .anonymous(true)
            .build()?,
    );
    let initiator =
        Arc::new(InitiatorConfig::builder(Anchors::from_pem(certificate.as_bytes())?).build()?);

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    match fork()? {
        Fork::Child => {
            let said = TcpStream::connect(address)
                .map_err(Into::into)
                .and_then(|socket| client(initiator, socket));
            exit_now(said.is_err().into())
        }
        Fork::Parent(mut client) => {
            serve(acceptor, listener.accept()?.0)?;
            client.wait()?;
            Ok(())
        }
    }
}
