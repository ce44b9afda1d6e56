//! A context is made of a finished handshake or of a ledger's claim; neither can be made up.

use baton::context::Context;
use baton::ledger::Claim;
use baton::message::Message;
use serde::de::DeserializeOwned;

fn renew(claim: &mut Claim) {
    claim.control = 7; //~ E0616 is private
}

fn decode<T: DeserializeOwned>() {}
fn default<T: Default>() {}

fn change(mut context: Context<Message>, other: Claim) {
    context.claim = other; //~ E0616 is private
}

fn main() {
    let _ = (change, renew);
    let _ = Claim::new; //~ E0624 `new` is private
    let _ = Context::<Message>::new; //~ E0599 no function or associated item named `new`
    decode::<Claim>(); //~ E0277 is not satisfied
    decode::<Context<Message>>(); //~ E0277 is not satisfied
    default::<Claim>(); //~ E0277 Default` is not satisfied
}
