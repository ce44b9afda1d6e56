//! Credentials: what a side proves its own identity with, and what it trusts to check the other's.
//!
//! A private key and a password are secrets from the moment they are read: they lie in secret
//! pages, are not shown by `Debug`, and are not inherited by a forked process (but for RSA keys,
//! see [`AcceptorCredential`]).

#[cfg(test)]
mod tests;

use core::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::name::Name;
use crate::secret::Scratch;
use crate::status::Minor;
use crate::sys::process;
pub use crate::tls::Error;
use crate::tls::{PrivateKey, certificate, private_key};

/// The most bytes of a PEM file: of certificates, of a key, of anchors.
pub const FILE_LIMIT: usize = 1 << 20;
/// The most bytes of a certificate chain, DER: a peer takes no longer one (RFC 8446 4.4.2 would
/// allow 16 MiB; rustls and others stop at 64 KiB).
pub const CHAIN_LIMIT: usize = 1 << 16;
/// The most bytes of a password.
pub const PASSWORD_LIMIT: usize = 1024;

const fn malformed(reason: &'static str) -> Error {
    Error::new(Minor::CredentialMalformed, reason)
}

/// A certificate chain with its private key.
#[derive(Clone)]
pub(crate) struct Certified {
    pub(crate) key: Arc<CertifiedKey>,
    private: PrivateKey,
    pub(crate) name: Name,
    /// `tls-server-end-point` of the leaf.
    pub(crate) end_point: Option<Vec<u8>>,
    valid: (u64, u64),
}

impl Certified {
    fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain = certificates_of(certificates)?;
        let leaf = chain
            .first()
            .ok_or(malformed("there is no certificate in the PEM text"))?;
        if chain
            .iter()
            .map(|certificate| certificate.len())
            .sum::<usize>()
            > CHAIN_LIMIT
        {
            return Err(malformed("the certificate chain is longer than 64 KiB"));
        }
        let unread = malformed("the certificate cannot be read");
        let valid = certificate::validity(leaf).ok_or(unread.clone())?;
        let name = Name::of_certificate(leaf).map_err(|_| unread)?;
        let end_point = certificate::end_point(leaf);
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| malformed("there is no private key in the PEM text"))?;
        let private =
            private_key(&key).ok_or(malformed("the private key is of no kind used here"))?;
        let key = CertifiedKey::new(chain, private.signing.clone());
        key.keys_match()
            .map_err(|_| malformed("the private key is not the certificate's"))?;
        Ok(Self {
            key: Arc::new(key),
            private,
            name,
            end_point,
            valid,
        })
    }

    fn from_pem_files(certificates: &Path, key: &Path) -> Result<Self, Error> {
        Self::from_pem(&read(certificates)?, &read(key)?)
    }

    /// That it is valid now, and its key in this process.
    pub(crate) fn check(&self, now: u64) -> Result<(), Error> {
        if !self.private.is_here() {
            return Err(Error::new(
                Minor::CredentialMissing,
                "the private key is in the process this one was forked from",
            ));
        }
        match self.valid {
            (from, until) if from <= now && now <= until => Ok(()),
            _ => Err(Error::new(
                Minor::CredentialExpired,
                "this side's certificate is outside its validity",
            )),
        }
    }

    /// The last second of its validity, since 1970.
    pub(crate) fn valid_until(&self) -> u64 {
        self.valid.1
    }
}

/// What an acceptor proves its identity with: a certificate chain and its private key.
///
/// ECDSA (P-256, P-384) and Ed25519 keys lie in secret pages: a process forked later does not
/// hold them and must read its own. An RSA key lies in the ordinary heap, where the libraries keep
/// it, and is inherited: prefer the others.
pub struct AcceptorCredential(pub(crate) Certified);

impl AcceptorCredential {
    /// Reads PEM texts of at most [`FILE_LIMIT`] bytes: `certificates` the chain, leaf first;
    /// `key` the leaf's private key, PKCS #8, SEC 1 or PKCS #1.
    ///
    /// # Errors
    /// DEFECTIVE_CREDENTIAL when one cannot be read or used, or they do not belong together.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, Error> {
        Certified::from_pem(certificates, key).map(Self)
    }

    /// Reads the two PEM texts of [`AcceptorCredential::from_pem`] from files; they may be one.
    ///
    /// # Errors
    /// NO_CRED when a file cannot be read, DEFECTIVE_CREDENTIAL as above.
    pub fn from_pem_files(certificates: &Path, key: &Path) -> Result<Self, Error> {
        Certified::from_pem_files(certificates, key).map(Self)
    }

    /// The subject of its certificate.
    pub fn name(&self) -> &Name {
        &self.0.name
    }

    /// The last second of its validity, since 1970.
    pub fn valid_until(&self) -> u64 {
        self.0.valid_until()
    }
}

impl fmt::Debug for AcceptorCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcceptorCredential({})", self.0.name)
    }
}

/// What an initiator proves its identity with: nothing, a certificate, a password, or a
/// certificate and a password as second factor.
#[derive(Default)]
pub struct InitiatorCredential {
    pub(crate) certified: Option<Certified>,
    pub(crate) password: Option<Password>,
}

