//! A secret cannot be printed, nor a structure that holds one and derives `Debug`.

use std::fmt::{Debug, Display};

use baton::context::Exporter;
use baton::crypto::AeadKey;
use baton::secret::{Scratch, Slot};

#[derive(Debug)]
struct Session {
    number: u32,
    key: Slot<[u8; 32]>, //~ E0277 doesn't implement `Debug`
}

fn debug<T: Debug>() {}
fn display<T: Display>() {}

fn main() {
    let slot = Slot::new([7u8; 32]);
    println!("{slot:?}"); //~ E0277 doesn't implement `Debug`
    debug::<Scratch>(); //~ E0277 doesn't implement `Debug`
    debug::<AeadKey>(); //~ E0277 doesn't implement `Debug`
    debug::<Exporter>(); //~ E0277 doesn't implement `Debug`
    display::<Slot<String>>(); //~ E0277 doesn't implement `std::fmt::Display`
    let session = Session {
        number: 1,
        key: slot,
    };
    println!("{}", session.number);
}
