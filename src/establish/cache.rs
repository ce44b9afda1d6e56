//! The session cache: what lets sessions be resumed, for as long as it lets them.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use rustls_pki_types::ServerName;

use crate::tls::{Family, Sealer, Store};

/// The longest time a ticket may be used (RFC 8446 4.6.1).
pub(super) const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Lets sessions be resumed; shared by the configurations that are given a clone of it, of either
/// role. It keeps nothing of an acceptor's sessions but the key that seals their tickets, which the
/// initiators keep; an initiator's tickets are kept by it, 8 of each of 256 acceptors, and are
/// used by the configuration alone that was given them.
///
/// A forked copy of it resumes nothing.
//= spec/mechanism.md#session-cache
#[derive(Clone)]
pub struct SessionCache(Arc<Caches>);

struct Caches {
    lifetime: Duration,
    // One for each framing: a session of one is none of the other.
    record: (Arc<Sealer>, Arc<Store>),
    message: (Arc<Sealer>, Arc<Store>),
}

impl SessionCache {
    /// Lets a session be resumed for so long after its handshake, 1 second to 7 days; a time
    /// outside is taken as the nearest inside.
    pub fn new(lifetime: Duration) -> Self {
        let lifetime = lifetime.clamp(Duration::from_secs(1), WEEK);
        let caches = || {
            (
                Arc::new(Sealer::new(lifetime)),
                Arc::new(Store::new(lifetime)),
            )
        };
        Self(Arc::new(Caches {
            lifetime,
            record: caches(),
            message: caches(),
        }))
    }

    /// Ends every ticket: of all sessions so far none can be resumed.
    pub fn reset(&self) {
        for (sealer, store) in [&self.0.record, &self.0.message] {
            sealer.reset();
            store.reset();
        }
    }

    /// Ends the tickets of one session, and of those that it was resumed from or that were
    /// resumed from it; at an initiator, all tickets of its acceptor. Sessions that go on are not
    /// touched.
    pub fn forget(&self, session: &Resumable) {
        for (sealer, store) in [&self.0.record, &self.0.message] {
            match &session.0 {
                Held::Family(family) => sealer.forget(*family),
                Held::Server(server) => store.forget(server),
            }
        }
    }

    pub(super) fn sealer(&self, message: bool) -> Arc<Sealer> {
        self.of(message).0.clone()
    }

    pub(super) fn store(&self, message: bool) -> Arc<Store> {
        self.of(message).1.clone()
    }

    fn of(&self, message: bool) -> &(Arc<Sealer>, Arc<Store>) {
        match message {
            true => &self.0.message,
            false => &self.0.record,
        }
    }
}

impl fmt::Debug for SessionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionCache({} s)", self.0.lifetime.as_secs())
    }
}

/// A session as a [`SessionCache`] knows it. It resumes nothing by itself.
#[derive(Clone)]
pub struct Resumable(pub(super) Held);

#[derive(Clone)]
pub(super) enum Held {
    /// At the acceptor.
    Family(Family),
    /// At the initiator.
    Server(ServerName<'static>),
}

impl fmt::Debug for Resumable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resumable")
    }
}
