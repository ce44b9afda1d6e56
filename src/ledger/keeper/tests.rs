//! The keeper in one process, its members threads of it.

use super::members::MemberId;
use super::*;
use crate::ledger::importer::Permitted;
use crate::ledger::{Domain, Lost, Refusal, Stay};

/// Turns until the thread has ended, and answers what it did.
fn serve<T: Send + 'static>(keeper: &mut Keeper, member: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wake) = socket::pair().unwrap();
    let member = std::thread::spawn(move || {
        let answer = member();
        drop(done);
        answer
    });
    // Its end wakes the keeper up like any other connection's.
    let wake = keeper.add(wake, Role::Operator).unwrap();
    while keeper.members.get(wake).is_some() {
        keeper.turn(None).unwrap();
    }
    member.join().unwrap()
}

fn small(quota: u32) -> Options {
    Options {
        ledger: crate::ledger::Options {
            capacity: 8,
            processes: 8,
            collect: true,
        },
        quota,
        ..Options::default()
    }
}

//= proves spec/keeper.md#establish
#[test]
fn a_quota_and_a_full_ledger_are_clear_errors() {
    let mut keeper = Keeper::new(&small(3)).unwrap();
    let (_, one) = keeper.connect(Role::Member).unwrap();
    let (_, two) = keeper.connect(Role::Member).unwrap();
    let (_, three) = keeper.connect(Role::Member).unwrap();
    serve(&mut keeper, || {
        let [one, two, three] = [one, two, three].map(|socket| Domain::kept(socket).unwrap());
        let mut claims: Vec<_> = (0..3).map(|_| one.ledger().establish().unwrap()).collect();
        assert!(matches!(one.ledger().establish(), Err(Error::Quota)));
        // What is in transit counts, too, until somebody has imported it.
        let token = claims.pop().unwrap().depart(u64::MAX).unwrap();
        assert!(matches!(one.ledger().establish(), Err(Error::Quota)));
        let claim = two.ledger().arrive(token.index, &token.id, token.epoch);
        claims.push(claim.unwrap());
        claims.push(one.ledger().establish().unwrap());
        claims.extend((0..2).map(|_| two.ledger().establish().unwrap()));
        // Its own token costs its exporter nothing more, and another one cannot pay for it.
        let token = claims.pop().unwrap().depart(u64::MAX).unwrap();
        claims.extend((0..2).map(|_| three.ledger().establish().unwrap()));
        assert!(matches!(three.ledger().establish(), Err(Error::Full)));
        let refused = one.ledger().arrive(token.index, &token.id, token.epoch);
        assert!(matches!(refused, Err(Refusal::Local(Error::Quota))));
        let claim = two.ledger().arrive(token.index, &token.id, token.epoch);
        claims.push(claim.unwrap());
        assert_eq!(two.ledger().list().len(), 8);
        assert_eq!(two.ledger().census().active, 8);
    });
    while keeper.turn(Some(Duration::ZERO)).unwrap() > 0 {}
    assert_eq!(keeper.members(), 0);
    assert_eq!(keeper.releases(|_| ()), 8);
}

//= proves spec/keeper.md#revoke
#[test]
fn an_operator_revokes_and_nobody_else_may() {
    let mut keeper = Keeper::new(&small(8)).unwrap();
    let (_, operator) = keeper.connect(Role::Operator).unwrap();
    let (_, member) = keeper.connect(Role::Member).unwrap();
    serve(&mut keeper, || {
        let [operator, member] = [operator, member].map(|socket| Domain::kept(socket).unwrap());
        let claim = member.ledger().establish().unwrap();
        let id = claim.id();
        assert!(!member.ledger().revoke(&id), "it may not");
        assert!(matches!(
            operator.ledger().establish(),
            Err(Error::NotPermitted)
        ));
        claim.check().unwrap();
        assert!(operator.ledger().revoke(&id));
        assert_eq!(claim.check(), Err(Lost::Revoked));
        assert!(!operator.ledger().revoke(&id));
        let stay = claim.depart(u64::MAX).unwrap_err().stay;
        assert_eq!(stay, Stay::Lost(Lost::Revoked));
    });
    let mut causes = Vec::new();
    keeper.releases(|release| causes.push(release.cause));
    assert_eq!(causes, [Cause::Revoked]);
}

