use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Acquire;

use zeroize::Zeroize;

use super::*;
use crate::sys::fault::{self, Action};

const HOUR: Duration = Duration::from_secs(3600);

fn keyring() -> Keyring {
    Keyring::inherited([7; 16]).expect("memory")
}

fn current(keyring: &Keyring) -> (u64, [u8; 32]) {
    keyring
        .with_current(|id, key| (id, *key))
        .expect("there always is one")
}

fn slot(keyring: &Keyring, slot: usize) -> Vec<u64> {
    let words = &keyring.mapping.as_words()[FIRST + slot * SLOT..][..SLOT];
    words.iter().map(|word| word.load(Acquire)).collect()
}

//= proves spec/domains.md#keyring
#[test]
fn a_keyring_is_laid_out_as_the_page_says() {
    let keyring = keyring();
    let words = keyring.mapping.as_words();
    assert_eq!(words[0].load(Acquire).to_be_bytes(), *b"BATONKEY");
    // The first key: rotation 1, in the slot behind the one that zero names.
    assert_eq!(words[16].load(Acquire), 1 << 8 | 1);
    let words = slot(&keyring, 1);
    assert_eq!(words[0], 2 << 62 | 1 << 22 | 1);
    let (id, mut key) = current(&keyring);
    assert_eq!(words[1], id);
    let bytes: Vec<u8> = words[2..6]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    assert_eq!(bytes, key);
    assert!(words[6] >> 16 <= boottime_ms() && words[6] & 0xffff != 0);
    assert!(words[7..].iter().all(|word| *word == 0));
    key.zeroize();
}

//= proves spec/domains.md#rotate
//= proves spec/domains.md#key-grace
//= proves spec/domains.md#wipe
#[test]
fn a_key_opens_until_its_grace_is_over_and_is_then_wiped() {
    let keyring = keyring();
    let (first, key) = current(&keyring);
    let second = keyring.rotate(HOUR).expect("a rotation");
    assert_eq!(current(&keyring).0, second);
    assert_eq!(keyring.with(first, |found| *found == key), Some(true));
    assert_eq!(keyring.with(second, |found| *found == key), Some(false));
    let third = keyring.rotate(Duration::ZERO).expect("a rotation");
    assert_eq!(keyring.with(second, |_| ()), None, "without grace");
    assert!(
        keyring.with(first, |_| ()).is_some(),
        "its hour is not over"
    );
    assert!(keyring.with(third, |_| ()).is_some());
    assert_eq!(keyring.with(third ^ 1, |_| ()), None);
    assert_eq!(keyring.with(0, |_| ()), None);
    // Only the two that open are left in memory.
    let left: Vec<u64> = (0..SLOTS)
        .map(|n| slot(&keyring, n)[1])
        .filter(|id| *id != 0)
        .collect();
    assert_eq!(left, [first, third]);
    let wiped = (0..SLOTS)
        .map(|n| slot(&keyring, n))
        .filter(|words| words[0] >> 62 == 0);
    assert!(wiped.clone().count() == SLOTS - 2);
    assert!({ wiped }.all(|words| words[1..].iter().all(|word| *word == 0)));
}

//= proves spec/domains.md#key-grace
#[test]
fn a_key_whose_time_has_come_is_unknown_before_it_is_wiped() {
    let keyring = keyring();
    let (first, _) = current(&keyring);
    keyring.rotate(HOUR).expect("a rotation");
    let retires = &keyring.mapping.as_words()[FIRST + SLOT + 7];
    let word = retires.load(Acquire);
    assert_eq!(word & 0xffff, 1, "the rotation it is for");
    assert!(word >> 16 > boottime_ms());
    retires.store(
        boottime_ms() << 16 | 1,
        std::sync::atomic::Ordering::Release,
    );
    assert_eq!(keyring.with(first, |_| ()), None);
    assert_eq!(slot(&keyring, 1)[1], first);
    keyring.wipe_retired();
    assert!(slot(&keyring, 1)[1..].iter().all(|word| *word == 0));
}

