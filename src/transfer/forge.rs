//! What a hostile holder of the domain's keys could seal: for tests and fuzzing only.
//!
//! A process of the domain that was taken over can make tokens that open. Import must survive
//! whatever is in them; without this, a test could not get there.

use crate::crypto::TAG;
use crate::ledger::Domain;
use crate::secret::Scratch;
use crate::status::Status;

use super::format::{self, BUNDLE, TOKEN};

/// Seals `inside` as it is, without any padding of its own, as a token.
///
/// # Errors
/// STATE_TOO_LARGE when it fits no token.
pub fn token(domain: &Domain, inside: &[u8]) -> Result<Vec<u8>, Status> {
    let mut scratch = Scratch::with_capacity(inside.len() + format::HEADER);
    format::begin(&mut scratch);
    scratch.extend_from_slice(inside);
    format::finish(&mut scratch, domain)
}

/// Seals `inside` as it is as a bundle.
///
/// # Errors
/// The domain's.
pub fn bundle(domain: &Domain, inside: &[u8]) -> Result<Vec<u8>, Status> {
    let mut scratch = Scratch::with_capacity(inside.len() + format::HEADER + TAG);
    format::begin(&mut scratch);
    scratch.extend_from_slice(inside);
    let tag = format::seal(&mut scratch, BUNDLE, domain)?;
    scratch.extend_from_slice(&tag);
    Ok(scratch.to_vec())
}

/// What is inside a token: binding, state and padding.
///
/// # Errors
/// As import's, up to the opening.
pub fn inside(domain: &Domain, token: &[u8]) -> Result<Vec<u8>, Status> {
    debug_assert!(token.starts_with(&TOKEN));
    let mut scratch = Scratch::with_capacity(token.len());
    scratch.extend_from_slice(token);
    let header = format::look(token)?;
    format::open(&mut scratch, &header, domain).map(<[u8]>::to_vec)
}
