//! A kept domain when somebody dies (C4): one outcome for each context, and each release once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod keeping;
mod support;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;

use baton::context::Context;
use baton::ledger::keeper::{Options, Role};
use baton::ledger::{Cause, Domain, Lost};
use baton::message::Message;
use baton::record::Record;
use baton::status::{Major, Minor};
use baton::sys::fault::{self, Action};
use baton::sys::process::Signal;
use baton::transfer::{
    Export, Incoming, Laden, Luggage, Parcel, bundle, import, load, passage, unload,
};
use keeping::Keeping;
use rustix::event::{PollFd, PollFlags, poll};
use support::{Talk, forked, pair, pipe, talk};

/// C4: the exporter is killed at each step.
#[test]
fn an_exporter_killed_at_any_step_leaves_one_outcome() {
    for (point, passing, transit) in [
        ("export.encoded", 1, false),
        ("export.sealed", 1, false),
        // The keeper hears what was said before the death, in whatever order it is told of both.
        ("kept.asked", 1, true),
        ("export.departed", 1, true),
    ] {
        let keeping = Keeping::new();
        let domain = keeping.domain(Role::Handshaker);
        let (context, _peer) = pair::<Message>(&domain);
        let token = context.export(&Export::default()).unwrap();
        let socket = keeping.connect(Role::Worker);
        let mut child = forked(|| {
            let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
            let context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
            fault::arm(point, passing, Action::Kill);
            u8::from(context.export(&Export::default()).is_err())
        });
        assert_eq!(
            child.wait().unwrap().signal(),
            Some(9),
            "{point} is on the way"
        );
        keeping.wait_members(1);
        let (releases, census) = (keeping.releases(0), keeping.census());
        assert_eq!(releases.len() + census.transit, 1, "{point}");
        assert_eq!(census.active, 0, "{point}");
        assert_eq!(census.transit == 1, transit, "{point}");
        assert!(
            releases
                .iter()
                .all(|release| release.cause == Cause::OwnerDied)
        );
        assert!(releases.iter().all(|release| release.pid == child.pid()));
    }
}

/// C4: the importer is killed at each step; either the token imports elsewhere, or the context has
/// ended and its release is told.
//= proves spec/keeper.md#end-of-a-member C4
#[test]
fn an_importer_killed_at_any_step_leaves_one_outcome() {
    for (point, passing, arrived) in [
        ("kept.asked", 1, Some(false)),
        ("kept.answered", 1, Some(false)),
        ("import.opened", 1, Some(false)),
        ("import.admitted", 1, Some(false)),
        ("kept.asked", 2, None),
        ("kept.answered", 2, Some(true)),
        ("import.claimed", 1, Some(true)),
    ] {
        let keeping = Keeping::new();
        let domain = keeping.domain(Role::Member);
        let (context, mut peer) = pair::<Record>(&domain);
        let token = context.export(&Export::default()).unwrap();
        let socket = keeping.connect(Role::Worker);
        let mut child = forked(|| {
            let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
            fault::arm(point, passing, Action::Kill);
            u8::from(import::<Record>(&domain, token.as_bytes(), None).is_err())
        });
        assert_eq!(
            child.wait().unwrap().signal(),
            Some(9),
            "{point} is on the way"
        );
        keeping.wait_members(1);
        let releases = keeping.releases(0);
        match import::<Record>(&domain, token.as_bytes(), None) {
            Ok(mut context) => {
                assert_ne!(arrived, Some(true), "{point}");
                assert!(releases.is_empty(), "{point}");
                talk(&mut context, &mut peer);
            }
            Err(status) => {
                assert_ne!(arrived, Some(false), "{point}");
                assert_eq!(status.major(), Major::NoContext, "{point}");
                assert_eq!(releases.len(), 1, "{point}");
                assert_eq!(releases[0].cause, Cause::OwnerDied);
            }
        }
    }
}

