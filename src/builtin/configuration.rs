//! What a built-in exit is told at start: one TOML file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::ocsp::{Method, Nonce, Settings, is_address};
use super::template::{Template, Unreadable};

/// Bytes of the largest configuration.
const LARGEST: u64 = 64 << 10;

/// Why a worker does not begin.
#[derive(Debug)]
#[non_exhaustive]
pub enum Mistake {
    /// A file cannot be read.
    File(PathBuf, io::Error),
    /// A file is larger than so many bytes.
    TooLarge(PathBuf, u64),
    /// The configuration is no TOML, or has keys or types that are not the page's.
    Form(PathBuf, String),
    /// A value is out of its limits: the key, and what it is to be.
    Limits(&'static str, &'static str),
    /// A path is not absolute.
    Relative(PathBuf),
    /// A template cannot be read.
    Template(String, Unreadable),
    /// A file holds no certificate, or one that is none.
    Anchor(PathBuf),
    /// A file holds no revocation list, or one that is none.
    List(PathBuf),
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::TooLarge(path, most) => {
                write!(f, "{}: larger than {most} bytes", path.display())
            }
            Self::Form(path, what) => write!(f, "{}: {what}", path.display()),
            Self::Limits(key, limits) => write!(f, "{key} is to be {limits}"),
            Self::Relative(path) => write!(f, "{}: not an absolute path", path.display()),
            Self::Template(text, why) => write!(f, "template {text:?}: {why}"),
            Self::Anchor(path) => write!(
                f,
                "{}: not one or more certificates of authorities, PEM",
                path.display()
            ),
            Self::List(path) => write!(
                f,
                "{}: not one or more revocation lists, PEM or DER",
                path.display()
            ),
        }
    }
}

impl std::error::Error for Mistake {}

/// The file, as it stands.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    anchors: Vec<PathBuf>,
    #[serde(default)]
    templates: Vec<String>,
    chain_limit: Option<u32>,
    #[serde(default)]
    crls: Vec<PathBuf>,
    #[serde(default)]
    crl_required: bool,
    holds: Option<u32>,
    threads: Option<u32>,
    ocsp: Option<WrittenOcsp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOcsp {
    responder: Option<String>,
    #[serde(default)]
    method: Method,
    #[serde(default)]
    nonce: Nonce,
    timeout_ms: Option<u32>,
    pause_ms: Option<u32>,
    skew: Option<u32>,
    cache: Option<u32>,
    required: Option<bool>,
}

impl From<WrittenOcsp> for Settings {
    fn from(written: WrittenOcsp) -> Self {
        let default = Self::default();
        let milliseconds = |number: Option<u32>, default| match number {
            Some(number) => Duration::from_millis(number.into()),
            None => default,
        };
        Self {
            responder: written.responder,
            method: written.method,
            nonce: written.nonce,
            timeout: milliseconds(written.timeout_ms, default.timeout),
            pause: milliseconds(written.pause_ms, default.pause),
            skew: match written.skew {
                Some(skew) => Duration::from_secs(skew.into()),
                None => default.skew,
            },
            cache: written.cache.map_or(default.cache, |cache| cache as usize),
            required: written.required.unwrap_or(default.required),
        }
    }
}

/// What `certificates` is told.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// PEM files of the authorities that are trusted.
    pub anchors: Vec<PathBuf>,
    /// What subjects are to look like; empty: any.
    pub templates: Vec<Template>,
    /// Certificates of the longest path, 1 to 7.
    pub chain_limit: usize,
    /// Files of revocation lists.
    pub crls: Vec<PathBuf>,
    /// Whether each certificate's issuer must have a revocation list.
    pub crl_required: bool,
    /// Sessions a worker has at once, 1 to 65,536.
    pub holds: u32,
    /// Questions it answers at the same time, 1 to 64.
    pub threads: usize,
    /// How responders are asked; none: they are not.
    pub ocsp: Option<Settings>,
}

