//! Planted violations: each rule catches what it is there to catch, and nothing else.

use super::*;

/// What the layer rule says of `text` as module `middle` between `lower` and `upper`.
fn layer_findings(path: &str, text: &str) -> usize {
    let modules = ["lower", "middle", "upper"].map(str::to_owned);
    layers(&Source::parse(path, text).unwrap(), &modules).len()
}

#[test]
fn upward_imports_are_caught_wherever_they_hide() {
    for text in [
        "use crate::upper::Thing;",
        "use crate::upper;",
        "use crate::upper as lower;",
        "use { crate::upper::Thing, std::io };",
        "pub use crate :: upper :: *;",
        "fn f() { g(crate::upper::deep::path::call(1)) }",
        "impl From<crate::upper::T> for T {}",
        "macro_rules! m { () => { $crate::upper::f() } }",
        "fn f() { println!(\"{}\", crate::upper::X) }",
        "#[serde(with = \"crate::upper::bytes\")] struct S;",
        "/* /* */ */ const C: u8 = crate::upper::C;",
        "pub(in crate::upper) fn f() {}",
        "mod inner { mod deeper { use crate::upper::T; } }",
        "#[cfg(not(test))] use crate::upper::T;",
        "#[cfg(any(test, feature = \"fault\"))] use crate::upper::T;",
    ] {
        assert_eq!(layer_findings("src/middle.rs", text), 1, "{text}");
    }
}

#[test]
fn paths_that_hide_their_module_are_caught() {
    for text in [
        "use crate::{lower};",
        "use crate::*;",
        "use crate as c;",
        "use crate::Thing;",
    ] {
        assert_eq!(layer_findings("src/middle.rs", text), 1, "{text}");
    }
}

#[test]
fn climbing_out_of_a_module_is_caught() {
    for (path, text) in [
        ("src/middle.rs", "use super::lower;"),
        ("src/middle/mod.rs", "fn f() { super::upper::f() }"),
        ("src/middle/part.rs", "use super::super::upper;"),
        ("src/middle/part.rs", "use self::super::super::upper;"),
        ("src/middle/part.rs", "use super::{T, super::upper};"),
        ("src/middle.rs", "mod inner { use super::super::upper; }"),
    ] {
        assert_eq!(layer_findings(path, text), 1, "{path}: {text}");
    }
}

#[test]
fn what_the_layer_rule_permits_passes() {
    for (path, text) in [
        (
            "src/middle.rs",
            "use crate::lower::{a, b::{self, C}}; use crate::middle::D;",
        ),
        (
            "src/middle/part.rs",
            "use super::T; mod inner { use super::super::T; }",
        ),
        (
            "src/middle.rs",
            "// use crate::upper::T;\n/// [`crate::upper::T`]\nfn f() {}",
        ),
        ("src/middle.rs", "const S: &str = \"use crate :: upper\";"),
        (
            "src/middle.rs",
            "pub(crate) fn f() {} pub(super) struct S(pub(crate) u8);",
        ),
        (
            "src/middle.rs",
            "#[cfg(test)] mod tests { use crate::upper::T; }",
        ),
        (
            "src/middle.rs",
            "#[cfg(all(test, not(loom)))] mod tests { use super::super::T; }",
        ),
        (
            "src/middle.rs",
            "#[cfg(test)] use crate::upper::T;\nfn f() {}",
        ),
        ("src/middle/tests.rs", "use crate::upper::T;"),
        ("src/bin/program.rs", "use baton::upper::T;"),
    ] {
        assert_eq!(layer_findings(path, text), 0, "{path}: {text}");
    }
}

#[test]
fn code_behind_a_test_item_is_not_taken_for_one() {
    let text = "#[cfg(test)] use std::io; use crate::upper::T;";
    assert_eq!(layer_findings("src/middle.rs", text), 1);
    let text = "#[cfg(test)] const fn f() -> u8 { 1 } use crate::upper::T;";
    assert_eq!(layer_findings("src/middle.rs", text), 1);
}

