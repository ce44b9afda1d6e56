//! The tables of the port: attributes and errors, and the page that states them.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::context::Role;
use crate::cred::AcceptorCredential;
use crate::crypto::Suite;
use crate::establish::{AcceptorConfig, Attempt, Decision, Framing, Presented, Verdict};
use crate::ledger::Domain;

/// A good value of each attribute, and bad ones as far as one alone can be bad.
fn values(key: Key) -> (Attribute, Vec<Attribute>) {
    use Attribute as A;
    const MS: Duration = Duration::from_millis(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    let file = || PathBuf::from("/nowhere");
    let none = PathBuf::new;
    match key {
        Key::Role => (A::Role(Role::Initiator), vec![]),
        Key::Hello => (A::Hello(true), vec![]),
        Key::Framing => (A::Framing(Some(Framing::Message)), vec![]),
        Key::Certificate => (A::Certificate(file()), vec![A::Certificate(none())]),
        Key::Key => (A::Key(file()), vec![A::Key(none())]),
        Key::ApplicationId => (
            A::ApplicationId("mail".into()),
            vec![
                A::ApplicationId(String::new()),
                A::ApplicationId("x".repeat(257)),
            ],
        ),
        Key::Resolver => {
            let resolver = |_: &str| -> Option<AcceptorCredential> { None };
            (A::Resolver(Arc::new(resolver)), vec![])
        }
        Key::Anchors => (A::Anchors(file()), vec![A::Anchors(none())]),
        Key::Target => (
            A::Target("imap@mail.example".into()),
            vec![
                A::Target("imap".into()),
                A::Target(String::new()),
                A::Target("a@b\0".into()),
            ],
        ),
        Key::ClientAuthentication => (
            A::ClientAuthentication(ClientAuthentication::Required),
            vec![],
        ),
        Key::Validation => {
            let validation = |_: &Presented<'_>| Decision::Refuse;
            (A::Validation(Arc::new(validation)), vec![])
        }
        Key::HandshakeTimeout => (
            A::HandshakeTimeout(HOUR),
            vec![
                A::HandshakeTimeout(Duration::ZERO),
                A::HandshakeTimeout(HOUR + MS),
            ],
        ),
        Key::ReadTimeout => (
            A::ReadTimeout(Some(MS)),
            vec![
                A::ReadTimeout(Some(Duration::ZERO)),
                A::ReadTimeout(Some(WEEK + MS)),
            ],
        ),
        Key::UnsentLimit => (
            A::UnsentLimit(1024),
            vec![A::UnsentLimit(1023), A::UnsentLimit((16 << 20) + 1)],
        ),
        Key::Resumption => (A::Resumption(true), vec![]),
        Key::SessionTimeout => (
            A::SessionTimeout(WEEK),
            vec![A::SessionTimeout(MS), A::SessionTimeout(WEEK + MS)],
        ),
        Key::ApplicationProtocols => (
            A::ApplicationProtocols(vec![b"h2".to_vec()]),
            vec![
                A::ApplicationProtocols(vec![Vec::new()]),
                A::ApplicationProtocols(vec![vec![b'x'; 256]]),
                A::ApplicationProtocols(vec![b"baton/1".to_vec()]),
                A::ApplicationProtocols(vec![b"x".to_vec(); 17]),
            ],
        ),
        Key::Suites => (
            A::Suites(vec![Suite::Aes128Gcm]),
            vec![
                A::Suites(vec![]),
                A::Suites(vec![Suite::Aes128Gcm, Suite::Aes128Gcm]),
            ],
        ),
        Key::SessionLimit => (
            A::SessionLimit(1),
            vec![A::SessionLimit(0), A::SessionLimit(1_000_001)],
        ),
        Key::Anonymous => (A::Anonymous(true), vec![]),
        Key::Passwords => {
            let passwords =
                |attempts| A::Passwords(Arc::new(|_: &Attempt<'_>| Verdict::Deny), attempts);
            (passwords(16), vec![passwords(0), passwords(17)])
        }
        Key::SendTimeout => (
            A::SendTimeout(Some(WEEK)),
            vec![
                A::SendTimeout(Some(Duration::ZERO)),
                A::SendTimeout(Some(WEEK + MS)),
            ],
        ),
        Key::MakeRoomAfter => (
            A::MakeRoomAfter(Some(MS)),
            vec![
                A::MakeRoomAfter(Some(Duration::ZERO)),
                A::MakeRoomAfter(Some(HOUR + MS)),
            ],
        ),
        Key::Configuration => {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["mail.example".into()]).unwrap();
            let chain = params.self_signed(&key).unwrap().pem();
            let key = key.serialize_pem();
            let credential = AcceptorCredential::from_pem(chain.as_bytes(), key.as_bytes());
            let config = AcceptorConfig::builder(credential.unwrap()).build();
            (A::Configuration(Arc::new(config.unwrap())), vec![])
        }
        Key::Lifetime => (
            A::Lifetime(Some(HOUR)),
            vec![
                A::Lifetime(Some(MS)),
                A::Lifetime(Some(Duration::from_secs(11 * 366 * 24 * 3600))),
            ],
        ),
    }
}

//= proves spec/port.md#attributes E1
//= proves spec/port.md#errors E1
#[test]
fn every_attribute_has_an_error_of_its_own_and_every_error_a_text() {
    let numbers: HashSet<u32> = Code::ALL.iter().map(|code| code.number()).collect();
    let texts: HashSet<&str> = Code::ALL.iter().map(|code| code.text()).collect();
    assert_eq!(
        (numbers.len(), texts.len()),
        (Code::ALL.len(), Code::ALL.len())
    );
    let errors: HashSet<Code> = Key::ALL.iter().map(|key| key.row().error).collect();
    let names: HashSet<&str> = Key::ALL.iter().map(|key| key.row().name).collect();
    assert_eq!(
        (errors.len(), names.len()),
        (Key::ALL.len(), Key::ALL.len())
    );
    let port = Port::new().unwrap();
    let domain = Domain::inherited(4).unwrap();
    for key in Key::ALL {
        let row = key.row();
        let beginning = format!("attribute {}: ", row.name);
        assert!(row.error.text().starts_with(&beginning) && row.error.number() >= 100);
        let environment = Environment::open(&port, &domain).unwrap();
        let (good, bad) = values(*key);
        assert_eq!(good.key(), *key);
        for bad in bad {
            assert_eq!(
                environment.set(bad).unwrap_err().code(),
                row.error,
                "{}",
                row.name
            );
        }
        environment.set(good).unwrap();
    }
}

/// The table of a page between two marks.
fn written(page: &str, mark: &str, rows: &[String]) -> String {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let (before, rest) = page.split_once(&begin).unwrap();
    let (table, after) = rest.split_once(&end).unwrap();
    let head: Vec<&str> = table.lines().take(2).collect();
    let rows = rows.join("\n");
    format!("{before}{begin}{}\n{rows}\n{end}{after}", head.join("\n"))
}

//= proves spec/port.md#attributes E1
//= proves spec/port.md#errors E1
#[test]
fn the_page_has_the_tables_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/spec/port.md");
    let page = std::fs::read_to_string(path).unwrap();
    let attribute = |key: &Key| {
        let row = key.row();
        let session = if row.session { "yes" } else { "no" };
        let Row {
            name,
            value,
            default,
            bounds,
            ..
        } = row;
        let error = format!("{} {:?}", row.error.number(), row.error);
        format!("| {name} | {value} | {default} | {bounds} | {session} | {error} |")
    };
    let error = |code: &Code| format!("| {} | {code:?} | {} |", code.number(), code.text());
    let attributes: Vec<String> = Key::ALL.iter().map(attribute).collect();
    let errors: Vec<String> = Code::ALL.iter().map(error).collect();
    let is = written(
        &written(&page, "attributes", &attributes),
        "errors",
        &errors,
    );
    if std::env::var_os("BATON_WRITE").is_some() {
        std::fs::write(path, &is).unwrap();
    } else {
        assert!(page == is, "run it with BATON_WRITE=1");
    }
}

#[test]
fn reasons_are_short_and_printable() {
    let error = Error::told(Code::System, None, &"line\n\u{1b}[31m".repeat(100));
    assert!(error.reason().len() <= 256);
    assert!(
        error
            .reason()
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte))
    );
    assert_eq!(
        Error::from(Code::Cancelled).to_string(),
        Code::Cancelled.text()
    );
}

//= proves spec/port.md#events E3
#[test]
fn a_port_keeps_a_bounded_number_of_events() {
    let port = Port::with_drivers(0).unwrap();
    for number in 0..EVENTS as u64 {
        match number % 2 {
            0 => port.post(1, number).unwrap(),
            _ => port
                .post_after(Duration::from_secs(3600), 2, number)
                .unwrap(),
        }
    }
    for error in [port.post(1, 0), port.post_after(Duration::ZERO, 2, 0)] {
        assert_eq!(error.unwrap_err().code(), Code::EventsFull);
    }
    assert_eq!(port.wait(None).unwrap().value, 0);
    port.post(1, 7).unwrap();
    assert_eq!(port.post(1, 8).unwrap_err().code(), Code::EventsFull);
    let left = port.destroy();
    assert_eq!(left.len(), EVENTS);
    assert!(left.iter().all(|event| event.operation == Operation::Event));
    let late = left.iter().filter(|event| event.tag == 2);
    assert!(late.clone().count() == EVENTS / 2 && late.clone().all(|late| late.error.is_some()));
}
