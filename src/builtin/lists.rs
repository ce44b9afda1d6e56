//! Revocation lists from files, read again when they change.
//!
//! Invariant: a list that was read stays until a newer one of its file can be read; whether it still
//! counts is for its own `nextUpdate` to say.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::configuration::{Mistake, read_bounded};

/// Bytes of the largest file.
const LARGEST: u64 = 16 << 20;

/// By what a file that has changed is known: device, inode, size, and the times of its content.
type Mark = (u64, u64, u64, (i64, i64), (i64, i64));

struct Watched {
    path: PathBuf,
    mark: Option<Mark>,
    lists: Vec<Arc<CertRevocationList<'static>>>,
}

/// The lists of all files.
pub(super) struct Lists(Mutex<Vec<Watched>>);

/// The lists that count now, and what is wrong with a file.
pub(super) struct Current {
    pub(super) lists: Vec<Arc<CertRevocationList<'static>>>,
    pub(super) complaint: Option<String>,
}

impl Lists {
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self, Mistake> {
        let read = paths.iter().map(|path| {
            Ok(Watched {
                path: path.clone(),
                mark: mark(path),
                lists: read(path)?,
            })
        });
        Ok(Self(Mutex::new(read.collect::<Result<_, Mistake>>()?)))
    }

    //= spec/builtin.md#crls
    pub(super) fn current(&self) -> Current {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut complaint = None;
        for file in watched.iter_mut() {
            let now = mark(&file.path);
            if now == file.mark && now.is_some() {
                continue;
            }
            match read(&file.path) {
                Ok(lists) => (file.mark, file.lists) = (now, lists),
                // It is tried again with the next question.
                Err(mistake) => complaint = Some(mistake.to_string()),
            }
        }
        let lists = watched.iter().flat_map(|file| file.lists.iter().cloned());
        Current {
            lists: lists.collect(),
            complaint,
        }
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let of = |file: Metadata| {
        (
            file.dev(),
            file.ino(),
            file.size(),
            (file.mtime(), file.mtime_nsec()),
            (file.ctime(), file.ctime_nsec()),
        )
    };
    std::fs::metadata(path).ok().map(of)
}

fn read(path: &Path) -> Result<Vec<Arc<CertRevocationList<'static>>>, Mistake> {
    let bytes = read_bounded(path, LARGEST)?;
    let bad = || Mistake::List(path.to_owned());
    let list = |der: &[u8]| {
        let list = OwnedCertRevocationList::from_der(der).map_err(|_| bad())?;
        Ok(Arc::new(CertRevocationList::from(list)))
    };
    // DER begins with the octet of a sequence, which is no PEM.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![list(&bytes)?]);
    }
    let all: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| bad())?;
    match all.is_empty() {
        true => Err(bad()),
        false => all.iter().map(|der| list(der)).collect(),
    }
}
