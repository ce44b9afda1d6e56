//! Sessions that are to end, whatever their processes do.

use rustix::process::{Signal, kill_process, kill_process_group};

use crate::ledger::keeper::Keeper;
use crate::sys::process::process_group_of;

use super::{Entry, First, Sessions, of_a_session};

impl Sessions {
    /// Sends `signal` to every process of every session, and to the commands that are left. Those
    /// that have left the session's group are not among them.
    pub(in crate::server) fn kill(&self, signal: Signal) {
        self.entries.values().for_each(|entry| entry.kill(signal));
        for command in self.commands.values() {
            // One that has just ended is no error.
            let _ = of_a_session(command.group).map(|group| kill_process_group(group, signal));
        }
    }

    /// Waits no more for what does not end. Answers how many sessions that were.
    pub(in crate::server) fn abandon(&mut self, keeper: &mut Keeper) -> usize {
        for entry in self.entries.values_mut() {
            entry.members.drain(..).for_each(|id| keeper.remove(id));
            if entry.pending.is_some() {
                keeper.revoke(entry.session.as_bytes());
            }
        }
        self.collect(keeper);
        self.entries.values_mut().for_each(Entry::tell);
        let left = self.entries.len();
        let tally = std::mem::take(&mut self.tally);
        *self = Self {
            tally,
            ..Self::default()
        };
        left
    }
}

impl Entry {
    /// Whether there is such a process in its group.
    pub(super) fn has_in_its_group(&self, process: u32) -> bool {
        let group = process_group_of(process);
        group.is_ok_and(|group| group != 0 && group == self.group())
    }

    /// Sends `signal` to its group, and to its first process, which need not lead it yet.
    pub(super) fn kill(&self, signal: Signal) {
        // One that has just ended is no error.
        let _ = of_a_session(self.group()).map(|group| kill_process_group(group, signal));
        if let First::Forked(process) | First::Orphaned(Some(process)) = self.first {
            let _ = of_a_session(process).map(|process| kill_process(process, signal));
        }
    }
}
