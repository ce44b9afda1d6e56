use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use super::*;
use crate::sys::process::{Fork, exit_now, fork};

/// Runs `probe` in a process that has given up what `role` does, and answers its exit code.
fn confined(role: Role, probe: impl FnOnce() -> u8) -> Option<i32> {
    in_child(|| {
        let confined = give_up_privileges().is_ok() && confine(role).is_ok();
        if confined { probe() } else { 99 }
    })
}

fn in_child(probe: impl FnOnce() -> u8) -> Option<i32> {
    match fork().unwrap() {
        Fork::Child => exit_now(probe()),
        Fork::Parent(mut child) => child.wait().unwrap().code(),
    }
}

/// Each refused thing is one bit of the answer that is not set.
fn forbidden(listening: std::net::SocketAddr) -> u8 {
    let done = [
        File::open("/etc/passwd").is_ok(),
        File::options().write(true).open("/dev/null").is_ok(),
        TcpListener::bind("127.0.0.1:0").is_ok(),
        TcpStream::connect(listening).is_ok(),
        Command::new("/bin/true").status().is_ok(),
        rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).is_ok(),
        std::env::set_current_dir("/").is_ok(),
        std::thread::Builder::new().spawn(|| ()).is_ok(),
    ];
    done.iter()
        .rev()
        .fold(0, |bits, done| bits << 1 | u8::from(*done))
}

//= proves spec/processes.md#confine
#[test]
fn what_was_given_up_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for role in [Role::Handshaker, Role::Zygote(Becomes::Users)] {
        assert_eq!(confined(role, || forbidden(address)), Some(0), "{role:?}");
    }
    // All of it can be done otherwise.
    let unconfined = || forbidden(address);
    assert_eq!(in_child(unconfined), Some(255));
}

#[test]
fn a_handshaker_does_not_fork() {
    let forks = || u8::from(fork().is_ok());
    assert_eq!(confined(Role::Handshaker, forks), Some(0));
}

#[test]
fn a_zygote_forks_and_what_it_forks_is_confined_too() {
    let probe = || match fork() {
        Ok(Fork::Child) => exit_now(u8::from(File::open("/etc/passwd").is_ok())),
        Ok(Fork::Parent(mut child)) => match child.wait().map(|status| status.code()) {
            Ok(Some(0)) => 0,
            _ => 1,
        },
        Err(_) => 2,
    };
    assert_eq!(confined(Role::Zygote(Becomes::Nobody), probe), Some(0));
}

#[test]
fn what_a_session_needs_works() {
    let probe = || {
        let secret = crate::secret::Slot::<[u8; 5000]>::zeroed();
        let mut random = [0; 8];
        let drawn = crate::secret::random(&mut random).is_ok();
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).is_ok();
        u8::from(!(secret.is_here() && drawn && pipe))
    };
    assert_eq!(confined(Role::Zygote(Becomes::Users), probe), Some(0));
}

/// Also not by one who may become others.
//= proves spec/processes.md#users
#[test]
fn nobody_becomes_root_in_a_zygote() {
    use crate::sys::process::{Keep, become_user, can_become, set_user};
    if !can_become(&[(65522, 65522)]) {
        println!("skipped: not root");
        return;
    }
    let among = |becomes, uid| {
        in_child(move || {
            let ready = give_up_privileges().is_ok()
                && become_user(65522, 65522, &[], Keep::BecomingUsers).is_ok()
                && confine(Role::Zygote(becomes)).is_ok();
            match ready {
                true => u8::from(set_user(uid, 65523).is_ok()),
                false => 99,
            }
        })
    };
    assert_eq!(among(Becomes::Users, 65523), Some(1));
    assert_eq!(among(Becomes::Users, 0), Some(0));
    assert_eq!(among(Becomes::Anyone, 0), Some(1));
    assert_eq!(among(Becomes::Nobody, 65523), Some(0));
}
