//! The ledger among real processes: raced, forked, dead, and in a storm.

mod board;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;

use baton::ledger::{Cause, Census, Claim, Domain, Error, Ledger, Lost, Options, Refusal, Stay};
use baton::sys::fault::{self, Action};
use baton::sys::memory::Mapping;
use baton::sys::process::{Fork, Signal, exit_now, fork};

use board::{Board, NEVER, arrive, child, code, killed, options, promised, until_ended};

//= proves spec/ledger.md#arrive
//= proves C3
#[test]
fn of_sixteen_racing_processes_one_wins_every_round() {
    const RACERS: u64 = 16;
    const ROUNDS: u64 = 200;
    let ledger = Ledger::inherited(&options(8, false)).expect("memory");
    let board = Board::new();
    let [round, done, won] = [8, 16, 24];
    let mut claim = ledger.establish().expect("room");
    let racers: Vec<_> = (0..RACERS)
        .map(|_| {
            child(|| {
                for now in 1..=ROUNDS {
                    board.wait(round, now);
                    match arrive(&ledger, &board.token(0)) {
                        Ok(claim) => {
                            board.count(won);
                            // It comes back as a token, so that the parent has it again.
                            board.write_token(32, &promised(&claim));
                            if claim.depart(NEVER).is_err() {
                                return 1;
                            }
                        }
                        Err(Refusal::Spent) => {}
                        Err(_) => return 2,
                    }
                    board.count(done);
                }
                0
            })
        })
        .collect();
    for now in 1..=ROUNDS {
        board.write_token(0, &promised(&claim));
        claim.depart(NEVER).expect("active");
        board.set(round, now);
        board.wait(done, now * RACERS);
        assert_eq!(board.get(won), now, "one winner in round {now}");
        claim = arrive(&ledger, &board.token(32)).expect("the winner sent it back");
    }
    assert!(racers.into_iter().all(|racer| code(racer) == Some(0)));
    assert_eq!(claim.check(), Ok(()));
}

//= proves spec/ledger.md#check
//= proves spec/ledger.md#depart
//= proves C3
#[test]
fn a_forked_copy_is_dead() {
    let ledger = Ledger::inherited(&options(8, true)).expect("memory");
    let claim = ledger.establish().expect("room");
    let mut copies = Some(claim);
    let copy = match fork().expect("a process") {
        Fork::Parent(child) => child,
        Fork::Child => {
            let copy = copies.take().expect("copied");
            let dead = copy.check() == Err(Lost::Forked);
            // A grandchild's is as dead, and dropping it ends nothing.
            let grandchild = child(|| u8::from(copy.check() != Err(Lost::Forked)));
            let dead = dead && code(grandchild) == Some(0);
            let Err(stayed) = copy.depart(NEVER) else {
                exit_now(2)
            };
            let dead = dead && stayed.stay == Stay::Lost(Lost::Forked);
            let dead = dead && stayed.claim.end() == Err(Lost::Forked);
            // What it makes itself, it runs.
            let own = ledger.establish().is_ok_and(|own| own.check().is_ok());
            exit_now(u8::from(!(dead && own)));
        }
    };
    let claim = copies.take().expect("ours");
    assert_eq!(claim.check(), Ok(()));
    assert_eq!(code(copy), Some(0));
    assert_eq!(claim.check(), Ok(()));
    assert_eq!(
        ledger.census(),
        Census {
            active: 1,
            ended: 1,
            ..Census::default()
        }
    );
    let token = claim.depart(NEVER).expect("it is the parent's");
    assert!(arrive(&ledger, &token).is_ok());
}

//= proves spec/ledger.md#check
//= proves C3
#[test]
fn a_fork_between_two_steps_leaves_one_runner() {
    let points = fault::POINTS.iter().filter(|point| {
        ["ledger.establish.", "ledger.depart.", "ledger.arrive."]
            .iter()
            .any(|prefix| point.starts_with(prefix))
    });
    for point in points {
        for child_first in [true, false] {
            let ledger = Ledger::inherited(&options(8, false)).expect("memory");
            let board = Board::new();
            let [go, ours, theirs] = [0, 1, 2];
            let (sender, receiver) = std::sync::mpsc::channel();
            let other = Mapping::from_fd(board.0.fd().try_clone_to_owned().expect("a descriptor"));
            let other = Board(other.expect("a mapping"));
            let parent = baton::sys::process::pid();
            let act = move || match fork().expect("a process") {
                // Both go on in the middle of the call; one of them waits for the other.
                Fork::Child if child_first => {}
                Fork::Child => other.wait(go, 1),
                Fork::Parent(child) => {
                    if child_first {
                        other.wait(go, 1);
                    }
                    sender.send(child).expect("the test listens");
                }
            };
            fault::arm(point, 1, Action::Call(Box::new(act)));
            let claim = ledger
                .establish()
                .ok()
                .and_then(|claim| claim.depart(NEVER).ok())
                .and_then(|token| arrive(&ledger, &token).ok());
            fault::disarm();
            let runs = claim.as_ref().is_some_and(|claim| claim.check().is_ok());
            let is_parent = baton::sys::process::pid() == parent;
            // One more than the entry it runs.
            let entry = claim
                .as_ref()
                .filter(|_| runs)
                .map_or(0, |claim| claim.index() + 1);
            board.set(if is_parent { 9 } else { 10 }, entry.into());
            board.set(if is_parent { ours } else { theirs }, 1);
            board.set(go, 1);
            if !is_parent {
                // The copy is looked at while both live.
                board.wait(ours, 1);
                exit_now(0);
            }
            if let Ok(child) = receiver.try_recv() {
                board.wait(theirs, 1);
                assert!(
                    board.get(ours) + board.get(theirs) <= 3,
                    "{point}: two run it"
                );
                assert_eq!(code(child), Some(0));
            }
            let still = claim.as_ref().is_some_and(|claim| claim.check().is_ok());
            assert_eq!(runs, still, "{point}");
        }
    }
}

