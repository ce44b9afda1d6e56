//! Sessions as they go from one server to the next.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::*;

/// Every session, but for its descriptors.
#[derive(Serialize, Deserialize)]
pub(in super::super) struct Estate {
    entries: Vec<Listed>,
    /// Process and its session.
    processes: Vec<(u32, [u8; 16])>,
    /// Process, its session, its group, and which zygote waits for it.
    commands: Vec<(u32, [u8; 16], u32, usize)>,
}

/// One session. Its descriptors are its reports', unless they have ended, and its connection, if no
/// process has imported it.
#[derive(Serialize, Deserialize)]
struct Listed {
    session: [u8; 16],
    remote: SocketAddr,
    zygote: usize,
    first: First,
    process: u32,
    leader: u32,
    has_command: bool,
    pending: Option<Carried>,
    has_reports: bool,
    members: Vec<MemberId>,
    moves: bool,
    ending: Option<Ending>,
    died: Option<i32>,
    released: Option<Cause>,
    told: bool,
    listed: listing::Carried,
}

/// A connection that waits for a process, but for its descriptor.
#[derive(Serialize, Deserialize)]
pub(in super::super) struct Carried {
    introduction: Introduction,
    parcel: ByteBuf,
    attempts: u32,
}

impl Pending {
    /// What goes to the next server, beside the connection.
    pub(in super::super) fn carried(&self) -> Carried {
        Carried {
            introduction: self.introduction.clone(),
            parcel: self.parcel.clone(),
            attempts: self.attempts,
        }
    }
}

impl Carried {
    /// The connection that has come with it.
    pub(in super::super) fn pending(self, socket: OwnedFd) -> Pending {
        Pending {
            introduction: self.introduction,
            parcel: self.parcel,
            socket,
            attempts: self.attempts,
        }
    }
}

impl Sessions {
    /// All there is, with its descriptors. `zygotes` are the keys of those who wait for processes.
    //= spec/takeover.md#estate
    pub(in super::super) fn estate(&self, zygotes: &[u64]) -> (Estate, Vec<BorrowedFd<'_>>) {
        // One that has ended is none of them: then nobody waits.
        let number = |key: u64| zygotes.iter().position(|one| *one == key);
        let number = |key: u64| number(key).unwrap_or(usize::MAX);
        let mut fds = Vec::new();
        let mut entries = Vec::new();
        for entry in self.entries.values() {
            fds.extend(entry.reports.as_ref().map(AsFd::as_fd));
            if let Some(pending) = &entry.pending {
                fds.push(pending.socket.as_fd());
            }
            entries.push(Listed {
                session: *entry.session.as_bytes(),
                remote: entry.remote,
                zygote: number(entry.zygote),
                first: entry.first,
                process: entry.process,
                leader: entry.leader,
                has_command: entry.has_command,
                pending: entry.pending.as_ref().map(Pending::carried),
                has_reports: entry.reports.is_some(),
                members: entry.members.clone(),
                moves: entry.role == Role::Worker,
                ending: entry.ending,
                died: entry.died.map(ExitStatusExt::into_raw),
                released: entry.released,
                told: entry.told,
                listed: entry.listed.carried(),
            });
        }
        let session = |key: &u64| self.entries.get(key).map(|entry| *entry.session.as_bytes());
        let processes = self.processes.iter();
        let commands = self.commands.iter();
        let estate = Estate {
            entries,
            processes: processes
                .filter_map(|(process, key)| Some((*process, session(key)?)))
                .collect(),
            commands: commands
                .map(|(process, one)| {
                    let session = *one.session.as_bytes();
                    (*process, session, one.group, number(one.zygote))
                })
                .collect(),
        };
        (estate, fds)
    }

    /// The sessions of the server before this one. None when the estate is none.
    //= spec/takeover.md#estate
    pub(in super::super) fn inherit(
        estate: Estate,
        zygotes: &[u64],
        fds: &mut impl Iterator<Item = OwnedFd>,
        mut watch: impl FnMut(Option<&Reports>) -> Option<u64>,
    ) -> Option<Self> {
        let zygote = |number: usize| zygotes.get(number).copied().unwrap_or(NO_ZYGOTE);
        let mut sessions = Self::default();
        for listed in estate.entries {
            let reports = match listed.has_reports {
                true => Some(Reports::from(fds.next()?)),
                false => None,
            };
            let key = watch(reports.as_ref())?;
            let pending = match listed.pending {
                Some(carried) => Some(carried.pending(fds.next()?)),
                None => None,
            };
            sessions.starting += usize::from(pending.is_some());
            let session = SessionIdentifier::from(listed.session);
            sessions.keys.insert(session, key);
            sessions.heard.insert(key);
            sessions.entries.insert(
                key,
                Entry {
                    session,
                    remote: listed.remote,
                    reports,
                    zygote: zygote(listed.zygote),
                    first: listed.first,
                    process: listed.process,
                    leader: listed.leader,
                    has_command: listed.has_command,
                    pending,
                    members: listed.members,
                    role: match listed.moves {
                        true => Role::Worker,
                        false => Role::Session,
                    },
                    ending: listed.ending,
                    died: listed.died.map(ExitStatus::from_raw),
                    released: listed.released,
                    told: listed.told,
                    listed: listing::Listed::inherit(listed.listed),
                },
            );
        }
        for (process, session) in estate.processes {
            if let Some(key) = sessions.keys.get(&SessionIdentifier::from(session)) {
                sessions.processes.insert(process, *key);
            }
        }
        for (process, session, group, number) in estate.commands {
            // Nobody would tell its end.
            if number < zygotes.len() {
                let command = Command {
                    session: SessionIdentifier::from(session),
                    group,
                    zygote: zygote(number),
                };
                sessions.commands.insert(process, command);
            }
        }
        sessions.zygote_ended(NO_ZYGOTE, false);
        Some(sessions)
    }
}

/// When a session began, as it goes to the next server.
pub(super) fn ago(milliseconds: u64) -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_millis(milliseconds))
        .unwrap_or(now)
}
