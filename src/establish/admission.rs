//! Who is let in by message framing.

use rustls_pki_types::CertificateDer;

use super::exchange::{DEFECT, Password, Reason};
use super::{AcceptorConfig, Attempt, Verdict};
use crate::exit::{Account, UserData};
use crate::flags::Flags;
use crate::name::Name;
use crate::status::Minor;
use crate::tls::Error;

/// What a request asked for, and what was tried since.
pub(super) struct Asked {
    pub(super) flags: Flags,
    pub(super) target: Name,
    /// Passwords that were looked at.
    pub(super) used: u8,
}

/// An initiator that may go on.
pub(super) enum Admission {
    /// It is let in: who it is (none: anonymous), and what is known of the user.
    Admitted(Option<Name>, Option<UserData>),
    /// It has to send a password, or another.
    Ask,
}

/// Why an initiator is refused: what it is told, and what the log.
pub(super) type Refusal = (Reason, Error);

const fn refuse(reason: Reason, minor: Minor, text: &'static str) -> Result<Admission, Refusal> {
    Err((reason, Error::new(minor, text)))
}

/// The subject of the initiator's certificate, if it presented one.
pub(super) fn subject(certificates: &[CertificateDer<'_>]) -> Result<Option<Name>, Error> {
    const UNREAD: Error = Error::new(
        Minor::CertificateRefused,
        "the initiator's certificate has no name that can be used",
    );
    let leaf = certificates.first();
    leaf.map(|leaf| Name::of_certificate(leaf).map_err(|_| UNREAD))
        .transpose()
}

/// Decides about an initiator that presented these certificates (checked already) and this
/// password (not yet).
//= spec/mechanism.md#identity
pub(super) fn decide(
    config: &AcceptorConfig,
    asked: &mut Asked,
    certificates: &[CertificateDer<'_>],
    password: Option<Password<'_>>,
) -> Result<Admission, Refusal> {
    let subject = subject(certificates).map_err(|error| (Reason::Other, error))?;
    if asked.flags.contains(Flags::ANONYMOUS) {
        return match (subject, password) {
            (None, None) if config.anonymous => Ok(Admission::Admitted(None, None)),
            (None, None) => refuse(
                Reason::Anonymous,
                Minor::AnonymousRefused,
                "the initiator wants to be anonymous",
            ),
            _ => Err((Reason::Other, DEFECT)),
        };
    }
    match (&config.passwords, password, subject) {
        (Some(_), Some(password), subject) => look_at(config, asked, subject, password),
        (None, Some(_), _) => refuse(
            Reason::Password,
            Minor::PasswordRefused,
            "there is nobody here who knows passwords",
        ),
        (passwords, None, Some(subject)) => match (config.second_factor, passwords) {
            (false, _) => Ok(Admission::Admitted(Some(subject), None)),
            (true, Some(_)) => Ok(Admission::Ask),
            (true, None) => refuse(
                Reason::Password,
                Minor::PasswordMissing,
                "a second factor is needed, and there is nobody here who knows passwords",
            ),
        },
        (Some(_), None, None) => Ok(Admission::Ask),
        (None, None, None) => refuse(
            Reason::Unproved,
            Minor::CertificateMissing,
            "the initiator proved nothing",
        ),
    }
}

//= spec/mechanism.md#again
fn look_at(
    config: &AcceptorConfig,
    asked: &mut Asked,
    subject: Option<Name>,
    (user, password): Password<'_>,
) -> Result<Admission, Refusal> {
    let Some(passwords) = &config.passwords else {
        return Err((Reason::Other, DEFECT));
    };
    asked.used += 1;
    let verdict = passwords.check(&Attempt {
        user,
        password,
        number: asked.used,
        certificate: subject.as_ref(),
        target: &asked.target,
    });
    let data = match verdict {
        Verdict::Accept(data) => data,
        Verdict::Again if asked.used < config.attempts => return Ok(Admission::Ask),
        Verdict::Again => {
            return refuse(
                Reason::Password,
                Minor::PasswordRefused,
                "the last password that was allowed is wrong",
            );
        }
        Verdict::Deny => {
            return refuse(
                Reason::Password,
                Minor::PasswordRefused,
                "the password was refused",
            );
        }
    };
    const NAMELESS: &str = "the user that was let in has no user name that can be used";
    if data.check(Account::Virtual).is_err() {
        return refuse(Reason::Password, Minor::PasswordRefused, NAMELESS);
    }
    let named = subject.or_else(|| Name::user(data.user_name()?).ok());
    match named {
        Some(name) => Ok(Admission::Admitted(Some(name), Some(data))),
        None => refuse(Reason::Password, Minor::PasswordRefused, NAMELESS),
    }
}