//= proves spec/ledger.md#dead
//= proves spec/ledger.md#reap
//= proves C4
#[test]
fn what_a_dead_process_held_is_ended_and_told() {
    for reaped in [true, false] {
        let ledger = Ledger::inherited(&options(100, true)).expect("memory");
        let board = Board::new();
        let ours = ledger.establish().expect("room");
        let mut owner = child(|| {
            let claims: Vec<_> = (0..10).map_while(|_| ledger.establish().ok()).collect();
            board.set(0, claims.len() as u64);
            // Dies with all of them.
            exit_now(0);
        });
        if reaped {
            owner.wait().expect("its end");
            assert_eq!(ledger.reap(owner.pid()).expect("a look"), 10);
        } else {
            // Not even waited for.
            until_ended(&owner);
            assert_eq!(ledger.sweep().expect("a sweep"), 10);
            owner.wait().expect("its end");
        }
        assert_eq!(ledger.sweep().expect("a sweep"), 0);
        let mut told = BTreeSet::new();
        ledger
            .collect(|release| {
                assert!(release.cause == Cause::OwnerDied && !release.repeated);
                assert!(told.insert(release.id));
            })
            .expect("a collection");
        assert_eq!((told.len(), board.get(0)), (10, 10));
        assert_eq!(ours.check(), Ok(()));
    }
}

//= proves spec/ledger.md#full
#[test]
fn a_ledger_full_of_the_dead_makes_room() {
    let ledger = Ledger::inherited(&options(50, false)).expect("memory");
    let owner = child(|| {
        let claims: Vec<_> = (0..50).map_while(|_| ledger.establish().ok()).collect();
        exit_now(claims.len() as u8);
    });
    assert_eq!(code(owner), Some(50));
    let claims: Vec<_> = (0..50)
        .map(|_| ledger.establish().expect("the dead are gone"))
        .collect();
    assert!(claims.iter().all(|claim| claim.check().is_ok()));
}

//= proves spec/ledger.md#join
//= proves spec/ledger.md#slot-reuse
#[test]
fn a_full_process_table_says_so_and_makes_room_when_they_die() {
    let options = Options {
        capacity: 100,
        processes: 4,
        collect: false,
    };
    let ledger = Ledger::inherited(&options).expect("memory");
    let board = Board::new();
    let [joined, leave] = [0, 1];
    let token = ledger
        .establish()
        .expect("room")
        .depart(NEVER)
        .expect("active");
    let members: Vec<_> = (0..3)
        .map(|_| {
            child(|| {
                let claim = ledger.establish();
                board.count(joined);
                board.wait(leave, 1);
                // Dies with it.
                exit_now(u8::from(claim.is_err()))
            })
        })
        .collect();
    board.wait(joined, 3);
    let fifth = child(|| {
        let full = matches!(ledger.establish(), Err(Error::TooManyProcesses));
        // Its token is not spent by that.
        let refused = arrive(&ledger, &token);
        u8::from(!(full && matches!(refused, Err(Refusal::Local(Error::TooManyProcesses)))))
    });
    assert_eq!(code(fifth), Some(0));
    board.set(leave, 1);
    assert!(members.into_iter().all(|member| code(member) == Some(0)));
    assert_eq!(ledger.sweep().expect("a sweep"), 3);
    for _ in 0..20 {
        let late = child(|| u8::from(ledger.establish().is_err()));
        assert_eq!(code(late), Some(0));
        ledger.sweep().expect("a sweep");
    }
    assert!(arrive(&ledger, &token).is_ok());
}

