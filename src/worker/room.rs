//! How long a question's line can be.
//!
//! Invariant: what [`question_room`] answers is not exceeded by the line. A line that has to grow
//! while it is written leaves a copy of its user context behind, which nobody wipes.

use std::convert::Infallible;

use crate::exit::{Datum, Fields, Kind, Limits, Override, Question, UserContext};

/// What stands in a line besides its user context and its input.
const AROUND: usize = 256;
/// Digits of a number and what stands around a field: quotes, colon, comma.
const FIELD: usize = 32;
/// Digits of a member of a list of numbers, or quotes and padding of one of bytes, and a comma.
const MEMBER: usize = 8;

/// Bytes for which the line of this question has room at most, if it keeps its limits.
pub fn question_room(question: &mut Question) -> usize {
    let mut room = Room(AROUND + base64(UserContext::LIMIT));
    match question.describe(&mut room) {
        // One that keeps no limit is not written to its end.
        Ok(()) => room.0.min(4 * question.point().line_limit()),
    }
}

fn base64(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

struct Room(usize);

impl Fields for Room {
    type Error = Infallible;

    fn field<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut T,
        _: &Limits,
    ) -> Result<(), Infallible> {
        self.0 += name.len() + FIELD;
        self.0 += match value.lend() {
            // Each byte with an escape: control characters are in no text that is written.
            Datum::Text(text) => text.len() * 2,
            Datum::Bytes(bytes) => base64(bytes.len()),
            Datum::List(list) => list.iter().map(|it| base64(it.len()) + MEMBER).sum(),
            Datum::Numbers(numbers) => numbers.len() * MEMBER,
            Datum::Integer(_) | Datum::Boolean(_) => 0,
        };
        Ok(())
    }

    fn optional<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut Option<T>,
        limits: &Limits,
    ) -> Result<(), Infallible> {
        value
            .as_mut()
            .map_or(Ok(()), |value| self.field(name, value, limits))
    }

    fn overridden<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut Override<T>,
        limits: &Limits,
        _: bool,
    ) -> Result<(), Infallible> {
        match value {
            Override::Keep => Ok(()),
            Override::Replace(value) => self.field(name, value, limits),
        }
    }
}
