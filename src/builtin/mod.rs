//! The exit workers that come with the program (`spec/builtin.md`): `baton exit worker NAME`.
//!
//! [`Certificates`] answers `check-cert-list`: the path to an anchor, the subject against
//! [`Template`]s, revocation by lists and by asking a responder.
//!
//! Invariants: what the question holds is a peer's, and is bounded before work is done with it; a
//! peer is accepted in one place only, after all checks; what could not be found out is a return
//! code of -1, never a status.
//!
//! SECURITY: these run as workers like all others, in processes of their own. They read peers'
//! certificates, hold no key and no session, and are trusted with one thing: the answer. One that is
//! taken over can let strangers in by certificate, and nothing else.

mod certificates;
mod configuration;
mod lists;
mod ocsp;
mod path;
mod subject;
mod template;
#[cfg(test)]
mod tests;

pub use certificates::{Accepted, Certificates};
pub use configuration::{Configuration, Mistake};
pub use ocsp::{Method, Nonce, Settings as OcspSettings};
pub use template::{Template, Unreadable};

use crate::exit::Reason;

/// Why a question is not answered with yes. The texts are for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum No {
    /// It is answered with no.
    Refused(Reason, String),
    /// It cannot be answered.
    Unanswered(String),
}

impl No {
    fn refused(reason: Reason, text: impl Into<String>) -> Self {
        Self::Refused(reason, text.into())
    }

    fn unanswered(text: impl Into<String>) -> Self {
        Self::Unanswered(text.into())
    }
}
