//! Many live contexts with connected sockets, made quickly.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use baton::context::Context;
use baton::ledger::Domain;
use baton::record::Record;
use baton::sys::process::{Child, Signal};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::set_parent_process_death_signal;

use super::support::{forked, pair};

/// To one address the kernel looks for a free port among half of them first, for long.
const LISTENERS: usize = 8;

/// Live contexts with connected sockets, and who holds the far ends: a process of its own, so
/// that no process needs descriptors for both ends.
pub(super) fn connections(domain: &Domain, count: usize) -> (Vec<(Context<Record>, OwnedFd)>, Far) {
    let listeners: Vec<_> = (0..LISTENERS)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let far = Far(forked(|| {
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        let connect = |number: usize| {
            let address = listeners[number % LISTENERS].local_addr().unwrap();
            let socket = TcpStream::connect(address).unwrap();
            // Closed, it leaves nothing behind that would slow down the next connections.
            set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
            socket
        };
        let _sockets: Vec<_> = (0..count).map(connect).collect();
        loop {
            std::thread::park();
        }
    }));
    // All are accepted before the first handshake: a full queue would hold them up for seconds.
    let accept = |number: usize| OwnedFd::from(listeners[number % LISTENERS].accept().unwrap().0);
    let accepted: Vec<_> = (0..count).map(accept).collect();
    let establish = |socket| (pair::<Record>(domain).0, socket);
    (accepted.into_iter().map(establish).collect(), far)
}

/// The process that holds the far ends, until this is dropped.
pub(super) struct Far(Child);

impl Drop for Far {
    fn drop(&mut self) {
        self.0.kill(Signal::KILL).unwrap();
        self.0.wait().unwrap();
    }
}
