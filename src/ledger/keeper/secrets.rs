//! The keeper's keys: how a departure is named in a token, and which key seals it.
//!
//! Nothing of this is kept for each context: handle and key of a departure follow from the entry
//! and the epoch, which together never come twice.

use crate::crypto::{self, Prf};
use crate::ledger::Error;
use crate::ledger::wire::{HANDLE, Handle};
use crate::secret::{self, Depth, Slot};

const HALF: usize = HANDLE / 2;

/// The keys that never leave the keeper.
pub(super) struct Secrets {
    id: u64,
    keys: Slot<Keys>,
    /// The three, as they were drawn.
    raw: Slot<[u8; KEYS]>,
}

struct Keys {
    names: Prf,
    masks: Prf,
    seals: Prf,
}

/// Bytes of the keys, as they go to the keeper that comes after this one.
pub const KEYS: usize = 96;

impl Secrets {
    /// New ones.
    pub(super) fn new() -> Result<Self, Error> {
        let mut id = [0; 8];
        secret::random(&mut id)?;
        let mut raw = Slot::<[u8; KEYS]>::zeroed();
        secret::random(&mut raw[..])?;
        Ok(Self::of(u64::from_be_bytes(id), raw))
    }

    /// Those of the keeper before this one.
    //= spec/keeper.md#succession
    pub(super) fn succeed(id: u64, keys: &Slot<[u8; KEYS]>) -> Self {
        let mut raw = Slot::<[u8; KEYS]>::zeroed();
        raw.copy_from_slice(&keys[..]);
        Self::of(id, raw)
    }

    fn of(id: u64, raw: Slot<[u8; KEYS]>) -> Self {
        let keys = secret::scrubbed(Depth::Derived, || {
            let (keys, _) = raw.as_chunks();
            let prf = |at: usize| keys.get(at).map(Prf::new);
            // Three times 32 bytes: each is there.
            let zero = || Prf::new(&[0; 32]);
            Slot::new(Keys {
                names: prf(0).unwrap_or_else(zero),
                masks: prf(1).unwrap_or_else(zero),
                seals: prf(2).unwrap_or_else(zero),
            })
        });
        Self { id, keys, raw }
    }

    /// The keys, for who comes after.
    pub(super) fn raw(&self) -> &Slot<[u8; KEYS]> {
        &self.raw
    }

    /// What tokens name these keys by.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The handle of the departure from entry `index` at `epoch`: nothing to who has not the key.
    //= spec/keeper.md#handle
    pub(super) fn handle(&self, index: u32, epoch: u64) -> Handle {
        let mut text = [0; HALF];
        text[..4].copy_from_slice(&index.to_be_bytes());
        text[4..].copy_from_slice(&epoch.to_be_bytes());
        let mut handle = [0; HANDLE];
        let (tag, masked) = handle.split_at_mut(HALF);
        tag.copy_from_slice(&self.keys.names.of(&text)[..HALF]);
        self.mask(tag, &mut text);
        masked.copy_from_slice(&text);
        handle
    }

    /// Entry and epoch of a handle. None when it is not one of these keys'.
    //= spec/keeper.md#handle
    pub(super) fn departure(&self, handle: &Handle) -> Option<(u32, u64)> {
        let (tag, masked) = handle.split_at(HALF);
        let mut text: [u8; HALF] = masked.try_into().ok()?;
        self.mask(tag, &mut text);
        if !crypto::equal(tag, &self.keys.names.of(&text)[..HALF]) {
            return None;
        }
        let (index, epoch) = text.split_first_chunk()?;
        Some((
            u32::from_be_bytes(*index),
            u64::from_be_bytes(epoch.try_into().ok()?),
        ))
    }

    fn mask(&self, tag: &[u8], text: &mut [u8; HALF]) {
        for (byte, mask) in text.iter_mut().zip(self.keys.masks.of(tag)) {
            *byte ^= mask;
        }
    }

    /// The one-time key of a departure. The caller wipes the stack.
    //= spec/keeper.md#token-key
    pub(super) fn key(&self, handle: &Handle) -> [u8; 32] {
        self.keys.seals.of(handle)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    //= proves spec/keeper.md#handle
    #[test]
    fn a_handle_leads_back_and_a_changed_one_nowhere() {
        let (secrets, others) = (Secrets::new().unwrap(), Secrets::new().unwrap());
        for (index, epoch) in [(0, 1), (7, 1 << 40), (u32::MAX, u64::MAX)] {
            let handle = secrets.handle(index, epoch);
            assert_eq!(secrets.departure(&handle), Some((index, epoch)));
            assert_eq!(others.departure(&handle), None);
            for bit in 0..HANDLE * 8 {
                let mut changed = handle;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(secrets.departure(&changed), None);
            }
        }
    }

    //= proves spec/keeper.md#token-key
    #[test]
    fn every_departure_has_a_key_of_its_own() {
        let (secrets, others) = (Secrets::new().unwrap(), Secrets::new().unwrap());
        let mut seen = std::collections::HashSet::new();
        for (index, epoch) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
            let handle = secrets.handle(index, epoch);
            assert_eq!(secrets.key(&handle), secrets.key(&handle));
            assert!(seen.insert(secrets.key(&handle)));
            assert!(seen.insert(others.key(&handle)));
        }
    }
}
