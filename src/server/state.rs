//! The state directory: what the server keeps between two starts, and for this user alone.
//!
//! Invariants: every folder is a real one (no symbolic link), of this user, mode 0700; every file
//! is a regular one of this user, mode 0600. What is not so is refused, never mended: a key that
//! others could read is no secret any more. A folder appears complete or not at all.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, fstat, fsync, mkdirat, openat,
    renameat_with, unlinkat,
};
use rustix::io::Errno;

/// The largest file that is read from the directory, in bytes.
pub const MAX_FILE: u64 = 64 * 1024;

/// Mode bits that let anyone but the owner do anything.
const OTHERS: u32 = 0o077;

/// Why the state directory cannot be used.
#[derive(Debug)]
pub enum Refused {
    /// Neither `XDG_STATE_HOME` nor `HOME` names an absolute path.
    NoHome,
    /// The operating system refused.
    System(PathBuf, io::Error),
    /// Not of the kind that belongs there: a symbolic link, a pipe, a folder for a file.
    Kind(PathBuf),
    /// It belongs to another user, whose number is given.
    Foreign(PathBuf, u32),
    /// Others may read or write it; its permission bits are given.
    Loose(PathBuf, u32),
    /// Larger than [`MAX_FILE`].
    TooLarge(PathBuf),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHome => f.write_str("neither XDG_STATE_HOME nor HOME is set: give --state DIR"),
            Self::System(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Kind(path) => write!(f, "{}: not a plain file or folder", path.display()),
            Self::Foreign(path, owner) => {
                write!(
                    f,
                    "{}: belongs to user {owner}, not to this one",
                    path.display()
                )
            }
            Self::Loose(path, mode) => write!(
                f,
                "{0}: open to others (mode {mode:04o}): chmod go= {0}",
                path.display()
            ),
            Self::TooLarge(path) => {
                write!(f, "{}: larger than {MAX_FILE} bytes", path.display())
            }
        }
    }
}

impl std::error::Error for Refused {}

/// An opened and checked folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    fd: OwnedFd,
}

/// Holds the state directory against other starts; released on drop, and by the kernel when the
/// process dies.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "open as long as the lock is to be held")] OwnedFd);

