//! One runner (C1, C3, C8): whatever is copied, forked or raced, one context at most works.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use baton::context::Context;
use baton::message::Message;
use baton::record::Record;
use baton::status::{Major, Minor};
use baton::transfer::{Export, import};
use support::{Talk, domain, forked, in_child, pair, pipe, talk};

fn once_in_this_process<F: Talk>() {
    let domain = domain();
    let (context, mut peer) = pair::<F>(&domain);
    let id = context.session_identifier();
    let token = context.export(&Export::default()).unwrap();
    let mut context: Context<F> = import(&domain, token.as_bytes(), None).unwrap();
    assert_eq!(context.session_identifier(), id);
    assert_eq!(context.facts().hops, 1);
    talk(&mut context, &mut peer);
    //= proves spec/token.md#refusal C3
    let second = import::<F>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(
        (second.major(), second.minor()),
        (Major::NoContext, Minor::TokenSpent)
    );
    talk(&mut context, &mut peer);
}

/// C1, C3.
#[test]
fn a_token_imports_once() {
    once_in_this_process::<Message>();
    once_in_this_process::<Record>();
}

fn goes_on_in_a_child<F: Talk>() {
    let domain = domain();
    let (context, mut peer) = pair::<F>(&domain);
    let token = context.export(&Export::default()).unwrap();
    let (from_child, to_parent) = pipe();
    let mut child = forked(|| {
        let mut context: Context<F> = import(&domain, token.as_bytes(), None).unwrap();
        support::write_all(
            &to_parent,
            &F::say(&mut context, b"from the child").unwrap(),
        );
        let token = context.export(&Export::default()).unwrap();
        support::write_all(&to_parent, token.as_bytes());
        0
    });
    drop(to_parent);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let all = support::read_all(&from_child);
    let (said, token) = all.split_at(all.len() - 512);
    assert_eq!(
        F::hear(&mut peer, said.to_vec()).unwrap(),
        b"from the child"
    );
    // The exporter of this token has ended; what it exported goes on (import after its restart).
    let mut context: Context<F> = import(&domain, token, None).unwrap();
    assert_eq!(context.facts().hops, 2);
    talk(&mut context, &mut peer);
}

/// C2, C8: through a process that has ended since.
#[test]
fn a_context_outlives_the_process_that_exported_it() {
    goes_on_in_a_child::<Message>();
    goes_on_in_a_child::<Record>();
}

/// C3: an older hop's token.
#[test]
fn a_rolled_back_token_is_refused() {
    let domain = domain();
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
}

/// C3: sixteen processes, two hundred rounds, one winner each.
#[test]
fn of_sixteen_racing_importers_one_wins() {
    let domain = domain();
    for round in 0..200 {
        let (context, mut peer) = pair::<Message>(&domain);
        let token = context.export(&Export::default()).unwrap();
        let (start, starter) = pipe();
        let (won, winner) = pipe();
        let racers: Vec<_> = (0..16)
            .map(|_| {
                forked(|| {
                    support::close_in_child(&starter);
                    support::wait_for_end(&start);
                    match import::<Message>(&domain, token.as_bytes(), None) {
                        Ok(mut context) => {
                            let said = Message::say(&mut context, b"mine").unwrap();
                            support::write_all(&winner, &said);
                            0
                        }
                        Err(status) if status.minor() == Minor::TokenSpent => 1,
                        // The winner has ended its context before this one came.
                        Err(status) if status.minor() == Minor::ContextEnded => 1,
                        Err(_) => 2,
                    }
                })
            })
            .collect();
        drop((start, starter, winner));
        let codes: Vec<_> = racers
            .into_iter()
            .map(|mut child| child.wait().unwrap().code())
            .collect();
        assert_eq!(
            codes.iter().filter(|c| **c == Some(0)).count(),
            1,
            "round {round}: {codes:?}"
        );
        assert_eq!(
            codes.iter().filter(|c| **c == Some(1)).count(),
            15,
            "round {round}: {codes:?}"
        );
        assert_eq!(
            Message::hear(&mut peer, support::read_all(&won)).unwrap(),
            b"mine"
        );
    }
}

fn a_forked_copy_is_dead<F: Talk>() {
    let domain = domain();
    let (mut context, mut peer) = pair::<F>(&domain);
    let code = in_child(|| {
        let said = F::say(&mut context, b"never").unwrap_err();
        assert_eq!(said.minor(), Minor::ContextForked);
        let heard = F::hear(&mut context, vec![0; 64]).unwrap_err();
        assert_eq!(heard.minor(), Minor::ContextForked);
        assert!(context.check().is_err() && context.time_left().is_err());
        assert!(context.channel_binding().is_err());
        // Dropped here, it ends nothing and wipes nothing of the parent's.
        0
    });
    assert_eq!(code, Some(0));
    talk(&mut context, &mut peer);
    // Grandchildren no less.
    assert_eq!(
        in_child(|| in_child(|| u8::from(context.check().is_ok())).unwrap() as u8),
        Some(0)
    );
    talk(&mut context, &mut peer);
}

/// C3: a forked copy of an exporter-to-be, and of an importer.
#[test]
fn a_forked_copy_of_a_context_is_dead() {
    a_forked_copy_is_dead::<Message>();
    a_forked_copy_is_dead::<Record>();
}

/// C3: of a context and its forked copy, only the original exports.
#[test]
fn when_both_sides_of_a_fork_export_one_token_comes_out() {
    let domain = domain();
    let (context, mut peer) = pair::<Message>(&domain);
    let mut context = Some(context);
    let code = in_child(|| {
        let refused = context
            .take()
            .unwrap()
            .export(&Export::default())
            .unwrap_err();
        assert_eq!(refused.status.major(), Major::NoContext);
        drop(refused);
        0
    });
    assert_eq!(code, Some(0));
    let token = context.take().unwrap().export(&Export::default()).unwrap();
    let mut context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
    talk(&mut context, &mut peer);
}

/// C3: the copy of an importer.
#[test]
fn a_fork_after_import_copies_nothing_that_works() {
    let domain = domain();
    let (context, mut peer) = pair::<Record>(&domain);
    let token = context.export(&Export::default()).unwrap();
    let mut context: Context<Record> = import(&domain, token.as_bytes(), None).unwrap();
    let code = in_child(|| u8::from(Record::say(&mut context, b"twice").is_ok()));
    assert_eq!(code, Some(0));
    talk(&mut context, &mut peer);
}

/// C1: nothing of the exporter's keys is left to use; what is told of it is nothing.
#[test]
fn an_ended_context_leaves_nothing_to_import() {
    let domain = domain();
    let (context, _peer) = pair::<Message>(&domain);
    let token = context.export(&Export::default()).unwrap();
    let context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
    drop(context);
    let refused = import::<Message>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(refused.major(), Major::NoContext);
}
