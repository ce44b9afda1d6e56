//! What the processes of a server tell each other: links, parcels, reports, a succession's messages.
//!
//! The first byte says which: a kind of message (below 0x40), a message before a succession's
//! passage (below 0x80), or what sessions are told of (from 0x80). There, steps: who says it (one
//! byte), how many bytes belong to it (one byte), these bytes. Held is: what is a message is written
//! and read again as the same; what is said of sessions makes no more of them than there were.

#![no_main]

use baton::server::forge::{KINDS, Told, read};
use baton::succession::forge as succession;
use libfuzzer_sys::fuzz_target;

fn told(mut bytes: &[u8]) {
    let mut told = Told::new().expect("descriptors");
    let mut before = usize::from(Told::SESSIONS);
    while let [who, length, rest @ ..] = bytes {
        let (message, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        bytes = rest;
        match who % 8 {
            0..=2 => told.zygote(message),
            3 => told.zygote_ended(message.is_empty()),
            _ => told.session(*who, message),
        }
        let there = told.settle().expect("it does not wait");
        assert!(there <= before);
        before = there;
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else {
        return;
    };
    let again = |read: &dyn Fn(&[u8]) -> Option<Vec<u8>>| {
        if let Some(written) = read(bytes) {
            assert!(written.len() <= 2 * bytes.len() + 8);
            assert_eq!(read(&written).as_ref(), Some(&written));
        }
    };
    match how {
        0..0x40 => again(&|bytes| read(how % KINDS, bytes)),
        0x40..0x60 => again(&succession::answer),
        0x60..0x80 => again(&succession::offer),
        _ => told(bytes),
    }
});
