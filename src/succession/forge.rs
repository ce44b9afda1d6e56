//! The messages before the passage, for fuzzing only: read, and written again.

use super::wire::{self, Answer};

/// What a successor answers, as it is written; none when it is no answer.
pub fn answer(message: &[u8]) -> Option<Vec<u8>> {
    Some(match Answer::read(message).ok()? {
        Answer::Hello(hello) => {
            let _ = hello.agree();
            hello.write()
        }
        Answer::Ready => wire::ready(),
        Answer::Refusal(reason) => wire::refusal(&reason),
    })
}

/// An offer, as it is written; none when it is no offer.
pub fn offer(message: &[u8]) -> Option<Vec<u8>> {
    let (listeners, note) = wire::read_offer(message).ok()?;
    wire::offer(wire::VERSION, listeners, note)
}
