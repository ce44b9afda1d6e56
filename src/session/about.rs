//! What a session knows of itself, to show.

use std::net::SocketAddr;

use crate::crypto::Suite;
use crate::exit::SessionIdentifier;
use crate::sys::process;

use super::channel::Channel;

/// Facts of a session that do not change, and the processes it went through.
#[derive(Clone, Debug)]
pub struct About {
    /// Its identifier, the same in every process.
    pub session: SessionIdentifier,
    /// The peer's address.
    pub remote: SocketAddr,
    /// The address the peer connected to.
    pub local: SocketAddr,
    /// The name of the cipher suite.
    pub cipher: &'static str,
    /// The name of the framing.
    pub framing: &'static str,
    /// Who the peer is, if it said so and proved it.
    pub user: Option<String>,
    /// Whether the handshake resumed an earlier one.
    pub resumed: bool,
    /// The process that made the handshake.
    pub handshake_process: u32,
    /// The processes that ran the session since, in order; the last is this one.
    pub processes: Vec<u32>,
    /// Exports and imports so far.
    pub hops: u32,
}

impl About {
    /// What is known of a context when this process has finished its handshake.
    pub fn new<C: Channel>(channel: &C, remote: SocketAddr, local: SocketAddr) -> Self {
        let facts = channel.facts();
        let account = facts.user_data.as_ref().and_then(|data| data.user_name());
        let user = match (account, &facts.initiator_name) {
            (Some(account), _) => Some(account.to_owned()),
            (None, Some(name)) => Some(name.to_string()),
            (None, None) => None,
        };
        Self {
            session: channel.session(),
            remote,
            local,
            cipher: Suite::from_code(facts.suite).map_or("unknown", Suite::name),
            framing: C::FRAMING,
            user,
            resumed: facts.resumed,
            handshake_process: process::pid(),
            processes: Vec::new(),
            hops: facts.hops,
        }
    }

    /// Name and value of each fact, for people.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("session", self.session.to_string()),
            ("protocol", format!("TLSv1.3, {} framing", self.framing)),
            ("cipher", self.cipher.to_owned()),
            (
                "resumed",
                if self.resumed { "yes" } else { "no" }.to_owned(),
            ),
            ("peer", self.remote.to_string()),
            (
                "user",
                self.user.clone().unwrap_or_else(|| "none".to_owned()),
            ),
            ("handshake", format!("process {}", self.handshake_process)),
        ];
        if let [before @ .., last] = self.processes.as_slice() {
            lines.push(("served by", format!("process {last}")));
            if !before.is_empty() {
                let list: Vec<_> = before.iter().map(u32::to_string).collect();
                lines.push(("after", format!("processes {}", list.join(" "))));
            }
        }
        lines.push(("hops", self.hops.to_string()));
        lines
    }
}
