//! What the keeper remembers of each context besides the ledger: who has it, who pays for it,
//! and on what terms it is in transit.
//!
//! The ledger's words are for all to read; what stands here is the keeper's alone, and decides:
//! what a token says of its importer is only a copy.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use serde::{Deserialize, Serialize};

use super::members::MemberId;
use crate::ledger::importer::Permitted;

/// A departure: entry and epoch, which never come twice.
pub(super) type Departed = (u32, u64);

/// What is remembered of one entry.
#[derive(Clone)]
struct Entry {
    /// Who runs it, and where it stands in that member's list.
    holder: Option<(MemberId, usize)>,
    /// Whose quota it counts against: its holder, or who exported it.
    payer: Option<MemberId>,
    /// The last process that ran it.
    pid: u32,
    importer: Permitted,
    cookie: Option<u64>,
    /// The first of the bundle it travels in.
    bundle: Option<Departed>,
}

const NOTHING: Entry = Entry {
    holder: None,
    payer: None,
    pid: 0,
    importer: Permitted::Anyone,
    cookie: None,
    bundle: None,
};

/// A bundle of which some member is in transit.
struct Bundle {
    importer: Permitted,
    left: usize,
}

/// What a member has.
#[derive(Default)]
struct Account {
    owner: Option<MemberId>,
    held: Vec<u32>,
    charged: u32,
}

/// The keeper's memory, as it goes to the keeper that comes after it.
#[derive(Serialize, Deserialize)]
pub(super) struct Inventory {
    /// Those of which there is something to remember, by their number; last in a member's list last.
    entries: Vec<(u32, Listed)>,
    deadlines: Vec<(u64, Departed)>,
}

#[derive(Serialize, Deserialize)]
struct Listed {
    holder: Option<MemberId>,
    payer: Option<MemberId>,
    pid: u32,
    importer: Permitted,
    cookie: Option<u64>,
    bundle: Option<(Departed, Permitted)>,
}

/// The keeper's memory. Its size is bounded by the ledger's and by the number of members.
#[derive(Default)]
pub(super) struct Book {
    entries: Vec<Entry>,
    accounts: Vec<Account>,
    bundles: HashMap<Departed, Bundle>,
    deadlines: BinaryHeap<Reverse<(u64, Departed)>>,
    in_transit: usize,
}

impl Book {
    fn entry(&mut self, index: u32) -> &mut Entry {
        let at = index as usize;
        if at >= self.entries.len() {
            self.entries.resize(at + 1, NOTHING);
        }
        &mut self.entries[at]
    }

    fn account(&mut self, id: MemberId) -> &mut Account {
        let at = id.index as usize;
        if at >= self.accounts.len() {
            self.accounts.resize_with(at + 1, Account::default);
        }
        let account = &mut self.accounts[at];
        if account.owner != Some(id) {
            // The one before is gone, and what it had was taken from it.
            *account = Account {
                owner: Some(id),
                ..Account::default()
            };
        }
        account
    }

    /// Contexts that count against a member: those it runs, and those it exported that nobody has
    /// imported yet.
    pub(super) fn charged(&mut self, id: MemberId) -> u32 {
        self.account(id).charged
    }

    /// Who runs what is in an entry.
    pub(super) fn holder(&self, index: u32) -> Option<MemberId> {
        let (holder, _) = self.entries.get(index as usize)?.holder?;
        Some(holder)
    }

    /// Whose quota what is in an entry counts against.
    pub(super) fn payer(&self, index: u32) -> Option<MemberId> {
        self.entries.get(index as usize)?.payer
    }

    /// The last process that ran what is or was in an entry; 0 when none has.
    pub(super) fn pid(&self, index: u32) -> u32 {
        self.entries
            .get(index as usize)
            .map_or(0, |entry| entry.pid)
    }

    /// What a member runs.
    pub(super) fn held(&mut self, id: MemberId) -> &[u32] {
        &self.account(id).held
    }

    /// A context is `id`'s: a new one, or one that has arrived.
    pub(super) fn give(&mut self, index: u32, id: MemberId, pid: u32) {
        self.settle(index);
        let account = self.account(id);
        account.held.push(index);
        account.charged += 1;
        let place = account.held.len() - 1;
        let entry = self.entry(index);
        entry.holder = Some((id, place));
        entry.payer = Some(id);
        entry.pid = pid;
    }

    /// A context is in transit. Its exporter goes on paying for it.
    pub(super) fn send(
        &mut self,
        departed: Departed,
        deadline: u64,
        (importer, cookie): (Permitted, Option<u64>),
        bundle: Option<Departed>,
    ) {
        let (index, _) = departed;
        self.let_go(index);
        let entry = self.entry(index);
        (entry.importer, entry.cookie, entry.bundle) = (importer, cookie, bundle);
        self.in_transit += 1;
        if let Some(first) = bundle {
            let new = Bundle { importer, left: 0 };
            self.bundles.entry(first).or_insert(new).left += 1;
        }
        self.deadlines.push(Reverse((deadline, departed)));
        // Most have arrived long before their deadline: those go when they are more than the rest.
        if self.deadlines.len() > 2 * self.in_transit + 1024 {
            self.forget_arrived();
        }
    }

