//! How an acceptor looks at passwords: it asks somebody who knows.

use crate::exit::UserData;
use crate::name::Name;

/// A password that an initiator sent through the tunnel.
///
/// It has no `Debug`: a password does not belong in a log. What is borrowed is wiped when the step
/// returns; a copy is the caller's to wipe.
pub struct Attempt<'a> {
    /// The user's name, as [`Name::user`] permits it.
    pub user: &'a str,
    /// The password: 0 to 1024 bytes without NUL.
    pub password: &'a str,
    /// Which of this connection's attempts it is, from 1.
    pub number: u8,
    /// The subject of the initiator's certificate, if it presented one: the password is a second
    /// factor then.
    pub certificate: Option<&'a Name>,
    /// Whom the initiator asked for.
    pub target: &'a Name,
}

/// What became of an attempt.
#[derive(Debug)]
pub enum Verdict {
    /// Let in as this user. Without a user name in it, it is as [`Verdict::Deny`].
    Accept(UserData),
    /// Refused, and the establishment is over.
    Deny,
    /// Wrong: the initiator may try another, while attempts are left.
    Again,
}

/// Who knows passwords. Called from within [`Acceptor::step`](super::Acceptor::step), which waits
/// for the answer; so it should take its time for a wrong user as for a wrong password.
pub trait Passwords: Send + Sync {
    /// Looks at one attempt.
    fn check(&self, attempt: &Attempt<'_>) -> Verdict;
}

impl<T: Fn(&Attempt<'_>) -> Verdict + Send + Sync> Passwords for T {
    fn check(&self, attempt: &Attempt<'_>) -> Verdict {
        self(attempt)
    }
}
