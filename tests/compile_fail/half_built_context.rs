//! A context that is not established has no way out but to be finished or dropped.

use baton::establish::{Acceptor, Finished};
use baton::message::Message;
use baton::transfer::Export;

fn before_the_end(acceptor: Acceptor<Message>) {
    let _ = acceptor.export(&Export::default()); //~ E0599 no method named `export`
}

fn before_activation(finished: Finished<Message>) {
    let _ = finished.export(&Export::default()); //~ E0599 no method named `export`
}

fn step_twice(acceptor: Acceptor<Message>) {
    let one = acceptor.step(b"");
    let other = acceptor.step(b""); //~ E0382 moved value: `acceptor`
    drop((one, other));
}

fn main() {
    let _ = (before_the_end, before_activation, step_twice);
}
