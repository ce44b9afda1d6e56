//! The files of a file domain: found, checked, or made, in a directory of this user alone.
//!
//! SECURITY: what lies at the names is hostile until checked. Everything is opened relative to a
//! directory that was checked after it was opened, without following links, and checked again by
//! its descriptor; what fails a check is left as it is.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, Stat, fallocate, fchmod,
    flock, fstat, ftruncate, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::header::{Header, LEDGER, PAGE};
use super::mapped::plan;
use super::{Error, Keyring, Ledger, Options, random_id};
use crate::sys::fault;
use crate::sys::memory::Mapping;
use crate::sys::process;

const MAX_NAME: usize = 64;

/// Where this user's file domains lie.
//= spec/domains.md#names
pub(super) fn directory() -> PathBuf {
    let uid = process::uid();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    if let Some(runtime) = runtime.filter(|path| path.is_absolute()) {
        return runtime.join("baton");
    }
    let runtime = PathBuf::from(format!("/run/user/{uid}"));
    if runtime.is_dir() {
        return runtime.join("baton");
    }
    PathBuf::from(format!("/tmp/baton-{uid}"))
}

/// What lies at the names.
enum Found {
    Good(Ledger, Keyring),
    /// Nothing, or what an earlier boot left.
    Nothing,
}

/// Opens the domain `name` in `directory`, or makes it.
//= spec/domains.md#creation
pub(super) fn open(
    directory: &Path,
    name: &str,
    options: &Options,
) -> Result<(Ledger, Keyring), Error> {
    check_name(name)?;
    let directory = open_directory(directory)?;
    if let Found::Good(ledger, keyring) = look(&directory, name)? {
        return Ok((ledger, keyring));
    }
    fault::point("ledger.file.missing");
    flock(&directory, FlockOperation::LockExclusive)?;
    fault::point("ledger.file.locked");
    let made = match look(&directory, name) {
        Ok(Found::Good(ledger, keyring)) => Ok((ledger, keyring)),
        Ok(Found::Nothing) => make(&directory, name, options),
        Err(error) => Err(error),
    };
    // Closing the descriptor is not enough: a child forked by another thread has a copy.
    let _ = flock(&directory, FlockOperation::Unlock);
    made
}

//= spec/domains.md#names
fn check_name(name: &str) -> Result<(), Error> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let good = name.len() <= MAX_NAME
        && name.bytes().all(known)
        && name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric());
    if good {
        Ok(())
    } else {
        Err(Error::Refused("name"))
    }
}

/// The directory, made if its parent is there.
//= spec/domains.md#directory
fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let made = match mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(Error::Refused("directory is none")),
        Err(Errno::ACCESS) => return Err(Error::Refused("directory of another user")),
        answer => answer?,
    };
    if made {
        // Whatever the umask took away.
        fchmod(&directory, Mode::RWXU)?;
    }
    let stat = fstat(&directory)?;
    if stat.st_uid != process::uid() {
        return Err(Error::Refused("directory of another user"));
    }
    if stat.st_mode & 0o7777 != 0o700 {
        return Err(Error::Refused("directory mode is not 0700"));
    }
    Ok(directory)
}

fn look(directory: &OwnedFd, name: &str) -> Result<Found, Error> {
    let Some((ledger, home)) = open_file(directory, &format!("{name}.ledger"))? else {
        return Ok(Found::Nothing);
    };
    let ledger = map(ledger)?;
    let header = Header::read(ledger.as_words()).ok_or(Error::Damaged("check word"))?;
    if header.kind.0 != LEDGER.0 {
        return Err(Error::Damaged("magic or version"));
    }
    //= spec/domains.md#stale
    if header.boot != process::boot_id()? {
        return Ok(Found::Nothing);
    }
    check_home(&header, home)?;
    let ledger = Ledger::open(ledger)?;
    let Some((keys, home)) = open_file(directory, &format!("{name}.keys"))? else {
        return Err(Error::Refused("ledger without its keys"));
    };
    let keyring = Keyring::open(map(keys)?)?;
    check_home(keyring.header(), home)?;
    if keyring.header().domain != ledger.domain_id() {
        return Err(Error::Refused("ledger and keys of two domains"));
    }
    Ok(Found::Good(ledger, keyring))
}

