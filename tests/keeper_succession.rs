//! One keeper after another: contexts run on, and at no time two keepers answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use baton::context::Context;
use baton::ledger::keeper::{KEYS, Keeper, Options, Retiring, Role};
use baton::ledger::{Cause, Domain, Lost};
use baton::message::Message;
use baton::secret::Slot;
use baton::status::Minor;
use baton::sys::process::{Child, Signal};
use baton::sys::socket;
use baton::transfer::{Export, import};
use rustix::process::set_parent_process_death_signal;
use support::{forked, pair, talk};

/// What a keeper's process is told to do next, a byte each.
const CONNECT: u8 = b'c';
const GIVE: u8 = b'g';
const MOVE_OUT: u8 = b'm';
const RESUME: u8 = b'r';
const LEAVE: u8 = b'l';
const REVOKE: u8 = b'v';
const BEGIN: u8 = b'b';

/// A process that keeps a domain, or is to.
struct Process {
    child: Child,
    control: OwnedFd,
}

impl Process {
    /// The first keeper.
    fn first() -> Self {
        Self::of(|control| serve(Keeper::new(&Options::default()).unwrap(), control))
    }

    /// A keeper that comes after another one, from what is given over `given`; it begins when told.
    fn after(given: OwnedFd) -> Self {
        Self::of(move |control| {
            let keeper = received(&given);
            drop(given);
            say(control, b"ready", &[]);
            match hear(control) {
                Some((byte, _)) if byte == [BEGIN] => serve(keeper, control),
                _ => {}
            }
        })
    }

    fn of(run: impl FnOnce(&OwnedFd)) -> Self {
        let (control, far) = socket::pair().unwrap();
        let child = forked(|| {
            set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
            run(&far);
            0
        });
        drop(far);
        Self { child, control }
    }

