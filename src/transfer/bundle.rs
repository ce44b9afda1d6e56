//! Many contexts with their sockets in one message, for restarts: one seal for all, one ledger
//! entry and one fate for each.

use std::os::fd::{AsFd, OwnedFd};

use crate::codec::Framing;
use crate::context::{self, Context};
use crate::crypto::TAG;
use crate::ledger::{Claim, Domain, NotDeparted, Terms};
use crate::secret::{Depth, Scratch, scrubbed};
use crate::status::{Minor, Status};
use crate::sys::{fault, socket};

use super::binding::Binding;
use super::format::{self, BUNDLE, Header, KEPT_BUNDLE, KEPT_LADEN, LADEN, VERSION};
use super::{Export, Laden, Luggage, MAX_LUGGAGE, NotExported, Parcel, activate};

/// The most contexts one bundle holds: what the kernel passes of descriptors in one message.
pub const MAX_MEMBERS: usize = 253;
/// A bundle takes no further member beyond this many bytes, so that it fits a socket's buffer.
const FULL: usize = 128 * 1024;
/// Bundles are padded to a multiple of this.
const PADDING: usize = 4096;
/// Bytes of a member's length.
const LENGTH: usize = 4;

/// A magic, and that of a kept domain.
type Magic = ([u8; 3], [u8; 3]);
const BUNDLES: Magic = (BUNDLE, KEPT_BUNDLE);
const LADEN_BUNDLES: Magic = (LADEN, KEPT_LADEN);

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
    let unladen = |(context, socket)| Laden {
        context,
        socket,
        luggage: Luggage::none(),
    };
    let loaded = fill(BUNDLES, members.into_iter().map(unladen), how);
    let without = |(kept, socket, _)| (kept, socket);
    Bundled {
        parcels: loaded.parcels,
        kept: loaded.kept.into_iter().map(without).collect(),
    }
}

/// What [`load`] made of the connections it was given.
pub struct Loaded<F: Framing> {
    /// The bundles, to be sent one after the other.
    pub parcels: Vec<Parcel>,
    /// The contexts that did not leave, with their sockets and luggage; they work as before.
    pub kept: Vec<Stayed<F>>,
}

/// A context that did not leave, with its socket and its luggage.
pub type Stayed<F> = (NotExported<F>, OwnedFd, Luggage);

/// As [`bundle`], each context with its luggage.
//= spec/token.md#laden
pub fn load<F: Framing>(members: Vec<Laden<F>>, how: &Export) -> Loaded<F> {
    fill(LADEN_BUNDLES, members.into_iter(), how)
}

