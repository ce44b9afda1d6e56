//! A live connection on its way to the process that will run it, and how it crosses processes.
//!
//! SECURITY: who passes a parcel on learns what the introduction says, and of the connection
//! only ciphertext: a parcel with plaintext in it is not made ([`Parcel::to_bytes`]).

use std::net::{SocketAddr, TcpStream};

use serde::{Deserialize, Serialize};

use super::about::About;
use super::channel::{Channel, Messages, Rest};
use super::log;
use crate::context::Context;
use crate::crypto::Suite;
use crate::exit::SessionIdentifier;
use crate::record::Record;
use crate::transfer::Token;

/// A context in transit to its session, in either framing.
pub enum Sealed {
    /// TLS records.
    Record(<Context<Record> as Channel>::Sealed),
    /// Message tokens.
    Message(<Messages as Channel>::Sealed),
}

impl Sealed {
    /// The token, in either framing.
    pub fn token(&self) -> &Token {
        match self {
            Self::Record(token) | Self::Message((token, _)) => token,
        }
    }
}

/// A connection whose handshake is done, on its way to the process that will run it.
pub struct Parcel {
    /// The context.
    pub sealed: Sealed,
    /// The connection; it does not block.
    pub socket: TcpStream,
    /// What is known of it.
    pub about: About,
    /// What the handshake has not sent yet.
    pub unsent: Vec<u8>,
}

/// The longest user name an introduction carries; longer ones are cut in the log anyway.
const MAX_USER: usize = 1024;

/// What is told of a session before it runs: nothing of it is secret.
//= spec/processes.md#from-handshaker
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    session: [u8; 16],
    /// The peer's address.
    pub remote: SocketAddr,
    /// The address the peer connected to.
    pub local: SocketAddr,
    suite: u16,
    messages: bool,
    user: Option<String>,
    resumed: bool,
    handshake_process: u32,
    hops: u32,
}

impl Introduction {
    /// Of a session that is to move.
    pub fn new(about: &About, suite: u16) -> Self {
        let cut = |user: &String| user.chars().take(MAX_USER / 4).collect();
        Self {
            session: *about.session.as_bytes(),
            remote: about.remote,
            local: about.local,
            suite,
            messages: about.framing == Messages::FRAMING,
            user: about.user.as_ref().map(cut),
            resumed: about.resumed,
            handshake_process: about.handshake_process,
            hops: about.hops,
        }
    }

    /// Whether it is no longer than one that [`Introduction::new`] makes.
    pub fn is_possible(&self) -> bool {
        self.user.as_ref().is_none_or(|user| user.len() <= MAX_USER)
    }

    /// Its identifier.
    pub fn session(&self) -> SessionIdentifier {
        SessionIdentifier::from(self.session)
    }

    /// Who the peer is, if it proved that.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The session's beginning, for the log.
    pub fn log_started(&self, process: u32) {
        log::of_session(
            self.session(),
            format_args!(
                " from {}: {}, {} framing, user {}; process {process} runs it",
                self.remote,
                self.cipher(),
                self.framing(),
                log::Escaped(self.user.as_deref().unwrap_or("none").as_bytes()),
            ),
        );
    }

    /// The name of the cipher suite.
    pub fn cipher(&self) -> &'static str {
        Suite::from_code(self.suite).map_or("unknown", Suite::name)
    }

    /// The name of the framing.
    pub fn framing(&self) -> &'static str {
        match self.messages {
            true => Messages::FRAMING,
            false => <Context<Record> as Channel>::FRAMING,
        }
    }

    fn about(&self) -> About {
        About {
            session: self.session(),
            remote: self.remote,
            local: self.local,
            cipher: self.cipher(),
            framing: self.framing(),
            user: self.user.clone(),
            resumed: self.resumed,
            handshake_process: self.handshake_process,
            processes: Vec::new(),
            hops: self.hops,
        }
    }
}

/// A parcel but for its introduction and its connection.
#[derive(Serialize, Deserialize)]
struct Carried<'a> {
    #[serde(with = "serde_bytes", borrow)]
    token: &'a [u8],
    /// Of a message-framing session: what came behind the handshake.
    #[serde(with = "serde_bytes", borrow)]
    input: &'a [u8],
    #[serde(with = "serde_bytes", borrow)]
    unsent: &'a [u8],
}

impl Parcel {
    /// The parcel's bytes; none when it holds plaintext.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let (token, input) = match &self.sealed {
            Sealed::Record(token) => (token, &[][..]),
            Sealed::Message((token, rest)) => (token, rest.untouched()?),
        };
        let carried = Carried {
            token: token.as_bytes(),
            input,
            unsent: &self.unsent,
        };
        postcard::to_allocvec(&carried).ok()
    }

    /// The parcel of these bytes, as `introduction` says; none when they are none. Whether the
    /// token is one, its import tells.
    pub fn from_bytes(
        introduction: &Introduction,
        bytes: &[u8],
        socket: TcpStream,
    ) -> Option<Self> {
        let (carried, []) = postcard::take_from_bytes::<Carried<'_>>(bytes).ok()? else {
            return None;
        };
        let token = Token::from_bytes(carried.token.to_vec()).ok()?;
        let sealed = match introduction.messages {
            true => Sealed::Message((token, Rest::of(carried.input.to_vec()))),
            false => Sealed::Record(token),
        };
        Some(Self {
            sealed,
            socket,
            about: introduction.about(),
            unsent: carried.unsent.to_vec(),
        })
    }
}
