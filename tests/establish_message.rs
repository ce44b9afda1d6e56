//! Establishment in message framing: who gets in, who does not, and what each side then knows.

#![allow(clippy::unwrap_used, clippy::panic)]

mod parties;

use std::sync::Arc;
use std::time::Duration;

use baton::cred::InitiatorCredential;
use baton::crypto::Suite;
use baton::establish::{
    Acceptor, AcceptorConfigBuilder, ChannelBindings, ClientCertificates, Failed, Initiator,
    InitiatorConfigBuilder, Step, TOKEN_LIMIT,
};
use baton::flags::Flags;
use baton::ledger::Domain;
use baton::message::{Message, Services};
use baton::name::Name;
use baton::status::{Major, Minor};
use parties::*;

fn run(configs: (AcceptorConfigBuilder, InitiatorConfigBuilder)) -> Ends<Message> {
    let (acceptor, initiator) = build(configs);
    let initiator = Initiator::<Message>::new(initiator, target()).unwrap();
    messages(Acceptor::new(acceptor), initiator, no_password)
}

fn majors((acceptor, initiator): &(Failed, Failed)) -> (Major, Major) {
    (acceptor.status.major(), initiator.status.major())
}

//= proves spec/mechanism.md#message-keys
//= proves spec/mechanism.md#transcript
//= proves spec/mechanism.md#tls
//= proves spec/mechanism.md#prf
#[test]
fn both_sides_understand_each_other_in_every_suite() {
    let authority = Authority::new("authority");
    let domain = Domain::inherited(16).unwrap();
    for suite in [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let (acceptor, initiator) = configs(&authority);
        let (acceptor, initiator) = run((acceptor, initiator.suites(&[suite]))).both();
        for finished in [&acceptor, &initiator] {
            let facts = finished.facts();
            assert_eq!(facts.suite, suite.code());
            assert_eq!(facts.initiator_name, None);
            assert_eq!(facts.target_name, Some(target()));
            assert_eq!(facts.hops, 0);
            assert!(facts.flags.contains(Flags::ANONYMOUS | Flags::MUTUAL));
            assert!(facts.flags.contains(Flags::REPLAY | Flags::SEQUENCE));
            assert!(facts.flags.contains(Flags::TRANSFERABLE));
            assert!(!facts.resumed);
        }
        assert_eq!(initiator.facts().end_point, acceptor.facts().end_point);
        assert!(initiator.facts().peer_certificate.is_some());
        let mut acceptor = acceptor.activate(&domain).unwrap();
        let mut initiator = initiator.activate(&domain).unwrap();
        for text in [&b""[..], b"one", b"two"] {
            let mut token = initiator.wrap(true, text).unwrap();
            assert_eq!(acceptor.unwrap(&mut token).unwrap().message, text);
            let mut token = acceptor.wrap(false, text).unwrap();
            assert_eq!(initiator.unwrap(&mut token).unwrap().message, text);
        }
        let random = |context: &baton::context::Context<Message>, input| {
            let mut out = [0; 40];
            let key = baton::context::PrfKey::Full;
            context.pseudo_random(key, input, &mut out).unwrap();
            out
        };
        assert_eq!(random(&acceptor, b"a"), random(&initiator, b"a"));
        assert_ne!(random(&acceptor, b"a"), random(&acceptor, b"b"));
    }
}

