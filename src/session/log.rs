//! Log lines on standard error: one event a line, for people.
//!
//! Invariants: a line is written in one piece, so that processes do not mix theirs; text that a
//! peer chose is escaped and cut to [`MAX_TEXT`] bytes, so that it can forge no line.

use std::fmt;
use std::io::Write;

/// Bytes shown of a text that a peer chose.
pub const MAX_TEXT: usize = 128;

/// Writes one line to standard error. A standard error that takes nothing is not an error: the
/// server is not there for its log.
pub fn line(text: fmt::Arguments<'_>) {
    let line = format!("baton: {text}\n");
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// Text that a peer chose: printable ASCII as it is, all else as `\xNN`, cut where it is long.
#[derive(Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.iter().take(MAX_TEXT) {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                b' '..=b'~' => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        if self.0.len() > MAX_TEXT {
            f.write_str("...")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_peer_forges_no_line() {
        let shown = |bytes: &[u8]| Escaped(bytes).to_string();
        assert_eq!(
            shown(b"alice\nbaton: bob\x1b[2J\\"),
            "alice\\x0abaton: bob\\x1b[2J\\\\"
        );
        assert_eq!(
            shown("\u{e9}\u{202e}".as_bytes()),
            "\\xc3\\xa9\\xe2\\x80\\xae"
        );
        assert_eq!(shown(&[b'a'; 1 << 20]).len(), MAX_TEXT + 3);
    }
}
