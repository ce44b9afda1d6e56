//! Sessions.
pub mod about;
pub mod flow;
pub mod log;
pub mod page;
pub mod relay;
pub mod report;
