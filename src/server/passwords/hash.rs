//! A password as argon2id, in the PHC string format: `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`.
//!
//! Invariant: what a hash costs is bounded when it is read, so that no file makes the server take
//! more memory or time than this page allows.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use zeroize::Zeroizing;

use crate::crypto::{self, equal};
use crate::secret::{Depth, scrubbed};

/// Base64 without padding, as the format has it.
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, NO_PAD);
/// Bytes of salts and hashes that are made here.
const SALT: usize = 16;
const HASH: usize = 32;
/// The most KiB of memory, passes and lanes of a hash that is read, and the most KiB of all its
/// passes.
const MEMORY: u32 = 256 << 10;
const PASSES: u32 = 16;
const LANES: u32 = 16;
const WORK: u64 = 1 << 20;

/// Why a text is no hash that is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// Not of argon2id, version 19.
    Scheme,
    /// Not in the form of its scheme.
    Form,
    /// It would take more than is given to it: 256 MiB, 16 passes, 16 lanes, 1 GiB in all passes.
    Costs,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "not a hash of argon2id, version 19",
            Self::Form => "not in the form $argon2id$v=19$m=...,t=...,p=...$SALT$HASH",
            Self::Costs => "costs more than 256 MiB, 16 passes, 16 lanes or 1 GiB in all passes",
        })
    }
}

/// What making a hash takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Costs {
    /// KiB.
    memory: u32,
    passes: u32,
    lanes: u32,
}

impl Default for Costs {
    /// What OWASP asks for at least (Password Storage Cheat Sheet): 19 MiB, two passes.
    fn default() -> Self {
        Self {
            memory: 19 << 10,
            passes: 2,
            lanes: 1,
        }
    }
}

impl Costs {
    //= spec/passwords.md#costs
    fn new(memory: u32, passes: u32, lanes: u32) -> Result<Self, Defect> {
        let within = (1..=PASSES).contains(&passes)
            && (1..=LANES).contains(&lanes)
            && (8 * lanes..=MEMORY).contains(&memory)
            && u64::from(memory) * u64::from(passes) <= WORK;
        match within {
            true => Ok(Self {
                memory,
                passes,
                lanes,
            }),
            false => Err(Defect::Costs),
        }
    }
}

/// A password's hash, with what it was made of.
pub(super) struct Hash {
    pub(super) costs: Costs,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Hash {
    //= spec/passwords.md#file
    pub(super) fn parse(text: &str) -> Result<Self, Defect> {
        let rest = text.strip_prefix("$argon2id$v=19$").ok_or(Defect::Scheme)?;
        let parts: Vec<&str> = rest.split('$').collect();
        let [costs, salt, hash] = *parts else {
            return Err(Defect::Form);
        };
        let costs: Vec<&str> = costs.split(',').collect();
        let [memory, passes, lanes] = *costs else {
            return Err(Defect::Form);
        };
        let costs = Costs::new(
            number(memory, "m=")?,
            number(passes, "t=")?,
            number(lanes, "p=")?,
        )?;
        let bytes = |text: &str, least: usize| {
            let bytes = BASE64.decode(text).map_err(|_| Defect::Form)?;
            match (least..=64).contains(&bytes.len()) {
                true => Ok(bytes),
                false => Err(Defect::Form),
            }
        };
        Ok(Self {
            costs,
            salt: bytes(salt, 8)?,
            hash: bytes(hash, 16)?,
        })
    }
}

/// A decimal number behind its name. One that is too large for its type is too large for use.
fn number(text: &str, name: &str) -> Result<u32, Defect> {
    let digits = text.strip_prefix(name).ok_or(Defect::Form)?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (digits.len() > 1 && digits.starts_with('0')) {
        return Err(Defect::Form);
    }
    digits.parse().map_err(|_| Defect::Costs)
}

/// Where hashes are made: one at a time, so that attempts that come together take the memory of
/// one. It counts what it does.
#[derive(Default)]
pub(super) struct Workshop {
    one: Mutex<()>,
    /// KiB filled.
    done: AtomicU64,
}

impl Workshop {
    /// KiB of memory filled so far, all passes together: what hashes have cost.
    #[cfg(test)]
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Makes a hash as long as `out`; false when it cannot, of memory for example.
    fn make(&self, costs: Costs, password: &[u8], salt: &[u8], out: &mut [u8]) -> bool {
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        let work = u64::from(costs.memory) * u64::from(costs.passes);
        self.done.fetch_add(work, Ordering::Relaxed);
        let params = Params::new(costs.memory, costs.passes, costs.lanes, Some(out.len()));
        let Ok(params) = params else {
            return false;
        };
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        scrubbed(Depth::Handshake, || {
            argon2.hash_password_into(password, salt, out).is_ok()
        })
    }

    /// Whether a password is the one of this hash.
    pub(super) fn is(&self, hash: &Hash, password: &[u8]) -> bool {
        let mut made = Zeroizing::new(vec![0; hash.hash.len()]);
        self.make(hash.costs, password, &hash.salt, &mut made) && equal(&made, &hash.hash)
    }

    /// Takes the time and memory of a hash, and knows nothing.
    pub(super) fn pretend(&self, costs: Costs, password: &[u8]) {
        let mut made = Zeroizing::new(vec![0; HASH]);
        let _ = std::hint::black_box(self.make(costs, password, &[0; SALT], &mut made));
    }

    /// The hash of a new password, as it stands in a file; none without memory or randomness.
    pub(super) fn text(&self, password: &[u8]) -> Option<String> {
        let costs = Costs::default();
        let mut salt = [0; SALT];
        crypto::random(&mut salt).ok()?;
        let mut hash = [0; HASH];
        self.make(costs, password, &salt, &mut hash).then(|| {
            let Costs {
                memory,
                passes,
                lanes,
            } = costs;
            let (salt, hash) = (BASE64.encode(salt), BASE64.encode(hash));
            format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}")
        })
    }
}
