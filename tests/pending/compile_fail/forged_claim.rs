//! A context is made of a finished handshake or of a ledger's claim; neither can be made up.

use baton::context::Context;
use baton::ledger::Claim;
use baton::message::Message;
use serde::de::DeserializeOwned;

fn decode<T: DeserializeOwned>() {}
fn default<T: Default>() {}

fn change(mut context: Context<Message>, other: Claim) {
    context.claim = other; //~ E0616 field `claim` of struct `Context` is private
}

fn main() {
    let _ = change;
    let claim = Claim {}; //~ E0451
    let context: Context<Message> = Context { claim }; //~ E0451
    drop(context);
    decode::<Claim>(); //~ E0277 is not satisfied
    decode::<Context<Message>>(); //~ E0277 is not satisfied
    default::<Claim>(); //~ E0277 Default` is not satisfied
}
