//! Sessions.
pub mod flow;
pub mod relay;
pub mod report;
