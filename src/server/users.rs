//! Which user each process of the server runs as (`spec/processes.md#users`).
//!
//! Invariants: what strangers reach, what starts sessions, and the sessions are three users, so
//! that none of them may signal or trace another; nobody is root who was not named root in the
//! configuration.

use std::fmt;

use crate::session::user::User;
use crate::sys::process;

use super::accounts::{Accounts, number};

/// What processes are that no configuration names a user for. Nobody has these numbers: they are
/// in the part of the first 2^16 that neither Debian nor systemd gives to anyone. They are not
/// `nobody`'s, which everything else of the machine that wants to be nobody has too.
const HANDSHAKER: u32 = 65521;
const ZYGOTE: u32 = 65522;
const SESSION: u32 = 65523;
/// The least number a peer's own account has: what is below belongs to the machine (`UID_MIN`).
const LEAST_PEER: u32 = 1000;
/// Whom the kernel takes for everybody it does not know.
const NOBODY: u32 = 65534;

/// A user as a configuration names it: an account, or numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// An account of this machine.
    Account(String),
    /// A user's and a group's number.
    Numbers(u32, u32),
}

impl std::str::FromStr for Named {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "expected the name of an account, or UID:GID";
        if text.is_empty() || text.contains(['\0', '/', '\n']) {
            return Err(wrong);
        }
        match text.split_once(':') {
            Some((uid, gid)) => Ok(Self::Numbers(
                number(uid).ok_or(wrong)?,
                number(gid).ok_or(wrong)?,
            )),
            // A number alone has no group.
            None if number(text).is_some() => Err(wrong),
            None => Ok(Self::Account(text.to_owned())),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(name) => f.write_str(name),
            Self::Numbers(uid, gid) => write!(f, "{uid}:{gid}"),
        }
    }
}

/// Whether a session runs as the account of the name its peer has proved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peers {
    /// It does not.
    #[default]
    None,
    /// It does where there is such an account.
    Optional,
    /// It does, and is refused where there is none.
    Required,
}

/// What a configuration says of users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The handshaker's.
    pub handshaker: Option<Named>,
    /// The zygote's.
    pub zygote: Option<Named>,
    /// A session's, but for those that run as their peer's.
    pub session: Option<Named>,
    /// Which do.
    pub peers: Peers,
}

/// The users of the server's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    pub(super) handshaker: User,
    pub(super) zygote: User,
    session: User,
    peers: Peers,
    accounts: Accounts,
}

impl Users {
    /// The users that are wanted; none where this process cannot become anybody else and nothing
    /// says that it must. Then the text says so, for people.
    ///
    /// # Errors
    /// Why they cannot be had, for people.
    //= spec/processes.md#users
    pub fn resolve(wanted: &Wanted) -> Result<(Option<Self>, Option<String>), String> {
        let accounts = Accounts::default();
        let user = |role: &str, named: &Option<Named>, otherwise: u32| match named {
            None => Ok(User::numbered(otherwise, otherwise)),
            Some(Named::Numbers(uid, gid)) => Ok(User::numbered(*uid, *gid)),
            Some(Named::Account(name)) => match accounts.named(name) {
                Ok(Some(user)) => Ok(user),
                Ok(None) => Err(format!("{role}-user: no account {}", name.escape_debug())),
                Err(error) => Err(format!("{role}-user: {error}")),
            },
        };
        let users = Self {
            handshaker: user("handshaker", &wanted.handshaker, HANDSHAKER)?,
            zygote: user("zygote", &wanted.zygote, ZYGOTE)?,
            session: user("session", &wanted.session, SESSION)?,
            peers: wanted.peers,
            accounts: accounts.clone(),
        };
        let [one, two, three] = users.numbers().map(|(uid, _)| uid);
        if one == two || two == three || one == three {
            return Err(
                "handshaker-user, zygote-user and session-user must be three users: \
                        processes of one user may signal each other"
                    .to_owned(),
            );
        }
        if process::can_become(&users.numbers()) {
            return Ok((Some(users), None));
        }
        let uid = process::uid();
        if *wanted != Wanted::default() {
            return Err(format!(
                "user {uid} may not become the users that are named: start as root, or name none"
            ));
        }
        let text = format!("user {uid} may become nobody else: every process runs as {uid}");
        Ok((None, Some(text)))
    }

    fn numbers(&self) -> [(u32, u32); 3] {
        [&self.handshaker, &self.zygote, &self.session].map(|user| (user.uid, user.gid))
    }

    /// Whether a session may be root: only where the configuration says so.
    pub(super) fn root_is_a_session(&self) -> bool {
        self.session.uid == 0
    }

