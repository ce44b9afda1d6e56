//! The clocks. All are read without a system call.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since this machine was started, those asleep included (`CLOCK_BOOTTIME`).
///
/// It never goes back and cannot be set, and all processes of one boot read the same, so
/// deadlines are told by it.
//= spec/processes.md#clocks
pub fn boottime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // Neither part is negative: the clock starts at zero.
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Seconds since 1970-01-01 00:00 UTC (`CLOCK_REALTIME`); 0 when the clock is set before that.
///
/// Anyone with the right can set it, both ways: it is for certificates, which know no other.
pub fn unix_seconds() -> u64 {
    clock_gettime(ClockId::Realtime).tv_sec.max(0) as u64
}

/// [`unix_seconds`] as of the kernel's last tick, at most 10 ms old, in a third of the time.
pub fn unix_seconds_coarse() -> u64 {
    clock_gettime(ClockId::RealtimeCoarse).tv_sec.max(0) as u64
}
