//! This repository's Rust files as tokens: what the tests of its structure and of its citations
//! both read. Working on tokens means that comments, strings, line breaks and macros cannot hide
//! a name from a rule.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One Rust file.
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The file without its test items.
    pub(crate) code: Vec<TokenTree>,
    /// Lines, from 1, of test items: all of them in a file that is only compiled for tests.
    tests: Vec<RangeInclusive<usize>>,
    /// Lines that begin inside a literal of several lines.
    literals: Vec<RangeInclusive<usize>>,
}

impl Source {
    /// Reads `text` as the file `path`; anything that is not Rust is a finding of its own.
    pub(crate) fn parse(path: &str, text: &str) -> Result<Self, String> {
        let tokens: TokenStream = text
            .parse()
            .map_err(|error| format!("{path}: not Rust: {error}"))?;
        let mut source = Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code: Vec::new(),
            tests: Vec::new(),
            literals: Vec::new(),
        };
        multi_line_literals(tokens.clone(), &mut source.literals);
        let file = Path::new(path);
        let only_tests =
            file.ends_with("tests.rs") || file.components().any(|part| part.as_os_str() == "tests");
        if only_tests {
            source.tests.push(1..=usize::MAX);
        } else {
            source.code = without_tests(tokens, &mut source.tests);
        }
        Ok(source)
    }

    /// Whether `line` is compiled for tests only.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.tests.iter().any(|lines| lines.contains(&line))
    }

    /// Lines that hold a comment and nothing else: number and text from the slashes on.
    pub(crate) fn comments(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().filter_map(|(at, line)| {
            let (line_number, line) = (at + 1, line.trim());
            let quoted = self
                .literals
                .iter()
                .any(|lines| lines.contains(&line_number));
            (line.starts_with("//") && !quoted).then_some((line_number, line))
        })
    }
}

/// Every file below `directory` whose name ends in `extension`, in order; paths are relative to
/// the repository. Build results and fuzzing corpora are not looked into.
pub(crate) fn files(directory: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(next) = open.pop() {
        let Ok(entries) = fs::read_dir(&next) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() && !["target", "corpus", "artifacts"].contains(&&*name) {
                open.push(path);
            } else if path.is_file() && name.ends_with(extension) {
                found.push(relative(&path));
            }
        }
    }
    found.sort();
    found
}

/// Reads every Rust file below the `directories`.
pub(crate) fn sources(directories: &[&str]) -> Vec<Source> {
    let paths = directories
        .iter()
        .flat_map(|directory| files(directory, ".rs"));
    paths
        .map(|path| Source::parse(&path, &read(&path)).unwrap())
        .collect()
}

/// The text of a file of the repository.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// Whether `token` is the identifier `name`.
pub(crate) fn is_ident(token: Option<&TokenTree>, name: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(ident)) if ident == name)
}

/// Whether `token` is the punctuation `mark`.
pub(crate) fn is_mark(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

/// The content of `token`, if it is a group between these delimiters.
pub(crate) fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<TokenStream> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group.stream()),
        _ => None,
    }
}

fn multi_line_literals(tokens: TokenStream, found: &mut Vec<RangeInclusive<usize>>) {
    for token in tokens {
        let (start, end) = (token.span().start().line, token.span().end().line);
        match token {
            TokenTree::Group(group) => multi_line_literals(group.stream(), found),
            TokenTree::Literal(_) if end > start => found.push(start + 1..=end),
            _ => {}
        }
    }
}

/// Drops items under `#[cfg(test)]` or `#[test]` and notes their lines, here and in groups.
fn without_tests(tokens: TokenStream, tests: &mut Vec<RangeInclusive<usize>>) -> Vec<TokenTree> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let attribute = group(tokens.get(at + 1), Delimiter::Bracket);
        if is_mark(Some(token), '#') && attribute.is_some_and(is_for_tests) {
            let end = item_end(&tokens, at);
            tests.push(token.span().start().line..=tokens[end].span().end().line);
            at = end + 1;
            continue;
        }
        kept.push(match token {
            TokenTree::Group(inner) => {
                let stream = without_tests(inner.stream(), tests).into_iter().collect();
                let mut group = proc_macro2::Group::new(inner.delimiter(), stream);
                group.set_span(inner.span());
                TokenTree::Group(group)
            }
            other => other.clone(),
        });
        at += 1;
    }
    kept
}

/// Whether an attribute's content is `test`, or a `cfg` that asks for `test` (not for its absence).
fn is_for_tests(attribute: TokenStream) -> bool {
    fn asks(tokens: TokenStream) -> bool {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        tokens.iter().enumerate().any(|(at, token)| match token {
            TokenTree::Ident(name) if name == "test" => true,
            TokenTree::Group(inner) => {
                at > 0 && is_ident(tokens.get(at - 1), "all") && asks(inner.stream())
            }
            _ => false,
        })
    }
    let tokens: Vec<TokenTree> = attribute.into_iter().collect();
    match tokens.as_slice() {
        [name] => is_ident(Some(name), "test"),
        [name, list] if is_ident(Some(name), "cfg") => {
            group(Some(list), Delimiter::Parenthesis).is_some_and(asks)
        }
        _ => false,
    }
}

/// Index of the last token of the item whose attributes begin at `at`.
fn item_end(tokens: &[TokenTree], mut at: usize) -> usize {
    while is_mark(tokens.get(at), '#') {
        at += 2;
    }
    let to_semicolon = tokens[at..].iter().take(3).any(|token| {
        ["use", "static", "const", "type"]
            .iter()
            .any(|word| is_ident(Some(token), word))
    }) && !tokens[at..]
        .iter()
        .take(4)
        .any(|token| is_ident(Some(token), "fn"));
    let body = |token: &TokenTree| group(Some(token), Delimiter::Brace).is_some();
    let end = tokens[at..]
        .iter()
        .position(|token| is_mark(Some(token), ';') || (!to_semicolon && body(token)));
    end.map_or(tokens.len() - 1, |length| at + length)
}
