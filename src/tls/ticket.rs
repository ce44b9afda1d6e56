//! Session tickets of this side's servers, sealed with keys that live in secret pages.
//!
//! A ticket holds a whole session, its resumption secret and the client's certificates: whoever
//! has a ticket's key has the session. The keys are made here, live as long as two ticket
//! lifetimes, are never written anywhere, and a forked process neither has them nor issues tickets.

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::server::ProducesTickets;

use super::sink::tell;
use crate::crypto::{REST_NONCE, TAG, equal, open_at_rest, seal_at_rest};
use crate::secret::{self, Slot};
use crate::sys::{clock, process};

/// Bytes of a ticket besides the session: key id, nonce, family, time of sealing, tag.
const OVERHEAD: usize = ID + REST_NONCE + FAMILY + TIME + TAG;
const ID: usize = 8;
const FAMILY: usize = 16;
const TIME: usize = 8;
/// Families that can be told to be dead at once. When there are more, all tickets are.
const FORGOTTEN: usize = 1 << 16;

/// The tickets of one session and of the sessions that were resumed by them.
pub(crate) type Family = [u8; FAMILY];

/// Seals tickets that can be used for `lifetime`.
//= spec/mechanism.md#resumption
pub(crate) struct Sealer {
    lifetime: Duration,
    lifetime_ms: u64,
    born: u64,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    /// None at first, and after a reset.
    current: Option<Key>,
    previous: Option<Key>,
    /// Families whose tickets are dead, and until when one of them could still be used.
    forgotten: HashMap<Family, u64>,
}

struct Key {
    id: [u8; ID],
    key: Slot<[u8; 32]>,
    made: u64,
}

