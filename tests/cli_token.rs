//! `baton token` prints what a token shows to anyone, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;
mod support;

use std::fs;
use std::path::Path;

use baton::message::Message;
use baton::transfer::{Export, PublicHeader};
use serving::{baton, run};

fn token(file: &Path) -> (String, String, Option<i32>) {
    let mut command = baton();
    command.arg("token").arg(file);
    let (output, errors, status) = run(command, b"");
    (output, errors, status.code())
}

//= proves C5
#[test]
fn a_token_shows_version_key_nonce_and_size() {
    let domain = support::domain();
    let (context, _peer) = support::pair::<Message>(&domain);
    let token_bytes = context.export(&Export::default()).unwrap();
    let header: PublicHeader = token_bytes.public_header();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), token_bytes.as_bytes()).unwrap();
    let (output, errors, code) = token(file.path());
    assert_eq!((errors.as_str(), code), ("", Some(0)));
    let nonce: String = header
        .nonce
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        output,
        format!(
            "version  1\nkey      {:016x}\nnonce    {nonce}\nsize     {} bytes\n",
            header.key, header.size
        )
    );
}

#[test]
fn what_is_no_token_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let huge = vec![b'x'; 1 << 20];
    let mut cut = b"BTN\x01".to_vec();
    cut.resize(511, 0);
    for bytes in [
        &b""[..],
        b"BTN",
        b"-----BEGIN CERTIFICATE-----",
        &cut,
        &huge,
    ] {
        fs::write(&file, bytes).unwrap();
        let (output, errors, code) = token(&file);
        assert_eq!((output.as_str(), code), ("", Some(1)));
        assert_eq!(
            errors,
            format!(
                "baton: {}: the token is not an interprocess token\n",
                file.display()
            )
        );
    }
    let (_, errors, code) = token(&folder.path().join("absent"));
    assert_eq!(code, Some(1));
    assert!(errors.contains("No such file"), "{errors}");
    let (_, _, code) = token(folder.path());
    assert_eq!(code, Some(1));
}

#[test]
fn help_is_short_and_tells_the_exit_codes() {
    for command in ["serve", "connect", "token"] {
        let mut help = baton();
        help.args([command, "-h"]);
        let (text, _, status) = run(help, b"");
        assert!(status.success());
        assert!(text.lines().count() <= 40, "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 110),
            "{text}"
        );
        assert!(text.contains("Exit codes: 0 done, 1 failed"), "{text}");
    }
    let (_, errors, status) = run(baton(), b"");
    assert_eq!(status.code(), Some(2));
    assert!(errors.contains("serve") && errors.contains("connect") && errors.contains("token"));
}