//= proves spec/ledger.md#identity
//= proves spec/ledger.md#dead
#[test]
fn a_pid_that_another_program_has_now_does_not_keep_a_context_alive() {
    let ledger = Ledger::inherited(&options(8, false)).expect("memory");
    let domain = Domain::inherited_with(&options(8, true)).expect("memory");
    let claim = domain.ledger().establish().expect("room");
    let untouched = ledger.establish().expect("room");
    // The slot of this process, told as of an earlier one of the same number.
    let mapping = Mapping::from_fd(
        domain.fds().expect("descriptors")[0]
            .try_clone_to_owned()
            .expect("a descriptor"),
    );
    let mapping = mapping.expect("a mapping");
    let words = &mapping.as_words()[512..520];
    assert_eq!(words[0].load(SeqCst) as u32, baton::sys::process::pid());
    words[1].fetch_sub(1, SeqCst);
    words[2].fetch_sub(1, SeqCst);
    assert_eq!(domain.ledger().sweep().expect("a sweep"), 1);
    assert_eq!(claim.check(), Err(Lost::Ended));
    // A process of a namespace that cannot be looked into counts as alive.
    let claim = domain.ledger().establish().expect("room");
    let slot = mapping.as_words()[512..1024]
        .chunks(8)
        .find(|slot| slot[0].load(SeqCst) >> 62 == 2)
        .expect("joined");
    slot[3].fetch_add(1, SeqCst);
    slot[2].fetch_sub(1, SeqCst);
    assert_eq!(domain.ledger().sweep().expect("a sweep"), 0);
    assert_eq!((claim.check(), untouched.check()), (Ok(()), Ok(())));
}

//= proves spec/ledger.md#collect
#[test]
fn each_release_is_told_by_one_of_many_collectors() {
    const CONTEXTS: usize = 400;
    let ledger = Ledger::inherited(&options(CONTEXTS as u32, true)).expect("memory");
    let board = Board::new();
    let claims: Vec<_> = (0..CONTEXTS)
        .map(|_| ledger.establish().expect("room"))
        .collect();
    let ids: Vec<_> = claims.iter().map(Claim::id).collect();
    let start = 500;
    let collectors: Vec<_> = (0..4)
        .map(|_| {
            child(|| {
                board.wait(start, 1);
                let mut twice = 0;
                while board.get(start + 1) < CONTEXTS as u64 {
                    let collected = ledger.collect(|release| {
                        let number = ids.iter().position(|id| *id == release.id);
                        twice += u64::from(number.is_none_or(|n| board.count(n) != 1));
                        twice += u64::from(release.repeated);
                        board.count(start + 1);
                    });
                    if collected.is_err() {
                        return 2;
                    }
                }
                u8::from(twice > 0)
            })
        })
        .collect();
    board.set(start, 1);
    drop(claims);
    assert!(
        collectors
            .into_iter()
            .all(|collector| code(collector) == Some(0))
    );
    assert!((0..CONTEXTS).all(|n| board.get(n) == 1));
    assert_eq!(ledger.census(), Census::default());
}

/// Hops among processes that are killed at any time: contexts 0 to 7 have their token at 8 times
/// their number, and at word 4 of it who runs them.
//= proves spec/ledger.md#states
//= proves C3
//= proves C4
#[test]
fn in_a_storm_of_kills_a_context_has_one_runner() {
    const WORKERS: usize = 4;
    const CONTEXTS: usize = 8;
    let ledger = Ledger::inherited(&options(32, false)).expect("memory");
    let board = Board::new();
    let [hops, wrong] = [100, 101];
    let renew = |context: usize| {
        let claim = ledger.establish().expect("room");
        board.set(context * 8 + 4, 0);
        board.write_token(context * 8, &promised(&claim));
        claim.depart(NEVER).expect("active");
    };
    (0..CONTEXTS).for_each(renew);
    let worker = |seed: u64| {
        child(|| {
            let me = u64::from(baton::sys::process::pid());
            let mut random = seed;
            loop {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(seed | 1);
                let place = (random >> 33) as usize % CONTEXTS * 8;
                let Ok(claim) = arrive(&ledger, &board.token(place)) else {
                    continue;
                };
                let runner = board.word(place + 4);
                if runner.compare_exchange(0, me, SeqCst, SeqCst).is_err() {
                    board.count(wrong);
                }
                for _ in 0..random % 16 {
                    if claim.check().is_err() || runner.load(SeqCst) != me {
                        board.count(wrong);
                    }
                }
                board.write_token(place, &promised(&claim));
                runner.store(0, SeqCst);
                if claim.depart(NEVER).is_err() {
                    board.count(wrong);
                }
                board.count(hops);
            }
        })
    };
    let mut workers: Vec<_> = (1..=WORKERS as u64).map(worker).collect();
    for round in 0..60 {
        board.wait(hops, (round + 1) * 50);
        let victim = round as usize % WORKERS;
        workers[victim].kill(Signal::KILL).expect("it is there");
        assert!(killed(workers[victim].wait().expect("its end")));
        let ended = ledger.reap(workers[victim].pid()).expect("a look");
        assert!(ended <= 1, "a worker holds one at most");
        workers[victim] = worker(round + 77);
        // What it held is gone; another takes its place, once its token is seen to be dead.
        for context in 0..CONTEXTS {
            if matches!(
                arrive(&ledger, &board.token(context * 8)),
                Err(Refusal::Ended)
            ) {
                renew(context);
            }
        }
    }
    for mut worker in workers {
        worker.kill(Signal::KILL).expect("it is there");
        worker.wait().expect("its end");
    }
    ledger.sweep().expect("a sweep");
    assert_eq!(board.get(wrong), 0);
    let census = ledger.census();
    assert_eq!((census.active, census.draft), (0, 0));
    assert!(census.transit <= CONTEXTS);
}
