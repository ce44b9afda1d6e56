//! Who decides about a peer's certificates: the check of their path, the application's validation,
//! or, passed through the handshake, the application afterwards. And the session cache's part.

#![allow(clippy::unwrap_used, clippy::panic)]

mod parties;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use baton::establish::{
    Acceptor, AcceptorConfig, ClientCertificates, Decision, Initiator, InitiatorConfig, Presented,
    SessionCache, Standing, Validation,
};
use baton::flags::Flags;
use baton::ledger::Domain;
use baton::message::Message;
use baton::record::{Read, Record};
use baton::status::Minor;
use parties::*;

type Configs = (Arc<AcceptorConfig>, Arc<InitiatorConfig>);

fn meet((acceptor, initiator): &Configs) -> Ends<Record> {
    let initiator = Initiator::<Record>::new(initiator.clone(), target()).unwrap();
    records(Acceptor::new(acceptor.clone()), initiator, 1 << 16)
}

fn minor<T>(end: Result<T, baton::establish::Failed>) -> Result<T, Minor> {
    end.map_err(|failed| failed.status.minor())
}

//= proves spec/mechanism.md#pass-through E5
#[test]
fn passed_through_any_certificate_is_the_applications_to_judge() {
    let (authority, other) = (Authority::new("ours"), Authority::new("not ours"));
    let known = authority.client("ada");
    let stranger = other.client("eve");
    for (identity, anchors, standing) in [
        (&known, Some(authority.anchors()), Standing::Checked),
        (&known, None, Standing::Unproved),
        (&stranger, Some(authority.anchors()), Standing::Unproved),
    ] {
        let (acceptor, initiator) = configs(&authority);
        let acceptor = acceptor.client_certificates(ClientCertificates::PassThrough(anchors));
        let configs = build((acceptor, initiator.credential(identity.initiator())));
        let (accepted, _) = meet(&configs).both();
        assert_eq!(accepted.standing(), standing);
        assert_eq!(accepted.peer_chain().count(), 1);
        let facts = accepted.facts();
        assert!(facts.peer_certificate.is_some());
        let vouched = standing == Standing::Checked;
        assert_eq!(facts.initiator_name.is_some(), vouched);
        assert_eq!(facts.flags.contains(Flags::ANONYMOUS), !vouched);
        assert!(
            facts
                .time_left(facts.established)
                .is_none_or(|left| left > 0)
        );
    }
    // Nobody needs one.
    let (acceptor, initiator) = configs(&authority);
    let acceptor = acceptor.client_certificates(ClientCertificates::PassThrough(None));
    let (accepted, _) = meet(&build((acceptor, initiator))).both();
    assert_eq!(accepted.peer_chain().count(), 0);
}

//= proves spec/mechanism.md#pass-through E5
#[test]
fn in_message_framing_a_certificate_nobody_vouches_for_is_none() {
    let (authority, other) = (Authority::new("ours"), Authority::new("not ours"));
    for (identity, expected) in [
        (authority.client("ada"), Ok(())),
        (other.client("eve"), Err(Minor::CertificateMissing)),
    ] {
        let (acceptor, initiator) = configs(&authority);
        let clients = ClientCertificates::PassThrough(Some(authority.anchors()));
        let acceptor = acceptor.client_certificates(clients);
        let (ours, theirs) = build((acceptor, initiator.credential(identity.initiator())));
        let initiator = Initiator::<Message>::new(theirs, target()).unwrap();
        let ends = messages(Acceptor::new(ours), initiator, no_password);
        assert_eq!(minor(ends.acceptor.map(drop)), expected);
    }
}

