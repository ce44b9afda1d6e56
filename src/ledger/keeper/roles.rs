//! What each process may ask, and when: one table (`spec/keeper.md#roles`).

/// What a connection to the keeper is for. The keeper's owner says it when it makes the
/// connection; the process at its other end cannot change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Establishes contexts and hands them on; imports none.
    Handshaker,
    /// Imports contexts and hands them on, any number of times; establishes none.
    Worker,
    /// Imports one context.
    Session,
    /// Runs none; revokes.
    Operator,
    /// All that has to do with contexts, and no revoking: a program that is all of the above.
    Member,
}

impl Role {
    /// Every role, in the order of the page.
    pub const ALL: [Self; 5] = [
        Self::Handshaker,
        Self::Worker,
        Self::Session,
        Self::Operator,
        Self::Member,
    ];

    pub(in crate::ledger) const fn code(self) -> u8 {
        match self {
            Self::Handshaker => 1,
            Self::Worker => 2,
            Self::Session => 3,
            Self::Operator => 4,
            Self::Member => 5,
        }
    }

    pub(in crate::ledger) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.code() == code)
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Phase {
    /// Nothing was said yet.
    New,
    /// Greeted.
    Ready,
    /// A session whose context has arrived.
    Running,
}

/// What a process asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Ask {
    Hello,
    Establish,
    Open,
    Arrive,
    Depart,
    End,
    Revoke,
    Ledger,
}

impl Ask {
    #[cfg(all(test, not(loom)))]
    pub(super) const ALL: [Self; 8] = [
        Self::Hello,
        Self::Establish,
        Self::Open,
        Self::Arrive,
        Self::Depart,
        Self::End,
        Self::Revoke,
        Self::Ledger,
    ];
}

/// Whether a process of this role may ask this in this phase. What it may not, ends its
/// connection.
//= spec/keeper.md#roles
pub(in crate::ledger) const fn permits(role: Role, phase: Phase, ask: Ask) -> bool {
    use Ask::{Arrive, Depart, End, Establish, Hello, Ledger, Open, Revoke};
    match (phase, role) {
        (Phase::New, _) => matches!(ask, Hello),
        _ if matches!(ask, Ledger) => true,
        (Phase::Ready, Role::Handshaker) => matches!(ask, Establish | Depart | End),
        (Phase::Ready, Role::Worker) => matches!(ask, Open | Arrive | Depart | End),
        (Phase::Ready, Role::Session) => matches!(ask, Open | Arrive),
        (Phase::Running, Role::Session) => matches!(ask, Depart | End),
        (Phase::Ready, Role::Operator) => matches!(ask, Revoke),
        (Phase::Ready, Role::Member) => {
            matches!(ask, Establish | Open | Arrive | Depart | End)
        }
        (Phase::Running, _) => false,
    }
}

/// The phase after a request that was answered, `number` of its contexts having arrived.
pub(in crate::ledger) const fn after(role: Role, phase: Phase, ask: Ask, number: usize) -> Phase {
    match (role, ask) {
        (_, Ask::Hello) => Phase::Ready,
        (Role::Session, Ask::Arrive) if number > 0 => Phase::Running,
        _ => phase,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    //= proves spec/keeper.md#roles
    #[test]
    fn who_may_ask_what_is_as_the_page_says() {
        let mut table = String::from("| role | phase |");
        for ask in Ask::ALL {
            table += &format!(" {} |", format!("{ask:?}").to_uppercase());
        }
        table += "\n|---|---|---|---|---|---|---|---|---|---|\n";
        for role in Role::ALL {
            for phase in [Phase::New, Phase::Ready, Phase::Running] {
                if phase == Phase::Running && role != Role::Session {
                    continue;
                }
                table += &format!("| {} | {} |", lower(role), lower(phase));
                for ask in Ask::ALL {
                    table += if permits(role, phase, ask) {
                        " yes |"
                    } else {
                        " - |"
                    };
                }
                table += "\n";
            }
        }
        let page = include_str!("../../../spec/keeper.md");
        assert!(page.contains(&table), "spec/keeper.md should have\n{table}");
    }

    fn lower(word: impl core::fmt::Debug) -> String {
        format!("{word:?}").to_lowercase()
    }

    #[test]
    fn a_session_imports_once() {
        let (role, ready) = (Role::Session, Phase::Ready);
        assert_eq!(after(role, Phase::New, Ask::Hello, 0), ready);
        assert_eq!(after(role, ready, Ask::Arrive, 0), ready);
        let running = after(role, ready, Ask::Arrive, 1);
        assert!(!permits(role, running, Ask::Open) && !permits(role, running, Ask::Arrive));
    }
}