/// A file, and the device and inode it is.
type Opened = (OwnedFd, (u64, u64));

/// Opens a file and checks what it is. None when it is not there, or no longer.
//= spec/domains.md#files
fn open_file(directory: &OwnedFd, name: &str) -> Result<Option<Opened>, Error> {
    // Opening a FIFO or a device must neither wait nor take a terminal.
    let flags =
        OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
            return Err(Error::Refused("not a regular file"));
        }
        Err(Errno::ACCESS) => return Err(Error::Refused("file of another user, or mode")),
        answer => answer?,
    };
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::Refused("not a regular file"));
    }
    if stat.st_uid != process::uid() {
        return Err(Error::Refused("file of another user"));
    }
    if stat.st_mode & 0o7777 != 0o600 {
        return Err(Error::Refused("file mode is not 0600"));
    }
    match stat.st_nlink {
        // Replaced since it was opened: it was stale.
        0 => Ok(None),
        1 => Ok(Some((file, home(&stat)))),
        _ => Err(Error::Refused("file with a second name")),
    }
}

/// Where a file is: what a copy of it is not.
fn home(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

//= spec/domains.md#home
fn check_home(header: &Header, home: (u64, u64)) -> Result<(), Error> {
    if header.home == home {
        Ok(())
    } else {
        Err(Error::Refused("file is a copy"))
    }
}

fn map(file: OwnedFd) -> Result<Mapping, Error> {
    Mapping::from_fd(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => Error::Damaged("length"),
        _ => error.into(),
    })
}

/// Makes both files under other names, and renames them when they are whole, the keys first.
//= spec/domains.md#creation
fn make(directory: &OwnedFd, name: &str, options: &Options) -> Result<(Ledger, Keyring), Error> {
    let id = random_id()?;
    let new_keys = format!(".{name}.keys.new");
    let new_ledger = format!(".{name}.ledger.new");

    let keys = new_file(directory, &new_keys, PAGE * 8)?;
    back(&keys, 0, PAGE)?;
    let home_of_keys = home(&fstat(&keys)?);
    fault::point("ledger.file.keys_empty");
    let keyring = Keyring::made(Mapping::from_fd(keys)?, id, home_of_keys)?;
    fault::point("ledger.file.keys_made");

    let (_, layout) = plan(options, id, (0, 0))?;
    let ledger = new_file(directory, &new_ledger, layout.len * 8)?;
    // What is written without asking first; slots and entries are backed as they are used.
    back(&ledger, 0, PAGE)?;
    back(&ledger, layout.process_marks, layout.entries)?;
    let (header, _) = plan(options, id, home(&fstat(&ledger)?))?;
    fault::point("ledger.file.ledger_empty");
    let mapping = Mapping::from_fd(ledger)?;
    header.write(mapping.as_words());
    let ledger = Ledger::open(mapping)?;
    fault::point("ledger.file.ledger_made");

    renameat(directory, &new_keys, directory, format!("{name}.keys"))?;
    fault::point("ledger.file.keys_named");
    renameat(directory, &new_ledger, directory, format!("{name}.ledger"))?;
    fault::point("ledger.file.ledger_named");
    Ok((ledger, keyring))
}

fn new_file(directory: &OwnedFd, name: &str, len: usize) -> Result<OwnedFd, Error> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    // Whatever the umask took away.
    fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    ftruncate(&file, len as u64)?;
    Ok(file)
}

/// Backs words of a file, so that a full disk is an error here and not a signal later.
pub(super) fn back(file: impl AsFd, start: usize, end: usize) -> Result<(), Errno> {
    if fault::fail("ledger.growth.refused") {
        return Err(Errno::NOSPC);
    }
    let (start, len) = (start as u64 * 8, (end - start) as u64 * 8);
    match fallocate(file, FallocateFlags::empty(), start, len) {
        // A file system that cannot promise space.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
