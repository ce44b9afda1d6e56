//! Killed, stopped or failing at every step of a hop: one outcome, and never two runners (C4).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use baton::context::Context;
use baton::ledger::{Cause, Domain, Options};
use baton::message::Message;
use baton::record::Record;
use baton::status::{Major, Minor};
use baton::sys::fault::{self, Action};
use baton::transfer::{Export, Parcel, Receiver, bundle, import, passage};
use rustix::process::Signal;
use support::{Talk, domain, forked, pair, pipe, talk};

/// The steps of an export, in order, and whether the context has departed by then.
const EXPORT: [(&str, bool); 5] = [
    ("export.encoded", false),
    ("export.sealed", false),
    ("ledger.depart.deadline", false),
    ("ledger.depart.transit", true),
    ("export.departed", true),
];

/// The steps of an import in a process new to the ledger, and whether the context has arrived.
const IMPORT: [(&str, bool); 9] = [
    ("import.opened", false),
    ("import.admitted", false),
    ("ledger.join.taken", false),
    ("ledger.join.joining", false),
    ("ledger.join.written", false),
    ("ledger.join.live", false),
    ("ledger.arrive.checked", false),
    ("ledger.arrive.active", true),
    ("import.claimed", true),
];

/// A domain whose releases wait to be collected.
fn collected() -> Domain {
    Domain::inherited_with(&Options {
        capacity: 64,
        processes: 256,
        collect: true,
    })
    .unwrap()
}

fn releases(domain: &Domain) -> Vec<Cause> {
    let mut causes = Vec::new();
    domain
        .ledger()
        .collect(|release| {
            assert!(!release.repeated);
            causes.push(release.cause);
        })
        .unwrap();
    causes
}

fn exporter_killed<F: Talk>(point: &'static str, departed: bool) {
    let domain = collected();
    let (context, _peer) = pair::<F>(&domain);
    let first = context.export(&Export::default()).unwrap();
    let (from_child, to_parent) = pipe();
    let mut child = forked(|| {
        let context: Context<F> = import(&domain, first.as_bytes(), None).unwrap();
        fault::arm(point, 1, Action::Kill);
        // No time to be imported: a token nobody got is over at once.
        let token = context
            .export(&Export::default().within(Duration::ZERO))
            .unwrap();
        support::write_all(&to_parent, token.as_bytes());
        0
    });
    drop(to_parent);
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{point} is on the way");
    assert!(support::read_all(&from_child).is_empty());
    domain.ledger().sweep().unwrap();
    let expected = if departed {
        Cause::Expired
    } else {
        Cause::OwnerDied
    };
    assert_eq!(releases(&domain), [expected], "{point}");
    assert_eq!(releases(&domain), [], "{point}: released once");
    let refused = import::<F>(&domain, first.as_bytes(), None).unwrap_err();
    assert_eq!(refused.major(), Major::NoContext);
    assert_eq!(domain.ledger().census(), Default::default(), "{point}");
}

/// C4: ended and released once, whichever step it was.
//= proves spec/token.md#order C4
#[test]
fn an_exporter_killed_at_any_step_leaves_one_outcome() {
    for (point, departed) in EXPORT {
        exporter_killed::<Message>(point, departed);
        exporter_killed::<Record>(point, departed);
    }
}

fn importer_killed<F: Talk>(point: &'static str, arrived: bool) {
    let domain = collected();
    let (context, mut peer) = pair::<F>(&domain);
    let token = context.export(&Export::default()).unwrap();
    let mut child = forked(|| {
        fault::arm(point, 1, Action::Kill);
        u8::from(import::<F>(&domain, token.as_bytes(), None).is_ok())
    });
    assert_eq!(
        child.wait().unwrap().signal(),
        Some(9),
        "{point} is on the way"
    );
    domain.ledger().sweep().unwrap();
    let imported = import::<F>(&domain, token.as_bytes(), None);
    if arrived {
        assert_eq!(imported.unwrap_err().major(), Major::NoContext);
        assert_eq!(releases(&domain), [Cause::OwnerDied], "{point}");
    } else {
        talk(&mut imported.unwrap(), &mut peer);
        assert_eq!(
            releases(&domain),
            [Cause::Closed],
            "{point}: dropped just now, and not before"
        );
    }
    assert_eq!(domain.ledger().census(), Default::default(), "{point}");
}

