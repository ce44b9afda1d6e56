//! The processes of the server: what each of them holds, and what the death of each costs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use rustix::process::Signal;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serving::{Serving, Talking, children, group, run, runner, signal_to, wait_for_end};

/// The zygote and the handshaker: the first is forked first, and has no listener.
struct Own {
    zygote: u32,
    handshaker: u32,
}

impl Own {
    fn of(serving: &Serving) -> Self {
        let both = children(serving.process());
        let (zygotes, handshakers): (Vec<u32>, Vec<u32>) = both
            .iter()
            .partition(|process| !listens(**process, serving));
        let ([zygote], [handshaker]) = (&zygotes[..], &handshakers[..]) else {
            panic!("{both:?}");
        };
        Self {
            zygote: *zygote,
            handshaker: *handshaker,
        }
    }
}

/// The inodes of the sockets that a process has.
fn sockets(process: u32) -> BTreeSet<String> {
    let folder = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    folder
        .filter_map(|entry| {
            let target = fs::read_link(entry.unwrap().path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            Some(inode.trim_end_matches(']').to_owned())
        })
        .collect()
}

/// The inode of the server's listener.
fn listener(serving: &Serving) -> String {
    let port = format!(":{:04X} ", serving.address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    // State 0A is that of a socket that listens.
    let line = table
        .lines()
        .find(|line| line.contains(&port) && line.contains(" 0A "))
        .unwrap();
    line.split_whitespace().nth(9).unwrap().to_owned()
}

fn listens(process: u32, serving: &Serving) -> bool {
    sockets(process).contains(&listener(serving))
}

/// Whether the readable memory of a process holds `bytes`.
fn holds(process: u32, bytes: &[u8]) -> bool {
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let finder = memchr::memmem::Finder::new(bytes);
    maps.lines()
        .filter(|line| line.contains(" r") && !line.contains("[v"))
        .any(|line| {
            let range = line.split_whitespace().next().unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
            let mut region = vec![0; (to - from) as usize];
            memory.read_exact_at(&mut region, from).is_ok() && finder.find(&region).is_some()
        })
}

/// The server's P-256 private key in the two forms in which a process has it: as in the file (RFC
/// 5915), and as it is used, multiplied by 2^256 modulo the order of the group, in the machine's
/// order of bytes.
fn private_key(serving: &Serving) -> [Vec<u8>; 2] {
    let key = PrivateKeyDer::from_pem_file(serving.identity("server-key.pem")).unwrap();
    let der = key.secret_der();
    let at = memchr::memmem::find(der, &[2, 1, 1, 4, 32]).expect("a P-256 key") + 5;
    let bytes = &der[at..at + 32];
    let mut limbs: Vec<u64> = bytes
        .rchunks(8)
        .map(|limb| u64::from_be_bytes(limb.try_into().unwrap()))
        .collect();
    (0..256).for_each(|_| double(&mut limbs));
    let used = limbs.iter().flat_map(|limb| limb.to_ne_bytes()).collect();
    [bytes.to_vec(), used]
}

/// Twice a number modulo the order of P-256, the lowest 64 bits first.
fn double(limbs: &mut [u64]) {
    const ORDER: [u64; 4] = [
        0xf3b9_cac2_fc63_2551,
        0xbce6_faad_a717_9e84,
        0xffff_ffff_ffff_ffff,
        0xffff_ffff_0000_0000,
    ];
    let mut carry = 0;
    for limb in limbs.iter_mut() {
        (*limb, carry) = (*limb << 1 | carry, *limb >> 63);
    }
    let is_less = limbs.iter().rev().lt(ORDER.iter().rev());
    if carry == 1 || !is_less {
        let mut borrow = false;
        for (limb, order) in limbs.iter_mut().zip(ORDER) {
            let (first, one) = limb.overflowing_sub(order);
            let (second, two) = first.overflowing_sub(borrow.into());
            (*limb, borrow) = (second, one || two);
        }
    }
}

fn serves(serving: &Serving) {
    let (output, errors, status) = run(serving.connect(&[]), b"well\n");
    assert!(status.success(), "{errors}");
    assert_eq!(output, "well\n");
}

fn says(talking: &mut Talking, text: &str) {
    talking.say(text);
    assert_eq!(talking.hear(), text);
}

//= proves spec/processes.md#handshaker
//= proves spec/processes.md#supervisor
//= proves spec/processes.md#zygote
//= proves spec/processes.md#session
//= proves spec/processes.md#start
#[test]
fn only_the_handshaker_has_the_private_key_and_only_sessions_have_connections() {
    let serving = Serving::start::<&str>(&[]);
    let own = Own::of(&serving);
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "hello\n");
    let (_, session) = runner(&serving.log.wait_for("runs it"));
    let [written, used] = private_key(&serving);
    assert!(holds(own.handshaker, &used), "the search finds it");
    for process in [serving.process(), own.zygote, session] {
        assert!(
            !holds(process, &used) && !holds(process, &written),
            "{process}"
        );
    }
    let listener = listener(&serving);
    assert!(sockets(serving.process()).contains(&listener));
    assert!(!sockets(own.zygote).contains(&listener));
    assert!(!sockets(session).contains(&listener));
    // The connection, the reports and the line to the keeper, and nothing that another process of
    // the server has but their far end.
    assert_eq!(sockets(session).len(), 3);
    for process in [serving.process(), own.zygote, own.handshaker] {
        assert!(sockets(process).is_disjoint(&sockets(session)));
    }
    assert!(talking.finish().success());
}

//= proves spec/processes.md#replaced C4
//= proves spec/processes.md#from-handshaker
#[test]
fn a_killed_handshaker_costs_its_handshakes_only() {
    let serving = Serving::start::<&str>(&[]);
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "one\n");
    for _ in 0..3 {
        let killed = Own::of(&serving).handshaker;
        signal_to(killed, Signal::KILL);
        wait_for_end(killed);
        // Connections wait in the kernel until there is a handshaker again.
        serves(&serving);
        says(&mut talking, "two\n");
        assert_ne!(Own::of(&serving).handshaker, killed);
    }
    assert!(talking.finish().success());
    ends_with_one_release_each(serving, 4);
}

