//! What the beginning of a session costs with many others there: what the supervisor does for it,
//! with a keeper of so many connections, over each of which a process has greeted and runs a context.
//!
//! The others are connections, not processes, and where descriptors are short contexts besides: what grows with sessions is the keeper's tables, the
//! ledger, and the descriptors in its epoll instance and in this process. The zygote is a process of
//! its own that was forked before there were any, as the server's is.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use baton::ledger::Domain;
use baton::ledger::keeper::{Keeper, Options, Role};
use baton::session::report;
use baton::sys::process::{self, Child, Fork, Signal, fork};
use baton::sys::socket;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Forks a process for each order, which greets the keeper and ends, and says so before and after.
struct Zygote {
    child: Child,
    link: OwnedFd,
}

impl Zygote {
    fn start() -> Self {
        let (link, far) = socket::pair().unwrap();
        match fork().unwrap() {
            Fork::Parent(child) => Self { child, link },
            Fork::Child => {
                drop(link);
                obey(&far);
                process::exit_now(0)
            }
        }
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let _ = self.child.kill(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn obey(link: &OwnedFd) {
    let (mut order, mut fds) = ([0; 1024], Vec::new());
    loop {
        match socket::recv_with_fds(link, &mut order, &mut fds, true) {
            Ok(got) if got.len > 0 => {}
            _ => return,
        }
        let start = Instant::now();
        match fork().unwrap() {
            Fork::Child => {
                let keeper = fds.pop().unwrap();
                let greeted = Domain::kept(keeper).is_ok();
                process::exit_now(u8::from(!greeted))
            }
            Fork::Parent(mut child) => {
                let forked = u64::try_from(start.elapsed().as_nanos()).unwrap();
                let forked = forked.to_be_bytes();
                socket::send_with_fds(link, &[IoSlice::new(&forked)], &[]).unwrap();
                fds.clear();
                assert_eq!(child.wait().unwrap().code(), Some(0));
                socket::send_with_fds(link, &[IoSlice::new(b"ended")], &[]).unwrap();
            }
        }
    }
}

/// As many descriptors as the system gives; how many that are.
fn descriptors() -> usize {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap();
    let most: u64 = most.trim().parse().unwrap();
    let both = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    if setrlimit(Resource::Nofile, both).is_err() {
        return usize::try_from(process::raise_descriptor_limit().unwrap()).unwrap();
    }
    usize::try_from(most).unwrap()
}

fn heard(socket: &OwnedFd) -> usize {
    let (mut answer, mut fds) = ([0; 256], Vec::new());
    let got = socket::recv_with_fds(socket, &mut answer, &mut fds, true).unwrap();
    got.len
}

/// A connection of this process that has greeted and runs so many contexts.
fn resident(keeper: &mut Keeper, contexts: usize) -> OwnedFd {
    let (_, far) = keeper.connect(Role::Member).unwrap();
    let establish = std::iter::repeat_n(&[2][..], contexts);
    for message in std::iter::once(&b"\x01BTK\x01"[..]).chain(establish) {
        socket::send_now(&far, message).unwrap();
        keeper.turn(None).unwrap();
        assert!(heard(&far) > 0);
    }
    far
}

/// Microseconds of one session's beginning as the supervisor sees it, from order to Started; and of
/// that the fork alone. Then the session ends, and the keeper has heard so.
fn begin(keeper: &mut Keeper, zygote: &Zygote, number: u64) -> (f64, f64) {
    let members = keeper.members();
    let mut context = [0; 16];
    context[..8].copy_from_slice(&number.to_be_bytes());
    let start = Instant::now();
    let (reporter, _reports) = report::channel().unwrap();
    let (_, far) = keeper.connect_for(Role::Session, context).unwrap();
    let reporter = OwnedFd::from(reporter);
    let fds = [reporter.as_fd(), far.as_fd()];
    socket::send_with_fds(&zygote.link, &[IoSlice::new(&[7; 512])], &fds).unwrap();
    drop((reporter, far));
    let mut answer = [0; 8];
    let got = socket::recv_with_fds(&zygote.link, &mut answer, &mut Vec::new(), true).unwrap();
    let begun = start.elapsed();
    assert_eq!(got.len, 8);
    let mut ended = false;
    while !ended || keeper.members() > members {
        let mut fds = [
            PollFd::from_borrowed_fd(keeper.fd(), PollFlags::IN),
            PollFd::new(&zygote.link, PollFlags::IN),
        ];
        poll(&mut fds, None).unwrap();
        if !fds[1].revents().is_empty() {
            assert_eq!(heard(&zygote.link), 5);
            ended = true;
        }
        keeper.turn(Some(Duration::ZERO)).unwrap();
    }
    let forked = u64::from_be_bytes(answer) as f64 / 1e3;
    (begun.as_secs_f64() * 1e6, forked)
}

/// The least of several medians: what else runs on the machine only adds.
fn measure(keeper: &mut Keeper, zygote: &Zygote, times: u64, medians: u64) -> (f64, f64) {
    let least = |(begun, forked): (f64, f64), _| {
        let all = (0..times).map(|number| begin(keeper, zygote, number));
        let (all_begun, all_forked) = all.unzip::<f64, f64, Vec<_>, Vec<_>>();
        (
            begun.min(super::median(all_begun)),
            forked.min(super::median(all_forked)),
        )
    };
    (0..medians).fold((f64::MAX, f64::MAX), least)
}

pub(super) fn run(quick: bool) {
    let (wanted, times) = if quick {
        (5_000, 200)
    } else {
        (100_000, 2_000)
    };
    let zygote = Zygote::start();
    // Two here for each connection, and the far end. Where there are fewer than wanted, each runs more
    // contexts.
    let lines = wanted.min(descriptors().saturating_sub(1000) / 3);
    let each = wanted.div_ceil(lines);
    let live = lines * each;
    let mut options = Options::default();
    options.ledger.capacity = 1 << 20;
    options.ledger.processes = 131_071;
    let mut keeper = Keeper::new(&options).unwrap();
    // What is first is slow.
    measure(&mut keeper, &zygote, times, 1);
    let (few, fork_few) = measure(&mut keeper, &zygote, times, 4);
    let started = Instant::now();
    let others = (0..lines).map(|_| resident(&mut keeper, each));
    let others: Vec<OwnedFd> = others.collect();
    let taken = started.elapsed().as_secs_f64() * 1e6 / live as f64;
    let (many, fork_many) = measure(&mut keeper, &zygote, times, 8);
    assert_eq!(keeper.members(), lines);
    assert_eq!(keeper.census().active, live);
    // Once more without them: the machine may have become faster or slower.
    drop(others);
    while keeper.members() > 0 {
        keeper.turn(None).unwrap();
        keeper.releases(|_| ());
    }
    let (few_again, fork_few_again) = measure(&mut keeper, &zygote, times, 4);
    let (few, fork_few) = (few.min(few_again), fork_few.min(fork_few_again));
    println!("{live} live sessions over {lines} connections, {taken:.1} us to take each in:");
    println!("figure: fork_us = {fork_few:.1} us");
    println!("figure: fork_us_with_live = {fork_many:.1} us");
    println!("figure: fork_us_growth = {:.2} ratio", fork_many / fork_few);
    println!("figure: start_us = {few:.1} us");
    println!("figure: start_us_growth = {:.2} ratio", many / few);
}
