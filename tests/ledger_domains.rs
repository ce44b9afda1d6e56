//! Domains that pass to other programs, are opened by strangers, and rotate their keys.

mod board;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use baton::ledger::{Domain, Error, Options};
use baton::sys::memory::Mapping;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};

use board::{Board, NEVER, arrive, child, code, options, promised};

fn domain() -> Domain {
    Domain::inherited_with(&options(100, false)).expect("memory")
}

fn copies(domain: &Domain) -> [OwnedFd; 2] {
    domain
        .fds()
        .expect("descriptors")
        .map(|fd| fd.try_clone_to_owned().expect("a descriptor"))
}

/// What [`program`] is told: what to do, and with which descriptors.
const ROLE: &str = "BATON_TEST_ROLE";

/// Not a test by itself: what a program does that another test executes.
#[test]
fn program() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let mut words = role.split(' ');
    let role = words.next().expect("a role");
    let [ledger, keys] = [(); 2].map(|()| {
        // The test that executed this program left it open for it.
        let path = format!("/proc/self/fd/{}", words.next().expect("a number"));
        let file = File::options().read(true).write(true).open(path);
        OwnedFd::from(file.expect("a descriptor"))
    });
    let domain = Domain::from_fds(ledger, keys).expect("a domain");
    let id = domain
        .keyring()
        .expect("keys")
        .with_current(|id, _| id)
        .expect("a key");
    let claim = domain.ledger().establish().expect("room");
    println!("\nholds {} {} {}", std::process::id(), claim.index(), id);
    if role == "wait" {
        // Until the test lets go of the other end.
        let _ = std::io::stdin().read_line(&mut String::new());
        println!("\nchecked {}", claim.check().is_ok());
    }
    std::mem::forget(claim);
}

