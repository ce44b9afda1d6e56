//! Hops: a context leaves one process as a sealed token and goes on in another.
//!
//! Export and import are each a short list of steps, in an order that makes every failure and
//! every crash leave exactly one outcome (`spec/token.md#order`):
//!
//! | export | a crash after it leaves |
//! |---|---|
//! | encode and seal for the next epoch | the context active here |
//! | *depart*: the one ledger step | the token importable |
//! | wipe the keys, answer the token | the token importable |
//!
//! | import | a crash after it leaves |
//! |---|---|
//! | open, check the binding, read the whole state, expand the keys | the token importable |
//! | *arrive*: the one ledger step | the context active here |
//! | answer the context | the context active here |
//!
//! So import can fail for every reason there is before it spends the token, and for none after.
//!
//! SECURITY: whoever holds a domain's sealing keys can open its tokens; in the inherited and the
//! file domain that is every process of the domain, so importer restrictions there guard against
//! mistakes and against processes that were given a token but not the domain.

mod binding;
mod bundle;
#[cfg(any(test, feature = "fault"))]
#[doc(hidden)]
pub mod forge;
mod format;
mod luggage;
mod parcel;
mod passage;
#[cfg(test)]
mod tests;
mod token;

pub use binding::Importer;
pub use bundle::{Bundled, Loaded, MAX_MEMBERS, Member, Stayed, bundle, load, unbundle, unload};
pub use format::{BUCKETS, HEADER, MAX_TOKEN, VERSION};
pub use luggage::{Laden, Luggage, MAX_LUGGAGE};
pub use parcel::Parcel;
pub use passage::{Arrival, Delivery, Incoming, Receiver, Sender, passage};
pub use token::{PublicHeader, Token};

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::codec::Framing;
use crate::context::{Context, Parts};
use crate::flags::Flags;
use crate::ledger::{Arriving, ContextId, Departure, Domain, NotDeparted, Terms};
use crate::secret::{Depth, Scratch, scrubbed};
use crate::status::{Minor, Status};
use crate::sys::{clock, fault, socket};
use binding::Binding;

/// How a context is exported.
///
/// ```
/// use baton::transfer::{Export, Importer};
/// let how = Export::default().to(Importer::SameUser).within(std::time::Duration::from_secs(5));
/// ```
#[derive(Clone, Debug)]
pub struct Export {
    importer: Importer,
    lifetime: Duration,
    cookie: Option<u64>,
    tie_each: bool,
}

impl Default for Export {
    /// For any process of the domain, for one minute; a token tied to no socket, a bundle's
    /// members each to its own.
    fn default() -> Self {
        Self {
            importer: Importer::Anyone,
            lifetime: Duration::from_secs(60),
            cookie: None,
            tie_each: true,
        }
    }
}

impl Export {
    /// Restricts who may import (C6).
    #[must_use]
    pub fn to(mut self, importer: Importer) -> Self {
        self.importer = importer;
        self
    }

    /// How long the token can be imported: milliseconds count, a day at most.
    #[must_use]
    pub fn within(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime.min(Duration::from_secs(86_400));
        self
    }

    /// Ties the token to a socket: it imports only beside a descriptor of the same socket.
    ///
    /// # Errors
    /// FAILURE when the descriptor is not a socket.
    pub fn tied_to(mut self, socket: BorrowedFd<'_>) -> Result<Self, Status> {
        self.cookie = Some(socket::cookie(socket).map_err(|_| Status::from(Minor::System))?);
        Ok(self)
    }

    /// Whether each member of a bundle is tied to its own socket. One system call a member on each
    /// side; without it the order of the descriptors alone says which is whose.
    #[must_use]
    pub fn tie_each(mut self, tie: bool) -> Self {
        self.tie_each = tie;
        self
    }

    fn terms(&self, deadline: u64) -> Terms {
        Terms {
            importer: self.importer.into(),
            deadline,
        }
    }

    fn deadline(&self) -> u64 {
        let lifetime = u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX);
        clock::boottime_ms().saturating_add(lifetime)
    }
}

/// An export that did not happen: the context goes on as it was.
pub struct NotExported<F: Framing> {
    /// The context, untouched.
    pub context: Context<F>,
    /// Why.
    pub status: Status,
}

impl<F: Framing> core::fmt::Debug for NotExported<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("NotExported")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl<F: Framing> core::fmt::Display for NotExported<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.status.fmt(f)
    }
}

impl<F: Framing> core::error::Error for NotExported<F> {}

impl<F: Framing> Context<F> {
    /// Deactivates the context here and answers the token that activates it elsewhere
    /// (RFC 2743 2.2.8): one of [`BUCKETS`] bytes long.
    ///
    /// # Errors
    /// The context comes back in the error and works as before. NO_CONTEXT: this process does not
    /// run it. CONTEXT_EXPIRED. UNAVAILABLE: policy, or its present state, does not let it travel
    /// (minor NOT_TRANSFERABLE; STATE_TOO_LARGE). FAILURE: keys or random bytes are not to be had.
    // The large error is the point: it carries the context back.
    #[allow(clippy::result_large_err)]
    pub fn export(self, how: &Export) -> Result<Token, NotExported<F>> {
        //= spec/token.md#order
        let deadline = how.deadline();
        let (sealed, terms) = match self.sealed(how, deadline) {
            Ok(sealed) => sealed,
            Err(status) => {
                return Err(NotExported {
                    context: self,
                    status,
                });
            }
        };
        fault::point("export.sealed");
        let (parts, id, claim, domain) = self.into_parts();
        match claim.depart_under(&terms, how.cookie) {
            Ok(_) => {
                fault::point("export.departed");
                // No key was copied out of its pages on the way into the token.
                drop(parts);
                Ok(Token::from_sealed(sealed))
            }
            Err(NotDeparted { claim, stay }) => Err(NotExported {
                context: parts.claimed(id, claim, domain),
                status: stay.into(),
            }),
        }
    }

