//! Establishing a context: two peers' tokens in, a [`Finished`] handshake out, and from it, in a
//! domain, a [`Context`](crate::context::Context).
//!
//! Each side is a value that is consumed by each step and comes back changed, or finished, or
//! not at all: a half-built context cannot be used or exported, because it has no such method, and
//! may be dropped anywhere. Nothing here does input or output.
//!
//! Message framing, both sides in one process:
//! ```
//! # let authority = rcgen::KeyPair::generate()?;
//! # let certificate = rcgen::CertificateParams::new(vec!["mail.example".into()])?.self_signed(&authority)?;
//! # let (chain, key) = (certificate.pem(), authority.serialize_pem());
//! use std::sync::Arc;
//! use baton::cred::{AcceptorCredential, Anchors, InitiatorCredential};
//! use baton::establish::{Acceptor, AcceptorConfig, Initiator, InitiatorConfig, Step};
//! use baton::message::Message;
//! use baton::name::Name;
//!
//! let credential = AcceptorCredential::from_pem(chain.as_bytes(), key.as_bytes())?;
//! let ours = Arc::new(AcceptorConfig::builder(credential).anonymous(true).build()?);
//! let anchors = Anchors::from_pem(chain.as_bytes())?;
//! let theirs = Arc::new(InitiatorConfig::builder(anchors).build()?);
//!
//! let target = Name::host_based_service("imap@mail.example")?;
//! let mut acceptor = Acceptor::<Message>::new(ours);
//! let mut initiator = Initiator::<Message>::new(theirs, target)?;
//! let mut token = Vec::new();
//! let (initiator, acceptor) = loop {
//!     let Step::Continue { next, output } = initiator.step(&token)? else { panic!("asked") };
//!     initiator = next;
//!     match acceptor.step(&output)? {
//!         Step::Continue { next, output } => (acceptor, token) = (next, output),
//!         Step::Done { finished, output } => {
//!             let Step::Done { finished: initiator, .. } = initiator.step(&output)? else {
//!                 panic!("the acceptor has finished");
//!             };
//!             break (initiator, finished);
//!         }
//!     }
//! };
//! assert_eq!(acceptor.facts().initiator_name, None, "anonymous");
//! assert_eq!(initiator.facts().end_point, acceptor.facts().end_point);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod acceptor;
mod admission;
mod bindings;
mod cache;
mod config;
mod exchange;
mod finished;
mod hearing;
mod initiator;
mod password;
mod stream;
#[cfg(test)]
mod tests;
mod token;
mod tunnel;

use core::convert::Infallible;
use core::fmt;

pub use acceptor::Acceptor;
pub use bindings::ChannelBindings;
pub use cache::{Resumable, SessionCache};
pub use config::{
    AcceptorConfig, AcceptorConfigBuilder, ClientCertificates, InitiatorConfig,
    InitiatorConfigBuilder,
};
pub use finished::{Finished, NotActivated, Reserved};
pub use hearing::{Hearing, Listened, refusal};
pub use initiator::{Initiator, PasswordAsked};
pub use password::{Attempt, Passwords, Verdict};
pub use stream::{Framing, Tokens};

pub use crate::tls::{Decision, Hello, Presented, Standing, Validation};

use crate::status::{Minor, Status};
use crate::sys::process;
use crate::tls::Error;

/// The most bytes of a context token, and of what [`Acceptor::step`] and [`Initiator::step`] take
/// at once in message framing.
pub const TOKEN_LIMIT: usize = crate::tls::reader::BYTES_LIMIT;
/// The most bytes that a step takes at once in record framing: what comes behind the handshake
/// is kept, and no more is.
pub const INPUT_LIMIT: usize = crate::record::TRANSFER_LIMIT;
/// The application protocol of message framing.
//= spec/mechanism.md#alpn
pub const PROTOCOL: &[u8] = b"baton/1";

/// What a step came to. On all but a failure the peer is to be sent `output`, unless it is empty.
pub enum Step<Next, Finished, Asked = Infallible> {
    /// The peer's turn.
    Continue {
        /// Takes what the peer sends next.
        next: Next,
        /// For the peer.
        output: Vec<u8>,
    },
    /// Established.
    Done {
        /// The finished handshake.
        finished: Finished,
        /// For the peer. It must be sent also then.
        output: Vec<u8>,
    },
    /// The acceptor wants a password (initiators in message framing only).
    Password(Asked),
}

/// The establishment is over, and there is no context.
#[derive(Debug)]
pub struct Failed {
    /// The status of the call.
    pub status: Status,
    /// What the peer is to be told before the connection is closed: an alert or an answer, or
    /// nothing.
    pub output: Vec<u8>,
    /// What was wrong, for the log and not for the peer: one line of printable ASCII, at most 256
    /// bytes.
    pub reason: String,
}

impl Failed {
    fn new(error: &Error, output: Vec<u8>) -> Self {
        Self {
            status: error.status(),
            output,
            reason: error.reason().to_owned(),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.status, self.reason)
    }
}

impl core::error::Error for Failed {}

/// The process an establishment began in.
#[derive(Clone, Copy)]
struct Born(u64);

impl Born {
    fn here() -> Self {
        Self(process::word())
    }

    /// That this is the process, and the input of a step no longer than any is.
    //= spec/mechanism.md#one-process
    fn check(self, input: &[u8], limit: usize) -> Result<(), Error> {
        if self.0 != process::word() {
            return Err(Error::new(
                Minor::ContextForked,
                "the establishment is another process's",
            ));
        }
        if input.len() > limit {
            return Err(Error::new(
                Minor::ContextTokenTooLarge,
                "more bytes than a step takes",
            ));
        }
        Ok(())
    }
}