fn fill<F: Framing>(
    magic: Magic,
    members: impl Iterator<Item = Laden<F>>,
    how: &Export,
) -> Loaded<F> {
    let mut bundled = Loaded {
        parcels: Vec::new(),
        kept: Vec::new(),
    };
    let mut filling: Option<Filling<F>> = None;
    for member in members {
        if filling.as_ref().is_some_and(Filling::is_full) {
            filling
                .take()
                .into_iter()
                .for_each(|full| full.close(&mut bundled));
        }
        let domain = member.context.domain();
        let open = filling.get_or_insert_with(|| Filling::new(magic, domain.clone(), how));
        if let Err(kept) = open.add(member, how) {
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
    magic: Magic,
    domain: Domain,
    scratch: Scratch,
    /// With the cookie each is tied to.
    members: Vec<(Laden<F>, Option<u64>)>,
    terms: Terms,
}

impl<F: Framing> Filling<F> {
    fn new(magic: Magic, domain: Domain, how: &Export) -> Self {
        let mut scratch = Scratch::with_capacity(FULL + format::MAX_TOKEN);
        format::begin(&mut scratch, &domain);
        Self {
            magic,
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
    fn add(&mut self, member: Laden<F>, how: &Export) -> Result<(), Stayed<F>> {
        let start = self.scratch.len();
        match self.write(&member, how) {
            Ok(cookie) => {
                self.members.push((member, cookie));
                Ok(())
            }
            Err(status) => {
                self.scratch.truncate(start);
                Err(stayed(member, status))
            }
        }
    }

    //= spec/token.md#bundle
    fn write(&mut self, member: &Laden<F>, how: &Export) -> Result<Option<u64>, Status> {
        let Laden {
            context,
            socket,
            luggage,
        } = member;
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
        if self.magic == LADEN_BUNDLES {
            let length =
                u32::try_from(luggage.len()).map_err(|_| Status::from(Minor::StateTooLarge))?;
            self.scratch.extend_from_slice(&length.to_be_bytes());
            self.scratch.extend_from_slice(luggage);
        }
        Ok(binding.cookie)
    }

    /// Seals, and lets every member depart.
    fn close(mut self, into: &mut Loaded<F>) {
        if self.members.is_empty() {
            return;
        }
        fault::point("bundle.encoded");
        if let Err(status) = scrubbed(Depth::Moved, || self.seal()) {
            let kept = |(member, _)| stayed(member, status);
            into.kept.extend(self.members.into_iter().map(kept));
            return;
        }
        fault::point("bundle.sealed");
        let mut sockets = Vec::with_capacity(self.members.len());
        let departed = depart(self.members, &self.terms);
        if departed.iter().all(|(left, ..)| left.is_err()) {
            // Nothing is in it that anybody could import.
            for (left, socket, luggage) in departed {
                into.kept
                    .extend(left.err().map(|kept| (kept, socket, luggage)));
            }
            return;
        }
        for (left, socket, luggage) in departed {
            match left {
                Ok(()) => sockets.push(socket),
                Err(kept) => match socket.try_clone() {
                    // Its place in the message stays taken: the importer finds its member spent.
                    Ok(copy) => {
                        sockets.push(copy);
                        into.kept.push((kept, socket, luggage));
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
            .and_then(|(first, _)| first.context.grant());
        let tag = format::seal(&mut self.scratch, self.magic, &self.domain, grant)?;
        self.scratch.extend_from_slice(&tag);
        Ok(())
    }
}

fn stayed<F: Framing>(member: Laden<F>, status: Status) -> Stayed<F> {
    let Laden {
        context,
        socket,
        luggage,
    } = member;
    (NotExported { context, status }, socket, luggage)
}

/// A member that left, or did not, its socket, and its luggage.
type Left<F> = (Result<(), NotExported<F>>, OwnedFd, Luggage);

/// Lets all members go.
fn depart<F: Framing>(members: Vec<(Laden<F>, Option<u64>)>, terms: &Terms) -> Vec<Left<F>> {
    let (mut stayed, mut claims) = (Vec::new(), Vec::new());
    for (member, cookie) in members {
        let Laden {
            context,
            socket,
            luggage,
        } = member;
        let (parts, id, claim, domain): (context::Parts<F>, _, Claim, Domain) =
            context.into_parts();
        stayed.push((parts, id, domain, socket, luggage));
        claims.push((claim, cookie));
    }
    let departed = Claim::depart_all(claims, terms).into_iter();
    let both = stayed.into_iter().zip(departed);
    both.map(
        |((parts, id, domain, socket, luggage), departed)| match departed {
            Ok(_) => (Ok(()), socket, luggage),
            Err(NotDeparted { claim, stay }) => {
                let kept = NotExported {
                    context: parts.claimed(id, claim, domain),
                    status: stay.into(),
                };
                (Err(kept), socket, luggage)
            }
        },
    )
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
    let member = |laden: Laden<F>| (laden.context, laden.socket);
    let outcomes = unfill(BUNDLES, domain, bundle, sockets)?;
    Ok(outcomes.into_iter().map(|one| one.map(member)).collect())
}

/// As [`unbundle`], for what [`load`] has made.
///
/// # Errors
/// DEFECTIVE_TOKEN for the whole: nothing was imported, nothing is spent.
pub fn unload<F: Framing>(
    domain: &Domain,
    bundle: &mut [u8],
    sockets: Vec<OwnedFd>,
) -> Result<Vec<Result<Laden<F>, Status>>, Status> {
    unfill(LADEN_BUNDLES, domain, bundle, sockets)
}

fn unfill<F: Framing>(
    magic: Magic,
    domain: &Domain,
    bundle: &mut [u8],
    sockets: Vec<OwnedFd>,
) -> Result<Vec<Result<Laden<F>, Status>>, Status> {
    // Once for all members.
    scrubbed(Depth::Moved, || {
        open_and_import(magic, domain, bundle, sockets)
    })
}

fn open_and_import<F: Framing>(
    magic: Magic,
    domain: &Domain,
    bundle: &mut [u8],
    sockets: Vec<OwnedFd>,
) -> Result<Vec<Result<Laden<F>, Status>>, Status> {
    let header = Header::read(bundle, magic)?;
    if header.version != VERSION {
        return Err(Minor::TokenVersion.into());
    }
    // All lengths are looked at before the first member is imported: an error of the whole must
    // not take with it what was already imported.
    let members = members(magic, format::open(bundle, &header, domain)?)?;
    fault::point("bundle.opened");
    let mut sockets = sockets.into_iter();
    let (mut outcomes, mut ready) = (Vec::with_capacity(members.len()), Vec::new());
    for (member, luggage) in members {
        outcomes.push(match sockets.next() {
            Some(socket) => read_member::<F>(member, &socket).and_then(|member| {
                let luggage = Luggage::new(luggage)?;
                ready.push(member);
                Ok((socket, luggage))
            }),
            None => Err(Minor::WrongSocket.into()),
        });
    }
    let mut activated = activate(domain, ready).into_iter();
    let outcome = |read: Result<(OwnedFd, Luggage), Status>| {
        let (socket, luggage) = read?;
        let context = activated.next().ok_or(Minor::System)??;
        Ok(Laden {
            context,
            socket,
            luggage,
        })
    };
    Ok(outcomes.into_iter().map(outcome).collect())
}

fn read_member<F: Framing>(
    member: &[u8],
    socket: &OwnedFd,
) -> Result<(Binding, context::Parts<F>), Status> {
    let (binding, body) = Binding::read(member)?;
    binding.admits::<F>(Some(socket.as_fd()))?;
    let (parts, behind) = format::read_body::<F>(body)?;
    if !behind.is_empty() {
        return Err(Minor::TokenState.into());
    }
    Ok((binding, parts))
}

/// A member's binding and body, and its luggage.
type Parts<'a> = (&'a [u8], &'a [u8]);

/// The members between header and padding, each with its luggage.
//= spec/token.md#laden
fn members(magic: Magic, mut bytes: &[u8]) -> Result<Vec<Parts<'_>>, Status> {
    let mut members = Vec::with_capacity(MAX_MEMBERS);
    loop {
        let (member, behind) = counted(bytes)?;
        if member.is_empty() {
            return Ok(members);
        }
        if members.len() == MAX_MEMBERS {
            return Err(Minor::TokenState.into());
        }
        let (luggage, behind) = match magic == LADEN_BUNDLES {
            true => counted(behind)?,
            false => (&[][..], behind),
        };
        if luggage.len() > MAX_LUGGAGE {
            return Err(Minor::TokenState.into());
        }
        members.push((member, luggage));
        bytes = behind;
    }
}

/// As many bytes as the length before them says, and what follows them.
fn counted(bytes: &[u8]) -> Result<(&[u8], &[u8]), Status> {
    let (length, rest) = bytes
        .split_first_chunk::<LENGTH>()
        .ok_or(Minor::TokenState)?;
    let length = u32::from_be_bytes(*length) as usize;
    Ok(rest.split_at_checked(length).ok_or(Minor::TokenState)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    //= proves spec/token.md#laden C5
    #[test]
    fn lengths_that_lie_are_refused_before_anything_is_imported() {
        let counted = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
        let good = [
            counted(b"member"),
            counted(b"luggage"),
            counted(b"m"),
            counted(b""),
        ]
        .concat();
        let ended = [&good[..], &[0; 4]].concat();
        let found = members(LADEN_BUNDLES, &ended).unwrap();
        assert_eq!(found, [(&b"member"[..], &b"luggage"[..]), (b"m", b"")]);
        for cut in 0..ended.len() {
            assert!(members(LADEN_BUNDLES, &ended[..cut]).is_err(), "{cut}");
        }
        let much = vec![7; MAX_LUGGAGE + 1];
        let much = [counted(b"m"), counted(&much), vec![0; 4]].concat();
        assert!(members(LADEN_BUNDLES, &much).is_err());
        let long = [&[0xff; 4][..], b"member"].concat();
        assert!(members(LADEN_BUNDLES, &long).is_err());
        let many = [counted(b"m"), counted(b"")]
            .concat()
            .repeat(MAX_MEMBERS + 1);
        assert!(members(LADEN_BUNDLES, &[&many[..], &[0; 4]].concat()).is_err());
    }
}
