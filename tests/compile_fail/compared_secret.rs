//! Secrets are compared in constant time by `crypto::equal`, and by nothing that is quicker to
//! write.

use baton::secret::Slot;

fn hash<T: std::hash::Hash>() {}

fn main() {
    let (one, other) = (Slot::new([7u8; 32]), Slot::new([7u8; 32]));
    let _ = one == other; //~ E0369 cannot be applied to type `Slot<[u8; 32]>`
    hash::<Slot<[u8; 32]>>(); //~ E0277 Hash` is not satisfied
}
