//! What a hostile holder of the domain's keys could seal: for tests and fuzzing only.
//!
//! A process of the domain that was taken over can make tokens that open. Import must survive
//! whatever is in them; without this, a test could not get there.

use crate::codec::Framing;
use crate::context::{Context, Exporter, Facts, Parts, Role};
use crate::crypto::{Suite, TAG};
use crate::flags::Flags;
use crate::ledger::Domain;
use crate::message::{Message, Services};
use crate::record::{Limits, Record, Secrets};
use crate::secret::Scratch;
use crate::status::{Minor, Status};

use super::format::{self, BUNDLE, KEPT_BUNDLE, TOKEN};

/// Seals `inside` as it is, without any padding of its own, as a token.
///
/// # Errors
/// STATE_TOO_LARGE when it fits no token.
pub fn token(domain: &Domain, inside: &[u8]) -> Result<Vec<u8>, Status> {
    let mut scratch = Scratch::with_capacity(inside.len() + format::HEADER);
    format::begin(&mut scratch, domain);
    scratch.extend_from_slice(inside);
    format::finish(&mut scratch, domain, None)
}

/// Seals `inside` as it is as a bundle.
///
/// # Errors
/// The domain's.
pub fn bundle(domain: &Domain, inside: &[u8]) -> Result<Vec<u8>, Status> {
    let mut scratch = Scratch::with_capacity(inside.len() + format::HEADER + TAG);
    format::begin(&mut scratch, domain);
    scratch.extend_from_slice(inside);
    let tag = format::seal(&mut scratch, (BUNDLE, KEPT_BUNDLE), domain, None)?;
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

/// Both sides of a message context that no handshake made: for what measures or fuzzes hops alone.
///
/// # Errors
/// The ledger's.
pub fn messages(domain: &Domain) -> Result<(Context<Message>, Context<Message>), Status> {
    let side = |initiator: bool| {
        let (tx, rx) = secrets(initiator);
        let services = Services {
            replay: true,
            sequence: true,
            confidentiality: true,
        };
        let protection = Message::new(SUITE, initiator, &tx, &rx, services);
        context(domain, initiator, protection)
    };
    Ok((side(false)?, side(true)?))
}

/// Both sides of a record context that no handshake made.
///
/// # Errors
/// The ledger's.
pub fn records(domain: &Domain) -> Result<(Context<Record>, Context<Record>), Status> {
    let side = |initiator: bool| {
        let (tx_secret, rx_secret) = secrets(initiator);
        let secrets = Secrets {
            suite: SUITE,
            server: !initiator,
            tx_secret: &tx_secret,
            rx_secret: &rx_secret,
            tx_sequence: 0,
            rx_sequence: 0,
        };
        context(
            domain,
            initiator,
            Record::new(&secrets, Limits::default(), &[])?,
        )
    };
    Ok((side(false)?, side(true)?))
}

const SUITE: Suite = Suite::Aes128Gcm;

fn secrets(initiator: bool) -> ([u8; 32], [u8; 32]) {
    if initiator {
        ([1; 32], [2; 32])
    } else {
        ([2; 32], [1; 32])
    }
}

fn context<F: Framing>(
    domain: &Domain,
    initiator: bool,
    protection: F,
) -> Result<Context<F>, Status> {
    let facts = Facts {
        role: if initiator {
            Role::Initiator
        } else {
            Role::Acceptor
        },
        flags: Flags::from_bits_truncate(u32::MAX).without(Flags::ANONYMOUS),
        suite: SUITE.code(),
        initiator_name: None,
        target_name: None,
        established: 1_700_000_000,
        expires: Some(u64::MAX),
        hops: 0,
        application_protocol: None,
        end_point: Some(vec![3; 32]),
        resumed: false,
        peer_certificate: None,
        user_context: Default::default(),
        user_data: None,
        tickets: Default::default(),
    };
    let exporter = Exporter::new(SUITE, &[4; 32]).ok_or(Minor::System)?;
    let parts = Parts {
        protection,
        exporter,
        facts: Box::new(facts),
        tickets: None,
    };
    let claim = domain
        .ledger()
        .establish()
        .map_err(|error| Status::from(&error))?;
    Ok(parts.claimed(claim.id(), claim, domain.clone()))
}