    /// A context has arrived or ended: nothing is remembered of it but its last process.
    pub(super) fn settle(&mut self, index: u32) {
        let was_held = self.let_go(index);
        let entry = self.entry(index);
        let (payer, bundle) = (entry.payer.take(), entry.bundle.take());
        if let Some(payer) = payer {
            if !was_held {
                self.in_transit = self.in_transit.saturating_sub(1);
            }
            let account = self.accounts.get_mut(payer.index as usize);
            if let Some(account) = account.filter(|account| account.owner == Some(payer)) {
                account.charged = account.charged.saturating_sub(1);
            }
        }
        if let Some(first) = bundle
            && let Some(found) = self.bundles.get_mut(&first)
        {
            found.left -= 1;
            if found.left == 0 {
                self.bundles.remove(&first);
            }
        }
    }

    /// Takes a context from its holder; whether it had one.
    fn let_go(&mut self, index: u32) -> bool {
        let Some((holder, place)) = self.entry(index).holder.take() else {
            return false;
        };
        let account = self.accounts.get_mut(holder.index as usize);
        let its = |account: &&mut Account| {
            account.owner == Some(holder) && account.held.get(place) == Some(&index)
        };
        let Some(account) = account.filter(its) else {
            return true;
        };
        account.held.swap_remove(place);
        if let Some(moved) = account.held.get(place).copied() {
            self.entry(moved).holder = Some((holder, place));
        }
        true
    }

    /// On what terms the context of an entry is in transit: who may import it, beside which socket.
    pub(super) fn terms(&self, index: u32) -> Option<(Permitted, Option<u64>)> {
        let entry = self.entries.get(index as usize)?;
        Some((entry.importer, entry.cookie))
    }

    /// Who may open the bundle whose first member this is, while some member is in transit.
    pub(super) fn bundle(&self, first: Departed) -> Option<Permitted> {
        self.bundles.get(&first).map(|bundle| bundle.importer)
    }

    /// When the next deadline may be.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.peek().map(|Reverse((time, _))| *time)
    }

    /// A departure whose deadline has come.
    pub(super) fn due(&mut self, now: u64) -> Option<Departed> {
        let Reverse((time, departed)) = *self.deadlines.peek()?;
        if time > now {
            return None;
        }
        self.deadlines.pop();
        Some(departed)
    }

    /// All of it.
    //= spec/keeper.md#succession
    pub(super) fn inventory(&self) -> Inventory {
        let listed = |entry: &Entry| Listed {
            holder: entry.holder.map(|(id, _)| id),
            payer: entry.payer,
            pid: entry.pid,
            importer: entry.importer,
            cookie: entry.cookie,
            bundle: entry.bundle.map(|first| {
                let permitted = self.bundle(first).unwrap_or(Permitted::Anyone);
                (first, permitted)
            }),
        };
        let entries = (0..).zip(&self.entries);
        Inventory {
            entries: entries
                .filter(|(_, entry)| entry.pid != 0)
                .map(|(index, entry)| (index, listed(entry)))
                .collect(),
            deadlines: self.deadlines.iter().map(|Reverse(one)| *one).collect(),
        }
    }

    /// The memory of the keeper before this one, of a ledger with so many entries, of whose members
    /// `is_member` tells. None when it
    /// cannot be one.
    //= spec/keeper.md#succession
    pub(super) fn succeed(
        inventory: Inventory,
        capacity: u32,
        is_member: impl Fn(MemberId) -> bool,
    ) -> Option<Self> {
        let mut book = Self::default();
        for (index, listed) in inventory.entries {
            if index >= capacity || listed.pid == 0 || book.pid(index) != 0 {
                return None;
            }
            if let Some(holder) = listed.holder {
                if !is_member(holder) {
                    return None;
                }
                book.give(index, holder, listed.pid);
                continue;
            }
            if let Some(payer) = listed.payer {
                // Of one that is gone, another one may have the number by now, and its account.
                if is_member(payer) {
                    book.account(payer).charged += 1;
                }
                book.in_transit += 1;
            }
            if let Some((first, importer)) = listed.bundle {
                let new = Bundle { importer, left: 0 };
                book.bundles.entry(first).or_insert(new).left += 1;
            }
            *book.entry(index) = Entry {
                holder: None,
                payer: listed.payer,
                pid: listed.pid,
                importer: listed.importer,
                cookie: listed.cookie,
                bundle: listed.bundle.map(|(first, _)| first),
            };
        }
        let within = |(_, (index, _)): &(u64, Departed)| *index < capacity;
        if !inventory.deadlines.iter().all(within) {
            return None;
        }
        book.deadlines = inventory.deadlines.into_iter().map(Reverse).collect();
        Some(book)
    }

    /// Deadlines that are remembered.
    #[cfg(all(test, not(loom)))]
    pub(super) fn waiting(&self) -> usize {
        self.deadlines.len()
    }

    /// Keeps the latest deadline of each entry that is in transit.
    fn forget_arrived(&mut self) {
        let all = std::mem::take(&mut self.deadlines).into_vec();
        let mut latest: HashMap<u32, (u64, u64)> = HashMap::new();
        for Reverse((time, (index, epoch))) in all {
            let entry = self.entries.get(index as usize);
            if entry.is_some_and(|entry| entry.holder.is_none() && entry.payer.is_some()) {
                let known = latest.entry(index).or_insert((epoch, time));
                if epoch > known.0 {
                    *known = (epoch, time);
                }
            }
        }
        self.deadlines = latest
            .into_iter()
            .map(|(index, (epoch, time))| Reverse((time, (index, epoch))))
            .collect();
    }
}
