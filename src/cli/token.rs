//! `baton token`: what a token shows to anyone.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::status::Status;
use crate::transfer::{MAX_TOKEN, PublicHeader};

/// Why nothing is printed.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read, or standard output takes nothing.
    System(io::Error),
    /// The file is no token.
    Token(Status),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(error) => error.fmt(f),
            Self::Token(status) => status.minor().fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Prints the public header of the token in `file`, and nothing else of it.
pub fn run(file: &Path) -> Result<(), Error> {
    let mut bytes = Vec::new();
    // One byte more than a token has, so that a longer file is seen to be none.
    let limit = MAX_TOKEN as u64 + 1;
    File::open(file)?.take(limit).read_to_end(&mut bytes)?;
    let header = PublicHeader::read(&bytes).map_err(Error::Token)?;
    let mut out = io::stdout().lock();
    writeln!(out, "version  {}", header.version)?;
    writeln!(out, "key      {:016x}", header.key)?;
    write!(out, "nonce    ")?;
    for byte in header.nonce {
        write!(out, "{byte:02x}")?;
    }
    writeln!(out, "\nsize     {} bytes", header.size)?;
    out.flush()?;
    Ok(())
}