#[test]
fn files_of_no_module_and_bodies_in_the_crate_root_are_caught() {
    assert_eq!(layer_findings("src/stray.rs", ""), 1);
    let library = Source::parse(
        "src/lib.rs",
        "mod a;\npub mod b { mod c; }\n#[cfg(test)] mod d {}",
    );
    let (modules, wrong) = declared(&library.unwrap());
    assert_eq!(
        (modules, wrong.len()),
        (vec!["a".to_owned(), "b".to_owned()], 1)
    );
}

#[test]
fn ciphers_named_outside_their_rooms_are_caught() {
    for text in [
        "use ring::aead;",
        "fn f() { ring::digest::digest(a, b) }",
        "use {ring::hmac};",
    ] {
        assert_eq!(layer_findings("src/middle.rs", text), 1, "{text}");
    }
    assert_eq!(
        layer_findings("src/middle.rs", "fn f(ring: &[u8]) { ring.len() }"),
        0
    );
    let modules = ["crypto".to_owned()];
    let file = Source::parse("src/crypto.rs", "use ring::aead;").unwrap();
    assert!(layers(&file, &modules).is_empty());
}

#[test]
fn unsafe_code_is_caught() {
    let findings = |path: &str, text: &str| unsafety(&Source::parse(path, text).unwrap()).len();
    let reasoned = "// SAFETY: the pointer is the page's.\nunsafe { f() }";
    for text in [
        reasoned,
        "mac! { unsafe { f() } }",
        "#[cfg(test)] mod t { fn f() { unsafe {} } }",
    ] {
        assert_eq!(
            findings("src/middle.rs", &format!("fn g() {{\n{text}\n}}")),
            1,
            "{text}"
        );
    }
    assert_eq!(findings("src/middle.rs", "#![allow(unsafe_code)]"), 1);
    assert_eq!(
        findings("src/middle.rs", "const S: &str = \"unsafe {}\"; // unsafe"),
        0
    );
    for text in [
        "fn g() {\nunsafe { f() }\n}",
        "/// Does it.\npub unsafe fn f() {}",
        "impl B {\nunsafe fn f() {} }",
        "impl<F: for<'a> G<'a>> B<F> {\nunsafe fn f() {} }",
        "impl A for B { fn g() {\nunsafe { f() } } }",
        "// Send is fine.\nunsafe impl Send for T {}",
        "// SAFETY: for the first only.\nunsafe impl Send for T {}\n\n\n\n\n\nunsafe impl Sync for T {}",
    ] {
        assert_eq!(findings("src/sys/memory.rs", text), 1, "{text}");
    }
    for text in [
        "fn g() {\n// SAFETY: reasons.\nunsafe { f() }\n}",
        "/// Does it.\n///\n/// # Safety\n/// a\n/// b\n/// c\n/// d\n/// e\n/// f\n#[inline]\npub unsafe fn f() {}",
        "type F = unsafe extern \"C\" fn(u8);",
        "// SAFETY: reasons.\nunsafe impl A for B {\n\n\n\n\n\n\nunsafe fn f() {} }",
    ] {
        assert_eq!(findings("src/sys/memory.rs", text), 0, "{text}");
    }
}

#[test]
fn long_files_vague_names_and_redirections_are_caught() {
    let findings = |path: &str, text: &str| form(&Source::parse(path, text).unwrap()).len();
    let long = "fn f() {}\n".repeat(LONGEST + 1);
    assert_eq!(findings("src/middle.rs", &long), 1);
    assert_eq!(findings("src/middle.rs", &format!("{long}// long: ")), 1);
    assert_eq!(
        findings(
            "src/middle.rs",
            &format!("{long}// long: one table, read as one\n")
        ),
        0
    );
    assert_eq!(findings("src/utils.rs", ""), 1);
    assert_eq!(findings("tests/common/mod.rs", ""), 1);
    assert_eq!(findings("src/lib.rs", "#[path = \"x.rs\"] mod a;"), 1);
    assert_eq!(
        findings("src/lib.rs", "#[cfg_attr(unix, path = \"x.rs\")] mod a;"),
        1
    );
    assert_eq!(findings("src/lib.rs", "include!(\"x.rs\");"), 1);
    assert_eq!(findings("src/lib.rs", "extern crate self as baton;"), 1);
    assert_eq!(
        findings("src/lib.rs", "#![doc = include_str!(\"../README.md\")]"),
        0
    );
}
