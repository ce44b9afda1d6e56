//! The configuration file of `baton serve` (`spec/configuration.md`): TOML in, options out, or every
//! mistake there is.
//!
//! Invariants: a file is taken over as a whole or not at all; a mistake says its line and what is
//! expected; what the file holds is shown in a mistake cut and escaped.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::server::users::Named;

use super::arguments::{ClientAuth, LogForm, Serve};

/// The most bytes of a file.
//= spec/configuration.md#file
const MAX_FILE: u64 = 1 << 16;
/// Characters shown of a value.
const SHOWN: usize = 40;

/// What may stand at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Address,
    Path,
    PathOrNone,
    User,
    Flag,
    Command,
    Integer(u64, u64),
    Choice(&'static [&'static str]),
}

const LAST: u64 = i64::MAX as u64;

/// Every key, by its name, with what may stand there.
//= spec/configuration.md#keys
pub(super) const KEYS: &[(&str, Kind)] = &[
    ("listen", Kind::Address),
    ("state", Kind::Path),
    ("http", Kind::Flag),
    ("exec", Kind::Command),
    ("hops", Kind::Integer(0, 100_000)),
    ("hop-every", Kind::Integer(1, LAST)),
    (
        "client-auth",
        Kind::Choice(&["none", "optional", "required"]),
    ),
    ("client-ca", Kind::Path),
    ("cert", Kind::Path),
    ("key", Kind::Path),
    ("password-file", Kind::Path),
    ("handshaker-user", Kind::User),
    ("zygote-user", Kind::User),
    ("session-user", Kind::User),
    ("peer-user", Kind::Choice(&["none", "optional", "required"])),
    ("sessions", Kind::Integer(1, u32::MAX as u64)),
    ("handshakes", Kind::Integer(1, u32::MAX as u64)),
    ("connections", Kind::Integer(2, u32::MAX as u64)),
    ("over-limit", Kind::Choice(&["wait", "refuse"])),
    ("address-rate", Kind::Integer(0, 1_000_000)),
    ("address-burst", Kind::Integer(1, 1_000_000)),
    ("idle-timeout", Kind::Integer(0, u32::MAX as u64)),
    ("session-timeout", Kind::Integer(0, u32::MAX as u64)),
    ("session-memory", Kind::Integer(0, 16_777_216)),
    ("session-files", Kind::Integer(0, 1_048_576)),
    ("session-processes", Kind::Integer(0, 4_194_304)),
    ("control", Kind::PathOrNone),
    ("log", Kind::Choice(&["human", "json"])),
];

impl Kind {
    /// The type, as the page names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Address | Self::Path | Self::PathOrNone | Self::User | Self::Choice(_) => {
                "string"
            }
            Self::Flag => "boolean",
            Self::Command => "array of strings",
            Self::Integer(..) => "integer",
        }
    }

    /// The bounds, as the page names them.
    pub(super) fn bounds(self) -> String {
        match self {
            Self::Address => "an IP address and a port".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::PathOrNone => "a path, or \"none\"".to_owned(),
            Self::User => "an account, or UID:GID".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Command => "a command and its arguments, at least one string".to_owned(),
            Self::Integer(least, most) => format!("{least} to {most}"),
            Self::Choice(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                match words.split_last() {
                    Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                    None => String::new(),
                }
            }
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, counted from 1; 0 for the file as a whole, or the command line.
    pub line: usize,
    /// What is there, and what is expected.
    pub what: String,
}

/// All mistakes of a file, in the order of their lines.
#[derive(Debug)]
pub struct Mistakes {
    path: PathBuf,
    all: Vec<Mistake>,
}

impl Mistakes {
    /// Of what a good file names, by keys; those that stood on the command line are `given`.
    pub(super) fn of_keys(
        path: &Path,
        given: &BTreeSet<String>,
        wrong: Vec<(&'static str, String)>,
    ) -> Self {
        let mistake = |(key, what): (&'static str, String)| Mistake {
            line: match given.contains(key) {
                true => 0,
                false => line_of(path, key),
            },
            what,
        };
        let mut all: Vec<Mistake> = wrong.into_iter().map(mistake).collect();
        all.sort_by_key(|mistake| mistake.line);
        Self {
            path: path.to_owned(),
            all,
        }
    }

    /// Each of them.
    pub fn all(&self) -> &[Mistake] {
        &self.all
    }

    /// One line for each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let path = self.path.display();
        self.all.iter().map(move |mistake| match mistake.line {
            0 => format!("{path}: {}", mistake.what),
            line => format!("{path}:{line}: {}", mistake.what),
        })
    }
}

/// Reads the file at `path` into `options`: each key, but those of `given`, which stood on the
/// command line.
///
/// # Errors
/// Every mistake. `options` is of no use then.
//= spec/configuration.md#mistakes
pub fn read(path: &Path, options: &mut Serve, given: &BTreeSet<String>) -> Result<(), Mistakes> {
    let mistakes = |all| Mistakes {
        path: path.to_owned(),
        all,
    };
    let whole = |what: String| mistakes(vec![Mistake { line: 0, what }]);
    let file = std::fs::File::open(path).map_err(|error| whole(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| whole(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(whole(format!("longer than {MAX_FILE} bytes")));
    }
    let text = match str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = line_at(&bytes, error.valid_up_to());
            let what = "bytes that are no UTF-8; expected a TOML file".to_owned();
            return Err(mistakes(vec![Mistake { line, what }]));
        }
    };
    let all = apply(text, options, given);
    if all.is_empty() {
        Ok(())
    } else {
        Err(mistakes(all))
    }
}

/// Reads texts of files, for fuzzing only.
#[cfg(any(test, feature = "fault"))]
#[doc(hidden)]
pub struct Checker(Serve);

#[cfg(any(test, feature = "fault"))]
impl Checker {
    /// Reads over what `baton serve` has without options; none when there is no such thing.
    #[doc(hidden)]
    pub fn new() -> Option<Self> {
        use super::arguments::{Arguments, Command};
        let arguments: Arguments = clap::Parser::try_parse_from(["baton", "serve"]).ok()?;
        match arguments.command {
            Command::Serve(options) => Some(Self(*options)),
            _ => None,
        }
    }

    /// The mistakes of a text.
    #[doc(hidden)]
    pub fn mistakes(&self, text: &str) -> Vec<Mistake> {
        apply(text, &mut self.0.clone(), &BTreeSet::new())
    }
}

/// The line of a key of a good file; 0 when it is not there.
pub fn line_of(path: &Path, key: &str) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let (table, _) = DeTable::parse_recoverable(&text);
    let name = table.get_ref().keys().find(|name| name.get_ref() == key);
    name.map_or(0, |name| line_at(text.as_bytes(), name.span().start))
}