//= proves spec/processes.md#replaced C4
//= proves spec/processes.md#to-zygote
//= proves spec/processes.md#from-zygote
#[test]
fn a_killed_zygote_costs_no_session() {
    let serving = Serving::start::<&str>(&[]);
    let mut before = Talking::start(serving.connect(&["--message"]));
    says(&mut before, "one\n");
    let mut killed_later = Talking::start(serving.connect(&[]));
    says(&mut killed_later, "one\n");
    let (_, process) = runner(&serving.log.wait_for_nth(2, "runs it"));
    let killed = Own::of(&serving).zygote;
    signal_to(killed, Signal::KILL);
    wait_for_end(killed);
    serves(&serving);
    says(&mut before, "two\n");
    says(&mut killed_later, "two\n");
    // Sessions that the dead zygote had forked end as all others do, in good order or not.
    signal_to(process, Signal::KILL);
    assert!(!killed_later.wait().success());
    serving.log.wait_for("was killed by signal 9");
    assert!(before.finish().success());
    ends_with_one_release_each(serving, 3);
}

fn ends_with_one_release_each(serving: Serving, sessions: usize) {
    serving.log.wait_for_nth(sessions, "released: ");
    let (status, log) = serving.stop();
    assert!(status.success());
    let released: BTreeSet<&str> = log
        .iter()
        .filter(|line| line.contains("released: "))
        .map(|line| &line.split("session ").nth(1).unwrap()[..32])
        .collect();
    let lines = log.iter().filter(|line| line.contains("released: "));
    assert_eq!(
        (released.len(), lines.count()),
        (sessions, sessions),
        "{log:#?}"
    );
}