/// C4: the last thing that can fail in an import fails; the token is not spent.
#[test]
fn a_failed_import_leaves_the_token_of_a_kept_domain() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (context, mut peer) = pair::<Record>(&domain);
    let token = context.export(&Export::default()).unwrap();
    fault::arm("import.resumed", 1, Action::Fail);
    let refused = import::<Record>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(refused.minor(), Minor::Injected);
    let mut context: Context<Record> = import(&domain, token.as_bytes(), None).unwrap();
    talk(&mut context, &mut peer);
    // And a failed export leaves the context.
    fault::arm("ledger.depart.epochs", 2, Action::Fail);
    let mut context = context.export(&Export::default()).unwrap_err().context;
    talk(&mut context, &mut peer);
}

/// Waits until the keeper's end of a connection is closed.
fn wait_hung_up(socket: &impl AsFd) {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    poll(&mut fds, None).unwrap();
}

/// The keeper is killed: whoever sees its connection end finds every context dead.
//= proves spec/keeper.md#keeper-death C3
#[test]
fn every_context_is_dead_when_the_keeper_is() {
    let keeping = Keeping::new();
    let socket = keeping.connect(Role::Member);
    let watched = socket.try_clone().unwrap();
    let domain = Domain::kept(socket).unwrap();
    let (mut context, mut peer) = pair::<Message>(&domain);
    let (leaving, _peer) = pair::<Message>(&domain);
    let (other, _peer) = pair::<Message>(&domain);
    let token = other.export(&Export::default()).unwrap();
    let claim = domain.ledger().establish().unwrap();
    talk(&mut context, &mut peer);
    keeping.child.kill(Signal::KILL).unwrap();
    wait_hung_up(&watched);
    assert_eq!(claim.check(), Err(Lost::KeeperGone));
    assert_eq!(context.check().unwrap_err().minor(), Minor::KeeperGone);
    assert_eq!(
        context.wrap(true, b"never").unwrap_err().minor(),
        Minor::KeeperGone
    );
    let kept = leaving.export(&Export::default()).unwrap_err();
    assert_eq!(kept.status.minor(), Minor::KeeperGone);
    let refused = import::<Message>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(refused.minor(), Minor::KeeperSilent);
    assert!(domain.ledger().establish().is_err());
    drop((context, claim, kept));
    // Nobody can join what nobody keeps.
    assert!(Domain::kept(watched).is_err());
}

/// The keeper is killed in the middle of each request: the member's call fails, nothing hangs.
//= proves spec/keeper.md#silence C4
#[test]
fn a_keeper_killed_in_the_middle_of_a_request_is_an_error() {
    for point in [
        "keeper.answering",
        "keeper.established",
        "keeper.departed",
        "keeper.arrived",
    ] {
        for passing in 1..=3 {
            let arm = || fault::arm(point, passing, Action::Kill);
            let mut keeping = Keeping::with(&Options::default(), arm);
            let domain = keeping.domain(Role::Member);
            let mut contexts = Vec::new();
            let failed = (0..4).any(|_| {
                let Ok(claim) = domain.ledger().establish() else {
                    return true;
                };
                let Ok(departure) = claim.depart(u64::MAX) else {
                    return true;
                };
                let (index, epoch) = (departure.index, departure.epoch);
                match domain.ledger().arrive(index, &departure.id, epoch) {
                    Ok(claim) => contexts.push(claim),
                    Err(_) => return true,
                }
                false
            });
            assert!(failed, "{point}");
            keeping.child.wait().unwrap();
            let dead = |claim: &baton::ledger::Claim| claim.check() == Err(Lost::KeeperGone);
            assert!(contexts.iter().all(dead), "{point}");
        }
    }
}