impl Configuration {
    /// With these anchors, and the defaults for all else.
    pub fn new(anchors: Vec<PathBuf>) -> Self {
        Self {
            anchors,
            templates: Vec::new(),
            chain_limit: 4,
            crls: Vec::new(),
            crl_required: false,
            holds: 1024,
            threads: 4,
            ocsp: None,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or says what is none of its page.
    pub fn read(path: &Path) -> Result<Self, Mistake> {
        let bytes = read_bounded(path, LARGEST)?;
        let form = |what: String| Mistake::Form(path.to_owned(), what);
        let text = String::from_utf8(bytes).map_err(|_| form("not UTF-8".to_owned()))?;
        Self::parse(&text).map_err(|mistake| match mistake {
            Mistake::Form(_, what) => form(what),
            other => other,
        })
    }

    //= spec/builtin.md#configuration
    fn parse(text: &str) -> Result<Self, Mistake> {
        let written: Written = toml::from_str(text)
            .map_err(|error| Mistake::Form(PathBuf::new(), one_line(&error, text)))?;
        let mut configuration = Self::new(written.anchors);
        for text in written.templates {
            match text.parse() {
                Ok(template) => configuration.templates.push(template),
                Err(why) => return Err(Mistake::Template(text, why)),
            }
        }
        configuration.crls = written.crls;
        configuration.crl_required = written.crl_required;
        if let Some(limit) = written.chain_limit {
            configuration.chain_limit = limit as usize;
        }
        if let Some(holds) = written.holds {
            configuration.holds = holds;
        }
        if let Some(threads) = written.threads {
            configuration.threads = threads as usize;
        }
        configuration.ocsp = written.ocsp.map(Into::into);
        configuration.check()?;
        Ok(configuration)
    }

    /// That everything is within its limits.
    pub(super) fn check(&self) -> Result<(), Mistake> {
        let limits = [
            (
                (1..=16).contains(&self.anchors.len()),
                "anchors",
                "1 to 16 paths",
            ),
            (self.templates.len() <= 64, "templates", "at most 64"),
            ((1..=7).contains(&self.chain_limit), "chain_limit", "1 to 7"),
            (self.crls.len() <= 16, "crls", "at most 16 paths"),
            ((1..=65_536).contains(&self.holds), "holds", "1 to 65536"),
            ((1..=64).contains(&self.threads), "threads", "1 to 64"),
        ];
        if let Some((_, key, what)) = limits.into_iter().find(|(within, ..)| !within) {
            return Err(Mistake::Limits(key, what));
        }
        if let Some(ocsp) = &self.ocsp {
            let second = Duration::from_secs(1);
            let responder = ocsp.responder.as_deref().is_none_or(is_address);
            let limits = [
                (
                    responder,
                    "ocsp.responder",
                    "an address http://..., at most 1024 bytes",
                ),
                (
                    (second / 10..=second * 60).contains(&ocsp.timeout),
                    "ocsp.timeout_ms",
                    "100 to 60000",
                ),
                (ocsp.pause <= second * 60, "ocsp.pause_ms", "0 to 60000"),
                (ocsp.skew <= second * 86_400, "ocsp.skew", "0 to 86400"),
                (ocsp.cache <= 65_536, "ocsp.cache", "0 to 65536"),
            ];
            if let Some((_, key, what)) = limits.into_iter().find(|(within, ..)| !within) {
                return Err(Mistake::Limits(key, what));
            }
        }
        let mut paths = self.anchors.iter().chain(&self.crls);
        match paths.find(|path| !path.is_absolute()) {
            Some(path) => Err(Mistake::Relative(path.clone())),
            None => Ok(()),
        }
    }
}

/// What is wrong with a TOML text, with the number of its line.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let what = error.message().replace('\n', " ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {what}", 1 + before.matches('\n').count()),
        None => what,
    }
}

/// A whole file of at most so many bytes.
pub(super) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, Mistake> {
    let unread = |error| Mistake::File(path.to_owned(), error);
    let file = File::open(path).map_err(unread)?;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(unread)?;
    match bytes.len() as u64 > most {
        true => Err(Mistake::TooLarge(path.to_owned(), most)),
        false => Ok(bytes),
    }
}
