//! Where the control socket is: a name in a folder of this user alone.
//!
//! Invariants: a name that somebody answers at is left alone; the socket can be reached by nobody
//! else at any instant, since nobody else can enter its folder.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, chmodat, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::server::state::{Folder, Refused};

/// The socket's name in the state directory.
pub const NAME: &str = "control";

/// Where the control socket is to be.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its path.
    pub path: PathBuf,
    /// Whether somebody asked for it there: then a server that cannot have it does not start.
    pub asked_for: bool,
}

/// Why there is none.
#[derive(Debug)]
pub enum Absent {
    /// Its folder cannot be used.
    Folder(Refused),
    /// The path has no name in it.
    Name(PathBuf),
    /// Another server answers there.
    Taken(PathBuf),
    /// The kernel cannot say who asks.
    Kernel,
    /// The operating system refused.
    System(PathBuf, io::Error),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(refused) => write!(f, "no control socket: {refused}"),
            Self::Name(path) => {
                write!(f, "no control socket: {} is no file's name", path.display())
            }
            Self::Taken(path) => write!(
                f,
                "no control socket: another server answers at {}",
                path.display()
            ),
            Self::Kernel => f.write_str("no control socket: it needs Linux 6.5 (SO_PEERPIDFD)"),
            Self::System(path, error) => {
                write!(f, "no control socket: {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for Absent {}

impl Absent {
    /// Whether a server that was asked for a socket goes on without: another one has it.
    pub(crate) fn is_bearable(&self) -> bool {
        matches!(self, Self::Taken(_) | Self::Kernel)
    }
}

/// A socket with a name.
pub(super) struct Named {
    pub(super) listener: UnixListener,
    folder: Folder,
    name: String,
    inode: (u64, u64),
}

impl Named {
    /// Makes the socket.
    //= spec/control.md#place
    //= spec/control.md#stale
    pub(super) fn make(path: &Path) -> Result<Self, Absent> {
        let (parent, name) = split(path)?;
        let folder = Folder::open_or_make(parent).map_err(Absent::Folder)?;
        let system = |error: io::Error| Absent::System(path.to_owned(), error);
        let held = folder.lock().map_err(Absent::Folder)?;
        let short = through(&folder, name);
        match probe(&short) {
            // One whose queue is full is one that lives.
            Ok(()) | Err(Errno::AGAIN) => return Err(Absent::Taken(path.to_owned())),
            Err(Errno::NOENT) => {}
            // Nobody has it open any more; or it is no socket.
            Err(Errno::CONNREFUSED) => {
                let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
                let kind = stat.map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
                if kind != Ok(rustix::fs::FileType::Socket) {
                    return Err(Absent::Folder(Refused::Kind(path.to_owned())));
                }
                unlinkat(&folder, name, AtFlags::empty()).map_err(|error| system(error.into()))?;
            }
            Err(error) => return Err(system(error.into())),
        }
        let listener = UnixListener::bind(&short).map_err(system)?;
        chmodat(&folder, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())
            .map_err(|error| system(error.into()))?;
        rustix::net::listen(&listener, QUEUE).map_err(|error| system(error.into()))?;
        listener.set_nonblocking(true).map_err(system)?;
        let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| system(error.into()))?;
        drop(held);
        Ok(Self {
            listener,
            name: name.to_owned(),
            inode: (stat.st_dev, stat.st_ino),
            folder,
        })
    }

    /// Takes the name away, if it is still this socket's.
    pub(super) fn remove(self) {
        // Without the lock, which others could keep from a server that stops: as long as this
        // socket is open somebody answers at its name, and nobody puts another there.
        let name = self.name.as_str();
        let stat = statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.inode) {
            let _ = unlinkat(&self.folder, name, AtFlags::empty());
        }
    }
}

/// Connects, without waiting where nobody accepts.
fn probe(path: &Path) -> rustix::io::Result<()> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

/// Connections that wait to be accepted.
const QUEUE: i32 = 16;

fn split(path: &Path) -> Result<(&Path, &str), Absent> {
    let nameless = || Absent::Name(path.to_owned());
    let name = path.file_name().and_then(|name| name.to_str());
    let parent = path.parent().ok_or_else(nameless)?;
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    Ok((parent, name.ok_or_else(nameless)?))
}

/// A path of the name that is short enough for a socket address, whatever the folder's is.
fn through(folder: &Folder, name: &str) -> PathBuf {
    let number = rustix::fd::AsFd::as_fd(folder).as_raw_fd();
    PathBuf::from(format!("/proc/self/fd/{number}/{name}"))
}

/// Connects to the socket at `path`.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let (parent, name) = split(path).map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(rustix::fs::CWD, parent, flags, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}
