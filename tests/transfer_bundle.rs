//! Bundles and passages: many contexts at once, each with its own fate (C3, C4, C8).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use baton::context::Context;
use baton::ledger::Domain;
use baton::message::Message;
use baton::record::Record;
use baton::status::{Major, Minor};
use baton::transfer::{Export, MAX_MEMBERS, Parcel, Receiver, bundle, import, passage, unbundle};
use support::{Talk, domain, forked, pair, talk};

/// A context beside the socket its peer is at the other end of.
struct Line {
    context: Context<Record>,
    socket: OwnedFd,
    peer: Context<Record>,
    far: TcpStream,
}

fn lines(domain: &Domain, count: usize) -> Vec<Line> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = |_| {
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        let (context, peer) = pair::<Record>(domain);
        Line {
            context,
            socket: near.into(),
            peer,
            far,
        }
    };
    (0..count).map(line).collect()
}

type Far = (Context<Record>, TcpStream);

fn split(lines: Vec<Line>) -> (Vec<(Context<Record>, OwnedFd)>, Vec<Far>) {
    lines
        .into_iter()
        .map(|l| ((l.context, l.socket), (l.peer, l.far)))
        .unzip()
}

/// Reads one message of the peer's over the socket and answers it.
fn echo(context: &mut Context<Record>, socket: OwnedFd) {
    let mut socket = TcpStream::from(socket);
    let mut bytes = vec![0; 4096];
    let n = socket.read(&mut bytes).unwrap();
    bytes.truncate(n);
    let heard = Record::hear(context, bytes).unwrap();
    socket
        .write_all(&Record::say(context, &heard).unwrap())
        .unwrap();
}

fn ask((peer, far): &mut Far, text: &[u8]) {
    far.write_all(&Record::say(peer, text).unwrap()).unwrap();
}

fn answered((peer, far): &mut Far, text: &[u8]) {
    let mut bytes = vec![0; 4096];
    let n = far.read(&mut bytes).unwrap();
    bytes.truncate(n);
    assert_eq!(Record::hear(peer, bytes).unwrap(), text);
}

