//! A process killed or stopped at every step of the ledger leaves one outcome.

mod board;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;

use baton::ledger::{Census, Claim, ContextId, Domain, Error, Refusal};
use baton::sys::fault::{self, Action};
use baton::sys::memory::Mapping;
use baton::sys::process::{Signal, exit_now};

use board::{Board, NEVER, arrive, child, code, killed, options, promised};

/// Everything a process can do with a domain, some of it twice.
///
/// The tokens it makes are on the board before they are good: places 8, 16, 24.
fn everything(domain: &Domain, board: &Board) -> Result<(), u8> {
    let ledger = domain.ledger();
    let first = ledger.establish().map_err(|_| 1)?;
    board.write_token(8, &promised(&first));
    let token = first.depart(NEVER).map_err(|_| 2)?;
    let second = arrive(ledger, &token).map_err(|_| 3)?;
    board.write_token(16, &promised(&second));
    second.depart(NEVER).map_err(|_| 4)?;
    let third = ledger.establish().map_err(|_| 5)?;
    third.end().map_err(|_| 6)?;
    let fourth = ledger.establish().map_err(|_| 7)?;
    if !ledger.revoke(&fourth.id()) {
        return Err(8);
    }
    drop(fourth);
    let fifth = ledger.establish().map_err(|_| 9)?;
    board.write_token(24, &promised(&fifth));
    fifth.depart(0).map_err(|_| 10)?;
    domain.sweep().map_err(|_| 11)?;
    ledger
        .collect(|release| {
            board.count(40);
            // Which one it was, so that it can be told if any was told twice.
            board.word(41).fetch_xor(u64::from(release.id[0]), SeqCst);
        })
        .map_err(|_| 12)?;
    domain
        .keyring()
        .expect("keys")
        .rotate(std::time::Duration::ZERO)
        .map_err(|_| 13)?;
    domain
        .keyring()
        .expect("keys")
        .rotate(std::time::Duration::ZERO)
        .map_err(|_| 14)?;
    let last = ledger.establish().map_err(|_| 15)?;
    board.set(50, last.epoch());
    // Held until the end.
    std::mem::forget(last);
    Ok(())
}

/// The points of the ledger, but those of files.
fn points() -> impl Iterator<Item = &'static str> {
    let points = fault::POINTS.iter().copied();
    points.filter(|point| point.starts_with("ledger.") && !point.starts_with("ledger.file."))
}

/// After all others are dead: every entry is free, in transit by a token that is known, or ended
/// and told once; and none is lost.
fn settle(domain: &Domain, board: &Board, what: &str) {
    let ledger = domain.ledger();
    domain.sweep().expect("a sweep");
    let census = ledger.census();
    assert_eq!((census.active, census.draft), (0, 0), "{what}");
    let mut arrived = Vec::new();
    for place in [8, 16, 24] {
        let token = board.token(place);
        match arrive(ledger, &token) {
            Ok(claim) => {
                assert!(
                    matches!(arrive(ledger, &token), Err(Refusal::Spent)),
                    "{what}"
                );
                arrived.push(claim);
            }
            Err(Refusal::Local(error)) => panic!("{what}: {error}"),
            Err(_) => {}
        }
    }
    let ids: BTreeSet<_> = arrived.iter().map(Claim::id).collect();
    assert_eq!(ids.len(), arrived.len(), "{what}: one runner each");
    assert_eq!(
        ledger.census().transit,
        0,
        "{what}: every token out is known"
    );
    drop(arrived);
    let mut told = BTreeSet::new();
    ledger
        .collect(|release| assert!(told.insert(release.id), "{what}: told once"))
        .expect("a look");
    assert_eq!(ledger.census(), Census::default(), "{what}");
    let capacity = ledger.options().capacity;
    let all: Vec<_> = (0..capacity)
        .map(|_| ledger.establish().expect(what))
        .collect();
    assert!(matches!(ledger.establish(), Err(Error::Full)));
    drop(all);
    ledger.collect(|_| ()).expect("a collection");
    let (id, key) = domain
        .keyring()
        .expect("keys")
        .with_current(|id, key| (id, *key))
        .expect(what);
    assert!(key.chunks(8).all(|word| word != [0; 8]), "{what}");
    assert_eq!(
        domain
            .keyring()
            .expect("keys")
            .with(id, |found| *found == key),
        Some(true),
        "{what}"
    );
    for _ in 0..40 {
        domain
            .keyring()
            .expect("keys")
            .rotate(std::time::Duration::ZERO)
            .expect(what);
    }
}

