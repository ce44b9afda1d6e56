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
}

struct Keys {
    names: Prf,
    masks: Prf,
    seals: Prf,
}

impl Secrets {
    /// New ones.
    pub(super) fn new() -> Result<Self, Error> {
        let mut id = [0; 8];
        secret::random(&mut id)?;
        Ok(Self {
            id: u64::from_be_bytes(id),
            keys: secret::scrubbed(Depth::Derived, || -> Result<_, Error> {
                let mut random = Slot::<[u8; 32]>::zeroed();
                let mut draw = || -> Result<Prf, Error> {
                    secret::random(&mut random[..])?;
                    Ok(Prf::new(&random))
                };
                Ok(Slot::new(Keys {
                    names: draw()?,
                    masks: draw()?,
                    seals: draw()?,
                }))
            })?,
        })
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
