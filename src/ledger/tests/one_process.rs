//! The ledger over a mapping, in one process.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::ledger::control::{Control, LAST_SERIAL, RETIRED};
use crate::ledger::header::{ENTRIES_BACKED, ENTRIES_USED, Header, Layout, PROCESSES_USED, SWEPT};
use crate::ledger::word::Word;
use crate::ledger::*;
use crate::status::{Major, Minor, Status};
use crate::sys::clock::boottime_ms;
use crate::sys::fault;
use crate::sys::memory::Mapping;

const NEVER: u64 = u64::MAX;

fn ledger(capacity: u32) -> Ledger {
    Ledger::inherited(&Options {
        capacity,
        processes: 4,
        collect: false,
    })
    .expect("memory")
}

fn collected(capacity: u32) -> Ledger {
    Ledger::inherited(&Options {
        capacity,
        processes: 4,
        collect: true,
    })
    .expect("memory")
}

fn words(ledger: &Ledger) -> &[AtomicU64] {
    ledger.mapping().as_words()
}

fn layout(ledger: &Ledger) -> Layout {
    let options = ledger.options();
    Layout::new((options.capacity.into(), options.processes.into())).expect("it was made so")
}

/// The control word of an entry.
fn control(ledger: &Ledger, index: u32) -> &AtomicU64 {
    &words(ledger)[layout(ledger).entries + index as usize * 8]
}

fn arrive(ledger: &Ledger, token: &Departure) -> Result<Claim, Refusal> {
    ledger.arrive(token.index, &token.id, token.epoch)
}

/// A random number generator for noise: what it gives is the same in each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

//= proves spec/ledger.md#arrive
//= proves spec/ledger.md#depart
//= proves C8
#[test]
fn a_context_goes_round_and_each_token_arrives_once() {
    let ledger = ledger(8);
    let mut claim = ledger.establish().expect("empty");
    let (id, index) = (claim.id(), claim.index());
    let mut spent = Vec::new();
    for _ in 0..10_000 {
        let epoch = claim.next_epoch().expect("far from the end");
        let token = claim.depart(NEVER).expect("active");
        assert_eq!(token, Departure { index, id, epoch });
        claim = arrive(&ledger, &token).expect("in transit");
        assert_eq!((claim.check(), claim.epoch()), (Ok(()), epoch));
        spent.push(token);
    }
    for token in spent.iter().rev().step_by(97) {
        assert!(matches!(arrive(&ledger, token), Err(Refusal::Spent)));
    }
    assert_eq!(claim.id(), id);
}

//= proves spec/ledger.md#epoch
#[test]
fn a_token_that_says_anything_else_does_not_arrive() {
    let ledger = ledger(8);
    let others = [
        ledger.establish().expect("room"),
        ledger.establish().expect("room"),
    ];
    let token = ledger
        .establish()
        .expect("room")
        .depart(NEVER)
        .expect("active");
    let refused = |index, id: &ContextId, epoch| ledger.arrive(index, id, epoch).err();
    for index in (0..20)
        .chain([u32::MAX, 1 << 24])
        .filter(|index| *index != token.index)
    {
        assert!(
            refused(index, &token.id, token.epoch).is_some(),
            "entry {index}"
        );
    }
    for bit in 0..128 {
        let mut id = token.id;
        id[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(
            refused(token.index, &id, token.epoch),
            Some(Refusal::Ended)
        ));
    }
    for bit in 0..64 {
        assert!(refused(token.index, &token.id, token.epoch ^ 1 << bit).is_some());
    }
    assert!(matches!(
        refused(token.index, &token.id, token.epoch + 1),
        Some(Refusal::Unknown)
    ));
    assert!(matches!(
        refused(7, &token.id, token.epoch),
        Some(Refusal::Unknown)
    ));
    // None of them spent it.
    assert!(arrive(&ledger, &token).is_ok());
    assert!(others.iter().all(|claim| claim.check().is_ok()));
}

