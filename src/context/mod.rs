//! The context: keys, facts and the claim that this process runs it, held together.
//!
//! Invariants:
//! - A `Context` exists only after a finished handshake or a ledger claim, and holds that claim
//!   from its first to its last moment.
//! - Every operation asks the claim first. A forked copy, a revoked or an ended context answers
//!   NO_CONTEXT and touches no key.
//! - It is not `Clone`, and export consumes it: in one process a second runner does not compile.
//!
//! ```compile_fail
//! fn two<F: baton::codec::Framing>(context: baton::context::Context<F>) {
//!     let twin = context.clone();
//! }
//! ```

mod facts;
mod message;
mod record;

pub use facts::{Facts, Role};
pub use message::QOP_DEFAULT;

use crate::codec::Framing;
use crate::crypto::{self, MAX_SECRET, Suite};
use crate::exit::{self, SessionIdentifier, UserContext, UserData};
use crate::flags::Flags;
use crate::ledger::{Claim, ContextId, Departure, Domain, Grant};
use crate::secret::Slot;
use crate::status::{Minor, Status};
use crate::sys::clock;
use crate::tls;

/// The exporter secret of a context's handshake (RFC 8446 7.5): the root of PRF and of channel
/// bindings, on every hop the same.
pub struct Exporter {
    suite: Suite,
    secret: Slot<[u8; MAX_SECRET]>,
}

impl Exporter {
    /// Takes an exporter secret of [`Suite::secret_len`] bytes; none of another length.
    pub(crate) fn new(suite: Suite, secret: &[u8]) -> Option<Self> {
        if secret.len() != suite.secret_len() {
            return None;
        }
        let mut slot = Slot::new([0; MAX_SECRET]);
        slot[..secret.len()].copy_from_slice(secret);
        Some(Self {
            suite,
            secret: slot,
        })
    }

    /// The secret itself, to be sealed into a token.
    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret[..self.suite.secret_len()]
    }

    fn export(&self, label: &[u8], context: &[u8], out: &mut [u8]) {
        crypto::exporter(self.suite, self.secret(), label, context, out);
    }
}

/// Which random function [`Context::pseudo_random`] computes (RFC 4401 `prf_key`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrfKey {
    /// `GSS_C_PRF_KEY_FULL`.
    Full,
    /// `GSS_C_PRF_KEY_PARTIAL`.
    Partial,
}

/// Why a context was not made of a finished handshake; the handshake's result comes back beside it.
pub type ActivationError = crate::ledger::Error;

/// An established security context that this process, and no other, runs.
///
/// `F` is its framing: [`crate::message::Message`] for GSS per-message tokens,
/// [`crate::record::Record`] for TLS records. Dropping it wipes the keys and ends the context;
/// dropping a forked copy does neither to the original.
pub struct Context<F: Framing> {
    // Dropped in this order: the keys are gone before the ledger says that the context ended.
    protection: F,
    exporter: Exporter,
    facts: Box<Facts>,
    tickets: Option<Box<tls::Tickets>>,
    /// Kept here: the ledger's entry may be another context's once this one has ended.
    id: ContextId,
    claim: Claim,
    domain: Domain,
}

/// The parts of a context without its claim: what a hop carries.
pub(crate) struct Parts<F: Framing> {
    pub(crate) protection: F,
    pub(crate) exporter: Exporter,
    pub(crate) facts: Box<Facts>,
    pub(crate) tickets: Option<Box<tls::Tickets>>,
}

impl<F: Framing> Parts<F> {
    /// Joins the parts with the claim that this process runs them, as the context `id`. A claim
    /// that has just been lost does not tell it any more.
    pub(crate) fn claimed(self, id: ContextId, claim: Claim, domain: Domain) -> Context<F> {
        let Self {
            protection,
            exporter,
            facts,
            tickets,
        } = self;
        Context {
            protection,
            exporter,
            facts,
            tickets,
            id,
            claim,
            domain,
        }
    }
}

impl<F: Framing> Context<F> {
    /// Takes the context apart for export.
    pub(crate) fn into_parts(self) -> (Parts<F>, ContextId, Claim, Domain) {
        let Self {
            protection,
            exporter,
            facts,
            tickets,
            id,
            claim,
            domain,
        } = self;
        (
            Parts {
                protection,
                exporter,
                facts,
                tickets,
            },
            id,
            claim,
            domain,
        )
    }

