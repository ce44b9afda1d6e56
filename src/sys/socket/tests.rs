use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::io::{FdFlags, fcntl_getfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::kernel::{in_child, refuse, skip};
use super::super::process::{self, Fork, Identity, exit_now, fork, pidfd_inode, pidfd_runs};
use super::*;

fn send(socket: &OwnedFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    send_with_fds(socket, &[IoSlice::new(message)], fds)
}

fn receive(socket: &OwnedFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<Received> {
    recv_with_fds(socket, buffer, fds, true)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn as_many_descriptors_as_the_kernel_takes_arrive_and_close_on_exec() {
    let (a, b) = pair().unwrap();
    let mut received = Vec::new();
    let mut buffer = [0; 8];
    for count in [0, 1, 2, 17, MAX_DESCRIPTORS] {
        received.clear();
        send(&a, b"message", &vec![a.as_fd(); count]).unwrap();
        let got = receive(&b, &mut buffer, &mut received).unwrap();
        assert_eq!(
            got,
            Received {
                len: 7,
                truncated: false
            }
        );
        assert_eq!((&buffer[..7], received.len()), (&b"message"[..], count));
        assert!(
            received
                .iter()
                .all(|fd| fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC))
        );
        assert!(
            received
                .iter()
                .all(|fd| cookie(fd).unwrap() == cookie(&a).unwrap())
        );
    }
    let error = send(&a, b"", &[a.as_fd(); MAX_DESCRIPTORS + 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn descriptors_are_appended() {
    let (a, b) = pair().unwrap();
    let mut received = vec![a.try_clone().unwrap()];
    send(&a, b"1", &[b.as_fd()]).unwrap();
    receive(&b, &mut [0], &mut received).unwrap();
    let cookies: Vec<u64> = received.iter().map(|fd| cookie(fd).unwrap()).collect();
    assert_eq!(cookies, [cookie(&a).unwrap(), cookie(&b).unwrap()]);
}

#[test]
fn lost_descriptors_are_an_error_and_leak_none() {
    in_child(|| {
        let (a, b) = pair().unwrap();
        let usual = getrlimit(Resource::Nofile);
        let lowest_free = a.try_clone().unwrap().as_raw_fd() as u64;
        let open = descriptors();
        let mut received = Vec::new();
        // Room for none of them, and for one or two.
        for room in [0, lowest_free + 2] {
            for count in [3, MAX_DESCRIPTORS] {
                send(&a, b"message", &vec![a.as_fd(); count]).unwrap();
                setrlimit(
                    Resource::Nofile,
                    Rlimit {
                        current: Some(room),
                        ..usual
                    },
                )
                .unwrap();
                let answer = receive(&b, &mut [0; 8], &mut received);
                setrlimit(Resource::Nofile, usual).unwrap();
                assert_eq!(answer.unwrap_err().to_string(), "descriptors were lost");
                assert_eq!((descriptors(), received.len()), (open, 0));
            }
        }
        // The socket goes on.
        send(&a, b"next", &[a.as_fd()]).unwrap();
        assert_eq!(receive(&b, &mut [0; 8], &mut received).unwrap().len, 4);
        assert_eq!((descriptors(), received.len()), (open + 1, 1));
    });
}

#[test]
fn a_message_longer_than_the_buffer_is_told() {
    let (a, b) = pair().unwrap();
    send(&a, b"12345678", &[a.as_fd()]).unwrap();
    send(&a, b"next", &[]).unwrap();
    let mut received = Vec::new();
    let got = receive(&b, &mut [0; 4], &mut received).unwrap();
    assert_eq!(
        (got, received.len()),
        (
            Received {
                len: 4,
                truncated: true
            },
            1
        )
    );
    let got = receive(&b, &mut [0; 4], &mut received).unwrap();
    assert_eq!(
        got,
        Received {
            len: 4,
            truncated: false
        }
    );
}

#[test]
fn an_ended_connection_is_no_signal() {
    let (a, b) = pair().unwrap();
    drop(b);
    assert_eq!(
        send(&a, b"message", &[]).unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    assert_eq!(receive(&a, &mut [0; 8], &mut Vec::new()).unwrap().len, 0);
}

#[test]
fn the_longest_message_is_the_limit_that_was_told() {
    let (a, b) = pair().unwrap();
    let limit = set_buffers(&a, 150 * 1024).unwrap();
    assert!(limit > 150 * 1024);
    assert_eq!(message_limit(&a).unwrap(), limit);
    let mut message = vec![7; limit + 1];
    let error = send(&a, &message, &[]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    assert_eq!(send(&a, &message[1..], &[]).unwrap(), limit);
    assert_eq!(
        receive(&b, &mut message, &mut Vec::new()).unwrap().len,
        limit
    );
    assert!(set_buffers(&a, usize::MAX).is_ok());
}

#[test]
fn the_peer_is_who_the_kernel_says() {
    let (a, _b) = pair().unwrap();
    let own = Peer {
        pid: std::process::id(),
        uid: process::uid(),
        gid: process::gid(),
    };
    assert_eq!(peer_credentials(&a).unwrap(), own);
    match peer_pidfd(&a).unwrap() {
        Some(pidfd) => {
            assert!(pidfd_runs(&pidfd).unwrap());
            assert_eq!(pidfd_inode(&pidfd).unwrap(), Identity::own().unwrap().inode);
            assert!(fcntl_getfd(&pidfd).unwrap().contains(FdFlags::CLOEXEC));
        }
        None => skip("no SO_PEERPIDFD here"),
    }
    in_child(move || {
        // What was passed on still tells who made it.
        assert_eq!(peer_credentials(&a).unwrap(), own);
        if !refuse(
            libc::SYS_getsockopt,
            2,
            libc::SO_PEERPIDFD as u32,
            libc::ENOPROTOOPT,
        ) {
            return skip("no system call filters here");
        }
        assert!(peer_pidfd(&a).unwrap().is_none());
    });
}

#[test]
fn a_peer_that_has_ended_is_not_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let Fork::Parent(mut child) = fork().unwrap() else {
        exit_now(UnixStream::connect(&path).is_err().into())
    };
    let (stream, _) = listener.accept().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(peer_credentials(&stream).unwrap().pid, child.pid());
    match peer_pidfd(&stream) {
        Ok(Some(pidfd)) => assert!(!pidfd_runs(pidfd).unwrap()),
        Ok(None) => skip("no SO_PEERPIDFD here"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
    }
}

#[test]
fn sockets_without_a_peer_are_errors() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(peer_credentials(&file).is_err());
    assert!(peer_pidfd(&file).is_err());
    assert!(cookie(&file).is_err());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(
        peer_credentials(&stream).unwrap_err().kind(),
        ErrorKind::NotConnected
    );
    assert!(!matches!(peer_pidfd(&stream), Ok(Some(_))));
    assert_eq!(
        cookie(&stream).unwrap(),
        cookie(stream.try_clone().unwrap()).unwrap()
    );
}
