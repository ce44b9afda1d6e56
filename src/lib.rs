//! Security contexts that move, alive, from one process to another: a context is a baton, one
//! runner holds it at a time.
//!
//! The modules below are in layers: each uses only those declared above it
//! (`tests/structure.rs` holds this), so reading them from top to bottom is reading the crate.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![warn(unreachable_pub)]
// What comes from outside is an error, never a panic. Tests may.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::print_stdout
    )
)]

// (The lines above each module are not doc comments: rustdoc would look for the links of the
// module's own documentation out here.)

// Ground: nothing here knows what a context is.
// Major and minor status, the words every call of the mechanism answers with (RFC 2743 1.2.1).
pub mod status;
// The only room with `unsafe`: memory, processes, sockets, files, clocks.
#[allow(unsafe_code)]
pub mod sys;
// Values that are wiped: on drop, in forked children, and out of core dumps.
pub mod secret;
// Encoding of state that crosses a process.
pub mod codec;
// The cryptographic operations Baton uses, over ring.
pub mod crypto;

// Mechanism: contexts, from the first byte of a handshake to the last hop.
// Context flags (RFC 2743 1.2.7 and 2.2.1).
pub mod flags;
// Names of targets, users and certificates' subjects (RFC 2743 section 4).
pub mod name;
// The words of the security exits: session identifier, user context, user data, tickets.
pub mod exit;
// Handshakes: TLS 1.3 by rustls, and what of it the mechanism takes over.
pub mod tls;
// Credentials: who an acceptor or an initiator is, and whom it trusts.
pub mod cred;
// Who runs each context, and the domains among whose processes contexts move.
pub mod ledger;
// Message framing: wrap, MIC and close tokens.
pub mod message;
// Record framing: TLS 1.3 records after the handshake.
pub mod record;
// The context itself: keys, facts and the claim that this process runs it.
pub mod context;
// Establishing a context, as initiator or acceptor.
pub mod establish;
// Export and import: hops.
pub mod transfer;
// A server and the program that succeeds it: everything handed over, live.
pub mod succession;

// Service: what runs contexts.
// A live context seen as a stream of plaintext, in either framing.
pub mod channel;
// Exit workers: the lines they read and write, and a worker in ten lines of Rust.
pub mod worker;
// The exit workers that come with the program.
#[cfg(feature = "cli")]
pub mod builtin;
// Questions for exit workers, and the processes that answer them.
pub mod pool;
// Many handshakes and sessions at once: start, and wait at the completion port.
pub mod port;
// The jobs of a session, over its plaintext, and what is told of it.
pub mod session;
// The server: identity, listening, a process per session.
#[cfg(feature = "cli")]
pub mod server;
/// The command line.
#[cfg(feature = "cli")]
pub mod cli;
