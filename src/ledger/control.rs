//! The control word of an entry: state, cause, owner and serial in 64 bits, so that one
//! compare-and-swap decides each transition.

/// Why a context ended. Told with its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Cause {
    /// Its holder closed or dropped it.
    Closed,
    /// Its holder died.
    OwnerDied,
    /// Its token was not imported before the deadline.
    Expired,
    /// The domain's keeper revoked it.
    Revoked,
}

impl Cause {
    const fn code(self) -> u64 {
        match self {
            Self::Closed => 1,
            Self::OwnerDied => 2,
            Self::Expired => 3,
            Self::Revoked => 4,
        }
    }

    const fn from_code(code: u64) -> Option<Self> {
        match code {
            1 => Some(Self::Closed),
            2 => Some(Self::OwnerDied),
            3 => Some(Self::Expired),
            4 => Some(Self::Revoked),
            _ => None,
        }
    }
}

/// The states of `spec/ledger.md#control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Draft,
    Active,
    Transit,
    Ended,
    Collecting,
    Repeated,
    /// Code 7, which nobody writes.
    Damaged,
}

/// The last serial; a departure from it is refused.
pub(super) const LAST_SERIAL: u64 = (1 << 41) - 1;
/// From this serial on an entry takes no new context.
pub(super) const RETIRED: u64 = 1 << 40;
/// Process slots at most: the owner field has 17 bits, and zero is nobody.
pub(super) const MAX_PROCESSES: u64 = (1 << 17) - 1;

const STATE: u32 = 61;
const CAUSE: u32 = 58;
const OWNER: u32 = 41;

/// A control word. Two are equal only if they are the same moment of the same entry's life.
//= spec/ledger.md#control
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Control(pub(super) u64);

impl Control {
    pub(super) const fn state(self) -> State {
        match self.0 >> STATE {
            0 => State::Free,
            1 => State::Draft,
            2 => State::Active,
            3 => State::Transit,
            4 => State::Ended,
            5 => State::Collecting,
            6 => State::Repeated,
            _ => State::Damaged,
        }
    }

    pub(super) const fn cause(self) -> Option<Cause> {
        Cause::from_code(self.0 >> CAUSE & 7)
    }

    /// The process slot of the owner; one that is not in any ledger when there is none.
    pub(super) const fn owner(self) -> u32 {
        ((self.0 >> OWNER & MAX_PROCESSES) as u32).wrapping_sub(1)
    }

    pub(super) const fn serial(self) -> u64 {
        self.0 & LAST_SERIAL
    }

    /// Cause and serial stay; `owner` is a slot, or none.
    const fn with(self, state: State, owner: Option<u32>) -> Self {
        let kept = self.0 & (7 << CAUSE | LAST_SERIAL);
        let owner = match owner {
            Some(slot) => slot as u64 + 1,
            None => 0,
        };
        Self((state as u64) << STATE | kept | owner << OWNER)
    }

    /// A new context's draft in this free entry. None when the entry is retired.
    //= spec/ledger.md#retire
    pub(super) const fn draft(self, owner: u32) -> Option<Self> {
        let serial = self.serial();
        if serial >= RETIRED {
            return None;
        }
        Some(Self(serial + 1).with(State::Draft, Some(owner)))
    }

    /// Active under `owner`, at the same serial: from a draft, or arrived from transit.
    pub(super) const fn active(self, owner: u32) -> Self {
        Self(self.serial()).with(State::Active, Some(owner))
    }

    /// In transit, one serial on. None at the last serial.
    //= spec/ledger.md#serial
    pub(super) const fn transit(self) -> Option<Self> {
        let serial = self.serial();
        if serial >= LAST_SERIAL {
            return None;
        }
        Some(Self::in_transit(serial + 1))
    }

    /// The one control word of a context in transit at `epoch`. None when no epoch is so large.
    pub(super) const fn arriving(epoch: u64) -> Option<Self> {
        if epoch > LAST_SERIAL {
            return None;
        }
        Some(Self::in_transit(epoch))
    }

    const fn in_transit(serial: u64) -> Self {
        Self(serial).with(State::Transit, None)
    }

    /// Over: waiting for its release to be collected, or free at once.
    pub(super) const fn over(self, cause: Cause, collected: bool) -> Self {
        let state = if collected { State::Ended } else { State::Free };
        Self(cause.code() << CAUSE | self.serial()).with(state, None)
    }

    /// Free, with the cause it had.
    pub(super) const fn free(self) -> Self {
        self.with(State::Free, None)
    }

    pub(super) const fn collecting(self, owner: u32) -> Self {
        self.with(State::Collecting, Some(owner))
    }

    pub(super) const fn repeated(self) -> Self {
        self.with(State::Repeated, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= proves spec/ledger.md#control
    #[test]
    fn the_control_word_is_laid_out_as_the_page_says() {
        let word = Control(0x1_0000_0001).active(0x1_5555);
        assert_eq!(word.0, 2 << 61 | 0x1_5556 << 41 | 0x1_0000_0001);
        let ended = word.over(Cause::Revoked, true);
        assert_eq!(ended.0, 4 << 61 | 4 << 58 | 0x1_0000_0001);
        let told = ended.collecting(7);
        assert_eq!(told.0, 5 << 61 | 4 << 58 | 8 << 41 | 0x1_0000_0001);
        assert_eq!(told.repeated().0, 6 << 61 | 4 << 58 | 0x1_0000_0001);
        assert_eq!(told.free().0, 4 << 58 | 0x1_0000_0001);
        assert_eq!(
            (told.owner(), told.serial(), told.cause()),
            (7, 0x1_0000_0001, Some(Cause::Revoked))
        );
        assert_eq!(Control::arriving(5).map(|word| word.0), Some(3 << 61 | 5));
        assert!(Control::arriving(LAST_SERIAL + 1).is_none());
        assert_eq!(Control(0).state(), State::Free);
        assert_eq!(Control(u64::MAX).state(), State::Damaged);
    }

    //= proves spec/ledger.md#retire
    //= proves spec/ledger.md#serial
    #[test]
    fn serials_neither_wrap_nor_restart() {
        assert!(
            Control(RETIRED - 1)
                .draft(0)
                .is_some_and(|c| c.serial() == RETIRED)
        );
        assert!(Control(RETIRED).draft(0).is_none());
        let last = Control(LAST_SERIAL - 1).active(3);
        let transit = last.transit();
        assert!(transit.is_some_and(|c| c.serial() == LAST_SERIAL && c.state() == State::Transit));
        assert!(Control(LAST_SERIAL).active(3).transit().is_none());
    }

    #[test]
    fn a_cause_has_one_code() {
        for cause in [
            Cause::Closed,
            Cause::OwnerDied,
            Cause::Expired,
            Cause::Revoked,
        ] {
            assert_eq!(Cause::from_code(cause.code()), Some(cause));
        }
        assert_eq!(Cause::from_code(0), None);
        assert_eq!(Cause::from_code(7), None);
    }
}
