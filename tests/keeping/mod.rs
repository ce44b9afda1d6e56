//! A keeper in a process of its own, for tests: it does what it is told over a socket.

#![allow(dead_code)]

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use baton::ledger::keeper::{Keeper, Options, Released, Role};
use baton::ledger::{Cause, Census, ContextId, Domain};
use baton::sys::process::{Child, Signal};
use baton::sys::socket;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::set_parent_process_death_signal;

use crate::support::forked;

/// A process that keeps a domain, until this is dropped or the test ends.
pub struct Keeping {
    pub child: Child,
    control: OwnedFd,
}

const RELEASE: usize = 16 + 8 + 1 + 4;

impl Keeping {
    pub fn new() -> Self {
        Self::with(&Options::default(), || {})
    }

    /// `prepare` runs in the keeper's process before it begins.
    pub fn with(options: &Options, prepare: impl FnOnce()) -> Self {
        let (control, far) = socket::pair().unwrap();
        socket::set_buffers(&control, 1 << 20).unwrap();
        socket::set_buffers(&far, 1 << 20).unwrap();
        let child = forked(|| {
            set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
            close_all_but(&far);
            prepare();
            keep(options, &far);
            0
        });
        Self { child, control }
    }

    fn ask(&self, request: &[u8]) -> (Vec<u8>, Vec<OwnedFd>) {
        socket::send_with_fds(&self.control, &[IoSlice::new(request)], &[]).unwrap();
        let (mut answer, mut fds) = (vec![0; 1 << 20], Vec::new());
        let got = socket::recv_with_fds(&self.control, &mut answer, &mut fds, true).unwrap();
        assert!(got.len > 0, "the keeper is gone");
        answer.truncate(got.len);
        (answer, fds)
    }

    /// The far end of a new connection.
    pub fn connect(&self, role: Role) -> OwnedFd {
        let role = Role::ALL.iter().position(|one| *one == role).unwrap() as u8;
        self.ask(&[b'c', role]).1.pop().unwrap()
    }

    /// The far end of a new connection for one context.
    pub fn connect_for(&self, role: Role, context: &ContextId) -> OwnedFd {
        let role = Role::ALL.iter().position(|one| *one == role).unwrap() as u8;
        let request = [&[b'o', role][..], context].concat();
        self.ask(&request).1.pop().unwrap()
    }

    /// The domain, for this process.
    pub fn domain(&self, role: Role) -> Domain {
        Domain::kept(self.connect(role)).unwrap()
    }

    pub fn revoke(&self, id: &ContextId) -> bool {
        self.ask(&[&b"r"[..], id].concat()).0[1] == 1
    }

    pub fn census(&self) -> Census {
        let (answer, _) = self.ask(b"n");
        let number = |at: usize| {
            u32::from_be_bytes(answer[1 + 4 * at..5 + 4 * at].try_into().unwrap()) as usize
        };
        Census {
            active: number(0),
            transit: number(1),
            ended: number(2),
            draft: number(3),
        }
    }

    /// Connections it has.
    pub fn members(&self) -> usize {
        let (answer, _) = self.ask(b"m");
        u32::from_be_bytes(answer[1..].try_into().unwrap()) as usize
    }

    /// Waits until no more than `count` connections are left.
    pub fn wait_members(&self, count: usize) {
        self.ask(&[&b"M"[..], &(count as u32).to_be_bytes()].concat());
    }

    /// Waits until `count` releases have been told since the last call, and answers them: exactly
    /// as many, or more are there than should be.
    pub fn releases(&self, count: usize) -> Vec<Released> {
        let (answer, _) = self.ask(&[&b"l"[..], &(count as u32).to_be_bytes()].concat());
        answer[1..].chunks_exact(RELEASE).map(released).collect()
    }

