//! The lawful uses beside the refused ones: a slot is read and written through, and nothing else.

use baton::secret::{Scratch, Slot};

fn main() {
    let mut slot = Slot::new([7u8; 32]);
    slot[0] = 1;
    assert_eq!(slot[0], 1);
    let mut scratch = Scratch::with_capacity(8);
    scratch.extend_from_slice(&slot[..8]);
    assert_eq!(scratch.len(), 8);
}
