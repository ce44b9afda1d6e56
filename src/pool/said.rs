//! What a worker writes to its standard error, as lines for the log.
//!
//! Invariants: a line is at most [`LONGEST`] bytes, nothing in it moves a terminal or makes two
//! lines of one; no more than [`EVERY_SECOND`] bytes are read a second, of short lines fewer.

use std::time::{Duration, Instant};

/// Bytes shown of a line.
const LONGEST: usize = 1024;
/// Bytes read a second.
const EVERY_SECOND: usize = 256 << 10;
/// What a line costs besides its bytes: it takes more room in the log than here.
const LINE: usize = 64;
/// A second.
const WINDOW: Duration = Duration::from_secs(1);

/// A worker's standard error.
pub(super) struct Said {
    line: Vec<u8>,
    /// Whether the rest of the line is not shown.
    cut: bool,
    since: Instant,
    read: usize,
}

impl Said {
    pub(super) fn new() -> Self {
        Self {
            line: Vec::new(),
            cut: false,
            since: Instant::now(),
            read: 0,
        }
    }

    /// Bytes that may be read now; none when that is for later.
    //= spec/exits.md#stderr
    pub(super) fn allowance(&mut self, now: Instant) -> usize {
        if now.saturating_duration_since(self.since) >= WINDOW {
            // What was too much counts on.
            let read = self.read.saturating_sub(EVERY_SECOND);
            (self.since, self.read) = (now, read);
        }
        EVERY_SECOND.saturating_sub(self.read)
    }

    /// When there may be more.
    pub(super) fn again(&self) -> Instant {
        self.since + WINDOW
    }

    /// Takes bytes, and gives each line that has ended.
    pub(super) fn take(&mut self, bytes: &[u8], mut tell: impl FnMut(&str)) {
        self.read += bytes.len();
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.keep(&rest[..end]);
            self.finish(&mut tell);
            rest = &rest[end + 1..];
        }
        self.keep(rest);
    }

    /// Gives what has no end.
    pub(super) fn end(&mut self, mut tell: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.finish(&mut tell);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST - self.line.len();
        let kept = &bytes[..bytes.len().min(room)];
        self.line.extend_from_slice(kept);
        self.cut |= bytes.len() > room;
    }

    fn finish(&mut self, tell: &mut impl FnMut(&str)) {
        let mut text = escaped(&self.line);
        if self.cut {
            text.push_str("...");
        }
        tell(&text);
        self.read += LINE;
        self.line.clear();
        self.cut = false;
    }
}

/// Text in which nothing does more than stand there.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        let moves = c.is_control()
            || matches!(
                c,
                '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}'
            )
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c);
        match moves {
            true => text.extend(c.escape_unicode()),
            false => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    //= proves spec/exits.md#stderr
    #[test]
    fn what_a_worker_says_is_lines_that_cannot_move_a_terminal() {
        let mut said = Said::new();
        let mut lines = Vec::new();
        said.take(b"one\ntw", |line| lines.push(line.to_owned()));
        said.take(b"o\x1b[2J\0\r\nx", |line| lines.push(line.to_owned()));
        said.take(&[b'y'; 5000], |line| lines.push(line.to_owned()));
        said.take(b"\n\xff", |line| lines.push(line.to_owned()));
        said.end(|line| lines.push(line.to_owned()));
        let long = format!("x{}...", "y".repeat(LONGEST - 1));
        let expected = ["one", "two\\u{1b}[2J\\u{0}\\u{d}", &long, "\u{fffd}"];
        assert_eq!(lines, expected);
        said.take(&[b'z'; EVERY_SECOND], |_| ());
        assert_eq!(said.allowance(said.since), 0);
        // Lines cost more than their bytes, and what was too much is had later.
        assert_eq!(said.allowance(said.again()), EVERY_SECOND - 5017 - 4 * LINE);
        let mut said = Said::new();
        said.take(&[b'\n'; EVERY_SECOND / LINE], |_| ());
        assert_eq!(said.allowance(said.since), 0);
    }
}
