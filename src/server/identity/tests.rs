use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

const NOW: u64 = 1_800_000_000;

fn state() -> (TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open_or_make(&dir.path().join("state/baton")).unwrap();
    (dir, folder)
}

/// Every file of the identity with its content, in order of name.
fn content(state: &Folder) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(state.path().join(FOLDER))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|e| {
            (
                e.file_name().into_string().unwrap(),
                fs::read(e.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

fn file<'a>(files: &'a [(String, Vec<u8>)], name: &str) -> &'a [u8] {
    &files.iter().find(|(n, _)| n == name).unwrap().1
}

#[test]
fn the_first_start_makes_the_identity_for_this_user_alone() {
    let (_dir, state) = state();
    let (_, origin) = Identity::ensure(&state, NOW).unwrap();
    assert_eq!(origin, Origin::Made);
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode();
    assert_eq!(mode(state.path()) & 0o7777, 0o700);
    assert_eq!(mode(&state.path().join(FOLDER)) & 0o7777, 0o700);
    let files = content(&state);
    assert_eq!(files.len(), 6);
    for (name, _) in &files {
        assert_eq!(
            mode(&state.path().join(FOLDER).join(name)),
            0o100600,
            "{name}"
        );
    }
    assert!(!state.path().join("identity.new").exists());
}

#[test]
fn a_later_start_keeps_it_byte_for_byte() {
    let (_dir, state) = state();
    Identity::ensure(&state, NOW).unwrap();
    let before = content(&state);
    let last_valid_second = NOW + LEAF_DAYS * DAY - 1;
    let (_, origin) = Identity::ensure(&state, last_valid_second).unwrap();
    assert_eq!(origin, Origin::Kept);
    assert_eq!(content(&state), before);
}

#[test]
fn leaves_that_ran_out_are_renewed_under_the_same_authority() {
    let (_dir, state) = state();
    Identity::ensure(&state, NOW).unwrap();
    let before = content(&state);
    let later = NOW + LEAF_DAYS * DAY;
    let (identity, origin) = Identity::ensure(&state, later).unwrap();
    assert_eq!(origin, Origin::LeavesRenewed);
    let after = content(&state);
    for kept in [CA, CA_KEY] {
        assert_eq!(file(&before, kept), file(&after, kept));
    }
    for renewed in [SERVER, SERVER_KEY, CLIENT, CLIENT_KEY] {
        assert_ne!(file(&before, renewed), file(&after, renewed));
    }
    assert!(!state.path().join("identity.new").exists());
    verify(&identity, later);
}

#[test]
fn an_authority_that_ran_out_is_renewed_with_all_under_it() {
    let (_dir, state) = state();
    Identity::ensure(&state, NOW).unwrap();
    let before = content(&state);
    let later = NOW + CA_DAYS * DAY;
    let (identity, origin) = Identity::ensure(&state, later).unwrap();
    assert_eq!(origin, Origin::Renewed);
    assert_ne!(file(&before, CA), file(&content(&state), CA));
    verify(&identity, later);
}

/// Checks the server's certificate against the authority's, as a client would, for every name.
fn verify(identity: &Identity, now: u64) {
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
    let authority = CertificateDer::from_pem_slice(identity.authority()).unwrap();
    let server = CertificateDer::from_pem_slice(identity.server()).unwrap();
    let anchor = webpki::anchor_from_trusted_cert(&authority).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&server).unwrap();
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[anchor],
        &[],
        UnixTime::since_unix_epoch(Duration::from_secs(now)),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    )
    .unwrap();
    for name in NAMES {
        leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap())
            .unwrap();
    }
}

#[test]
fn the_identity_is_valid_from_the_start() {
    let (_dir, state) = state();
    let (identity, _) = Identity::ensure(&state, NOW).unwrap();
    verify(&identity, NOW);
}

#[test]
fn what_a_start_that_died_left_behind_is_removed() {
    let (_dir, state) = state();
    let draft = state.path().join("identity.new");
    fs::create_dir(&draft).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(draft.join(CA), b"half of a certif").unwrap();
    assert_eq!(Identity::ensure(&state, NOW).unwrap().1, Origin::Made);
    assert!(!draft.exists());
    assert_eq!(content(&state).len(), 6);
}

#[test]
fn many_first_starts_at_once_make_one_identity() {
    let (_dir, state) = state();
    let made: usize = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let state = Folder::open_or_make(state.path()).unwrap();
                    Identity::ensure(&state, NOW).unwrap().1
                })
            })
            .collect();
        starts
            .into_iter()
            .map(|s| s.join().unwrap())
            .filter(|o| *o == Origin::Made)
            .count()
    });
    assert_eq!(made, 1);
}

#[test]
fn loose_permissions_are_refused_and_named() {
    for (name, mode) in [
        ("", 0o750),
        (FOLDER, 0o701),
        ("identity/server-key.pem", 0o640),
    ] {
        let (_dir, state) = state();
        Identity::ensure(&state, NOW).unwrap();
        let path = if name.is_empty() {
            state.path().to_owned()
        } else {
            state.path().join(name)
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let refused = Folder::open_or_make(state.path())
            .map_err(Error::from)
            .and_then(|state| Identity::ensure(&state, NOW).map(drop));
        let Err(Error::State(Refused::Loose(at, found))) = refused else {
            panic!("{name}: {refused:?}")
        };
        assert_eq!((at, found), (path, mode));
    }
}

#[test]
fn what_stands_in_the_place_of_a_file_is_refused() {
    let (_dir, state) = state();
    let (identity, _) = Identity::ensure(&state, NOW).unwrap();
    let key = state.path().join("identity/server-key.pem");
    let aside = state.path().join("aside.pem");
    fs::rename(&key, &aside).unwrap();
    let attempt = || Identity::ensure(&state, NOW).map(drop);

    symlink(&aside, &key).unwrap();
    assert!(matches!(attempt(), Err(Error::State(Refused::Kind(path))) if path == key));

    fs::remove_file(&key).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &key, rustix::fs::Mode::RUSR).unwrap();
    assert!(matches!(attempt(), Err(Error::State(Refused::Kind(path))) if path == key));

    fs::remove_file(&key).unwrap();
    assert!(matches!(attempt(), Err(Error::State(Refused::System(path, _))) if path == key));

    fs::rename(&aside, &key).unwrap();
    let certificate = identity.authority_path();
    fs::write(&certificate, vec![b'x'; MAX_FILE_PLUS]).unwrap();
    assert!(matches!(attempt(), Err(Error::State(Refused::TooLarge(path))) if path == certificate));

    fs::write(&certificate, b"not a certificate").unwrap();
    assert!(matches!(attempt(), Err(Error::Damaged(path)) if path == certificate));
}

const MAX_FILE_PLUS: usize = super::super::state::MAX_FILE as usize + 1;

#[test]
fn a_link_in_place_of_the_state_directory_is_refused() {
    let (dir, state) = state();
    let link = dir.path().join("link");
    symlink(state.path(), &link).unwrap();
    assert!(matches!(Folder::open_or_make(&link), Err(Refused::Kind(path)) if path == link));
}