//= proves spec/ledger.md#establish
//= proves spec/ledger.md#full
#[test]
fn a_full_ledger_says_so_and_loses_nothing() {
    let ledger = ledger(100);
    let mut claims: Vec<_> = (0..100)
        .map(|_| ledger.establish().expect("room"))
        .collect();
    let mut ids: Vec<_> = claims.iter().map(Claim::id).collect();
    for _ in 0..3 {
        let full = ledger.establish().err();
        assert!(matches!(full, Some(Error::Full)));
        assert_eq!(
            full.map(|full| Status::from(&full).minor()),
            Some(Minor::LedgerFull)
        );
    }
    assert!(claims.iter().all(|claim| claim.check().is_ok()));
    for _ in 0..50 {
        claims.swap_remove(0);
    }
    for _ in 0..50 {
        let claim = ledger.establish().expect("room again");
        ids.push(claim.id());
        claims.push(claim);
    }
    assert!(matches!(ledger.establish(), Err(Error::Full)));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 150, "no id is given twice");
}

//= proves spec/ledger.md#retire
//= proves spec/ledger.md#serial
#[test]
fn an_entry_near_its_end_neither_wraps_nor_restarts() {
    let ledger = ledger(1);
    let claim = ledger.establish().expect("room");
    // As if the context had made nearly all its hops.
    let token = claim.depart(NEVER).expect("active");
    let serial = LAST_SERIAL - 2;
    let transit = Control(control(&ledger, 0).get() & !LAST_SERIAL | serial);
    control(&ledger, 0).put(transit.0);
    bind_deadline(&ledger, serial);
    let mut claim = ledger.arrive(0, &token.id, serial).expect("in transit");
    for epoch in [LAST_SERIAL - 1, LAST_SERIAL] {
        assert_eq!(claim.next_epoch(), Ok(epoch));
        let token = claim.depart(NEVER).expect("one is left");
        claim = arrive(&ledger, &token).expect("in transit");
    }
    assert_eq!(claim.next_epoch(), Err(Stay::EpochsUsedUp));
    let stayed = claim.depart(NEVER).expect_err("none is left");
    assert_eq!(stayed.stay, Stay::EpochsUsedUp);
    // It goes on where it is.
    assert_eq!(stayed.claim.check(), Ok(()));
    assert_eq!(stayed.claim.end(), Ok(()));
    // The entry takes no other context: its serials would start again.
    assert!(matches!(ledger.establish(), Err(Error::Full)));
    ledger.sweep().expect("a sweep");
    assert!(matches!(ledger.establish(), Err(Error::Full)));
    assert_eq!(Control(control(&ledger, 0).get()).serial(), LAST_SERIAL);
}

//= proves spec/ledger.md#retire
#[test]
fn the_last_context_of_an_entry_has_half_of_all_serials() {
    let ledger = ledger(2);
    let first = ledger.establish().expect("room");
    drop(ledger.establish().expect("room"));
    control(&ledger, 1).put(RETIRED - 1);
    let last = ledger.establish().expect("it is not retired yet");
    assert_eq!((last.index(), last.epoch()), (1, RETIRED));
    drop(last);
    assert!(matches!(ledger.establish(), Err(Error::Full)));
    assert_eq!(first.check(), Ok(()));
}

/// Makes the deadline word fit a serial that was preset.
fn bind_deadline(ledger: &Ledger, serial: u64) {
    let deadline = &words(ledger)[layout(ledger).entries + 3];
    deadline.put(deadline.get() & !0xffff | serial & 0xffff);
}

//= proves spec/ledger.md#expiry
#[test]
fn a_token_past_its_deadline_is_over() {
    let ledger = collected(8);
    let now = boottime_ms();
    let late = ledger
        .establish()
        .expect("room")
        .depart(now)
        .expect("active");
    let swept = ledger.establish().expect("room").depart(0).expect("active");
    let good = ledger
        .establish()
        .expect("room")
        .depart(now + 600_000)
        .expect("active");
    let never = ledger
        .establish()
        .expect("room")
        .depart(NEVER)
        .expect("active");
    for _ in 0..2 {
        assert!(matches!(arrive(&ledger, &late), Err(Refusal::Expired)));
    }
    assert_eq!(ledger.sweep().expect("a sweep"), 1);
    assert!(matches!(arrive(&ledger, &swept), Err(Refusal::Expired)));
    assert!(arrive(&ledger, &good).is_ok());
    assert!(arrive(&ledger, &never).is_ok());
    let mut expired = Vec::new();
    ledger
        .collect(|release| {
            if release.cause == Cause::Expired {
                expired.push(release.id);
            }
        })
        .expect("a collection");
    expired.sort_unstable();
    let mut expected = [late.id, swept.id];
    expected.sort_unstable();
    assert_eq!(expired, expected);
}

