//! One request after the other: read, looked up in the table of roles, answered.

use std::io::IoSlice;

use super::Keeper;
use super::members::{MemberId, identify};
use super::roles::{Ask, Phase, Role, after, permits};
use crate::ledger::control::{Cause, Control, State};
use crate::ledger::header::{halves, joined};
use crate::ledger::importer::{Permitted, Terms};
use crate::ledger::table::refusal;
use crate::ledger::wire::{self, Code, GRANT, Handle, Leaving, Request, Sink, Welcome};
use crate::ledger::{ContextId, Refusal, random_id};
use crate::sys::clock::boottime_ms;
use crate::sys::process::{Identity, process_group_of};
use crate::sys::{fault, socket};

/// What came of listening to a member once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    One,
    Nothing,
    /// The connection is to end.
    Over,
}

/// Whether a request can wait for another member to be heard first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    Some,
    None,
}

/// Another member is to be heard first.
struct Awaited(MemberId);

/// A request that waits for that.
pub(super) struct Deferred {
    id: MemberId,
    sender: socket::Peer,
    request: Vec<u8>,
    holder: MemberId,
}

/// Who asks.
#[derive(Clone, Copy)]
struct Asker {
    id: MemberId,
    role: Role,
    phase: Phase,
    only: Option<ContextId>,
    /// The user the kernel says this very request is from.
    uid: u32,
    identity: Identity,
    slot: u32,
}

impl Asker {
    /// Whether it may import what is for `permitted`.
    //= spec/keeper.md#importer
    fn may_import(&self, permitted: Permitted) -> bool {
        let group = || process_group_of(self.identity.pid).ok();
        permitted.is(self.uid, &self.identity, group)
    }

    /// Whether its connection is for this context.
    //= spec/keeper.md#named
    fn is_for(&self, context: Option<ContextId>) -> bool {
        self.only.is_none() || self.only == context
    }
}

impl Keeper {
    /// Takes one message of a member and answers it. False when the connection is to end.
    pub(super) fn hear(&mut self, id: MemberId) -> bool {
        self.hear_one(id) != Heard::Over
    }

    /// [`Keeper::hear`], of a process that has ended. False when it had said nothing more.
    pub(super) fn has_more(&mut self, id: MemberId) -> bool {
        self.hear_one(id) == Heard::One
    }

    fn hear_one(&mut self, id: MemberId) -> Heard {
        let Some(member) = self.members.get(id) else {
            return Heard::Nothing;
        };
        let signed = match socket::recv_signed(&member.socket, &mut self.request) {
            Ok(signed) => signed,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Heard::Nothing,
            Err(_) => return Heard::Over,
        };
        let Some(sender) = signed.sender.filter(|_| !signed.cut) else {
            return Heard::Over;
        };
        let request = std::mem::take(&mut self.request);
        let bytes = request.get(..signed.len).unwrap_or(&[]);
        let weighed = match Request::read(bytes) {
            Some(asked) => self.weigh(id, sender, &asked, Patience::Some),
            None => Ok(false),
        };
        let goes_on = match weighed {
            Ok(goes_on) => goes_on,
            Err(Awaited(holder)) => {
                self.deferred.push_back(Deferred {
                    id,
                    sender,
                    request: bytes.to_vec(),
                    holder,
                });
                true
            }
        };
        self.request = request;
        if goes_on { Heard::One } else { Heard::Over }
    }

    /// Answers what waited for another member to be heard first.
    //= spec/keeper.md#depart
    pub(super) fn hear_deferred(&mut self) {
        let mut budget = super::LAST_WORDS;
        while let Some(one) = self.deferred.pop_front() {
            let more = budget > 0 && self.has_more(one.holder);
            budget = budget.saturating_sub(1);
            let patience = match more {
                true => Patience::Some,
                false => Patience::None,
            };
            let weighed = match Request::read(&one.request) {
                Some(asked) => self.weigh(one.id, one.sender, &asked, patience),
                None => Ok(false),
            };
            match weighed {
                Ok(true) => {}
                Ok(false) => self.end_member(one.id),
                Err(Awaited(holder)) => self.deferred.push_back(Deferred { holder, ..one }),
            }
        }
    }

    /// Who still runs what is to arrive at `epoch`, if it is to be heard first: its departure may be
    /// on the way, and the token is faster.
    fn awaited(&self, id: MemberId, index: u32, epoch: u64) -> Option<MemberId> {
        let found = self.ledger.table().control(index as usize)?;
        if found.transit().map(Control::serial) != Some(epoch) {
            return None;
        }
        self.book.holder(index).filter(|holder| *holder != id)
    }

