//! Many contexts with their sockets in one message, for restarts: one seal for all, one ledger
//! entry and one fate for each.

use std::os::fd::{AsFd, OwnedFd};

use crate::codec::Framing;
use crate::context::{Context, Parts};
use crate::crypto::TAG;
use crate::ledger::{Claim, Domain, NotDeparted, Terms};
use crate::secret::{Depth, Scratch, scrubbed};
use crate::status::{Minor, Status};
use crate::sys::{fault, socket};

use super::binding::Binding;
use super::format::{self, BUNDLE, Header, KEPT_BUNDLE, VERSION};
use super::{Export, NotExported, Parcel, activate};

/// The most contexts one bundle holds: what the kernel passes of descriptors in one message.
pub const MAX_MEMBERS: usize = 253;
/// A bundle takes no further member beyond this many bytes, so that it fits a socket's buffer.
const FULL: usize = 96 * 1024;
/// Bundles are padded to a multiple of this.
const PADDING: usize = 4096;
/// Bytes of a member's length.
const LENGTH: usize = 4;

/// A context and the socket its peer is at the other end of.
pub type Member<F> = (Context<F>, OwnedFd);

/// What [`bundle`] made of the contexts it was given.
pub struct Bundled<F: Framing> {
    /// The bundles, to be sent one after the other.
    pub parcels: Vec<Parcel>,
    /// The contexts that did not leave, with their sockets; they work as before.
    pub kept: Vec<(NotExported<F>, OwnedFd)>,
}

/// Exports `members` in as few bundles as hold them. `how` is for each of them; where it ties,
/// each is tied to its own socket.
///
/// All contexts of one call must be of one domain: others are kept, as UNAVAILABLE.
pub fn bundle<F: Framing>(members: Vec<Member<F>>, how: &Export) -> Bundled<F> {
    let mut bundled = Bundled {
        parcels: Vec::new(),
        kept: Vec::new(),
    };
    let mut filling: Option<Filling<F>> = None;
    for (context, socket) in members {
        if filling.as_ref().is_some_and(Filling::is_full) {
            filling
                .take()
                .into_iter()
                .for_each(|full| full.close(&mut bundled));
        }
        let open = filling.get_or_insert_with(|| Filling::new(context.domain().clone(), how));
        if let Err(kept) = open.add(context, socket, how) {
            bundled.kept.push(kept);
        }
    }
    filling
        .into_iter()
        .for_each(|last| last.close(&mut bundled));
    bundled
}

/// A bundle being filled: nothing has left yet.
struct Filling<F: Framing> {
    domain: Domain,
    scratch: Scratch,
    /// With the cookie each is tied to.
    members: Vec<(Member<F>, Option<u64>)>,
    terms: Terms,
}

impl<F: Framing> Filling<F> {
    fn new(domain: Domain, how: &Export) -> Self {
        let mut scratch = Scratch::with_capacity(FULL + format::MAX_TOKEN);
        format::begin(&mut scratch, &domain);
        Self {
            domain,
            scratch,
            members: Vec::with_capacity(MAX_MEMBERS),
            terms: how.terms(how.deadline()),
        }
    }

    fn is_full(&self) -> bool {
        self.members.len() == MAX_MEMBERS || self.scratch.len() > FULL
    }

    // The large error is the point: it carries the context back.
    #[allow(clippy::result_large_err)]
    fn add(
        &mut self,
        context: Context<F>,
        socket: OwnedFd,
        how: &Export,
    ) -> Result<(), (NotExported<F>, OwnedFd)> {
        let start = self.scratch.len();
        match self.write(&context, &socket, how) {
            Ok(cookie) => {
                self.members.push(((context, socket), cookie));
                Ok(())
            }
            Err(status) => {
                self.scratch.truncate(start);
                Err((NotExported { context, status }, socket))
            }
        }
    }

