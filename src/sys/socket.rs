//! Unix sockets between processes, and what they tell about the peer.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recv,
    recvmsg, send, sendmsg, shutdown, socketpair, sockopt,
};

/// The most descriptors one message carries: the kernel's `SCM_MAX_FD`.
pub const MAX_DESCRIPTORS: usize = 253;

/// Room for one control message with [`MAX_DESCRIPTORS`].
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Two connected sockets that keep the bounds of messages (`SOCK_SEQPACKET`). Both close on `exec`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Who was at the other end when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number in our process namespace; 0 when it has none there. It may have ended since,
    /// and its number may be another's: see [`peer_pidfd`].
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// Who made the connection of a Unix socket (`SO_PEERCRED`). The kernel vouches for it.
///
/// `NotConnected` when there is no peer, or the socket is of another family.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<Peer> {
    // Not by rustix: its process number cannot be 0, which the kernel says of a stranger's.
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    // SAFETY: `ucred` is what the option writes: three integers.
    unsafe { option(socket.as_fd(), libc::SO_PEERCRED, &mut peer)? };
    if peer.uid == u32::MAX {
        // What the kernel says when there is nobody: it is no user's number.
        return Err(io::ErrorKind::NotConnected.into());
    }
    Ok(Peer {
        pid: peer.pid.unsigned_abs(),
        uid: peer.uid,
        gid: peer.gid,
    })
}

/// A descriptor of the process that made the connection (`SO_PEERPIDFD`), so that its number
/// cannot meanwhile be another's. None before Linux 6.5: then [`peer_credentials`] and the start
/// time must do. `NotFound` when the process has ended and is gone.
pub fn peer_pidfd(socket: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: The option writes one integer.
    match unsafe { option(socket.as_fd(), libc::SO_PEERPIDFD, &mut pidfd) } {
        // SAFETY: The kernel has just opened it for us. It closes on `exec`.
        Ok(()) if pidfd >= 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(pidfd) })),
        Ok(()) => Err(io::ErrorKind::InvalidData.into()),
        Err(Errno::NOPROTOOPT) => Ok(None),
        Err(Errno::SRCH | Errno::NODATA) => Err(io::ErrorKind::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// `getsockopt(SOL_SOCKET)` of an option whose value has one size.
///
/// # Safety
/// Whatever bytes the kernel writes as this option are a `T`.
unsafe fn option<T>(socket: BorrowedFd<'_>, name: libc::c_int, value: &mut T) -> Result<(), Errno> {
    let mut len = size_of::<T>() as libc::socklen_t;
    let value = (&raw mut *value).cast();
    // SAFETY: The kernel writes at most `len` bytes, and they are a `T` as the caller says.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            value,
            &raw mut len,
        )
    };
    if answer != 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    if len as usize == size_of::<T>() {
        Ok(())
    } else {
        Err(Errno::PROTO)
    }
}

/// The kernel's number of a socket (`SO_COOKIE`): of no other socket while the machine runs, and
/// the same through every duplicate and in every process. A system call.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

/// Asks for buffers of `bytes` in both directions, and answers the longest message that can be
/// sent now. The kernel gives as much as the administrator allows (`net.core.wmem_max`, 208 KiB
/// by default), and doubles it for its own use.
pub fn set_buffers(socket: impl AsFd, bytes: usize) -> io::Result<usize> {
    let socket = socket.as_fd();
    // More than the kernel can count is as much as it allows.
    let bytes = bytes.min(i32::MAX as usize / 2);
    sockopt::set_socket_send_buffer_size(socket, bytes)?;
    sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    message_limit(socket)
}

/// Bytes of the longest message that can be sent on a socket that keeps messages.
pub fn message_limit(socket: impl AsFd) -> io::Result<usize> {
    // unix(7): the send buffer's size, less 32.
    Ok(sockopt::socket_send_buffer_size(socket)?.saturating_sub(32))
}

/// Sends one message with descriptors, at most [`MAX_DESCRIPTORS`] (`InvalidInput` otherwise).
///
/// All or nothing on a socket that keeps messages. On a stream fewer bytes than given may have
/// been sent; the descriptors went with the first of them. No signal comes when the peer is gone,
/// but `BrokenPipe`; `WouldBlock` only from a socket that does not block.
pub fn send_with_fds(
    socket: impl AsFd,
    message: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    send_all(socket, message, fds, SendFlags::NOSIGNAL)
}

/// [`send_with_fds`], without waiting: `WouldBlock` when there is no room.
pub fn send_with_fds_now(
    socket: impl AsFd,
    message: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    send_all(socket, message, fds, flags)
}

fn send_all(
    socket: impl AsFd,
    message: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<usize> {
    if fds.len() > MAX_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match sendmsg(&socket, message, &mut control, flags) {
            Err(Errno::INTR) => {}
            answer => return Ok(answer?),
        }
    }
}

/// What one receipt brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes in the buffer. 0 is the end of the connection (or an empty message).
    pub len: usize,
    /// The message was longer than the buffer, and the rest of it is lost.
    pub truncated: bool,
}

