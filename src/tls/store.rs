//! The session tickets that this side's clients were given.
//!
//! Bounded in servers and in tickets of each; a ticket is used once, and no longer than the
//! store's lifetime, however long its server allows. They lie in the ordinary heap, as rustls has
//! them, and a forked process inherits the bytes; but its copy of the store neither gives nor
//! takes any.

use core::fmt;
use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

use crate::sys::{clock, process};

/// Servers whose tickets are kept.
const SERVERS: usize = 256;
/// Tickets of one server.
const TICKETS: usize = 8;

/// Tickets by server.
pub(crate) struct Store {
    lifetime_ms: u64,
    born: u64,
    servers: Mutex<Servers>,
}

#[derive(Default)]
struct Servers {
    known: HashMap<ServerName<'static>, Known>,
    /// Oldest first; as long as `known`.
    order: VecDeque<ServerName<'static>>,
}

#[derive(Default)]
struct Known {
    group: Option<NamedGroup>,
    /// When it came, and the ticket; the newest last.
    tickets: VecDeque<(u64, Tls13ClientSessionValue)>,
}

impl Store {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX),
            born: process::word(),
            servers: Mutex::default(),
        }
    }

    /// None in a forked process, where the lock may be held by a thread that is not there.
    fn servers(&self) -> Option<MutexGuard<'_, Servers>> {
        let here = self.born == process::word();
        here.then(|| self.servers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets every ticket.
    pub(crate) fn reset(&self) {
        if let Some(mut servers) = self.servers() {
            *servers = Servers::default();
        }
    }

    /// Forgets the tickets of one server.
    pub(crate) fn forget(&self, server: &ServerName<'_>) {
        if let Some(mut servers) = self.servers()
            && let Some(known) = servers.known.get_mut(&server.to_owned())
        {
            known.tickets.clear();
        }
    }
}

impl Servers {
    fn of(&mut self, server: ServerName<'static>) -> &mut Known {
        if !self.known.contains_key(&server) {
            if self.order.len() == SERVERS
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
            self.order.push_back(server.clone());
        }
        self.known.entry(server).or_default()
    }
}

impl ClientSessionStore for Store {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        if let Some(mut servers) = self.servers() {
            servers.of(server).group = Some(group);
        }
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.servers()?.known.get(&server.to_owned())?.group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    //= spec/mechanism.md#session-cache
    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        if let Some(mut servers) = self.servers() {
            let tickets = &mut servers.of(server).tickets;
            if tickets.len() == TICKETS {
                tickets.pop_front();
            }
            tickets.push_back((clock::boottime_ms(), ticket));
        }
    }

    //= spec/mechanism.md#session-cache
    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut servers = self.servers()?;
        let (came, ticket) = servers.known.get_mut(server)?.tickets.pop_back()?;
        let age = clock::boottime_ms().saturating_sub(came);
        (age < self.lifetime_ms).then_some(ticket)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store(lifetime {} ms)", self.lifetime_ms)
    }
}
