//! The messages of the exchange inside the tunnel, and their transcript.
//!
//! All are of a fixed length and strict: a message can be written in one way only.

use crate::cred::check_password;
use crate::crypto::sha256;
use crate::name::Name;
use crate::secret::Scratch;
use crate::status::Minor;
use crate::tls::Error;

/// Bytes of a request, and of a password that was asked for.
pub(super) const REQUEST: usize = 2048;
/// Bytes of an answer.
pub(super) const ANSWER: usize = 64;
/// The lifetime that has no end.
const ENDLESS: u32 = u32::MAX;

pub(super) const DEFECT: Error = Error::new(
    Minor::ContextTokenMalformed,
    "a message of the exchange is malformed",
);

/// A user's name and password.
pub(super) type Password<'a> = (&'a str, &'a str);

/// What the initiator asks for.
pub(super) struct Request<'a> {
    pub(super) flags: u32,
    pub(super) bindings: Option<[u8; 32]>,
    pub(super) target: Name,
    pub(super) password: Option<Password<'a>>,
}

impl Request<'_> {
    //= spec/mechanism.md#request
    pub(super) fn encode(&self) -> Scratch {
        let mut out = Scratch::with_capacity(REQUEST);
        out.extend_from_slice(&[1]);
        out.extend_from_slice(&self.flags.to_be_bytes());
        put_bindings(&mut out, self.bindings);
        put_text(&mut out, self.target.as_bytes());
        out.extend_from_slice(&[u8::from(self.password.is_some())]);
        let (user, password) = self.password.unwrap_or_default();
        put_text(&mut out, user.as_bytes());
        put_text(&mut out, password.as_bytes());
        out.resize(REQUEST);
        out
    }
}

impl<'a> Request<'a> {
    //= spec/mechanism.md#request
    pub(super) fn decode(message: &'a [u8]) -> Result<Self, Error> {
        let mut fields = Fields::of(message, REQUEST, 1)?;
        let flags = fields.number()?;
        let bindings = fields.bindings()?;
        let target = fields.text(Name::LIMIT)?;
        let credential = fields.byte()?;
        let user = fields.text(Name::USER_LIMIT)?;
        let password = fields.password()?;
        fields.end()?;
        let name = Name::host_based_service(target).map_err(|_| DEFECT)?;
        if name.as_bytes() != target.as_bytes() || name.host().is_none() {
            return Err(DEFECT);
        }
        let password = match credential {
            0 if user.is_empty() && password.is_empty() => None,
            1 if Name::user(user).is_ok() => Some((user, password)),
            _ => return Err(DEFECT),
        };
        Ok(Self {
            flags,
            bindings,
            target: name,
            password,
        })
    }
}

/// Writes a password that was asked for.
//= spec/mechanism.md#password
pub(super) fn encode_password((user, password): Password<'_>) -> Scratch {
    let mut out = Scratch::with_capacity(REQUEST);
    out.extend_from_slice(&[3]);
    put_text(&mut out, user.as_bytes());
    put_text(&mut out, password.as_bytes());
    out.resize(REQUEST);
    out
}

//= spec/mechanism.md#password
pub(super) fn decode_password(message: &[u8]) -> Result<Password<'_>, Error> {
    let mut fields = Fields::of(message, REQUEST, 3)?;
    let user = fields.text(Name::USER_LIMIT)?;
    let password = fields.password()?;
    fields.end()?;
    Name::user(user).map_err(|_| DEFECT)?;
    Ok((user, password))
}

/// Why an acceptor refuses, as far as the initiator is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reason {
    Bindings = 1,
    Password = 2,
    Target = 3,
    Unproved = 4,
    Anonymous = 5,
    Other = 6,
}

impl Reason {
    const ALL: [Self; 6] = [
        Self::Bindings,
        Self::Password,
        Self::Target,
        Self::Unproved,
        Self::Anonymous,
        Self::Other,
    ];

    /// What the initiator makes of it.
    //= spec/mechanism.md#answer
    pub(super) const fn error(self) -> Error {
        let (minor, reason) = match self {
            Self::Bindings => (
                Minor::BindingsDiffer,
                "the acceptor is bound to another channel",
            ),
            Self::Password => (Minor::PasswordRefused, "the acceptor refused the password"),
            Self::Target => (Minor::NameMismatch, "the acceptor is not the target"),
            Self::Unproved => (
                Minor::CredentialMissing,
                "the acceptor wants a credential and was given none",
            ),
            Self::Anonymous => (
                Minor::AnonymousRefused,
                "the acceptor admits nobody anonymous",
            ),
            Self::Other => (Minor::PeerRefused, "the acceptor refused"),
        };
        Error::new(minor, reason)
    }
}

