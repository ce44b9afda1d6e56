//! One runner in a kept domain (C1, C3, C4, C6, C8): the promises of the others, with a keeper.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod keeping;
mod support;

use std::time::Duration;

use baton::context::Context;
use baton::ledger::keeper::Role;
use baton::ledger::{Cause, Domain};
use baton::message::Message;
use baton::record::Record;
use baton::status::{Major, Minor};
use baton::sys::process::{self, Identity};
use baton::transfer::{Export, Importer, import};
use keeping::Keeping;
use support::{Talk, forked, in_child, pair, pipe, talk};

fn once_in_this_process<F: Talk>() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (context, mut peer) = pair::<F>(&domain);
    let id = context.session_identifier();
    let token = context.export(&Export::default()).unwrap();
    let mut context: Context<F> = import(&domain, token.as_bytes(), None).unwrap();
    assert_eq!(context.session_identifier(), id);
    assert_eq!(context.facts().hops, 1);
    talk(&mut context, &mut peer);
    let second = import::<F>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(
        (second.major(), second.minor()),
        (Major::NoContext, Minor::TokenSpent)
    );
    talk(&mut context, &mut peer);
    drop(context);
    let releases = keeping.releases(1);
    assert_eq!(releases.len(), 1);
    assert_eq!(
        (releases[0].id, releases[0].cause),
        (*id.as_bytes(), Cause::Closed)
    );
    assert_eq!(releases[0].pid, process::pid());
}

//= proves spec/keeper.md#establish C1
//= proves spec/keeper.md#depart C1
//= proves spec/keeper.md#open C3
//= proves spec/keeper.md#arrive C3
//= proves spec/keeper.md#end
//= proves spec/keeper.md#grant
//= proves spec/keeper.md#hello
#[test]
fn a_token_of_a_kept_domain_imports_once() {
    once_in_this_process::<Message>();
    once_in_this_process::<Record>();
}

/// C2, C8: through processes that are connected each for itself.
#[test]
fn a_context_hops_through_processes_and_outlives_its_exporters() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Handshaker);
    let (context, mut peer) = pair::<Record>(&domain);
    let mut token = context.export(&Export::default()).unwrap().into_bytes();
    for hop in 0..3 {
        let socket = keeping.connect(Role::Worker);
        let (from_child, to_parent) = pipe();
        let mut child = forked(|| {
            let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
            let mut context: Context<Record> = import(&domain, &token, None).unwrap();
            let said = Record::say(&mut context, b"on the way").unwrap();
            let token = context.export(&Export::default()).unwrap();
            support::write_all(&to_parent, token.as_bytes());
            support::write_all(&to_parent, &said);
            0
        });
        drop((to_parent, socket));
        let all = support::read_all(&from_child);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{hop}");
        let (next, said) = all.split_at(512);
        assert_eq!(
            Record::hear(&mut peer, said.to_vec()).unwrap(),
            b"on the way"
        );
        token = next.to_vec();
    }
    // They are gone, and what they exported is not.
    keeping.wait_members(1);
    let here = keeping.domain(Role::Session);
    let mut context: Context<Record> = import(&here, &token, None).unwrap();
    assert_eq!(context.facts().hops, 4);
    talk(&mut context, &mut peer);
    assert!(keeping.releases(0).is_empty());
}

/// C3.
#[test]
fn a_rolled_back_token_of_a_kept_domain_is_refused() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (context, mut peer) = pair::<Message>(&domain);
    let first = context.export(&Export::default()).unwrap();
    let context: Context<Message> = import(&domain, first.as_bytes(), None).unwrap();
    let second = context.export(&Export::default()).unwrap();
    let refused = import::<Message>(&domain, first.as_bytes(), None).unwrap_err();
    assert_eq!(refused.minor(), Minor::TokenSpent);
    let mut context: Context<Message> = import(&domain, second.as_bytes(), None).unwrap();
    for old in [&first, &second] {
        let refused = import::<Message>(&domain, old.as_bytes(), None).unwrap_err();
        assert_eq!(refused.minor(), Minor::TokenSpent);
    }
    talk(&mut context, &mut peer);
    context.check().unwrap();
    // Two domains: neither opens the other's, and neither do those whose members have the keys.
    let token = context.export(&Export::default()).unwrap();
    let (other, inherited) = (Keeping::new(), support::domain());
    for stranger in [other.domain(Role::Worker), inherited.clone()] {
        let refused = import::<Message>(&stranger, token.as_bytes(), None).unwrap_err();
        assert_eq!(refused.minor(), Minor::TokenKey);
    }
    let (context, _peer) = pair::<Message>(&inherited);
    let foreign = context.export(&Export::default()).unwrap();
    let refused = import::<Message>(&domain, foreign.as_bytes(), None).unwrap_err();
    assert_eq!(refused.minor(), Minor::TokenKey);
    import::<Message>(&domain, token.as_bytes(), None).unwrap();
}

