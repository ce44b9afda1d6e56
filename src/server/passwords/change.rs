//! Changing a password file: one user's line, all others as they are.
//!
//! Invariants: at every instant the old or the new file is there, complete, mode 0600; two changes
//! at once come one after the other; a file that could not be used is not changed.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::cred::check_password;
use crate::name::Name;

use super::hash::Workshop;
use super::{Error, entry};
use crate::server::state::{MAX_FILE, Refused, read_secret};

/// What is to become of a user's line.
pub enum Change<'a> {
    /// The user's password is this one from now on: 1 to 1024 bytes of UTF-8 without NUL.
    Password(&'a [u8]),
    /// The user is there no more.
    Delete,
}

/// Why a password file was not changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unchanged {
    /// The name is none, or cannot stand in the file: 1 to 256 bytes of UTF-8 without control
    /// characters, spaces at its ends, colons, or `#` in front.
    Name,
    /// The password is empty, longer than 1024 bytes, or no text.
    Password,
    /// The user is not there.
    Unknown,
    /// The file is none that can be used.
    File(Error),
    /// It would be larger than [`MAX_FILE`] bytes.
    Full,
    /// No memory or no randomness to make a hash with.
    NoHash,
    /// The operating system refused.
    System(PathBuf, io::Error),
}

impl fmt::Display for Unchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str(
                "the user name is none: 1 to 256 bytes, no control characters, no colon, no # in front",
            ),
            Self::Password => {
                f.write_str("the password is none: 1 to 1024 bytes of UTF-8 without NUL")
            }
            Self::Unknown => f.write_str("the user is not in the file"),
            Self::File(error) => error.fmt(f),
            Self::Full => write!(f, "the file would be larger than {MAX_FILE} bytes"),
            Self::NoHash => f.write_str("no memory, or no randomness, to make a hash with"),
            Self::System(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for Unchanged {}

/// Changes one user's line of a file, which is made where there is none.
///
/// # Errors
/// The file is as it was.
//= spec/passwords.md#change
pub fn change(path: &Path, user: &str, change: &Change<'_>) -> Result<(), Unchanged> {
    let fits = !user.contains(':') && !user.starts_with('#');
    let name = Name::user(user).ok().filter(|_| fits);
    let name = name.ok_or(Unchanged::Name)?;
    let line = match change {
        Change::Delete => None,
        Change::Password(password) => {
            let fine = !password.is_empty() && !password.contains(&b'\n');
            if !fine || check_password(password).is_err() {
                return Err(Unchanged::Password);
            }
            let hash = Workshop::default().text(password);
            let hash = hash.ok_or(Unchanged::NoHash)?;
            Some(format!("{user}:{hash}\n"))
        }
    };
    // What a symbolic link leads to is replaced, not the link.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let draft = Draft::new(&path)?;
    let before = match read_secret(&path) {
        Ok(bytes) => bytes,
        Err(Refused::System(_, error)) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(refused) => return Err(Unchanged::File(Error::File(refused))),
    };
    super::File::parse(&before).map_err(Unchanged::File)?;
    let after = replaced(&before, name.as_bytes(), line.as_deref())?;
    if after.len() as u64 > MAX_FILE {
        return Err(Unchanged::Full);
    }
    draft.become_file(&after)
}

/// The lines of a file with one user's line replaced, added behind them, or left out.
fn replaced(before: &[u8], user: &[u8], line: Option<&str>) -> Result<Vec<u8>, Unchanged> {
    let mut after = Vec::new();
    let mut rest = line;
    let mut found = false;
    for (index, old) in before.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let text = old.strip_suffix(b"\n").unwrap_or(old);
        let entry = entry(text, index + 1).map_err(Unchanged::File)?;
        if entry.is_some_and(|(name, _)| name.as_bytes() == user) {
            found = true;
            after.extend_from_slice(rest.take().unwrap_or_default().as_bytes());
            continue;
        }
        after.extend_from_slice(text);
        after.push(b'\n');
    }
    match (rest, found) {
        (None, false) => return Err(Unchanged::Unknown),
        (Some(line), false) => after.extend_from_slice(line.as_bytes()),
        (_, true) => {}
    }
    Ok(after)
}

/// The file that is to take the other's place. Whoever holds its lock may change the other.
struct Draft {
    path: PathBuf,
    draft: PathBuf,
    file: File,
}

impl Draft {
    fn new(path: &Path) -> Result<Self, Unchanged> {
        let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
        name.push(".new");
        let draft = path.with_file_name(name);
        let failed = |error| Unchanged::System(draft.clone(), error);
        loop {
            let mut options = File::options();
            options.read(true).write(true).create(true).mode(0o600);
            options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
            let file = options.open(&draft).map_err(failed)?;
            flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
            // The one who held it may have made it the file: then this is the file's lock.
            let held = file.metadata().map_err(failed)?;
            // Somebody else's file would be somebody else's to read.
            if !held.is_file() || held.uid() != rustix::process::geteuid().as_raw() {
                return Err(failed(io::ErrorKind::AlreadyExists.into()));
            }
            let there = std::fs::symlink_metadata(&draft);
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
                return Ok(Self {
                    path: path.to_owned(),
                    draft,
                    file,
                });
            }
        }
    }

    fn become_file(mut self, bytes: &[u8]) -> Result<(), Unchanged> {
        let written = (|| {
            let mode = std::fs::Permissions::from_mode(0o600);
            self.file.set_permissions(mode)?;
            self.file.set_len(0)?;
            self.file.write_all(bytes)?;
            self.file.sync_all()?;
            std::fs::rename(&self.draft, &self.path)?;
            let folder = self.path.parent().filter(|folder| *folder != Path::new(""));
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        })();
        written.map_err(|error| Unchanged::System(self.path.clone(), error))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // A change that was not made leaves nothing; one that was has no draft any more, and what
        // another process has put in its place since is not this one's.
        let held = self.file.metadata();
        let there = std::fs::symlink_metadata(&self.draft);
        if let (Ok(held), Ok(there)) = (held, there)
            && (there.dev(), there.ino()) == (held.dev(), held.ino())
        {
            let _ = std::fs::remove_file(&self.draft);
        }
    }
}