//= proves spec/mechanism.md#identity
//= proves spec/mechanism.md#client-certificate
#[test]
fn an_initiator_is_who_its_certificate_says() {
    let authority = Authority::new("authority");
    let clients = || ClientCertificates::Required(authority.anchors());
    let ada = authority.client("ada");
    let ends = |identity: InitiatorCredential| {
        let (acceptor, initiator) = configs(&authority);
        run((
            acceptor.client_certificates(clients()),
            initiator.credential(identity),
        ))
    };
    let (acceptor, initiator) = ends(ada.initiator()).both();
    for finished in [acceptor, initiator] {
        let facts = finished.facts();
        assert_eq!(facts.initiator_name.as_ref().unwrap().to_string(), "CN=ada");
        assert!(!facts.flags.contains(Flags::ANONYMOUS));
    }

    let refused = |identity, minor: Minor, alert: &str| {
        let (acceptor, initiator) = ends(identity).neither();
        assert_eq!(acceptor.status.minor(), minor, "{acceptor}");
        assert_eq!(initiator.status.minor(), Minor::PeerRefused, "{initiator}");
        assert!(initiator.reason.contains(alert), "{initiator}");
    };
    let stranger = Authority::new("stranger").client("ada");
    refused(stranger.initiator(), Minor::CertificateRefused, "48");
    let old = authority.certify("ada", &[], expired);
    let old = InitiatorCredential::from_pem(old.chain.as_bytes(), old.key.as_bytes()).unwrap();
    let (_, initiator) = build(configs(&authority));
    drop(initiator);
    let config = configs(&authority).1.credential(old).build().unwrap();
    let error = Initiator::<Message>::new(Arc::new(config), target())
        .err()
        .unwrap();
    assert_eq!(error.status().minor(), Minor::CredentialExpired);
    let server_only = authority.certify("ada", &[], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    refused(server_only.initiator(), Minor::CertificateRefused, "43");
    refused(
        InitiatorCredential::anonymous(),
        Minor::CertificateMissing,
        "116",
    );
}

//= proves spec/mechanism.md#identity
#[test]
fn nobody_gets_in_only_where_nobody_is_admitted() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = configs(&authority);
    let failed = run((acceptor.anonymous(false), initiator)).neither();
    assert_eq!(majors(&failed), (Major::Unauthorized, Major::Unauthorized));
    assert_eq!(failed.0.status.minor(), Minor::AnonymousRefused);
    assert_eq!(failed.1.status.minor(), Minor::AnonymousRefused);

    let (acceptor, initiator) = configs(&authority);
    let clients = ClientCertificates::Optional(authority.anchors());
    let (acceptor, _) = run((acceptor.client_certificates(clients), initiator)).both();
    assert_eq!(acceptor.facts().initiator_name, None);
}

//= proves spec/mechanism.md#server-certificate
//= proves spec/mechanism.md#refusal
#[test]
fn an_acceptor_must_be_the_one_that_was_asked_for() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = build(configs(&authority));
    let ends = |target: &str| {
        let target = Name::host_based_service(target).unwrap();
        let initiator = Initiator::<Message>::new(initiator.clone(), target).unwrap();
        messages(Acceptor::new(acceptor.clone()), initiator, no_password)
    };
    ends("imap@mail.example").both();
    ends("imap@127.0.0.1").both();
    for other in ["imap@other.example", "imap@127.0.0.2"] {
        let (acceptor, initiator) = ends(other).neither();
        assert_eq!(initiator.status.minor(), Minor::NameMismatch);
        assert!(initiator.reason.is_ascii());
        assert_eq!(acceptor.status.minor(), Minor::PeerRefused);
        assert!(!acceptor.reason.contains("other"), "the alert is coarse");
    }
    let hostless = Name::host_based_service("imap").unwrap();
    let error = Initiator::<Message>::new(initiator.clone(), hostless)
        .err()
        .unwrap();
    assert_eq!(error.status().major(), Major::BadName);

    let refused = |acceptor: AcceptorConfigBuilder, initiator, minor| {
        let (_, initiator) = run((acceptor, initiator)).neither();
        assert_eq!(initiator.status.minor(), minor, "{initiator}");
    };
    let (acceptor, _) = configs(&authority);
    let (_, stranger) = configs(&Authority::new("stranger"));
    refused(acceptor, stranger, Minor::CertificateRefused);
}

#[test]
fn an_acceptor_whose_own_certificate_is_over_does_not_begin() {
    let authority = Authority::new("authority");
    let old = authority.certify("server", &[HOST], expired).acceptor();
    let acceptor = baton::establish::AcceptorConfig::builder(old).anonymous(true);
    let (_, initiator) = configs(&authority);
    let (acceptor, initiator) = build((acceptor, initiator));
    let initiator = Initiator::<Message>::new(initiator, target()).unwrap();
    let Ok(Step::Continue { output, .. }) = initiator.step(&[]) else {
        panic!()
    };
    let failed = Acceptor::<Message>::new(acceptor)
        .step(&output)
        .err()
        .unwrap();
    assert_eq!(failed.status.major(), Major::CredentialsExpired);
}

