//! The development identity: a certification authority of the user's own, a server certificate
//! for this machine's loopback names and a client certificate to try client authentication with.
//!
//! Made at the first start and kept: later starts change nothing until a certificate has run
//! out. Then the leaves are made anew under the same authority, so that what trusts it goes on
//! trusting; an authority that has run out is made anew with everything under it.
//!
//! SECURITY: the authority's key stays in the state directory, to renew with. Whoever reads it can
//! be any server to programs that trust this authority: it is for development, on this machine.

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::state::{Folder, Refused};

/// Names the server certificate is for.
pub const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const FOLDER: &str = "identity";
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";
const SERVER: &str = "server.pem";
const SERVER_KEY: &str = "server-key.pem";
const CLIENT: &str = "client.pem";
const CLIENT_KEY: &str = "client-key.pem";

const DAY: u64 = 86_400;
const CA_DAYS: u64 = 3650;
// The longest that browsers and Apple's libraries take from a server is 825 days of their own
// users' authorities; a year is well below it.
const LEAF_DAYS: u64 = 365;
/// Certificates begin this long before they are made, for clients whose clock is behind.
const HEAD_START: u64 = 3600;

/// Why there is no development identity.
#[derive(Debug)]
pub enum Error {
    /// The state directory cannot be used.
    State(Refused),
    /// A kept file is not what was written: its path.
    Damaged(PathBuf),
    /// A certificate or key could not be made.
    Make(rcgen::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(refused) => refused.fmt(f),
            Self::Damaged(path) => write!(
                f,
                "{}: not a certificate or key; remove the folder to have a new identity made",
                path.display()
            ),
            Self::Make(error) => write!(f, "no certificate could be made: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::State(refused)
    }
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Make(error)
    }
}

/// What a start did about the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// There was none: it was made.
    Made,
    /// It was there and valid: nothing was written.
    Kept,
    /// The server's or the client's certificate had run out: both are new, the authority is not.
    LeavesRenewed,
    /// The authority had run out: everything is new.
    Renewed,
}

/// The identity as it is kept.
pub struct Identity {
    folder: PathBuf,
    server: Vec<u8>,
    server_key: Vec<u8>,
    authority: Vec<u8>,
}

impl Identity {
    /// Forgets the server's private key: what is forked from now on has no copy of it.
    pub fn forget_key(&mut self) {
        crate::sys::scrub::wipe(&mut self.server_key);
        self.server_key.clear();
    }

    /// Loads the identity from `state`, and makes or renews it first where that is due at `now`
    /// (seconds of the Unix epoch).
    pub fn ensure(state: &Folder, now: u64) -> Result<(Self, Origin), Error> {
        // Two first starts at once: one makes the identity, the other waits and finds it.
        let lock = state.lock()?;
        let due = match state.folder(FOLDER)? {
            None => Origin::Made,
            Some(folder) => due(&folder, now)?,
        };
        let files = match due {
            Origin::Kept => None,
            Origin::LeavesRenewed => {
                let kept =
                    Folder::folder(state, FOLDER)?.ok_or_else(|| damaged(state.path(), FOLDER))?;
                let authority = text(&kept, CA)?;
                Some(leaves(
                    authority,
                    KeyPair::from_pem(&text(&kept, CA_KEY)?)?,
                    now,
                )?)
            }
            Origin::Made | Origin::Renewed => {
                let key = KeyPair::generate()?;
                let authority = authority(now).self_signed(&key)?.pem();
                Some(leaves(authority, key, now)?)
            }
        };
        if let Some(files) = files {
            let files: Vec<_> = files
                .iter()
                .map(|(name, pem)| (*name, pem.as_bytes()))
                .collect();
            state.replace(&lock, FOLDER, &files)?;
        }
        let folder = state
            .folder(FOLDER)?
            .ok_or_else(|| damaged(state.path(), FOLDER))?;
        let identity = Self {
            server: folder.read(SERVER)?,
            server_key: folder.read(SERVER_KEY)?,
            authority: folder.read(CA)?,
            folder: folder.path().to_owned(),
        };
        Ok((identity, due))
    }

