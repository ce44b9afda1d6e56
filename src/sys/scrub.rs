//! Wiping memory that the compiler would rather leave.

use std::mem::MaybeUninit;

/// The most stack [`scrub_stack`] overwrites, bytes. A thread has 2 MiB unless it asked for less.
pub const MAX_STACK: usize = 256 * 1024;

/// Sets every byte to zero, and the compiler may not leave it out.
///
/// At the speed of `memset`: the C library's `explicit_bzero`.
///
/// ```
/// let mut key = [7; 32];
/// baton::sys::scrub::wipe(&mut key);
/// assert_eq!(key, [0; 32]);
/// ```
#[inline]
pub fn wipe(bytes: &mut [u8]) {
    // SAFETY: The range is that of an exclusive borrow.
    unsafe { libc::explicit_bzero(bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// Sets `len` bytes from `start` to zero.
///
/// # Safety
/// The range is writable, nothing else accesses it during the call, and no value is expected in
/// it afterwards for which zeros are not one.
#[inline]
pub(super) unsafe fn wipe_raw(start: *mut u8, len: usize) {
    // SAFETY: As this function demands.
    unsafe { libc::explicit_bzero(start.cast(), len) };
}

/// Overwrites the next `bytes` of the stack, at most [`MAX_STACK`], on which functions called
/// earlier from the same depth may have left copies of secrets.
///
/// Best effort: registers and what lies above the caller's frame stay.
///
/// ```
/// baton::sys::scrub::scrub_stack(16 * 1024);
/// ```
pub fn scrub_stack(bytes: usize) {
    step(bytes.min(MAX_STACK));
}

#[inline(never)]
fn step(bytes: usize) {
    const STEP: usize = 4096;
    let mut frame = MaybeUninit::<[u8; STEP]>::uninit();
    // SAFETY: The frame is this function's own; bytes may hold zeros.
    unsafe { wipe_raw(frame.as_mut_ptr().cast(), STEP) };
    if bytes > STEP {
        step(bytes - STEP);
    }
    // The frame is in use until here, so the call above is not made into a jump.
    std::hint::black_box(&mut frame);
}
