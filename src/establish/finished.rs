//! A finished handshake that is not yet a context: no ledger names it.

use core::fmt;
use core::time::Duration;

use rustls_pki_types::{CertificateDer, ServerName};

use super::cache::Held;
use super::config::own_flags;
use super::{Born, Resumable, Standing};
use crate::codec::Framing;
use crate::context::{Context, Exporter, Facts, Parts, Role};
use crate::cred::Certified;
use crate::exit::{SessionIdentifier, Tickets as ExitTickets, UserContext, UserData};
use crate::flags::Flags;
use crate::ledger::{Claim, Domain};
use crate::name::Name;
use crate::status::{Minor, Status};
use crate::sys::clock;
use crate::tls::{Error, Established, Tickets, certificate};

/// A handshake that has come to its end. [`Finished::activate`] makes it a context.
///
/// It is worth nothing in a process forked meanwhile.
pub struct Finished<F: Framing> {
    parts: Parts<F>,
    told: Told,
    born: Born,
}

/// What the application may ask about a finished handshake besides its facts.
pub(super) struct Told {
    peer_chain: Vec<CertificateDer<'static>>,
    standing: Standing,
    resumable: Option<Resumable>,
}

impl Told {
    /// Takes it out of a session; `server` is whom it was asked for, at the initiator.
    pub(super) fn of(session: &mut Established, server: Option<&ServerName<'static>>) -> Self {
        let held = match server {
            Some(server) => session.tickets_wanted.then(|| Held::Server(server.clone())),
            None => session.family.map(Held::Family),
        };
        Self {
            peer_chain: core::mem::take(&mut session.peer_certificates),
            standing: session.standing,
            resumable: held.map(Resumable),
        }
    }
}

impl<F: Framing> Finished<F> {
    pub(super) fn new(
        protection: F,
        exporter: Exporter,
        facts: Box<Facts>,
        tickets: Option<Box<Tickets>>,
        told: Told,
    ) -> Self {
        Self {
            told,
            parts: Parts {
                protection,
                exporter,
                facts,
                tickets,
            },
            born: Born::here(),
        }
    }

    /// What is known of the context to be.
    pub fn facts(&self) -> &Facts {
        &self.parts.facts
    }

    /// The peer's certificates, DER, leaf first; none when it presented none.
    pub fn peer_chain(&self) -> impl Iterator<Item = &[u8]> {
        self.told
            .peer_chain
            .iter()
            .map(|certificate| &**certificate)
    }

    /// What the peer's certificates are worth.
    pub fn standing(&self) -> Standing {
        self.told.standing
    }

    /// The session as its [`super::SessionCache`] knows it; none when it cannot be resumed.
    pub fn resumable(&self) -> Option<Resumable> {
        self.told.resumable.clone()
    }

    /// Enters the context into the domain's ledger, with this process as its runner.
    ///
    /// # Errors
    /// FAILURE when the ledger is full (see [`crate::ledger`]); the finished handshake comes back
    /// and can be tried again. NO_CONTEXT in a process that was forked meanwhile.
    pub fn activate(self, domain: &Domain) -> Result<Context<F>, NotActivated<F>> {
        if self.born.check(&[], 0).is_err() {
            return Err(NotActivated {
                error: Minor::ContextForked.into(),
                finished: self,
            });
        }
        match domain.ledger().establish() {
            Ok(claim) => Ok(self.parts.claimed(claim.id(), claim, domain.clone())),
            Err(error) => Err(NotActivated {
                error: (&error).into(),
                finished: self,
            }),
        }
    }
}

impl<F: Framing> Finished<F> {
    /// [`Finished::activate`], as the context that `reserved` is.
    ///
    /// # Errors
    /// NO_CONTEXT when that has ended meanwhile (it was revoked, or its keeper is gone), and in a
    /// process that was forked meanwhile.
    pub fn activate_as(self, reserved: Reserved) -> Result<Context<F>, NotActivated<F>> {
        let Reserved { claim, domain } = reserved;
        let here = self.born.check(&[], 0).map_err(|_| Minor::ContextForked);
        let error = match (here, claim.check()) {
            (Ok(_), Ok(_)) => return Ok(self.parts.claimed(claim.id(), claim, domain)),
            (Err(forked), _) => forked.into(),
            (_, Err(lost)) => lost.into(),
        };
        Err(NotActivated {
            error,
            finished: self,
        })
    }
}