    /// Asks the table of roles, and does what is permitted.
    //= spec/keeper.md#violations
    fn weigh(
        &mut self,
        id: MemberId,
        sender: socket::Peer,
        asked: &Request<'_>,
        patience: Patience,
    ) -> Result<bool, Awaited> {
        let Some(member) = self.members.get(id) else {
            return Ok(true);
        };
        let (role, phase, only) = (member.role, member.phase, member.only);
        if !permits(role, phase, asked.ask()) {
            return Ok(false);
        }
        // Looked at before it changes anything; an OPEN changes nothing, and is looked at when refused.
        let waits = patience == Patience::Some;
        if waits
            && matches!(asked, Request::Arrive(_))
            && let Some(holder) = self.awaits(id, asked)
        {
            return Err(Awaited(holder));
        }
        self.answer.truncate(0);
        let arrived = match (&member.process, asked) {
            (None, Request::Hello(handle)) => return Ok(self.greet(id, sender, *handle)),
            // Another process than the one that greeted: a child with its parent's connection.
            (Some(process), _) if process.identity.pid == sender.pid => {
                let asker = Asker {
                    id,
                    role,
                    phase,
                    only,
                    uid: sender.uid,
                    identity: process.identity,
                    slot: process.slot,
                };
                match self.fulfil(&asker, asked) {
                    Some(arrived) => arrived,
                    None => return Ok(false),
                }
            }
            _ => return Ok(false),
        };
        if waits
            && matches!(asked, Request::Open(_))
            && self.answer.first() == Some(&wire::REFUSED)
            && let Some(holder) = self.awaits(id, asked)
        {
            return Err(Awaited(holder));
        }
        if let Request::Ledger = asked {
            self.answer.truncate(0);
            return Ok(self.welcome(id));
        }
        let Some(member) = self.members.get_mut(id) else {
            return Ok(true);
        };
        member.phase = after(role, phase, asked.ask(), arrived);
        fault::point("keeper.answering");
        //= spec/keeper.md#back-pressure
        Ok(self.answer.is_empty() || socket::send_now(&member.socket, &self.answer).is_ok())
    }

    /// Who is to be heard before this can be answered.
    fn awaits(&self, id: MemberId, asked: &Request<'_>) -> Option<MemberId> {
        match asked {
            Request::Open(handle) => {
                let (index, epoch) = self.secrets.departure(handle)?;
                self.awaited(id, index, epoch)
            }
            // What travels in a bundle was waited for.
            Request::Arrive(items) => {
                let one = wire::arriving(items).next()??;
                self.awaited(id, one.index, one.epoch)
            }
            _ => None,
        }
    }

    /// The first message: who it is, and what it gets.
    //= spec/keeper.md#hello
    fn greet(&mut self, id: MemberId, sender: socket::Peer, handle: Option<Handle>) -> bool {
        let Some(member) = self.members.get(id) else {
            return true;
        };
        let (role, only) = (member.role, member.only);
        if handle.is_some() && !permits(role, Phase::Ready, Ask::Open) {
            return false;
        }
        let Ok((identity, pidfd)) = identify(&member.socket, sender.pid) else {
            return false;
        };
        let word = u64::from(id.generation) << 32 | u64::from(sender.pid);
        let Ok(Some(slot)) = self.ledger.enroll(&identity, word.max(1)) else {
            return false;
        };
        if self.members.greet(id, identity, pidfd, slot).is_err() {
            self.ledger.processes().leave(slot);
            return false;
        }
        if let Some(member) = self.members.get_mut(id) {
            member.phase = after(role, Phase::New, Ask::Hello, 0);
        }
        self.answer.truncate(0);
        if let Some(handle) = handle {
            let asker = Asker {
                id,
                role,
                phase: Phase::Ready,
                only,
                uid: sender.uid,
                identity,
                slot,
            };
            self.open(&asker, &handle);
            if self.answer.first() != Some(&wire::OPENED) {
                // What speaks against it is said when it is asked again.
                self.answer.truncate(0);
            }
        }
        self.welcome(id)
    }

    /// Says what the domain is, before what is answered already, and gives the ledger.
    //= spec/keeper.md#following
    fn welcome(&mut self, id: MemberId) -> bool {
        let Some(member) = self.members.get(id) else {
            return true;
        };
        let welcome = Welcome {
            role: member.role,
            quota: self.options.quota,
            key: self.secrets.id(),
            domain: self.ledger.domain_id(),
        };
        let mut first = Vec::with_capacity(64);
        welcome.write(&mut first);
        let message = [IoSlice::new(&first), IoSlice::new(&self.answer)];
        let ledger = [self.ledger.mapping().fd()];
        socket::send_with_fds_now(&member.socket, &message, &ledger).is_ok()
    }

