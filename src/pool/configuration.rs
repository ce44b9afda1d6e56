//! What a pool is told: which program, how many, how long.

use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit::Family;
use crate::sys::process::Bounds;

/// What a deadline may be: what a line can tell, and what can be added to a time.
const TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

/// The workers of one program.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// What the log calls them: 1 to 64 bytes without control characters.
    pub name: String,
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What its environment has besides `PATH` and `BATON_EXITS`.
    pub environment: Vec<(OsString, OsString)>,
    /// The families it is expected to answer.
    pub families: Vec<Family>,
    /// Workers from the beginning, at most [`Configuration::maximum`].
    pub start: usize,
    /// Workers at most, 1 to 1024.
    pub maximum: usize,
    /// Sessions one worker is given at once, at most; it may say fewer itself.
    pub holds: u32,
    /// By when a question is answered, from when it was written; and how long one waits for a worker.
    /// One millisecond to one day, as each deadline.
    pub deadline: Duration,
    /// By when a worker has said hello.
    pub start_deadline: Duration,
    /// How long a worker that is to end is waited for, before each of SIGTERM and SIGKILL.
    pub grace: Duration,
    /// As many questions wait: connections are refused.
    pub high_water: usize,
    /// No more wait: they are accepted again. Less than [`Configuration::high_water`].
    pub low_water: usize,
    /// Answers after which a worker is replaced; none: never.
    pub recycle_after: Option<u64>,
    /// What a worker may have at most.
    pub bounds: Bounds,
}

/// What is wrong with a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mistake(&'static str);

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Mistake {}

impl Configuration {
    /// One worker of `program` for the points of TLS, holding at most 64 sessions, with 5 seconds
    /// for each answer.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            families: Family::ALL.to_vec(),
            start: 1,
            maximum: 1,
            holds: 64,
            deadline: Duration::from_secs(5),
            start_deadline: Duration::from_secs(10),
            grace: Duration::from_secs(2),
            high_water: 256,
            low_water: 64,
            recycle_after: None,
            bounds: Bounds::default(),
        }
    }

    /// Refuses what cannot be.
    ///
    /// # Errors
    /// The first mistake.
    pub fn check(&self) -> Result<(), Mistake> {
        let name = &self.name;
        let rules = [
            (
                name.is_empty() || name.len() > 64 || name.chars().any(char::is_control),
                "a name is 1 to 64 bytes without control characters",
            ),
            (!self.program.is_absolute(), "a program is an absolute path"),
            (self.families.is_empty(), "there is no family"),
            (
                !(1..=1024).contains(&self.maximum),
                "a maximum is 1 to 1024",
            ),
            (self.start > self.maximum, "more start than the maximum"),
            (
                !(1..=65_536).contains(&self.holds),
                "a worker holds 1 to 65536 sessions",
            ),
            (
                !TIMES.contains(&self.deadline) || !TIMES.contains(&self.start_deadline),
                "a deadline is one millisecond to one day",
            ),
            (
                self.grace > *TIMES.end(),
                "a grace period is at most one day",
            ),
            (
                self.low_water >= self.high_water,
                "the low-water mark is below the high-water mark",
            ),
            (
                self.recycle_after == Some(0),
                "a worker answers once at least",
            ),
        ];
        match rules.iter().find(|(wrong, _)| *wrong) {
            Some((_, text)) => Err(Mistake(text)),
            None => Ok(()),
        }
    }

    /// Questions that wait at most.
    pub(super) fn most_waiting(&self) -> usize {
        self.high_water.saturating_mul(4)
    }
}
