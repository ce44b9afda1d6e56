//! The user that a session's processes run as.
//!
//! SECURITY: who a session runs as is decided where nothing is confined and no peer's bytes are
//! read (the supervisor); the zygote and the session are told numbers, and look nothing up.

use std::io;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::sys::process::{Keep, become_user};

/// Further groups of a user that are taken over; more are refused.
pub const MOST_GROUPS: usize = 1024;

/// A user as a process becomes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its group's.
    pub gid: u32,
    /// Its further groups'.
    pub groups: Vec<u32>,
    /// Its account; none of a user that is but a number.
    pub account: Option<Account>,
}

/// What an account has besides numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The name.
    pub name: String,
    /// The home directory.
    pub home: String,
    /// The shell.
    pub shell: String,
}

/// What would tell a command of the user that started the server.
const OF_A_USER: [&str; 12] = [
    "HOME",
    "SHELL",
    "USER",
    "LOGNAME",
    "MAIL",
    "OLDPWD",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
];

impl User {
    /// A user that is but a number.
    pub fn numbered(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            groups: Vec::new(),
            account: None,
        }
    }

    /// Becomes this user, for good, with no more rights than `keep`.
    ///
    /// # Errors
    /// The system's: then the process must end.
    pub fn become_it(&self, keep: Keep) -> io::Result<()> {
        become_user(self.uid, self.gid, &self.groups, keep)
    }

    /// Goes to the user's home; where there is none, or none that it may enter, to `/`.
    pub fn go_home(&self) -> io::Result<()> {
        let home = self
            .account
            .as_ref()
            .map(|account| Path::new(&account.home));
        match home
            .filter(|home| home.is_absolute())
            .map(rustix::process::chdir)
        {
            Some(Ok(())) => Ok(()),
            _ => Ok(rustix::process::chdir("/")?),
        }
    }

    /// Sets the variables that tell a command whose it is, and removes those of who started the
    /// server.
    //= spec/sessions.md#user
    pub fn describe_to(&self, command: &mut Command) {
        for name in OF_A_USER {
            command.env_remove(name);
        }
        match &self.account {
            Some(account) => command
                .env("HOME", &account.home)
                .env("SHELL", &account.shell)
                .env("USER", &account.name)
                .env("LOGNAME", &account.name),
            None => command.env("HOME", "/").env("SHELL", "/bin/sh"),
        };
    }
}
