//! What lies at the names of a file domain, one defect at a time.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::{CWD, FileType, Gid, Uid, chownat, mknodat};
use tempfile::TempDir;

use super::*;
use crate::ledger::Domain;
use crate::ledger::header::KEYRING;
use crate::ledger::word::Word;
use crate::sys::fault::Action;

const OPTIONS: Options = Options {
    capacity: 100,
    processes: 10,
    collect: false,
};

/// A directory in which there is a good domain `d`, not open anywhere.
fn good() -> (TempDir, PathBuf) {
    let parent = TempDir::new().expect("a directory");
    let directory = parent.path().join("baton");
    open(&directory, "d", &OPTIONS).expect("made");
    (parent, directory)
}

fn refusal(directory: &Path) -> Option<String> {
    open(directory, "d", &OPTIONS)
        .err()
        .map(|error| error.to_string())
}

/// Everything in a directory: name, inode, mode and contents.
fn picture(directory: &Path) -> Vec<(PathBuf, u64, u32, Option<Vec<u8>>)> {
    let mut all: Vec<_> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let stat = fs::symlink_metadata(&path).expect("its state");
            let contents = stat.is_file().then(|| fs::read(&path).ok()).flatten();
            (path, stat.ino(), stat.mode(), contents)
        })
        .collect();
    all.sort();
    all
}

fn mapped(path: &Path) -> Mapping {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("a file");
    Mapping::from_fd(file.into()).expect("a mapping")
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Header)) {
    let mapping = mapped(path);
    let mut header = Header::read(mapping.as_words()).expect("a good one");
    change(&mut header);
    header.write(mapping.as_words());
}

//= proves spec/domains.md#creation
//= proves spec/domains.md#names
#[test]
fn two_domains_opened_on_one_file_are_one() {
    let parent = TempDir::new().expect("a directory");
    let directory = parent.path().join("baton");
    let first = Domain::file_in(&directory, "my.domain-1", &OPTIONS).expect("made");
    // The options count only where it is made.
    let second = Domain::file_in(&directory, "my.domain-1", &Options::default()).expect("found");
    assert_eq!(first.id(), second.id());
    assert_eq!(second.ledger().options(), OPTIONS);
    let token = first
        .ledger()
        .establish()
        .expect("room")
        .depart(u64::MAX)
        .expect("active");
    let claim = second
        .ledger()
        .arrive(token.index, &token.id, token.epoch)
        .expect("in transit");
    assert!(
        first
            .ledger()
            .arrive(token.index, &token.id, token.epoch)
            .is_err()
    );
    assert_eq!(claim.check(), Ok(()));
    let (id, key) = first
        .keyring()
        .expect("keys")
        .with_current(|id, key| (id, *key))
        .expect("a key");
    assert_eq!(
        second
            .keyring()
            .expect("keys")
            .with(id, |found| *found == key),
        Some(true)
    );
    let other = Domain::file_in(&directory, "other", &OPTIONS).expect("made");
    assert_ne!(other.id(), first.id());

    let names: Vec<_> = picture(&directory)
        .into_iter()
        .map(|(path, _, mode, _)| (path, mode))
        .collect();
    let expected = [
        "my.domain-1.keys",
        "my.domain-1.ledger",
        "other.keys",
        "other.ledger",
    ];
    assert_eq!(
        names,
        expected.map(|name| (directory.join(name), 0o100_600))
    );
    assert_eq!(
        fs::metadata(&directory).expect("its state").mode(),
        0o40_700
    );
}

//= proves spec/domains.md#names
#[test]
fn names_that_are_no_names_are_refused() {
    let parent = TempDir::new().expect("a directory");
    let directory = parent.path().join("baton");
    let long = "x".repeat(65);
    for name in [
        "", ".", "..", ".d", "-d", "_d", "a/b", "../d", "a b", "a\0", "ä", "a\n", &long,
    ] {
        assert!(
            matches!(
                open(&directory, name, &OPTIONS),
                Err(Error::Refused("name"))
            ),
            "{name:?}"
        );
    }
    assert!(open(&directory, &long[1..], &OPTIONS).is_ok());
}

//= proves spec/domains.md#names
#[test]
fn the_directory_is_the_users_own() {
    // Whichever of the three it is here: an absolute path whose last part is ours.
    let path = directory();
    let last = path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    assert!(path.is_absolute());
    assert!(last == "baton" || last == format!("baton-{}", process::uid()));
}

