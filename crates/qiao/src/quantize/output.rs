//! A file or folder that appears whole or not at all: written beside its place, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::fault;
use crate::{Error, Result};

/// An error of the operating system while something is written.
pub(super) fn refused(action: &str, path: &Path, error: &io::Error) -> Error {
    let mend = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free some space, or write to another disk; nothing was left behind"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "choose a place that can be written",
        _ => "check that the place exists and can be written",
    };
    fault(format!("cannot {action} {}: {error}", path.display()), mend)
}

/// Output in the making. Dropped before [`Pending::finish`], it leaves nothing behind.
pub(super) struct Pending {
    target: PathBuf,
    temporary: PathBuf,
    folder: bool,
    force: bool,
    done: bool,
}

impl Pending {
    /// Takes a place beside the target, with a name that nothing has. What is at the target is not touched before
    /// [`Pending::finish`].
    ///
    /// # Errors
    /// A target that is there, unless forced; one that is forced and is of another kind, or a folder that is no checkpoint; a parent
    /// that is not there or can't be written.
    pub(super) fn new(target: &Path, folder: bool, force: bool) -> Result<Pending> {
        if let Some(found) = obstacle(target, folder, force) {
            let mend = if force { "choose another name" } else { "choose another name, or give --force" };
            return Err(fault(format!("{} {found}", target.display()), mend));
        }
        let Some(name) = target.file_name() else {
            return Err(fault(format!("{} is no name for an output", target.display()), "give a file or folder name"));
        };
        let stem = format!(".{}.partial-{}", name.to_string_lossy(), std::process::id());
        let mut number = 0;
        loop {
            let temporary = target.with_file_name(format!("{stem}-{number}"));
            number += 1;
            let made = match folder {
                true => fs::create_dir(&temporary),
                false => OpenOptions::new().write(true).create_new(true).open(&temporary).map(drop),
            };
            match made {
                Ok(()) => return Ok(Pending { target: target.to_path_buf(), temporary, folder, force, done: false }),
                // Left behind by a process that had the same number and was killed, or another output's.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(refused("create", &temporary, &error)),
            }
        }
    }

    /// A new file: the output itself, or one of this name in the folder.
    pub(super) fn create(&self, name: &str) -> Result<(File, PathBuf)> {
        let mut options = OpenOptions::new();
        let (path, options) = match self.folder {
            true => (self.temporary.join(name), options.write(true).create_new(true)),
            false => (self.temporary.clone(), options.write(true).truncate(true)),
        };
        let file = options.open(&path).map_err(|e| refused("create", &path, &e))?;
        Ok((file, path))
    }

    /// Writes a small file of the folder.
    pub(super) fn small(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (mut file, path) = self.create(name)?;
        let written = io::Write::write_all(&mut file, bytes).and_then(|()| file.sync_all());
        written.map_err(|e| refused("write", &path, &e))
    }

    /// Puts the output, whose files are synced, into its place.
    pub(super) fn finish(mut self) -> Result<()> {
        let parent = match self.target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let sync = |path: &Path| File::open(path).and_then(|f| f.sync_all()).map_err(|e| refused("sync", path, &e));
        if self.folder {
            sync(&self.temporary)?;
        }
        // The output is finished, and is kept though the swap may fail.
        self.done = true;
        let old = match self.folder && self.force && self.target.is_dir() {
            true => Some(set_aside(&self.target).map_err(|error| self.stays(&error, None))?),
            false => None,
        };
        if let Err(error) = fs::rename(&self.temporary, &self.target) {
            let stranded = old.filter(|old| fs::rename(old, &self.target).is_err());
            return Err(self.stays(&error, stranded));
        }
        if let Some(old) = old {
            fs::remove_dir_all(&old).map_err(|e| refused("remove the replaced", &old, &e))?;
        }
        sync(&parent)
    }

    /// The error of a finished output that could not be put into its place; `stranded` is where what was there lies now.
    fn stays(&self, error: &io::Error, stranded: Option<PathBuf>) -> Error {
        let (from, to) = (self.temporary.display(), self.target.display());
        let old = stranded.map_or(String::new(), |old| format!("; what was there lies in {}", old.display()));
        fault(format!("cannot put {from} in the place of {to}: {error}{old}"), "it is finished: move it by hand")
    }
}

/// Renames a folder to a name beside it that nothing has.
fn set_aside(target: &Path) -> io::Result<PathBuf> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let names = (0u64..).map(|number| format!(".{name}.replaced-{}-{number}", std::process::id()));
    let mut unused = names.map(|name| target.with_file_name(name)).filter(|path| fs::symlink_metadata(path).is_err());
    let old = unused.next().ok_or(ErrorKind::AlreadyExists)?;
    fs::rename(target, &old)?;
    Ok(old)
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done {
            // What can't be removed here can't be told either: another error is on its way.
            let _ = if self.folder { fs::remove_dir_all(&self.temporary) } else { fs::remove_file(&self.temporary) };
        }
    }
}