//= proves spec/mechanism.md#target
#[test]
fn a_target_that_is_not_this_acceptor_is_refused() {
    let authority = Authority::new("authority");
    let ends = |targets: &[&str]| {
        let (acceptor, initiator) = configs(&authority);
        let name = |text: &&str| Name::host_based_service(text).unwrap();
        let targets: Vec<Name> = targets.iter().map(name).collect();
        run((acceptor.targets(&targets), initiator))
    };
    ends(&["imap@mail.example"]).both();
    ends(&["smtp", "imap"]).both();
    for other in ["smtp", "imap@other.example"] {
        let failed = ends(&[other]).neither();
        assert_eq!(failed.0.status.minor(), Minor::NameMismatch);
        assert_eq!(failed.1.status.minor(), Minor::NameMismatch);
    }
}

//= proves spec/mechanism.md#bindings C10
#[test]
fn both_sides_are_bound_to_the_same_channel_or_there_is_no_context() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = build(configs(&authority));
    let ends = |ours: Option<ChannelBindings>, theirs: Option<ChannelBindings>| {
        let mut acceptor = Acceptor::<Message>::new(acceptor.clone());
        let mut initiator = Initiator::<Message>::new(initiator.clone(), target()).unwrap();
        if let Some(bindings) = &ours {
            acceptor = acceptor.bindings(bindings);
        }
        if let Some(bindings) = &theirs {
            initiator = initiator.bindings(bindings);
        }
        messages(acceptor, initiator, no_password)
    };
    let full = ChannelBindings {
        initiator_address_type: 2,
        initiator_address: vec![192, 0, 2, 1],
        acceptor_address_type: 2,
        acceptor_address: vec![192, 0, 2, 2],
        application_data: b"data".to_vec(),
    };
    let kinds = [
        None,
        Some(ChannelBindings::default()),
        Some(ChannelBindings::application_data(b"data".to_vec())),
        Some(ChannelBindings::tls_server_end_point(&[7; 32])),
        Some(ChannelBindings::tls_exporter(&[7; 32])),
        Some(full),
    ];
    for (i, ours) in kinds.iter().enumerate() {
        for (j, theirs) in kinds.iter().enumerate() {
            let ends = ends(ours.clone(), theirs.clone());
            if i == j {
                ends.both();
                continue;
            }
            let failed = ends.neither();
            assert_eq!(majors(&failed), (Major::BadBindings, Major::BadBindings));
        }
    }
}

//= proves spec/mechanism.md#flags
#[test]
fn services_are_granted_when_both_sides_want_them() {
    let authority = Authority::new("authority");
    let bits = |bits: u8| Services {
        replay: bits & 1 != 0,
        sequence: bits & 2 != 0,
        confidentiality: bits & 4 != 0,
    };
    for (offered, wanted) in [(7, 7), (7, 0), (0, 7), (5, 6), (3, 4)] {
        let (acceptor, initiator) = configs(&authority);
        let configs = (
            acceptor.services(bits(offered)),
            initiator.services(bits(wanted)),
        );
        let (acceptor, initiator) = run(configs).both();
        for finished in [acceptor, initiator] {
            let flags = finished.facts().flags;
            let granted = u8::from(flags.contains(Flags::REPLAY))
                | u8::from(flags.contains(Flags::SEQUENCE)) << 1
                | u8::from(flags.contains(Flags::CONFIDENTIALITY)) << 2;
            assert_eq!(granted, offered & wanted);
            assert!(flags.contains(Flags::MUTUAL | Flags::INTEGRITY));
        }
    }
    let (acceptor, initiator) = configs(&authority);
    let (acceptor, initiator) = run((acceptor.transferable(false), initiator)).both();
    assert!(!acceptor.facts().flags.contains(Flags::TRANSFERABLE));
    assert!(initiator.facts().flags.contains(Flags::TRANSFERABLE));
}

