//! Passwords from a person, or from a program that passes a descriptor.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::secret::Scratch;
use crate::sys::signal::Watch;

/// Bytes of the longest password that is read.
pub const MAX_PASSWORD: usize = 1024;

/// Reads a password from descriptor `number` of this process, up to a line feed or the end. The
/// descriptor must be a pipe, a file or a terminal: what can be opened again.
///
/// # Errors
/// The system's; `InvalidData` when there is more than [`MAX_PASSWORD`].
pub fn password_from(number: u32) -> io::Result<Scratch> {
    read_line(&mut File::open(format!("/proc/self/fd/{number}"))?)
}

/// Asks on the terminal, which shows nothing of what is typed.
///
/// # Errors
/// The system's, when there is no terminal; `Interrupted` when the person gives up (Ctrl-C).
pub fn ask_password(prompt: &str) -> io::Result<Scratch> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    // The signals that would end this process wait until the terminal shows again what is typed.
    let signals = Watch::new(&[Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT])?;
    let silent = Silent::new(&terminal)?;
    terminal.write_all(prompt.as_bytes())?;
    let mut waiting = [
        PollFd::new(&terminal, PollFlags::IN),
        PollFd::new(&signals, PollFlags::IN),
    ];
    rustix::io::retry_on_intr(|| poll(&mut waiting, None))?;
    let interrupted = !waiting[1].revents().is_empty();
    // In its usual mode a terminal gives whole lines, so this does not wait in the middle of one.
    let answer = match interrupted {
        true => Err(io::ErrorKind::Interrupted.into()),
        false => read_line(&mut terminal),
    };
    drop(silent);
    terminal.write_all(b"\n")?;
    answer
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Silent {
    terminal: File,
    before: Termios,
}

impl Silent {
    fn new(terminal: &File) -> io::Result<Self> {
        let terminal = terminal.try_clone()?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // Flush: what was typed before the question is no answer to it.
        tcsetattr(terminal.as_fd(), OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal.as_fd(), OptionalActions::Flush, &self.before);
    }
}

/// Reads up to a line feed or the end, byte by byte: what is behind the line feed is left to
/// others that read from there.
fn read_line(from: &mut impl Read) -> io::Result<Scratch> {
    let mut line = Scratch::with_capacity(MAX_PASSWORD);
    let mut byte = [0];
    loop {
        match from.read(&mut byte) {
            Ok(0) => return Ok(line),
            Ok(_) if byte == *b"\n" => return Ok(line),
            Ok(_) if line.len() == MAX_PASSWORD => return Err(io::ErrorKind::InvalidData.into()),
            Ok(_) => line.extend_from_slice(&byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn line(bytes: &[u8]) -> io::Result<Vec<u8>> {
        read_line(&mut &*bytes).map(|line| line.to_vec())
    }

    #[test]
    fn a_password_ends_with_its_line() {
        assert_eq!(line(b"secret\nmore").unwrap(), b"secret");
        assert_eq!(line(b"secret").unwrap(), b"secret");
        assert_eq!(line(b"").unwrap(), b"");
        assert_eq!(line(&[b'a'; MAX_PASSWORD]).unwrap().len(), MAX_PASSWORD);
        assert!(line(&[b'a'; MAX_PASSWORD + 1]).is_err());
    }

    #[test]
    fn a_password_comes_from_a_descriptor() {
        let (mut writer, reader) = {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            (File::from(writer), reader)
        };
        writer.write_all(b"from the pipe\n").unwrap();
        let number = u32::try_from(reader.as_raw_fd()).unwrap();
        assert_eq!(&*password_from(number).unwrap(), b"from the pipe");
        assert!(password_from(u32::MAX).is_err());
    }
}
