//! Compiled images on disk, by what they were made from. An entry that is damaged is as good as none, and so is a folder that
//! can't be written to.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// The first bytes of every entry.
const MAGIC: &[u8; 8] = b"QIAOCU01";

/// What an image was made from.
pub(crate) struct Key(Sha256);

impl Key {
    pub(crate) fn new() -> Self {
        Key(Sha256::new())
    }

    /// Adds a part; where one ends and the next begins matters.
    pub(crate) fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The name of the entry.
    pub(crate) fn name(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// A place for an image on disk.
pub(crate) struct Entry(Option<PathBuf>);

impl Entry {
    /// The entry of this name.
    pub(crate) fn new(name: &str) -> Self {
        Entry(folder().map(|folder| folder.join(format!("{name}.image"))))
    }

    /// The image, if it is there and whole.
    pub(crate) fn read(&self) -> Option<Vec<u8>> {
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
    pub(crate) fn write(&self, image: &[u8]) {
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

/// `$QIAO_CACHE_DIR`, or this user's folder for what can be made again.
fn folder() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let of_user = || named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")));
    Some(named("QIAO_CACHE_DIR").or_else(|| Some(of_user()?.join("qiao")))?.join("cuda"))
}
