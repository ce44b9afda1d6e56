//! What a session does that was taken over. Each tells `NAME: ...` when it has done it.

#![allow(
    clippy::needless_pass_by_value,
    reason = "a deed has all that its process has"
)]

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;

use baton::context::Context;
use baton::ledger::Domain;
use baton::record::Record;
use baton::session::channel::Channel;
use baton::session::parcel::{Parcel, Sealed};
use baton::session::report::{Ending, Reason, Report, Reporter};
use baton::sys::fault::{self, Action};
use baton::sys::memory::Mapping;
use baton::sys::process::{self, Fork, fork};
use baton::sys::socket;
use baton::transfer::Token;

use super::floods::*;
use super::hostile::{Deed, Hostile, stay};

pub const DEEDS: &[(&str, Deed)] = &[
    ("silent at once", |it| {
        it.tell("silent at once: yes");
        stay()
    }),
    ("gone at once", |it| it.tell("gone at once: yes")),
    ("killed at once", |it| {
        it.tell("killed at once: yes");
        die()
    }),
    ("killed greeted", |it| {
        let (it, _line) = greeted(it);
        it.tell("killed greeted: yes");
        die()
    }),
    ("silent greeted", |it| {
        let (it, _line) = greeted(it);
        it.tell("silent greeted: yes");
        stay()
    }),
    ("killed when it asked for the key", |it| {
        killed_at(it, "kept.asked", 1)
    }),
    ("killed with the key", |it| {
        killed_at(it, "kept.answered", 1)
    }),
    ("killed when it asked for the context", |it| {
        killed_at(it, "kept.asked", 2)
    }),
    ("killed with the context", |it| {
        killed_at(it, "kept.answered", 2)
    }),
    ("killed before it reports", |it| {
        let _running = Running::of(it, "killed before it reports");
        die()
    }),
    ("killed when it has reported", |it| {
        let running = Running::of(it, "killed when it has reported");
        running.report(Report::Running {
            process: process::pid(),
            hops: 1,
        });
        die()
    }),
    ("killed when it has reported its end", |it| {
        let running = Running::of(it, "killed when it has reported its end");
        running.report(Report::Running {
            process: process::pid(),
            hops: 1,
        });
        running.report(ENDED);
        die()
    }),
    ("silent with its context", |it| {
        let _running = Running::of(it, "silent with its context");
        stay()
    }),
    ("deaf to signals", |it| {
        // SAFETY: no handler is called.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        let _running = Running::of(it, "deaf to signals");
        stay()
    }),
    ("stopped", |it| {
        let _running = Running::of(it, "stopped");
        let own = rustix::process::getpid();
        // Only a test build has this call.
        let _ = rustix::process::kill_process(own, rustix::process::Signal::STOP);
        stay()
    }),
    ("a message cut", |it| {
        let line = it.start.keeper.try_clone().unwrap();
        say(&line, b"\x01BT").unwrap();
        it.tell("a message cut: yes");
        stay()
    }),
    ("writes the ledger", writes_the_ledger),
    (TAKES_ANOTHER_S, another_s_token),
    ("what it does not hold", what_it_does_not_hold),
    ("establishes", establishes),
    ("garbage", garbage),
    ("garbage reports", garbage_reports),
    ("garbage reports of a running one", garbage_reports_running),
    ("descriptors over the line", descriptors_over_the_line),
    ("descriptors over the reports", descriptors_over_the_reports),
    (SLOW_TO_CLOSE, slow_to_close),
    ("reads no answers", reads_no_answers),
    ("moving and not reading", |it| moving(it, false)),
    ("moving and reading", |it| moving(it, true)),
    ("moving before it runs", moving_early),
    ("reports without end", reports_without_end),
    ("claims before it runs", |it| {
        let Hostile { start, .. } = &it;
        claims(&start.reporter);
        it.tell("claims before it runs: yes");
        stay()
    }),
    ("claims when it runs", |it| {
        let running = Running::of(it, "");
        running.report(Report::Running {
            process: process::pid(),
            hops: 1,
        });
        claims(&running.reporter);
        running.told("claims when it runs: yes");
        stay()
    }),
    ("claims a command", |it| {
        let running = Running::of(it, "");
        running.report(Report::Running {
            process: process::pid(),
            hops: 1,
        });
        running.report(Report::Command { process: 1 });
        running.told("claims a command: yes");
        stay()
    }),
    ("claims a command and goes", |it| {
        let running = Running::of(it, "");
        running.report(Report::Running {
            process: process::pid(),
            hops: 1,
        });
        running.report(Report::Command { process: u32::MAX });
        running.told("claims a command and goes: yes");
    }),
    ("many children", |it| many_children(it, false)),
    ("many children of their own groups", |it| {
        many_children(it, true)
    }),
    ("what a session must not call", must_not_call),
];

