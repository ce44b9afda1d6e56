//! How much of everything there may be at once (`spec/processes.md#limits`), and what the kernel
//! is told of it (`spec/processes.md#rlimits`).
//!
//! Invariant: the descriptors of the supervisor suffice for the sessions that run, for those that
//! are being started, and for every handshake in progress to be delivered: all three are bounded
//! by what there is before the first connection.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, fstat};

use crate::sys::process::{self, Resource};

/// Descriptors of the supervisor that are not for connections: listener, links, ledger, log.
const OWN: u64 = 32;
/// What is reckoned with where there are fewer: the server then waits for descriptors.
const LEAST: u64 = 12;
/// Descriptors of a session that runs: its reports, and its line to the keeper.
const RUNNING: u64 = 2;
/// Of one that moves from process to process: up to three lines.
const MOVING: u64 = 4;
/// Descriptors a session takes besides while it is started: its connection, and what the zygote
/// is sent.
const STARTING: u64 = 4;
/// Sessions that are started at once at most.
const MOST_STARTING: u64 = 1024;

/// What happens to a connection beyond a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Over {
    /// It waits in the kernel's queue until there is room.
    #[default]
    Wait,
    /// It is closed at once.
    Refuse,
}

/// How many connections one address may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second, in the long run.
    pub every_second: u32,
    /// At once.
    pub burst: u32,
}

/// How much of everything there may be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions.
    pub sessions: usize,
    /// Handshakes in progress.
    pub handshakes: usize,
    /// Sessions that are being started: further ones wait.
    pub starting: usize,
    /// Beyond them.
    pub over: Over,
    /// Connections of one address; none when they are not counted.
    pub rate: Option<Rate>,
}

impl Limits {
    /// `sessions` and `handshakes`, together no more than `connections`, and all no more than
    /// `descriptors` suffice for. Whether sessions move changes what each takes.
    //= spec/processes.md#limits
    pub fn new(
        sessions: u64,
        handshakes: u64,
        connections: Option<u64>,
        descriptors: u64,
        moving: bool,
    ) -> Self {
        let each = if moving { MOVING } else { RUNNING };
        let there = descriptors.saturating_sub(OWN).max(LEAST);
        let kept = (there / 8).clamp(STARTING, MOST_STARTING * STARTING);
        let usable = there - kept;
        // Handshakes have what sessions leave, and a quarter at least.
        let left = usable.saturating_sub(sessions.saturating_mul(each));
        let mut handshakes = handshakes.min(left.max(usable / 4));
        if let Some(connections) = connections {
            handshakes = handshakes.min(connections / 4);
        }
        let handshakes = handshakes.max(1);
        let starting = kept / STARTING;
        let mut sessions = sessions.min((usable - handshakes) / each);
        if let Some(connections) = connections {
            sessions = sessions.min(connections.saturating_sub(handshakes));
        }
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            sessions: size(sessions.max(1)),
            handshakes: size(handshakes),
            starting: size(starting),
            over: Over::default(),
            rate: None,
        }
    }
}

/// What a session's processes may have at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes of address space.
    pub memory: Option<u64>,
    /// Descriptors.
    pub files: Option<u64>,
    /// Processes of the session's user.
    pub processes: Option<u64>,
}

/// Descriptors of a session that runs no command.
const FILES: u64 = 64;

impl Allowance {
    /// Holds this process, and all it starts, to the allowance.
    //= spec/processes.md#rlimits
    pub(super) fn hold(&self, runs_commands: bool) -> io::Result<()> {
        if let Some(memory) = self.memory {
            process::lower_limit(Resource::As, memory)?;
        }
        if let Some(processes) = self.processes {
            process::lower_limit(Resource::Nproc, processes)?;
        }
        match (self.files, runs_commands) {
            (Some(files), _) => process::lower_limit(Resource::Nofile, files),
            (None, false) => process::lower_limit(Resource::Nofile, FILES),
            // Programs that wait by `select` cannot have more: they get what the server was given.
            (None, true) => process::restore_descriptor_limit(),
        }
    }
}

/// Holds the handshaker to what it needs: it starts no process, writes no file, and has so many
/// handshakes.
//= spec/processes.md#rlimits
pub(super) fn hold_handshaker(handshakes: usize) -> io::Result<()> {
    process::lower_limit(Resource::Nproc, 0)?;
    hold_files()?;
    process::lower_limit(Resource::Nofile, OWN + handshakes as u64)
}

/// Holds a zygote whose sessions run no commands: none of them writes a file.
//= spec/processes.md#rlimits
pub(super) fn hold_zygote() -> io::Result<()> {
    hold_files()
}

/// Lets no file grow, but for a log that is one.
fn hold_files() -> io::Result<()> {
    let log = fstat(io::stderr().as_fd());
    let is_file =
        log.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    match is_file {
        true => Ok(()),
        false => process::lower_limit(Resource::Fsize, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= proves spec/processes.md#limits
    #[test]
    fn descriptors_suffice_for_all_that_is_in_progress() {
        for descriptors in (0..5000).chain([1 << 16, 1 << 20, u64::MAX]) {
            for (sessions, handshakes, connections) in [
                (1000, 1024, None),
                (u64::MAX, u64::MAX, None),
                (1, 1, None),
                (1000, 1024, Some(2)),
                (1000, 1024, Some(100)),
            ] {
                let moving = descriptors % 2 == 0;
                let limits = Limits::new(sessions, handshakes, connections, descriptors, moving);
                let [running, arriving, starting] =
                    [limits.sessions, limits.handshakes, limits.starting].map(|n| n as u64);
                assert!(running >= 1 && arriving >= 1 && starting >= 1);
                assert!(running <= sessions && arriving <= handshakes);
                if let Some(connections) = connections {
                    assert!(running + arriving <= connections);
                }
                let each = if moving { MOVING } else { RUNNING };
                let needed = [running.saturating_mul(each), arriving, starting * STARTING];
                let there = u128::from(descriptors.saturating_sub(OWN).max(LEAST));
                assert!(
                    needed.map(u128::from).iter().sum::<u128>() <= there,
                    "{limits:?}"
                );
            }
        }
        let usual = Limits::new(1000, 1024, None, 1 << 20, true);
        assert_eq!((usual.sessions, usual.handshakes), (1000, 1024));
    }
}