    pub fn kill(&mut self) {
        self.child.kill(Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }
}

/// Closes what the keeper's process has inherited: another test's sockets, above all, whose ends
/// would not be seen as long as this process lives.
fn close_all_but(kept: &OwnedFd) {
    let kept = kept.as_raw_fd() as u32;
    // SAFETY: nothing else of this process uses or drops what it has inherited.
    unsafe {
        libc::close_range(3, kept - 1, 0);
        libc::close_range(kept + 1, u32::MAX, 0);
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        let _ = self.child.kill(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn released(bytes: &[u8]) -> Released {
    Released {
        id: bytes[..16].try_into().unwrap(),
        epoch: u64::from_be_bytes(bytes[16..24].try_into().unwrap()),
        cause: [
            Cause::Closed,
            Cause::OwnerDied,
            Cause::Expired,
            Cause::Revoked,
        ][usize::from(bytes[24])],
        pid: u32::from_be_bytes(bytes[25..].try_into().unwrap()),
    }
}

fn written(release: &Released) -> Vec<u8> {
    let cause = match release.cause {
        Cause::Closed => 0,
        Cause::OwnerDied => 1,
        Cause::Expired => 2,
        Cause::Revoked => 3,
    };
    let epoch = release.epoch.to_be_bytes();
    let pid = release.pid.to_be_bytes();
    [&release.id[..], &epoch, &[cause], &pid].concat()
}

/// What the keeper's owner does: turns, and does what it is told. A request that waits is
/// answered when its time has come.
fn keep(options: &Options, control: &OwnedFd) {
    let mut keeper = Keeper::new(options).unwrap();
    let (mut releases, mut waiting) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let mut fds = [
            PollFd::new(control, PollFlags::IN),
            PollFd::from_borrowed_fd(keeper.fd(), PollFlags::IN),
        ];
        // A deadline may come while nobody says anything: the keeper knows it, and waits itself.
        let wait = waiting.is_some();
        if !wait {
            poll(&mut fds, None).unwrap();
        }
        let told = !fds[0].revents().is_empty();
        if wait {
            keeper.turn(None).unwrap();
        }
        // Several turns before it looks at anything else, as long as there is something to do.
        let busy = |_: &i32| keeper.turn(Some(Duration::ZERO)).unwrap() > 0;
        let _ = (0..16).take_while(busy).count();
        keeper.releases(|release| releases.push(written(&release)));
        if told {
            let mut request = vec![0; 64];
            let got = socket::recv_with_fds(control, &mut request, &mut Vec::new(), true).unwrap();
            if got.len == 0 {
                return;
            }
            request.truncate(got.len);
            waiting = Some(request);
        }
        if let Some(request) = waiting.take()
            && !answer(&mut keeper, &request, &mut releases, control)
        {
            waiting = Some(request);
        }
    }
}

/// Whether it could be answered now.
fn answer(
    keeper: &mut Keeper,
    request: &[u8],
    releases: &mut Vec<Vec<u8>>,
    control: &OwnedFd,
) -> bool {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
    let (mut answer, mut fd) = (vec![request[0]], None);
    match request {
        [b'c', role] => {
            fd = Some(keeper.connect(Role::ALL[usize::from(*role)]).unwrap().1);
        }
        [b'o', role, id @ ..] => {
            let role = Role::ALL[usize::from(*role)];
            fd = Some(keeper.connect_for(role, id.try_into().unwrap()).unwrap().1);
        }
        [b'r', id @ ..] => answer.push(keeper.revoke(id.try_into().unwrap()).into()),
        [b'n'] => {
            let census = keeper.census();
            for count in [census.active, census.transit, census.ended, census.draft] {
                answer.extend((count as u32).to_be_bytes());
            }
        }
        [b'm'] => answer.extend((keeper.members() as u32).to_be_bytes()),
        [b'M', count @ ..] => {
            if keeper.members() > number(count) {
                return false;
            }
        }
        [b'l', count @ ..] => {
            if releases.len() < number(count) {
                return false;
            }
            answer.extend(releases.drain(..).flatten());
        }
        _ => unreachable!("{request:?}"),
    }
    let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
    socket::send_with_fds(control, &[IoSlice::new(&answer)], &fds).unwrap();
    true
}