    /// Does what is asked and writes the answer: how many contexts have arrived. None when the
    /// request cannot be.
    fn fulfil(&mut self, asker: &Asker, asked: &Request<'_>) -> Option<usize> {
        match asked {
            Request::Hello(_) => return None,
            // Answered with a descriptor, by whoever called this.
            Request::Ledger => {}
            Request::Establish => self.establish(asker),
            Request::Depart(terms, items) => self.depart(asker, terms, items)?,
            Request::Open(handle) => self.open(asker, handle),
            Request::Arrive(items) => return self.arrive(asker, items),
            Request::End(items) => self.end(asker, items)?,
            Request::Revoke(id) => {
                let revoked = self.revoke(id);
                self.answer.put(&[wire::REVOKED, u8::from(revoked)]);
            }
        }
        Some(0)
    }

    fn refuse(&mut self, code: Code) {
        self.answer.put(&[wire::REFUSED, code as u8]);
    }

    /// Writes handle and key of the next departure of a context that is active at `control`.
    //= spec/keeper.md#grant
    fn grant(&mut self, index: u32, control: Control) {
        let mut grant = [0; GRANT];
        // An entry at its last epoch departs no more, and needs no key for it.
        if let Some(next) = control.transit() {
            let handle = self.secrets.handle(index, next.serial());
            let (place, key) = grant.split_at_mut(wire::HANDLE);
            place.copy_from_slice(&handle);
            key.copy_from_slice(&self.secrets.key(&handle));
        }
        self.answer.put(&grant);
    }

    //= spec/keeper.md#establish
    fn establish(&mut self, asker: &Asker) {
        if self.book.charged(asker.id) >= self.options.quota {
            return self.refuse(Code::Quota);
        }
        let Ok(id) = random_id() else {
            return self.refuse(Code::Full);
        };
        self.ledger.processes().hold(asker.slot);
        let Ok(Some((index, control))) = self.ledger.new_entry(asker.slot, halves(&id), self.near)
        else {
            self.ledger.processes().release(asker.slot);
            return self.refuse(Code::Full);
        };
        fault::point("keeper.established");
        self.near = index;
        // At most 2^24 entries: it fits.
        let index = index as u32;
        self.book.give(index, asker.id, asker.identity.pid);
        self.answer.put(&[wire::ESTABLISHED]);
        self.answer.put(&index.to_be_bytes());
        self.answer.put(&control.0.to_be_bytes());
        self.answer.put(&id);
        self.grant(index, control);
    }

    //= spec/keeper.md#depart
    fn depart(&mut self, asker: &Asker, terms: &Terms, items: &[u8]) -> Option<()> {
        let leaving: Vec<Leaving> = wire::leaving(items).collect::<Option<_>>()?;
        let longest = u64::try_from(self.options.longest_transit.as_millis()).unwrap_or(u64::MAX);
        let deadline = terms.deadline.min(boottime_ms().saturating_add(longest));
        self.answer.put(&[wire::DEPARTED]);
        wire::write_count(&mut self.answer, leaving.len());
        if leaving.len() == 1 {
            // Nobody waits for an answer.
            self.answer.truncate(0);
        }
        let answered = leaving.len() > 1;
        let mut bundle = None;
        for (number, one) in leaving.iter().enumerate() {
            let departed = match number > 0 && bundle.is_none() {
                // The bundle is sealed with the key of its first member.
                true => Err(Code::Unknown),
                false => self.depart_one(asker, one, deadline),
            };
            let code = match departed {
                Ok(departed) => {
                    if number == 0 && leaving.len() > 1 {
                        bundle = Some(departed);
                    }
                    let terms = (terms.importer, one.cookie);
                    self.book.send(departed, deadline, terms, bundle);
                    Code::Done
                }
                Err(code) => code,
            };
            if answered {
                self.answer.put(&[code as u8]);
            }
            fault::point("keeper.departed");
        }
        Some(())
    }

    fn depart_one(
        &mut self,
        asker: &Asker,
        one: &Leaving,
        deadline: u64,
    ) -> Result<(u32, u64), Code> {
        let (index, active) = (one.index as usize, Control(one.control));
        let table = self.ledger.table();
        if self.book.holder(one.index) != Some(asker.id) {
            return Err(match table.revoked(index, active) {
                true => Code::Revoked,
                false => Code::Ended,
            });
        }
        if active.transit().is_none() {
            return Err(Code::Epochs);
        }
        let transit = table.depart(index, active, deadline).ok_or(Code::Ended)?;
        self.ledger.processes().release(asker.slot);
        Ok((one.index, transit.serial()))
    }

