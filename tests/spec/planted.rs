//! Planted violations: each break between specification, code and tests is caught.

use super::*;

const PAGE: &str = "# Page\n<a id=\"once\"></a>\n## Import once\nIt imports once.\n";
const IDS: &str = "## C1: export\n";
const CODE: &str = "//= spec/page.md#once\nfn claim() {}\n";
const TEST: &str = "//= proves spec/page.md#once C1\n#[test]\nfn imports_once() {}\n";

/// What is wrong with a page, a file of the library and a file of tests.
fn findings(page: &str, ids: &str, code: &str, test: &str) -> Vec<String> {
    let pages = [
        Page::parse("spec/page.md", page),
        Page::parse(OBLIGATIONS, ids),
    ];
    let code = Source::parse("src/claim.rs", code).unwrap();
    let test = Source::parse("tests/claim.rs", test).unwrap();
    join(&pages, &[code, test]).wrong
}

/// Asserts that there is one finding and that it speaks of `what`.
fn one(wrong: &[String], what: &str) {
    assert!(
        wrong.len() == 1 && wrong[0].contains(what),
        "{what}: {wrong:?}"
    );
}

#[test]
fn what_is_joined_passes() {
    assert_eq!(findings(PAGE, IDS, CODE, TEST), Vec::<String>::new());
    let unmarked = format!("{PAGE}## A heading\n`<a id=\"code\">`\n```\n<a id=\"block\">\n```\n");
    assert_eq!(findings(&unmarked, IDS, CODE, TEST), Vec::<String>::new());
    let in_file = format!("{CODE}#[cfg(test)]\nmod tests {{\n{TEST}}}\n");
    assert_eq!(findings(PAGE, IDS, &in_file, ""), Vec::<String>::new());
    // A test that stands among code, for a build that is no test build.
    let among = format!("{CODE}// More.\n{TEST}");
    assert_eq!(findings(PAGE, IDS, &among, ""), Vec::<String>::new());
    let heading = CODE.replace("#once", "#import-once");
    assert_eq!(
        findings(PAGE, IDS, &format!("{CODE}{heading}"), TEST),
        Vec::<String>::new()
    );
}

#[test]
fn rules_without_code_or_proof_are_caught() {
    one(&findings(PAGE, IDS, "", TEST), "no code keeps it");
    one(
        &findings(PAGE, IDS, CODE, "//= proves C1\n#[test]\nfn f() {}"),
        "no test proves it",
    );
}

#[test]
fn obligations_without_proof_and_unknown_ones_are_caught() {
    one(
        &findings(PAGE, "## C1\n## C2\n", CODE, TEST),
        "no test proves C2",
    );
    one(
        &findings(PAGE, IDS, CODE, &TEST.replace("C1", "C1, C7")),
        "no obligation C7",
    );
}

#[test]
fn citations_that_lead_nowhere_are_caught() {
    let more = |citation: &str| format!("{CODE}{citation}\nfn other() {{}}\n");
    one(
        &findings(PAGE, IDS, &more("//= spec/page.md#twice"), TEST),
        "leads nowhere",
    );
    one(
        &findings(PAGE, IDS, &more("//= spec/other.md#once"), TEST),
        "leads nowhere",
    );
    one(
        &findings(PAGE, IDS, &more("//= see the page"), TEST),
        "not a citation",
    );
    one(
        &findings(PAGE, IDS, &more("//= spec/page.md"), TEST),
        "not a citation",
    );
    one(&findings(PAGE, IDS, &more("//="), TEST), "not a citation");
    one(
        &findings(PAGE, IDS, &more("//= C1"), TEST),
        "an obligation is proved by tests",
    );
}

#[test]
fn citations_in_the_wrong_place_are_caught() {
    let code = format!("{CODE}{}", TEST.replace("#[test]\n", ""));
    one(&findings(PAGE, IDS, &code, TEST), "a proof outside tests");
    one(
        &findings(PAGE, IDS, CODE, &format!("{TEST}{CODE}")),
        "a test proves",
    );
    for nothing in [
        "",
        "\nfn far_away() {}",
        "fn around() {\n//= spec/page.md#once\n}",
    ] {
        let code = match nothing.strip_prefix("fn around") {
            Some(_) => format!("{CODE}{nothing}"),
            None => format!("{CODE}//= spec/page.md#once\n{nothing}"),
        };
        one(&findings(PAGE, IDS, &code, TEST), "nothing below");
    }
}

#[test]
fn citations_in_strings_do_not_count() {
    let quoted = format!("const S: &str = \"\n{CODE}\";\n");
    one(&findings(PAGE, IDS, &quoted, TEST), "no code keeps it");
}

#[test]
fn names_that_stand_twice_are_caught() {
    one(&findings(&PAGE.repeat(2), IDS, CODE, TEST), "once twice");
}

#[test]
fn the_list_of_proofs_names_file_and_function() {
    let pages = [
        Page::parse("spec/page.md", PAGE),
        Page::parse(OBLIGATIONS, IDS),
    ];
    let test = "//= proves C1\n#[test]\nfn a() {}\nfn b() {\n//= proves C1\nc();\n}";
    let joined = join(&pages, &[Source::parse("tests/claim.rs", test).unwrap()]);
    let list = written(&joined);
    assert!(
        list.ends_with("| C1 | [tests/claim.rs](../tests/claim.rs): `a`, `b` |\n"),
        "{list}"
    );
}

#[test]
fn broken_links_are_caught() {
    let pages = [
        Page::parse("spec/page.md", PAGE),
        Page::parse("README.md", "# Top\n"),
    ];
    let broken = |text: &str| {
        let page = Page::parse("spec/other.md", text);
        broken_links(&page, &pages, |path| path == "src/lib.rs").len()
    };
    let whole = "[a](page.md#once) [b](page.md#import-once) [c](../README.md#top) \
                 [d](../src/lib.rs) [e](https://example.org/x) `[f](g.md)`";
    assert_eq!(broken(whole), 0);
    for text in [
        "[a](page.md#never)",
        "[a](pages.md)",
        "[a](README.md)",
        "[a](../src/no.rs)",
    ] {
        assert_eq!(broken(text), 1, "{text}");
    }
}
