//! A TLS echo server of one process and one thread, for as many connections as there are
//! descriptors, which is replaced by its successor without a peer noticing: at SIGUSR2 it starts
//! the program at its own path, and gives it the listening socket, the domain and every live
//! connection (`spec/succession.md`).
//!
//! `cargo run --example hot_restart -- --cert chain.pem --key key.pem --listen 127.0.0.1:4433`,
//! then `kill -USR2` the process whose number it prints, as often as you like.

#![allow(clippy::print_stdout, missing_docs)]

#[path = "hot_restart/connection.rs"]
mod connection;
#[path = "hot_restart/server.rs"]
mod server;

use std::process::ExitCode;

use baton::sys::alloc::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    match server::Settings::of(std::env::args_os().skip(1)).and_then(|it| server::run(&it)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hot_restart: {error}");
            ExitCode::FAILURE
        }
    }
}
