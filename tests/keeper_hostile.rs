//! Members of a kept domain that were taken over (threat model): what they try comes to nothing,
//! and the keeper and everybody else go on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod keeping;
mod support;

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use baton::context::Context;
use baton::ledger::keeper::{Keeper, Options, Role};
use baton::ledger::{Domain, Error, Lost};
use baton::message::Message;
use baton::status::{Major, Minor};
use baton::sys::memory::Mapping;
use baton::sys::process::{self, Fork, fork};
use baton::sys::socket;
use baton::transfer::{Export, PublicHeader, bundle, import, unbundle};
use keeping::Keeping;
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate};
use support::{in_child, pair, talk};

const HELLO: &[u8] = b"\x01BTK\x01";

fn say(socket: &OwnedFd, message: &[u8]) -> std::io::Result<()> {
    socket::send_now(socket, message)
}

fn hear(socket: &OwnedFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut answer, mut fds) = (vec![0; 32_768], Vec::new());
    let got = socket::recv_with_fds(socket, &mut answer, &mut fds, true).ok()?;
    answer.truncate(got.len);
    (got.len > 0).then_some((answer, fds))
}

/// A connection that has greeted, by hand; and the ledger's descriptor.
fn greeted(keeping: &Keeping, role: Role) -> (OwnedFd, OwnedFd) {
    let socket = keeping.connect(role);
    say(&socket, HELLO).unwrap();
    let (welcome, mut fds) = hear(&socket).unwrap();
    assert_eq!(welcome[..2], [0x81, 1]);
    (socket, fds.pop().unwrap())
}

/// Whether the keeper has ended the connection, after what it still has to say.
fn is_ended(socket: &OwnedFd) -> bool {
    while hear(socket).is_some() {}
    say(socket, &[2]).is_err()
}

/// A member that goes on while others misbehave.
struct Witness {
    domain: Domain,
    context: Option<Context<Message>>,
    peer: Context<Message>,
}

impl Witness {
    fn of(keeping: &Keeping) -> Self {
        let domain = keeping.domain(Role::Member);
        let (context, peer) = pair::<Message>(&domain);
        Self {
            domain,
            context: Some(context),
            peer,
        }
    }

    fn goes_on(&mut self) {
        let mut context = self.context.take().unwrap();
        talk(&mut context, &mut self.peer);
        let token = context.export(&Export::default()).unwrap();
        let mut context = import(&self.domain, token.as_bytes(), None).unwrap();
        talk(&mut context, &mut self.peer);
        self.context = Some(context);
    }
}

fn writable_ledgers() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let lines = maps.lines().filter(|line| line.contains("baton-ledger"));
    lines
        .filter(|line| line.contains("rw-s"))
        .map(str::to_owned)
        .collect()
}

//= proves spec/keeper.md#mapping
#[test]
fn nobody_but_the_keeper_writes_the_ledger() {
    let keeping = Keeping::new();
    let mut witness = Witness::of(&keeping);
    let (_socket, ledger) = greeted(&keeping, Role::Member);
    let denied = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    let again = || ledger.try_clone().unwrap();
    // Mapped for writing, now or later; written; cut; punched; sealed; opened anew.
    assert!(denied(Mapping::from_fd(again()).unwrap_err()));
    let mapping = Mapping::from_fd_read_only(again()).unwrap();
    let start = mapping.as_words().as_ptr().cast_mut().cast();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: It is refused; if it were not, nothing would change but the protection.
    assert_eq!(unsafe { libc::mprotect(start, 4096, protection) }, -1);
    assert!(denied(
        File::from(again()).write_at(&[1; 8], 4096).unwrap_err()
    ));
    assert!(ftruncate(&ledger, 0).is_err());
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert!(fallocate(&ledger, punch, 0, 4096).is_err());
    assert!(fcntl_add_seals(&ledger, SealFlags::WRITE).is_err());
    let path = format!("/proc/self/fd/{}", ledger.as_raw_fd());
    let opened = File::options().read(true).write(true).open(path);
    if let Ok(opened) = opened {
        assert!(denied(Mapping::from_fd(opened.into()).unwrap_err()));
    }
    // As a domain of members that trust each other it is refused.
    let keys = support::domain().fds().expect("descriptors")[1]
        .try_clone_to_owned()
        .unwrap();
    assert!(matches!(
        Domain::from_fds(again(), keys),
        Err(Error::Refused(_))
    ));
    // Storing through the mapping kills who does it.
    let code = in_child(|| {
        mapping.as_words()[512].store(1, std::sync::atomic::Ordering::SeqCst);
        0
    });
    assert_eq!(code, None);
    witness.goes_on();
}

