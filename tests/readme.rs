//! The README shows the program that is in `examples/`, and what it really prints.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The content of the first code block of `readme` that begins with `fence`.
fn block<'a>(readme: &'a str, fence: &str) -> &'a str {
    let (_, rest) = readme.split_once(&format!("```{fence}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// What numbers a run has that another run has not: each word with a digit becomes `#`.
fn shape(output: &str) -> Vec<String> {
    let word = |word: &str| {
        if word.contains(|c: char| c.is_ascii_digit()) {
            "#".into()
        } else {
            word.to_owned()
        }
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = output.lines().map(line).collect();
    // The client and the server tell their ends at the same time.
    lines.sort();
    lines
}

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let example = read("examples/hand_over.rs");
    let (_, rest) = example.split_once("// README: from here\n").unwrap();
    let (shown, _) = rest.split_once("    // README: to here").unwrap();
    let shown: Vec<&str> = shown
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap())
        .collect();
    assert_eq!(block(&read("README.md"), "rust"), shown.join("\n") + "\n");
}

#[test]
fn the_readme_shows_what_the_example_prints() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--offline", "--example", "hand_over"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo tells a test about its package would make build scripts run again.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(name);
        }
    }
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        shape(block(&read("README.md"), "text")),
        shape(&printed),
        "it printed:\n{printed}"
    );
}
