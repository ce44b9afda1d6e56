//! The record of a context does not come out of it: not through the trait that a stream reaches
//! it by, and not through a framing of one's own, which import would show a token's state.

use baton::codec::{Defect, Framing};
use baton::record::{Channel, Frozen, Record};

fn taken<C: Channel>(channel: &mut C) -> Record {
    let mut other = None::<Record>.unwrap();
    std::mem::swap(channel.record().unwrap(), &mut other); //~ E0061 takes 1 argument
    other
}

struct Thief;

impl Framing for Thief { //~ E0277 Sealed` is not satisfied
    type Frozen<'a> = Frozen<'a>;
    const CODE: u8 = 2;

    fn freeze(&self) -> Option<Frozen<'_>> {
        None
    }

    fn thaw(frozen: Frozen<'_>) -> Result<Self, Defect> {
        std::mem::forget(Record::thaw(frozen));
        Err(Defect)
    }
}

fn main() {
    let _ = taken::<Record>;
}