//= proves spec/keeper.md#depart
#[test]
fn of_a_bundle_whose_first_context_is_gone_the_others_stay() {
    let mut keeper = Keeper::new(&small(8)).unwrap();
    let (_, operator) = keeper.connect(Role::Operator).unwrap();
    let (_, member) = keeper.connect(Role::Member).unwrap();
    serve(&mut keeper, || {
        let [operator, member] = [operator, member].map(|socket| Domain::kept(socket).unwrap());
        let terms = crate::ledger::Terms {
            importer: Permitted::Anyone,
            deadline: u64::MAX,
        };
        let three = || -> Vec<_> {
            let claim = |_| (member.ledger().establish().unwrap(), None);
            (0..3).map(claim).collect()
        };
        let claims = three();
        assert!(operator.ledger().revoke(&claims[0].0.id()));
        let stayed = crate::ledger::Claim::depart_all(claims, &terms);
        let stays: Vec<_> = stayed
            .iter()
            .map(|one| one.as_ref().unwrap_err().stay)
            .collect();
        assert_eq!(
            stays,
            [Stay::Lost(Lost::Revoked), Stay::Bundle, Stay::Bundle]
        );
        stayed
            .into_iter()
            .skip(1)
            .for_each(|one| one.unwrap_err().claim.check().unwrap());
        // A later one that is gone is alone.
        let claims = three();
        assert!(operator.ledger().revoke(&claims[1].0.id()));
        let left = crate::ledger::Claim::depart_all(claims, &terms);
        let outcomes: Vec<_> = left.iter().map(Result::is_ok).collect();
        assert_eq!(outcomes, [true, false, true]);
    });
}

//= proves spec/keeper.md#keys
#[test]
fn a_member_has_no_sealing_key() {
    let mut keeper = Keeper::new(&small(8)).unwrap();
    let (_, member) = keeper.connect(Role::Member).unwrap();
    serve(&mut keeper, || {
        let domain = Domain::kept(member).unwrap();
        assert!(domain.keyring().is_none() && domain.fds().is_none());
    });
}

//= proves spec/keeper.md#roles
#[test]
fn a_session_imports_one_context_and_is_not_asked_to_do_more() {
    let mut keeper = Keeper::new(&small(8)).unwrap();
    let (_, handshaker) = keeper.connect(Role::Handshaker).unwrap();
    let (_, session) = keeper.connect(Role::Session).unwrap();
    serve(&mut keeper, || {
        let [shaker, session] = [handshaker, session].map(|socket| Domain::kept(socket).unwrap());
        assert!(matches!(
            session.ledger().establish(),
            Err(Error::NotPermitted)
        ));
        let depart = |_| {
            shaker
                .ledger()
                .establish()
                .unwrap()
                .depart(u64::MAX)
                .unwrap()
        };
        let tokens: Vec<_> = (0..2).map(depart).collect();
        let arrive = |domain: &Domain, at: usize| {
            let token = &tokens[at];
            domain.ledger().arrive(token.index, &token.id, token.epoch)
        };
        let refused = arrive(&shaker, 0).map(drop).unwrap_err();
        assert!(matches!(refused, Refusal::Local(Error::NotPermitted)));
        let claim = arrive(&session, 0).unwrap();
        assert!(arrive(&session, 1).is_err());
        // It may hand the one it has on, and is asked for nothing else.
        claim.check().unwrap();
        claim.depart(u64::MAX).unwrap();
    });
    assert_eq!(keeper.census().transit, 2);
}

#[test]
fn a_thread_keeps_one_domain_and_a_child_none() {
    let keeper = Keeper::new(&small(8)).unwrap();
    assert!(Keeper::new(&small(8)).is_err());
    let mut child = match process::fork().unwrap() {
        process::Fork::Child => {
            let mut keeper = keeper;
            let refused = keeper.turn(None).is_err()
                && keeper.connect(Role::Member).is_err()
                && keeper.list().is_empty()
                && keeper.releases(|_| ()) == 0
                && !keeper.revoke(&[0; 16]);
            drop(keeper);
            process::exit_now(u8::from(!refused));
        }
        process::Fork::Parent(child) => child,
    };
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(keeper);
    Keeper::new(&small(8)).unwrap();
}

