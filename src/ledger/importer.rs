//! Who may import a token, and on what terms a context departs.

use serde::{Deserialize, Serialize};

use crate::sys::process::{self, Identity};

/// Who may import, as it travels: four ways, each with its numbers.
//= spec/token.md#importer
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Permitted {
    /// Any process of the domain.
    Anyone,
    /// A process of this user.
    User(u32),
    /// A process of this process group.
    ProcessGroup(u32),
    /// This one process.
    Process {
        pid: u32,
        started: u64,
        inode: u64,
        namespace: u64,
    },
}

impl From<Identity> for Permitted {
    fn from(who: Identity) -> Self {
        Self::Process {
            pid: who.pid,
            started: who.started,
            inode: who.inode,
            namespace: who.pid_namespace,
        }
    }
}

impl Permitted {
    /// Whether this process may.
    //= spec/token.md#importer
    pub(crate) fn is_this_process(self) -> bool {
        match self {
            Self::Anyone => true,
            Self::User(uid) => process::uid() == uid,
            Self::ProcessGroup(group) => process::process_group() == group,
            Self::Process { .. } => Identity::own().is_ok_and(|own| self == own.into()),
        }
    }

    /// Whether a process of `uid` that is `who` may. Its group is asked for when it matters.
    pub(super) fn is(self, uid: u32, who: &Identity, group: impl FnOnce() -> Option<u32>) -> bool {
        match self {
            Self::Anyone => true,
            Self::User(wanted) => uid == wanted,
            Self::ProcessGroup(wanted) => group() == Some(wanted),
            Self::Process { .. } => self == (*who).into(),
        }
    }
}

/// On what terms a context departs: who may import it, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) importer: Permitted,
    /// Boot-time milliseconds.
    pub(crate) deadline: u64,
}