//= proves spec/domains.md#files
#[test]
fn a_file_that_is_not_this_users_alone_is_refused_and_left_alone() {
    type Defect = fn(&Path);
    let defects: [(&str, Defect); 8] = [
        ("regular", |path| {
            let kept = path.with_extension("kept");
            fs::rename(path, &kept).expect("renamed");
            symlink(&kept, path).expect("a link");
        }),
        ("regular", |path| {
            fs::remove_file(path).expect("removed");
            symlink("/nowhere", path).expect("a link");
        }),
        ("regular", |path| {
            fs::remove_file(path).expect("removed");
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, path, FileType::Fifo, mode, 0).expect("a FIFO");
        }),
        ("regular", |path| {
            fs::remove_file(path).expect("removed");
            fs::create_dir(path).expect("a directory");
        }),
        ("regular", |path| {
            fs::remove_file(path).expect("removed");
            drop(std::os::unix::net::UnixListener::bind(path).expect("a socket"));
        }),
        ("0600", |path| {
            fs::set_permissions(path, Permissions::from_mode(0o666)).expect("owned")
        }),
        ("0600", |path| {
            fs::set_permissions(path, Permissions::from_mode(0o640)).expect("owned")
        }),
        ("second name", |path| {
            fs::hard_link(path, path.with_extension("too")).expect("a link")
        }),
    ];
    for file in ["d.ledger", "d.keys"] {
        for (number, (reason, defect)) in defects.iter().enumerate() {
            let (_parent, directory) = good();
            defect(&directory.join(file));
            let before = picture(&directory);
            let refused = refusal(&directory).unwrap_or_default();
            assert!(refused.contains(reason), "{file}, {number}: {refused}");
            assert_eq!(picture(&directory), before);
        }
    }
}

//= proves spec/domains.md#files
//= proves spec/domains.md#directory
#[test]
fn what_belongs_to_another_user_is_refused() {
    if process::uid() != 0 {
        // Only root can give a file away; the check is the same line for every user.
        return;
    }
    let other = (Some(Uid::from_raw(65_534)), Some(Gid::from_raw(65_534)));
    for name in ["d.ledger", "d.keys", ""] {
        let (_parent, directory) = good();
        chownat(
            CWD,
            directory.join(name),
            other.0,
            other.1,
            AtFlags::empty(),
        )
        .expect("root may");
        let refused = refusal(&directory).unwrap_or_default();
        assert!(refused.contains("another user"), "{name}: {refused}");
    }
}

//= proves spec/domains.md#directory
#[test]
fn a_directory_that_is_not_this_users_alone_is_refused() {
    for mode in [0o755, 0o701, 0o770, 0o1700, 0o500] {
        let (_parent, directory) = good();
        fs::set_permissions(&directory, Permissions::from_mode(mode)).expect("owned");
        assert!(
            refusal(&directory).is_some_and(|text| text.contains("0700")),
            "{mode:o}"
        );
    }
    let (parent, directory) = good();
    let link = parent.path().join("link");
    symlink(&directory, &link).expect("a link");
    assert!(refusal(&link).is_some_and(|text| text.contains("directory is none")));
    let file = parent.path().join("file");
    fs::write(&file, "").expect("written");
    assert!(refusal(&file).is_some_and(|text| text.contains("directory is none")));
    assert!(matches!(
        open(&parent.path().join("no/baton"), "d", &OPTIONS),
        Err(Error::System(_))
    ));
}

//= proves spec/ledger.md#refuse
//= proves spec/domains.md#keyring
#[test]
fn files_that_hold_no_domain_are_refused_and_left_alone() {
    type Defect = fn(&Path);
    let defects: [Defect; 10] = [
        |path| resize(path, 0),
        |path| resize(path, 8),
        |path| resize(path, 90),
        |path| resize(path, 4000),
        |path| resize(path, fs::metadata(path).expect("its state").len() + 4096),
        |path| {
            let len = fs::metadata(path).expect("its state").len() as usize;
            let noise: Vec<u8> = (0..len).map(|n| (n * n * 31 + n * 7 + 3) as u8).collect();
            fs::write(path, noise).expect("owned");
        },
        |path| mapped(path).as_words().iter().for_each(|word| word.put(0)),
        |path| rewrite(path, |header| header.kind.1 += 1),
        |path| rewrite(path, |header| header.kind.0 ^= 1),
        |path| rewrite(path, |header| header.sizes.0 += 1_000_000),
    ];
    for file in ["d.ledger", "d.keys"] {
        for (number, defect) in defects.iter().enumerate() {
            let (_parent, directory) = good();
            defect(&directory.join(file));
            let before = picture(&directory);
            let refused = open(&directory, "d", &OPTIONS).err();
            assert!(
                matches!(refused, Some(Error::Damaged(_))),
                "{file}, {number}"
            );
            assert_eq!(picture(&directory), before);
        }
    }
    let (_parent, directory) = good();
    rewrite(&directory.join("d.keys"), |header| header.domain[0] ^= 1);
    assert!(refusal(&directory).is_some_and(|text| text.contains("two domains")));
    let (_parent, directory) = good();
    fs::remove_file(directory.join("d.keys")).expect("owned");
    assert!(refusal(&directory).is_some_and(|text| text.contains("without its keys")));
}

