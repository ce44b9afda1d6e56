//! A Markdown page: its anchors, its rules, its obligations and its links.

/// One page.
pub(crate) struct Page {
    /// Relative to the repository.
    pub(crate) path: String,
    /// Names of `<a id="...">`: rules, in a page of `spec/`.
    marked: Vec<String>,
    /// Names that headings have.
    headings: Vec<String>,
    obligations: Vec<String>,
    /// Line and target.
    links: Vec<(usize, String)>,
}

impl Page {
    /// Reads a page; what stands in code blocks and code spans says nothing.
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let mut page = Self {
            path: path.to_owned(),
            marked: Vec::new(),
            headings: Vec::new(),
            obligations: Vec::new(),
            links: Vec::new(),
        };
        let mut in_block = false;
        for (at, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
                continue;
            }
            if in_block {
                continue;
            }
            let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
            page.marked
                .extend(between(&plain, "<a id=\"", "\"").map(str::to_owned));
            let targets = between(&plain, "](", ")").map(|link| (at + 1, link.to_owned()));
            page.links.extend(targets);
            if let Some(title) = line
                .strip_prefix('#')
                .map(|rest| rest.trim_start_matches('#'))
            {
                page.headings.push(slug(title));
                let first = title
                    .trim()
                    .split([' ', ':', '.'])
                    .next()
                    .unwrap_or_default();
                if is_obligation(first) {
                    page.obligations.push(first.to_owned());
                }
            }
        }
        page
    }

    /// Anchors that are rules.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &str> {
        self.marked.iter().map(String::as_str)
    }

    /// Obligations this page states: headings that begin with an id.
    pub(crate) fn obligations(&self) -> impl Iterator<Item = &str> {
        self.obligations.iter().map(String::as_str)
    }

    /// Line and target of every link.
    pub(crate) fn links(&self) -> impl Iterator<Item = (usize, &str)> {
        self.links.iter().map(|(line, link)| (*line, link.as_str()))
    }

    /// Whether a link to `anchor` of this page arrives.
    pub(crate) fn has(&self, anchor: &str) -> bool {
        self.marked
            .iter()
            .chain(&self.headings)
            .any(|name| name == anchor)
    }

    /// Marked names and obligations that stand here more than once.
    pub(crate) fn duplicates(&self) -> impl Iterator<Item = &str> {
        let twice = |names: &'_ [String], at: usize| names[..at].contains(&names[at]);
        let marked = (0..self.marked.len()).filter(move |at| twice(&self.marked, *at));
        let ids = (0..self.obligations.len()).filter(move |at| twice(&self.obligations, *at));
        marked
            .map(|at| self.marked[at].as_str())
            .chain(ids.map(|at| self.obligations[at].as_str()))
    }

    /// The path, relative to the repository, of `file` as it is linked from this page.
    pub(crate) fn resolve(&self, file: &str) -> String {
        if file.is_empty() {
            return self.path.clone();
        }
        let mut parts: Vec<&str> = self.path.split('/').collect();
        parts.pop();
        for part in file.split('/') {
            match part {
                "." | "" => {}
                ".." => drop(parts.pop()),
                _ => parts.push(part),
            }
        }
        parts.join("/")
    }
}

/// Whether `word` has the form of an obligation's id: a capital letter and a number.
pub(crate) fn is_obligation(word: &str) -> bool {
    let mut letters = word.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_uppercase())
        && word.len() > 1
        && letters.all(|rest| rest.is_ascii_digit())
}

/// A heading's name in links, as code hosts make it.
fn slug(title: &str) -> String {
    let words = title
        .split('<')
        .map(|part| part.split_once('>').map_or(part, |(_, rest)| rest));
    let title: String = words.collect();
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    title
        .trim()
        .to_lowercase()
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin)
        .skip(1)
        .filter_map(move |rest| Some(rest.split_once(end)?.0))
}