/// What a validation answers, and how often it was asked.
fn answering(answer: fn(&Presented<'_>) -> Decision) -> (Arc<dyn Validation>, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let validation = move |presented: &Presented<'_>| {
        count.fetch_add(1, Ordering::Relaxed);
        assert!(presented.chain().count() == 1 && presented.chain().all(|der| !der.is_empty()));
        answer(presented)
    };
    (Arc::new(validation), asked)
}

//= proves spec/mechanism.md#validation E5
#[test]
fn the_applications_validation_has_the_last_word_about_initiators() {
    let (authority, other) = (Authority::new("ours"), Authority::new("not ours"));
    let path: fn(&Presented<'_>) -> Decision = |presented| match presented.path() {
        Ok(()) => Decision::Accept,
        Err(_) => Decision::Refuse,
    };
    let anybody: fn(&Presented<'_>) -> Decision = |_| Decision::Accept;
    let nobody: fn(&Presented<'_>) -> Decision = |_| Decision::Refuse;
    let panics: fn(&Presented<'_>) -> Decision = |_| panic!("in a validation");
    let (ada, eve) = (authority.client("ada"), other.client("eve"));
    for (identity, answer, expected) in [
        (&ada, path, Ok(Standing::Checked)),
        (&eve, path, Err(Minor::CertificateRefused)),
        (&ada, anybody, Ok(Standing::Checked)),
        (&eve, anybody, Ok(Standing::Accepted)),
        (&ada, nobody, Err(Minor::CertificateRefused)),
        (&ada, panics, Err(Minor::CertificateRefused)),
        (&eve, panics, Err(Minor::CertificateRefused)),
    ] {
        for clients in [
            ClientCertificates::Required(authority.anchors()),
            ClientCertificates::PassThrough(Some(authority.anchors())),
        ] {
            let (validation, asked) = answering(answer);
            let (acceptor, initiator) = configs(&authority);
            let acceptor = acceptor.client_certificates(clients).validation(validation);
            let initiator = initiator.credential(identity.initiator());
            let ends = meet(&build((acceptor, initiator)));
            let accepted = minor(ends.acceptor);
            assert_eq!(asked.load(Ordering::Relaxed), 1);
            match accepted {
                Ok(finished) => {
                    assert_eq!(Ok(finished.standing()), expected);
                    assert!(finished.facts().initiator_name.is_some());
                }
                Err(minor) => assert_eq!(Err(minor), expected),
            }
        }
    }
}

//= proves spec/mechanism.md#validation E5
#[test]
fn the_applications_validation_has_the_last_word_about_acceptors() {
    let (authority, other) = (Authority::new("ours"), Authority::new("not ours"));
    let anybody: fn(&Presented<'_>) -> Decision = |_| Decision::Accept;
    let nobody: fn(&Presented<'_>) -> Decision = |_| Decision::Refuse;
    for (anchors, answer, expected) in [
        (authority.anchors(), anybody, Ok(Standing::Checked)),
        (other.anchors(), anybody, Ok(Standing::Accepted)),
        (authority.anchors(), nobody, Err(Minor::CertificateRefused)),
    ] {
        let (validation, _) = answering(answer);
        let (acceptor, _) = configs(&authority);
        let initiator = InitiatorConfig::builder(anchors).validation(validation);
        let ends = meet(&build((acceptor, initiator)));
        let standing = minor(ends.initiator).map(|finished| finished.standing());
        assert_eq!(standing, expected);
    }
}

/// One session, in which the initiator takes its tickets. Whether it was resumed.
fn session(configs: &Configs) -> (bool, baton::establish::Resumable) {
    let domain = Domain::inherited(4).unwrap();
    let ends = meet(configs);
    let late = ends.late.clone();
    let (accepted, initiated) = ends.both();
    let resumable = accepted.resumable().unwrap();
    let resumed = accepted.facts().resumed;
    assert_eq!(initiated.facts().resumed, resumed);
    assert!(initiated.resumable().is_some());
    let mut context = initiated.activate(&domain).unwrap();
    assert_eq!(context.feed(&late).unwrap(), late.len());
    let read = context.read(&mut [0; 16]).unwrap();
    assert!(matches!(read, Read::Incomplete { .. }));
    (resumed, resumable)
}

//= proves spec/mechanism.md#session-cache E6
#[test]
fn a_session_is_dropped_from_its_cache_and_the_others_are_not() {
    let authority = Authority::new("ours");
    let cache = SessionCache::new(Duration::from_secs(3600));
    let (acceptor, _) = configs(&authority);
    let acceptor = Arc::new(acceptor.session_cache(cache.clone()).build().unwrap());
    // Two initiators, each with its own tickets, of one acceptor.
    let initiator = || {
        let builder = InitiatorConfig::builder(authority.anchors()).resumption(true);
        Arc::new(builder.build().unwrap())
    };
    let (ada, bob) = (
        (acceptor.clone(), initiator()),
        (acceptor.clone(), initiator()),
    );
    assert!(!session(&ada).0);
    assert!(!session(&bob).0);
    let (resumed, family) = session(&ada);
    assert!(resumed);
    cache.forget(&family);
    assert!(
        !session(&ada).0,
        "tickets of a resumed session are of its family"
    );
    assert!(session(&bob).0);
    cache.reset();
    assert!(!session(&ada).0 && !session(&bob).0);
    assert!(session(&ada).0 && session(&bob).0);
}

//= proves spec/mechanism.md#session-cache E6
#[test]
fn an_initiator_forgets_its_acceptors_tickets() {
    let authority = Authority::new("ours");
    let (acceptor, initiator) = configs(&authority);
    let cache = SessionCache::new(Duration::from_secs(3600));
    let both = build((
        acceptor.resumption(Duration::from_secs(60)),
        initiator.session_cache(cache.clone()),
    ));
    assert!(!session(&both).0 && session(&both).0);
    let ends = meet(&both);
    let (_, initiated) = ends.both();
    cache.forget(&initiated.resumable().unwrap());
    assert!(!session(&both).0);
    cache.reset();
    assert!(!session(&both).0 && session(&both).0);
}