impl Folder {
    /// Where the state is kept when nobody says: `$XDG_STATE_HOME/baton`, or
    /// `$HOME/.local/state/baton`. Relative values are ignored (XDG Base Directory 0.8).
    pub fn default_path() -> Result<PathBuf, Refused> {
        let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|p| p.is_absolute());
        env::var_os("XDG_STATE_HOME")
            .and_then(absolute)
            .or_else(|| Some(env::var_os("HOME").and_then(absolute)?.join(".local/state")))
            .map(|base| base.join("baton"))
            .ok_or(Refused::NoHome)
    }

    /// Opens `path`, which is made first, with its parents, when there is nothing.
    pub fn open_or_make(path: &Path) -> Result<Self, Refused> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| Refused::System(path.to_owned(), error))?;
        Self::at(rustix::fs::CWD, path, path.to_owned())
    }

    /// Opens the folder `name` in this one; none when there is nothing of that name.
    pub fn folder(&self, name: &str) -> Result<Option<Self>, Refused> {
        match Self::at(self.fd.as_fd(), Path::new(name), self.path.join(name)) {
            Err(Refused::System(_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    fn at(parent: BorrowedFd<'_>, name: &Path, path: PathBuf) -> Result<Self, Refused> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            openat(parent, name, flags, Mode::empty()).map_err(|error| refused(&path, error))?;
        check(&fd, FileType::Directory, &path)?;
        Ok(Self { path, fd })
    }

    /// The path it was opened under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole file `name`, at most [`MAX_FILE`] bytes.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Refused> {
        let path = self.path.join(name);
        // NONBLOCK: a pipe in the file's place is refused below, not waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd =
            openat(&self.fd, name, flags, Mode::empty()).map_err(|error| refused(&path, error))?;
        check(&fd, FileType::RegularFile, &path)?;
        read_bounded(File::from(fd), path)
    }

    /// Waits until no other process holds the lock, and holds it.
    pub fn lock(&self) -> Result<Lock, Refused> {
        let path = self.path.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, "lock", flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| refused(&path, error))?;
        check(&fd, FileType::RegularFile, &path)?;
        rustix::fs::flock(&fd, FlockOperation::LockExclusive)
            .map_err(|error| refused(&path, error))?;
        Ok(Lock(fd))
    }

    /// Puts a folder `name` with `files` (names and contents) in place of whatever folder had the
    /// name: at every instant either the old or the new one is there, complete. To be called
    /// with the lock held; what a start that died in here left behind is removed first.
    pub fn replace(
        &self,
        _held: &Lock,
        name: &str,
        files: &[(&str, &[u8])],
    ) -> Result<(), Refused> {
        let draft = format!("{name}.new");
        self.remove(&draft)?;
        let draft_path = self.path.join(&draft);
        mkdirat(&self.fd, draft.as_str(), Mode::RWXU).map_err(|e| refused(&draft_path, e))?;
        let folder = Self::at(self.fd.as_fd(), Path::new(&draft), draft_path)?;
        for (file, bytes) in files {
            folder.write(file, bytes)?;
        }
        fsync(&folder.fd).map_err(|error| refused(&folder.path, error))?;
        let path = self.path.join(name);
        let rename = |flags| renameat_with(&self.fd, draft.as_str(), &self.fd, name, flags);
        match rename(RenameFlags::NOREPLACE) {
            // The old one leaves under the draft's name.
            Err(Errno::EXIST) => rename(RenameFlags::EXCHANGE),
            other => other,
        }
        .and_then(|()| fsync(&self.fd))
        .map_err(|error| refused(&path, error))?;
        self.remove(&draft)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Refused> {
        let path = self.path.join(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| refused(&path, error))?;
        let mut file = File::from(fd);
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|error| Refused::System(path, error))
    }

    /// Removes the folder `name` and the files in it, if it is there.
    fn remove(&self, name: &str) -> Result<(), Refused> {
        let Some(folder) = self.folder(name)? else {
            return Ok(());
        };
        let entries =
            rustix::fs::Dir::read_from(&folder.fd).map_err(|error| refused(&folder.path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| refused(&folder.path, error))?;
            let file = entry.file_name();
            if file != c"." && file != c".." {
                unlinkat(&folder.fd, file, AtFlags::empty())
                    .map_err(|error| refused(&folder.path, error))?;
            }
        }
        unlinkat(&self.fd, name, AtFlags::REMOVEDIR).map_err(|error| refused(&folder.path, error))
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a file of secrets that the user named on the command line: a regular file of this user,
/// closed to others, at most [`MAX_FILE`] bytes. A symbolic link is followed: the user said so.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, Refused> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| refused(path, error))?;
    check(&fd, FileType::RegularFile, path)?;
    read_bounded(File::from(fd), path.to_owned())
}

fn read_bounded(file: File, path: PathBuf) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::new();
    match file.take(MAX_FILE + 1).read_to_end(&mut bytes) {
        Err(error) => Err(Refused::System(path, error)),
        Ok(_) if bytes.len() as u64 > MAX_FILE => Err(Refused::TooLarge(path)),
        Ok(_) => Ok(bytes),
    }
}

fn check(fd: &OwnedFd, kind: FileType, path: &Path) -> Result<(), Refused> {
    let stat = fstat(fd).map_err(|error| refused(path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return Err(Refused::Kind(path.to_owned()));
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Refused::Foreign(path.to_owned(), stat.st_uid));
    }
    if stat.st_mode & OTHERS != 0 {
        return Err(Refused::Loose(path.to_owned(), stat.st_mode & 0o7777));
    }
    Ok(())
}

fn refused(path: &Path, error: Errno) -> Refused {
    match error {
        // What NOFOLLOW and DIRECTORY answer.
        Errno::LOOP | Errno::NOTDIR => Refused::Kind(path.to_owned()),
        error => Refused::System(path.to_owned(), error.into()),
    }
}
