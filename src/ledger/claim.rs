//! The proof that this process runs a context.

use std::fmt;

use super::control::{Cause, Control};
use super::{ContextId, Ledger, Lost, Stay};
use crate::sys::fault;
use crate::sys::process;

/// The proof that this process runs one context. Who has none cannot seal or open with it.
///
/// There is one at most for a context, in one process at most: it comes only out of
/// [`Ledger::establish`] and [`Ledger::arrive`], cannot be copied, and is used up by
/// [`Claim::depart`]. In a forked child the copy is dead.
///
/// Dropping it ends the context (not in a forked child). 48 bytes.
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
        }
    }

    /// Whether this process still runs the context: two loads and two comparisons.
    ///
    /// What follows a good answer may be finished, however long it takes: nobody else can run
    /// the context before this claim departs.
    //= spec/ledger.md#check
    #[inline]
    pub fn check(&self) -> Result<(), Lost> {
        if process::word() == self.born && self.ledger.word(self.place) == self.control.0 {
            return Ok(());
        }
        Err(self.lost())
    }

    #[cold]
    fn lost(&self) -> Lost {
        if process::word() != self.born {
            Lost::Forked
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
    pub fn depart(mut self, deadline: u64) -> Result<Departure, NotDeparted> {
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
        let index = self.ledger.index(self.place);
        let ended = self.ledger.table().over(index, self.control, Cause::Closed);
        let lost = if ended { Ok(()) } else { Err(self.lost()) };
        self.ledger.freed(index);
        self.let_go();
        lost
    }

    /// The claim is nothing any more: no process has the word 0.
    fn let_go(&mut self) {
        self.ledger.processes().release(self.control.owner());
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