/// C3: eight processes, twenty rounds, one winner each.
//= proves spec/keeper.md#arrive C3
#[test]
fn of_racing_importers_of_a_kept_domain_one_wins() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Handshaker);
    for round in 0..20 {
        let (context, mut peer) = pair::<Message>(&domain);
        let token = context.export(&Export::default()).unwrap();
        let sockets: Vec<_> = (0..8).map(|_| keeping.connect(Role::Worker)).collect();
        let (start, starter) = pipe();
        let (won, winner) = pipe();
        let racers: Vec<_> = sockets
            .iter()
            .map(|socket| {
                forked(|| {
                    support::close_in_child(&starter);
                    let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
                    support::wait_for_end(&start);
                    match import::<Message>(&domain, token.as_bytes(), None) {
                        Ok(mut context) => {
                            let said = Message::say(&mut context, b"mine").unwrap();
                            support::write_all(&winner, &said);
                            0
                        }
                        Err(status) => u8::from(status.major() == Major::NoContext),
                    }
                })
            })
            .collect();
        drop((start, starter, winner, sockets));
        let codes: Vec<_> = racers
            .into_iter()
            .map(|mut child| child.wait().unwrap().code())
            .collect();
        let won_by = codes.iter().filter(|code| **code == Some(0)).count();
        let lost_by = codes.iter().filter(|code| **code == Some(1)).count();
        assert_eq!((won_by, lost_by), (1, 7), "round {round}: {codes:?}");
        let said = support::read_all(&won);
        assert_eq!(Message::hear(&mut peer, said).unwrap(), b"mine");
        // The winner left without a word, and took its context with it.
        assert_eq!(keeping.releases(1).len(), 1);
    }
}

/// C3: the copy is dead, cannot ask, and takes nothing from its parent.
//= proves spec/keeper.md#peer C3
#[test]
fn a_forked_child_has_no_part_in_its_parents_connection() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (mut context, mut peer) = pair::<Message>(&domain);
    let (idle, mut idle_peer) = pair::<Message>(&domain);
    let token = idle.export(&Export::default()).unwrap();
    let code = in_child(|| {
        let said = Message::say(&mut context, b"never").unwrap_err();
        assert_eq!(said.minor(), Minor::ContextForked);
        let refused = import::<Message>(&domain, token.as_bytes(), None).unwrap_err();
        assert_eq!(refused.minor(), Minor::DomainRefused);
        assert!(domain.ledger().establish().is_err());
        0
    });
    assert_eq!(code, Some(0));
    talk(&mut context, &mut peer);
    let mut idle: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
    talk(&mut idle, &mut idle_peer);
}

/// What a process with a connection of its own is answered: 0 when it is refused as another's.
fn refused_at(socket: &std::os::fd::OwnedFd, token: &[u8], prepare: impl FnOnce()) -> u8 {
    let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
    // After the greeting: what counts is what the process is when it asks.
    prepare();
    match import::<Message>(&domain, token, None) {
        Err(status) if status.minor() == Minor::WrongImporter => 0,
        Err(_) => 2,
        Ok(_) => 3,
    }
}