/// Why a target can't be taken.
fn obstacle(target: &Path, folder: bool, force: bool) -> Option<String> {
    let meta = fs::symlink_metadata(target).ok()?;
    if !force {
        return Some("is there already".into());
    }
    match (folder, meta.is_dir()) {
        (false, true) => Some("is a folder, and a file is to be written".into()),
        (true, false) => Some("is a file, and a folder is to be written".into()),
        (true, true) if !target.join("config.json").is_file() => {
            let empty = fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
            (!empty).then(|| "is a folder that holds no checkpoint".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_str().unwrap().to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_output_appears_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let (file, folder) = (place.path().join("m.gguf"), place.path().join("m"));
        for (target, is_folder) in [(&file, false), (&folder, true)] {
            let pending = Pending::new(target, is_folder, false).unwrap();
            pending.small("config.json", b"{}").unwrap();
            assert!(!target.exists());
            drop(pending);
            assert!(names(place.path()).is_empty());
            let pending = Pending::new(target, is_folder, false).unwrap();
            pending.small("config.json", b"{}").unwrap();
            pending.finish().unwrap();
            assert!(target.exists());
            fs::rename(target, place.path().join("away")).unwrap();
            assert_eq!(names(place.path()), ["away"]);
            if is_folder {
                fs::remove_dir_all(place.path().join("away"))
            } else {
                fs::remove_file(place.path().join("away"))
            }
            .unwrap();
        }
    }

    #[test]
    fn what_a_killed_process_left_behind_is_in_nobody_s_way() {
        let place = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let (file, folder) = (place.path().join("m.gguf"), place.path().join("m"));
        fs::write(place.path().join(format!(".m.gguf.partial-{pid}-0")), b"left").unwrap();
        for left in [format!(".m.partial-{pid}-0"), format!(".m.replaced-{pid}-0"), ".m.replaced".into(), "m".into()] {
            fs::create_dir(place.path().join(&left)).unwrap();
            fs::write(place.path().join(&left).join("config.json"), b"left").unwrap();
        }
        let before = names(place.path());
        for (target, is_folder) in [(&file, false), (&folder, true)] {
            let pending = Pending::new(target, is_folder, true).unwrap();
            pending.small("config.json", b"new").unwrap();
            pending.finish().unwrap();
        }
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"new");
        fs::remove_file(&file).unwrap();
        assert_eq!(names(place.path()), before);
    }

    #[test]
    fn a_finished_output_is_kept_where_only_the_swap_fails() {
        for is_folder in [false, true] {
            let place = tempfile::tempdir().unwrap();
            let target = place.path().join("m");
            let pending = Pending::new(&target, is_folder, false).unwrap();
            pending.small("config.json", b"new").unwrap();
            // Somebody else was there meanwhile.
            fs::create_dir(&target).unwrap();
            fs::write(target.join("thesis.txt"), b"years").unwrap();
            let error = pending.finish().unwrap_err().to_string();
            let kept = names(place.path()).into_iter().find(|name| name.starts_with(".m.partial-")).unwrap();
            assert!(error.contains(&kept) && error.contains("finished"), "{error}");
            let kept = place.path().join(kept);
            let bytes = fs::read(if is_folder { kept.join("config.json") } else { kept }).unwrap();
            assert_eq!((&bytes[..], &fs::read(target.join("thesis.txt")).unwrap()[..]), (&b"new"[..], &b"years"[..]));
        }
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("m.gguf");
        fs::write(&file, b"old").unwrap();
        let refuse = |target: &Path, folder, force| match Pending::new(target, folder, force) {
            Ok(_) => panic!("{} was taken", target.display()),
            Err(error) => error.to_string(),
        };
        assert!(refuse(&file, false, false).contains("--force"));
        assert!(refuse(&file, true, true).contains("is a file"));
        let precious = place.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("thesis.txt"), b"years").unwrap();
        assert!(refuse(&precious, true, true).contains("no checkpoint"));
        assert!(refuse(&precious, false, true).contains("is a folder"));
        let pending = Pending::new(&file, false, true).unwrap();
        pending.small("m", b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"old");
        pending.finish().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        fs::write(precious.join("config.json"), b"{}").unwrap();
        let pending = Pending::new(&precious, true, true).unwrap();
        pending.small("a", b"1").unwrap();
        pending.finish().unwrap();
        assert_eq!(names(&precious), ["a"]);
        assert_eq!(names(place.path()), ["m.gguf", "precious"]);
        assert!(refuse(&place.path().join("no/such/m"), true, false).contains("cannot create"));
    }
}