/// No process goes on without the supervisor, and no client is left hanging.
//= proves spec/processes.md#end
//= proves spec/processes.md#link
#[test]
fn a_killed_supervisor_takes_all_with_it() {
    let serving = Serving::start(&["--hops", "2", "--hop-every", "4"]);
    let own = Own::of(&serving);
    let mut moved = Talking::start(serving.connect(&[]));
    for text in ["one\n", "two\n", "three\n"] {
        says(&mut moved, text);
    }
    let mut still = Talking::start(serving.connect(&["--message"]));
    says(&mut still, "one\n");
    let running = serving.sessions();
    assert!(running.len() >= 2);
    signal_to(serving.process(), Signal::KILL);
    for process in running.into_iter().chain([own.zygote, own.handshaker]) {
        wait_for_end(process);
    }
    assert!(group(serving.process()).is_empty());
    // The contexts died with their keeper: nothing could be said any more, and the clients say that
    // they were cut off.
    assert!(!moved.finish().success());
    assert!(!still.finish().success());
}

//= proves spec/processes.md#stop
//= proves spec/processes.md#to-handshaker
#[test]
fn a_stop_ends_every_process() {
    let serving = Serving::start::<&str>(&[]);
    let own = Own::of(&serving);
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "one\n");
    serving.signal(Signal::TERM);
    serving.log.wait_for("stopping: ");
    wait_for_end(own.handshaker);
    says(&mut talking, "two\n");
    assert!(talking.finish().success());
    wait_for_end(own.zygote);
    wait_for_end(serving.process());
}

/// The secrets of a session, which its client knows too, and the keys that come of them, are in no
/// line of the log, however it is written down.
//= proves spec/processes.md#session C5
#[test]
fn no_key_of_a_session_is_in_the_log() {
    let serving = Serving::start_with(&["--http", "--hops", "3"], |command| {
        command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "1");
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let Some(openssl) = serving.openssl(&["-quiet", "-keylogfile", file.to_str().unwrap()]) else {
        return;
    };
    let (page, errors, _) = run(openssl, b"GET / HTTP/1.0\r\n\r\n");
    assert!(page.contains("served by"), "{errors}");
    serving.log.wait_for("4 hops; released: ");
    let (_, log) = serving.stop();
    let log = log.join("\n").to_lowercase();
    assert!(log.contains("aes_256_gcm"), "{log}");
    let mut seen = 0;
    for line in fs::read_to_string(file)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let mut words = line.split(' ').skip(2);
        let Some(hex) = words.next() else { continue };
        let secret: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..][..2], 16).unwrap())
            .collect();
        let (mut key, mut iv) = ([0; 32], [0; 12]);
        let suite = baton::crypto::Suite::from_code(0x1302).unwrap();
        baton::crypto::traffic_key(suite, &secret, &mut key, &mut iv);
        for bytes in [&secret[..16], &key[..16]] {
            let decimal = format!("{bytes:?}");
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            for form in [&decimal[1..decimal.len() - 1], &hex] {
                assert!(!log.contains(form), "{line}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 8, "secrets were looked for");
}

/// The value of a line of a process's status.
fn status(process: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line[name.len() + 1..].trim().to_owned()
}

//= proves spec/processes.md#confine
#[test]
fn every_process_has_given_up_what_it_does_not_need() {
    let serving = Serving::start(&["--hops", "1"]);
    let own = Own::of(&serving);
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "one\n");
    says(&mut talking, "two\n");
    let sessions = serving.sessions();
    assert!(!sessions.is_empty());
    for process in [serving.process(), own.zygote, own.handshaker]
        .iter()
        .chain(&sessions)
    {
        assert_eq!(status(*process, "NoNewPrivs"), "1");
    }
    for process in [own.zygote, own.handshaker].iter().chain(&sessions) {
        assert_eq!(status(*process, "Seccomp"), "2");
    }
    assert!(talking.finish().success());
}

#[test]
fn a_command_gains_no_privileges() {
    let serving = Serving::start(&["--exec", "cat", "/proc/self/status"]);
    let (output, errors, _) = run(serving.connect(&[]), b"");
    assert!(output.contains("NoNewPrivs:\t1"), "{output} {errors}");
}