/// A member that is killed while it runs many: each release once, and what it exported goes on.
//= proves spec/keeper.md#releases
#[test]
fn a_dead_members_contexts_end_at_once_and_are_released_once() {
    let keeping = Keeping::new();
    let socket = keeping.connect(Role::Member);
    let (ready, to_parent) = pipe();
    let (forever, _hold) = pipe();
    let mut child = forked(|| {
        let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
        let claims: Vec<_> = (0..100)
            .map(|_| domain.ledger().establish().unwrap())
            .collect();
        let mut claims = claims.into_iter();
        for claim in claims.by_ref().take(10) {
            claim.depart(u64::MAX).unwrap();
        }
        support::write_all(&to_parent, b"!");
        let kept: Vec<_> = claims.collect();
        support::wait_for_end(&forever);
        u8::try_from(kept.len()).unwrap()
    });
    drop(to_parent);
    let mut byte = [0];
    (&ready).read_exact(&mut byte).unwrap();
    // This process has a copy of the connection: it is the process's end that tells.
    child.kill(Signal::KILL).unwrap();
    let mut releases = keeping.releases(90);
    assert!(
        releases
            .iter()
            .all(|one| one.cause == Cause::OwnerDied && one.pid == child.pid())
    );
    releases.sort_by_key(|release| release.id);
    releases.dedup_by_key(|release| release.id);
    assert_eq!(releases.len(), 90);
    child.wait().unwrap();
    assert_eq!(keeping.census().transit, 10);
    assert!(keeping.releases(0).is_empty());
    drop(socket);
}

fn member(domain: &Domain) -> (Context<Record>, std::os::fd::OwnedFd) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    (pair::<Record>(domain).0, socket.into())
}

/// A bundle: one key, one fate for each, and each fate the keeper's to say.
//= proves spec/keeper.md#open C4
//= proves spec/keeper.md#depart C4
#[test]
fn a_bundle_of_a_kept_domain_moves_with_one_fate_for_each() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let members: Vec<_> = (0..40).map(|_| member(&domain)).collect();
    let ids: Vec<_> = members
        .iter()
        .map(|(context, _)| *context.session_identifier().as_bytes())
        .collect();
    let bundled = bundle(members, &Export::default());
    assert!(bundled.kept.is_empty());
    let parcels: Vec<Parcel> = bundled.parcels;
    // Of the first, whose key seals it all, and of another.
    assert!(keeping.revoke(&ids[0]) && keeping.revoke(&ids[7]));
    let socket = keeping.connect(Role::Worker);
    let (mut sender, receiver) = passage().unwrap();
    let mut child = forked(|| {
        let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
        let mut receiver = receiver;
        let arrived = receiver.receive::<Record>(&domain).unwrap().unwrap();
        let lost: Vec<_> = (0..40).filter(|at| arrived[*at].is_err()).collect();
        assert_eq!(lost, [0, 7]);
        let sealed: Vec<_> = arrived.into_iter().flatten().collect();
        // And on, in one more bundle.
        let again = sealed
            .into_iter()
            .map(|(context, socket)| (context, socket.unwrap()));
        let again = bundle(again.collect(), &Export::default());
        let domain = domain.clone();
        let (mut near, mut far) = passage().unwrap();
        again
            .parcels
            .into_iter()
            .for_each(|parcel| near.send(parcel).unwrap());
        let arrived = far.receive::<Record>(&domain).unwrap().unwrap();
        u8::try_from(arrived.iter().filter(|one| one.is_ok()).count()).unwrap()
    });
    for parcel in parcels {
        sender.send(parcel).unwrap();
    }
    // Something was refused, so the parcel comes back: it is spent.
    let back = sender.finish().unwrap_err();
    assert_eq!(child.wait().unwrap().code(), Some(38));
    keeping.wait_members(1);
    let (mut sender, mut receiver) = passage().unwrap();
    back.into_iter()
        .for_each(|parcel| sender.send(parcel).unwrap());
    let refused = receiver.receive::<Record>(&domain).unwrap().unwrap();
    assert!(
        refused
            .iter()
            .all(|one| one.as_ref().unwrap_err().major() == Major::NoContext)
    );
    let releases = keeping.releases(40);
    let revoked = releases.iter().filter(|one| one.cause == Cause::Revoked);
    assert_eq!((releases.len(), revoked.count()), (40, 2));
}