/// C6: another user, another group, another process; none spends the token.
//= proves spec/keeper.md#importer C6
#[test]
fn who_is_not_permitted_is_refused_by_the_keeper_and_the_token_kept() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let token_for = |importer| {
        let (context, peer) = pair::<Message>(&domain);
        let how = Export::default().to(importer);
        (context.export(&how).unwrap(), peer)
    };
    let own = Identity::own().unwrap();
    let group = Importer::ProcessGroup(process::process_group());
    let mut cases: Vec<(Importer, fn())> = vec![
        (group, support::leave_process_group),
        (Importer::Process(own), || ()),
    ];
    if process::uid() == 0 {
        cases.push((Importer::SameUser, || support::become_user(65_534)));
        cases.push((Importer::User(0), || support::become_user(65_534)));
    } else {
        support::skip("another user's import needs root to change user");
    }
    for (importer, prepare) in cases {
        let (token, mut peer) = token_for(importer);
        let socket = keeping.connect(Role::Worker);
        let code = in_child(|| refused_at(&socket, token.as_bytes(), prepare));
        assert_eq!(code, Some(0), "{importer:?}");
        let mut context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
        talk(&mut context, &mut peer);
    }
    // One process, chosen before it is connected; and the same number of another time.
    let socket = keeping.connect(Role::Session);
    let (token_in, token_out) = pipe();
    let mut child = forked(|| {
        support::close_in_child(&token_out);
        let domain = Domain::kept(socket.try_clone().unwrap()).unwrap();
        let token = support::read_all(&token_in);
        u8::from(import::<Message>(&domain, &token, None).is_err())
    });
    let (token, _peer) = token_for(Importer::Process(Identity::of(child.pid()).unwrap()));
    let refused = import::<Message>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(
        (refused.major(), refused.minor()),
        (Major::Unauthorized, Minor::WrongImporter)
    );
    support::write_all(&token_out, token.as_bytes());
    drop(token_out);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let namesake = Identity {
        started: own.started.wrapping_sub(1),
        ..own
    };
    let (token, _peer) = token_for(Importer::Process(namesake));
    let refused = import::<Message>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(refused.minor(), Minor::WrongImporter);
}

/// C7: the keeper ends what is late, also when nobody asks.
//= proves spec/keeper.md#releases
#[test]
fn an_expired_token_of_a_kept_domain_is_released() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (context, _peer) = pair::<Message>(&domain);
    let id = *context.session_identifier().as_bytes();
    let how = Export::default().within(Duration::from_millis(30));
    let token = context.export(&how).unwrap();
    let releases = keeping.releases(1);
    assert_eq!((releases[0].id, releases[0].cause), (id, Cause::Expired));
    assert_eq!(releases[0].pid, process::pid());
    let refused = import::<Message>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(refused.major(), Major::NoContext);
    assert!(keeping.releases(0).is_empty(), "told once");
}

/// C5: tied to a socket.
#[test]
fn a_tied_token_of_a_kept_domain_imports_beside_its_socket_only() {
    use std::os::fd::AsFd;
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let (context, mut peer) = pair::<Record>(&domain);
    let how = Export::default().tied_to(near.as_fd()).unwrap();
    let token = context.export(&how).unwrap();
    for wrong in [None, Some(far.as_fd())] {
        let refused = import::<Record>(&domain, token.as_bytes(), wrong).unwrap_err();
        assert_eq!(refused.minor(), Minor::WrongSocket);
    }
    let mut context: Context<Record> =
        import(&domain, token.as_bytes(), Some(near.as_fd())).unwrap();
    talk(&mut context, &mut peer);
}

/// C8: with traffic between the hops.
#[test]
fn ten_thousand_hops_in_a_kept_domain() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    let (mut context, mut peer) = pair::<Message>(&domain);
    for i in 0..10_000_u32 {
        let text = i.to_be_bytes();
        let from_peer = Message::say(&mut peer, &text).unwrap();
        let ours = Message::say(&mut context, &text).unwrap();
        let token = context.export(&Export::default()).unwrap();
        context = import(&domain, token.as_bytes(), None).unwrap();
        assert_eq!(Message::hear(&mut context, from_peer).unwrap(), text);
        assert_eq!(Message::hear(&mut peer, ours).unwrap(), text);
    }
    assert_eq!(context.facts().hops, 10_000);
    assert!(keeping.releases(0).is_empty());
}

/// Threads of one member share its connection.
#[test]
fn threads_of_one_member_hop_at_once() {
    let keeping = Keeping::new();
    let domain = keeping.domain(Role::Member);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (mut context, mut peer) = pair::<Message>(&domain);
                for _ in 0..200 {
                    let token = context.export(&Export::default()).unwrap();
                    context = import(&domain, token.as_bytes(), None).unwrap();
                    drop(domain.ledger().establish().unwrap());
                }
                talk(&mut context, &mut peer);
            });
        }
    });
    let mut releases = keeping.releases(804);
    assert!(
        releases
            .iter()
            .all(|release| release.cause == Cause::Closed)
    );
    releases.sort_by_key(|release| release.id);
    releases.dedup_by_key(|release| release.id);
    assert_eq!(releases.len(), 804, "each once");
    assert_eq!(keeping.census().active, 0);
}
