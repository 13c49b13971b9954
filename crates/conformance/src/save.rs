//! Files that are there whole or not at all.

use std::io::Write;
use std::path::Path;

/// Writes a file beside its place and moves it there, so that a full disk or a crash never leaves half of one.
///
/// # Errors
/// The folder can't be made or the file can't be written.
pub fn whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let name = path.file_name().ok_or_else(|| std::io::Error::other("the path names no file"))?;
    let mut part = name.to_os_string();
    part.push(format!(".{}.part", std::process::id()));
    let part = folder.join(part);
    let written = std::fs::File::create(&part).and_then(|mut f| {
        f.write_all(bytes)?;
        f.sync_all()
    });
    let moved = written.and_then(|()| std::fs::rename(&part, path));
    if moved.is_err() {
        // What was written so far is of no use; that it can't be removed is no further news.
        let _ = std::fs::remove_file(&part);
    }
    moved
}
