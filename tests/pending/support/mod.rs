//! What the tests of whole contexts share: a pair of contexts out of a real handshake, and
//! children that are real processes.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod processes;

pub use processes::*;

use std::sync::{Arc, OnceLock};

use baton::codec::Framing;
use baton::context::Context;
use baton::cred::{AcceptorCredential, Anchors};
use baton::establish::{Acceptor, AcceptorConfig, Initiator, InitiatorConfig, Step};
use baton::ledger::Domain;
use baton::message::Message;
use baton::record::Record;
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

/// A context that says things to its peer and hears what the peer says, in either framing.
pub trait Talk: Framing + 'static {
    fn say(context: &mut Context<Self>, text: &[u8]) -> Result<Vec<u8>, Status>;
    fn hear(context: &mut Context<Self>, bytes: Vec<u8>) -> Result<Vec<u8>, Status>;
}

impl Talk for Message {
    fn say(context: &mut Context<Self>, text: &[u8]) -> Result<Vec<u8>, Status> {
        context.wrap(true, text)
    }

    fn hear(context: &mut Context<Self>, mut bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
        Ok(context.unwrap(&mut bytes)?.message.to_vec())
    }
}

impl Talk for Record {
    fn say(context: &mut Context<Self>, text: &[u8]) -> Result<Vec<u8>, Status> {
        let mut out = context.take_output()?;
        context.seal(text, &mut out)?;
        Ok(out)
    }

    fn hear(context: &mut Context<Self>, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
        context.feed(&bytes)?;
        let mut heard = Vec::new();
        let mut part = [0; 4096];
        loop {
            match context.read(&mut part)? {
                0 => return Ok(heard),
                n => heard.extend_from_slice(&part[..n]),
            }
        }
    }
}

/// That the two contexts still understand one another, both ways.
pub fn talk<F: Talk>(a: &mut Context<F>, b: &mut Context<F>) {
    for text in [&b"from a to b"[..], b"", b"once more, longer than the first"] {
        let said = F::say(a, text).unwrap();
        assert_eq!(F::hear(b, said).unwrap(), text);
        let said = F::say(b, text).unwrap();
        assert_eq!(F::hear(a, said).unwrap(), text);
    }
}