/// C4: importable still, or ended and released once.
#[test]
fn an_importer_killed_at_any_step_leaves_one_outcome() {
    for (point, arrived) in IMPORT {
        importer_killed::<Message>(point, arrived);
        importer_killed::<Record>(point, arrived);
    }
}

/// C3, C4: an importer is stopped between two steps while another imports the same token.
#[test]
fn an_importer_stopped_at_any_step_is_no_second_runner() {
    for (point, arrived) in IMPORT {
        let domain = domain();
        let (context, mut peer) = pair::<Message>(&domain);
        let token = context.export(&Export::default()).unwrap();
        let (from_child, to_parent) = pipe();
        let mut child = forked(|| {
            fault::arm(point, 1, Action::Stop);
            match import::<Message>(&domain, token.as_bytes(), None) {
                Ok(mut context) => {
                    let said = Message::say(&mut context, b"after the stop").unwrap();
                    support::write_all(&to_parent, &said);
                    0
                }
                Err(status) => u8::from(status.minor() == Minor::TokenSpent),
            }
        });
        drop(to_parent);
        assert!(child.wait_stopped().unwrap(), "{point} is on the way");
        let here = import::<Message>(&domain, token.as_bytes(), None);
        child.kill(Signal::CONT).unwrap();
        let code = child.wait().unwrap().code();
        let said = support::read_all(&from_child);
        if arrived {
            assert_eq!(here.unwrap_err().minor(), Minor::TokenSpent, "{point}");
            assert_eq!(code, Some(0), "{point}");
            assert_eq!(Message::hear(&mut peer, said).unwrap(), b"after the stop");
        } else {
            assert_eq!(code, Some(1), "{point}: the late importer finds it spent");
            assert!(said.is_empty());
            talk(&mut here.unwrap(), &mut peer);
        }
    }
}

/// C4: an export that fails gives the context back, working.
#[test]
fn a_failed_export_gives_the_context_back() {
    let domain = domain();
    let (context, mut peer) = pair::<Message>(&domain);
    fault::arm("ledger.depart.epochs", 1, Action::Fail);
    let refused = context.export(&Export::default()).unwrap_err();
    assert_eq!(refused.status.minor(), Minor::EpochsUsedUp);
    let mut context = refused.context;
    talk(&mut context, &mut peer);
    // Once the token is sealed, too: the second time the ledger is asked.
    fault::arm("ledger.depart.epochs", 2, Action::Fail);
    let mut context = context.export(&Export::default()).unwrap_err().context;
    talk(&mut context, &mut peer);
    context.export(&Export::default()).unwrap();
}

/// C4: the last thing that can fail in an import fails; the token is not spent.
#[test]
fn a_failed_import_leaves_the_token() {
    let domain = domain();
    let (context, mut peer) = pair::<Record>(&domain);
    let token = context.export(&Export::default()).unwrap();
    fault::arm("import.resumed", 1, Action::Fail);
    let refused = import::<Record>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(refused.minor(), Minor::Injected);
    let mut context: Context<Record> = import(&domain, token.as_bytes(), None).unwrap();
    talk(&mut context, &mut peer);
}

/// C7, C4: a ledger that is full, while its contexts go on, and a context that waits for room.
#[test]
fn a_full_ledger_is_a_clear_error_and_costs_nothing() {
    let domain = Domain::inherited_with(&Options {
        capacity: 3,
        processes: 8,
        collect: false,
    })
    .unwrap();
    let mut pairs: Vec<_> = (0..3).map(|_| pair::<Message>(&domain)).collect();
    let (finished, _) = Message::handshake();
    let refused = finished.activate(&domain).unwrap_err();
    assert_eq!(refused.error.minor(), Minor::LedgerFull);
    let finished = refused.finished;
    for (context, peer) in &mut pairs {
        talk(context, peer);
    }
    // A hop needs no entry more, and an end makes room.
    let (context, mut peer) = pairs.pop().unwrap();
    let token = context.export(&Export::default()).unwrap();
    let mut context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
    talk(&mut context, &mut peer);
    drop(context);
    finished.activate(&domain).unwrap().check().unwrap();
}

