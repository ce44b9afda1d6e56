//! What the types promise not to be possible does not compile.
//!
//! Each file of `tests/compile_fail/` is a program that uses the library. A line that must be
//! refused ends in `//~ CODE words`, where CODE is the compiler's code for the error and the words
//! stand in its message; every other line must be accepted. Codes and a few words are compared,
//! not the compiler's whole text, so that the test says the same under every compiler version.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// One error, told or expected.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Refusal {
    line: usize,
    code: String,
    text: String,
}

/// Errors that the case's comments announce.
fn expected(case: &str) -> Vec<Refusal> {
    let marked = case.lines().enumerate().filter_map(|(at, line)| {
        let (code, text) = line.split_once("//~ ")?.1.split_once(' ')?;
        Some(Refusal {
            line: at + 1,
            code: code.into(),
            text: text.trim().into(),
        })
    });
    marked.collect()
}

/// Errors per case, from the compiler's one-line messages:
/// `src/bin/CASE.rs:LINE:COLUMN: error[CODE]: TEXT`.
fn told(messages: &str) -> BTreeMap<String, Vec<Refusal>> {
    let mut cases: BTreeMap<String, Vec<Refusal>> = BTreeMap::new();
    for message in messages.lines() {
        let Some((place, error)) = message.split_once(": error") else {
            continue;
        };
        let Some(place) = place.strip_prefix("src/bin/") else {
            continue;
        };
        let mut place = place.split(':');
        let name = place.next().unwrap().trim_end_matches(".rs");
        let line = place.next().unwrap().parse().unwrap();
        let (code, text) = error.split_once(": ").unwrap();
        let code = code.trim_matches(['[', ']']).to_owned();
        cases.entry(name.to_owned()).or_default().push(Refusal {
            line,
            code,
            text: text.into(),
        });
    }
    cases
}

/// How what was told differs from what was expected; nothing when it does not.
fn difference(expected: &[Refusal], told: &[Refusal]) -> Option<String> {
    let matches = |one: &Refusal, other: &Refusal| {
        one.line == other.line && one.code == other.code && other.text.contains(&one.text)
    };
    let missing = expected
        .iter()
        .filter(|one| !told.iter().any(|other| matches(one, other)));
    let surplus = told
        .iter()
        .filter(|other| !expected.iter().any(|one| matches(one, other)));
    let (missing, surplus): (Vec<_>, Vec<_>) = (missing.collect(), surplus.collect());
    (!missing.is_empty() || !surplus.is_empty())
        .then(|| format!("not refused: {missing:#?}\nrefused, but not for this: {surplus:#?}"))
}

/// Compiles every case as a program of a package that depends on the library as users do:
/// without its features for tests.
fn compile(cases: &BTreeMap<String, String>) -> String {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_fail");
    let programs = package.join("src/bin");
    let _ = fs::remove_dir_all(&programs);
    fs::create_dir_all(&programs).unwrap();
    for (name, text) in cases {
        fs::write(programs.join(format!("{name}.rs")), text).unwrap();
    }
    let manifest = format!(
        "[package]\nname = \"compile-fail\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\nserde = \"1\"\n\
         gss-baton = {{ path = {repository:?}, default-features = false }}\n\n[workspace]\n",
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    fs::copy(repository.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args([
            "check",
            "--offline",
            "--bins",
            "--keep-going",
            "--message-format=short",
        ])
        .current_dir(&package)
        .env("CARGO_TARGET_DIR", package.join("target"))
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_must_not_compile_does_not() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail");
    let mut cases = BTreeMap::new();
    for path in fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        cases.insert(name, fs::read_to_string(path).unwrap());
    }
    // A program the compiler must accept: without it, a library that does not build at all
    // would be told as a case's failure only by its words.
    let accepted = cases
        .values()
        .filter(|text| expected(text).is_empty())
        .count();
    assert!(accepted > 0, "no case that must compile");

    let messages = compile(&cases);
    let told = told(&messages);
    let built = [
        "error: no matching package",
        "could not compile `gss-baton`",
        "failed to ",
    ];
    assert!(
        !built.iter().any(|text| messages.contains(text)),
        "{messages}"
    );
    assert!(
        messages.contains("could not compile `compile-fail`"),
        "{messages}"
    );
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(name, text)| {
            let told = told.get(name).map_or(&[][..], Vec::as_slice);
            Some(format!("{name}: {}", difference(&expected(text), told)?))
        })
        .collect();
    assert!(wrong.is_empty(), "{}\n{messages}", wrong.join("\n"));
    let unknown: BTreeSet<_> = told
        .keys()
        .filter(|name| !cases.contains_key(*name))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn a_line_that_compiles_or_fails_for_another_reason_is_told() {
    let wanted = expected("fn main() {\n    f(a); //~ E0382 moved value\n    ok();\n}");
    let messages = |line, code, text| {
        told(&format!(
            "src/bin/case.rs:{line}:5: error[{code}]: {text}\nerror: aborting"
        ))
        .remove("case")
        .unwrap()
    };
    assert!(difference(&wanted, &messages(2, "E0382", "use of moved value: `a`")).is_none());
    assert!(difference(&wanted, &[]).is_some());
    assert!(difference(&wanted, &messages(2, "E0425", "use of moved value: `a`")).is_some());
    assert!(difference(&wanted, &messages(2, "E0382", "borrowed value")).is_some());
    assert!(difference(&wanted, &messages(3, "E0382", "use of moved value: `a`")).is_some());
    assert!(difference(&[], &messages(3, "E0382", "use of moved value: `a`")).is_some());
}