impl InitiatorCredential {
    /// Proves nothing: the initiator wants to be nobody.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// A certificate, from PEM texts: see [`AcceptorCredential::from_pem`].
    ///
    /// # Errors
    /// DEFECTIVE_CREDENTIAL.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, Error> {
        Certified::from_pem(certificates, key).map(|certified| Self {
            certified: Some(certified),
            password: None,
        })
    }

    /// A certificate, from PEM files: see [`AcceptorCredential::from_pem_files`].
    ///
    /// # Errors
    /// NO_CRED, DEFECTIVE_CREDENTIAL.
    pub fn from_pem_files(certificates: &Path, key: &Path) -> Result<Self, Error> {
        Certified::from_pem_files(certificates, key).map(|certified| Self {
            certified: Some(certified),
            password: None,
        })
    }

    /// A user's password.
    pub fn from_password(password: Password) -> Self {
        Self {
            certified: None,
            password: Some(password),
        }
    }

    /// Adds a password, as a second factor beside a certificate. It is told only in message
    /// framing, within the finished tunnel, to an acceptor whose certificate was checked.
    #[must_use]
    pub fn with_password(mut self, password: Password) -> Self {
        self.password = Some(password);
        self
    }

    /// Whose credential it is: the certificate's subject, else the user, else nobody.
    pub fn name(&self) -> Name {
        match (&self.certified, &self.password) {
            (Some(certified), _) => certified.name.clone(),
            (None, Some(password)) => password.user.clone(),
            (None, None) => Name::anonymous(),
        }
    }
}

impl fmt::Debug for InitiatorCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InitiatorCredential({})", self.name())
    }
}

/// A user's name and password. The password lies in secret pages and is wiped when dropped.
pub struct Password {
    user: Name,
    secret: Scratch,
    /// [`process::word`] of the process whose pages hold it.
    born: u64,
}

impl Password {
    /// Takes a user's name ([`Name::user`]) and a password of 0 to [`PASSWORD_LIMIT`] bytes,
    /// UTF-8 without NUL.
    ///
    /// # Errors
    /// DEFECTIVE_CREDENTIAL when one is not so.
    pub fn new(user: &str, password: &str) -> Result<Self, Error> {
        let user = Name::user(user).map_err(|_| malformed("the user name is none"))?;
        check_password(password.as_bytes())?;
        let mut secret = Scratch::with_capacity(PASSWORD_LIMIT);
        secret.extend_from_slice(password.as_bytes());
        Ok(Self {
            user,
            secret,
            born: process::word(),
        })
    }

    /// The user.
    pub fn user(&self) -> &Name {
        &self.user
    }

    /// That it is here, and not in the process this one was forked from.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.born == process::word() {
            true => Ok(()),
            false => Err(Error::new(
                Minor::CredentialMissing,
                "the password is in the process this one was forked from",
            )),
        }
    }

    /// User and password, as texts.
    pub(crate) fn texts(&self) -> Result<(&str, &str), Error> {
        self.check()?;
        let user = check_password(self.user.as_bytes())?;
        Ok((user, check_password(&self.secret)?))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Password({})", self.user)
    }
}

/// That bytes can be a password; answers them as text.
//= spec/mechanism.md#password
pub(crate) fn check_password(bytes: &[u8]) -> Result<&str, Error> {
    if bytes.len() > PASSWORD_LIMIT {
        return Err(malformed("the password is longer than 1024 bytes"));
    }
    match core::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(malformed("the password is no text")),
    }
}

/// The certificate authorities by which the other side's certificates are checked. There are no
/// others: the system's are not asked.
#[derive(Clone)]
pub struct Anchors(pub(crate) Arc<RootCertStore>);

impl Anchors {
    /// Reads a PEM text of at most [`FILE_LIMIT`] bytes with one or more certificates.
    ///
    /// # Errors
    /// DEFECTIVE_CREDENTIAL when there is none, or one that cannot be read.
    pub fn from_pem(certificates: &[u8]) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for certificate in certificates_of(certificates)? {
            store
                .add(certificate)
                .map_err(|_| malformed("an anchor cannot be read"))?;
        }
        if store.is_empty() {
            return Err(malformed("there is no certificate in the PEM text"));
        }
        Ok(Self(Arc::new(store)))
    }

    /// Reads the PEM text of [`Anchors::from_pem`] from a file.
    ///
    /// # Errors
    /// NO_CRED when the file cannot be read, DEFECTIVE_CREDENTIAL as above.
    pub fn from_pem_file(certificates: &Path) -> Result<Self, Error> {
        Self::from_pem(&read(certificates)?)
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchors({})", self.0.len())
    }
}

fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    if pem.len() > FILE_LIMIT {
        return Err(malformed("the PEM text is longer than 1 MiB"));
    }
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| malformed("the PEM text is malformed"))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let unread = |_| {
        Error::new(
            Minor::CredentialMissing,
            "a credential's file cannot be read",
        )
    };
    // All at once: a buffer that grows leaves its content behind.
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_LIMIT + 1));
    File::open(path)
        .and_then(|file| file.take(FILE_LIMIT as u64 + 1).read_to_end(&mut text))
        .map_err(unread)?;
    Ok(text)
}
