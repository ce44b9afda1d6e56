//! What the tests of the built-in exits share: authorities, certificates good and bad, and a folder
//! with what a configuration names.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use baton::builtin::{Accepted, Certificates, Configuration, No};
use baton::exit::{CheckCertList, Role};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair,
    SigningKey,
};

/// Within the validity of what rcgen makes unless told otherwise.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// An authority with its certificate.
pub struct Authority {
    pub issuer: Issuer<'static, KeyPair>,
    pub der: Vec<u8>,
    pub pem: String,
}

/// Parameters with one common name.
pub fn named(name: &str) -> CertificateParams {
    named_as(DnValue::Utf8String(name.to_owned()))
}

pub fn named_as(name: DnValue) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

pub fn authority_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Authority {
    pub fn root(name: &str) -> Self {
        Self::root_of(authority_params(name))
    }

    pub fn root_of(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// An authority below this one.
    pub fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A leaf, DER.
    pub fn leaf(&self, params: &CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }
}

/// A folder with files for a configuration.
pub struct Place(pub tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A checker that trusts these, changed as wanted.
pub fn checker(anchors: &[&str], change: impl FnOnce(&mut Configuration)) -> Certificates {
    let place = Place::new();
    let mut configuration = Configuration::new(vec![place.file("anchors.pem", anchors.concat())]);
    change(&mut configuration);
    Certificates::new(&configuration).unwrap()
}

pub fn question(list: &[&[u8]]) -> CheckCertList {
    CheckCertList {
        time: now(),
        cert_list: list.iter().map(|der| der.to_vec()).collect(),
        ..CheckCertList::default()
    }
}

pub fn as_server(list: &[&[u8]], name: &str) -> CheckCertList {
    CheckCertList {
        role: Role::Initiator,
        server_name: Some(name.to_owned()),
        ..question(list)
    }
}

/// `yes CN=name`, a reason, or `-1`.
pub fn said(answer: &Result<Accepted, No>) -> String {
    match answer {
        Ok(accepted) => format!("yes {}", accepted.peer_name),
        Err(No::Refused(reason, _)) => reason.to_string(),
        Err(No::Unanswered(_)) => "-1".to_owned(),
    }
}

/// Length octets of DER.
fn length(length: usize) -> Vec<u8> {
    match length {
        0..=0x7f => vec![length as u8],
        0x80..=0xff => vec![0x81, length as u8],
        _ => vec![0x82, (length >> 8) as u8, length as u8],
    }
}

pub fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag][..], &length(content.len()), content].concat()
}

/// The content of a DER value, and what is behind it.
pub fn open(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (header, length) = match bytes[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(bytes[2])),
        0x82 => (4, usize::from(bytes[2]) << 8 | usize::from(bytes[3])),
        _ => panic!("longer than a test needs"),
    };
    (&bytes[header..header + length], &bytes[header + length..])
}

/// A certificate in which `from` became `to`, of the same length, signed anew.
pub fn forged(certificate: &[u8], from: &[u8], to: &[u8], key: &KeyPair) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let (content, _) = open(certificate);
    let (_, behind) = open(content);
    let mut tbs = content[..content.len() - behind.len()].to_vec();
    let (_, signature) = open(behind);
    let algorithm = &behind[..behind.len() - signature.len()];
    let at = tbs.windows(from.len()).position(|window| window == from);
    let at = at.unwrap();
    tbs[at..at + to.len()].copy_from_slice(to);
    let signature = [&[0][..], &key.sign(&tbs).unwrap()].concat();
    der(0x30, &[&tbs, algorithm, &der(0x03, &signature)].concat())
}

/// The input of `check-cert-list` as JSON.
pub fn json(question: &CheckCertList) -> String {
    let list: Vec<String> = question
        .cert_list
        .iter()
        .map(|der| format!("\"{}\"", base64(der)))
        .collect();
    let role = question.role.word();
    let mut text = format!(
        "{{\"role\":\"{role}\",\"time\":{},\"cert_list\":[{}]",
        question.time,
        list.join(",")
    );
    if let Some(name) = &question.server_name {
        write!(text, ",\"server_name\":\"{name}\"").unwrap();
    }
    if let Some(response) = &question.ocsp_response {
        write!(text, ",\"ocsp_response\":\"{}\"", base64(response)).unwrap();
    }
    text + "}"
}

pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte));
        let number = number << (8 * (3 - chunk.len()));
        for place in 0..4 {
            match place <= chunk.len() {
                true => text.push(char::from(
                    LETTERS[(number >> (18 - 6 * place)) as usize & 63],
                )),
                false => text.push('='),
            }
        }
    }
    text
}

/// PEM to DER, of the first block.
pub fn from_pem(path: &Path) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject;
    let text = std::fs::read(path).unwrap();
    rustls_pki_types::CertificateDer::from_pem_slice(&text)
        .unwrap()
        .to_vec()
}

/// Runs a program in a folder; its output.
pub fn run(mut command: Command, folder: &Path) -> String {
    let output = command.current_dir(folder).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
