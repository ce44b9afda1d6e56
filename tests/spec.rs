//! Specification, code and tests say the same, and this test holds them together.
//!
//! - A rule of a page of `spec/` has an anchor, `<a id="name"></a>`.
//! - Code that keeps the rule has the comment `//= spec/page.md#name` above it.
//! - A test that proves it has the comment `//= proves spec/page.md#name` above it, with the
//!   obligations of `spec/obligations.md` it proves: `//= proves spec/page.md#name C3`.
//!
//! Every citation must lead somewhere, every rule must be kept and proved by something, every
//! obligation must be proved, and links between the repository's pages must not be broken.
//! `BATON_WRITE=1 cargo test --test spec` writes the list of proofs into `spec/obligations.md`.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "spec/page.rs"]
mod page;
#[path = "spec/planted.rs"]
mod planted;
#[allow(dead_code)]
mod source;

use std::collections::{BTreeMap, BTreeSet};

use page::Page;
use source::Source;

const OBLIGATIONS: &str = "spec/obligations.md";

/// What a citation points at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// `spec/page.md#anchor`.
    Rule(String),
    /// An obligation's id.
    Obligation(String),
}

/// One `//=` comment.
struct Citation {
    place: String,
    proof: bool,
    /// File and function of the test, for a proof.
    test: (String, String),
    targets: Vec<Target>,
}

/// All citations of a file, and what is wrong with their form or place.
fn citations(file: &Source, wrong: &mut Vec<String>) -> Vec<Citation> {
    let mut found = Vec::new();
    for (line, text) in file.comments() {
        let Some(text) = text.strip_prefix("//=") else {
            continue;
        };
        let place = format!("{}:{line}", file.path);
        let (proof, list) = match text.trim().strip_prefix("proves ") {
            Some(list) => (true, list),
            None => (false, text.trim()),
        };
        let words = list.split([' ', ',']).filter(|word| !word.is_empty());
        let targets: Option<Vec<Target>> = words.map(target).collect();
        let Some(targets) = targets.filter(|targets| !targets.is_empty()) else {
            wrong.push(format!("{place}: not a citation: {text}"));
            continue;
        };
        if !proof
            && targets
                .iter()
                .any(|target| matches!(target, Target::Obligation(_)))
        {
            wrong.push(format!(
                "{place}: code cites a rule; an obligation is proved by tests"
            ));
        }
        let below = file
            .text
            .lines()
            .skip(line)
            .take_while(|text| text.trim().starts_with("//"));
        let is_test = file.is_test(line) || file.is_test(line + below.count() + 1);
        match (proof, is_test) {
            (true, false) => wrong.push(format!("{place}: a proof outside tests")),
            (false, true) => wrong.push(format!("{place}: a test proves; write `//= proves`")),
            _ => {}
        }
        let Some(function) = function_of(file, line) else {
            wrong.push(format!("{place}: nothing below that it could be about"));
            continue;
        };
        let test = (file.path.clone(), function);
        found.push(Citation {
            place,
            proof,
            test,
            targets,
        });
    }
    found
}

fn target(word: &str) -> Option<Target> {
    if let Some(rest) = word.strip_prefix("spec/") {
        let (page, anchor) = rest.split_once('#')?;
        return (page.ends_with(".md") && !anchor.is_empty()).then(|| Target::Rule(word.into()));
    }
    page::is_obligation(word).then(|| Target::Obligation(word.into()))
}

/// The function a comment is about: the one that begins below it, or the one around it. None
/// when no code follows directly.
fn function_of(file: &Source, line: usize) -> Option<String> {
    let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
    let after = lines[line..]
        .iter()
        .find(|text| !text.starts_with("//") && !text.starts_with("#["))
        .filter(|text| !text.is_empty() && !text.starts_with('}'))?;
    let around = lines[..line]
        .iter()
        .rev()
        .find_map(|text| function_name(text));
    Some(
        function_name(after)
            .or(around)
            .unwrap_or_default()
            .to_owned(),
    )
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_item = !line.starts_with("//")
        && before.split(' ').all(|word| {
            matches!(
                word,
                "" | "pub" | "pub(crate)" | "pub(super)" | "const" | "async" | "unsafe"
            )
        });
    let name = after
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()?;
    (is_item && !name.is_empty()).then_some(name)
}