/// A context that is in the ledger before it is established: who it will be is known while the
/// handshake goes on. Dropped, it ends, and its release is delivered as any other's.
pub struct Reserved {
    claim: Claim,
    domain: Domain,
}

impl Reserved {
    /// Enters a context into the domain's ledger, with this process as its runner.
    ///
    /// # Errors
    /// FAILURE when the ledger is full or does not answer (see [`crate::ledger`]).
    pub fn new(domain: &Domain) -> Result<Self, Status> {
        let claim = domain.ledger().establish();
        let claim = claim.map_err(|error| Status::from(&error))?;
        let domain = domain.clone();
        Ok(Self { claim, domain })
    }

    /// What it will be known by, on every hop.
    pub fn session_identifier(&self) -> SessionIdentifier {
        SessionIdentifier::from(self.claim.id())
    }
}

impl fmt::Debug for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reserved({})", self.session_identifier())
    }
}

impl<F: Framing> fmt::Debug for Finished<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished")
            .field("role", &self.parts.facts.role)
            .finish_non_exhaustive()
    }
}

/// No context was made; nothing is lost.
pub struct NotActivated<F: Framing> {
    /// The handshake, to be tried again or dropped.
    pub finished: Finished<F>,
    /// Why.
    pub error: Status,
}

impl<F: Framing> fmt::Debug for NotActivated<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NotActivated({:?})", self.error)
    }
}

impl<F: Framing> fmt::Display for NotActivated<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<F: Framing> core::error::Error for NotActivated<F> {}

/// What a side knows at the end, to become [`Facts`].
pub(super) struct Known<'a> {
    pub(super) session: &'a mut Established,
    /// This side's certificate.
    pub(super) own: Option<&'a Certified>,
    /// The policy's lifetime, and the acceptor's word.
    pub(super) lifetimes: [Option<Duration>; 2],
    /// Granted.
    pub(super) flags: Flags,
    pub(super) transferable: bool,
    pub(super) initiator_name: Option<Name>,
    pub(super) target_name: Option<Name>,
    pub(super) user_data: Option<UserData>,
}

impl Known<'_> {
    pub(super) fn facts(self) -> Result<Box<Facts>, Error> {
        let Self { session, own, .. } = self;
        let now = clock::unix_seconds();
        let peer = session.peer_certificates.first().map(|leaf| leaf.to_vec());
        // A validity that nobody vouches for bounds nothing.
        //= spec/mechanism.md#pass-through
        let vouched = peer
            .as_deref()
            .filter(|_| session.standing == Standing::Checked);
        let expires = expires(now, own, vouched, self.lifetimes)?;
        let end_point = match (session.server, &peer) {
            (true, _) => own.and_then(|own| own.end_point.clone()),
            (false, Some(leaf)) => certificate::end_point(leaf),
            (false, None) => None,
        };
        Ok(Box::new(Facts {
            role: match session.server {
                true => Role::Acceptor,
                false => Role::Initiator,
            },
            flags: self.flags | own_flags(self.transferable),
            suite: session.suite.code(),
            initiator_name: self.initiator_name,
            target_name: self.target_name,
            established: now,
            expires,
            hops: 0,
            application_protocol: session.application_protocol.take(),
            end_point,
            resumed: session.resumed,
            peer_certificate: peer,
            user_context: UserContext::default(),
            user_data: self.user_data,
            tickets: ExitTickets::default(),
        }))
    }
}

/// The first second at which the context is over.
//= spec/mechanism.md#lifetime
pub(super) fn expires(
    now: u64,
    own: Option<&Certified>,
    peer: Option<&[u8]>,
    lifetimes: [Option<Duration>; 2],
) -> Result<Option<u64>, Error> {
    const UNREAD: Error = Error::new(
        Minor::CertificateRefused,
        "the peer's certificate has no validity that can be read",
    );
    let peer = match peer {
        Some(leaf) => Some(certificate::validity(leaf).ok_or(UNREAD)?.1),
        None => None,
    };
    let certificates = [own.map(Certified::valid_until), peer];
    let over = certificates
        .into_iter()
        .flatten()
        .map(|last| last.saturating_add(1));
    let policies = lifetimes.into_iter().flatten();
    let over = over.chain(policies.map(|lifetime| now.saturating_add(lifetime.as_secs())));
    Ok(over.min())
}
