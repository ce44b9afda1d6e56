//! Session tickets of this side's servers, sealed with keys that live in secret pages.
//!
//! A ticket holds a whole session, its resumption secret and the client's certificates: whoever
//! has a ticket's key has the session. The keys are made here, live as long as two ticket
//! lifetimes, are never written anywhere, and a forked process neither has them nor issues tickets.

use core::fmt;
use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rustls::server::ProducesTickets;

use crate::crypto::{REST_NONCE, TAG, equal, open_at_rest, seal_at_rest};
use crate::secret::{self, Slot};
use crate::sys::process;

/// Bytes of a ticket besides the session: key id, nonce, tag.
const OVERHEAD: usize = ID + REST_NONCE + TAG;
const ID: usize = 8;

/// Seals tickets that can be used for `lifetime`.
//= spec/mechanism.md#resumption
pub(super) struct Sealer {
    lifetime: Duration,
    born: u64,
    keys: Mutex<Keys>,
}

struct Keys {
    current: Key,
    previous: Option<Key>,
}

struct Key {
    id: [u8; ID],
    key: Slot<[u8; 32]>,
    made: Instant,
}

impl Key {
    /// None when the system has no random bytes.
    fn new(now: Instant) -> Option<Self> {
        let mut key = Self {
            id: [0; ID],
            key: Slot::zeroed(),
            made: now,
        };
        secret::random(&mut key.id).ok()?;
        secret::random(&mut key.key[..]).ok()?;
        Some(key)
    }
}

impl Sealer {
    /// None when the system has no random bytes.
    pub(super) fn new(lifetime: Duration) -> Option<Self> {
        let current = Key::new(Instant::now())?;
        Some(Self {
            lifetime,
            born: process::word(),
            keys: Mutex::new(Keys {
                current,
                previous: None,
            }),
        })
    }

    /// Whether the keys are this process's. Asked before the lock: a forked copy of it may be
    /// held by a thread that is not there.
    fn here(&self) -> bool {
        self.born == process::word()
    }

    fn seal(&self, session: &[u8], now: Instant) -> Option<Vec<u8>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(keys.current.made) >= self.lifetime {
            let used_up = core::mem::replace(&mut keys.current, Key::new(now)?);
            keys.previous = Some(used_up);
        }
        let key = &keys.current;
        let mut nonce = [0; REST_NONCE];
        secret::random(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(session.len() + OVERHEAD);
        ticket.extend_from_slice(&key.id);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(session);
        let tag = seal_at_rest(&key.key, &nonce, &key.id, &mut ticket[ID + REST_NONCE..]).ok()?;
        ticket.extend_from_slice(&tag);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (id, rest) = ticket.split_first_chunk::<ID>()?;
        let (nonce, sealed) = rest.split_first_chunk::<REST_NONCE>()?;
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = [Some(&keys.current), keys.previous.as_ref()]
            .into_iter()
            .flatten()
            .find(|key| equal(&key.id, id))?;
        // Sealed in the key's first lifetime, and for one more.
        if now.saturating_duration_since(key.made) >= 2 * self.lifetime {
            return None;
        }
        let mut session = sealed.to_vec();
        let length = open_at_rest(&key.key, nonce, id, &mut session).ok()?.len();
        session.truncate(length);
        Some(session)
    }
}

impl ProducesTickets for Sealer {
    fn enabled(&self) -> bool {
        self.here()
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.here().then(|| self.seal(session, Instant::now()))?
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.here().then(|| self.open(ticket, Instant::now()))?
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer(lifetime {} s)", self.lifetime.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(100);

    #[test]
    fn a_ticket_is_good_for_one_to_two_lifetimes() {
        let sealer = Sealer::new(LIFETIME).unwrap();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let first = sealer.seal(b"session", after(1)).unwrap();
        assert_eq!(sealer.open(&first, after(2)).unwrap(), b"session");
        let second = sealer.seal(b"session", after(150)).unwrap();
        assert_ne!(first[..ID], second[..ID], "the key was changed");
        assert!(sealer.open(&first, after(150)).is_some());
        assert!(sealer.open(&first, after(220)).is_none());
        sealer.seal(b"session", after(260)).unwrap();
        assert!(sealer.open(&second, after(260)).is_some());
        assert!(sealer.open(&first, after(10)).is_none(), "its key is gone");
    }

    #[test]
    fn a_ticket_that_was_changed_or_cut_is_none() {
        let sealer = Sealer::new(LIFETIME).unwrap();
        let ticket = sealer.encrypt(b"session").unwrap();
        for i in 0..ticket.len() {
            assert!(sealer.decrypt(&ticket[..i]).is_none());
            let mut changed = ticket.clone();
            changed[i] ^= 1;
            assert!(sealer.decrypt(&changed).is_none());
        }
        let other = Sealer::new(LIFETIME).unwrap();
        assert!(other.decrypt(&ticket).is_none());
        assert!(!ticket.windows(7).any(|window| window == b"session"));
    }
}
