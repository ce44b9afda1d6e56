//! Nothing of a password stays in memory but where it is kept to be used: not on the stack, not in
//! the heap, not in a buffer that was sent or received.

#![allow(clippy::unwrap_used, clippy::panic)]

mod parties;
#[allow(dead_code)]
#[path = "secret/memory.rs"]
mod memory;

use std::sync::Arc;

use baton::cred::{InitiatorCredential, Password};
use baton::establish::{Acceptor, Attempt, Initiator, Verdict};
use baton::exit::UserData;
use baton::message::Message;
use baton::sys::alloc::WipingAllocator;
use memory::{count_in_memory, mark};
use parties::*;

// As the program does: what the libraries leave in the heap is wiped when it is freed.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

const LENGTH: usize = 40;

/// One character of the password `seed`, which stands nowhere as a whole.
#[inline(never)]
fn letter(seed: u64, index: usize) -> u8 {
    b'a' + mark(seed, index) % 26
}

/// The password, in text that is wiped when it is dropped.
#[inline(never)]
fn password(seed: u64) -> Password {
    let mut text = String::with_capacity(LENGTH);
    (0..LENGTH).for_each(|index| text.push(char::from(letter(seed, index))));
    Password::new("ada", &text).unwrap()
}

fn copies(seed: u64) -> usize {
    count_in_memory(LENGTH, &|index| letter(seed, index))
}

/// Knows both passwords, and asks for the second after the first.
fn check(attempt: &Attempt<'_>) -> Verdict {
    let is = |seed| {
        let bytes = attempt.password.as_bytes();
        bytes.len() == LENGTH && (0..LENGTH).all(|index| bytes[index] == letter(seed, index))
    };
    if is(1) {
        return Verdict::Again;
    }
    assert!(is(2));
    let mut user = UserData::default();
    user.set_user_name("ada").unwrap();
    Verdict::Accept(user)
}

//= proves spec/mechanism.md#password
#[test]
fn a_password_stays_nowhere() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = configs(&authority);
    let first = InitiatorCredential::from_password(password(1));
    let (acceptor, initiator) = build((
        acceptor.passwords(Arc::new(check), 2),
        initiator.credential(first),
    ));
    assert_eq!(copies(1), 1, "in the credential");
    let started = Initiator::<Message>::new(initiator.clone(), target()).unwrap();
    let ends = messages(Acceptor::new(acceptor), started, |asked| {
        let second = password(2);
        assert_eq!(copies(2), 1);
        asked.answer(&second).unwrap()
    });
    let (acceptor, _) = ends.both();
    assert!(acceptor.facts().user_data.is_some());
    assert_eq!(copies(1), 1, "in the credential still");
    assert_eq!(copies(2), 0);
    drop(initiator);
    assert_eq!(copies(1), 0);
}