/// C8: six hundred live connections go to another process in three messages.
//= proves spec/token.md#passage C8
#[test]
fn live_connections_move_to_another_process_in_bundles() {
    let domain = domain();
    let (near, mut far) = split(lines(&domain, 600));
    for (i, far) in far.iter_mut().enumerate() {
        ask(far, format!("number {i}").as_bytes());
    }
    let bundled = bundle(near, &Export::default());
    assert!(bundled.kept.is_empty());
    assert!(bundled.parcels.len() >= 600_usize.div_ceil(MAX_MEMBERS));
    let (mut sender, receiver) = passage().unwrap();
    let mut child = forked(|| receive_and_echo(receiver, &domain, 600));
    for parcel in bundled.parcels {
        sender.send(parcel).unwrap();
    }
    sender.finish().unwrap();
    for (i, far) in far.iter_mut().enumerate() {
        answered(far, format!("number {i}").as_bytes());
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn receive_and_echo(mut receiver: Receiver, domain: &Domain, expected: usize) -> u8 {
    let mut arrived = 0;
    while arrived < expected {
        for arrival in receiver.receive::<Record>(domain).unwrap().unwrap() {
            let (mut context, socket) = arrival.unwrap();
            echo(&mut context, socket.unwrap());
            arrived += 1;
        }
    }
    0
}

/// C4: what leaves alone leaves in a bundle too, however much is in the bundle before it.
//= proves spec/token.md#bundle
#[test]
fn a_large_member_behind_many_leaves_as_well() {
    let domain = domain();
    let unread = vec![7; 23_000];
    let (mut near, mut far) = split(lines(&domain, 3));
    for ((context, _), (peer, _)) in near.iter_mut().zip(&mut far) {
        let sealed = Record::say(peer, &unread).unwrap();
        assert_eq!(context.feed(&sealed).unwrap(), sealed.len());
        let sealed = Record::say(peer, &unread).unwrap();
        assert_eq!(context.feed(&sealed).unwrap(), sealed.len());
    }
    let bundled = bundle(near, &Export::default());
    assert!(bundled.kept.is_empty(), "{:?}", bundled.kept.first());
    let (mut sender, mut receiver) = passage().unwrap();
    for parcel in bundled.parcels {
        sender.send(parcel).unwrap();
        for arrival in receiver.receive::<Record>(&domain).unwrap().unwrap() {
            let (mut context, _) = arrival.unwrap();
            assert_eq!(context.buffered(), 2 * (23_000 + 2 * 22));
            assert_eq!(Record::hear(&mut context, vec![]).unwrap().len(), 46_000);
        }
    }
    drop(receiver);
    sender.finish().unwrap();
}

/// C4: a bundle with one spent, one revoked member: the others import.
//= proves spec/token.md#bundle
#[test]
fn a_bad_member_is_refused_alone() {
    let domain = domain();
    let (near, mut far) = split(lines(&domain, 5));
    let revoked = near[1].0.session_identifier();
    let bundled = bundle(near, &Export::default());
    assert!(domain.ledger().revoke(revoked.as_bytes()));
    let [parcel] = &bundled.parcels[..] else {
        panic!("one bundle")
    };
    let sockets = copies(parcel);
    let outcomes = unbundle::<Record>(&domain, &mut parcel.as_bytes().to_vec(), sockets).unwrap();
    assert_eq!(outcomes.len(), 5);
    for (i, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok((mut context, socket)) => {
                assert_ne!(i, 1);
                ask(&mut far[i], b"still there?");
                echo(&mut context, socket);
                answered(&mut far[i], b"still there?");
            }
            Err(status) => {
                assert_eq!((i, status.major()), (1, Major::NoContext));
            }
        }
    }
    // C3: the whole bundle once more is refused member by member.
    let again = unbundle::<Record>(&domain, &mut parcel.as_bytes().to_vec(), copies(parcel));
    assert!(again.unwrap().iter().all(|one| one.is_err()));
}

fn copies(parcel: &Parcel) -> Vec<OwnedFd> {
    parcel
        .sockets()
        .iter()
        .map(|socket| socket.try_clone().unwrap())
        .collect()
}

/// C5: sockets swapped, missing, too many.
#[test]
fn each_member_imports_beside_its_own_socket_only() {
    let domain = domain();
    let (near, _far) = split(lines(&domain, 3));
    let bundled = bundle(near, &Export::default());
    let parcel = &bundled.parcels[0];
    let attempt = |sockets| {
        let outcomes = unbundle::<Record>(&domain, &mut parcel.as_bytes().to_vec(), sockets);
        outcomes
            .unwrap()
            .into_iter()
            .map(|o| o.err().map(|s| s.minor()))
            .collect::<Vec<_>>()
    };
    assert_eq!(attempt(Vec::new()), [Some(Minor::WrongSocket); 3]);
    let mut rotated = copies(parcel);
    rotated.rotate_left(1);
    assert_eq!(attempt(rotated), [Some(Minor::WrongSocket); 3]);
    let mut more = copies(parcel);
    more.extend(copies(parcel));
    assert_eq!(attempt(more), [None; 3]);
}

/// C5, C7: cut and flipped bundles are refused whole, and spend nothing.
#[test]
fn a_damaged_bundle_is_refused_whole_and_kept() {
    let domain = domain();
    let (near, _far) = split(lines(&domain, 2));
    let bundled = bundle(near, &Export::default());
    let parcel = &bundled.parcels[0];
    let whole = parcel.as_bytes().to_vec();
    for length in 0..whole.len() {
        let cut = unbundle::<Record>(&domain, &mut whole[..length].to_vec(), Vec::new());
        assert_eq!(
            cut.err().map(|s| s.major()),
            Some(Major::DefectiveToken),
            "{length}"
        );
    }
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refused = unbundle::<Record>(&domain, &mut flipped, Vec::new());
        assert_eq!(
            refused.err().map(|s| s.major()),
            Some(Major::DefectiveToken),
            "bit {bit}"
        );
    }
    // A bundle is no token, and a token no bundle.
    assert!(import::<Record>(&domain, &whole, None).is_err());
    let outcomes = unbundle::<Record>(&domain, &mut whole.clone(), copies(parcel)).unwrap();
    assert!(outcomes.iter().all(|one| one.is_ok()));
}

