//! Tests of the whole: over a mapping in one process, and over loom's words.

#[cfg(loom)]
mod interleavings;
#[cfg(not(loom))]
mod one_process;