//= proves spec/ledger.md#revoke
#[test]
fn a_revoked_context_stops_at_its_next_check() {
    let ledger = ledger(8);
    let claim = ledger.establish().expect("room");
    let token = ledger
        .establish()
        .expect("room")
        .depart(NEVER)
        .expect("active");
    assert!(ledger.revoke(&claim.id()));
    assert!(!ledger.revoke(&claim.id()));
    assert_eq!(claim.check(), Err(Lost::Revoked));
    let stayed = claim.depart(NEVER).expect_err("it is over");
    assert_eq!(stayed.stay, Stay::Lost(Lost::Revoked));
    assert_eq!(stayed.claim.end(), Err(Lost::Revoked));
    assert!(ledger.revoke(&token.id));
    assert!(matches!(arrive(&ledger, &token), Err(Refusal::Ended)));
    assert!(!ledger.revoke(&[7; 16]));
    assert_eq!(ledger.census(), Census::default());
}

#[test]
fn a_claim_that_is_dead_does_nothing_to_the_next_context() {
    let ledger = ledger(1);
    let stale = ledger.establish().expect("room");
    assert!(ledger.revoke(&stale.id()));
    let claim = ledger.establish().expect("room");
    assert_eq!(stale.check(), Err(Lost::Ended));
    assert_ne!(stale.id(), claim.id());
    drop(stale);
    assert_eq!(claim.check(), Ok(()));
}

//= proves spec/ledger.md#end
//= proves spec/ledger.md#collect
#[test]
fn a_release_is_told_once_with_its_cause() {
    let ledger = collected(4);
    let closed = ledger.establish().expect("room");
    let revoked = ledger.establish().expect("room");
    let ids = [closed.id(), revoked.id()];
    let epoch = closed.epoch();
    assert_eq!(closed.end(), Ok(()));
    assert!(ledger.revoke(&ids[1]));
    drop(revoked);
    // Their entries wait.
    let rest = [
        ledger.establish().expect("room"),
        ledger.establish().expect("room"),
    ];
    assert!(matches!(ledger.establish(), Err(Error::Full)));
    let mut told = Vec::new();
    assert_eq!(
        ledger
            .collect(|release| told.push(release))
            .expect("a collection"),
        2
    );
    told.sort_unstable_by_key(|release| release.id != ids[0]);
    let release = |id, cause| Release {
        id,
        epoch,
        cause,
        repeated: false,
    };
    assert_eq!(
        told,
        [
            release(ids[0], Cause::Closed),
            release(ids[1], Cause::Revoked)
        ]
    );
    assert_eq!(
        ledger.collect(|_| panic!("twice")).expect("a collection"),
        0
    );
    assert!(ledger.establish().is_ok());
    drop(rest);
}

//= proves spec/ledger.md#collect
#[test]
fn a_release_that_was_not_told_to_the_end_is_told_again() {
    let ledger = collected(4);
    let id = ledger.establish().expect("room").id();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ledger.collect(|_| panic!("in the middle"))
    }));
    assert!(panicked.is_err());
    let mut told = Vec::new();
    assert_eq!(
        ledger
            .collect(|release| told.push(release))
            .expect("a collection"),
        1
    );
    assert_eq!(
        (told[0].id, told[0].repeated, told[0].cause),
        (id, true, Cause::Closed)
    );
    assert_eq!(ledger.census(), Census::default());
}