//= proves spec/keeper.md#mapping
#[test]
fn a_child_of_the_keeper_does_not_have_the_mapping() {
    let code = in_child(|| {
        let before = writable_ledgers();
        let keeper = Keeper::new(&Options::default()).unwrap();
        let own: Vec<_> = writable_ledgers()
            .into_iter()
            .filter(|line| !before.contains(line))
            .collect();
        assert_eq!(own.len(), 1);
        match fork().unwrap() {
            Fork::Parent(mut child) => u8::from(child.wait().unwrap().code() != Some(0)),
            Fork::Child => {
                let there = writable_ledgers().iter().any(|line| own.contains(line));
                drop(keeper);
                process::exit_now(u8::from(there));
            }
        }
    });
    assert_eq!(code, Some(0));
}

/// Bytes that look like nothing in particular.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_add(length as u64);
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(byte).collect()
}

//= proves spec/keeper.md#violations
#[test]
fn garbage_of_every_length_ends_the_connection_and_nothing_else() {
    let keeping = Keeping::new();
    let mut witness = Witness::of(&keeping);
    let lengths = (1..200).chain([512, 4096, 9363, 9364, 9365, 9366, 20_000, 65_536]);
    for length in lengths {
        for first in [None, Some(3), Some(5), Some(6), Some(0)] {
            let mut message = noise(length);
            if let Some(first) = first {
                message[0] = first;
            } else if let [2, ..] | [1, ..] = message[..] {
                message[0] = 9;
            }
            let (socket, _ledger) = greeted(&keeping, Role::Member);
            say(&socket, &message).unwrap();
            assert!(is_ended(&socket), "{length} {first:?}");
            if length % 50 == 1 {
                let socket = keeping.connect(Role::Member);
                say(&socket, &message).unwrap();
                assert!(is_ended(&socket), "{length} {first:?}, ungreeted");
            }
        }
        if length % 40 == 0 {
            witness.goes_on();
        }
    }
    // Another version, a second greeting, an empty message.
    for message in [&b"\x01BTK\x02"[..], b"\x01BTX\x01", b""] {
        let socket = keeping.connect(Role::Member);
        say(&socket, message).unwrap();
        assert!(is_ended(&socket));
    }
    let (socket, _ledger) = greeted(&keeping, Role::Member);
    say(&socket, HELLO).unwrap();
    assert!(is_ended(&socket));
    witness.goes_on();
    keeping.wait_members(1);
}

//= proves spec/keeper.md#violations
//= proves spec/keeper.md#roles
#[test]
fn what_the_table_does_not_permit_ends_the_connection_and_its_contexts() {
    let keeping = Keeping::new();
    let mut witness = Witness::of(&keeping);
    let open = [&[4][..], &[0; 24]].concat();
    let arrive = [&[5, 0, 1][..], &[0; 37]].concat();
    let two = [&[5, 0, 2][..], &[0; 74]].concat();
    let end = [&[6, 0, 1][..], &[0; 12]].concat();
    let depart = [&[3][..], &[0; 37], &[0, 1], &[0; 21]].concat();
    let revoke = [&[7][..], &[0; 16]].concat();
    for (role, message) in [
        (Role::Handshaker, &open),
        (Role::Handshaker, &arrive),
        (Role::Handshaker, &revoke),
        (Role::Worker, &vec![2]),
        (Role::Worker, &revoke),
        (Role::Session, &vec![2]),
        (Role::Session, &end),
        (Role::Session, &depart),
        (Role::Session, &two),
        (Role::Operator, &vec![2]),
        (Role::Operator, &end),
        (Role::Operator, &open),
        (Role::Member, &revoke),
    ] {
        let (socket, _ledger) = greeted(&keeping, role);
        say(&socket, message).unwrap();
        assert!(is_ended(&socket), "{role:?} {message:?}");
        // Before the greeting nothing is permitted.
        let socket = keeping.connect(role);
        say(&socket, message).unwrap();
        assert!(is_ended(&socket), "{role:?} {message:?}");
    }
    let (socket, _ledger) = greeted(&keeping, Role::Handshaker);
    say(&socket, &[2]).unwrap();
    assert_eq!(hear(&socket).unwrap().0[0], 0x82);
    say(&socket, &open).unwrap();
    assert!(is_ended(&socket));
    assert_eq!(keeping.releases(1).len(), 1);
    witness.goes_on();
}