/// C4: bundles: the exporter is killed at each step of three contexts' departure.
#[test]
fn an_exporter_of_a_bundle_killed_at_any_step_leaves_one_outcome_for_each() {
    for point in [
        "bundle.encoded",
        "bundle.sealed",
        "bundle.departed",
        "ledger.depart.transit",
        "passage.sending",
        "passage.sent",
    ] {
        let domain = collected();
        let first: Vec<_> = (0..3)
            .map(|_| {
                pair::<Record>(&domain)
                    .0
                    .export(&Export::default())
                    .unwrap()
            })
            .collect();
        let (sender, receiver) = passage().unwrap();
        let mut child = forked(|| {
            let mut sender = sender;
            let members = first.iter().map(|token| {
                let context = import::<Record>(&domain, token.as_bytes(), None).unwrap();
                (
                    context,
                    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(),
                )
            });
            let members = members.collect();
            fault::arm(point, 1, Action::Kill);
            for parcel in bundle(members, &Export::default()).parcels {
                sender.send(parcel).unwrap();
            }
            0
        });
        assert_eq!(
            child.wait().unwrap().signal(),
            Some(9),
            "{point} is on the way"
        );
        domain.ledger().sweep().unwrap();
        let dead = releases(&domain).len();
        let arrived = arrivals(receiver, &domain);
        let census = domain.ledger().census();
        // Ended, importable here, or in transit with nobody who has the token: for each one.
        assert_eq!(dead + census.active + census.transit, 3, "{point}");
        assert_eq!(
            arrived.len(),
            if point == "passage.sent" { 3 } else { 0 },
            "{point}"
        );
    }
}

fn arrivals(mut receiver: Receiver, domain: &Domain) -> Vec<Context<Record>> {
    let mut arrived = Vec::new();
    while let Some(outcomes) = receiver.receive::<Record>(domain).unwrap() {
        arrived.extend(outcomes.into_iter().map(|one| one.unwrap().0));
    }
    arrived
}

/// C4: bundles: the importer is killed; what it had not claimed imports elsewhere.
#[test]
fn an_importer_of_a_bundle_killed_at_any_step_leaves_one_outcome_for_each() {
    for (point, passing, claimed) in [
        ("passage.received", 1, 0),
        ("bundle.opened", 1, 0),
        ("import.claimed", 1, 1),
        ("import.claimed", 2, 2),
        ("ledger.arrive.checked", 3, 2),
    ] {
        let domain = collected();
        let (sender, receiver) = passage().unwrap();
        let mut sender = sender;
        let member = |_| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            (pair::<Record>(&domain).0, socket.into())
        };
        let mut parcels = bundle((0..3).map(member).collect(), &Export::default()).parcels;
        sender.send(parcels.pop().unwrap()).unwrap();
        let mut child = forked(|| {
            fault::arm(point, passing, Action::Kill);
            u8::from(arrivals(receiver, &domain).len() == 3)
        });
        assert_eq!(
            child.wait().unwrap().signal(),
            Some(9),
            "{point} is on the way"
        );
        // Nothing was acknowledged: the parcel comes back.
        let again: Vec<Parcel> = sender.finish().unwrap_err();
        assert_eq!(again.len(), 1);
        domain.ledger().sweep().unwrap();
        assert_eq!(releases(&domain).len(), claimed, "{point}");
        let (mut sender, mut receiver) = passage().unwrap();
        again
            .into_iter()
            .for_each(|parcel| sender.send(parcel).unwrap());
        let outcomes = receiver.receive::<Record>(&domain).unwrap().unwrap();
        assert_eq!(
            outcomes.iter().filter(|one| one.is_ok()).count(),
            3 - claimed,
            "{point}"
        );
        let refused = outcomes.iter().filter_map(|one| one.as_ref().err());
        assert!(
            refused
                .into_iter()
                .all(|status| status.major() == Major::NoContext)
        );
    }
}

/// A context that is revoked while it is sealed comes back dead, and under its own name: not under
/// that of the context which has its entry by then.
#[test]
fn a_context_that_is_lost_on_the_way_out_keeps_its_name() {
    let domain = Domain::inherited(1).unwrap();
    let (context, _peer) = pair::<Message>(&domain);
    let id = context.session_identifier();
    let (ledger, revoked) = (domain.ledger().clone(), *id.as_bytes());
    fault::arm(
        "export.sealed",
        1,
        Action::Call(Box::new(move || {
            assert!(ledger.revoke(&revoked));
            // It has the only entry there is.
            std::mem::forget(ledger.establish().unwrap());
        })),
    );
    let kept = context.export(&Export::default()).unwrap_err();
    assert_eq!(kept.status.major(), Major::NoContext);
    assert_eq!(kept.context.session_identifier(), id);
}
