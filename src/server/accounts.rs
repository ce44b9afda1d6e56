//! Accounts of this machine, from `/etc/passwd` and `/etc/group`.
//!
//! The files are read here, not asked for through the C library: its look-up loads whatever
//! modules the machine is set to, waits for whatever network they ask, and would do so in the
//! supervisor, as root. Who is known to a directory service alone is unknown here.
//!
//! Invariants: a file is read to a limit; a line that is no entry says nothing; the first entry
//! of a name counts, as it does for the C library.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::session::user::{Account, MOST_GROUPS, User};

/// The most bytes of a file.
const MAX_FILE: u64 = 16 << 20;
/// The longest name of an account.
const MAX_NAME: usize = 256;
/// The longest home directory or shell.
const MAX_PATH: usize = 4096;

/// Where accounts are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    passwd: PathBuf,
    group: PathBuf,
}

impl Default for Accounts {
    fn default() -> Self {
        Self::of(Path::new("/etc"))
    }
}

impl Accounts {
    /// In the files of this folder.
    pub fn of(folder: &Path) -> Self {
        Self {
            passwd: folder.join("passwd"),
            group: folder.join("group"),
        }
    }

    /// The account of this name, with its groups; none when there is none.
    ///
    /// # Errors
    /// The system's, `FileTooLarge`, and `InvalidData` for an account in too many groups.
    pub fn named(&self, name: &str) -> io::Result<Option<User>> {
        if !possible(name) {
            return Ok(None);
        }
        let passwd = read(&self.passwd)?;
        let Some(user) = user(&passwd, name) else {
            return Ok(None);
        };
        let group = match read(&self.group) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        with_groups(user, &group, name).map(Some)
    }
}

/// The user of this name, of the text of `/etc/passwd`.
pub(super) fn user(passwd: &[u8], name: &str) -> Option<User> {
    lines(passwd).find_map(|line| entry(line, name))
}

/// And its groups, of the text of `/etc/group`.
pub(super) fn with_groups(mut user: User, group: &[u8], name: &str) -> io::Result<User> {
    user.groups = lines(group)
        .filter_map(|line| member_of(line, name))
        .filter(|gid| *gid != user.gid)
        .collect();
    user.groups.sort_unstable();
    user.groups.dedup();
    match user.groups.len() > MOST_GROUPS {
        true => Err(io::ErrorKind::InvalidData.into()),
        false => Ok(user),
    }
}

/// Whether an account can have this name.
fn possible(name: &str) -> bool {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || ":,/".contains(c);
    !name.is_empty() && name.len() <= MAX_NAME && !name.contains(forbidden) && name != "+"
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.filter_map(|line| str::from_utf8(line).ok())
}

/// `name:password:uid:gid:comment:home:shell` (passwd(5)), when it is the one of `name`.
fn entry(line: &str, name: &str) -> Option<User> {
    let fields: Vec<&str> = line.splitn(8, ':').collect();
    let [found, _, uid, gid, _, home, shell] = fields[..] else {
        return None;
    };
    let fits = |path: &str| path.len() <= MAX_PATH && !path.contains('\0');
    if found != name || !fits(home) || !fits(shell) {
        return None;
    }
    let or = |path: &str, otherwise: &str| match path {
        "" => otherwise.to_owned(),
        path => path.to_owned(),
    };
    Some(User {
        uid: number(uid)?,
        gid: number(gid)?,
        groups: Vec::new(),
        account: Some(Account {
            name: name.to_owned(),
            home: or(home, "/"),
            shell: or(shell, "/bin/sh"),
        }),
    })
}

/// The number of a group in which `name` is: `name:password:gid:members` (group(5)).
fn member_of(line: &str, name: &str) -> Option<u32> {
    let fields: Vec<&str> = line.splitn(5, ':').collect();
    let [_, _, gid, members] = fields[..] else {
        return None;
    };
    let member = members.split(',').any(|member| member == name);
    member.then(|| number(gid)).flatten()
}

/// A user's or a group's number, in decimal digits; what the kernel takes for "unchanged" is none.
pub(super) fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits)?;
    (number != u32::MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(passwd: &[u8], group: &[u8]) -> (tempfile::TempDir, Accounts) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("passwd"), passwd).unwrap();
        std::fs::write(folder.path().join("group"), group).unwrap();
        let accounts = Accounts::of(folder.path());
        (folder, accounts)
    }

    #[test]
    fn an_account_is_found_with_its_groups() {
        let (_folder, accounts) = accounts(
            b"root:x:0:0:root:/root:/bin/bash\n\
              alice:x:1000:1001:Alice,,,:/home/alice:/bin/zsh\n\
              bob:x:1002:1002:::\n\
              alice:x:0:0:again:/:/bin/sh\n",
            b"alice:x:1001:alice\nwheel:x:10:root,alice\naudio:x:29:bob,alice\nmalice:x:5:malice\nwheel:x:10:alice\n",
        );
        let alice = accounts.named("alice").unwrap().unwrap();
        assert_eq!((alice.uid, alice.gid), (1000, 1001));
        assert_eq!(alice.groups, [10, 29]);
        let account = alice.account.unwrap();
        assert_eq!(
            (&account.home[..], &account.shell[..]),
            ("/home/alice", "/bin/zsh")
        );
        let bob = accounts.named("bob").unwrap().unwrap().account.unwrap();
        assert_eq!((&bob.home[..], &bob.shell[..]), ("/", "/bin/sh"));
        for nobody in ["", "ali", "alice:x", "alice\n", "carol", "x", "+", "malice"] {
            assert_eq!(accounts.named(nobody).unwrap(), None, "{nobody}");
        }
    }

    #[test]
    fn what_is_no_entry_says_nothing() {
        let (folder, accounts) = accounts(
            b"a\nb:x:0\nc:x:-1:0::/:\nd:x:4294967295:0::/:\ne:x::0::/:\nf:x:+7:7::/:\ng:x:7:7::/::\n\
              \xffh:x:0:0::/:\ni:x:99999999999:0::/:\nj:x:7:7::/a\0b:\nk:x: 7:7::/:\n",
            b"g:x\n",
        );
        for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"] {
            assert_eq!(accounts.named(name).unwrap(), None, "{name}");
        }
        std::fs::remove_file(folder.path().join("passwd")).unwrap();
        assert!(accounts.named("a").is_err());
    }
}