impl Key {
    /// None when the system has no random bytes.
    fn new(now: u64) -> Option<Self> {
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
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            lifetime_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX),
            born: process::word(),
            keys: Mutex::default(),
        }
    }

    /// Whether the keys are this process's. Asked before the lock: a forked copy of it may be
    /// held by a thread that is not there.
    fn here(&self) -> bool {
        self.born == process::word()
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the keys: no ticket sealed before opens any more.
    //= spec/mechanism.md#session-cache
    pub(crate) fn reset(&self) {
        if self.here() {
            *self.keys() = Keys::default();
        }
    }

    /// Lets no ticket of this family be used any more.
    //= spec/mechanism.md#session-cache
    pub(crate) fn forget(&self, family: Family) {
        if self.here() {
            self.forget_at(family, clock::boottime_ms());
        }
    }

    fn forget_at(&self, family: Family, now: u64) {
        let mut keys = self.keys();
        if keys.forgotten.len() == FORGOTTEN {
            keys.forgotten.retain(|_, until| *until > now);
        }
        if keys.forgotten.len() == FORGOTTEN {
            *keys = Keys::default();
            return;
        }
        let until = now.saturating_add(self.lifetime_ms);
        keys.forgotten.insert(family, until);
    }

    fn seal(&self, family: &Family, session: &[u8], now: u64) -> Option<Vec<u8>> {
        let mut keys = self.keys();
        match &keys.current {
            Some(key) if now.saturating_sub(key.made) < self.lifetime_ms => {}
            _ => {
                let used_up = keys.current.replace(Key::new(now)?);
                keys.previous = used_up;
            }
        }
        let key = keys.current.as_ref()?;
        let mut nonce = [0; REST_NONCE];
        secret::random(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(session.len() + OVERHEAD);
        ticket.extend_from_slice(&key.id);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(family);
        ticket.extend_from_slice(&now.to_be_bytes());
        ticket.extend_from_slice(session);
        let tag = seal_at_rest(&key.key, &nonce, &key.id, &mut ticket[ID + REST_NONCE..]).ok()?;
        ticket.extend_from_slice(&tag);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<(Family, Vec<u8>)> {
        let (id, rest) = ticket.split_first_chunk::<ID>()?;
        let (nonce, sealed) = rest.split_first_chunk::<REST_NONCE>()?;
        let keys = self.keys();
        let key = [keys.current.as_ref(), keys.previous.as_ref()]
            .into_iter()
            .flatten()
            .find(|key| equal(&key.id, id))?;
        let mut session = sealed.to_vec();
        let length = open_at_rest(&key.key, nonce, id, &mut session).ok()?.len();
        session.truncate(length);
        let (family, rest) = session.split_first_chunk::<FAMILY>()?;
        let (sealed, _) = rest.split_first_chunk::<TIME>()?;
        let age = now.saturating_sub(u64::from_be_bytes(*sealed));
        if age >= self.lifetime_ms || keys.forgotten.contains_key(family) {
            return None;
        }
        let family = *family;
        session.drain(..FAMILY + TIME);
        Some((family, session))
    }
}

/// The family of the handshake that is driven on this thread: that of the ticket it was offered,
/// or a new one.
fn family() -> Option<Family> {
    let mut drawn = Family::default();
    secret::random(&mut drawn).ok()?;
    tell(|captured| drawn = *captured.family.get_or_insert(drawn));
    Some(drawn)
}

impl ProducesTickets for Sealer {
    fn enabled(&self) -> bool {
        self.here()
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.here()
            .then(|| self.seal(&family()?, session, clock::boottime_ms()))?
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let opened = self
            .here()
            .then(|| self.open(ticket, clock::boottime_ms()))?;
        let (family, session) = opened?;
        tell(|captured| captured.family = Some(family));
        Some(session)
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
    const FIRST: Family = [1; FAMILY];
    const SECOND: Family = [2; FAMILY];

    fn opens(sealer: &Sealer, ticket: &[u8], seconds: u64) -> bool {
        let opened = sealer.open(ticket, seconds * 1000);
        opened.is_some_and(|(_, session)| session == b"session")
    }

    //= proves spec/mechanism.md#session-cache E6
    #[test]
    fn a_ticket_is_good_for_its_lifetime() {
        let sealer = Sealer::new(LIFETIME);
        let seal = |seconds: u64| sealer.seal(&FIRST, b"session", seconds * 1000).unwrap();
        let first = seal(1);
        assert!(opens(&sealer, &first, 2));
        let second = seal(90);
        assert_eq!(first[..ID], second[..ID]);
        assert!(opens(&sealer, &first, 100) && !opens(&sealer, &first, 101));
        let third = seal(150);
        assert_ne!(second[..ID], third[..ID], "the key was changed");
        assert!(opens(&sealer, &second, 189) && !opens(&sealer, &second, 190));
        seal(260);
        assert!(!opens(&sealer, &second, 180), "its key is gone");
    }

    //= proves spec/mechanism.md#session-cache E6
    #[test]
    fn a_reset_ends_all_tickets_and_forgetting_those_of_one_family() {
        let sealer = Sealer::new(LIFETIME);
        let seal = |family| sealer.seal(family, b"session", 0).unwrap();
        let (first, second) = (seal(&FIRST), seal(&SECOND));
        sealer.forget_at(FIRST, 1000);
        assert!(!opens(&sealer, &first, 1) && opens(&sealer, &second, 1));
        sealer.reset();
        assert!(!opens(&sealer, &first, 1) && !opens(&sealer, &second, 1));
        let third = seal(&SECOND);
        assert!(opens(&sealer, &third, 1));
        for number in 0..FORGOTTEN as u128 {
            sealer.forget_at(number.to_be_bytes(), 1000);
        }
        assert!(opens(&sealer, &third, 1));
        sealer.forget_at(FIRST, 1000);
        assert!(!opens(&sealer, &third, 1), "more than can be told apart");
        let fourth = seal(&SECOND);
        for number in 0..=FORGOTTEN as u128 {
            sealer.forget_at(number.to_be_bytes(), number as u64 * 1000);
        }
        assert!(opens(&sealer, &fourth, 1), "those of old tickets make room");
    }

    #[test]
    fn a_ticket_that_was_changed_or_cut_is_none() {
        let sealer = Sealer::new(LIFETIME);
        let ticket = sealer.encrypt(b"session").unwrap();
        assert_eq!(sealer.decrypt(&ticket).unwrap(), b"session");
        for i in 0..ticket.len() {
            assert!(sealer.decrypt(&ticket[..i]).is_none());
            let mut changed = ticket.clone();
            changed[i] ^= 1;
            assert!(sealer.decrypt(&changed).is_none());
        }
        let other = Sealer::new(LIFETIME);
        other.encrypt(b"session").unwrap();
        assert!(other.decrypt(&ticket).is_none());
        assert!(!ticket.windows(7).any(|window| window == b"session"));
    }
}
