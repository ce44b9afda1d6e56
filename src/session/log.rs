//! Log lines on standard error: one event, one line, for people or for programs
//! (`spec/configuration.md`).
//!
//! Invariants: a line is written in one piece, so that processes do not mix theirs, and is at most
//! [`MAX_LINE`] bytes; nothing in it can break it or move a terminal; text that a peer chose is
//! [`Escaped`] besides. A standard error that takes nothing is not an error: the server is not there
//! for its log.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::net::{SendFlags, send};

use crate::exit::SessionIdentifier;
use crate::sys::process;

/// Bytes shown of a text that a peer chose.
pub const MAX_TEXT: usize = 128;
/// Bytes of a line, with its line feed.
//= spec/configuration.md#lines
pub const MAX_LINE: usize = 4096;
/// What a line that was cut ends in.
const CUT: &str = "...";

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

static JSON: AtomicBool = AtomicBool::new(false);
static LOST: AtomicU64 = AtomicU64::new(0);

/// How lines are written from now on, in this process and those it forks. Human before.
pub fn set_form(form: Form) {
    JSON.store(form == Form::Json, Relaxed);
}

/// Writes a line that concerns no one session.
pub fn line(text: fmt::Arguments<'_>) {
    write(None, text);
}

/// Writes a line about a session. `text` goes on behind the session's identifier, so it begins with
/// a space, or a colon and a space.
pub fn of_session(session: SessionIdentifier, text: fmt::Arguments<'_>) {
    write(Some(session), text);
}

//= spec/configuration.md#full
fn write(session: Option<SessionIdentifier>, text: fmt::Arguments<'_>) {
    let line = match JSON.load(Relaxed) {
        false => human(session, text),
        true => json(SystemTime::now(), process::pid(), session, text),
    };
    if put(line.as_bytes()).is_err() {
        LOST.fetch_add(1, Relaxed);
        return;
    }
    let lost = LOST.load(Relaxed);
    let untold = lost - TOLD.swap(lost, Relaxed);
    if untold > 0 {
        let text = format_args!("{untold} lines of this process's log were lost");
        let line = match JSON.load(Relaxed) {
            false => human(None, text),
            true => json(SystemTime::now(), process::pid(), None, text),
        };
        if put(line.as_bytes()).is_err() {
            TOLD.store(lost - untold, Relaxed);
        }
    }
}

/// Lines of this process, and of those it was forked from, that nobody took.
pub fn lost() -> u64 {
    LOST.load(Relaxed)
}

/// Those of them that the log has told of since.
static TOLD: AtomicU64 = AtomicU64::new(0);

/// Where lines go when they must not wait.
enum Sink {
    /// A pipe or a terminal, opened once more: that it does not wait is then this program's alone,
    /// and not also that of the shell it was started from.
    Own(OwnedFd),
    /// A socket: each message says that it does not wait.
    Socket,
}

static SINK: OnceLock<Sink> = OnceLock::new();

/// From now on, in this process and those it forks, no line is waited for: where nobody takes it,
/// it is lost. To be called before files are given up.
//= spec/configuration.md#full
pub fn never_wait() {
    let errors = io::stderr();
    let Ok(stat) = fstat(&errors) else { return };
    let sink = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::CharacterDevice => {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
            match rustix::fs::open("/proc/self/fd/2", flags, Mode::empty()) {
                Ok(own) => Sink::Own(own),
                // A pipe of somebody else's, or no /proc: it is looked at before each line.
                Err(_) => return,
            }
        }
        FileType::Socket => Sink::Socket,
        _ => return,
    };
    let _ = SINK.set(sink);
}

fn put(line: &[u8]) -> io::Result<()> {
    if cfg!(fuzzing) {
        // Its own log is what is read then.
        return Ok(());
    }
    let whole = |count: usize| match count == line.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    };
    match SINK.get() {
        // At most PIPE_BUF bytes: all of them, or none.
        Some(Sink::Own(own)) => whole(rustix::io::retry_on_intr(|| rustix::io::write(own, line))?),
        Some(Sink::Socket) => {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let errors = io::stderr();
            whole(rustix::io::retry_on_intr(|| send(&errors, line, flags))?)
        }
        None => {
            let mut errors = io::stderr().lock();
            let mut fds = [PollFd::new(&errors, PollFlags::OUT)];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            match poll(&mut fds, Some(&now)) {
                Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
                _ => errors.write_all(line),
            }
        }
    }
}

//= spec/configuration.md#human
fn human(session: Option<SessionIdentifier>, text: fmt::Arguments<'_>) -> String {
    let mut line = Line::new("baton: ", "\n", |line, c| {
        write!(line, "\\u{{{:x}}}", c as u32)
    });
    if let Some(session) = session {
        let _ = write!(line, "session {session}");
    }
    let _ = line.write_fmt(text);
    line.end()
}

