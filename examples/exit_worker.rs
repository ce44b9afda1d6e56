//! An exit worker in Rust: lets in whose leaf certificate's SHA-256 stands in a list.
//!
//! ```console
//! $ baton exit call check-cert-list question.json -- target/debug/examples/exit_worker 9f86d0...
//! ```
//!
//! `spec/exits.md` says what it reads and writes; all of that is in [`Worker`].

use std::process::ExitCode;

use baton::crypto::sha256;
use baton::exit::{Answer, CheckCertList, CheckCertListOutput, Override, Reason, SessionEnd};
use baton::worker::Worker;

fn main() -> ExitCode {
    let known: Vec<String> = std::env::args().skip(1).collect();
    let ended = Worker::new()
        .holds(1000)
        .on(move |call, question: CheckCertList| {
            let Some(leaf) = question.cert_list.first() else {
                return Answer::fatal();
            };
            let digest: String = sha256(&[leaf.as_slice()])
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            if !known.contains(&digest) {
                call.say(format!("{digest} is not in the list"));
                return Answer::refused(Reason::AccessDenied);
            }
            Answer::accepted(CheckCertListOutput {
                peer_name: Override::Replace(digest),
            })
        })
        .on(|_, question: SessionEnd| {
            eprintln!("a session ended after {} seconds", question.seconds);
            Answer::Nothing
        })
        .serve();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
