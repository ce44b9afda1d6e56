//! Who may import, until when, and beside which socket (C6, C7).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use baton::context::Context;
use baton::message::Message;
use baton::record::Record;
use baton::status::{Major, Minor};
use baton::sys::process::{self, Identity};
use baton::transfer::{Export, Importer, import};
use support::{domain, forked, in_child, pair, pipe, talk};

/// Whether importing in this process is refused as another's; 0 is yes.
fn refused_here(domain: &baton::ledger::Domain, token: &[u8]) -> u8 {
    match import::<Message>(domain, token, None) {
        Err(status) if status.minor() == Minor::WrongImporter => {
            u8::from(status.major() != Major::Unauthorized)
        }
        Err(_) => 2,
        Ok(_) => 3,
    }
}

/// C6: really another user id.
//= proves spec/token.md#importer C6
#[test]
fn another_user_is_refused_and_the_token_kept() {
    if process::uid() != 0 {
        support::skip("another user's import needs root to change user");
        return;
    }
    let domain = domain();
    for importer in [Importer::SameUser, Importer::User(0)] {
        let (context, mut peer) = pair::<Message>(&domain);
        let token = context.export(&Export::default().to(importer)).unwrap();
        let code = in_child(|| {
            support::become_user(65_534);
            refused_here(&domain, token.as_bytes())
        });
        assert_eq!(code, Some(0), "{importer:?}");
        let mut context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
        talk(&mut context, &mut peer);
    }
    let (context, _peer) = pair::<Message>(&domain);
    let token = context
        .export(&Export::default().to(Importer::User(65_534)))
        .unwrap();
    assert_eq!(refused_here(&domain, token.as_bytes()), 0);
    let code = in_child(|| {
        support::become_user(65_534);
        u8::from(import::<Message>(&domain, token.as_bytes(), None).is_err())
    });
    assert_eq!(code, Some(0));
}

/// C6.
#[test]
fn another_process_group_is_refused_and_the_token_kept() {
    let domain = domain();
    let (context, mut peer) = pair::<Message>(&domain);
    let group = process::process_group();
    let token = context
        .export(&Export::default().to(Importer::ProcessGroup(group)))
        .unwrap();
    let code = in_child(|| {
        support::leave_process_group();
        refused_here(&domain, token.as_bytes())
    });
    assert_eq!(code, Some(0));
    let mut context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
    talk(&mut context, &mut peer);
}

/// C6: one process, and no later one of its number.
#[test]
fn another_process_is_refused_and_the_token_kept() {
    let domain = domain();
    let (context, _peer) = pair::<Message>(&domain);
    let (token_in, token_out) = pipe();
    let mut child = forked(|| {
        support::close_in_child(&token_out);
        let token = support::read_all(&token_in);
        u8::from(import::<Message>(&domain, &token, None).is_err())
    });
    let chosen = Identity::of(child.pid()).unwrap();
    let token = context
        .export(&Export::default().to(Importer::Process(chosen)))
        .unwrap();
    assert_eq!(refused_here(&domain, token.as_bytes()), 0);
    assert_eq!(
        in_child(|| refused_here(&domain, token.as_bytes())),
        Some(0)
    );
    support::write_all(&token_out, token.as_bytes());
    drop(token_out);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    // The same number, started at another time: another process.
    let own = Identity::own().unwrap();
    let namesake = Identity {
        started: own.started.wrapping_sub(1),
        ..own
    };
    let (context, mut peer) = pair::<Message>(&domain);
    let token = context
        .export(&Export::default().to(Importer::Process(namesake)))
        .unwrap();
    assert_eq!(refused_here(&domain, token.as_bytes()), 0);
    let (context, mut other_peer) = pair::<Message>(&domain);
    let token = context
        .export(&Export::default().to(Importer::Process(own)))
        .unwrap();
    let mut context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
    talk(&mut context, &mut other_peer);
    let _ = &mut peer;
}

/// C7: a token past its deadline is NO_CONTEXT, and its context is found ended.
#[test]
fn an_expired_token_is_refused_and_its_context_ended() {
    let domain = domain();
    let (context, _peer) = pair::<Message>(&domain);
    let token = context
        .export(&Export::default().within(Duration::ZERO))
        .unwrap();
    let refused = import::<Message>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(
        (refused.major(), refused.minor()),
        (Major::NoContext, Minor::TokenExpired)
    );
    domain.ledger().sweep().unwrap();
    let refused = import::<Message>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(refused.major(), Major::NoContext);
}

/// C5: tied to a socket, beside none, beside another, beside a copy of its own.
#[test]
fn a_tied_token_imports_beside_its_socket_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    let domain = domain();
    let (context, mut peer) = pair::<Record>(&domain);
    let how = Export::default().tied_to(near.as_fd()).unwrap();
    let token = context.export(&how).unwrap();
    for wrong in [None, Some(far.as_fd()), Some(listener.as_fd())] {
        let refused = import::<Record>(&domain, token.as_bytes(), wrong).unwrap_err();
        assert_eq!(
            (refused.major(), refused.minor()),
            (Major::Unauthorized, Minor::WrongSocket)
        );
    }
    let copy = near.try_clone().unwrap();
    let mut context: Context<Record> =
        import(&domain, token.as_bytes(), Some(copy.as_fd())).unwrap();
    talk(&mut context, &mut peer);
}
