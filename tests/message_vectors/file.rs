//! Files of vectors: written, and compared with what they ought to be.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::fs;
use std::path::Path;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A vector file: a comment, then lines `name: value`.
pub(crate) struct File {
    text: String,
}

impl File {
    pub(crate) fn new(comment: &str) -> Self {
        Self {
            text: format!("# {comment}\n"),
        }
    }

    pub(crate) fn line(mut self, name: &str, value: impl Display) -> Self {
        writeln!(self.text, "{}", format!("{name}: {value}").trim_end()).unwrap();
        self
    }

    pub(crate) fn hex(self, name: &str, value: &[u8]) -> Self {
        self.line(name, hex(value))
    }
}

/// Compares a folder with what its files ought to be: the same files, the same bytes.
pub(crate) fn compare(name: &str, made: &BTreeMap<String, File>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("spec/vectors/messages")
        .join(name);
    if std::env::var_os("BATON_WRITE").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (name, file) in made {
            fs::write(folder.join(name), &file.text).unwrap();
        }
    }
    let mut found: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, made.keys().cloned().collect::<Vec<_>>());
    for (name, file) in made {
        let kept = fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(kept, file.text, "{name}");
    }
}
