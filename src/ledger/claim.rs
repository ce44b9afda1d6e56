//! The proof that this process runs a context.

use std::fmt;

use super::control::{Cause, Control};
use super::link::{Grant, Made};
use super::wire::{Code, Leaving};
use super::{ContextId, Error, Ledger, Lost, Permitted, Stay, Terms};
use crate::secret::Slot;
use crate::sys::fault;
use crate::sys::process;

/// The proof that this process runs one context. Who has none cannot seal or open with it.
///
/// There is one at most for a context, in one process at most: it comes only out of
/// [`Ledger::establish`] and [`Ledger::arrive`], cannot be copied, and is used up by
/// [`Claim::depart`]. In a forked child the copy is dead.
///
/// Dropping it ends the context (not in a forked child). 56 bytes.
///
/// ```
/// use baton::ledger::{Ledger, Options};
/// let ledger = Ledger::inherited(&Options::default())?;
/// let claim = ledger.establish()?;
/// assert!(claim.check().is_ok());
/// let departure = claim.depart(u64::MAX).map_err(|not| not.stay)?;
/// let claim = ledger.arrive(departure.index, &departure.id, departure.epoch)?;
/// // The token is spent:
/// assert!(ledger.arrive(departure.index, &departure.id, departure.epoch).is_err());
/// claim.end()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Claim {
    ledger: Ledger,
    id: ContextId,
    /// The control word this claim's step wrote.
    control: Control,
    /// The word of the process that made the step.
    born: u64,
    /// Where the control word lies in the mapping.
    place: u32,
    /// In a kept domain: what the next departure is sealed with.
    grant: Option<Slot<Grant>>,
}

/// Where and as what a context left: what its token must say. It is no secret, and by itself
/// lets nobody in whom the token's seal keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The entry.
    pub index: u32,
    /// The context.
    pub id: ContextId,
    /// The epoch the token must carry.
    pub epoch: u64,
}

/// A context that did not depart, and its claim.
///
/// When the reason is [`Stay::EpochsUsedUp`] the claim is as good as before; when it is
/// [`Stay::Lost`] the claim was dead already.
pub struct NotDeparted {
    /// The claim that was to depart.
    pub claim: Claim,
    /// Why it stays.
    pub stay: Stay,
}

impl fmt::Debug for NotDeparted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotDeparted")
            .field("stay", &self.stay)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for NotDeparted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stay.fmt(f)
    }
}

impl std::error::Error for NotDeparted {}

impl Claim {
    pub(super) fn new(
        ledger: Ledger,
        id: ContextId,
        control: Control,
        born: u64,
        place: u32,
    ) -> Self {
        Self {
            ledger,
            id,
            control,
            born,
            place,
            grant: None,
        }
    }

    /// A claim in a kept domain, as the keeper has answered it.
    pub(super) fn linked(ledger: Ledger, made: Made, place: u32) -> Self {
        Self {
            ledger,
            id: made.id,
            control: made.control,
            born: made.born,
            place,
            grant: Some(made.grant),
        }
    }