/// What joins pages and sources, and everything that is wrong with the joints.
struct Joined {
    wrong: Vec<String>,
    /// Obligation to its proofs: file to functions.
    proofs: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

fn join(pages: &[Page], sources: &[Source]) -> Joined {
    let mut wrong = Vec::new();
    let mut proofs: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for page in pages {
        wrong.extend(
            page.duplicates()
                .map(|name| format!("{}: {name} twice", page.path)),
        );
        for id in page.obligations().filter(|_| page.path == OBLIGATIONS) {
            proofs.insert(id.to_owned(), BTreeMap::new());
        }
    }
    let (mut kept, mut proved) = (BTreeSet::new(), BTreeSet::new());
    let mut cited = Vec::new();
    for file in sources {
        cited.extend(citations(file, &mut wrong));
    }
    for citation in &cited {
        for target in &citation.targets {
            match target {
                Target::Rule(rule) => {
                    let (path, anchor) = rule.split_once('#').unwrap();
                    let page = pages.iter().find(|page| page.path == path);
                    if !page.is_some_and(|page| page.has(anchor)) {
                        wrong.push(format!("{}: {rule} leads nowhere", citation.place));
                    }
                    let set = if citation.proof {
                        &mut proved
                    } else {
                        &mut kept
                    };
                    set.insert(rule.clone());
                }
                Target::Obligation(id) => match proofs.get_mut(id) {
                    Some(tests) => {
                        let (file, function) = citation.test.clone();
                        tests.entry(file).or_default().insert(function);
                    }
                    None => wrong.push(format!("{}: no obligation {id}", citation.place)),
                },
            }
        }
    }
    for page in pages {
        for rule in page.rules().map(|anchor| format!("{}#{anchor}", page.path)) {
            if !kept.contains(&rule) {
                wrong.push(format!("{rule}: no code keeps it"));
            }
            if !proved.contains(&rule) {
                wrong.push(format!("{rule}: no test proves it"));
            }
        }
    }
    for (id, tests) in &proofs {
        if tests.is_empty() {
            wrong.push(format!("{OBLIGATIONS}: no test proves {id}"));
        }
    }
    Joined { wrong, proofs }
}

/// The list of proofs as it stands in `spec/obligations.md`.
fn written(joined: &Joined) -> String {
    let mut out = String::from("\n| id | tests |\n|---|---|\n");
    let mut ids: Vec<_> = joined.proofs.keys().collect();
    ids.sort_by_key(|id| (id.len(), id.as_str()));
    for id in ids {
        let files = joined.proofs[id].iter().map(|(file, functions)| {
            let names: Vec<String> = functions.iter().map(|name| format!("`{name}`")).collect();
            format!("[{file}](../{file}): {}", names.join(", "))
        });
        out += &format!("| {id} | {} |\n", files.collect::<Vec<_>>().join("; "));
    }
    out
}

/// Takes `text` apart around its list of proofs.
fn around_the_list(text: &str) -> Option<(&str, &str, &str)> {
    const BEGIN: &str = "<!-- proofs: written by tests/spec.rs -->\n";
    const END: &str = "<!-- end of proofs -->";
    let begin = text.find(BEGIN)? + BEGIN.len();
    let end = begin + text[begin..].find(END)?;
    Some((&text[..begin], &text[begin..end], &text[end..]))
}

/// Links of a page that lead nowhere. `exists` tells whether a path of the repository exists.
fn broken_links(page: &Page, pages: &[Page], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (line, link) in page.links() {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        if file.contains(':') {
            continue;
        }
        let path = page.resolve(file);
        let known = pages.iter().find(|page| page.path == path);
        let anchored = anchor.is_empty() || known.is_none_or(|page| page.has(anchor));
        if !(known.is_some() || exists(&path)) || !anchored {
            wrong.push(format!("{}:{line}: {link} leads nowhere", page.path));
        }
    }
    wrong
}

fn read_pages(paths: &[String]) -> Vec<Page> {
    paths
        .iter()
        .map(|path| Page::parse(path, &source::read(path)))
        .collect()
}

#[test]
fn rules_are_kept_by_code_and_proved_by_tests() {
    let pages = read_pages(&source::files("spec", ".md"));
    let joined = join(&pages, &source::sources(&["src", "tests"]));
    assert!(joined.wrong.is_empty(), "\n{}", joined.wrong.join("\n"));
}

#[test]
fn the_list_of_proofs_is_up_to_date() {
    let pages = read_pages(&source::files("spec", ".md"));
    let list = written(&join(&pages, &source::sources(&["src", "tests"])));
    let text = source::read(OBLIGATIONS);
    let (before, present, after) = around_the_list(&text).unwrap();
    if std::env::var_os("BATON_WRITE").is_some() {
        std::fs::write(
            source::root().join(OBLIGATIONS),
            [before, &list, after].concat(),
        )
        .unwrap();
    } else {
        assert!(
            present == list,
            "run `BATON_WRITE=1 cargo test --test spec`; it writes:\n{list}"
        );
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let pages = read_pages(&source::files("", ".md"));
    let exists = |path: &str| source::root().join(path).exists();
    let wrong: Vec<String> = pages
        .iter()
        .flat_map(|page| broken_links(page, &pages, exists))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_index_names_every_page() {
    let index = Page::parse("spec/README.md", &source::read("spec/README.md"));
    let linked: Vec<&str> = index.links().map(|(_, link)| link).collect();
    for path in source::files("spec", ".md") {
        let name = path.strip_prefix("spec/").unwrap();
        assert!(
            name == "README.md" || linked.contains(&name),
            "{name} is not in spec/README.md"
        );
    }
}
