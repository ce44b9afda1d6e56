//! The rules of this repository's structure, and the proof that each rule catches what it is
//! there to catch: every check below is also run on planted violations.
//!
//! - A module of the library uses only modules declared above it in `src/lib.rs`.
//! - `unsafe` stands in `src/sys` and `src/ffi`, and each use of it gives its reason.
//! - Cryptographic libraries are named in `src/crypto.rs` and `src/tls` only.
//! - Files are short, module names say what the module is, and every file belongs to a module.
//! - Every fuzz target has its source and its seeds.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "structure/paths.rs"]
mod paths;
#[path = "structure/planted.rs"]
mod planted;
#[allow(dead_code)]
mod source;

use std::fs;

use paths::usages;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use source::{Source, group, is_ident, is_mark};

/// Rooms that may contain `unsafe`.
const UNSAFE: [&str; 2] = ["sys", "ffi"];
/// Libraries whose names may appear in `CRYPTOGRAPHY` only.
const CIPHERS: [&str; 4] = ["ring", "chacha20", "chacha20poly1305", "aws_lc_rs"];
const CRYPTOGRAPHY: [&str; 2] = ["crypto", "tls"];
/// Names that say nothing about what a module is.
const VAGUE: [&str; 9] = [
    "utils", "util", "common", "helpers", "helper", "handy", "shared", "manager", "misc",
];
/// Lines a file may have without a `// long:` line that gives the reason.
const LONGEST: usize = 600;

/// Modules that `src/lib.rs` declares, in order, and what is wrong with its declarations.
fn declared(library: &Source) -> (Vec<String>, Vec<String>) {
    let (mut modules, mut wrong) = (Vec::new(), Vec::new());
    for (at, token) in library.code.iter().enumerate() {
        if !is_ident(Some(token), "mod") {
            continue;
        }
        let Some(TokenTree::Ident(name)) = library.code.get(at + 1) else {
            continue;
        };
        if !is_mark(library.code.get(at + 2), ';') {
            wrong.push(format!("src/lib.rs: module {name} has its body in lib.rs"));
        }
        modules.push(name.to_string());
    }
    (modules, wrong)
}

/// The layer rule for one file of `src`, given the modules in order.
fn layers(file: &Source, modules: &[String]) -> Vec<String> {
    let Some((own, inner)) = place(&file.path) else {
        return Vec::new();
    };
    let Some(layer) = modules.iter().position(|module| module == own) else {
        return vec![format!("{}: belongs to no module of src/lib.rs", file.path)];
    };
    let mut found = Vec::new();
    usages(&file.code, 0, &mut found);
    let wrong = found.iter().filter_map(|usage| {
        let text = usage.segments.join("::");
        let reason = match usage.segments.first()?.as_str() {
            "crate" => {
                let name = usage.segments.get(1).map(String::as_str);
                match modules
                    .iter()
                    .position(|module| Some(module.as_str()) == name)
                {
                    Some(other) if other <= layer => return None,
                    Some(_) => "is declared below this module",
                    None => "hides which module it uses",
                }
            }
            "self" | "super" => {
                let path = usage
                    .segments
                    .iter()
                    .skip_while(|segment| *segment == "self");
                let climbs = path.take_while(|segment| *segment == "super").count();
                if climbs <= inner + usage.depth {
                    return None;
                }
                "climbs out of its module"
            }
            _ if CRYPTOGRAPHY.contains(&own) => return None,
            _ => "names a cryptographic library",
        };
        Some(format!("{}:{}: {text} {reason}", file.path, usage.line))
    });
    wrong.collect()
}

/// The top module of a file of `src` and how deep in it the file is; none for the crate roots.
fn place(path: &str) -> Option<(&str, usize)> {
    let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let parts: Vec<&str> = inside.split('/').collect();
    let (own, deeper) = parts.split_first()?;
    if *own == "bin" || (deeper.is_empty() && ["lib", "main"].contains(own)) {
        return None;
    }
    Some((own, deeper.iter().filter(|part| **part != "mod").count()))
}

/// `unsafe` in its rooms only, and each with its reason. Test code is held to it too.
fn unsafety(file: &Source) -> Vec<String> {
    let room = place(&file.path).map_or("", |(own, _)| own);
    let in_library = file.path.starts_with("src/");
    let lines: Vec<&str> = file.text.lines().collect();
    let mut wrong = Vec::new();
    for (line, what) in unsafe_words(&file.text.parse().unwrap()) {
        if in_library && !UNSAFE.contains(&room) {
            wrong.push(format!("{}:{line}: unsafe outside its rooms", file.path));
        } else if what == Unsafe::Use && !has_reason(&lines, line) {
            wrong.push(format!("{}:{line}: unsafe without its reason", file.path));
        }
    }
    let allows = file.text.contains("unsafe_code") && file.path != "src/lib.rs";
    if allows && in_library {
        wrong.push(format!("{}: changes the lint on unsafe code", file.path));
    }
    wrong
}

#[derive(PartialEq)]
enum Unsafe {
    /// A block, an item, an attribute: someone promises something.
    Use,
    /// The type of a function pointer, a method whose contract is its trait's: nothing is
    /// promised here.
    Word,
}

/// Every `unsafe` with its line.
fn unsafe_words(tokens: &TokenStream) -> Vec<(usize, Unsafe)> {
    let mut found = Vec::new();
    find_unsafe(tokens, false, &mut found);
    found
}