    /// Where the authority's certificate of the state directory `state` is, for clients.
    pub fn authority_path_in(state: &Path) -> PathBuf {
        state.join(FOLDER).join(CA)
    }

    /// The server's certificate, PEM.
    pub fn server(&self) -> &[u8] {
        &self.server
    }

    /// The server's private key, PEM (PKCS #8).
    ///
    /// Empty after [`Identity::forget_key`].
    pub fn server_key(&self) -> &[u8] {
        &self.server_key
    }

    /// The authority's certificate, PEM.
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// The folder it is kept in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of the authority's certificate.
    pub fn authority_path(&self) -> PathBuf {
        self.folder.join(CA)
    }

    /// The files of the client's certificate and key.
    pub fn client_paths(&self) -> (PathBuf, PathBuf) {
        (self.folder.join(CLIENT), self.folder.join(CLIENT_KEY))
    }
}

fn due(folder: &Folder, now: u64) -> Result<Origin, Error> {
    if ends(folder, CA)? <= now {
        return Ok(Origin::Renewed);
    }
    if ends(folder, SERVER)? <= now || ends(folder, CLIENT)? <= now {
        return Ok(Origin::LeavesRenewed);
    }
    Ok(Origin::Kept)
}

/// When the certificate in the file `name` runs out, in seconds of the Unix epoch.
fn ends(folder: &Folder, name: &str) -> Result<u64, Error> {
    let pem = folder.read(name)?;
    x509_parser::pem::Pem::iter_from_buffer(&pem)
        .next()
        .and_then(Result::ok)
        .and_then(|pem| {
            let end = pem.parse_x509().ok()?.validity().not_after.timestamp();
            u64::try_from(end).ok()
        })
        .ok_or_else(|| damaged(folder.path(), name))
}

fn text(folder: &Folder, name: &str) -> Result<String, Error> {
    String::from_utf8(folder.read(name)?).map_err(|_| damaged(folder.path(), name))
}

fn damaged(folder: &Path, name: &str) -> Error {
    Error::Damaged(folder.join(name))
}

/// Both leaves under `authority`, whose key is `key`: the whole folder's content.
fn leaves(authority: String, key: KeyPair, now: u64) -> Result<[(&'static str, String); 6], Error> {
    let key_pem = key.serialize_pem();
    // Issuer takes name and key identifier from these, not from the kept certificate: both
    // follow from the constant name and from the key.
    let issuer = Issuer::new(self::authority(now), key);
    let mut server = leaf(
        "Baton development server",
        now,
        ExtendedKeyUsagePurpose::ServerAuth,
    );
    server.subject_alt_names = CertificateParams::new(NAMES.map(String::from))?.subject_alt_names;
    let client = leaf(
        "Baton development client",
        now,
        ExtendedKeyUsagePurpose::ClientAuth,
    );
    let (server_key, client_key) = (KeyPair::generate()?, KeyPair::generate()?);
    Ok([
        (CA, authority),
        (CA_KEY, key_pem),
        (SERVER, server.signed_by(&server_key, &issuer)?.pem()),
        (SERVER_KEY, server_key.serialize_pem()),
        (CLIENT, client.signed_by(&client_key, &issuer)?.pem()),
        (CLIENT_KEY, client_key.serialize_pem()),
    ])
}

fn authority(now: u64) -> CertificateParams {
    let mut params = valid(now, CA_DAYS);
    params
        .distinguished_name
        .push(DnType::CommonName, "Baton development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(name: &str, now: u64, purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = valid(now, LEAF_DAYS);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    params
}

fn valid(now: u64, days: u64) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(HEAD_START));
    params.not_after = epoch + Duration::from_secs(now + days * DAY);
    params
}
