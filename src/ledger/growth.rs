//! Use of what was never used, backed by memory before anybody touches it.

use core::ops::Range;
use std::io;

use super::word::Word;
use crate::sys::fault;

/// Backs a range of an area, or says why not.
pub(super) type Back<'a> = &'a dyn Fn(Range<usize>) -> io::Result<()>;

/// Takes the next never used index of `capacity`, backing `stride` more when it must.
//= spec/ledger.md#growth
pub(super) fn grow<W: Word>(
    used: &W,
    backed: &W,
    capacity: usize,
    stride: usize,
    back: Back<'_>,
) -> io::Result<Option<usize>> {
    loop {
        let next = used.get();
        let Some(index) = usize::try_from(next).ok().filter(|index| *index < capacity) else {
            return Ok(None);
        };
        let end = backed.get();
        if next >= end {
            let wanted = (index / stride * stride + stride).min(capacity);
            back(index / stride * stride..wanted)?;
            fault::point("ledger.growth.backed");
            // Who loses this step finds that another has done it.
            let _ = backed.step(end, wanted as u64);
            continue;
        }
        if used.step(next, next + 1).is_ok() {
            fault::point("ledger.growth.used");
            return Ok(Some(index));
        }
    }
}