/// This test program once more, in that role, with the domain's descriptors left open.
fn command(before: &[&str], role: &str, descriptors: &[OwnedFd; 2]) -> Command {
    for fd in descriptors {
        fcntl_setfd(fd, FdFlags::empty()).expect("a descriptor");
    }
    let numbers = descriptors.each_ref().map(|fd| fd.as_raw_fd());
    let own = std::env::current_exe().expect("a path");
    let mut words = before.to_vec();
    let own = own.to_str().expect("a path that can be written");
    words.extend([own, "--exact", "program", "--nocapture"]);
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env(ROLE, format!("{role} {} {}", numbers[0], numbers[1]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Reads up to the line that begins so, and answers the rest of it.
fn line(output: &mut impl BufRead, start: &str) -> Option<String> {
    output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix(start).map(str::to_owned))
}

//= proves spec/domains.md#inherited
//= proves spec/domains.md#from-descriptors
#[test]
fn a_program_that_was_executed_with_the_descriptors_is_a_member() {
    let domain = domain();
    let descriptors = copies(&domain);
    let ours = domain.ledger().establish().expect("room");
    let mut child = command(&[], "leave", &descriptors)
        .spawn()
        .expect("a process");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let told = line(&mut output, "holds ").expect("its line");
    assert!(child.wait().expect("its end").success());
    let key = domain
        .keyring()
        .expect("keys")
        .with_current(|id, _| id)
        .expect("a key");
    assert_eq!(told, format!("{} {} {key}", child.id(), ours.index() + 1));
    assert_eq!(domain.ledger().census().active, 2);
    assert_eq!(domain.ledger().reap(child.id()).expect("a look"), 1);
    assert_eq!(ours.check(), Ok(()));
}

//= proves spec/ledger.md#identity
#[test]
fn the_same_pid_in_two_namespaces_is_two_processes() {
    let domain = domain();
    let descriptors = copies(&domain);
    let unshare = ["unshare", "--pid", "--fork", "--kill-child"];
    let mut contained: Vec<_> = (0..2)
        .filter_map(|_| command(&unshare, "wait", &descriptors).spawn().ok())
        .collect();
    let mut outputs: Vec<_> = contained
        .iter_mut()
        .map(|child| BufReader::new(child.stdout.take().expect("a pipe")))
        .collect();
    let told: Vec<_> = outputs
        .iter_mut()
        .filter_map(|output| line(output, "holds "))
        .collect();
    if told.len() < 2 {
        // Not allowed here: no namespace was made, and nothing joined.
        contained.iter_mut().for_each(|child| drop(child.wait()));
        return;
    }
    assert!(told.iter().all(|line| line.starts_with("1 ")), "{told:?}");
    // Neither can be judged from here, so both live.
    assert_eq!(domain.sweep().expect("a sweep"), 0);
    for (child, output) in contained.iter_mut().zip(&mut outputs) {
        drop(child.stdin.take());
        assert_eq!(line(output, "checked ").as_deref(), Some("true"));
        assert!(child.wait().expect("its end").success());
    }
    assert_eq!(domain.ledger().census().active, 2);
}

//= proves spec/domains.md#seals
//= proves spec/domains.md#from-descriptors
#[test]
fn descriptors_that_are_no_domain_are_refused() {
    let domain = domain();
    let fds = || copies(&domain);
    let [ledger, keys] = fds();
    assert!(Domain::from_fds(ledger, keys).is_ok());

    let swapped = fds();
    let [ledger, keys] = swapped;
    assert!(matches!(
        Domain::from_fds(keys, ledger),
        Err(Error::Damaged(_))
    ));
    let other = copies(&self::domain());
    let ([ledger, _], [_, keys]) = (fds(), other);
    assert!(matches!(
        Domain::from_fds(ledger, keys),
        Err(Error::Refused(_))
    ));
    let [ledger, _] = fds();
    let twice = ledger.try_clone().expect("a descriptor");
    assert!(matches!(
        Domain::from_fds(ledger, twice),
        Err(Error::Damaged(_))
    ));

    // The same words, in what can still be made shorter, or cannot be written.
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let sealed = [
        SealFlags::empty(),
        SealFlags::SHRINK | SealFlags::GROW,
        SealFlags::SHRINK | SealFlags::SEAL,
        SealFlags::GROW | SealFlags::SEAL,
        all | SealFlags::WRITE,
        all | SealFlags::FUTURE_WRITE,
    ];
    for seals in sealed {
        let copy = copied(&domain, seals);
        let [_, keys] = fds();
        assert!(
            matches!(Domain::from_fds(copy, keys), Err(Error::Refused(_))),
            "{seals:?}"
        );
    }
    let [_, keys] = fds();
    assert!(Domain::from_fds(copied(&domain, all), keys).is_ok());

    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let files: [OwnedFd; 3] = [
        reader.into(),
        File::open("/dev/null").expect("a file").into(),
        tempfile::tempfile().expect("a file").into(),
    ];
    for file in files {
        let [_, keys] = fds();
        assert!(matches!(
            Domain::from_fds(file, keys),
            Err(Error::Refused(_))
        ));
    }
}

/// The ledger's words in another memfd.
fn copied(domain: &Domain, seals: SealFlags) -> OwnedFd {
    let [ledger, _] = domain.fds().expect("descriptors");
    let mapping = Mapping::from_fd(ledger.try_clone_to_owned().expect("a descriptor"));
    let mapping = mapping.expect("a mapping");
    let bytes: Vec<u8> = mapping
        .as_words()
        .iter()
        .flat_map(|word| word.load(std::sync::atomic::Ordering::SeqCst).to_ne_bytes())
        .collect();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = memfd_create("copy", flags).expect("memory");
    ftruncate(&copy, bytes.len() as u64).expect("memory");
    File::from(copy.try_clone().expect("a descriptor"))
        .write_all(&bytes)
        .expect("memory");
    fcntl_add_seals(copy.as_fd(), seals).expect("it allows sealing");
    copy
}

//= proves spec/domains.md#creation
//= proves spec/domains.md#home
#[test]
fn of_many_strangers_that_open_a_name_one_makes_it() {
    for _ in 0..10 {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("baton");
        let board = Board::new();
        let options = Options {
            collect: true,
            ..options(100, false)
        };
        let strangers: Vec<_> = (0..8)
            .map(|number| {
                let (board, directory) = (&board, &directory);
                child(move || {
                    board.wait(0, 1);
                    let Ok(domain) = Domain::file_in(directory, "name", &options) else {
                        return 1;
                    };
                    let Ok(claim) = domain.ledger().establish() else {
                        return 2;
                    };
                    let id = u64::from_ne_bytes(domain.id()[..8].try_into().expect("8"));
                    board.set(8 + number, id);
                    board.write_token(32 + number * 8, &promised(&claim));
                    u8::from(claim.depart(NEVER).is_err()) * 3
                })
            })
            .collect();
        board.set(0, 1);
        assert!(
            strangers
                .into_iter()
                .all(|stranger| code(stranger) == Some(0))
        );
        let domain = Domain::file_in(&directory, "name", &options).expect("made");
        let id = u64::from_ne_bytes(domain.id()[..8].try_into().expect("8"));
        for number in 0..8 {
            assert_eq!(board.get(8 + number), id);
            assert!(arrive(domain.ledger(), &board.token(32 + number * 8)).is_ok());
        }
    }
}

//= proves spec/domains.md#rotate
//= proves spec/domains.md#key-read
#[test]
fn all_processes_see_a_rotation() {
    let domain = domain();
    let board = Board::new();
    let before = domain
        .keyring()
        .expect("keys")
        .with_current(|id, _| id)
        .expect("a key");
    let other = child(|| {
        let Ok(id) = domain
            .keyring()
            .expect("keys")
            .rotate(Duration::from_secs(60))
        else {
            return 1;
        };
        board.set(1, id);
        board.set(0, 1);
        0
    });
    board.wait(0, 1);
    assert_eq!(
        domain
            .keyring()
            .expect("keys")
            .with_current(|id, _| id)
            .ok(),
        Some(board.get(1))
    );
    assert_ne!(before, board.get(1));
    assert!(
        domain
            .keyring()
            .expect("keys")
            .with(before, |_| ())
            .is_some()
    );
    assert_eq!(code(other), Some(0));
}
