//! The program that succeeds, and starting it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::VARIABLE;
use crate::sys::process;

/// The process that a service manager watches (sd_watchdog_enabled(3)).
const WATCHDOG: &str = "WATCHDOG_PID";

/// A program and its arguments. What lies at its path when it is started is what is started.
///
/// ```
/// use baton::succession::Program;
/// let program = Program::own()?;
/// let other = Program::new("/usr/local/bin/server").arg("--quiet");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// The program at `path`, without arguments.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
        }
    }

    /// One argument more.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// This process's own program with its own arguments. Ask early: once another file is at its
    /// path the kernel no longer tells the path as it was.
    ///
    /// # Errors
    /// The system's, where `/proc` is not there.
    //= spec/succession.md#start
    pub fn own() -> io::Result<Self> {
        let path = std::env::current_exe()?;
        Ok(Self {
            path: as_it_was(&path),
            arguments: std::env::args_os().skip(1).collect(),
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it with `socket` as descriptor 0.
    //= spec/succession.md#start
    pub(crate) fn start(&self, socket: OwnedFd) -> io::Result<Child> {
        let own = process::pid().to_string();
        let mut command = Command::new(&self.path);
        if std::env::var_os(WATCHDOG).is_some_and(|process| process == *own) {
            // It watches whoever comes after this process, too.
            command.env_remove(WATCHDOG);
        }
        command
            .args(&self.arguments)
            .env(VARIABLE, own)
            .stdin(Stdio::from(socket));
        // What this process has raised for itself, the next one raises for itself.
        process::give_first_descriptor_limit(&mut command).spawn()
    }
}

/// proc_pid_exe(5): the kernel puts this behind the path of a file that is there no more.
fn as_it_was(path: &Path) -> PathBuf {
    let shown = path
        .to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"));
    match shown {
        Some(before) if !path.exists() => before.into(),
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_whose_file_was_replaced_is_the_path() {
        let path = Path::new("/no/such/server (deleted)");
        assert_eq!(as_it_was(path), Path::new("/no/such/server"));
        assert_eq!(as_it_was(Path::new("/no/such")), Path::new("/no/such"));
    }
}