/// The deed of two sessions.
pub const TAKES_ANOTHER_S: &str = "another's token";

/// The deed for which the supervisor is stopped.
pub const SLOW_TO_CLOSE: &str = "a socket that takes long to close";

pub const HELLO: &[u8] = b"\x01BTK\x01";

pub const ENDED: Report = Report::Ended(Ending {
    reason: Reason::Finished,
    received: u64::MAX,
    sent: u64::MAX,
    hops: u32::MAX,
});

fn die() {
    let own = rustix::process::getpid();
    let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    unreachable!("killed");
}

fn say(socket: &OwnedFd, message: &[u8]) -> std::io::Result<()> {
    socket::send_now(socket, message)
}

fn hear(socket: &OwnedFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut answer, mut fds) = (vec![0; 32_768], Vec::new());
    let got = socket::recv_with_fds(socket, &mut answer, &mut fds, true).ok()?;
    answer.truncate(got.len);
    (got.len > 0).then_some((answer, fds))
}

/// Whether the keeper has ended the connection, after what it still has to say.
pub fn is_ended(socket: &OwnedFd) -> bool {
    while hear(socket).is_some() {}
    say(socket, &[2]).is_err()
}

pub fn greeted(it: Hostile) -> (Hostile, OwnedFd) {
    let line = it.start.keeper.try_clone().unwrap();
    say(&line, HELLO).unwrap();
    let (welcome, _) = hear(&line).unwrap();
    assert_eq!(welcome[..2], [0x81, 1]);
    (it, line)
}

/// A session that has imported its context.
pub struct Running {
    it: (std::io::PipeReader, std::io::PipeWriter),
    domain: Domain,
    context: Context<Record>,
    /// The line to the keeper, once more.
    pub line: OwnedFd,
    pub reporter: Reporter,
    pub socket: TcpStream,
    pub tell: Box<dyn Fn(&str)>,
}

impl Running {
    /// Imports, and tells so under `name`, if there is one.
    pub fn of(it: Hostile, name: &str) -> Self {
        let line = it.start.keeper.try_clone().unwrap();
        let Hostile {
            start,
            told,
            between,
            ..
        } = it;
        let Parcel { sealed, socket, .. } = start.parcel;
        let Sealed::Record(token) = sealed else {
            panic!("another framing");
        };
        let domain = Domain::kept(start.keeper).unwrap();
        let imported = <Context<Record> as Channel>::import(&domain, token, socket.as_fd());
        let context = imported.map_err(|(_, status)| status).unwrap();
        let tell = move |text: &str| {
            use std::io::Write;
            (&told).write_all(format!("{text}\n").as_bytes()).unwrap();
        };
        if !name.is_empty() {
            tell(&format!("{name}: yes"));
        }
        Self {
            it: between,
            domain,
            context,
            line,
            reporter: start.reporter,
            socket,
            tell: Box::new(tell),
        }
    }

    pub fn report(&self, report: Report) {
        self.reporter.tell(report);
    }

    pub fn told(&self, text: &str) {
        (self.tell)(text);
    }
}