//= proves spec/mechanism.md#lifetime
#[test]
fn a_context_ends_with_the_first_of_certificates_and_policies() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = configs(&authority);
    let (acceptor, initiator) =
        run((acceptor.lifetime(Duration::from_secs(600)), initiator)).both();
    let facts = acceptor.facts();
    assert_eq!(facts.expires, Some(facts.established + 600));
    // The acceptor told it.
    let left = initiator.facts().expires.unwrap() - facts.expires.unwrap();
    assert!(left <= 2, "{left}");

    let soon = authority.certify("ada", &[], |params| {
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    });
    let (acceptor, initiator) = configs(&authority);
    let clients = ClientCertificates::Required(authority.anchors());
    let configs = (
        acceptor.client_certificates(clients),
        initiator.credential(soon.initiator()),
    );
    let (acceptor, initiator) = run(configs).both();
    for finished in [acceptor, initiator] {
        assert_eq!(finished.facts().expires, Some(3_786_912_001));
    }
}

//= proves spec/mechanism.md#resumption
#[test]
fn a_resumed_session_is_who_it_was() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = configs(&authority);
    let (acceptor, initiator) = build((
        acceptor
            .client_certificates(ClientCertificates::Required(authority.anchors()))
            .resumption(Duration::from_secs(3600)),
        initiator
            .credential(authority.client("ada").initiator())
            .resumption(true),
    ));
    for resumed in [false, true, true] {
        let initiator = Initiator::<Message>::new(initiator.clone(), target()).unwrap();
        let ends = messages(Acceptor::new(acceptor.clone()), initiator, no_password);
        let (acceptor, initiator) = ends.both();
        for finished in [acceptor, initiator] {
            assert_eq!(finished.facts().resumed, resumed);
            let name = finished.facts().initiator_name.clone().unwrap();
            assert_eq!(name.to_string(), "CN=ada");
            assert!(finished.facts().peer_certificate.is_some());
        }
    }
}

/// The tokens of a whole establishment, the initiator's and the acceptor's in turn.
fn tokens(acceptor: Acceptor<Message>, initiator: Initiator<Message>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let Ok(Step::Continue {
        next: initiator,
        output,
    }) = initiator.step(&[])
    else {
        panic!()
    };
    all.push(output);
    let Ok(Step::Continue {
        next: acceptor,
        output,
    }) = acceptor.step(&all[0])
    else {
        panic!()
    };
    all.push(output);
    let Ok(Step::Continue { output, .. }) = initiator.step(&all[1]) else {
        panic!()
    };
    all.push(output);
    let Ok(Step::Done { output, .. }) = acceptor.step(&all[2]) else {
        panic!()
    };
    all.push(output);
    all
}

//= proves spec/mechanism.md#tokens
//= proves spec/mechanism.md#header
#[test]
fn a_token_that_is_cut_longer_or_empty_ends_the_establishment() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = build(configs(&authority));
    let initiator = || Initiator::<Message>::new(initiator.clone(), target()).unwrap();
    let acceptor = || Acceptor::<Message>::new(acceptor.clone());

    // Each side before its n-th token, and that token.
    let first = || {
        let Ok(Step::Continue { next, output }) = initiator().step(&[]) else {
            panic!()
        };
        (next, output)
    };
    let second = || {
        let (initiator, token) = first();
        let Ok(Step::Continue { next, output }) = acceptor().step(&token) else {
            panic!()
        };
        (initiator, next, output)
    };
    let third = || {
        let (initiator, acceptor, token) = second();
        let Ok(Step::Continue { next, output }) = initiator.step(&token) else {
            panic!()
        };
        (next, acceptor, output)
    };
    let fourth = || {
        let (initiator, acceptor, token) = third();
        let Ok(Step::Done { output, .. }) = acceptor.step(&token) else {
            panic!()
        };
        (initiator, output)
    };
    let changes: [fn(&mut Vec<u8>); 5] = [
        |token| token.truncate(token.len() - 1),
        |token| token.truncate(token.len() / 2),
        Vec::clear,
        |token| token.push(0),
        |token| token.resize(TOKEN_LIMIT + 1, 0),
    ];
    for (i, change) in changes.iter().enumerate() {
        let changed = |mut token| {
            change(&mut token);
            token
        };
        let refused = |failed: Option<Failed>, token: u32| {
            let failed = failed.unwrap_or_else(|| panic!("change {i}, token {token}"));
            assert_eq!(failed.status.major(), Major::DefectiveToken, "{failed}");
        };
        refused(acceptor().step(&changed(first().1)).err(), 1);
        let (next, _, token) = second();
        refused(next.step(&changed(token)).err(), 2);
        let (_, next, token) = third();
        refused(next.step(&changed(token)).err(), 3);
        let (next, token) = fourth();
        refused(next.step(&changed(token)).err(), 4);
    }
}

