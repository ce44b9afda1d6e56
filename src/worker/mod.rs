//! Exit workers: the lines they read and write (`spec/exits.md`), and what a worker in Rust is
//! made of.
//!
//! ```no_run
//! use baton::exit::{Answer, CheckCertList, CheckCertListOutput, Override, Reason};
//! use baton::worker::Worker;
//!
//! # fn known(certificate: &[u8]) -> Option<String> { None }
//! fn main() -> Result<(), baton::worker::Error> {
//!     Worker::new()
//!         .holds(100)
//!         .on(|_, question: CheckCertList| match known(&question.cert_list[0]) {
//!             Some(name) => Answer::accepted(CheckCertListOutput {
//!                 peer_name: Override::Replace(name),
//!             }),
//!             None => Answer::refused(Reason::AccessDenied),
//!         })
//!         .serve()
//! }
//! ```
//!
//! Invariants: a line is bounded before it is read, and its JSON before it is understood; what is
//! not a valid answer is [`Garbage`], and no garbage is an answer.
//!
//! SECURITY: both sides are here. The server trusts no byte of a worker. A worker trusts the server
//! that started it, and reads its lines as strictly, since what stands in them comes from peers.

mod json;
mod lines;
mod room;
mod sdk;
#[cfg(test)]
mod tests;
mod wire;

pub use lines::{Lines, TooLong};
pub use room::question_room;
pub use sdk::{Call, Error, Worker};
pub use wire::{
    AnswerLine, FromServer, FromWorker, Garbage, Hello, Refusal, VERSION, input_of,
    read_from_server, read_from_worker, write_accepted, write_answer, write_cancel, write_hello,
    write_question, write_refused,
};