    //= spec/token.md#bundle
    fn write(
        &mut self,
        context: &Context<F>,
        socket: &OwnedFd,
        how: &Export,
    ) -> Result<Option<u64>, Status> {
        context.may_leave()?;
        if !context.domain().is_same(&self.domain) {
            return Err(Minor::NotTransferable.into());
        }
        let mut binding = context.binding(how, self.terms.deadline)?;
        if how.tie_each {
            let cookie = socket::cookie(socket.as_fd()).map_err(|_| Status::from(Minor::System))?;
            binding = binding.tied(Some(cookie));
        }
        let start = self.scratch.len();
        self.scratch.extend_from_slice(&[0; LENGTH]);
        format::write_member(&mut self.scratch, &binding, context)?;
        let length = u32::try_from(self.scratch.len() - start - LENGTH)
            .map_err(|_| Status::from(Minor::StateTooLarge))?;
        self.scratch[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
        Ok(binding.cookie)
    }

    /// Seals, and lets every member depart.
    fn close(mut self, into: &mut Bundled<F>) {
        if self.members.is_empty() {
            return;
        }
        fault::point("bundle.encoded");
        if let Err(status) = scrubbed(Depth::Moved, || self.seal()) {
            let kept = |((context, socket), _)| (NotExported { context, status }, socket);
            into.kept.extend(self.members.into_iter().map(kept));
            return;
        }
        fault::point("bundle.sealed");
        let mut sockets = Vec::with_capacity(self.members.len());
        let departed = depart(self.members, &self.terms);
        if departed.iter().all(|(left, _)| left.is_err()) {
            // Nothing is in it that anybody could import.
            for (left, socket) in departed {
                into.kept.extend(left.err().map(|kept| (kept, socket)));
            }
            return;
        }
        for (left, socket) in departed {
            match left {
                Ok(()) => sockets.push(socket),
                Err(kept) => match socket.try_clone() {
                    // Its place in the message stays taken: the importer finds its member spent.
                    Ok(copy) => {
                        sockets.push(copy);
                        into.kept.push((kept, socket));
                    }
                    Err(_) => sockets.push(socket),
                },
            }
        }
        fault::point("bundle.departed");
        into.parcels
            .push(Parcel::from_bundle(self.scratch, sockets));
    }

    fn seal(&mut self) -> Result<(), Status> {
        // Room for the zero length that ends the members.
        let needed = self.scratch.len() + LENGTH + TAG;
        self.scratch.resize(needed.next_multiple_of(PADDING) - TAG);
        let grant = self
            .members
            .first()
            .and_then(|((first, _), _)| first.grant());
        let magic = (BUNDLE, KEPT_BUNDLE);
        let tag = format::seal(&mut self.scratch, magic, &self.domain, grant)?;
        self.scratch.extend_from_slice(&tag);
        Ok(())
    }
}

/// A member that left, or did not, and its socket.
type Left<F> = (Result<(), NotExported<F>>, OwnedFd);

/// Lets all members go.
fn depart<F: Framing>(members: Vec<(Member<F>, Option<u64>)>, terms: &Terms) -> Vec<Left<F>> {
    let (mut stayed, mut claims) = (Vec::new(), Vec::new());
    for ((context, socket), cookie) in members {
        let (parts, id, claim, domain): (Parts<F>, _, Claim, Domain) = context.into_parts();
        stayed.push((parts, id, domain, socket));
        claims.push((claim, cookie));
    }
    let departed = Claim::depart_all(claims, terms).into_iter();
    let both = stayed.into_iter().zip(departed);
    both.map(|((parts, id, domain, socket), departed)| match departed {
        Ok(_) => (Ok(()), socket),
        Err(NotDeparted { claim, stay }) => {
            let kept = NotExported {
                context: parts.claimed(id, claim, domain),
                status: stay.into(),
            };
            (Err(kept), socket)
        }
    })
    .collect()
}

/// Imports every member of a bundle, opened where it lies, with the sockets that came beside it.
///
/// One member's refusal is that member's alone; its socket is closed.
///
/// # Errors
/// DEFECTIVE_TOKEN for the whole: nothing was imported, nothing is spent.
pub fn unbundle<F: Framing>(
    domain: &Domain,
    bundle: &mut [u8],
    sockets: Vec<OwnedFd>,
) -> Result<Vec<Result<Member<F>, Status>>, Status> {
    // Once for all members.
    scrubbed(Depth::Moved, || open_and_import(domain, bundle, sockets))
}

fn open_and_import<F: Framing>(
    domain: &Domain,
    bundle: &mut [u8],
    sockets: Vec<OwnedFd>,
) -> Result<Vec<Result<Member<F>, Status>>, Status> {
    let header = Header::read(bundle, (BUNDLE, KEPT_BUNDLE))?;
    if header.version != VERSION {
        return Err(Minor::TokenVersion.into());
    }
    // All lengths are looked at before the first member is imported: an error of the whole must
    // not take with it what was already imported.
    let members = members(format::open(bundle, &header, domain)?)?;
    fault::point("bundle.opened");
    let mut sockets = sockets.into_iter();
    let (mut outcomes, mut ready) = (Vec::with_capacity(members.len()), Vec::new());
    for member in members {
        outcomes.push(match sockets.next() {
            Some(socket) => read_member::<F>(member, &socket).map(|member| {
                ready.push(member);
                socket
            }),
            None => Err(Minor::WrongSocket.into()),
        });
    }
    let mut activated = activate(domain, ready).into_iter();
    let outcome = |read: Result<OwnedFd, Status>| {
        let socket = read?;
        let context = activated.next().ok_or(Minor::System)??;
        Ok((context, socket))
    };
    Ok(outcomes.into_iter().map(outcome).collect())
}

fn read_member<F: Framing>(member: &[u8], socket: &OwnedFd) -> Result<(Binding, Parts<F>), Status> {
    let (binding, body) = Binding::read(member)?;
    binding.admits::<F>(Some(socket.as_fd()))?;
    let (parts, behind) = format::read_body::<F>(body)?;
    if !behind.is_empty() {
        return Err(Minor::TokenState.into());
    }
    Ok((binding, parts))
}

/// The members between header and padding.
fn members(mut bytes: &[u8]) -> Result<Vec<&[u8]>, Status> {
    let mut members = Vec::with_capacity(MAX_MEMBERS);
    loop {
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
            return Err(Minor::TokenState.into());
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 {
            return Ok(members);
        }
        if members.len() == MAX_MEMBERS {
            return Err(Minor::TokenState.into());
        }
        let (member, behind) = rest.split_at_checked(length).ok_or(Minor::TokenState)?;
        members.push(member);
        bytes = behind;
    }
}