/// What the acceptor says to a request or a password.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) bindings: Option<[u8; 32]>,
    pub(super) saying: Saying,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Saying {
    Established { flags: u32, lifetime: Option<u32> },
    Password { attempts: u8 },
    Refused(Reason),
}

impl Answer {
    //= spec/mechanism.md#answer
    pub(super) fn encode(&self) -> Scratch {
        let (verdict, flags, lifetime, reason, attempts) = match self.saying {
            Saying::Established { flags, lifetime } => {
                (0, flags, lifetime.unwrap_or(ENDLESS), 0, 0)
            }
            Saying::Password { attempts } => (1, 0, 0, 0, attempts),
            Saying::Refused(reason) => (2, 0, 0, reason as u8, 0),
        };
        let mut out = Scratch::with_capacity(ANSWER);
        out.extend_from_slice(&[2, verdict]);
        out.extend_from_slice(&flags.to_be_bytes());
        put_bindings(&mut out, self.bindings);
        out.extend_from_slice(&lifetime.to_be_bytes());
        out.extend_from_slice(&[reason, attempts]);
        out.resize(ANSWER);
        out
    }

    //= spec/mechanism.md#answer
    pub(super) fn decode(message: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields::of(message, ANSWER, 2)?;
        let verdict = fields.byte()?;
        let flags = fields.number()?;
        let bindings = fields.bindings()?;
        let lifetime = fields.number()?;
        let (reason, attempts) = (fields.byte()?, fields.byte()?);
        fields.end()?;
        let saying = match (verdict, flags, lifetime, reason, attempts) {
            (0, flags, lifetime, 0, 0) => Saying::Established {
                flags,
                lifetime: (lifetime != ENDLESS).then_some(lifetime),
            },
            (1, 0, 0, 0, attempts @ 1..) => Saying::Password { attempts },
            (2, 0, 0, reason, 0) => {
                let known = Reason::ALL.into_iter().find(|known| *known as u8 == reason);
                Saying::Refused(known.ok_or(DEFECT)?)
            }
            _ => return Err(DEFECT),
        };
        Ok(Self { bindings, saying })
    }
}

/// Adds a message to the transcript.
//= spec/mechanism.md#transcript
pub(super) fn extend(transcript: &mut [u8; 32], message: &[u8]) {
    *transcript = sha256(&[&transcript[..], message]);
}

fn put_bindings(out: &mut Scratch, bindings: Option<[u8; 32]>) {
    out.extend_from_slice(&[u8::from(bindings.is_some())]);
    out.extend_from_slice(&bindings.unwrap_or_default());
}

/// Every text written here is at most [`Name::LIMIT`] or 1024 bytes long.
fn put_text(out: &mut Scratch, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

/// The fields of a message that are still to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Of a message of this length and type.
    fn of(message: &'a [u8], length: usize, kind: u8) -> Result<Self, Error> {
        match message {
            [first, rest @ ..] if message.len() == length && *first == kind => Ok(Self(rest)),
            _ => Err(DEFECT),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(DEFECT)?;
        self.0 = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (field, rest) = self.0.split_first_chunk().ok_or(DEFECT)?;
        self.0 = rest;
        Ok(*field)
    }

    fn byte(&mut self) -> Result<u8, Error> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    fn bindings(&mut self) -> Result<Option<[u8; 32]>, Error> {
        match (self.byte()?, self.array()?) {
            (0, hash) if hash == [0; 32] => Ok(None),
            (1, hash) => Ok(Some(hash)),
            _ => Err(DEFECT),
        }
    }

    fn counted(&mut self) -> Result<&'a [u8], Error> {
        let length = u16::from_be_bytes(self.array()?);
        self.take(length.into())
    }

    fn text(&mut self, limit: usize) -> Result<&'a str, Error> {
        let bytes = self.counted()?;
        if bytes.len() > limit {
            return Err(DEFECT);
        }
        core::str::from_utf8(bytes).map_err(|_| DEFECT)
    }

    fn password(&mut self) -> Result<&'a str, Error> {
        check_password(self.counted()?).map_err(|_| DEFECT)
    }

    fn end(self) -> Result<(), Error> {
        match self.0.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(DEFECT),
        }
    }
}
