//! A secret has one place: it is not copied by a clone, a default or a derived encoding.

use baton::context::{Context, Exporter};
use baton::cred::Password;
use baton::crypto::AeadKey;
use baton::message::Message;
use baton::secret::{Scratch, Slot};
use serde::Serialize;

#[derive(Clone)]
struct Session {
    key: Slot<[u8; 32]>, //~ E0277 Clone` is not satisfied
}

fn clone<T: Clone>() {}
fn copy<T: Copy>() {}
fn encode<T: Serialize>() {}

fn main() {
    clone::<Slot<[u8; 32]>>(); //~ E0277 Clone` is not satisfied
    clone::<Scratch>(); //~ E0277 Clone` is not satisfied
    clone::<AeadKey>(); //~ E0277 Clone` is not satisfied
    clone::<Password>(); //~ E0277 Clone` is not satisfied
    copy::<Slot<u8>>(); //~ E0277 Copy` is not satisfied
    encode::<Slot<[u8; 32]>>(); //~ E0277 Serialize` is not satisfied
    encode::<Scratch>(); //~ E0277 Serialize` is not satisfied
    encode::<Password>(); //~ E0277 Serialize` is not satisfied
    encode::<Exporter>(); //~ E0277 Serialize` is not satisfied
    encode::<Message>(); //~ E0277 Serialize` is not satisfied
    encode::<Context<Message>>(); //~ E0277 Serialize` is not satisfied
    let session = Session {
        key: Slot::new([7; 32]),
    };
    drop(session.key);
}
