//! A file that appears whole or not at all: written beside its place, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
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
    /// Takes a place beside the target, or beside the file to which the target links, with a name that nothing has. What is at
    /// the target is not touched before [`Pending::finish`].
    ///
    /// # Errors
    /// The operating system's; the target is a folder or a device.
    pub(crate) fn new(target: &Path) -> Result<Pending> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let linked = fs::canonicalize(target);
        let target = linked.as_deref().unwrap_or(target);
        if fs::metadata(target).is_ok_and(|meta| !meta.is_file()) {
            let error = std::io::Error::other("what is there is not a file");
            return Err(EngineError::io("replace", target, error));
        }
        let Some(name) = target.file_name() else {
            let error = std::io::Error::other("it has no file name");
            return Err(EngineError::io("write", target, error));
        };
        let name = name.to_string_lossy();
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let temporary = target.with_file_name(format!(".{name}.partial-{}-{number}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    return Ok(Pending {
                        target: target.to_path_buf(),
                        temporary,
                        file: BufWriter::new(file),
                        done: false,
                    });
                }
                // Left behind by a process that had the same number and was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(EngineError::io("write", &temporary, error)),
            }
        }
    }

    /// # Errors
    /// The operating system's, a full disk among them.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| EngineError::io("write", &self.temporary, e))
    }

    /// Puts the file into its place.
    ///
    /// # Errors
    /// As [`Pending::write`].
    pub(crate) fn finish(mut self) -> Result<()> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|e| EngineError::io("write", &self.temporary, e))?;
        fs::rename(&self.temporary, &self.target).map_err(|e| EngineError::io("replace", &self.target, e))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_behind_is_in_nobody_s_way() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("session");
        let first = Pending::new(&target).unwrap();
        let temporary = first.temporary.to_str().unwrap().to_string();
        drop(first);
        let (stem, number) = temporary.rsplit_once('-').unwrap();
        let next = number.parse::<u64>().unwrap() + 1;
        let left: Vec<_> = (next..next + 50).map(|number| format!("{stem}-{number}")).collect();
        left.iter().for_each(|path| fs::write(path, b"left").unwrap());
        let mut pending = Pending::new(&target).unwrap();
        pending.write(b"whole").unwrap();
        pending.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        assert!(left.iter().all(|path| fs::read(path).unwrap() == b"left"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_one_and_what_is_no_file_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| place.path().join(name));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut pending = Pending::new(&link).unwrap();
        pending.write(b"new").unwrap();
        pending.finish().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        for other in [place.path(), Path::new("/dev/null")] {
            let error = Pending::new(other).err().unwrap().to_string();
            assert!(error.contains("not a file"), "{error}");
        }
    }

    #[test]
    fn an_error_names_the_path_that_could_not_be_written() {
        let place = tempfile::tempdir().unwrap();
        let error = Pending::new(&place.path().join("no/such/session")).err().unwrap().to_string();
        assert!(error.contains(".session.partial-"), "{error}");
    }
}