//= proves spec/ledger.md#growth
#[test]
fn what_cannot_be_backed_is_an_error_and_not_a_signal() {
    let ledger = ledger(8192);
    let refused = |passing| {
        fault::arm("ledger.growth.refused", passing, fault::Action::Fail);
        let refused = ledger.establish().err();
        assert!(!fault::disarm(), "the point was passed");
        matches!(refused, Some(Error::System(_)))
    };
    // The process slots first, then the first and the second stretch of entries.
    assert!(refused(1));
    assert!(refused(2));
    let claims: Vec<_> = (0..4096)
        .map(|_| ledger.establish().expect("backed"))
        .collect();
    assert!(refused(1));
    assert!(ledger.establish().is_ok());
    assert!(claims.iter().all(|claim| claim.check().is_ok()));
    assert_eq!(words(&ledger)[ENTRIES_BACKED].get(), 8192);
    assert_eq!(words(&ledger)[ENTRIES_USED].get(), 4097);
}

//= proves spec/ledger.md#full
#[test]
fn a_full_ledger_is_swept_but_not_all_the_time() {
    let ledger = ledger(2);
    let claims = [(); 2].map(|()| ledger.establish().expect("room"));
    assert!(matches!(ledger.establish(), Err(Error::Full)));
    let first = words(&ledger)[SWEPT].get();
    // As if the last sweep were an hour old, or told in an hour to come.
    for swept in [first.saturating_sub(3_600_000), first + 3_600_000] {
        words(&ledger)[SWEPT].put(swept);
        assert!(matches!(ledger.establish(), Err(Error::Full)));
        assert_ne!(words(&ledger)[SWEPT].get(), swept, "it was swept");
    }
    // What only a sweep finds: a token that has expired.
    let [claim, token] = claims;
    let token = token.depart(0).expect("active");
    let swept = boottime_ms();
    words(&ledger)[SWEPT].put(swept);
    let full = ledger.establish();
    assert!(full.is_err() || boottime_ms() >= swept + ledger.pause());
    words(&ledger)[SWEPT].put(0);
    drop(full);
    assert!(ledger.establish().is_ok());
    assert!(arrive(&ledger, &token).is_err());
    assert_eq!(claim.check(), Ok(()));
}

//= proves spec/ledger.md#refuse
#[test]
fn a_mapping_that_is_no_ledger_is_refused() {
    let good = || ledger(10);
    let reopened = |change: &dyn Fn(&Mapping)| {
        let ledger = good();
        let fd = ledger
            .mapping()
            .fd()
            .try_clone_to_owned()
            .expect("a descriptor");
        let mapping = Mapping::from_fd(fd).expect("a mapping");
        change(&mapping);
        let before: Vec<u64> = mapping.as_words().iter().map(|word| word.get()).collect();
        let opened = Ledger::open(mapping);
        let unchanged = words(&ledger)
            .iter()
            .zip(before)
            .all(|(word, before)| word.load(Relaxed) == before);
        assert!(unchanged, "nothing is rewritten");
        opened.err().map(|error| error.to_string())
    };
    let rewritten = |change: &dyn Fn(&mut Header)| {
        reopened(&|mapping| {
            let mut header = Header::read(mapping.as_words()).expect("a good one");
            change(&mut header);
            header.write(mapping.as_words());
        })
    };
    assert_eq!(rewritten(&|_| ()), None);
    assert!(reopened(&|mapping| mapping.as_words()[3].put(11)).is_some());
    assert!(reopened(&|mapping| mapping.as_words().iter().for_each(|word| word.put(0))).is_some());
    assert!(rewritten(&|header| header.kind.0 = header::KEYRING.0).is_some());
    assert!(rewritten(&|header| header.kind.1 = 2).is_some());
    assert!(rewritten(&|header| header.kind.1 = 0).is_some());
    assert!(rewritten(&|header| header.options = 2).is_some());
    assert!(rewritten(&|header| header.boot[0] ^= 1).is_some());
    assert!(rewritten(&|header| header.sizes.0 = 1000).is_some());
    assert!(rewritten(&|header| header.sizes.0 = u64::MAX).is_some());
    assert!(rewritten(&|header| header.sizes.1 = 0).is_some());
    for bytes in [8, 88, 96, 4096, 1 << 20] {
        let mapping = Mapping::create_sealed("too-short", bytes).expect("memory");
        assert!(Ledger::open(mapping).is_err());
    }
    let empty = Options {
        capacity: 0,
        ..Options::default()
    };
    assert!(matches!(Ledger::inherited(&empty), Err(Error::System(_))));
}

