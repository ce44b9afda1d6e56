//! `baton exit worker certificates`: the worker as a process, and the certificates of a program that
//! is not ours.

#![allow(clippy::unwrap_used, clippy::panic)]

mod certifying;
mod exiting;
mod serving;

use std::process::Command;

use baton::builtin::{Certificates, Configuration};
use baton::exit::{Answer, CheckCertList, Output, Question, Role, Verdict};
use baton::pool::Configuration as Pooled;
use certifying::*;

/// The program as a worker with this configuration.
fn worker(place: &Place, text: &str) -> Pooled {
    let config = place.file("certificates.toml", text);
    let mut pooled = Pooled::new("certificates", env!("CARGO_BIN_EXE_baton"));
    pooled.arguments = ["exit", "worker", "certificates", "--config"]
        .map(Into::into)
        .to_vec();
    pooled.arguments.push(config.into());
    pooled
}

//= proves spec/builtin.md#configuration
//= proves spec/builtin.md#peer-name X4 X5
#[test]
fn the_program_is_a_worker() {
    let root = Authority::root("root");
    let place = Place::new();
    let anchors = place.file("anchors.pem", &root.pem);
    let text = format!(
        "anchors = [{anchors:?}]\ntemplates = [\"CN=*.example.org\", \"CN=leaf\"]\nthreads = 2\nholds = 9\n"
    );
    let mut driven = exiting::Driven::new(worker(&place, &text));
    let session = exiting::session;
    assert_eq!(driven.call(session(1), exiting::init()), "0");
    let leaf = root.leaf(&named("leaf"));
    driven.ask(session(1), Question::from(question(&[&leaf])), 1);
    match driven.completion(1).reply.answer {
        Answer::Done {
            verdict: Verdict::Accepted(Output::CheckCertList(output)),
            ..
        } => assert_eq!(output.peer_name.replaced(), Some(&"CN=leaf".to_owned())),
        other => panic!("{other:?}"),
    }
    let other = Question::from(question(&[&root.leaf(&named("other"))]));
    assert_eq!(driven.call(session(2), other), "1/-1 no-matching-template");
    assert_eq!(driven.count("the subject fits no template"), 1);
    assert_eq!(
        driven.call(session(3), exiting::check(b"garbage")),
        "1/-1 decoding-error"
    );
    let unnamed = CheckCertList {
        role: Role::Initiator,
        ..question(&[&leaf])
    };
    assert_eq!(driven.call(session(4), unnamed.into()), "-1 answered");
    for number in 1..=4 {
        assert_eq!(driven.call(session(number), exiting::end()), "0");
    }
    driven.whole(1);
    driven.pool.end();
    driven.until("the worker has ended", |driven| driven.pool.is_over());
    assert_eq!(driven.pool.counters().lost, 0);
}

#[test]
fn the_program_keeps_the_page_of_workers_and_names_mistakes() {
    let root = Authority::root("root");
    let place = Place::new();
    let anchors = place.file("anchors.pem", &root.pem);
    let config = place.file("certificates.toml", format!("anchors = [{anchors:?}]\n"));
    let worker = |config: &std::path::Path, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
        command
            .args(["exit", "worker", "certificates", "--config"])
            .arg(config)
            .args(more);
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(worker(&config, &["--check"]), (Some(0), String::new()));
    let none = place.file("none.toml", "anchors = [\"/no/such/file\"]\n");
    let (code, error) = worker(&none, &["--check"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("/no/such/file: No such file"), "{error}");
    let garbage = place.file(
        "garbage.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let bad = place.file("bad.toml", format!("anchors = [{garbage:?}]\n"));
    let (code, error) = worker(&bad, &[]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("garbage.pem: not one or more certificates"),
        "{error}"
    );

    let mut check = Command::new(env!("CARGO_BIN_EXE_baton"));
    check.args([
        "exit",
        "check",
        env!("CARGO_BIN_EXE_baton"),
        "exit",
        "worker",
        "certificates",
    ]);
    let output = check.arg("--config").arg(&config).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}

/// Chains of a program that is not ours, and its multi-valued names.
//= proves spec/builtin.md#path
//= proves spec/builtin.md#templates
#[test]
fn certificates_of_openssl_are_checked_alike() {
    if serving::program("openssl").is_none() {
        return;
    }
    let place = Place::new();
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' '));
        run(command, place.path())
    };
    place.file(
        "ca.cnf",
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n",
    );
    place.file(
        "leaf.cnf",
        "keyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n",
    );
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -days 30 -subj /O=Root -addext keyUsage=keyCertSign",
    );
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout sub.key -out sub.csr -subj /O=Sub",
    );
    openssl(
        "x509 -req -in sub.csr -CA root.pem -CAkey root.key -CAcreateserial -out sub.pem -days 30 -extfile ca.cnf",
    );
    openssl(
        "req -newkey ed25519 -nodes -keyout leaf.key -out leaf.csr -multivalue-rdn -subj /DC=org/DC=example/O=Ex+OU=Unit/CN=ada",
    );
    openssl(
        "x509 -req -in leaf.csr -CA sub.pem -CAkey sub.key -CAcreateserial -out leaf.pem -days 30 -extfile leaf.cnf",
    );
    let (leaf, sub) = (
        from_pem(&place.path().join("leaf.pem")),
        from_pem(&place.path().join("sub.pem")),
    );
    let with = |template: &str| {
        let mut configuration = Configuration::new(vec![place.path().join("root.pem")]);
        configuration.templates = vec![template.parse().unwrap()];
        let checker = Certificates::new(&configuration).unwrap();
        said(&checker.check(&question(&[&leaf, &sub])))
    };
    let name = "yes CN=ada,O=Ex+OU=Unit,DC=example,DC=org";
    for template in [
        "CN=ada",
        "DC=example,DC=org",
        "O=Ex,OU=Unit",
        "OU=Unit,O=ex",
        "CN=a?a,dc=*,dc=org",
    ] {
        assert_eq!(with(template), name, "{template}");
    }
    for template in ["DC=org,DC=example", "DC=org", "O=Ex+OU=Unit", "CN=ada,L=*"] {
        assert_eq!(with(template), "no-matching-template", "{template}");
    }
    let mut verify = Command::new("openssl");
    verify
        .args("verify -CAfile root.pem -untrusted sub.pem -purpose sslclient leaf.pem".split(' '));
    assert!(run(verify, place.path()).contains("leaf.pem: OK"));
}