    /// What a token is sealed with that is made now; none in a domain whose members have the keys.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        self.grant.as_deref()
    }

    /// Whether this process still runs the context: two loads and two comparisons, and one more
    /// of each in a kept domain.
    ///
    /// What follows a good answer may be finished, however long it takes: nobody else can run
    /// the context before this claim departs.
    //= spec/ledger.md#check
    #[inline]
    pub fn check(&self) -> Result<(), Lost> {
        if process::word() == self.born
            && self.ledger.word(self.place) == self.control.0
            && self.ledger.is_kept()
        {
            return Ok(());
        }
        self.look_again()
    }

    /// [`Claim::check`], when another keeper may have come.
    #[cold]
    fn look_again(&self) -> Result<(), Lost> {
        let goes_on = process::word() == self.born
            && !self.ledger.is_kept()
            && self.ledger.follow()
            && self.ledger.word(self.place) == self.control.0;
        match goes_on {
            true => Ok(()),
            false => Err(self.lost()),
        }
    }

    #[cold]
    fn lost(&self) -> Lost {
        if process::word() != self.born {
            Lost::Forked
        } else if !self.ledger.is_kept() {
            Lost::KeeperGone
        } else if self
            .ledger
            .table()
            .revoked(self.ledger.index(self.place), self.control)
        {
            Lost::Revoked
        } else {
            Lost::Ended
        }
    }

    /// The context's id: 128 random bits. It stays the claim's also when the context has ended.
    pub fn id(&self) -> ContextId {
        self.id
    }

    /// The context's entry in the ledger.
    pub fn index(&self) -> u32 {
        self.ledger.index(self.place) as u32
    }

    /// The epoch at which the context became active here.
    pub fn epoch(&self) -> u64 {
        self.control.serial()
    }

    /// The epoch a token must carry that is made now, for [`Claim::depart`].
    ///
    /// [`Stay::EpochsUsedUp`] after 2^40 departures or more.
    //= spec/ledger.md#epoch
    pub fn next_epoch(&self) -> Result<u64, Stay> {
        if fault::fail("ledger.depart.epochs") {
            return Err(Stay::EpochsUsedUp);
        }
        self.control
            .transit()
            .map(Control::serial)
            .ok_or(Stay::EpochsUsedUp)
    }

    /// The ledger it is a claim in.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Lets the context go: from now on the token made for [`Claim::next_epoch`] imports, once,
    /// until `deadline` (boot-time milliseconds, at most 2^48-2; more is no deadline).
    ///
    /// One compare-and-swap. The claim comes back when it cannot be made.
    //= spec/ledger.md#depart
    pub fn depart(self, deadline: u64) -> Result<Departure, NotDeparted> {
        let importer = Permitted::Anyone;
        self.depart_under(&Terms { importer, deadline }, None)
    }

    /// [`Claim::depart`], on these terms and tied to the socket with this cookie: in a kept domain
    /// the keeper is told of them. Elsewhere the token alone says them.
    pub(crate) fn depart_under(
        mut self,
        terms: &Terms,
        cookie: Option<u64>,
    ) -> Result<Departure, NotDeparted> {
        let deadline = terms.deadline;
        // The control word would still match in a forked copy, so this check comes first.
        if process::word() != self.born {
            return Err(NotDeparted {
                claim: self,
                stay: Stay::Lost(Lost::Forked),
            });
        }
        if let Err(stay) = self.next_epoch() {
            return Err(NotDeparted { claim: self, stay });
        }
        if let Some(link) = self.ledger.link() {
            // What is over by now is said here: the keeper does not answer.
            if let Err(lost) = self.check() {
                let stay = Stay::Lost(lost);
                return Err(NotDeparted { claim: self, stay });
            }
            let outcome = link.depart_one(terms, self.leaving(cookie));
            return self.departed(&outcome.map(|()| Code::Done));
        }
        let index = self.ledger.index(self.place);
        let Some(transit) = self.ledger.table().depart(index, self.control, deadline) else {
            let stay = Stay::Lost(self.lost());
            return Err(NotDeparted { claim: self, stay });
        };
        self.let_go();
        Ok(Departure {
            index: index as u32,
            id: self.id,
            epoch: transit.serial(),
        })
    }

    /// Lets many go on the same terms, each with the cookie it is tied to; what each came to. In a
    /// kept domain they are one bundle, sealed with the grant of the first, and one request.
    pub(crate) fn depart_all(
        claims: Vec<(Self, Option<u64>)>,
        terms: &Terms,
    ) -> Vec<Result<Departure, NotDeparted>> {
        let kept = claims
            .first()
            .is_some_and(|(claim, _)| claim.ledger.link().is_some());
        if kept {
            return Self::depart_linked(claims, terms);
        }
        let one = |(claim, cookie): (Self, _)| claim.depart_under(terms, cookie);
        claims.into_iter().map(one).collect()
    }

    /// All claims are of one ledger.
    //= spec/keeper.md#depart
    fn depart_linked(
        claims: Vec<(Self, Option<u64>)>,
        terms: &Terms,
    ) -> Vec<Result<Departure, NotDeparted>> {
        let leaving = claims.iter().map(|(claim, cookie)| claim.leaving(*cookie));
        let leaving: Vec<Leaving> = leaving.collect();
        let link = claims.first().and_then(|(claim, _)| claim.ledger.link());
        let answer = link.map(|link| match leaving[..] {
            [one] => link.depart_one(terms, one).map(|()| vec![Code::Done]),
            _ => link.depart(terms, &leaving),
        });
        let outcome = |number: usize| match &answer {
            Some(Ok(codes)) => codes.get(number).copied().ok_or(Error::Keeper),
            Some(Err(Error::NotPermitted)) => Err(Error::NotPermitted),
            _ => Err(Error::Keeper),
        };
        let outcomes: Vec<_> = (0..claims.len()).map(outcome).collect();
        let both = claims.into_iter().zip(outcomes);
        both.map(|((claim, _), outcome)| claim.departed(&outcome))
            .collect()
    }

    fn leaving(&self, cookie: Option<u64>) -> Leaving {
        Leaving {
            index: self.index(),
            control: self.control.0,
            cookie,
        }
    }

    /// What a departure came to that the keeper was asked for.
    fn departed(mut self, outcome: &Result<Code, Error>) -> Result<Departure, NotDeparted> {
        let stay = match outcome {
            Ok(Code::Done) => {
                // `next_epoch` has answered before.
                let epoch = self.control.serial() + 1;
                self.let_go();
                return Ok(Departure {
                    index: self.index(),
                    id: self.id,
                    epoch,
                });
            }
            Ok(Code::Unknown) => Stay::Bundle,
            Ok(Code::Epochs) => Stay::EpochsUsedUp,
            Ok(Code::Revoked) => Stay::Lost(Lost::Revoked),
            Err(Error::NotPermitted) => Stay::NotPermitted,
            // Without an answer the connection is over, and so is the context, departed or not.
            _ => Stay::Lost(self.check().err().unwrap_or(Lost::Ended)),
        };
        Err(NotDeparted { claim: self, stay })
    }

    /// Ends the context; its release is due. The error says that it had ended before, or that this
    /// is a forked copy.
    //= spec/ledger.md#end
    pub fn end(mut self) -> Result<(), Lost> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), Lost> {
        if process::word() != self.born {
            return Err(Lost::Forked);
        }
        if let Some(link) = self.ledger.link() {
            let lost = self.check();
            if lost != Err(Lost::KeeperGone) {
                link.end(self.index(), self.control.0);
            }
            self.let_go();
            return lost;
        }
        let index = self.ledger.index(self.place);
        let ended = self.ledger.table().over(index, self.control, Cause::Closed);
        let lost = if ended { Ok(()) } else { Err(self.lost()) };
        self.ledger.freed(index);
        self.let_go();
        lost
    }

    /// The claim is nothing any more: no process has the word 0.
    fn let_go(&mut self) {
        if self.ledger.link().is_none() {
            self.ledger.processes().release(self.control.owner());
        }
        self.born = 0;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.born != 0 {
            // A copy or a context that has ended: nothing is left to do.
            let _ = self.finish();
        }
    }
}