//= spec/configuration.md#json
fn json(
    now: SystemTime,
    pid: u32,
    session: Option<SessionIdentifier>,
    text: fmt::Arguments<'_>,
) -> String {
    let mut before = format!("{{\"time\":\"{}\",\"pid\":{pid},", Time(now));
    if let Some(session) = session {
        let _ = write!(before, "\"session\":\"{session}\",");
    }
    before.push_str("\"message\":\"");
    let escape = |line: &mut String, c: char| {
        let mut units = [0; 2];
        c.encode_utf16(&mut units)
            .iter()
            .try_for_each(|unit| write!(line, "\\u{unit:04x}"))
    };
    let mut line = Line::new(&before, "\"}\n", escape);
    line.quoted = true;
    line.skipping = session.is_some();
    let _ = line.write_fmt(text);
    line.end()
}

/// A line in the making: escapes and cuts what is written to it.
struct Line {
    text: String,
    end: &'static str,
    escape: fn(&mut String, char) -> fmt::Result,
    /// Quotes and backslashes are escaped, too.
    quoted: bool,
    /// What only joins the event to its session is left out.
    skipping: bool,
    cut: bool,
}

impl Line {
    fn new(before: &str, end: &'static str, escape: fn(&mut String, char) -> fmt::Result) -> Self {
        Self {
            text: before.to_owned(),
            end,
            escape,
            quoted: false,
            skipping: false,
            cut: false,
        }
    }

    fn end(mut self) -> String {
        if self.cut {
            self.text.push_str(CUT);
        }
        self.text.push_str(self.end);
        self.text
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.skipping && matches!(c, ' ' | ':') {
                continue;
            }
            self.skipping = false;
            let before = self.text.len();
            match c {
                '"' | '\\' if self.quoted => self.text.extend(['\\', c]),
                c if moves(c) => (self.escape)(&mut self.text, c)?,
                c => self.text.push(c),
            }
            if self.text.len() + CUT.len() + self.end.len() > MAX_LINE {
                self.text.truncate(before);
                self.cut = true;
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

/// Whether a character does more in a terminal, or to a line, than stand there.
//= spec/configuration.md#escapes
fn moves(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}'
        )
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// RFC 3339, UTC, with milliseconds.
struct Time(SystemTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Days since 0000-03-01, in eras of 400 years: the leap day is the last of its year.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 {
            (month + 3, 0)
        } else {
            (month - 9, 1)
        };
        write!(
            f,
            "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            era * 400 + year + carry,
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_millis()
        )
    }
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
    use std::time::Duration;

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

    const ODD: &str = "a\"\\\r\n\x1b[2J\0\u{7f}\u{9b}\u{202e}\u{2028}\u{e9}";

    //= proves spec/configuration.md#escapes
    //= proves spec/configuration.md#human
    //= proves spec/configuration.md#json
    #[test]
    fn no_value_breaks_a_line() {
        let session = SessionIdentifier::from([0xab; 16]);
        let hex = "ab".repeat(16);
        assert_eq!(
            human(Some(session), format_args!(": {ODD}")),
            format!(
                "baton: session {hex}: a\"\\\\u{{d}}\\u{{a}}\\u{{1b}}[2J\\u{{0}}\\u{{7f}}\\u{{9b}}\\u{{202e}}\\u{{2028}}\u{e9}\n"
            )
        );
        let then = UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
        assert_eq!(
            json(then, 7, Some(session), format_args!(": {ODD}")),
            format!(
                "{{\"time\":\"2024-02-29T12:34:56.789Z\",\"pid\":7,\"session\":\"{hex}\",\"message\":\"\
                 a\\\"\\\\\\u000d\\u000a\\u001b[2J\\u0000\\u007f\\u009b\\u202e\\u2028\u{e9}\"}}\n"
            )
        );
        assert!(!json(then, 7, None, format_args!("stopped")).contains("session"));
    }

    //= proves spec/configuration.md#lines
    #[test]
    fn a_line_has_a_length() {
        for text in ["x", "\"", "\u{e9}", "\u{1}", "\u{202e}"] {
            let long = text.repeat(10_000);
            for line in [
                human(None, format_args!("{long}")),
                json(UNIX_EPOCH, 1, None, format_args!("{long}")),
            ] {
                assert!(
                    line.len() <= MAX_LINE && line.len() > MAX_LINE - 16,
                    "{}",
                    line.len()
                );
                assert!(line.ends_with("...\n") || line.ends_with("...\"}\n"));
                assert_eq!(line.matches('\n').count(), 1);
            }
        }
    }

    #[test]
    fn days_are_counted_as_in_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            let time = Time(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(time.to_string(), shown);
        }
    }
}