//= proves spec/keeper.md#violations
#[test]
fn descriptors_are_never_taken() {
    let keeping = Keeping::new();
    let mut witness = Witness::of(&keeping);
    let count = || {
        let path = format!("/proc/{}/fd", keeping.child.pid());
        std::fs::read_dir(path).unwrap().count()
    };
    keeping.wait_members(1);
    let before = count();
    let file = File::open("/dev/null").unwrap();
    let many = vec![file.as_fd(); 253];
    for greeting_first in [true, false] {
        for _ in 0..20 {
            let socket = match greeting_first {
                true => greeted(&keeping, Role::Member).0,
                false => keeping.connect(Role::Member),
            };
            let message = if greeting_first { &[2][..] } else { HELLO };
            socket::send_with_fds(&socket, &[IoSlice::new(message)], &many).unwrap();
            assert!(is_ended(&socket));
        }
    }
    keeping.wait_members(1);
    assert_eq!(count(), before);
    witness.goes_on();
}

/// Asks for what another has: contexts to depart, to end, to arrive; keys of other tokens.
//= proves spec/keeper.md#depart C5
//= proves spec/keeper.md#end
#[test]
fn what_is_anothers_is_refused_and_untouched() {
    let keeping = Keeping::new();
    let mut witness = Witness::of(&keeping);
    let (context, mut peer) = pair::<Message>(&witness.domain);
    let own = process::Identity::own().unwrap();
    let how = Export::default().to(baton::transfer::Importer::Process(own));
    let token = context.export(&how).unwrap();
    let code = in_child(|| {
        let (socket, ledger) = greeted(&keeping, Role::Member);
        let ledger = Mapping::from_fd_read_only(ledger).unwrap();
        let word = |at: usize| ledger.as_words()[at].load(std::sync::atomic::Ordering::SeqCst);
        let entries = ledger.len() / 8 - 65_536 * 8;
        for index in 0..2_usize {
            let control = word(entries + index * 8).to_be_bytes();
            let id: Vec<u8> = [1, 2]
                .iter()
                .flat_map(|at| word(entries + index * 8 + at).to_ne_bytes())
                .collect();
            let entry = (index as u32).to_be_bytes();
            let epoch = (word(entries + index * 8) & ((1 << 41) - 1)).to_be_bytes();
            let depart = [&[3][..], &u64::MAX.to_be_bytes(), &[0; 29]].concat();
            let one = [&entry[..], &control, &[0; 9]].concat();
            say(&socket, &[&depart[..], &[0, 1], &one].concat()).unwrap();
            say(&socket, &[&depart[..], &[0, 2], &one, &one].concat()).unwrap();
            // Of one, nothing is answered.
            assert_eq!(hear(&socket).unwrap().0, [0x83, 0, 2, 3, 4], "not its own");
            say(&socket, &[&[6, 0, 1][..], &entry, &control].concat()).unwrap();
            say(
                &socket,
                &[&[5, 0, 1][..], &entry, &id, &epoch, &[0; 9]].concat(),
            )
            .unwrap();
            let refused = hear(&socket).unwrap().0;
            assert_eq!(refused[..3], [0x85, 0, 1]);
            assert_ne!(refused[3], 0);
            assert!(refused[4..].iter().all(|byte| *byte == 0), "no key");
        }
        // The handle of a token it was shown, and handles it made up.
        let handle = &token.as_bytes()[36..60];
        say(&socket, &[&[4][..], handle].concat()).unwrap();
        assert_eq!(hear(&socket).unwrap().0, [0xff, 5], "another's");
        for bit in 0..192 {
            let mut changed = handle.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            say(&socket, &[&[4][..], &changed].concat()).unwrap();
            assert_eq!(hear(&socket).unwrap().0, [0xff, 11], "no handle");
        }
        0
    });
    assert_eq!(code, Some(0));
    let mut context: Context<Message> = import(&witness.domain, token.as_bytes(), None).unwrap();
    talk(&mut context, &mut peer);
    witness.goes_on();
    assert!(keeping.releases(0).is_empty());
}