/// C4: the importer of a bundle is killed; what had not arrived imports elsewhere.
#[test]
fn an_importer_of_a_bundle_killed_at_any_step_leaves_the_rest() {
    for (point, passing, claimed) in [
        ("passage.received", 1, 0),
        ("bundle.opened", 1, 0),
        ("kept.answered", 1, 0),
        // They arrive together.
        ("kept.answered", 2, 3),
        ("import.claimed", 1, 3),
    ] {
        let keeping = Keeping::new();
        let domain = keeping.domain(Role::Member);
        let (mut sender, receiver) = passage().unwrap();
        let members = (0..3).map(|_| member(&domain)).collect();
        let mut parcels = bundle(members, &Export::default()).parcels;
        sender.send(parcels.pop().unwrap()).unwrap();
        let socket = keeping.connect(Role::Worker);
        let mut child = forked(|| {
            let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
            let mut receiver = receiver;
            fault::arm(point, passing, Action::Kill);
            u8::from(receiver.receive::<Record>(&domain).is_ok())
        });
        assert_eq!(
            child.wait().unwrap().signal(),
            Some(9),
            "{point} is on the way"
        );
        keeping.wait_members(1);
        assert_eq!(keeping.releases(claimed).len(), claimed, "{point}");
        let (mut again, mut receiver) = passage().unwrap();
        for parcel in sender.finish().unwrap_err() {
            again.send(parcel).unwrap();
        }
        let outcomes = receiver.receive::<Record>(&domain).unwrap().unwrap();
        let arrived = outcomes.iter().filter(|one| one.is_ok()).count();
        assert_eq!(arrived, 3 - claimed, "{point}");
    }
}

/// A bundle with luggage: it has the kept magic, and what a member carries has that member's fate.
//= proves spec/token.md#laden C4
//= proves spec/keeper.md#depart C4
#[test]
fn a_laden_bundle_of_a_kept_domain_moves_each_luggage_with_its_context() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let carried = |number: u8| vec![number; 100 * usize::from(number)];
    let mut peers = Vec::new();
    let laden = (0..12).map(|number| {
        let (context, peer) = pair::<Record>(&domain);
        peers.push(peer);
        let luggage = Luggage::new(&carried(number)).unwrap();
        let (socket, _) = baton::sys::socket::pair().unwrap();
        Laden {
            context,
            socket,
            luggage,
        }
    });
    let laden: Vec<_> = laden.collect();
    let id = |at: usize| *laden[at].context.session_identifier().as_bytes();
    let (first, other) = (id(0), id(5));
    let mut loaded = load(laden, &Export::default());
    assert!(loaded.kept.is_empty());
    let parcel = loaded.parcels.pop().unwrap();
    assert!(loaded.parcels.is_empty());
    assert_eq!(parcel.as_bytes()[..3], *b"BKL");
    // The one whose key seals it all, and another.
    assert!(keeping.revoke(&first) && keeping.revoke(&other));
    let socket = keeping.connect(Role::Worker);
    let (mut sender, receiver) = passage().unwrap();
    sender.send(parcel).unwrap();
    let (mut from, to) = pipe();
    let mut child = forked(|| {
        let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
        let mut receiver = receiver;
        let Incoming::Parcel(arrived) = receiver.take::<Record>(&domain).unwrap() else {
            panic!("no parcel")
        };
        assert_eq!(arrived.len(), 12);
        for (number, one) in (0..12).zip(arrived) {
            if [0, 5].contains(&number) {
                assert!(one.is_err(), "{number}");
                continue;
            }
            let (mut context, _, luggage) = one.unwrap();
            assert_eq!(luggage[..], carried(number), "{number}");
            let said = Record::say(&mut context, &[number; 10]).unwrap();
            (&to).write_all(&(said.len() as u32).to_be_bytes()).unwrap();
            (&to).write_all(&said).unwrap();
        }
        0
    });
    drop(to);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for (number, peer) in (0..12).zip(&mut peers) {
        if ![0, 5].contains(&number) {
            let mut length = [0; 4];
            from.read_exact(&mut length).unwrap();
            let mut said = vec![0; u32::from_be_bytes(length) as usize];
            from.read_exact(&mut said).unwrap();
            assert_eq!(Record::hear(peer, said).unwrap(), [number; 10]);
        }
    }
    // The importer has ended, and all it had; the bundle is spent.
    let back = sender.finish().unwrap_err();
    let mut bytes = back[0].as_bytes().to_vec();
    let sockets = (0..12).map(|_| baton::sys::socket::pair().unwrap().0);
    let again = unload::<Record>(&domain, &mut bytes, sockets.collect());
    assert!(again.is_err() || again.unwrap().iter().all(Result::is_err));
}
