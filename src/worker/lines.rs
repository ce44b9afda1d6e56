//! Lines out of a stream, bounded before they are read.
//!
//! Invariants: no more than a line's limit is kept while its end has not come; what has been read
//! is wiped, since user contexts stand in it.

use std::io;
use std::ops::Range;

use zeroize::Zeroize;

/// A line has no end within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Bytes asked for at once, at first.
const FIRST: usize = 8 << 10;

/// Reads lines.
///
/// ```
/// use baton::worker::Lines;
/// let mut lines = Lines::new(16);
/// let mut source = &b"one\ntwo\nth"[..];
/// lines.fill(|space| std::io::Read::read(&mut source, space))?;
/// assert_eq!(lines.next(), Ok(Some(&b"one"[..])));
/// assert_eq!(lines.next(), Ok(Some(&b"two"[..])));
/// assert_eq!(lines.next(), Ok(None));
/// assert_eq!(lines.rest(), b"th");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Lines {
    buffer: Vec<u8>,
    /// What is wiped ends here, what is read begins.
    wiped: usize,
    /// What was handed out ends here, what is to come begins.
    begin: usize,
    /// Up to here there is no end of a line.
    searched: usize,
    end: usize,
    limit: usize,
}

impl Lines {
    /// Lines of at most `limit` bytes, with their line feed.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: vec![0; FIRST.min(limit)],
            wiped: 0,
            begin: 0,
            searched: 0,
            end: 0,
            limit,
        }
    }

    /// Has `read` fill what space there is, and answers how much it read. To be called when
    /// [`Lines::next`] has no more lines: then there is space.
    pub fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        self.make_space();
        let Some(space) = self.buffer.get_mut(self.end..) else {
            return Ok(0);
        };
        let count = read(space)?.min(space.len());
        self.end += count;
        Ok(count)
    }

    /// Wipes what was handed out.
    fn wipe(&mut self) {
        // The buffer is still in use, so this is not left out.
        self.buffer[self.wiped..self.begin].fill(0);
        self.wiped = self.begin;
    }

    fn make_space(&mut self) {
        self.wipe();
        if self.begin == self.end {
            (self.wiped, self.begin, self.searched, self.end) = (0, 0, 0, 0);
        } else if self.end == self.buffer.len() {
            let kept = self.end - self.begin;
            if kept > self.buffer.len() / 2 && self.buffer.len() < self.limit {
                let size = (self.buffer.len() * 4).min(self.limit);
                let mut larger = vec![0; size];
                larger[..kept].copy_from_slice(&self.buffer[self.begin..self.end]);
                self.buffer.zeroize();
                self.buffer = larger;
            } else {
                self.buffer.copy_within(self.begin..self.end, 0);
                self.buffer[kept..].fill(0);
            }
            self.searched -= self.begin;
            (self.wiped, self.begin, self.end) = (0, 0, kept);
        }
    }

    /// The next line, without its line feed; none while its end has not come.
    ///
    /// # Errors
    /// There is no end within the limit: nothing more can be read.
    //= spec/exits.md#lines
    #[expect(
        clippy::should_implement_trait,
        reason = "the line is lent, which an iterator cannot"
    )]
    pub fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        Ok(self.next_range()?.map(|range| &self.buffer[range]))
    }

    fn next_range(&mut self) -> Result<Option<Range<usize>>, TooLong> {
        match memchr::memchr(b'\n', &self.buffer[self.searched..self.end]) {
            Some(at) => {
                let line = self.begin..self.searched + at;
                (self.begin, self.searched) = (line.end + 1, line.end + 1);
                Ok(Some(line))
            }
            None => {
                // Who hands out no more has had all that was handed out read.
                self.wipe();
                self.searched = self.end;
                match self.end - self.begin >= self.limit {
                    true => Err(TooLong),
                    false => Ok(None),
                }
            }
        }
    }

    /// What is there of a line that has not ended.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.begin..self.end]
    }

    /// Forgets what is there of a line that has not ended.
    pub fn skip_rest(&mut self) {
        (self.begin, self.searched) = (self.end, self.end);
        self.wipe();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also while nothing more comes.
    #[test]
    fn what_was_read_is_wiped_once_there_is_no_more() {
        let mut lines = Lines::new(1024);
        let mut source = &b"a context\nanother\nand th"[..];
        lines
            .fill(|space| io::Read::read(&mut source, space))
            .unwrap();
        assert_eq!(lines.next(), Ok(Some(&b"a context"[..])));
        assert_eq!(lines.next(), Ok(Some(&b"another"[..])));
        assert_eq!(lines.next(), Ok(None));
        assert!(lines.buffer[..18].iter().all(|byte| *byte == 0));
        assert_eq!(lines.rest(), b"and th");
        lines.skip_rest();
        assert!(lines.buffer.iter().all(|byte| *byte == 0));
    }
}
