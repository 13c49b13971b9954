//! Compiled images on disk, by what they were made from. An entry that is damaged is as good as none, and so is a folder that
//! can't be written to.
//!
//! They lie under `$QIAO_CACHE_DIR`, or where this user keeps what can be made again, in a [`folder`] for each kind.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// The first bytes of every entry.
const MAGIC: &[u8; 8] = b"QIAOIM01";

/// What an image was made from.
#[derive(Default)]
pub struct Key(Sha256);

impl Key {
    /// Made from nothing yet.
    pub fn new() -> Self {
        Key::default()
    }

    /// Adds a part; where one ends and the next begins matters.
    pub fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The name of the entry.
    pub fn name(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// A place for an image on disk.
pub struct Entry(Option<PathBuf>);

impl Entry {
    /// The entry of this name among images of a kind.
    pub fn new(kind: &str, name: &str) -> Self {
        Entry(folder(kind).map(|folder| folder.join(format!("{name}.image"))))
    }

    /// The image, if it is there and whole.
    pub fn read(&self) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.0.as_ref()?).ok()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (sum, image) = rest.split_at_checked(32)?;
        if Sha256::digest(image)[..] != *sum {
            return None;
        }
        bytes.drain(..MAGIC.len() + 32);
        Some(bytes)
    }

    /// Puts the image there: under another name first, so that nobody ever reads a part of it.
    pub fn write(&self, image: &[u8]) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Some(path) = &self.0 else { return };
        let Some(folder) = path.parent() else { return };
        let bytes = [&MAGIC[..], &Sha256::digest(image)[..], image].concat();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let aside = path.with_extension(format!("{}.{count}", std::process::id()));
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&aside, bytes));
        if written.and_then(|()| fs::rename(&aside, path)).is_err() {
            // The image is at hand all the same; the next process compiles it again.
            fs::remove_file(&aside).ok();
        }
    }
}

/// The folder of a kind under `$QIAO_CACHE_DIR`, or under this user's folder for what can be made again; nothing where there is
/// neither.
pub fn folder(kind: &str) -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let of_user = || named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")));
    Some(named("QIAO_CACHE_DIR").or_else(|| Some(of_user()?.join("qiao")))?.join(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_part_ends_matters() {
        let name = |parts: &[&str]| {
            let mut key = Key::new();
            parts.iter().for_each(|part| key.part(part.as_bytes()));
            key.name()
        };
        assert_eq!(name(&["a", "bc"]), name(&["a", "bc"]));
        assert_ne!(name(&["a", "bc"]), name(&["ab", "c"]));
    }

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry(Some(folder.path().join("kind").join("name.image")));
        assert_eq!(entry.read(), None);
        entry.write(b"an image");
        assert_eq!(entry.read().as_deref(), Some(&b"an image"[..]));
        let path = entry.0.as_ref().unwrap();
        let mut bytes = fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(path, &bytes).unwrap();
        assert_eq!(entry.read(), None);
        fs::write(path, &bytes[..20]).unwrap();
        assert_eq!(entry.read(), None);
        assert_eq!(fs::read_dir(folder.path().join("kind")).unwrap().count(), 1, "nothing is left beside it");
    }
}