    fn tell(&self, message: &[u8], fds: &[BorrowedFd<'_>]) {
        say(&self.control, message, fds);
    }

    fn hear(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        hear(&self.control).expect("it lives")
    }

    fn domain(&self, role: Role) -> Domain {
        let at = Role::ALL.iter().position(|one| *one == role).unwrap() as u8;
        self.tell(&[CONNECT, at], &[]);
        Domain::kept(self.hear().1.pop().unwrap()).unwrap()
    }

    /// Has this keeper give all it has to a new process, which is ready then.
    fn give(&self) -> Self {
        let (near, far) = socket::pair().unwrap();
        self.tell(&[GIVE], &[near.as_fd()]);
        drop(near);
        let next = Self::after(far);
        assert_eq!(next.hear().0, b"ready");
        next
    }

    fn order(&self, order: u8) {
        self.tell(&[order], &[]);
        assert_eq!(self.hear().0, [order]);
    }

    /// The whole succession.
    fn succeeded(mut self) -> Self {
        let next = self.give();
        self.order(MOVE_OUT);
        next.tell(&[BEGIN], &[]);
        self.tell(&[LEAVE], &[]);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        next
    }

    fn kill(&mut self) {
        self.child.kill(Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn say(socket: &OwnedFd, message: &[u8], fds: &[BorrowedFd<'_>]) {
    socket::send_with_fds(socket, &[IoSlice::new(message)], fds).unwrap();
}

fn hear(socket: &OwnedFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut message, mut fds) = (vec![0; 100_000], Vec::new());
    let got = socket::recv_with_fds(socket, &mut message, &mut fds, true).unwrap();
    message.truncate(got.len);
    (got.len > 0).then_some((message, fds))
}

/// What a keeper's process does: turns, and does what it is told.
fn serve(mut keeper: Keeper, control: &OwnedFd) {
    loop {
        keeper.turn(Some(Duration::from_millis(1))).unwrap();
        let (mut message, mut fds) = ([0; 32], Vec::new());
        let Ok(got) = socket::recv_with_fds(control, &mut message, &mut fds, false) else {
            continue;
        };
        match &message[..got.len] {
            [] => return,
            [CONNECT, at] => {
                let (_, far) = keeper.connect(Role::ALL[usize::from(*at)]).unwrap();
                say(control, &[CONNECT], &[far.as_fd()]);
            }
            [REVOKE, id @ ..] => {
                assert!(keeper.revoke(id.try_into().unwrap()));
                let mut causes = Vec::new();
                keeper.releases(|release| causes.push(release.cause));
                causes.retain(|cause| *cause == Cause::Revoked);
                say(control, &[REVOKE, causes.len() as u8], &[]);
            }
            [GIVE] => {
                if !goes_on(&mut keeper, &fds.pop().unwrap(), control) {
                    return;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Gives all, and then does what it is told; whether it goes on.
fn goes_on(keeper: &mut Keeper, to: &OwnedFd, control: &OwnedFd) -> bool {
    let retiring = keeper.retire();
    given(&retiring, to);
    loop {
        let Some((order, _)) = hear(control) else {
            return false;
        };
        match order[..] {
            [MOVE_OUT] => {
                retiring.move_out();
                say(control, &[MOVE_OUT], &[]);
            }
            [RESUME] => {
                drop(retiring);
                say(control, &[RESUME], &[]);
                return true;
            }
            [LEAVE] => {
                retiring.leave();
                return false;
            }
            ref other => panic!("{other:?}"),
        }
    }
}

fn given(retiring: &Retiring<'_>, to: &OwnedFd) {
    say(to, &retiring.inventory().unwrap(), &[]);
    say(to, &retiring.keys()[..], &[]);
    for some in retiring.fds().chunks(socket::MAX_DESCRIPTORS) {
        say(to, b"fds", some);
    }
    say(to, b"all", &[]);
}

fn received(from: &OwnedFd) -> Keeper {
    let (inventory, _) = hear(from).unwrap();
    let mut keys = Slot::<[u8; KEYS]>::zeroed();
    keys.copy_from_slice(&hear(from).unwrap().0);
    let mut fds = Vec::new();
    loop {
        match hear(from).unwrap() {
            (message, some) if message == b"fds" => fds.extend(some),
            _ => break,
        }
    }
    Keeper::succeed(&inventory, &keys, fds).unwrap()
}

type Pair = (Context<Message>, Context<Message>);

fn pairs(domain: &Domain, count: usize) -> Vec<Pair> {
    (0..count).map(|_| pair::<Message>(domain)).collect()
}

/// Contexts run, hop and are revoked under the second keeper as under the first, and under the
/// twentieth.
//= proves spec/keeper.md#succession C4 C6
//= proves spec/keeper.md#following C4
#[test]
fn contexts_run_on_under_one_keeper_after_another() {
    let mut keeper = Process::first();
    let domain = keeper.domain(Role::Member);
    let idle = keeper.domain(Role::Member);
    let mut idle_pair = pair::<Message>(&idle);
    let mut all = pairs(&domain, 300);
    for round in 0..20 {
        // One travels while the keepers change.
        let (context, mut peer) = all.pop().unwrap();
        let token = context.export(&Export::default()).unwrap();
        keeper = keeper.succeeded();
        let mut context = import::<Message>(&domain, token.as_bytes(), None).unwrap();
        let again = import::<Message>(&domain, token.as_bytes(), None).unwrap_err();
        assert_eq!(again.minor(), Minor::TokenSpent, "round {round}");
        talk(&mut context, &mut peer);
        all.push((context, peer));
        for (context, peer) in &mut all {
            talk(context, peer);
        }
        // New members and new contexts are as good as old ones.
        let mut fresh = pair::<Message>(&keeper.domain(Role::Member));
        talk(&mut fresh.0, &mut fresh.1);
    }
    // Twenty keepers later.
    talk(&mut idle_pair.0, &mut idle_pair.1);
    let (revoked, _peer) = all.pop().unwrap();
    let id = *revoked.session_identifier().as_bytes();
    keeper.tell(&[&[REVOKE][..], &id].concat(), &[]);
    assert_eq!(keeper.hear().0, [REVOKE, 1]);
    assert_eq!(revoked.check().unwrap_err(), Lost::Revoked.into());
    keeper.kill();
    for (context, _) in all.iter().chain([&idle_pair]) {
        assert_eq!(context.check().unwrap_err(), Lost::KeeperGone.into());
    }
}

/// A member that did nothing while two keepers changed finds out that the last one died.
//= proves spec/keeper.md#following
#[test]
fn who_has_not_followed_is_as_dead_as_all_others() {
    let first = Process::first();
    let domain = first.domain(Role::Member);
    let (context, _peer) = pair::<Message>(&domain);
    let mut second = first.succeeded();
    second.kill();
    assert_eq!(context.check().unwrap_err(), Lost::KeeperGone.into());
}

/// Until the new keeper has begun, the old one can go on, and then all is as it was.
//= proves spec/keeper.md#succession C4
#[test]
fn a_new_keeper_that_dies_before_it_begins_costs_nothing() {
    let first = Process::first();
    let domain = first.domain(Role::Member);
    let mut all = pairs(&domain, 3);
    for moves_out in [false, true] {
        let mut second = first.give();
        // Operations need no keeper.
        all.iter_mut().for_each(|(one, peer)| talk(one, peer));
        if moves_out {
            first.order(MOVE_OUT);
        }
        second.kill();
        first.order(RESUME);
        all.iter_mut().for_each(|(one, peer)| talk(one, peer));
        all.extend(pairs(&domain, 1));
    }
    // What was asked while nobody answered is answered by who goes on.
    let second = first.give();
    first.order(MOVE_OUT);
    let (waiting, mut peer) = all.pop().unwrap();
    let thread = std::thread::spawn(move || {
        let mut waiting = waiting;
        talk(&mut waiting, &mut peer);
    });
    drop(second);
    first.order(RESUME);
    thread.join().unwrap();
}

/// An old keeper that dies once it has moved out has handed over; before, everything is over.
//= proves spec/keeper.md#succession C4
#[test]
fn an_old_keeper_that_dies_has_moved_out_or_not() {
    for moves_out in [true, false] {
        let mut first = Process::first();
        let domain = first.domain(Role::Member);
        let (mut context, mut peer) = pair::<Message>(&domain);
        let second = first.give();
        if moves_out {
            first.order(MOVE_OUT);
        }
        first.kill();
        second.tell(&[BEGIN], &[]);
        if moves_out {
            talk(&mut context, &mut peer);
        } else {
            assert_eq!(context.check().unwrap_err(), Lost::KeeperGone.into());
        }
    }
}

/// A forked child does not follow for its parent, and has nothing of it.
//= proves spec/keeper.md#following C3
#[test]
fn a_forked_copy_does_not_follow() {
    let first = Process::first();
    let domain = first.domain(Role::Member);
    let (mut context, mut peer) = pair::<Message>(&domain);
    let (mut told, mut tell) = std::io::pipe().unwrap();
    let mut child = forked(|| {
        told.read_exact(&mut [0]).unwrap();
        u8::from(context.check().unwrap_err() != Lost::Forked.into())
    });
    let _second = first.succeeded();
    tell.write_all(b"!").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    talk(&mut context, &mut peer);
}

/// An inventory that is none is refused, whatever is wrong with it.
//= proves spec/keeper.md#succession
#[test]
fn a_damaged_inventory_is_an_error() {
    let code = support::in_child(|| {
        let mut keeper = Keeper::new(&Options::default()).unwrap();
        let (_, _far) = keeper.connect(Role::Session).unwrap();
        let retiring = keeper.retire();
        let inventory = retiring.inventory().unwrap();
        let own: Vec<OwnedFd> = retiring
            .fds()
            .into_iter()
            .map(|fd| fd.try_clone_to_owned().unwrap())
            .collect();
        let mut keys = Slot::<[u8; KEYS]>::zeroed();
        keys.copy_from_slice(&retiring.keys()[..]);
        // Another thread, as another process would be: a keeper belongs to one.
        let other = std::thread::spawn(move || {
            let fds = || -> Vec<OwnedFd> { own.iter().map(|fd| fd.try_clone().unwrap()).collect() };
            let succeed = |bytes: &[u8], fds| Keeper::succeed(bytes, &keys, fds).is_ok();
            let good = (0..inventory.len()).filter(|cut| succeed(&inventory[..*cut], fds()));
            assert_eq!(good.count(), 0);
            let mut few = fds();
            few.pop();
            assert!(!succeed(&inventory, few));
            let mut many = fds();
            many.extend(own[0].try_clone());
            assert!(!succeed(&inventory, many));
            Keeper::succeed(&inventory, &keys, fds()).unwrap();
        });
        u8::from(other.join().is_err())
    });
    assert_eq!(code, Some(0));
}

/// A new keeper that gives up takes nothing with it.
//= proves spec/keeper.md#succession C4
#[test]
fn a_new_keeper_that_is_dropped_before_it_begins_costs_nothing() {
    let first = Process::first();
    let domain = first.domain(Role::Member);
    let mut all = pairs(&domain, 3);
    let mut second = first.give();
    second.tell(b"drop it", &[]);
    second.child.wait().unwrap();
    first.order(RESUME);
    all.iter_mut().for_each(|(one, peer)| talk(one, peer));
    all.extend(pairs(&domain, 1));
}