    /// The whole token for the next epoch, and the terms it was sealed for; it is worth nothing
    /// until the claim departs.
    fn sealed(&self, how: &Export, deadline: u64) -> Result<(Vec<u8>, Terms), Status> {
        scrubbed(Depth::Moved, || self.encode_and_seal(how, deadline))
    }

    fn encode_and_seal(&self, how: &Export, deadline: u64) -> Result<(Vec<u8>, Terms), Status> {
        self.may_leave()?;
        let binding = self.binding(how, deadline)?;
        let mut scratch = Scratch::with_capacity(BUCKETS[0]);
        format::begin(&mut scratch, self.domain());
        format::write_member(&mut scratch, &binding, self)?;
        fault::point("export.encoded");
        let sealed = format::finish(&mut scratch, self.domain(), self.grant())?;
        Ok((sealed, how.terms(deadline)))
    }

    fn may_leave(&self) -> Result<(), Status> {
        self.ready()?;
        if self.facts().flags.contains(Flags::TRANSFERABLE) {
            Ok(())
        } else {
            Err(Minor::NotTransferable.into())
        }
    }

    fn binding(&self, how: &Export, deadline: u64) -> Result<Binding, Status> {
        Binding::new::<F>(self.departure()?, how, deadline)
    }
}

/// Activates in this process the context that `token` carries (RFC 2743 2.2.9).
///
/// `socket` is the descriptor the token may be tied to; one that is tied to none imports beside
/// any socket, or none.
///
/// # Errors
/// In the order in which they are looked for (C7); none spends the token:
/// DEFECTIVE_TOKEN (minor: malformed, version, key, altered, state); NO_CONTEXT (boot);
/// UNAVAILABLE (the other framing); UNAUTHORIZED (importer, socket); NO_CONTEXT (spent, expired,
/// ended); FAILURE (the domain has no place for this process).
pub fn import<F: Framing>(
    domain: &Domain,
    token: &[u8],
    socket: Option<BorrowedFd<'_>>,
) -> Result<Context<F>, Status> {
    format::look(token)?;
    let mut scratch = Scratch::with_capacity(token.len());
    scratch.extend_from_slice(token);
    import_in_place(domain, &mut scratch, socket)
}

/// [`import`], opening the token where it lies: in secret pages.
fn import_in_place<F: Framing>(
    domain: &Domain,
    token: &mut [u8],
    socket: Option<BorrowedFd<'_>>,
) -> Result<Context<F>, Status> {
    // Whatever the import comes to, what it leaves on the stack stays there no longer.
    scrubbed(Depth::Moved, || open_and_activate(domain, token, socket))
}

fn open_and_activate<F: Framing>(
    domain: &Domain,
    token: &mut [u8],
    socket: Option<BorrowedFd<'_>>,
) -> Result<Context<F>, Status> {
    //= spec/token.md#order
    let header = format::look(token)?;
    let opened = format::open(token, &header, domain)?;
    fault::point("import.opened");
    let (binding, body) = Binding::read(opened)?;
    binding.admits::<F>(socket)?;
    fault::point("import.admitted");
    let (parts, rest) = format::read_body::<F>(body)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Minor::TokenState.into());
    }
    if domain.is_kept() {
        let mut activated = activate(domain, vec![(binding, parts)]);
        return activated.pop().ok_or(Minor::System)?;
    }
    let Departure { index, id, epoch } = binding.departure();
    if fault::fail("import.resumed") {
        return Err(Minor::Injected.into());
    }
    arrived(domain, (index, id, epoch), parts)
}

/// The one step of an import into a domain that is not kept.
fn arrived<F: Framing>(
    domain: &Domain,
    (index, id, epoch): (u32, ContextId, u64),
    parts: Parts<F>,
) -> Result<Context<F>, Status> {
    let claim = domain.ledger().arrive(index, &id, epoch);
    let claim = claim.map_err(|refusal| Status::from(&refusal))?;
    fault::point("import.claimed");
    Ok(parts.claimed(id, claim, domain.clone()))
}

/// The last steps of an import: everything that can fail for another reason has passed. What each
/// of `all` came to.
fn activate<F: Framing>(
    domain: &Domain,
    all: Vec<(Binding, Parts<F>)>,
) -> Vec<Result<Context<F>, Status>> {
    if fault::fail("import.resumed") {
        return all.iter().map(|_| Err(Minor::Injected.into())).collect();
    }
    let place = |binding: &Binding| {
        let Departure { index, id, epoch } = binding.departure();
        (index, id, epoch)
    };
    if !domain.is_kept() {
        let one = |(binding, parts)| arrived(domain, place(&binding), parts);
        return all.into_iter().map(one).collect();
    }
    // In a kept domain all arrive by one request.
    let arriving = |(binding, _): &(Binding, Parts<F>)| {
        let (index, id, epoch) = place(binding);
        Arriving {
            index,
            id,
            epoch,
            cookie: binding.cookie,
        }
    };
    let arriving: Vec<Arriving> = all.iter().map(arriving).collect();
    let claims = domain.ledger().arrive_all(&arriving);
    let both = all.into_iter().zip(claims).zip(&arriving);
    let activated = both.map(|(((_, parts), claim), one)| {
        let claim = claim.map_err(|refusal| Status::from(&refusal))?;
        fault::point("import.claimed");
        Ok(parts.claimed(one.id, claim, domain.clone()))
    });
    activated.collect()
}
