//! The server.
pub mod identity;
pub mod state;