    /// Whom the session of a peer runs as that has proved this name, or none.
    ///
    /// # Errors
    /// Why it is refused, for people.
    //= spec/processes.md#peer-user
    pub(super) fn of_session(&self, peer: Option<&str>) -> Result<User, String> {
        if self.peers == Peers::None {
            return Ok(self.session.clone());
        }
        let account = match peer.map(account_name) {
            Some(name) => self
                .accounts
                .named(name)
                .map_err(|error| error.to_string())?,
            None => None,
        };
        match account.filter(|user| self.is_a_persons(user.uid)) {
            Some(user) => Ok(user),
            None if self.peers == Peers::Optional => Ok(self.session.clone()),
            None => Err("its user has no account here".to_owned()),
        }
    }

    fn is_a_persons(&self, uid: u32) -> bool {
        let of_role = self.numbers().map(|(uid, _)| uid);
        uid >= LEAST_PEER && uid != NOBODY && !of_role.contains(&uid)
    }
}

/// The account that a proved name may be of: the name, or of a certificate whose subject is a common
/// name and nothing else, that.
fn account_name(proved: &str) -> &str {
    match proved.strip_prefix("CN=") {
        Some(name) if !name.contains(['\\', ',', '+', '"']) => name,
        _ => proved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(peers: Peers) -> (tempfile::TempDir, Users) {
        let folder = tempfile::tempdir().unwrap();
        let passwd = "root:x:0:0::/root:\ndaemon:x:1:1::/:\nalice:x:1000:1000::/home/alice:\n\
                      nobody:x:65534:65534::/:\nsly:x:65521:1000::/:\nlow:x:999:999::/:\n";
        std::fs::write(folder.path().join("passwd"), passwd).unwrap();
        let numbered = |uid| User::numbered(uid, uid);
        let users = Users {
            handshaker: numbered(HANDSHAKER),
            zygote: numbered(ZYGOTE),
            session: numbered(SESSION),
            peers,
            accounts: Accounts::of(folder.path()),
        };
        (folder, users)
    }

    //= proves spec/processes.md#peer-user
    #[test]
    fn a_peer_is_nobody_but_itself() {
        let (_folder, all) = users(Peers::None);
        assert_eq!(all.of_session(Some("alice")).unwrap().uid, SESSION);
        let (_folder, some) = users(Peers::Optional);
        let (_folder_too, only) = users(Peers::Required);
        for name in ["alice", "CN=alice"] {
            assert_eq!(some.of_session(Some(name)).unwrap().uid, 1000);
            assert_eq!(only.of_session(Some(name)).unwrap().uid, 1000);
        }
        for name in [
            "root",
            "CN=root",
            "daemon",
            "nobody",
            "sly",
            "low",
            "carol",
            "",
            "alice\n",
            "CN=alice,O=x",
            "O=x,CN=alice",
            "CN=",
            "CN=alice\\,",
            "0",
            "alice:x",
        ] {
            assert_eq!(some.of_session(Some(name)).unwrap().uid, SESSION, "{name}");
            assert!(only.of_session(Some(name)).is_err(), "{name}");
        }
        assert!(only.of_session(None).is_err());
        assert_eq!(some.of_session(None).unwrap().uid, SESSION);
    }

    #[test]
    fn accounts_that_cannot_be_read_let_in_nobody() {
        let (folder, some) = users(Peers::Optional);
        drop(folder);
        assert!(some.of_session(Some("alice")).is_err());
    }

    #[test]
    fn a_user_is_named_by_account_or_by_numbers() {
        let named = |text: &str| text.parse::<Named>();
        assert_eq!(named("alice"), Ok(Named::Account("alice".to_owned())));
        assert_eq!(named("7:8"), Ok(Named::Numbers(7, 8)));
        assert_eq!(named("7:8").unwrap().to_string(), "7:8");
        for wrong in [
            "",
            "7",
            "7:",
            ":8",
            "7:x",
            "-1:0",
            "4294967295:0",
            "a:b",
            "/",
            "7:8:9",
        ] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }

    //= proves spec/processes.md#users
    #[test]
    fn three_roles_are_three_users() {
        let wanted = Wanted {
            handshaker: Some(Named::Numbers(SESSION, 1)),
            ..Wanted::default()
        };
        assert!(Users::resolve(&wanted).unwrap_err().contains("three users"));
        let wanted = Wanted {
            session: Some(Named::Account("no such account".to_owned())),
            ..Wanted::default()
        };
        assert!(Users::resolve(&wanted).unwrap_err().contains("no account"));
    }
}
