//! Users' passwords from a file: one line `NAME:PASSWORD` for each user, for development and for
//! small circles. The file is a secret; it is read once, and only hashes stay in memory.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use crate::crypto;
use crate::establish::{Attempt, Passwords, Verdict};
use crate::exit::UserData;
use crate::name::Name;

use super::state::{Refused, read_secret};

/// Why a password file is not used.
#[derive(Debug)]
pub enum Error {
    /// It cannot be read, or others could read it.
    File(Refused),
    /// A line is not `NAME:PASSWORD`, or its name is none; its number.
    Line(usize),
    /// A user stands there twice; the line's number.
    Twice(usize),
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
        }
    }
}

impl std::error::Error for Error {}

/// The users of one file.
pub struct File(HashMap<String, [u8; 32]>);

impl File {
    /// Reads a file of at most [`super::state::MAX_FILE`] bytes that belongs to this user and is
    /// closed to others. Empty lines, and lines that begin with `#`, say nothing; a password may
    /// hold colons.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(&read_secret(path).map_err(Error::File)?)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut users = HashMap::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let number = index + 1;
            let line = std::str::from_utf8(line).map_err(|_| Error::Line(number))?;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, password) = line.split_once(':').ok_or(Error::Line(number))?;
            // In the form in which it will be asked for.
            let name = Name::user(name).map_err(|_| Error::Line(number))?;
            let name =
                String::from_utf8(name.as_bytes().to_vec()).map_err(|_| Error::Line(number))?;
            if users
                .insert(name, crypto::sha256(&[password.as_bytes()]))
                .is_some()
            {
                return Err(Error::Twice(number));
            }
        }
        Ok(Self(users))
    }

    fn knows(&self, user: &str, password: &str) -> bool {
        let given = crypto::sha256(&[password.as_bytes()]);
        // A user that is not there is compared too, with what no password hashes to in practice.
        let kept = self.0.get(user).unwrap_or(&[0; 32]);
        crypto::equal(&given, kept)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_their_own_password_only() {
        let file = File::parse(b"# people\n\nalice:sesame:open\nbob:\n").unwrap();
        for (user, password, known) in [
            ("alice", "sesame:open", true),
            ("alice", "sesame", false),
            ("bob", "", true),
            ("carol", "", false),
            ("# people", "", false),
        ] {
            assert_eq!(file.knows(user, password), known, "{user} {password}");
        }
    }

    #[test]
    fn a_defective_file_is_refused_with_its_line() {
        let number = |bytes: &[u8]| File::parse(bytes).err().unwrap().to_string();
        assert!(number(b"alice:a\nbob").contains("line 2"));
        assert!(number(b":a").contains("line 1"));
        assert!(number(b"a\x07:a").contains("line 1"));
        assert!(number(b"\n\xff:a").contains("line 2"));
        assert!(number(b"alice:a\nbob:b\nalice:c").contains("line 3"));
    }
}