/// The line in which a byte stands.
fn line_at(bytes: &[u8], at: usize) -> usize {
    let before = bytes.iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// Applies a file's text; answers the mistakes.
fn apply(text: &str, options: &mut Serve, given: &BTreeSet<String>) -> Vec<Mistake> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let at = |span: Range<usize>| 1 + ends.partition_point(|end| *end < span.start);
    let mut mistakes: Vec<Mistake> = errors
        .iter()
        .map(|error| Mistake {
            line: error.span().map_or(0, at),
            what: match (
                error.message(),
                error.span().and_then(|span| text.get(span)),
            ) {
                ("duplicate key", Some(key)) => {
                    format!(
                        "duplicate key {}; expected each key once",
                        shown(key, SHOWN)
                    )
                }
                (message, _) => format!("{}; expected TOML", shown(message, 200)),
            },
        })
        .collect();
    let broken: BTreeSet<usize> = mistakes.iter().map(|mistake| mistake.line).collect();
    let (mut lines, mut wrong_keys) = (Vec::new(), BTreeSet::new());
    for (name, value) in table.get_ref() {
        let line = at(name.span());
        // What the parser made of a line that is no TOML is not what stands there.
        if broken.contains(&line) {
            continue;
        }
        let mut wrong = |what| mistakes.push(Mistake { line, what });
        let Some((known, kind)) = KEYS.iter().find(|(known, _)| known == name.get_ref()) else {
            wrong(unknown(name.get_ref()));
            continue;
        };
        match taken(*kind, value) {
            Ok(taken) => {
                lines.push((*known, line));
                if !given.contains(*known) {
                    set(options, known, taken);
                }
            }
            Err(found) => {
                wrong(format!(
                    "{known}: {found}; expected {} ({})",
                    kind.name(),
                    kind.bounds()
                ));
                wrong_keys.insert(*known);
            }
        }
    }
    for (keys, what) in contradictions(options) {
        // Of a key that is wrong by itself, nobody knows what it was to be.
        if keys.iter().any(|key| wrong_keys.contains(key)) {
            continue;
        }
        // On the command line there are no lines: the other key's is where to look.
        let line = keys
            .iter()
            .find_map(|key| lines.iter().find(|(known, _)| known == key))
            .map_or(0, |(_, line)| *line);
        mistakes.push(Mistake { line, what });
    }
    mistakes.sort_by_key(|mistake| mistake.line);
    mistakes.dedup();
    mistakes
}

/// What does not go together, each with the keys that have a part in it.
//= spec/configuration.md#contradictions
fn contradictions(options: &Serve) -> Vec<(&'static [&'static str], String)> {
    let mut found: Vec<(&'static [&'static str], String)> = Vec::new();
    let mut wrong = |keys: &'static [&'static str], what: &str| found.push((keys, what.to_owned()));
    if options.http && options.exec.is_some() {
        let what = "http: true contradicts exec; expected one of the two";
        wrong(&["http", "exec"], what);
    }
    match (&options.cert, &options.key) {
        (Some(_), None) => wrong(
            &["cert", "key"],
            "cert: is there without key; expected both or neither",
        ),
        (None, Some(_)) => wrong(
            &["key", "cert"],
            "key: is there without cert; expected both or neither",
        ),
        _ => {}
    }
    let asks = options.client_auth != ClientAuth::None;
    if asks && options.cert.is_some() && options.client_ca.is_none() {
        wrong(
            &["client-auth", "cert", "client-ca"],
            "client-auth: asks for certificates with cert and without client-ca; expected client-ca",
        );
    }
    found
}

