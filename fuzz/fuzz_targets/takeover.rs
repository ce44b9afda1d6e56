//! A server that hands over what it likes to the one that comes after it.
//!
//! The first byte says how: 0 to 0x7f, how many descriptors are left out (low bits) or there too
//! often (from 0x40), and the rest is the estate, as it is; from 0x80, a real estate with changes
//! (position, two bytes, and xor). Held is: what is no estate is refused, and what is taken over is
//! served without a panic and without memory that was only claimed.

#![no_main]

use baton::server::forge::Handed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&how, bytes)) = input.split_first() else {
        return;
    };
    let mut handed = Handed::new().expect("descriptors");
    match how {
        0..0x80 => {
            handed.bytes = bytes.to_vec();
            let number = usize::from(how & 0x3f);
            if how < 0x40 {
                let left = handed.fds.len().saturating_sub(number);
                handed.fds.truncate(left);
            } else if let Some(last) = handed.fds.last() {
                let more = (0..number).map(|_| last.try_clone().expect("descriptors"));
                let more: Vec<_> = more.collect();
                handed.fds.extend(more);
            }
        }
        _ => {
            for change in bytes.chunks_exact(3) {
                let at = usize::from(u16::from_be_bytes([change[0], change[1]]));
                let length = handed.bytes.len();
                handed.bytes[at % length] ^= change[2];
            }
        }
    }
    let taken = handed.take().expect("the system's own");
    assert!(
        taken || !(how >= 0x80 && bytes.is_empty()),
        "its own estate"
    );
});
