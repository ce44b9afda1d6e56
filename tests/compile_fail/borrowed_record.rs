//! A record that is part of a context stays in it: beside the context it would be a second runner.

use baton::codec::Framing;
use baton::context::Context;
use baton::record::{Channel, Record};

fn through_a_channel<C: Channel>(mut channel: C) {
    let _ = channel.record(Default::default()); //~ E0277 Default` is not satisfied
}

fn out_of_a_context(context: &mut Context<Record>) -> &mut Record {
    &mut context.protection //~ E0616 is private
}

struct Own;

impl Framing for Own { //~ E0277 is not satisfied
    type Frozen<'a> = ();
    const CODE: u8 = 9;
    fn freeze(&self) -> Option<()> {
        None
    }
    fn thaw(_: ()) -> Result<Self, baton::codec::Defect> {
        Ok(Own)
    }
}

fn main() {
    let _ = (through_a_channel::<Record>, out_of_a_context);
}
