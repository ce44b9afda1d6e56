//! What a session has forked and put into another process group: no group's number is known of it.
//!
//! All of it has the supervisor among its ancestors: whoever forked it may end, and then it is a
//! child of its zygote, or of the supervisor. So it is found by looking through all processes.

use std::collections::HashSet;

use rustix::process::{Pid, Signal, kill_process};

use crate::sys::process;

use super::Supervisor;

/// How often they are looked for in one go: more may be forked meanwhile.
const LOOKS: u32 = 16;

impl Supervisor {
    /// Kills every descendant but the server's own processes.
    pub(super) fn kill_leftovers(&self) {
        let subprocesses = [&self.zygote, &self.handshaker];
        let own = subprocesses.into_iter().chain(&self.earlier_zygotes);
        let own: HashSet<u32> = own.filter_map(|one| one.process()).collect();
        for _ in 0..LOOKS {
            let found = descendants(process::pid(), &own);
            // Stopped first, so that none forks while others are killed.
            for signal in [Signal::STOP, Signal::KILL] {
                for process in &found {
                    // One that has just ended is no error.
                    let _ = kill_process(*process, signal);
                }
            }
            if found.is_empty() {
                return;
            }
        }
    }
}

/// The living descendants of `ancestor` and of `own`, but for `own`. None without `/proc`.
fn descendants(ancestor: u32, own: &HashSet<u32>) -> Vec<Pid> {
    let Ok(folder) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut others: Vec<(u32, u32)> = numbers
        .filter_map(|number| Some((number, parent(number)?)))
        .collect();
    let mut family: HashSet<u32> = own.iter().copied().chain([ancestor]).collect();
    let mut found = Vec::new();
    loop {
        let before = others.len();
        others.retain(|(number, parent)| {
            let is_one = family.contains(parent) || family.contains(number);
            if is_one && family.insert(*number) {
                found.extend(i32::try_from(*number).ok().and_then(Pid::from_raw));
            }
            !is_one
        });
        if others.len() == before {
            return found;
        }
    }
}

/// The parent of a process that lives.
fn parent(number: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit(") ").next()?.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    fields.next()?.parse().ok().filter(|_| !ended)
}
