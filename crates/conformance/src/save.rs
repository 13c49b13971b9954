//! Files that are there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};

/// Symbolic links that are followed before they count as a ring.
const LINKS: usize = 40;

/// Writes a file beside its place and moves it there, so that a full disk or a crash never leaves half of one. A symbolic link
/// stays and what it leads to is written. What is no regular file, such as a pipe or `/dev/stdout`, is written as it is.
///
/// # Errors
/// The folder can't be made or the file can't be written.
pub fn whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(path) = regular(path)? else { return OpenOptions::new().append(true).open(path)?.write_all(bytes) };
    let folder = folder_of(&path);
    std::fs::create_dir_all(folder)?;
    let name = path.file_name().ok_or_else(|| Error::other("the path names no file"))?;
    let mut part = name.to_os_string();
    part.push(format!(".{}.part", std::process::id()));
    let part = folder.join(part);
    let written = File::create(&part).and_then(|mut f| {
        f.write_all(bytes)?;
        f.sync_all()
    });
    let moved = written.and_then(|()| std::fs::rename(&part, &path));
    if moved.is_err() {
        // What was written so far is of no use; that it can't be removed is no further news.
        let _ = std::fs::remove_file(&part);
    }
    moved
}

/// The regular file that a path leads to, there or to be made; none where it leads to something else.
fn regular(path: &Path) -> Result<Option<PathBuf>> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(Error::new(ErrorKind::IsADirectory, "it is a folder")),
        Ok(found) if !found.is_file() => return Ok(None),
        _ => {}
    }
    let mut path = path.to_path_buf();
    for _ in 0..LINKS {
        if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
            return Ok(Some(path));
        }
        // A link of the kernel's is an open file, whose place may be another's by now.
        if folder_of(&path).canonicalize()?.starts_with("/proc") {
            return Ok(None);
        }
        path = folder_of(&path).join(std::fs::read_link(&path)?);
    }
    Err(Error::other("its symbolic links lead in a ring"))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
