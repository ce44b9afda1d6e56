//! STUB, replaced by the secret-pages implementation.
#![allow(missing_docs)]
use std::ops::{Deref, DerefMut};

pub struct Slot<T>(Box<T>);
impl<T> Slot<T> {
    pub fn new(value: T) -> Self {
        Self(Box::new(value))
    }
}
impl<T> Deref for Slot<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
impl<T> DerefMut for Slot<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

pub struct Scratch(Vec<u8>);
impl Scratch {
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    pub fn resize(&mut self, len: usize) {
        self.0.resize(len, 0);
    }
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
impl Deref for Scratch {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
pub fn scrub_stack() {}
/// Random bytes from a pool in secret pages: no system call most of the time.
pub fn random(out: &mut [u8]) -> Result<(), crate::crypto::Refused> {
    crate::crypto::random(out)
}