//= proves spec/ledger.md#hints
//= proves spec/ledger.md#words
#[test]
fn noise_never_makes_a_second_runner_and_never_hangs() {
    let mut noise = Noise(0x5eed);
    for round in 0..300 {
        let ledger = if round % 2 == 0 {
            ledger(70)
        } else {
            collected(70)
        };
        let all = words(&ledger);
        let mut claims: Vec<_> = (0..20).map(|_| ledger.establish().expect("room")).collect();
        let tokens: Vec<_> = claims
            .drain(..10)
            .map(|claim| claim.depart(NEVER).expect("active"))
            .collect();
        let mut arrived = vec![0; tokens.len()];
        for _ in 0..40 {
            // Half of it aimed at the words that matter, some of it with whole bits of them.
            let place = match noise.below(4) {
                0 => layout(&ledger).entries + noise.below(20 * 8),
                1 => [ENTRIES_USED, ENTRIES_BACKED, PROCESSES_USED, SWEPT][noise.below(4)],
                _ => 12 + noise.below(all.len() - 12),
            };
            let value = match noise.below(3) {
                0 => noise.next(),
                1 => all[place].get() ^ 1 << noise.below(64),
                _ => u64::MAX,
            };
            all[place].put(value);
            match noise.below(5) {
                0 => drop(ledger.sweep()),
                1 => claims.extend(ledger.establish()),
                2 => drop(ledger.collect(|_| ())),
                3 => drop(ledger.revoke(&tokens[0].id)),
                _ => {}
            }
            for (token, arrived) in tokens.iter().zip(&mut arrived) {
                if let Ok(claim) = arrive(&ledger, token) {
                    *arrived += 1;
                    claims.push(claim);
                }
            }
        }
        assert!(arrived.iter().all(|times| *times <= 1));
        let mut alive: Vec<_> = claims
            .iter()
            .filter(|claim| claim.check().is_ok())
            .map(Claim::index)
            .collect();
        alive.sort_unstable();
        let before = alive.len();
        alive.dedup();
        assert_eq!(alive.len(), before, "one runner at each entry");
    }
}

#[test]
fn refusals_have_their_status() {
    let minor = |refusal: &Refusal| Status::from(refusal).minor();
    for (refusal, expected) in [
        (Refusal::Spent, Minor::TokenSpent),
        (Refusal::Expired, Minor::TokenExpired),
        (Refusal::Ended, Minor::ContextEnded),
        (Refusal::Unknown, Minor::ContextUnknown),
    ] {
        assert_eq!(minor(&refusal), expected);
        assert_eq!(expected.major(), Major::NoContext);
    }
    assert_eq!(
        minor(&Refusal::Local(Error::TooManyProcesses)),
        Minor::TooManyProcesses
    );
}

#[test]
fn a_claim_is_small() {
    assert_eq!(size_of::<Claim>(), 56);
    assert_eq!(size_of::<Option<Claim>>(), 56);
}

//= proves spec/ledger.md#growth
#[test]
fn a_million_contexts_fit_and_the_oldest_arrives() {
    let ledger = ledger(1_000_000);
    let oldest = ledger
        .establish()
        .expect("room")
        .depart(NEVER)
        .expect("active");
    let claims: Vec<_> = (1..1_000_000)
        .map(|_| ledger.establish().expect("room"))
        .collect();
    assert!(matches!(ledger.establish(), Err(Error::Full)));
    let claim = arrive(&ledger, &oldest).expect("the oldest");
    assert!(ledger.revoke(&claims[999_998].id()));
    assert_eq!(ledger.sweep().expect("a sweep"), 0);
    assert_eq!(ledger.census().active, 999_999);
    drop(claims);
    assert_eq!(ledger.census().active, 1);
    assert_eq!(claim.check(), Ok(()));
}
