//! What the tests of establishment share: an authority with certificates, and both sides driven
//! to their end.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use baton::cred::{AcceptorCredential, Anchors, InitiatorCredential};
use baton::establish::{
    Acceptor, AcceptorConfig, AcceptorConfigBuilder, Failed, Finished, Initiator, InitiatorConfig,
    InitiatorConfigBuilder, PasswordAsked, Step,
};
use baton::message::Message;
use baton::name::Name;
use baton::record::Record;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

/// The host every acceptor's certificate here is for.
pub(crate) const HOST: &str = "mail.example";

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    pub(crate) fn anchors(&self) -> Anchors {
        Anchors::from_pem(self.pem.as_bytes()).unwrap()
    }

    /// A certificate with `name` as its subject, valid for `hosts`, changed as wanted.
    pub(crate) fn certify(
        &self,
        name: &str,
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Identity {
            chain: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn server(&self) -> Identity {
        self.certify("server", &[HOST, "127.0.0.1"], |_| {})
    }

    pub(crate) fn client(&self, name: &str) -> Identity {
        self.certify(name, &[], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }
}

/// Makes a certificate that was valid until some years ago.
pub(crate) fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2001, 1, 1);
}

impl Identity {
    pub(crate) fn acceptor(&self) -> AcceptorCredential {
        AcceptorCredential::from_pem(self.chain.as_bytes(), self.key.as_bytes()).unwrap()
    }

    pub(crate) fn initiator(&self) -> InitiatorCredential {
        InitiatorCredential::from_pem(self.chain.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

/// The beginnings of two configurations that fit each other: anonymous initiators get in.
pub(crate) fn configs(authority: &Authority) -> (AcceptorConfigBuilder, InitiatorConfigBuilder) {
    (
        AcceptorConfig::builder(authority.server().acceptor()).anonymous(true),
        InitiatorConfig::builder(authority.anchors()),
    )
}

pub(crate) fn build(
    (acceptor, initiator): (AcceptorConfigBuilder, InitiatorConfigBuilder),
) -> (Arc<AcceptorConfig>, Arc<InitiatorConfig>) {
    (
        Arc::new(acceptor.build().unwrap()),
        Arc::new(initiator.build().unwrap()),
    )
}

pub(crate) fn target() -> Name {
    Name::host_based_service(&format!("imap@{HOST}")).unwrap()
}

/// How both sides of an establishment ended.
pub(crate) struct Ends<F: baton::codec::Framing> {
    pub(crate) acceptor: Result<Finished<F>, Failed>,
    pub(crate) initiator: Result<Finished<F>, Failed>,
    /// What the acceptor sent when the initiator had finished: tickets, or an alert.
    pub(crate) late: Vec<u8>,
}

impl<F: baton::codec::Framing> Ends<F> {
    pub(crate) fn both(self) -> (Finished<F>, Finished<F>) {
        (self.acceptor.unwrap(), self.initiator.unwrap())
    }

    /// Both sides' failures.
    pub(crate) fn neither(self) -> (Failed, Failed) {
        (self.acceptor.err().unwrap(), self.initiator.err().unwrap())
    }
}

/// An initiator that has answered, and what it sends.
pub(crate) type Answered = (Initiator<Message>, Vec<u8>);

/// Drives two sides in message framing; every password that is asked for is `answer`ed.
pub(crate) fn messages(
    mut acceptor: Acceptor<Message>,
    mut initiator: Initiator<Message>,
    mut answer: impl FnMut(PasswordAsked) -> Answered,
) -> Ends<Message> {
    let mut token = Vec::new();
    loop {
        let output = match initiator.step(&token) {
            Ok(Step::Continue { next, output }) => {
                initiator = next;
                output
            }
            Ok(Step::Password(asked)) => {
                let (next, output) = answer(asked);
                initiator = next;
                output
            }
            Ok(Step::Done { .. }) => panic!("the acceptor finishes first"),
            Err(failed) => {
                // The acceptor is told, and ends too.
                let acceptor = acceptor.step(&failed.output);
                return Ends {
                    acceptor: Err(acceptor.err().expect("the acceptor was told")),
                    initiator: Err(failed),
                    late: Vec::new(),
                };
            }
        };
        let (acceptor_end, output) = match acceptor.step(&output) {
            Ok(Step::Continue { next, output }) => {
                (acceptor, token) = (next, output);
                continue;
            }
            Ok(Step::Done { finished, output }) => (Ok(finished), output),
            Err(failed) => {
                let output = failed.output.clone();
                (Err(failed), output)
            }
        };
        let initiator = match initiator.step(&output) {
            Ok(Step::Done { finished, output }) => {
                assert!(output.is_empty());
                Ok(finished)
            }
            Ok(_) => panic!("the acceptor has ended"),
            Err(failed) => Err(failed),
        };
        break Ends {
            acceptor: acceptor_end,
            initiator,
            late: Vec::new(),
        };
    }
}

/// As [`messages`], where no password is asked for.
pub(crate) fn no_password(_: PasswordAsked) -> Answered {
    panic!("no password was expected to be asked for")
}

/// Drives two sides in record framing, with at most `piece` bytes a step.
pub(crate) fn records(
    acceptor: Acceptor<Record>,
    initiator: Initiator<Record>,
    piece: usize,
) -> Ends<Record> {
    let mut acceptor = Side::Open(acceptor);
    let mut initiator = Side::Open(initiator);
    let mut late = Vec::new();
    let mut to_acceptor = initiator.step(&[], |side, input| side.step(input));
    while !to_acceptor.is_empty() {
        let mut to_initiator = Vec::new();
        for part in to_acceptor.chunks(piece) {
            to_initiator.extend(acceptor.step(part, |side, input| side.step(input)));
        }
        to_acceptor = Vec::new();
        for part in to_initiator.chunks(piece) {
            if initiator.ended() {
                late.extend_from_slice(part);
            }
            to_acceptor.extend(initiator.step(part, |side, input| side.step(input)));
        }
    }
    Ends {
        acceptor: acceptor.end(),
        initiator: initiator.end(),
        late,
    }
}

/// One side in record framing, before and after its end. What comes in afterwards is dropped.
#[allow(clippy::large_enum_variant)]
enum Side<S> {
    Open(S),
    Ended(Box<Result<Finished<Record>, Failed>>),
    Moved,
}

type Stepped<S> = Result<Step<S, Finished<Record>>, Failed>;

impl<S> Side<S> {
    fn step(&mut self, input: &[u8], step: impl FnOnce(S, &[u8]) -> Stepped<S>) -> Vec<u8> {
        let output;
        (*self, output) = match core::mem::replace(self, Self::Moved) {
            Self::Open(side) => match step(side, input) {
                Ok(Step::Continue { next, output }) => (Self::Open(next), output),
                Ok(Step::Done { finished, output }) => {
                    (Self::Ended(Box::new(Ok(finished))), output)
                }
                Err(mut failed) => {
                    let output = core::mem::take(&mut failed.output);
                    (Self::Ended(Box::new(Err(failed))), output)
                }
            },
            ended => (ended, Vec::new()),
        };
        output
    }

    fn ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }

    fn end(self) -> Result<Finished<Record>, Failed> {
        match self {
            Self::Ended(end) => *end,
            _ => panic!("the side did not end"),
        }
    }
}