    /// That this process still runs the context and its lifetime is not over: what every
    /// operation asks first.
    #[inline]
    pub(crate) fn ready(&self) -> Result<(), Status> {
        self.claim.check()?;
        match self.facts.expires {
            Some(end) if clock::unix_seconds_coarse() >= end => Err(Minor::LifetimeOver.into()),
            _ => Ok(()),
        }
    }

    /// Whether this process still runs the context; two loads, no system call.
    ///
    /// # Errors
    /// NO_CONTEXT in a forked copy, after a revocation, and once it has ended.
    #[inline]
    pub fn check(&self) -> Result<(), Status> {
        Ok(self.claim.check()?)
    }

    /// The session identifier: the ledger's name of the context, the same on every hop.
    pub fn session_identifier(&self) -> SessionIdentifier {
        SessionIdentifier::from(self.id)
    }

    /// The domain within which the context can travel.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// What is known of the context (RFC 2743 2.2.6).
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The flags as they are at this moment: TRANSFERABLE tells the actual state (C9).
    pub fn flags(&self) -> Flags {
        if self.facts.flags.contains(Flags::TRANSFERABLE) && self.protection.freeze().is_some() {
            self.facts.flags
        } else {
            self.facts.flags.without(Flags::TRANSFERABLE)
        }
    }

    /// Seconds of lifetime left (RFC 2743 2.2.5); none when nothing bounds it.
    ///
    /// # Errors
    /// NO_CONTEXT; CONTEXT_EXPIRED when none are left.
    pub fn time_left(&self) -> Result<Option<u64>, Status> {
        self.ready()?;
        Ok(self.facts.time_left(clock::unix_seconds()))
    }

    /// The pseudo-random function of RFC 4401: fills `out` (at most 8160 bytes) from `input`.
    /// Both sides compute the same, before and after any number of hops.
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED, FAILURE when `out` is longer.
    pub fn pseudo_random(&self, key: PrfKey, input: &[u8], out: &mut [u8]) -> Result<(), Status> {
        //= spec/mechanism.md#prf
        let label: &[u8] = match key {
            PrfKey::Full => b"EXPORTER-Baton-1-prf-full",
            PrfKey::Partial => b"EXPORTER-Baton-1-prf-partial",
        };
        self.export_keying_material(label, input, out)
    }

    /// TLS keying material (RFC 8446 7.5): fills `out`, at most 8160 bytes, label at most 249.
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED, FAILURE when something is longer.
    pub fn export_keying_material(
        &self,
        label: &[u8],
        context: &[u8],
        out: &mut [u8],
    ) -> Result<(), Status> {
        self.ready()?;
        if label.len() > 249 || out.len() > 8160 {
            return Err(Minor::MessageTooLarge.into());
        }
        self.exporter.export(label, context, out);
        Ok(())
    }

    /// The `tls-exporter` channel binding of RFC 9266.
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED.
    pub fn channel_binding(&self) -> Result<[u8; 32], Status> {
        let mut out = [0; 32];
        self.export_keying_material(b"EXPORTER-Channel-Binding", b"", &mut out)?;
        Ok(out)
    }

    /// Replaces the exits' user context.
    pub fn set_user_context(&mut self, user_context: UserContext) {
        self.facts.user_context = user_context;
    }

    /// Sets who was authenticated.
    pub fn set_user_data(&mut self, user_data: Option<UserData>) {
        self.facts.user_data = user_data;
    }

    /// Replaces the tickets.
    pub fn set_tickets(&mut self, tickets: exit::Tickets) {
        self.facts.tickets = tickets;
    }

    /// The exporter secret, to be sealed.
    pub(crate) fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    /// What an export of this moment would be called in the ledger.
    pub(crate) fn departure(&self) -> Result<Departure, Status> {
        let epoch = self.claim.next_epoch()?;
        Ok(Departure {
            index: self.claim.index(),
            id: self.id,
            epoch,
        })
    }

    /// What a token that is made now is sealed with, in a kept domain.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        self.claim.grant()
    }

    /// The protection state, for a caller that has asked [`Context::check`] itself.
    pub(crate) fn protection(&self) -> &F {
        &self.protection
    }
}

impl<F: Framing> core::fmt::Debug for Context<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Names of peers are theirs to choose: only what this side made is shown.
        f.debug_struct("Context")
            .field("session", &self.session_identifier())
            .field("role", &self.facts.role)
            .field("hops", &self.facts.hops)
            .finish_non_exhaustive()
    }
}