/// Receives one message; its descriptors are appended to `fds`, and close on `exec`.
///
/// When not all descriptors of a message could be received (this process may have no more of
/// them), those that came are closed again and the error is `Other`, with the text "descriptors
/// were lost": `fds` is as it was, and the message's bytes are in the buffer and of no use.
/// `WouldBlock` comes when there is none and `wait` is false, or the socket does not block.
pub fn recv_with_fds(
    socket: impl AsFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    wait: bool,
) -> io::Result<Received> {
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    flags.set(RecvFlags::DONTWAIT, !wait);
    let mut space = [MaybeUninit::uninit(); CONTROL];
    // What is not taken out of it, it closes when it goes.
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg(&socket, &mut parts, &mut control, flags) {
            Err(Errno::INTR) => {}
            answer => break answer?,
        }
    };
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("descriptors were lost"));
    }
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    Ok(Received {
        len: message.bytes,
        truncated: message.flags.contains(ReturnFlags::TRUNC),
    })
}

/// Whether each message received says who has sent it (`SO_PASSCRED`), for [`recv_signed`]. What is
/// sent before this is on may carry nobody's name. Sockets that are accepted on a listening one
/// have it from there.
pub fn name_senders(socket: impl AsFd, on: bool) -> io::Result<()> {
    Ok(sockopt::set_socket_passcred(socket, on)?)
}

/// Whether this end waits for room, and for messages.
pub fn set_blocking(socket: impl AsFd, blocking: bool) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(socket, !blocking)?)
}

/// Bounds how long sending and receiving wait; they answer `WouldBlock` then.
pub fn set_patience(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(patience))?;
    Ok(sockopt::set_socket_timeout(
        socket,
        sockopt::Timeout::Send,
        Some(patience),
    )?)
}

/// A message whose sender the kernel vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Bytes in the buffer. 0 is the end of the connection (or an empty message).
    pub len: usize,
    /// The process that sent it, its real user and group (another of its own, when it said so);
    /// none at the end of the connection, or when [`name_senders`] is off. The number
    /// is 0 when the sender has none in our process namespace.
    pub sender: Option<Peer>,
    /// Something was cut off: bytes, or descriptors. None of the latter were taken.
    pub cut: bool,
}

/// Receives one message and who has sent it, without waiting. Descriptors that came with it are
/// dropped by the kernel: none ever becomes this process's.
pub fn recv_signed(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Signed> {
    /// Room for the credentials and nothing else, aligned as its header wants it.
    #[repr(C, align(8))]
    struct Control([u8; 64]);
    // SAFETY: The macro computes with its argument only.
    let room = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;
    let mut control = Control([0; 64]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: Zeros are a `msghdr`.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = room.min(64) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let len = loop {
        // SAFETY: The header names the buffer and the room for control data, both writable.
        let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
        match usize::try_from(got) {
            Ok(len) => break len,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    // SAFETY: The kernel has filled the header in, and what it points at is still here.
    let sender = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        let wanted = libc::CMSG_LEN(size_of::<libc::ucred>() as u32) as usize;
        let is_sender = !first.is_null()
            && (*first).cmsg_level == libc::SOL_SOCKET
            && (*first).cmsg_type == libc::SCM_CREDENTIALS
            && (*first).cmsg_len as usize >= wanted;
        is_sender.then(|| {
            libc::CMSG_DATA(first)
                .cast::<libc::ucred>()
                .read_unaligned()
        })
    };
    Ok(Signed {
        len,
        sender: sender.map(|sender| Peer {
            pid: sender.pid.unsigned_abs(),
            uid: sender.uid,
            gid: sender.gid,
        }),
        cut: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
    })
}

/// Sends one message without waiting: `WouldBlock` when there is no room for it. `BrokenPipe`, and
/// no signal, when the peer is gone.
pub fn send_now(socket: impl AsFd, message: &[u8]) -> io::Result<()> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match send(&socket, message, flags) {
            Err(Errno::INTR) => {}
            // A socket that keeps messages sends all of one, or nothing.
            answer => return Ok(answer.map(drop)?),
        }
    }
}

/// Sends one message without descriptors, as [`send_with_fds`] would.
pub fn send_whole(socket: impl AsFd, message: &[u8]) -> io::Result<()> {
    loop {
        match send(&socket, message, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            answer => return Ok(answer.map(drop)?),
        }
    }
}

/// Waits for one message, whose descriptors are dropped by the kernel; answers its length.
/// `UnexpectedEof` when the connection has ended, `InvalidData` when the message is longer than
/// the buffer.
pub fn recv_whole(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match recv(&socket, &mut *buffer, RecvFlags::TRUNC) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((kept, sent)) if kept == sent => return Ok(kept),
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Ends a connection in both directions, for all who hold it.
pub fn end(socket: impl AsFd) {
    // It can only fail for what is no connection any more.
    let _ = shutdown(socket, Shutdown::Both);
}

#[cfg(test)]
mod tests;