fn resize(path: &Path, len: u64) {
    File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(len))
        .expect("owned");
}

//= proves spec/domains.md#home
#[test]
fn a_copy_of_yesterdays_files_is_refused() {
    for file in ["d.ledger", "d.keys"] {
        let (_parent, directory) = good();
        let path = directory.join(file);
        let copy = directory.join("copy");
        fs::copy(&path, &copy).expect("copied");
        fs::rename(&copy, &path).expect("renamed");
        assert!(
            refusal(&directory).is_some_and(|text| text.contains("copy")),
            "{file}"
        );
    }
}

//= proves spec/domains.md#stale
#[test]
fn what_an_earlier_boot_left_is_made_anew() {
    for version in [1, 2, 77] {
        let (_parent, directory) = good();
        let (before, _) = open(&directory, "d", &OPTIONS).expect("good");
        let token = before
            .establish()
            .expect("room")
            .depart(u64::MAX)
            .expect("active");
        for file in ["d.ledger", "d.keys"] {
            rewrite(&directory.join(file), |header| {
                header.boot[3] ^= 0x80;
                header.kind.1 = version;
            });
        }
        let (ledger, keyring) = open(&directory, "d", &OPTIONS).expect("made anew");
        assert_ne!(ledger.domain_id(), before.domain_id());
        assert_eq!(keyring.header().kind, KEYRING);
        assert!(ledger.arrive(token.index, &token.id, token.epoch).is_err());
        let (again, _) = open(&directory, "d", &OPTIONS).expect("good");
        assert_eq!(again.domain_id(), ledger.domain_id());
    }
}

//= proves spec/domains.md#creation
#[test]
fn a_creation_that_was_cut_short_is_done_again() {
    let points = fault::POINTS
        .iter()
        .filter(|point| point.starts_with("ledger.file."));
    for point in points.skip(1) {
        let parent = TempDir::new().expect("a directory");
        let directory = parent.path().join("baton");
        // A panic leaves the files as a crash does, and the lock by closing the descriptor.
        let act = Action::Call(Box::new(|| std::panic::resume_unwind(Box::new(()))));
        fault::arm(point, 1, act);
        let cut = std::panic::catch_unwind(|| open(&directory, "d", &OPTIONS).is_ok());
        fault::disarm();
        assert!(cut.is_err(), "{point} was passed");
        let (ledger, keyring) = open(&directory, "d", &OPTIONS).expect(point);
        assert!(ledger.establish().is_ok());
        assert!(keyring.with_current(|_, _| ()).is_ok());
        let (again, _) = open(&directory, "d", &OPTIONS).expect(point);
        assert_eq!(again.domain_id(), ledger.domain_id());
    }
}

//= proves spec/domains.md#creation
#[test]
fn of_two_who_create_at_once_one_does() {
    let parent = TempDir::new().expect("a directory");
    let directory = parent.path().join("baton");
    let other = directory.clone();
    let made = std::sync::Arc::new(std::sync::Mutex::new(None));
    let theirs = made.clone();
    // Another makes it after this one has found nothing and before it has the lock.
    let act = Action::Call(Box::new(move || {
        let (ledger, _) = open(&other, "d", &OPTIONS).expect("made");
        *theirs.lock().expect("no panic") = Some(ledger.domain_id());
    }));
    fault::arm("ledger.file.missing", 1, act);
    let (ledger, _) = open(&directory, "d", &OPTIONS).expect("found");
    assert_eq!(Some(ledger.domain_id()), *made.lock().expect("no panic"));
}

//= proves spec/ledger.md#growth
#[test]
fn a_full_disk_is_an_error() {
    for passing in 1..=3 {
        let parent = TempDir::new().expect("a directory");
        let directory = parent.path().join("baton");
        fault::arm("ledger.growth.refused", passing, Action::Fail);
        assert!(matches!(
            open(&directory, "d", &OPTIONS),
            Err(Error::System(_))
        ));
        assert!(!fault::disarm());
        assert!(!directory.join("d.ledger").exists());
        assert!(open(&directory, "d", &OPTIONS).is_ok());
    }
}
