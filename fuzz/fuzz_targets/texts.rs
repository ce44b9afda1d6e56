//! Texts a server reads: control requests and answers, the configuration, accounts, passwords.
//!
//! The first byte says which. Held is: what is read is written and read again as the same; a mistake
//! is one line, of a line that is there, and not long; nobody gets an account by another's name.

#![no_main]

use std::sync::OnceLock;

use baton::cli::configuration::Checker;
use baton::server::control::answer::{Answer, Request, to_line};
use baton::server::forge;
use baton::server::users::Named;
use libfuzzer_sys::fuzz_target;

fn configuration(text: &str) {
    let lines = 1 + text.matches('\n').count();
    static CHECKER: OnceLock<Checker> = OnceLock::new();
    let checker = CHECKER.get_or_init(|| Checker::new().expect("options"));
    for mistake in checker.mistakes(text) {
        assert!(mistake.line <= lines, "{}", mistake.line);
        assert!(
            mistake.what.len() < 4096 && !mistake.what.contains('\n'),
            "{}",
            mistake.what
        );
    }
}

/// The name, the one file, the other: NUL bytes between them.
fn account(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (name, passwd, group) = (next(), next(), next());
    let Ok(name) = str::from_utf8(name) else {
        return;
    };
    if let Ok(Some(user)) = forge::account(passwd, group, name) {
        assert!(user.uid != u32::MAX && user.gid != u32::MAX && user.groups.len() <= 1024);
        let account = user.account.expect("it has a name");
        assert_eq!(account.name, name);
        assert!(!account.home.contains('\0') && !account.shell.contains('\0'));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else {
        return;
    };
    match how % 6 {
        0 => match Request::from_line(bytes) {
            Ok(request) => assert_eq!(Request::from_line(&to_line(&request)), Ok(request)),
            Err(answer) => assert_eq!(Answer::from_line(&to_line(&answer)), Some(answer)),
        },
        1 => {
            if let Some(answer) = Answer::from_line(bytes) {
                assert_eq!(Answer::from_line(&to_line(&answer)), Some(answer));
            }
        }
        2 => {
            if let Ok(text) = str::from_utf8(bytes) {
                configuration(text);
            }
        }
        3 => account(bytes),
        4 => {
            if let Err(error) = forge::password_file(bytes) {
                assert!(error.to_string().len() < 256);
            }
        }
        _ => {
            if let Some(named) = str::from_utf8(bytes)
                .ok()
                .and_then(|text| text.parse::<Named>().ok())
            {
                assert_eq!(named.to_string().parse(), Ok(named));
            }
        }
    }
});