/// The book's memory follows what is in transit, not what ever was.
#[test]
fn a_hundred_thousand_hops_leave_nothing_behind() {
    let mut book = Book::default();
    let id = MemberId {
        index: 0,
        generation: 1,
    };
    for epoch in 1..100_000 {
        book.give(3, id, 1);
        assert_eq!(book.charged(id), 1);
        let terms = (Permitted::Anyone, None);
        book.send((3, epoch), u64::MAX - epoch, terms, None);
        assert_eq!(book.charged(id), 1);
    }
    assert!(book.waiting() < 4096, "{}", book.waiting());
    book.settle(3);
    assert_eq!(book.charged(id), 0);
    assert!(book.held(id).is_empty());
}

/// Who exported a context may be gone, and another have its place: what that one has stays its own.
//= proves spec/keeper.md#succession
#[test]
fn a_book_goes_on_with_what_those_have_left_who_are_gone() {
    let id = |index, generation| MemberId { index, generation };
    let (gone, here) = (id(0, 1), id(0, 2));
    let mut book = Book::default();
    book.give(7, gone, 1);
    let terms = (Permitted::Anyone, None);
    book.send((7, 1), 5, terms, None);
    book.give(3, here, 2);
    let is_here = |id| id == here;
    let mut book = Book::succeed(book.inventory(), 8, is_here).unwrap();
    assert_eq!((book.held(here).to_vec(), book.charged(here)), (vec![3], 1));
    assert_eq!((book.holder(3), book.payer(7)), (Some(here), Some(gone)));
    book.settle(7);
    book.give(7, here, 2);
    assert_eq!(
        (book.held(here).to_vec(), book.charged(here)),
        (vec![3, 7], 2)
    );
    book.settle(3);
    assert_eq!((book.held(here).to_vec(), book.charged(here)), (vec![7], 1));
}

/// An inventory that no book has written.
//= proves spec/keeper.md#succession
#[test]
fn a_book_that_cannot_be_is_none() {
    let id = MemberId {
        index: 0,
        generation: 1,
    };
    let of = |entries: &[u32], in_transit: bool| {
        let mut book = Book::default();
        for index in entries {
            book.give(*index, id, 1);
            if in_transit {
                let terms = (Permitted::Anyone, None);
                book.send((*index, 1), 5, terms, None);
            }
        }
        postcard::to_allocvec(&book.inventory()).unwrap()
    };
    let succeed = |bytes: &[u8], capacity, lives| {
        let inventory = postcard::from_bytes(bytes).unwrap();
        Book::succeed(inventory, capacity, |_| lives).is_some()
    };
    for in_transit in [false, true] {
        let one = of(&[3], in_transit);
        assert!(succeed(&one, 4, true));
        // Beyond the ledger.
        assert!(!succeed(&one, 3, true));
        // Of nobody: only what is in transit can be.
        assert_eq!(succeed(&one, 4, false), in_transit);
    }
    let mut twice = of(&[2, 3], false);
    assert!(succeed(&twice, 4, true));
    // The number of entries, one entry, and the second one's number.
    let second = 1 + (twice.len() - 2) / 2;
    assert_eq!(std::mem::replace(&mut twice[second], 2), 3);
    assert!(!succeed(&twice, 4, true));
}

/// A place that another connection has by now is not the one that was meant.
#[test]
fn a_connection_that_has_ended_is_ended_once() {
    let mut keeper = Keeper::new(&small(1)).unwrap();
    let (old, gone) = keeper.connect(Role::Member).unwrap();
    drop(gone);
    keeper.turn(None).unwrap();
    let (new, member) = keeper.connect(Role::Member).unwrap();
    assert_eq!(old.index, new.index);
    let (claimed, claim) = serve(&mut keeper, || {
        let domain = Domain::kept(member).unwrap();
        let claim = domain.ledger().establish().unwrap();
        (domain, claim)
    });
    keeper.remove(old);
    assert_eq!(keeper.book.charged(new), 1);
    assert_eq!(keeper.pid(new), Some(std::process::id()));
    keeper.remove(new);
    assert_eq!(claim.check(), Err(Lost::Ended));
    assert!(claimed.ledger().establish().is_err());
}

