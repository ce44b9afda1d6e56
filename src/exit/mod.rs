//! The words of the security exits: what an exit is asked about a session, what it answers, and
//! what of its answers travels with the context from one process to another.
//!
//! A [`Question`] is asked at a [`Point`] of a [`Family`]; its [`Answer`] has two layers that are
//! never confused. `spec/exits.md` is the protocol in which both travel.
//!
//! Only words live here, with their bounds; the machinery that asks is far above. Every bound
//! holds from construction on and is checked again when a value is decoded, element by element,
//! so that a hostile exporter cannot make an importer allocate more than the bound.

mod answer;
mod field;
mod outputs;
mod point;
mod questions;
mod session;
#[cfg(test)]
mod tests;
mod ticket;
mod user;

pub use answer::{
    AlertDescription, Answer, Failure, INTERNAL_ERROR, Reason, ReturnCode, Status, Verdict,
};
pub use field::{Datum, Described, Fields, Kind, LARGEST, Limits, Override, Shape};
pub use outputs::{
    BuildCaDnListOutput, CheckCertListOutput, ClientAuth, ComputationOutput, GetCertListOutput,
    GetServerPublicKeyOutput, HandshakeDoneOutput, NoOutput, Output, SessionInitOutput,
};
pub use point::{Family, LINE_LIMIT, Point};
pub use questions::{
    BuildCaDnList, Cause, CheckCertList, Computation, GetCertList, GetServerPublicKey,
    HandshakeDone, Input, Operation, Question, Reply, Role, SessionEnd, SessionInit,
    SetServerPublicKey,
};
pub use session::{SessionIdentifier, UserContext};
pub use ticket::{Ticket, TicketState, Tickets};
pub use user::{Account, Missing, UserData};

use core::fmt;
use core::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// A value that cannot be: which field, and which rule it breaks. It never carries the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unfit {
    /// The field is empty and may not be.
    Empty(&'static str),
    /// The field is longer than this many bytes.
    TooLong(&'static str, usize),
    /// The field has more than this many members.
    TooMany(&'static str, usize),
    /// The field holds a control character.
    Control(&'static str),
    /// The field is out of its range, or contradicts another.
    Impossible(&'static str),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(field) => write!(f, "{field} is empty"),
            Self::TooLong(field, limit) => write!(f, "{field} is longer than {limit} bytes"),
            Self::TooMany(field, limit) => write!(f, "{field} has more than {limit} members"),
            Self::Control(field) => write!(f, "{field} holds a control character"),
            Self::Impossible(field) => write!(f, "{field} has a value that cannot be"),
        }
    }
}

impl core::error::Error for Unfit {}

/// A text of 1 to `limit` bytes without control characters: what may stand in a log line, an
/// environment variable or a file name without becoming two of them.
fn check_text(field: &'static str, text: &str, limit: usize) -> Result<(), Unfit> {
    if text.is_empty() {
        return Err(Unfit::Empty(field));
    }
    if text.len() > limit {
        return Err(Unfit::TooLong(field, limit));
    }
    if text.chars().any(char::is_control) {
        return Err(Unfit::Control(field));
    }
    Ok(())
}

/// Decodes bytes of at most `limit`; nothing is copied before the length was checked.
fn decode_bytes<'de, D: Deserializer<'de>>(
    decoder: D,
    field: &'static str,
    limit: usize,
) -> Result<Vec<u8>, D::Error> {
    struct Bytes(&'static str, usize);

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {} bytes", self.1)
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            if bytes.len() > self.1 {
                return Err(E::custom(Unfit::TooLong(self.0, self.1)));
            }
            Ok(bytes.to_vec())
        }
    }

    decoder.deserialize_bytes(Bytes(field, limit))
}

/// A list that is decoded member by member and given up at the first one past `LIMIT`, so that
/// neither a claimed count nor a real one decides what is allocated.
struct List<T, const LIMIT: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const LIMIT: usize> Deserialize<'de> for List<T, LIMIT> {
    fn deserialize<D: Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
        struct Members<T, const LIMIT: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const LIMIT: usize> Visitor<'de> for Members<T, LIMIT> {
            type Value = List<T, LIMIT>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {LIMIT} members")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(member) = members.next_element()? {
                    if list.len() == LIMIT {
                        return Err(A::Error::custom(Unfit::TooMany("list", LIMIT)));
                    }
                    list.push(member);
                }
                Ok(List(list))
            }
        }

        decoder.deserialize_seq(Members(PhantomData))
    }
}
