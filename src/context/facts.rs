//! What is known of a context besides its keys; it travels with every hop.

use serde::{Deserialize, Serialize};

use crate::exit::{Tickets, UserContext, UserData};
use crate::flags::Flags;
use crate::name::Name;

/// Which side of the establishment this process's side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The side that asked for the context.
    Initiator,
    /// The side that was asked.
    Acceptor,
}

/// What `gss_inquire_context` would tell (RFC 2743 2.2.6), and what the exits added.
///
/// Everything here is authenticated by the handshake or came from this side; nothing is secret,
/// but user data and tickets are not for logs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Which side this is.
    pub role: Role,
    /// What was granted. TRANSFERABLE says whether policy permits export at all; whether the
    /// present state does is told by [`super::Context::flags`].
    pub flags: Flags,
    /// The TLS code point of the cipher suite.
    pub suite: u16,
    /// Who asked; none when anonymous.
    pub initiator_name: Option<Name>,
    /// Whom they asked for.
    pub target_name: Option<Name>,
    /// When the handshake finished, seconds since 1970.
    pub established: u64,
    /// When the lifetime is over, seconds since 1970; none when nothing bounds it.
    pub expires: Option<u64>,
    /// Exports and imports so far.
    pub hops: u32,
    /// The application protocol (ALPN, RFC 7301) of a record-framing context, at most 255 bytes.
    pub application_protocol: Option<Vec<u8>>,
    /// `tls-server-end-point` of RFC 5929 4: the hash of the acceptor's certificate, 32 to 64 bytes.
    pub end_point: Option<Vec<u8>>,
    /// Whether the handshake resumed an earlier session.
    pub resumed: bool,
    /// The peer's leaf certificate, DER, if it presented one.
    pub peer_certificate: Option<Vec<u8>>,
    /// What the exits keep for this session (X8).
    pub user_context: UserContext,
    /// Who was authenticated (A3), once somebody was.
    pub user_data: Option<UserData>,
    /// Tickets of credential sets (T3).
    pub tickets: Tickets,
}

impl Facts {
    /// Seconds of lifetime left at `now`; none when nothing bounds it, 0 when it is over.
    pub fn time_left(&self, now: u64) -> Option<u64> {
        self.expires.map(|end| end.saturating_sub(now))
    }
}