//= proves spec/domains.md#rotate
#[test]
fn sixteen_keys_in_their_grace_are_enough() {
    let keyring = keyring();
    let mut ids = vec![current(&keyring).0];
    for _ in 1..SLOTS {
        ids.push(keyring.rotate(HOUR).expect("a slot is left"));
    }
    assert!(matches!(keyring.rotate(HOUR), Err(Error::KeysInUse)));
    assert_eq!(current(&keyring).0, ids[SLOTS - 1]);
    assert!(ids.iter().all(|id| keyring.with(*id, |_| ()).is_some()));
}

//= proves spec/domains.md#key-read
#[test]
fn keys_are_read_whole_by_threads_while_they_rotate() {
    let keyring = keyring();
    let known = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let (id, key) = current(&keyring);
                    let again = keyring.with(id, |found| *found);
                    assert!(again.is_none_or(|found| found == key));
                    let mut known = known.lock().expect("no panic");
                    assert_eq!(*known.entry(id).or_insert(key), key);
                }
            });
            scope.spawn(|| {
                for _ in 0..500 {
                    keyring.rotate(Duration::ZERO).expect("a rotation");
                }
            });
        }
    });
}

//= proves spec/domains.md#late
#[test]
fn a_rotation_that_was_stopped_anywhere_does_no_harm_when_it_goes_on() {
    let points = [
        "taken", "word", "written", "ready", "current", "retired", "wiping", "wiped",
    ];
    for point in points {
        for passing in 1..=6 {
            let keyring = std::sync::Arc::new(keyring());
            let other = keyring.clone();
            let meanwhile = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
            let seen = meanwhile.clone();
            // In the middle of one rotation 40 others happen, more than there are slots.
            let act = move || {
                for n in 0..40 {
                    let grace = if n % 8 == 7 { HOUR } else { Duration::ZERO };
                    other.rotate(grace).expect("a rotation");
                    seen.lock().expect("no panic").push(current(&other));
                }
            };
            fault::arm(
                &format!("ledger.keyring.{point}"),
                passing,
                Action::Call(Box::new(act)),
            );
            keyring.rotate(Duration::ZERO).expect("a rotation");
            fault::disarm();
            let meanwhile = meanwhile.lock().expect("no panic");
            // Every key that was made meanwhile is as it was, if it still opens.
            for (id, key) in meanwhile.iter() {
                assert!(
                    keyring
                        .with(*id, |found| found == key)
                        .is_none_or(|same| same)
                );
            }
            if let Some((_, key)) = meanwhile.last() {
                assert_ne!(key, &[0; 32]);
                let graced = meanwhile.iter().skip(7).step_by(8).count();
                let opening = meanwhile
                    .iter()
                    .filter(|(id, _)| keyring.with(*id, |_| ()).is_some());
                assert!(opening.count() >= graced - 1, "{point} at {passing}");
            }
            current(&keyring);
            keyring.rotate(HOUR).expect("a rotation");
        }
    }
}

#[test]
fn a_keyring_that_is_damaged_says_so() {
    let keyring = keyring();
    keyring.mapping.as_words()[CURRENT].store(u64::MAX, std::sync::atomic::Ordering::Release);
    assert!(matches!(
        keyring.with_current(|_, _| ()),
        Err(Error::Damaged(_))
    ));
    assert_eq!(keyring.with(1, |_| ()), None);
    assert!(matches!(keyring.rotate(HOUR), Err(Error::KeysInUse)));
}

//= proves spec/domains.md#key-memory
#[test]
fn the_keys_are_locked_and_left_out_of_core_files() {
    let keyring = keyring();
    current(&keyring);
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("proc");
    let start = keyring.mapping.as_words().as_ptr() as usize;
    let ours = maps
        .split_inclusive("VmFlags:")
        .zip(maps.split("VmFlags:").skip(1))
        .find(|(head, _)| head.contains(&format!("{start:x}-")))
        .and_then(|(_, flags)| flags.lines().next())
        .expect("it is mapped");
    assert!(ours.contains(" dd"), "{ours}");
    // Locked as far as the limit goes; the tests' own is enough for one page.
    assert!(ours.contains(" lo") || !keyring.mapping.lock(), "{ours}");
}
