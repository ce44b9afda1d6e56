//! A half-built context, its credential and its tickets belong to one process.

#![allow(clippy::unwrap_used, clippy::panic)]

mod parties;
mod support;

use std::sync::Arc;
use std::time::Duration;

use baton::cred::{InitiatorCredential, Password};
use baton::establish::{Acceptor, Attempt, Initiator, Step, Verdict};
use baton::ledger::Domain;
use baton::message::Message;
use baton::record::Record;
use baton::status::Minor;
use parties::*;
use support::in_child;

/// Runs `f` in a forked child, where it has to be so.
fn holds_in_child(f: impl FnOnce() -> bool) {
    assert_eq!(in_child(|| u8::from(!f())), Some(0));
}

//= proves spec/mechanism.md#one-process C3 C11
#[test]
fn a_forked_copy_of_a_half_built_context_is_dead() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = configs(&authority);
    let passwords = |_: &Attempt<'_>| Verdict::Again;
    let credential = InitiatorCredential::from_password(Password::new("ada", "x").unwrap());
    let (acceptor, initiator) = build((
        acceptor.anonymous(false).passwords(Arc::new(passwords), 2),
        initiator.credential(credential),
    ));
    let forked = Some(Minor::ContextForked);
    let initiator = Initiator::<Message>::new(initiator, target()).unwrap();
    let acceptor = Acceptor::<Message>::new(acceptor);

    // Before each step of either side a child tries it with its copy, and the parent goes on.
    macro_rules! step {
        ($side:ident, $input:expr) => {{
            let (mut side, input) = (Some($side), $input);
            holds_in_child(|| {
                let failed = side.take().unwrap().step(&input).err();
                failed.map(|failed| failed.status.minor()) == forked
            });
            side.unwrap().step(&input).unwrap()
        }};
    }
    let Step::Continue {
        next: initiator,
        output,
    } = step!(initiator, Vec::new())
    else {
        panic!()
    };
    let Step::Continue {
        next: acceptor,
        output,
    } = step!(acceptor, output)
    else {
        panic!()
    };
    let Step::Continue {
        next: initiator,
        output,
    } = step!(initiator, output)
    else {
        panic!()
    };
    let Step::Continue {
        next: acceptor,
        output,
    } = step!(acceptor, output)
    else {
        panic!()
    };
    let Step::Password(asked) = step!(initiator, output) else {
        panic!()
    };
    let password = Password::new("ada", "y").unwrap();
    let mut asked = Some(asked);
    holds_in_child(|| {
        let failed = asked.take().unwrap().answer(&password).err();
        failed.map(|failed| failed.status.minor()) == forked
    });
    let (initiator, output) = asked.unwrap().answer(&password).unwrap();
    drop(initiator);
    let failed = acceptor.step(&output).err().unwrap();
    assert_eq!(failed.status.minor(), Minor::PasswordRefused);
}

//= proves spec/mechanism.md#one-process C3
#[test]
fn a_forked_copy_of_a_finished_handshake_is_dead() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = build(configs(&authority));
    let initiator = Initiator::<Record>::new(initiator, target()).unwrap();
    let (acceptor, initiator) = records(Acceptor::new(acceptor), initiator, 1 << 16).both();
    let domain = Domain::inherited(8).unwrap();
    let mut acceptor = Some(acceptor);
    holds_in_child(|| {
        let refused = acceptor.take().unwrap().activate(&domain).err().unwrap();
        refused.error.minor() == Minor::ContextForked
    });
    // The child has dropped its copy: the parent's is as it was.
    let mut acceptor = acceptor.unwrap().activate(&domain).unwrap();
    let mut initiator = initiator.activate(&domain).unwrap();
    let mut wire = Vec::new();
    acceptor.seal(b"still here", &mut wire).unwrap();
    assert!(initiator.open(&mut wire).is_ok());
}

//= proves spec/mechanism.md#one-process
#[test]
fn a_forked_process_has_no_private_key_and_no_password() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = build(configs(&authority));
    let password = Password::new("ada", "secret").unwrap();
    let (_, with_password) = build({
        let (acceptor, initiator) = configs(&authority);
        let credential = InitiatorCredential::from_password(password);
        (acceptor, initiator.credential(credential))
    });
    holds_in_child(|| {
        let refused = Initiator::<Message>::new(with_password, target()).err();
        assert_eq!(refused.unwrap().status().minor(), Minor::CredentialMissing);
        let initiator = Initiator::<Record>::new(initiator, target()).unwrap();
        let Ok(Step::Continue { output, .. }) = initiator.step(&[]) else {
            panic!()
        };
        let failed = Acceptor::<Record>::new(acceptor)
            .step(&output)
            .err()
            .unwrap();
        failed.status.minor() == Minor::CredentialMissing
    });
}

//= proves spec/mechanism.md#resumption
#[test]
fn a_forked_process_neither_takes_nor_gives_tickets() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = configs(&authority);
    let (acceptor, initiator) = build((
        acceptor.resumption(Duration::from_secs(3600)),
        initiator.resumption(true),
    ));
    let run = || {
        let initiator = Initiator::<Message>::new(initiator.clone(), target()).unwrap();
        messages(Acceptor::new(acceptor.clone()), initiator, no_password)
    };
    assert!(!run().both().0.facts().resumed);
    assert!(run().both().0.facts().resumed);
    let again = authority.server();
    holds_in_child(|| {
        // A configuration of the parent's is of no use to the child, and its own has other keys:
        // the tickets that the initiator has are not taken.
        let credential = again.acceptor();
        let acceptor = baton::establish::AcceptorConfig::builder(credential)
            .anonymous(true)
            .resumption(Duration::from_secs(3600))
            .build()
            .unwrap();
        let initiator = Initiator::<Message>::new(initiator.clone(), target()).unwrap();
        let acceptor = Acceptor::new(Arc::new(acceptor));
        let resumed = messages(acceptor, initiator, no_password).both();
        !resumed.0.facts().resumed && run().acceptor.is_err()
    });
    assert!(run().both().0.facts().resumed);
}