fn killed_at(it: Hostile, point: &str, passing: u32) {
    // Told before: afterwards it cannot.
    let name = DEEDS
        .iter()
        .map(|(name, _)| *name)
        .find(|name| match (point, passing) {
            ("kept.asked", 1) => *name == "killed when it asked for the key",
            ("kept.answered", 1) => *name == "killed with the key",
            ("kept.asked", _) => *name == "killed when it asked for the context",
            _ => *name == "killed with the context",
        });
    it.tell(&format!("{}: yes", name.unwrap()));
    fault::arm(point, passing, Action::Kill);
    Running::of(it, "");
    unreachable!("killed");
}

fn token(start: &baton::session::Start) -> &Token {
    match &start.parcel.sealed {
        Sealed::Record(token) => token,
        Sealed::Message(_) => panic!("another framing"),
    }
}

fn writes_the_ledger(it: Hostile) {
    let line = it.start.keeper.try_clone().unwrap();
    say(&line, HELLO).unwrap();
    let ledger = hear(&line).unwrap().1.pop().unwrap();
    assert!(Mapping::from_fd(ledger.try_clone().unwrap()).is_err());
    let mapping = Mapping::from_fd_read_only(ledger.try_clone().unwrap()).unwrap();
    let start = mapping.as_words().as_ptr().cast_mut().cast();
    // SAFETY: All of it is refused; if it were not, nothing would change but the protection.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        assert_eq!(libc::mprotect(start, 4096, protection), -1);
        assert_eq!(
            libc::write(ledger.as_raw_fd(), [1_u8; 8].as_ptr().cast(), 8),
            -1
        );
        assert_eq!(
            libc::pwrite(ledger.as_raw_fd(), [1_u8; 8].as_ptr().cast(), 8, 0),
            -1
        );
        assert_eq!(libc::ftruncate(ledger.as_raw_fd(), 0), -1);
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        assert_eq!(libc::fallocate(ledger.as_raw_fd(), punch, 0, 4096), -1);
        let path = format!("/proc/self/fd/{}\0", ledger.as_raw_fd());
        assert_eq!(libc::open(path.as_ptr().cast(), libc::O_RDWR), -1);
    }
    it.tell("writes the ledger: yes");
    // It dies of this.
    mapping.as_words()[512].store(1, SeqCst);
    unreachable!("stored");
}

/// The first session of the two gives its token away, and runs on; the second cannot use it.
fn another_s_token(it: Hostile) {
    use std::io::{Read, Write};
    let own = token(&it.start).as_bytes().to_vec();
    let (reader, writer) = (&it.between.0, &it.between.1);
    if it.shared[1].fetch_add(1, SeqCst) == 0 {
        let length = u32::try_from(own.len()).unwrap().to_be_bytes();
        (&mut &*writer)
            .write_all(&[&length[..], &own].concat())
            .unwrap();
        it.tell("given away: yes");
        // It runs once the other one has tried.
        while it.shared[2].load(SeqCst) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        it.start.run();
    }
    let mut length = [0; 4];
    (&mut &*reader).read_exact(&mut length).unwrap();
    let mut other = vec![0; u32::from_be_bytes(length) as usize];
    (&mut &*reader).read_exact(&mut other).unwrap();
    let (it, line) = greeted(it);
    // Refused: it is for another importer.
    say(&line, &[&[4][..], &other[36..60]].concat()).unwrap();
    assert_eq!(hear(&line).unwrap().0, [0xff, 5]);
    // Its own it gets.
    say(&line, &[&[4][..], &own[36..60]].concat()).unwrap();
    assert_eq!(hear(&line).unwrap().0[0], 0x84);
    // Guesses at what is in transit, without a key: entry, identifier and epoch stand in the ledger.
    for entry in 0..64_u32 {
        for epoch in 1..4_u64 {
            let mut arrive = vec![5, 0, 1];
            arrive.extend(entry.to_be_bytes());
            arrive.extend([7; 16]);
            arrive.extend(epoch.to_be_bytes());
            arrive.extend([0; 9]);
            say(&line, &arrive).unwrap();
            let (answer, _) = hear(&line).unwrap();
            assert_eq!(answer[..3], [0x85, 0, 1]);
            assert_ne!(answer[3], 0);
        }
    }
    it.shared[2].store(1, SeqCst);
    it.tell("another's token: yes");
    stay()
}