    /// Answers the key of a token or a bundle, and changes nothing.
    //= spec/keeper.md#open
    fn open(&mut self, asker: &Asker, handle: &Handle) {
        match self.opened(asker, handle) {
            Ok(()) => {
                let key = self.secrets.key(handle);
                self.answer.put(&[wire::OPENED]);
                self.answer.put(&key);
            }
            Err(refusal) => self.refuse((&refusal).into()),
        }
    }

    fn opened(&self, asker: &Asker, handle: &Handle) -> Result<(), Refusal> {
        let departed = self.secrets.departure(handle).ok_or(Refusal::Key)?;
        let (index, epoch) = departed;
        let context = self.ledger.table().id(index as usize).map(joined);
        if !asker.is_for(context) {
            return Err(Refusal::Importer);
        }
        let permitted = match self.book.bundle(departed) {
            // One key opens all that travels in a bundle.
            Some(_) if asker.only.is_some() => return Err(Refusal::Importer),
            Some(permitted) => permitted,
            None => {
                let found = self.ledger.table().control(index as usize);
                let found = found.ok_or(Refusal::Unknown)?;
                if Control::arriving(epoch) != Some(found) {
                    return Err(refusal(found, true, epoch));
                }
                self.book.terms(index).ok_or(Refusal::Unknown)?.0
            }
        };
        match asker.may_import(permitted) {
            true => Ok(()),
            false => Err(Refusal::Importer),
        }
    }

    //= spec/keeper.md#arrive
    fn arrive(&mut self, asker: &Asker, items: &[u8]) -> Option<usize> {
        let items: Vec<_> = wire::arriving(items).collect::<Option<_>>()?;
        if asker.role == Role::Session && asker.phase == Phase::Ready && items.len() > 1 {
            return None;
        }
        self.answer.put(&[wire::ARRIVED]);
        wire::write_count(&mut self.answer, items.len());
        let mut arrived = 0;
        for one in items {
            match self.arrive_one(asker, &one) {
                Ok(control) => {
                    arrived += 1;
                    self.book.give(one.index, asker.id, asker.identity.pid);
                    self.answer.put(&[Code::Done as u8]);
                    self.answer.put(&control.0.to_be_bytes());
                    self.grant(one.index, control);
                }
                Err(code) => {
                    self.answer.put(&[code as u8]);
                    self.answer.put(&[0; 8 + GRANT]);
                }
            }
            fault::point("keeper.arrived");
        }
        Some(arrived)
    }

    fn arrive_one(&mut self, asker: &Asker, one: &wire::Arriving) -> Result<Control, Code> {
        let table = self.ledger.table();
        let index = one.index as usize;
        let found = table.control(index).ok_or(Code::Unknown)?;
        let same = table.id(index).map(joined) == Some(one.id);
        if !same || Control::arriving(one.epoch) != Some(found) {
            return Err((&refusal(found, same, one.epoch)).into());
        }
        let (permitted, cookie) = self.book.terms(one.index).ok_or(Code::Unknown)?;
        if !asker.may_import(permitted) || !asker.is_for(Some(one.id)) {
            return Err(Code::Importer);
        }
        if cookie.is_some() && cookie != one.cookie {
            return Err(Code::Socket);
        }
        // Who imports what it exported itself has paid for it.
        let paid = u32::from(self.book.payer(one.index) == Some(asker.id));
        if self.book.charged(asker.id) - paid >= self.options.quota {
            return Err(Code::Quota);
        }
        self.ledger.processes().hold(asker.slot);
        let now = boottime_ms();
        match table.arrive(index, halves(&one.id), one.epoch, asker.slot, now) {
            Ok(control) => Ok(control),
            Err(refusal) => {
                self.ledger.processes().release(asker.slot);
                if table.control(index).map(Control::state) != Some(State::Transit) {
                    // Its deadline came just now.
                    self.ended(one.index);
                }
                Err((&refusal).into())
            }
        }
    }

    /// Ends contexts; nobody waits for an answer.
    //= spec/keeper.md#end
    fn end(&mut self, asker: &Asker, items: &[u8]) -> Option<()> {
        for item in wire::ending(items) {
            let (index, control) = item?;
            let table = self.ledger.table();
            // What was revoked meanwhile has ended before.
            if self.book.holder(index) == Some(asker.id)
                && table.over(index as usize, Control(control), Cause::Closed)
            {
                self.ended(index);
            }
        }
        Some(())
    }
}