/// C4: the importer dies before it has imported; the exporter sends the same parcels to another.
#[test]
fn what_a_dead_importer_has_not_imported_goes_to_another() {
    let domain = domain();
    let (near, mut far) = split(lines(&domain, 4));
    let bundled = bundle(near, &Export::default());
    let (mut sender, receiver) = passage().unwrap();
    let mut child = forked(move || {
        drop(receiver);
        0
    });
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut unsent = Vec::new();
    for parcel in bundled.parcels {
        if let Err((parcel, _)) = sender.send(parcel) {
            unsent.push(parcel);
        }
    }
    unsent.extend(sender.finish().err().into_iter().flatten());
    let (mut sender, receiver) = passage().unwrap();
    let mut child = forked(|| receive_and_echo(receiver, &domain, 4));
    for (i, far) in far.iter_mut().enumerate() {
        ask(far, &[i as u8; 100]);
    }
    for parcel in unsent {
        sender.send(parcel).unwrap();
    }
    sender.finish().unwrap();
    for (i, far) in far.iter_mut().enumerate() {
        answered(far, &[i as u8; 100]);
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Contexts that do not leave come back working, with their sockets.
#[test]
fn what_cannot_leave_is_kept() {
    let domain = domain();
    let (near, far) = split(lines(&domain, 3));
    let revoked = near[1].0.session_identifier();
    assert!(domain.ledger().revoke(revoked.as_bytes()));
    let bundled = bundle(near, &Export::default());
    assert_eq!(bundled.kept.len(), 1);
    assert_eq!(bundled.kept[0].0.status.major(), Major::NoContext);
    assert_eq!(bundled.parcels[0].sockets().len(), 2);
    drop(far);
}

/// A token goes over the passage too, beside its socket or beside none.
#[test]
fn single_tokens_travel_over_a_passage() {
    let domain = domain();
    let (mut sender, mut receiver) = passage().unwrap();
    let (context, mut peer) = pair::<Message>(&domain);
    let token = context.export(&Export::default()).unwrap();
    sender.send(Parcel::new(token, None)).unwrap();
    let mut arrivals = receiver.receive::<Message>(&domain).unwrap().unwrap();
    let (mut context, socket) = arrivals.pop().unwrap().unwrap();
    assert!(socket.is_none() && arrivals.is_empty());
    talk(&mut context, &mut peer);
    drop(receiver);
    sender.finish().unwrap();
}

/// C4: an importer that cannot import says so; the parcel, with its socket, goes to another.
//= proves spec/token.md#passage C4
#[test]
fn what_an_importer_refuses_comes_back_to_the_exporter() {
    let domain = domain();
    let (near, mut far) = split(lines(&domain, 2));
    let (mut sender, mut receiver) = passage().unwrap();
    for parcel in bundle(near, &Export::default()).parcels {
        sender.send(parcel).unwrap();
    }
    let (context, _peer) = pair::<Message>(&domain);
    let good = context.export(&Export::default()).unwrap();
    // Of another domain, and so without its keys.
    let elsewhere = support::domain();
    let outcomes = receiver.receive::<Record>(&elsewhere).unwrap().unwrap();
    assert_eq!(outcomes[0].as_ref().unwrap_err().minor(), Minor::TokenKey);
    sender.send(Parcel::new(good, None)).unwrap();
    let outcomes = receiver.receive::<Message>(&domain).unwrap().unwrap();
    assert!(outcomes[0].is_ok());
    drop(receiver);
    let mut refused = sender.finish().unwrap_err();
    assert_eq!(refused.len(), 1, "the good one is settled");
    let (mut sender, mut receiver) = passage().unwrap();
    sender.send(refused.pop().unwrap()).unwrap();
    for (i, one) in receiver
        .receive::<Record>(&domain)
        .unwrap()
        .unwrap()
        .into_iter()
        .enumerate()
    {
        let (mut context, socket) = one.unwrap();
        ask(&mut far[i], b"still here");
        echo(&mut context, socket.unwrap());
        answered(&mut far[i], b"still here");
    }
    drop(receiver);
    sender.finish().unwrap();
}
