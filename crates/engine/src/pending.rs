//! A file that appears whole or not at all: written beside its place, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{EngineError, Result};

/// A file in the making. Dropped before [`Pending::finish`], it leaves nothing behind.
pub(crate) struct Pending {
    target: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    done: bool,
}

impl Pending {
    /// Takes a place beside the target. What is there is not touched before [`Pending::finish`].
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn new(target: &Path) -> Result<Pending> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let Some(name) = target.file_name() else {
            let error = std::io::Error::other("it has no file name");
            return Err(EngineError::io("write", target, error));
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".{}.partial-{}-{number}", name.to_string_lossy(), std::process::id());
        let temporary = target.with_file_name(name);
        let opened = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = BufWriter::new(opened.map_err(|e| EngineError::io("write", target, e))?);
        Ok(Pending { target: target.to_path_buf(), temporary, file, done: false })
    }

    /// # Errors
    /// The operating system's, a full disk among them.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| EngineError::io("write", &self.target, e))
    }

    /// Puts the file into its place.
    ///
    /// # Errors
    /// As [`Pending::write`].
    pub(crate) fn finish(mut self) -> Result<()> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        let placed = synced.and_then(|()| fs::rename(&self.temporary, &self.target));
        placed.map_err(|e| EngineError::io("write", &self.target, e))?;
        self.done = true;
        // The file is whole by now; that its name outlasts a crash of the system is more than some file systems promise.
        if let Some(parent) = self.target.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let _ = File::open(parent).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done {
            // What can't be removed here can't be told either: another error is on its way.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