//= proves spec/ledger.md#sweep
//= proves spec/domains.md#rotate
//= proves C4
#[test]
fn a_process_killed_at_any_step_leaves_one_outcome() {
    let mut reached = BTreeSet::new();
    for collect in [false, true] {
        for point in points() {
            for passing in 1.. {
                let domain = Domain::inherited_with(&options(8, collect)).expect("memory");
                let board = Board::new();
                // Somebody died before, in a draft, so that there is something to sweep. Not
                // where the first one to come is wanted.
                if !point.starts_with("ledger.growth.") {
                    let mut dead = child(|| {
                        fault::arm("ledger.establish.named", 3, Action::Kill);
                        let claims = [(); 3].map(|()| domain.ledger().establish());
                        exit_now(claims.len() as u8);
                    });
                    assert!(killed(dead.wait().expect("its end")));
                }
                let mut victim = child(|| {
                    fault::arm(point, passing, Action::Kill);
                    everything(&domain, &board).err().unwrap_or(0)
                });
                let status = victim.wait().expect("its end");
                let what = format!("{point} at {passing}, collected {collect}");
                settle(&domain, &board, &what);
                if !killed(status) {
                    assert_eq!(status.code(), Some(0), "{what}");
                    break;
                }
                reached.insert(point);
            }
        }
    }
    let never: Vec<_> = points().filter(|point| !reached.contains(point)).collect();
    // These only fail, or are passed only when two meet.
    let expected = [
        "ledger.establish.full",
        "ledger.depart.epochs",
        "ledger.growth.refused",
    ];
    assert!(
        never.iter().all(|point| expected.contains(point)),
        "{never:?}"
    );
}

//= proves spec/ledger.md#sweep
//= proves spec/ledger.md#collect
//= proves C4
#[test]
fn a_sweeper_killed_at_any_step_leaves_the_rest_to_the_next() {
    for collect in [false, true] {
        for point in points() {
            let domain = Domain::inherited_with(&options(8, collect)).expect("memory");
            let board = Board::new();
            // Left in the middle of everything, by processes that died.
            for (point, passing) in [
                ("ledger.establish.draft", 1),
                ("ledger.establish.taken", 2),
                ("ledger.depart.deadline", 1),
                ("ledger.end.ended", 1),
                ("ledger.collect.taken", 1),
                ("ledger.join.written", 1),
            ] {
                let mut victim = child(|| {
                    fault::arm(point, passing, Action::Kill);
                    everything(&domain, &board).err().unwrap_or(0)
                });
                victim.wait().expect("its end");
            }
            let mut sweeper = child(|| {
                fault::arm(point, 1, Action::Kill);
                u8::from(domain.sweep().is_err())
            });
            sweeper.wait().expect("its end");
            let board = Board::new();
            settle_unknown(&domain, &format!("{point}, collected {collect}"));
            settle(&domain, &board, point);
        }
    }
}

/// As [`settle`], when the tokens that are out are not known: they are ended.
fn settle_unknown(domain: &Domain, what: &str) {
    domain.sweep().expect(what);
    let census = domain.ledger().census();
    assert_eq!((census.active, census.draft), (0, 0), "{what}");
    let mapping = Mapping::from_fd(
        domain.fds().expect("descriptors")[0]
            .try_clone_to_owned()
            .expect("a descriptor"),
    );
    let mapping = mapping.expect("a mapping");
    let entries = mapping.as_words().len() - 512;
    for entry in mapping.as_words()[entries..entries + 64].chunks(8) {
        let halves = [entry[1].load(SeqCst), entry[2].load(SeqCst)].map(u64::to_ne_bytes);
        let id: ContextId = halves.concat().try_into().expect("16");
        domain.ledger().revoke(&id);
    }
    // A collector may have died while it told one.
    let mut told = BTreeSet::new();
    domain
        .ledger()
        .collect(|release| assert!(told.insert(release.id), "{what}"))
        .expect(what);
}

//= proves spec/ledger.md#words
//= proves spec/ledger.md#serial
#[test]
fn a_process_stopped_at_any_step_does_no_harm_when_it_goes_on() {
    for collect in [false, true] {
        for point in points() {
            let domain = Domain::inherited_with(&options(8, collect)).expect("memory");
            let board = Board::new();
            let mut stopped = child(|| {
                fault::arm(point, 1, Action::Stop);
                // Revoked or imported meanwhile: each error is an outcome.
                let _ = everything(&domain, &board);
                0
            });
            let is_stopped = stopped.wait_stopped().expect("its state");
            // Meanwhile all else happens, by this process, on the same entries.
            let ledger = domain.ledger();
            let mut ours = Vec::new();
            for place in [8, 16] {
                let token = board.token(place);
                ours.extend(arrive(ledger, &token));
                if place == 8 && point.contains("establish") {
                    ledger.revoke(&token.id);
                }
            }
            for _ in 0..3 {
                domain.sweep().expect("a sweep");
                ours.extend(ledger.establish());
                ledger.collect(|_| ()).expect("a collection");
                domain
                    .keyring()
                    .expect("keys")
                    .rotate(std::time::Duration::ZERO)
                    .expect("a rotation");
            }
            let deadline_kept = ledger
                .establish()
                .map(|claim| claim.depart(NEVER).expect("active"));
            let alive: Vec<_> = ours.iter().map(|claim| claim.check().is_ok()).collect();
            if is_stopped {
                stopped.kill(Signal::CONT).expect("it is there");
            }
            assert_eq!(code(stopped), Some(0), "{point}");
            // What was this process's before is so after.
            let after: Vec<_> = ours.iter().map(|claim| claim.check().is_ok()).collect();
            assert_eq!(alive, after, "{point}");
            let indexes: BTreeSet<_> = ours
                .iter()
                .filter(|claim| claim.check().is_ok())
                .map(Claim::index)
                .collect();
            assert_eq!(
                indexes.len(),
                alive.iter().filter(|alive| **alive).count(),
                "{point}"
            );
            if let Ok(token) = deadline_kept {
                assert!(arrive(ledger, &token).is_ok(), "{point}");
            }
            drop(ours);
            settle(&domain, &board, point);
        }
    }
}