//= proves spec/keeper.md#token C5
#[test]
fn a_kept_token_shows_what_the_page_says_and_no_bit_of_it_can_be_changed() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (context, mut peer) = pair::<Message>(&domain);
    let token = context.export(&Export::default()).unwrap();
    assert_eq!(
        PublicHeader::read(token.as_bytes()).unwrap(),
        token.public_header()
    );
    for bit in (0..512 * 8).step_by(5) {
        let mut changed = token.as_bytes().to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refused = import::<Message>(&domain, &changed, None).unwrap_err();
        assert_eq!(refused.major(), Major::DefectiveToken, "bit {bit}");
    }
    let mut context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
    talk(&mut context, &mut peer);
}

#[test]
fn a_million_contexts_are_a_clear_error() {
    let keeping = Keeping::new();
    let mut witness = Witness::of(&keeping);
    let greedy = keeping.domain(Role::Handshaker);
    let mut claims = Vec::new();
    let refused = loop {
        match greedy.ledger().establish() {
            Ok(claim) => claims.push(claim),
            Err(error) => break error,
        }
    };
    assert_eq!(
        (claims.len(), matches!(refused, Error::Quota)),
        (4096, true)
    );
    let (finished, _) = <Message as support::Talk>::handshake();
    let refused = finished.activate(&greedy).unwrap_err();
    assert_eq!(refused.error.minor(), Minor::QuotaUsedUp);
    witness.goes_on();
    drop(claims);
    assert_eq!(keeping.releases(4096).len(), 4096);
}

/// Asks and never reads; says nothing; sends ends without end.
//= proves spec/keeper.md#back-pressure
#[test]
fn who_does_not_read_is_disconnected_and_nobody_waits_for_it() {
    let keeping = Keeping::new();
    let mut witness = Witness::of(&keeping);
    let silent = keeping.connect(Role::Member);
    let (deaf, _ledger) = greeted(&keeping, Role::Member);
    let mut sent = 0;
    let refused = loop {
        match say(&deaf, &[2]) {
            Ok(()) => sent += 1,
            // Its own socket is full: the keeper has not come to it yet.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => witness.goes_on(),
            Err(error) => break error,
        }
        assert!(sent < 1_000_000);
    };
    let ends = [
        std::io::ErrorKind::BrokenPipe,
        std::io::ErrorKind::ConnectionReset,
    ];
    assert!(ends.contains(&refused.kind()), "{refused}");
    witness.goes_on();
    // All it had is released, and it had at most its quota.
    let released = keeping.releases(1).len();
    assert!(released <= 4096, "{released}");
    let (babbler, _ledger) = greeted(&keeping, Role::Member);
    let end = [&[6, 0, 1][..], &[0; 12]].concat();
    let babble = (0..10_000).filter(|_| say(&babbler, &end).is_ok()).count();
    assert!(babble > 0);
    witness.goes_on();
    drop((silent, babbler));
    keeping.wait_members(1);
}

/// A process that is not the member speaks over its connection.
//= proves spec/keeper.md#peer
#[test]
fn another_process_on_a_members_connection_ends_it() {
    let keeping = Keeping::new();
    let mut witness = Witness::of(&keeping);
    let socket = keeping.connect(Role::Member);
    let copy = socket.try_clone().unwrap();
    let domain = Domain::kept(socket).unwrap();
    let claim = domain.ledger().establish().unwrap();
    assert_eq!(in_child(|| u8::from(say(&copy, &[2]).is_err())), Some(0));
    assert!(is_ended(&copy));
    assert_eq!(claim.check(), Err(Lost::Ended));
    witness.goes_on();
}