fn find_unsafe(tokens: &TokenStream, of_trait: bool, found: &mut Vec<(usize, Unsafe)>) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    // Whether the item that is being read implements a trait: `impl ... for ...`.
    let (mut implements, mut for_type) = (false, false);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if word == "unsafe" => {
                let mut next = tokens[at + 1..].iter().take(3);
                let function = next.position(|token| is_ident(Some(token), "fn"));
                let pointer = function.is_some_and(|function| {
                    group(tokens.get(at + function + 2), Delimiter::Parenthesis).is_some()
                });
                let word_only = pointer || (of_trait && function.is_some());
                let kind = if word_only { Unsafe::Word } else { Unsafe::Use };
                found.push((word.span().start().line, kind));
            }
            TokenTree::Ident(word) if word == "impl" => implements = true,
            TokenTree::Ident(word) if word == "for" && !is_mark(tokens.get(at + 1), '<') => {
                for_type = implements;
            }
            TokenTree::Group(inner) => {
                find_unsafe(&inner.stream(), for_type, found);
                if inner.delimiter() == Delimiter::Brace {
                    (implements, for_type) = (false, false);
                }
            }
            _ => {}
        }
    }
}

/// Whether one of the five lines above, or the comment and attributes that end there, says why.
fn has_reason(lines: &[&str], line: usize) -> bool {
    let says = |text: &str| {
        text.split_once("//")
            .is_some_and(|(_, note)| note.contains("SAFETY:") || note.contains("# Safety"))
    };
    let above = lines[..line].iter().rev();
    let attached = above.clone().skip(1).take_while(|text| {
        let text = text.trim();
        text.starts_with("//") || text.starts_with("#[")
    });
    above.clone().take(6).any(|text| says(text)) || attached.clone().any(|text| says(text))
}

/// Length, name, and no other way for text to become code.
fn form(file: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = file.text.lines().count();
    let reason = file.comments().any(|(_, text)| {
        text.strip_prefix("// long:")
            .is_some_and(|reason| reason.trim().len() > 10)
    });
    if lines > LONGEST && !reason {
        wrong.push(format!(
            "{}: {lines} lines and no `// long:` with a reason",
            file.path
        ));
    }
    for part in file.path.trim_end_matches(".rs").split('/') {
        if VAGUE.contains(&part) {
            wrong.push(format!(
                "{}: the name {part} does not say what it is",
                file.path
            ));
        }
    }
    if file.path.starts_with("src/") {
        let mut found = Vec::new();
        redirections(&file.text.parse().unwrap(), &mut found);
        for (line, what) in found {
            wrong.push(format!(
                "{}:{line}: {what} hides where code comes from",
                file.path
            ));
        }
    }
    wrong
}

/// `#[path]`, `include!` and renamed crates: ways around reading the `mod` lines.
fn redirections(tokens: &TokenStream, found: &mut Vec<(usize, &'static str)>) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let line = token.span().start().line;
        match token {
            TokenTree::Group(inner) => redirections(&inner.stream(), found),
            TokenTree::Ident(word) if word == "path" && is_mark(tokens.get(at + 1), '=') => {
                let alone = at == 0 || is_mark(tokens.get(at - 1), ',');
                if alone && matches!(tokens.get(at + 2), Some(TokenTree::Literal(_))) {
                    found.push((line, "#[path]"));
                }
            }
            TokenTree::Ident(word) if word == "include" && is_mark(tokens.get(at + 1), '!') => {
                found.push((line, "include!"));
            }
            TokenTree::Ident(word) if word == "extern" && is_ident(tokens.get(at + 1), "crate") => {
                found.push((line, "extern crate"));
            }
            _ => {}
        }
    }
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

// ---------------------------------------------------------------- this repository

#[test]
fn modules_use_only_modules_declared_above_them() {
    let (modules, mut wrong) =
        declared(&Source::parse("src/lib.rs", &source::read("src/lib.rs")).unwrap());
    assert!(modules.len() > 4, "src/lib.rs declares its modules");
    for file in source::sources(&["src"]) {
        wrong.extend(layers(&file, &modules));
    }
    none(&wrong);
}

#[test]
fn unsafe_stays_in_its_rooms_and_gives_its_reasons() {
    let files = source::sources(&["src", "tests", "benches", "examples", "fuzz"]);
    none(&files.iter().flat_map(unsafety).collect::<Vec<_>>());
}

#[test]
fn files_are_short_and_their_names_say_what_they_are() {
    let files = source::sources(&["src", "tests", "benches", "examples", "fuzz"]);
    none(&files.iter().flat_map(form).collect::<Vec<_>>());
}

#[test]
fn fuzz_targets_have_a_source_and_seeds() {
    let manifest = source::read("fuzz/Cargo.toml");
    let targets: Vec<&str> = manifest
        .split("[[bin]]")
        .skip(1)
        .filter_map(|table| table.split_once("name = \"")?.1.split('"').next())
        .collect();
    assert!(!targets.is_empty());
    for target in targets {
        assert!(
            source::root()
                .join(format!("fuzz/fuzz_targets/{target}.rs"))
                .is_file(),
            "{target}"
        );
        let seeds = fs::read_dir(source::root().join(format!("fuzz/corpus/{target}")));
        assert!(
            seeds.is_ok_and(|mut seeds| seeds.next().is_some()),
            "{target} has no seeds"
        );
    }
}
