//! Statuses that were heard, until they are to be asked for again.
//!
//! Invariant: at most as many as was said; none is found after its next update.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::message::Status;

/// A certificate: the hash of its issuer's name and key and of its number.
pub(super) type Key = [u8; 32];

pub(super) struct Cache {
    most: usize,
    /// With their next update, seconds since 1970.
    kept: Mutex<HashMap<Key, (Status, u64)>>,
}

impl Cache {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            kept: Mutex::default(),
        }
    }

    //= spec/builtin.md#ocsp-cache
    pub(super) fn find(&self, key: &Key, time: u64) -> Option<Status> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, until) = kept.get(key)?;
        (time < *until).then_some(*status)
    }

    /// Keeps a status; in a full cache in the place of one that ends soonest.
    pub(super) fn keep(&self, key: Key, status: Status, until: u64, time: u64) {
        if self.most == 0 || until <= time {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.most && !kept.contains_key(&key) {
            kept.retain(|_, (_, until)| time < *until);
            let soonest = kept.iter().min_by_key(|(_, (_, until))| *until);
            if kept.len() >= self.most
                && let Some((&soonest, _)) = soonest
            {
                kept.remove(&soonest);
            }
        }
        kept.insert(key, (status, until));
    }
}