/// A greeting is answered by something else than a keeper.
//= proves spec/keeper.md#hello
#[test]
fn what_is_no_keeper_is_refused() {
    let memfd = Mapping::create_sealed("not one", 4096).unwrap();
    let good = [&[0x81, 1, 5][..], &[0; 28]].concat();
    for (answer, fds) in [
        (&good[..], vec![]),
        (&good[..30], vec![memfd.fd()]),
        (&b"\x81\x02"[..], vec![memfd.fd()]),
        (&good[..], vec![memfd.fd()]),
    ] {
        let (near, far) = socket::pair().unwrap();
        socket::send_with_fds(&far, &[IoSlice::new(answer)], &fds).unwrap();
        assert!(Domain::kept(near).is_err());
    }
    let (near, far) = socket::pair().unwrap();
    drop(far);
    assert!(matches!(Domain::kept(near), Err(Error::Keeper)));
    // Something that is not even a socket.
    let (read, mut write) = std::io::pipe().unwrap();
    write.write_all(b"!").unwrap();
    let mut byte = [0];
    (&read).read_exact(&mut byte).unwrap();
    assert!(Domain::kept(read.into()).is_err());
}

/// A process that is there for one context has no use for the token of another one, however it came
/// by it, nor for a bundle in which its own is.
//= proves spec/keeper.md#named C6
#[test]
fn who_is_connected_for_one_context_gets_no_other() {
    let keeping = Keeping::new();
    let mut witness = Witness::of(&keeping);
    let exporter = keeping.domain(Role::Member);
    let how = Export::default();
    let [mut one, other, third, fourth] = [0; 4].map(|_| pair::<Message>(&exporter));
    let id = *one.0.session_identifier().as_bytes();
    for role in [Role::Session, Role::Worker] {
        let connected = || Domain::kept(keeping.connect_for(role, &id)).unwrap();
        let token = one.0.export(&how).unwrap();
        let own = connected();
        one.0 = import(&own, token.as_bytes(), None).unwrap();
        talk(&mut one.0, &mut one.1);
        // The process is to be told apart from the one that goes on.
        let token = one.0.export(&how).unwrap();
        one.0 = import(&exporter, token.as_bytes(), None).unwrap();
    }
    let foreign = other.0.export(&how).unwrap();
    let own = Domain::kept(keeping.connect_for(Role::Worker, &id)).unwrap();
    let refused = import::<Message>(&own, foreign.as_bytes(), None).unwrap_err();
    assert_eq!(refused.minor(), Minor::WrongImporter);
    // By hand, too, with the right entry and epoch: the connection is not for it.
    drop(import::<Message>(&exporter, foreign.as_bytes(), None).unwrap());
    let [a, b, c] = [one.0, third.0, fourth.0].map(|context| (context, socket::pair().unwrap().0));
    let mut bundled = bundle(vec![a, b, c], &how);
    let parcel = bundled.parcels.pop().unwrap();
    let members = |domain: &Domain| {
        let sockets = parcel.sockets().iter().map(|one| one.try_clone().unwrap());
        unbundle::<Message>(domain, &mut parcel.as_bytes().to_vec(), sockets.collect())
    };
    assert_eq!(members(&own).unwrap_err().minor(), Minor::WrongImporter);
    let arrived = members(&exporter).unwrap();
    assert!(arrived.len() == 3 && arrived.iter().all(Result::is_ok));
    witness.goes_on();
}

/// A token can be faster than the word of its departure: the importer asks before the keeper has
/// heard the exporter, a thousand times over.
//= proves spec/keeper.md#depart C4
#[test]
fn a_token_that_is_faster_than_its_departure_is_waited_for() {
    let keeping = Keeping::new();
    let (one, other) = (keeping.domain(Role::Member), keeping.domain(Role::Member));
    let (mut context, mut peer) = pair::<Message>(&one);
    // The keeper finds both messages when it goes on, and looks at the importer's first or not.
    for round in 0..1000 {
        let (from, to) = if round % 2 == 0 {
            (&one, &other)
        } else {
            (&other, &one)
        };
        keeping.child.kill(process::Signal::STOP).unwrap();
        let token = context.export(&Export::default()).unwrap();
        let imported = std::thread::scope(|scope| {
            let importing = scope.spawn(|| import::<Message>(to, token.as_bytes(), None));
            keeping.child.kill(process::Signal::CONT).unwrap();
            importing.join().unwrap()
        });
        context = imported.unwrap();
        assert!(import::<Message>(from, token.as_bytes(), None).is_err());
    }
    talk(&mut context, &mut peer);
}
