//! Users' passwords from a file: a line for each user, `NAME:` and a hash of argon2id, or for
//! development the password itself. The file is a secret; it is read once, and only hashes stay in
//! memory. `baton passwd` writes it.
//!
//! Invariant: every attempt makes exactly one hash, whose costs are those of some user of the file,
//! whether the user is there or not.

mod change;
mod hash;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use crate::crypto::{self, Prf};
use crate::establish::{Attempt, Passwords, Verdict};
use crate::exit::UserData;
use crate::name::Name;

use super::state::{Refused, read_secret};

pub use change::{Change, Unchanged, change};
pub use hash::Defect;
use hash::{Costs, Hash, Workshop};

/// Why a password file is not used.
#[derive(Debug)]
pub enum Error {
    /// It cannot be read, or others could read it.
    File(Refused),
    /// A line is not `NAME:PASSWORD`, or its name is none; its number.
    Line(usize),
    /// A user stands there twice; the line's number.
    Twice(usize),
    /// A line's password begins as a hash does, and is none that is used here.
    Hash(usize, Defect),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(refused) => refused.fmt(f),
            Self::Line(number) => write!(f, "password file, line {number}: not NAME:PASSWORD"),
            Self::Twice(number) => write!(
                f,
                "password file, line {number}: the user stood there before"
            ),
            Self::Hash(number, defect) => write!(f, "password file, line {number}: {defect}"),
        }
    }
}

impl std::error::Error for Error {}

/// What is known of a user's password.
enum Kept {
    Hashed(Hash),
    /// The SHA-256 of what stands in the file as it is.
    Clear([u8; 32]),
}

/// The users of one file.
pub struct File {
    users: HashMap<String, Kept>,
    /// The costs of the hashes in the file, one for each: what a stranger's attempt costs.
    costs: Vec<Costs>,
    /// Which of them is whose: always the same of the same file.
    choice: Prf,
    workshop: Workshop,
}

impl File {
    /// Reads a file of at most [`super::state::MAX_FILE`] bytes that belongs to this user and is
    /// closed to others. Empty lines, and lines that begin with `#`, say nothing; a password may
    /// hold colons.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(&read_secret(path).map_err(Error::File)?)
    }

    //= spec/passwords.md#file
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let (mut users, mut costs) = (HashMap::new(), Vec::new());
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let number = index + 1;
            let Some((name, password)) = entry(line, number)? else {
                continue;
            };
            let kept = match password.starts_with('$') {
                true => {
                    let hash = Hash::parse(password).map_err(|why| Error::Hash(number, why))?;
                    costs.push(hash.costs);
                    Kept::Hashed(hash)
                }
                false => Kept::Clear(crypto::sha256(&[password.as_bytes()])),
            };
            if users.insert(name, kept).is_some() {
                return Err(Error::Twice(number));
            }
        }
        if costs.is_empty() {
            costs.push(Costs::default());
        }
        Ok(Self {
            users,
            costs,
            choice: Prf::new(&crypto::sha256(&[b"baton password file", bytes])),
            workshop: Workshop::default(),
        })
    }

    /// Users whose passwords stand in the file as they are.
    pub fn in_clear(&self) -> usize {
        let clear = |kept: &&Kept| matches!(kept, Kept::Clear(_));
        self.users.values().filter(clear).count()
    }

    /// Users.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Whether this is the user's password.
    //= spec/passwords.md#time
    pub fn knows(&self, user: &str, password: &str) -> bool {
        let given = crypto::sha256(&[password.as_bytes()]);
        match self.users.get(user) {
            Some(Kept::Hashed(hash)) => self.workshop.is(hash, password.as_bytes()),
            kept => {
                // A user that is not there is compared too, with what no password hashes to in
                // practice.
                let known = match kept {
                    Some(Kept::Clear(known)) => known,
                    _ => &[0; 32],
                };
                self.workshop
                    .pretend(self.costs_of(user), password.as_bytes());
                crypto::equal(&given, known)
            }
        }
    }

    /// What an attempt costs for somebody who has no hash.
    fn costs_of(&self, user: &str) -> Costs {
        let digest = crypto::sha256(&[user.as_bytes()]);
        let [a, b, c, d, ..] = self.choice.of(&digest);
        let number = u32::from_be_bytes([a, b, c, d]) as usize;
        let at = number % self.costs.len().max(1);
        self.costs.get(at).copied().unwrap_or_default()
    }
}

/// The user's name and password of a line; none where it says nothing.
fn entry(line: &[u8], number: usize) -> Result<Option<(String, &str)>, Error> {
    let bad = || Error::Line(number);
    let line = std::str::from_utf8(line).map_err(|_| bad())?;
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, password) = line.split_once(':').ok_or_else(bad)?;
    // In the form in which it will be asked for.
    let name = Name::user(name).map_err(|_| bad())?;
    let name = String::from_utf8(name.as_bytes().to_vec()).map_err(|_| bad())?;
    Ok(Some((name, password)))
}

impl Passwords for File {
    fn check(&self, attempt: &Attempt<'_>) -> Verdict {
        let mut data = UserData::default();
        if self.knows(attempt.user, attempt.password) && data.set_user_name(attempt.user).is_ok() {
            Verdict::Accept(data)
        } else {
            Verdict::Again
        }
    }
}
