//! What the tests of whole contexts share: a pair of contexts out of a real handshake, and
//! children that are real processes.

#![allow(dead_code)]

mod processes;

#[allow(unused_imports)]
pub use processes::*;

use std::sync::{Arc, OnceLock};

use baton::codec::Framing;
use baton::context::Context;
use baton::cred::{AcceptorCredential, Anchors};
use baton::establish::{Acceptor, AcceptorConfig, Finished, Initiator, InitiatorConfig, Step};
use baton::ledger::Domain;
use baton::message::Message;
use baton::name::Name;
use baton::record::{Read, Record};
use baton::status::Status;

/// A domain of its own for this process and its children.
pub fn domain() -> Domain {
    Domain::inherited(1024).unwrap()
}

/// A self-made authority and a certificate for `localhost` under it, PEM.
pub struct Identity {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

pub fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        Identity {
            authority: authority_certificate.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    })
}

/// The configurations of the two sides of a pair.
fn configs() -> &'static (Arc<AcceptorConfig>, Arc<InitiatorConfig>) {
    static CONFIGS: OnceLock<(Arc<AcceptorConfig>, Arc<InitiatorConfig>)> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let authority = &identity().authority;
        let anchors = Anchors::from_pem(authority.as_bytes()).unwrap();
        let initiator = InitiatorConfig::builder(anchors).build();
        (acceptor_config(), Arc::new(initiator.unwrap()))
    })
}

/// The acceptor's side of a pair, made in this process: its private key is in no forked one.
pub fn acceptor_config() -> Arc<AcceptorConfig> {
    let Identity {
        certificate, key, ..
    } = identity();
    let credential = AcceptorCredential::from_pem(certificate.as_bytes(), key.as_bytes());
    let builder = AcceptorConfig::builder(credential.unwrap()).anonymous(true);
    Arc::new(builder.build().unwrap())
}

/// A context of `domain` and its peer, in a domain of its own, out of a real handshake.
pub fn pair<F: Talk>(domain: &Domain) -> (Context<F>, Context<F>) {
    let (acceptor, initiator) = F::handshake();
    let elsewhere = Domain::inherited(4).unwrap();
    (
        acceptor.activate(domain).unwrap(),
        initiator.activate(&elsewhere).unwrap(),
    )
}

/// A context that says things to its peer and hears what the peer says, in either framing.
pub trait Talk: Framing + 'static {
    /// The acceptor's result and the initiator's.
    fn handshake() -> (Finished<Self>, Finished<Self>);
    fn say(context: &mut Context<Self>, text: &[u8]) -> Result<Vec<u8>, Status>;
    fn hear(context: &mut Context<Self>, bytes: Vec<u8>) -> Result<Vec<u8>, Status>;
}

macro_rules! handshake {
    ($framing:ty) => {
        fn handshake() -> (Finished<Self>, Finished<Self>) {
            let (ours, theirs) = configs();
            let target = Name::host_based_service("test@localhost").unwrap();
            let mut acceptor = Some(Acceptor::<$framing>::new(Arc::clone(ours)));
            let mut initiator =
                Some(Initiator::<$framing>::new(Arc::clone(theirs), target).unwrap());
            let (mut accepted, mut initiated, mut bytes) = (None, None, Vec::new());
            while accepted.is_none() || initiated.is_none() {
                if let Some(side) = initiator.take() {
                    bytes = match side.step(&bytes).unwrap() {
                        Step::Continue { next, output } => {
                            initiator = Some(next);
                            output
                        }
                        Step::Done { finished, output } => {
                            initiated = Some(finished);
                            output
                        }
                        Step::Password(_) => panic!("no password was configured"),
                    };
                }
                if let Some(side) = acceptor.take() {
                    bytes = match side.step(&bytes).unwrap() {
                        Step::Continue { next, output } => {
                            acceptor = Some(next);
                            output
                        }
                        Step::Done { finished, output } => {
                            accepted = Some(finished);
                            output
                        }
                        Step::Password(_) => panic!("acceptors are not asked"),
                    };
                }
            }
            assert!(bytes.is_empty(), "no tickets: resumption is off");
            (accepted.unwrap(), initiated.unwrap())
        }
    };
}

impl Talk for Message {
    handshake!(Message);

    fn say(context: &mut Context<Self>, text: &[u8]) -> Result<Vec<u8>, Status> {
        context.wrap(true, text)
    }

    fn hear(context: &mut Context<Self>, mut bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
        Ok(context.unwrap(&mut bytes)?.message.to_vec())
    }
}

impl Talk for Record {
    handshake!(Record);

    fn say(context: &mut Context<Self>, text: &[u8]) -> Result<Vec<u8>, Status> {
        let mut out = context.take_output()?;
        context.seal(text, &mut out)?;
        Ok(out)
    }

    fn hear(context: &mut Context<Self>, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
        assert_eq!(context.feed(&bytes)?, bytes.len());
        let mut heard = Vec::new();
        let mut part = [0; 4096];
        loop {
            match context.read(&mut part)? {
                Read::Data(n) => heard.extend_from_slice(&part[..n]),
                _ => return Ok(heard),
            }
        }
    }
}

/// That the two contexts still understand one another, both ways.
pub fn talk<F: Talk>(a: &mut Context<F>, b: &mut Context<F>) {
    for text in [
        &b"from a to b"[..],
        b"",
        b"once more, longer than the first",
    ] {
        let said = F::say(a, text).unwrap();
        assert_eq!(F::hear(b, said).unwrap(), text);
        let said = F::say(b, text).unwrap();
        assert_eq!(F::hear(a, said).unwrap(), text);
    }
}
