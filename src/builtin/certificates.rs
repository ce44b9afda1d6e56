//! `certificates`: whether a peer's certificates are good.

use rustls_pki_types::ServerName;
use webpki::CertRevocationList;

use crate::exit::{Answer, CheckCertList, CheckCertListOutput, Override, Reason, Role};
use crate::name::Name;
use crate::worker::{Call, Worker};

use super::No;
use super::configuration::{Configuration, Mistake};
use super::lists::Lists;
use super::ocsp::Ocsp;
use super::path::{Paths, Revocation, is_for};
use super::subject::attributes;
use super::template::Template;

/// Bytes of the longest name an answer holds.
const LONGEST_NAME: usize = 1024;

/// What is answered with yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The subject, 1 to 1024 bytes without control characters.
    pub peer_name: String,
    /// What the log should know all the same.
    pub complaint: Option<String>,
}

/// The checker of certificates: anchors, templates, revocation lists and responders of one configuration.
pub struct Certificates {
    paths: Paths,
    templates: Vec<Template>,
    lists: Lists,
    crl_required: bool,
    ocsp: Option<Ocsp>,
    holds: u32,
    threads: usize,
}

impl Certificates {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it is to be, or a value is out of its limits.
    pub fn new(configuration: &Configuration) -> Result<Self, Mistake> {
        configuration.check()?;
        Ok(Self {
            paths: Paths::read(&configuration.anchors, configuration.chain_limit)?,
            templates: configuration.templates.clone(),
            lists: Lists::read(&configuration.crls)?,
            crl_required: configuration.crl_required,
            ocsp: configuration.ocsp.as_ref().map(Ocsp::new),
            holds: configuration.holds,
            threads: configuration.threads,
        })
    }

    /// Answers one question.
    ///
    /// # Errors
    /// The peer is refused, or nobody can say.
    pub fn check(&self, question: &CheckCertList) -> Result<Accepted, No> {
        let server = match (question.role, &question.server_name) {
            (Role::Acceptor, _) => None,
            (Role::Initiator, Some(name)) => Some(
                ServerName::try_from(name.as_str())
                    .map_err(|_| No::unanswered("server_name is no name of a server"))?,
            ),
            (Role::Initiator, None) => return Err(No::unanswered("there is no server_name")),
        };
        let current = self.lists.current();
        let lists: Vec<&CertRevocationList<'_>> =
            current.lists.iter().map(|list| &**list).collect();
        if self.crl_required && lists.is_empty() {
            return Err(No::unanswered("there is no revocation list"));
        }
        let revocation = Revocation {
            lists: &lists,
            required: self.crl_required,
        };
        let certificates = &question.cert_list;
        let issuer = self
            .paths
            .find(certificates, question.time, question.role, &revocation)?;
        let Some(leaf) = certificates.first() else {
            return Err(No::unanswered("no certificate in the question"));
        };
        if let Some(server) = server {
            is_for(leaf, &server)?;
        }
        let peer_name = peer_name(leaf)?;
        self.matched(leaf)?;
        // Last, and only for those who would come in: nobody makes this ask who is nobody here.
        if let Some(ocsp) = &self.ocsp {
            let stapled = question.ocsp_response.as_deref();
            ocsp.check(leaf, &issuer, stapled, question.time)?;
        }
        Ok(Accepted {
            peer_name,
            complaint: current.complaint,
        })
    }

    //= spec/builtin.md#templates
    fn matched(&self, leaf: &[u8]) -> Result<(), No> {
        if self.templates.is_empty() {
            return Ok(());
        }
        let unread = || No::refused(Reason::DecodingError, "the subject cannot be read");
        let attributes = attributes(leaf).ok_or_else(unread)?;
        let mut templates = self.templates.iter();
        match templates.any(|template| template.fits_all(&attributes)) {
            true => Ok(()),
            false => Err(No::refused(
                Reason::NoMatchingTemplate,
                "the subject fits no template",
            )),
        }
    }

    /// The worker that answers with this.
    //= spec/builtin.md#refusals
    pub fn into_worker(self) -> Worker {
        let worker = Worker::new().holds(self.holds).threads(self.threads);
        worker.on(
            move |call: &Call, question: CheckCertList| match self.check(&question) {
                Ok(accepted) => {
                    if let Some(complaint) = accepted.complaint {
                        call.say(complaint);
                    }
                    Answer::accepted(CheckCertListOutput {
                        peer_name: Override::Replace(accepted.peer_name),
                    })
                }
                Err(No::Refused(reason, text)) => {
                    call.say(text);
                    Answer::refused(reason)
                }
                Err(No::Unanswered(text)) => {
                    call.say(text);
                    Answer::fatal()
                }
            },
        )
    }
}

//= spec/builtin.md#peer-name
fn peer_name(leaf: &[u8]) -> Result<String, No> {
    let unshown = || No::refused(Reason::Unsupported, "the subject cannot be shown");
    let name = Name::of_certificate(leaf)
        .map_err(|_| unshown())?
        .to_string();
    match (1..=LONGEST_NAME).contains(&name.len()) && !name.chars().any(char::is_control) {
        true => Ok(name),
        false => Err(unshown()),
    }
}