/// A value that is what its key expects.
pub(super) enum Taken {
    Text(String),
    Flag(bool),
    Words(Vec<String>),
    Number(u64),
}

/// Takes a value, or says what is there instead.
fn taken(kind: Kind, value: &Spanned<DeValue<'_>>) -> Result<Taken, String> {
    let value = value.get_ref();
    let found = || found(value);
    match (kind, value) {
        (Kind::Flag, DeValue::Boolean(flag)) => Ok(Taken::Flag(*flag)),
        (Kind::Integer(least, most), DeValue::Integer(digits)) => {
            let number = u64::from_str_radix(digits.as_str(), digits.radix()).ok();
            number
                .filter(|number| (least..=most).contains(number))
                .map(Taken::Number)
                .ok_or_else(found)
        }
        (Kind::Command, DeValue::Array(words)) => {
            let word = |word: &Spanned<DeValue<'_>>| match word.get_ref() {
                DeValue::String(word) if !word.contains('\0') => Some(word.to_string()),
                _ => None,
            };
            let words: Option<Vec<String>> = words.iter().map(word).collect();
            words
                .filter(|words| words.first().is_some_and(|word| !word.is_empty()))
                .map(Taken::Words)
                .ok_or_else(found)
        }
        (kind, DeValue::String(text)) => {
            let good = match kind {
                Kind::Address => text.parse::<std::net::SocketAddr>().is_ok(),
                Kind::User => text.parse::<Named>().is_ok(),
                Kind::Path | Kind::PathOrNone => !text.is_empty() && !text.contains('\0'),
                Kind::Choice(words) => words.contains(&text.as_ref()),
                _ => false,
            };
            if good {
                Ok(Taken::Text(text.to_string()))
            } else {
                Err(found())
            }
        }
        _ => Err(found()),
    }
}

/// What is there, in few words.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{}\"", shown(text, SHOWN)),
        DeValue::Integer(digits) => format!("the integer {}", shown(digits.as_str(), SHOWN)),
        DeValue::Boolean(flag) => format!("the boolean {flag}"),
        DeValue::Float(_) => "a float".to_owned(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(items) => format!("an array of {}", items.len()),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// At most so many characters, in one line.
fn shown(text: &str, most: usize) -> String {
    let shown: String = text
        .chars()
        .take(most)
        .flat_map(char::escape_debug)
        .collect();
    match text.chars().nth(most) {
        Some(_) => shown + "...",
        None => shown,
    }
}

fn unknown(name: &str) -> String {
    let near = KEYS
        .iter()
        .map(|(known, _)| (distance(known, name), *known))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let what = format!("unknown key {}; expected", shown(name, SHOWN));
    match near {
        Some((_, known)) => format!("{what} {known}?"),
        None => {
            let names: Vec<&str> = KEYS.iter().map(|(known, _)| *known).collect();
            format!("{what} one of {}", names.join(", "))
        }
    }
}

/// How many letters are to be put in, left out or changed; of long names, only that it is many.
fn distance(known: &str, name: &str) -> usize {
    if name.len() > 64 {
        return usize::MAX;
    }
    let (known, name) = (known.as_bytes(), name.as_bytes());
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (at, letter) in known.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in name.iter().enumerate() {
            let same = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = same.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// Puts a value that is right where it belongs.
fn set(options: &mut Serve, name: &str, taken: Taken) {
    match (name, taken) {
        ("listen", Taken::Text(text)) => {
            if let Ok(address) = text.parse() {
                options.listen = address;
            }
        }
        ("state", Taken::Text(text)) => options.state = Some(text.into()),
        ("client-ca", Taken::Text(text)) => options.client_ca = Some(text.into()),
        ("cert", Taken::Text(text)) => options.cert = Some(text.into()),
        ("key", Taken::Text(text)) => options.key = Some(text.into()),
        ("password-file", Taken::Text(text)) => options.password_file = Some(text.into()),
        ("control", Taken::Text(text)) => options.control = Some(text.into()),
        ("client-auth", Taken::Text(text)) => {
            options.client_auth = match &text[..] {
                "required" => ClientAuth::Required,
                "optional" => ClientAuth::Optional,
                _ => ClientAuth::None,
            };
        }
        ("log", Taken::Text(text)) => {
            options.log = Some(match &text[..] {
                "json" => LogForm::Json,
                _ => LogForm::Human,
            });
        }
        ("http", Taken::Flag(flag)) => options.http = flag,
        ("exec", Taken::Words(words)) => {
            options.exec = Some(words.into_iter().map(Into::into).collect());
        }
        ("hops", Taken::Number(number)) => {
            options.hops = u32::try_from(number).unwrap_or(options.hops);
        }
        ("hop-every", Taken::Number(number)) => options.hop_every = number,
        // Every other key is there: a test sets each.
        (name, taken) => options.bounds.set(name, &taken),
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.lines().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            f.write_str(&line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

#[cfg(test)]
mod tests;
