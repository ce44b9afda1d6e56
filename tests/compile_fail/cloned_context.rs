//! One runner, in one process too: a context, its claim and its keys are never two.

use baton::context::{Context, Exporter};
use baton::ledger::Claim;
use baton::message::Message;
use baton::record::Record;

fn clone<T: Clone>() {}

fn twin(context: Context<Message>) -> (Context<Message>, Context<Message>) {
    let other = context.clone(); //~ E0599 no method named `clone`
    (context, other)
}

fn main() {
    let _ = twin;
    clone::<Context<Record>>(); //~ E0277 Clone` is not satisfied
    clone::<Claim>(); //~ E0277 Clone` is not satisfied
    clone::<Message>(); //~ E0277 Clone` is not satisfied
    clone::<Record>(); //~ E0277 Clone` is not satisfied
    clone::<Exporter>(); //~ E0277 Clone` is not satisfied
}
