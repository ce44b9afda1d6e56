//! Finding the paths in code that a layer rule is about.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::CIPHERS;
use crate::source::{group, is_mark};

/// A path in code that says where it begins.
#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    /// Modules of the file around it, as `mod x { ... }`.
    pub(crate) depth: usize,
}

/// Whether a path that begins with `name` is of interest.
pub(crate) fn is_start(name: &str) -> bool {
    ["crate", "super", "self"].contains(&name) || CIPHERS.contains(&name)
}

/// Finds every path in `tokens` that begins at the crate, at a module around, or at a cipher.
pub(crate) fn usages(tokens: &[TokenTree], depth: usize, found: &mut Vec<Usage>) {
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let line = token.span().start().line;
        match token {
            TokenTree::Ident(word) if word == "use" => {
                let length = tokens[at..]
                    .iter()
                    .position(|token| is_mark(Some(token), ';'));
                let end = length.map_or(tokens.len(), |length| at + length);
                use_tree(&tokens[at + 1..end], &[], depth, found);
                at = end;
            }
            TokenTree::Ident(word) if word == "mod" => {
                if let Some(body) = group(tokens.get(at + 2), Delimiter::Brace) {
                    usages(&list(body), depth + 1, found);
                    at += 2;
                }
            }
            TokenTree::Ident(word) if word == "pub" => {
                let scope = group(tokens.get(at + 1), Delimiter::Parenthesis).map(list);
                if let Some([TokenTree::Ident(_)]) = scope.as_deref() {
                    at += 1;
                }
            }
            TokenTree::Ident(word) if is_start(&word.to_string()) => {
                let mut segments = vec![word.to_string()];
                while is_mark(tokens.get(at + 1), ':') && is_mark(tokens.get(at + 2), ':') {
                    let Some(TokenTree::Ident(next)) = tokens.get(at + 3) else {
                        break;
                    };
                    segments.push(next.to_string());
                    at += 3;
                }
                // A cipher's name by itself may be a variable's.
                if segments.len() > 1 || ["crate", "super", "self"].contains(&&*segments[0]) {
                    found.push(Usage {
                        segments,
                        line,
                        depth,
                    });
                }
            }
            // An attribute may name a path in a string: `#[serde(with = "crate::x")]`.
            TokenTree::Literal(text) => {
                let text = text.to_string();
                if let Ok(path) = text.trim_matches('"').parse::<TokenStream>()
                    && text.starts_with("\"crate::")
                {
                    usages(&list(path), depth, found);
                }
            }
            TokenTree::Group(inner) => usages(&list(inner.stream()), depth, found),
            _ => {}
        }
        at += 1;
    }
}

/// Takes a `use` declaration apart into one usage for each name it brings in.
fn use_tree(tokens: &[TokenTree], before: &[String], depth: usize, found: &mut Vec<Usage>) {
    for branch in tokens.split(|token| is_mark(Some(token), ',')) {
        let Some(first) = branch.first() else {
            continue;
        };
        let line = first.span().start().line;
        let mut segments = before.to_vec();
        for token in branch {
            match token {
                TokenTree::Ident(word) if word == "as" => break,
                TokenTree::Ident(word) => segments.push(word.to_string()),
                TokenTree::Group(inner) => {
                    // Kept as a finding: names behind it would escape a search for `crate::x`.
                    if segments == ["crate"] {
                        found.push(Usage {
                            segments: vec!["crate".into(), "{".into()],
                            line,
                            depth,
                        });
                    }
                    use_tree(&list(inner.stream()), &segments, depth, found);
                    segments.clear();
                }
                TokenTree::Punct(mark) if mark.as_char() == '*' => segments.push("*".into()),
                _ => {}
            }
        }
        if segments.first().is_some_and(|first| is_start(first)) {
            found.push(Usage {
                segments,
                line,
                depth,
            });
        }
    }
}

pub(crate) fn list(tokens: TokenStream) -> Vec<TokenTree> {
    tokens.into_iter().collect()
}