/// A process that comes by itself, and is known by the connection it made.
//= proves spec/keeper.md#peer
#[test]
fn a_connection_that_was_accepted_is_as_good() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    let mut keeper = Keeper::new(&small(8)).unwrap();
    let name = format!("baton-keeper-{}", std::process::id());
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
    let new = || rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let listener = new();
    socket::name_senders(&listener, true).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let far = new();
    rustix::net::connect(&far, &address).unwrap();
    // It greets before anybody has accepted it.
    socket::send_now(&far, b"\x01BTK\x01").unwrap();
    let near = rustix::net::accept(&listener).unwrap();
    let id = keeper.add(near, Role::Worker).unwrap();
    keeper.turn(None).unwrap();
    assert_eq!(keeper.pid(id), Some(std::process::id()));
    let mut welcome = [0; 64];
    let length = socket::recv_whole(&far, &mut welcome).unwrap();
    let welcome = wire::Welcome::read(&mut wire::Reader(&welcome[..length])).unwrap();
    assert_eq!(welcome.role, Role::Worker);
}

//= proves spec/keeper.md#hello
#[test]
fn a_greeting_can_ask_for_the_key_of_a_token_and_is_given_no_more_than_open_gives() {
    let mut keeper = Keeper::new(&small(8)).unwrap();
    let (_, member) = keeper.connect(Role::Member).unwrap();
    let (member, token) = serve(&mut keeper, || {
        let member = Domain::kept(member).unwrap();
        let token = member.ledger().establish().unwrap().depart(u64::MAX);
        (member, token.unwrap())
    });
    let key = keeper.secrets.id();
    let handle = keeper.secrets.handle(token.index, token.epoch);
    let mut other = handle;
    other[0] ^= 1;

    // The key is here: the keeper, which is not listening, is not asked.
    let (_, worker) = keeper.connect_for(Role::Worker, token.id).unwrap();
    let join = |socket, handle| move || Domain::kept_for(socket, Some(&handle)).unwrap();
    let worker = serve(&mut keeper, join(worker, handle));
    let opened = worker.ask_key(key, &handle).unwrap();
    assert_eq!(opened[..], keeper.secrets.key(&handle)[..]);

    // It is given once, for one departure; then, and where it was not given, OPEN answers.
    let (_, foreign) = keeper.connect_for(Role::Worker, [9; 16]).unwrap();
    let (_, astray) = keeper.connect(Role::Worker).unwrap();
    serve(&mut keeper, move || {
        assert!(worker.ask_key(key, &handle).is_ok());
        let foreign = Domain::kept_for(foreign, Some(&handle)).unwrap();
        let refused = foreign.ask_key(key, &handle);
        assert!(matches!(refused, Err(Refusal::Importer)));
        let astray = Domain::kept_for(astray, Some(&other)).unwrap();
        assert!(matches!(astray.ask_key(key, &other), Err(Refusal::Key)));
        assert!(astray.ask_key(key, &handle).is_ok());
    });

    // Who may not open may not ask so, either.
    for role in [Role::Handshaker, Role::Operator] {
        let (_, socket) = keeper.connect(role).unwrap();
        let refused = serve(&mut keeper, move || Domain::kept_for(socket, Some(&handle)));
        assert!(matches!(refused, Err(Error::Keeper)));
    }
    drop(member);
}

/// A connection whose number is another's by now pays for what it left in transit; what the other
/// one runs is remembered all the same.
//= proves spec/keeper.md#succession C4
#[test]
fn who_has_the_number_of_an_exporter_that_is_gone_keeps_what_it_runs() {
    let [gone, heir, alive] =
        [(0, 1), (0, 3), (1, 2)].map(|(index, generation)| MemberId { index, generation });
    let mut book = Book::default();
    let terms = (Permitted::Anyone, None);
    for (index, payer) in [(7, gone), (8, alive)] {
        book.give(index, payer, 10);
        book.send((index, 3), 1000, terms, None);
    }
    book.give(5, heir, 11);
    let is_member = |id| [heir, alive].contains(&id);
    let mut book = Book::succeed(book.inventory(), 16, is_member).unwrap();
    assert_eq!((book.held(heir).to_vec(), book.charged(heir)), (vec![5], 1));
    assert_eq!((book.held(alive).len(), book.charged(alive)), (0, 1));
    book.settle(7);
    book.settle(8);
    book.settle(5);
    assert_eq!((book.charged(heir), book.charged(alive)), (0, 0));
}