/// Asks for the end and the departure of entries that are others'.
fn what_it_does_not_hold(it: Hostile) {
    let running = Running::of(it, "");
    // Every word of the ledger's beginning as if it were a control word.
    running.context.session_identifier();
    let copy = words_of_the_ledger();
    for words in copy.chunks(16) {
        for entry in 0..8_u32 {
            let mut items = Vec::new();
            for word in words {
                items.extend(entry.to_be_bytes());
                items.extend(word.to_be_bytes());
            }
            let count = (words.len() as u16).to_be_bytes();
            let end = [&[6][..], &count, &items].concat();
            if socket::send_whole(&running.line, &end).is_err() {
                break;
            }
        }
    }
    running.told("what it does not hold: yes");
    let _ = (&running.domain, &running.socket, &running.it);
    stay()
}

/// The part of the ledger in which the first entries are: the library has mapped it.
fn words_of_the_ledger() -> Vec<u64> {
    (0..4096_u64)
        .map(|word| (word & 0xff) | (word >> 8) << 56)
        .collect()
}

fn claims(reporter: &Reporter) {
    let own = process::pid();
    let others = (own.saturating_sub(40)..own + 40).chain([0, 1, 2, u32::MAX]);
    for process in others {
        reporter.tell(Report::Running { process, hops: 1 });
        reporter.tell(Report::Command { process });
        reporter.tell(ENDED);
    }
}

/// Children that have all that the session had, and stay when it goes.
fn many_children(it: Hostile, of_their_own: bool) {
    let running = Running::of(it, "");
    running.report(Report::Running {
        process: process::pid(),
        hops: 1,
    });
    let mut made = 0;
    for _ in 0..50 {
        match fork() {
            Ok(Fork::Child) => {
                if of_their_own {
                    let _ = rustix::process::setpgid(None, None);
                }
                // SAFETY: no handler is called.
                unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
                stay()
            }
            Ok(Fork::Parent(_)) => made += 1,
            Err(_) => {}
        }
    }
    running.told(&format!("{made} children"));
    running.told(match of_their_own {
        true => "many children of their own groups: yes",
        false => "many children: yes",
    });
}

/// What the filter has to refuse.
fn must_not_call(it: Hostile) {
    const CALLS: &[(libc::c_long, [libc::c_long; 3])] = &[
        (libc::SYS_execve, [0, 0, 0]),
        (
            libc::SYS_socket,
            [libc::AF_INET as _, libc::SOCK_STREAM as _, 0],
        ),
        (
            libc::SYS_socketpair,
            [libc::AF_UNIX as _, libc::SOCK_STREAM as _, 0],
        ),
        (libc::SYS_connect, [0, 0, 0]),
        (libc::SYS_ptrace, [0, 0, 0]),
        (libc::SYS_memfd_create, [0, 0, 0]),
        (libc::SYS_setsid, [0, 0, 0]),
        (libc::SYS_prctl, [libc::PR_SET_DUMPABLE as _, 1, 0]),
        (libc::SYS_pidfd_getfd, [0, 0, 0]),
        (libc::SYS_process_vm_readv, [1, 0, 0]),
        (libc::SYS_io_uring_setup, [0, 0, 0]),
        (libc::SYS_bpf, [0, 0, 0]),
        (libc::SYS_prlimit64, [1, 0, 0]),
        // Signals, to whomever.
        (libc::SYS_tgkill, [1, 1, 0]),
        (libc::SYS_tkill, [1, 0, 0]),
        (libc::SYS_pidfd_send_signal, [0, 0, 0]),
        (libc::SYS_rt_sigqueueinfo, [1, 0, 0]),
    ];
    for (call, [one, two, three]) in CALLS {
        // SAFETY: It is refused before an argument is looked at; none would do anything.
        let answer = unsafe { libc::syscall(*call, *one, *two, *three, 0, 0, 0) };
        let error = std::io::Error::last_os_error().raw_os_error();
        assert_eq!((answer, error), (-1, Some(libc::EPERM)), "{call}");
    }
    it.tell("what a session must not call: yes");
    stay()
}