//= proves spec/mechanism.md#tokens
#[test]
fn an_altered_token_ends_the_establishment() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = build(configs(&authority));
    let initiator = || Initiator::<Message>::new(initiator.clone(), target()).unwrap();
    let recorded = tokens(Acceptor::new(acceptor.clone()), initiator());
    // A token of another establishment is of no use in this one.
    let Ok(Step::Continue { next, .. }) = initiator().step(&[]) else {
        panic!()
    };
    assert!(next.step(&recorded[1]).is_err());
    let Ok(Step::Continue { next, .. }) =
        Acceptor::<Message>::new(acceptor.clone()).step(&recorded[0])
    else {
        panic!()
    };
    assert!(next.step(&recorded[2]).is_err());
    for at in (0..recorded[0].len()).step_by(7) {
        let mut token = recorded[0].clone();
        token[at] ^= 0x10;
        // Some bits of a hello may be anything; nothing panics, and no token is endless.
        if let Ok(Step::Continue { output, .. }) =
            Acceptor::<Message>::new(acceptor.clone()).step(&token)
        {
            assert!(output.len() < TOKEN_LIMIT);
        }
    }
}

//= proves spec/mechanism.md#alpn
#[test]
fn a_peer_of_the_other_framing_is_refused() {
    use baton::record::Record;
    let authority = Authority::new("authority");
    let (acceptor, initiator) = build(configs(&authority));
    // A message initiator and a record acceptor, through a caller that takes off the header.
    let message = Initiator::<Message>::new(initiator.clone(), target()).unwrap();
    let Ok(Step::Continue { next, output }) = message.step(&[]) else {
        panic!()
    };
    let hello = output.iter().position(|byte| *byte == 0x16).unwrap();
    let record = Acceptor::<Record>::new(acceptor.clone());
    let Ok(Step::Continue { output, .. }) = record.step(&output[hello..]) else {
        panic!()
    };
    let failed = next.step(&output).err().unwrap();
    assert_eq!(failed.status.minor(), Minor::FramingUnknown, "{failed}");

    // A record initiator and a message acceptor, through a caller that puts a header on.
    let record = Initiator::<Record>::new(initiator.clone(), target()).unwrap();
    let Ok(Step::Continue { next, output }) = record.step(&[]) else {
        panic!()
    };
    let oid = [0x06, 0x0a, 0x2b, 6, 1, 4, 1, 0x81, 0xfd, 0x59, 1, 1];
    let length = u8::try_from(oid.len() + output.len()).unwrap();
    let token = [&[0x60, 0x81, length][..], &oid, &output].concat();
    let message = Acceptor::<Message>::new(acceptor);
    let Ok(Step::Continue {
        next: message,
        output,
    }) = message.step(&token)
    else {
        panic!()
    };
    let Ok(Step::Done { output, .. }) = next.step(&output) else {
        panic!()
    };
    let failed = message.step(&output).err().unwrap();
    assert_eq!(failed.status.minor(), Minor::FramingUnknown, "{failed}");
    assert!(!failed.output.is_empty(), "an alert");

    let (acceptor, _) = configs(&authority);
    assert!(
        acceptor
            .application_protocols(&[b"h2", b"baton/1"])
            .build()
            .is_err()
    );
}

#[test]
fn a_half_built_context_is_dropped_at_any_point() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = build(configs(&authority));
    for steps in 0..4 {
        let initiator = Initiator::<Message>::new(initiator.clone(), target()).unwrap();
        let acceptor = Acceptor::<Message>::new(acceptor.clone());
        if steps == 0 {
            continue;
        }
        let Ok(Step::Continue {
            next: initiator,
            output,
        }) = initiator.step(&[])
        else {
            panic!()
        };
        if steps == 1 {
            continue;
        }
        let Ok(Step::Continue {
            next: acceptor,
            output,
        }) = acceptor.step(&output)
        else {
            panic!()
        };
        if steps == 2 {
            continue;
        }
        let Ok(Step::Continue { next, .. }) = initiator.step(&output) else {
            panic!()
        };
        drop((next, acceptor));
    }
}
