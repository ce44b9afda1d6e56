//! Passwords in message framing: looked at, denied, asked for again, and as a second factor.

#![allow(clippy::unwrap_used, clippy::panic)]

mod parties;

use std::sync::{Arc, Mutex};

use baton::cred::{InitiatorCredential, Password};
use baton::establish::{
    Acceptor, Attempt, ClientCertificates, Initiator, PasswordAsked, Passwords, Verdict,
};
use baton::exit::UserData;
use baton::message::Message;
use baton::name::Name;
use baton::status::Minor;
use parties::*;

fn ada() -> UserData {
    let mut user = UserData::default();
    user.set_user_name("ada").unwrap();
    user
}

/// Knows one password, and notes what it was asked.
fn knows(asked: Arc<Mutex<Vec<String>>>, wrong: fn() -> Verdict) -> Arc<dyn Passwords> {
    Arc::new(move |attempt: &Attempt<'_>| {
        let line = format!("{} {} {}", attempt.number, attempt.user, attempt.password);
        asked.lock().unwrap().push(line);
        assert_eq!(attempt.target, &target());
        match (attempt.user, attempt.password) {
            ("ada", "right") => Verdict::Accept(ada()),
            ("nameless", _) => Verdict::Accept(UserData::default()),
            _ => wrong(),
        }
    })
}

fn password(user: &str, password: &str) -> Password {
    Password::new(user, password).unwrap()
}

/// Runs with a first password, if any, and answers with the others in turn.
fn try_passwords(
    first: Option<Password>,
    others: &[&str],
    attempts: u8,
    wrong: fn() -> Verdict,
) -> (Ends<Message>, Vec<String>, Vec<u8>) {
    let authority = Authority::new("authority");
    let noted = Arc::new(Mutex::new(Vec::new()));
    let (acceptor, initiator) = configs(&authority);
    let acceptor = acceptor
        .anonymous(false)
        .passwords(knows(noted.clone(), wrong), attempts);
    let credential = match first {
        Some(password) => InitiatorCredential::from_password(password),
        // A certificate that the acceptor does not ask for, so that the side is not anonymous.
        None => authority.client("unasked").initiator(),
    };
    let (acceptor, initiator) = build((acceptor, initiator.credential(credential)));
    let initiator = Initiator::<Message>::new(initiator, target()).unwrap();
    let mut others = others.iter();
    let mut left = Vec::new();
    let ends = messages(
        Acceptor::new(acceptor),
        initiator,
        |asked: PasswordAsked| {
            left.push(asked.attempts());
            asked
                .answer(&password("ada", others.next().unwrap()))
                .unwrap()
        },
    );
    let noted = noted.lock().unwrap().clone();
    (ends, noted, left)
}

//= proves spec/mechanism.md#again
//= proves spec/mechanism.md#password
#[test]
fn a_password_is_accepted_denied_or_asked_for_again() {
    let (ends, noted, left) =
        try_passwords(Some(password("ada", "right")), &[], 3, || Verdict::Deny);
    let (acceptor, initiator) = ends.both();
    assert_eq!(acceptor.facts().user_data, Some(ada()));
    for finished in [acceptor, initiator] {
        let name = finished.facts().initiator_name.clone();
        assert_eq!(name, Some(Name::user("ada").unwrap()));
    }
    assert_eq!((noted.len(), left.len()), (1, 0));

    let (ends, noted, _) = try_passwords(Some(password("ada", "wrong")), &[], 3, || Verdict::Deny);
    let failed = ends.neither();
    assert_eq!(failed.0.status.minor(), Minor::PasswordRefused);
    assert_eq!(failed.1.status.minor(), Minor::PasswordRefused);
    assert_eq!(noted, ["1 ada wrong"]);

    let (ends, noted, left) = try_passwords(
        Some(password("eve", "wrong")),
        &["wrong", "right"],
        3,
        || Verdict::Again,
    );
    let (_, initiator) = ends.both();
    assert_eq!(left, [2, 1]);
    assert_eq!(noted, ["1 eve wrong", "2 ada wrong", "3 ada right"]);
    let name = initiator.facts().initiator_name.clone();
    assert_eq!(name, Some(Name::user("ada").unwrap()));

    let (ends, noted, left) = try_passwords(Some(password("ada", "1")), &["2", "3"], 3, || {
        Verdict::Again
    });
    let failed = ends.neither();
    assert_eq!(failed.0.status.minor(), Minor::PasswordRefused);
    assert_eq!(failed.1.status.minor(), Minor::PasswordRefused);
    assert_eq!((noted.len(), left), (3, vec![2, 1]));
}

//= proves spec/mechanism.md#again
#[test]
fn a_missing_password_is_asked_for() {
    let (ends, _, left) = try_passwords(None, &["right"], 1, || Verdict::Again);
    ends.both();
    assert_eq!(left, [1]);
    let (ends, ..) = try_passwords(Some(password("nameless", "")), &[], 1, || Verdict::Deny);
    let (acceptor, _) = ends.neither();
    assert_eq!(acceptor.status.minor(), Minor::PasswordRefused);
}

//= proves spec/mechanism.md#identity
#[test]
fn a_password_that_nobody_asked_for_is_not_passed_over() {
    let authority = Authority::new("authority");
    let (acceptor, initiator) = configs(&authority);
    let credential = InitiatorCredential::from_password(password("ada", "right"));
    let failed = {
        let (acceptor, initiator) = build((acceptor, initiator.credential(credential)));
        let initiator = Initiator::<Message>::new(initiator, target()).unwrap();
        messages(Acceptor::new(acceptor), initiator, no_password).neither()
    };
    assert_eq!(failed.0.status.minor(), Minor::PasswordRefused);
    assert_eq!(failed.1.status.minor(), Minor::PasswordRefused);
}

//= proves spec/mechanism.md#identity
#[test]
fn a_second_factor_is_needed_where_it_is() {
    let authority = Authority::new("authority");
    let ends = |second: Option<&str>, needed: bool| {
        let noted = Arc::new(Mutex::new(Vec::new()));
        let (acceptor, initiator) = configs(&authority);
        let mut credential = authority.client("ada").initiator();
        if let Some(text) = second {
            credential = credential.with_password(password("ada", text));
        }
        let acceptor = acceptor
            .anonymous(false)
            .client_certificates(ClientCertificates::Required(authority.anchors()))
            .passwords(knows(noted, || Verdict::Deny), 1)
            .second_factor(needed);
        let (acceptor, initiator) = build((acceptor, initiator.credential(credential)));
        let initiator = Initiator::<Message>::new(initiator, target()).unwrap();
        messages(Acceptor::new(acceptor), initiator, |asked| {
            asked.answer(&password("ada", "right")).unwrap()
        })
    };
    for (second, needed, data) in [
        (Some("right"), true, true),
        (None, true, true),
        (None, false, false),
        (Some("right"), false, true),
    ] {
        let (acceptor, initiator) = ends(second, needed).both();
        assert_eq!(acceptor.facts().user_data.is_some(), data);
        for finished in [acceptor, initiator] {
            let name = finished.facts().initiator_name.clone().unwrap();
            assert_eq!(name.to_string(), "CN=ada");
        }
    }
    let (acceptor, _) = ends(Some("wrong"), false).neither();
    assert_eq!(acceptor.status.minor(), Minor::PasswordRefused);
}
