//! A file mapped read-only. The one place of this crate that needs `unsafe`: mapping, and giving pages back.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{EngineError, Result};

/// A file mapped read-only into memory, or one that is part of the program.
///
/// The file must not be shortened or rewritten while it is mapped: the bytes would change under their reader, and a page past the
/// new end faults. Checkpoint files are written once.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    modified: Option<SystemTime>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Mapped(memmap2::Mmap),
    /// Bytes of the program; none for an empty file, which cannot be mapped on every system.
    Static(&'static [u8]),
}

impl MappedFile {
    /// Maps a file. Reads nothing yet.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped, or is not a regular file.
    pub fn open(path: &Path) -> Result<MappedFile> {
        // Asked before opening: to open a pipe is to wait for its writer.
        if !std::fs::metadata(path).map_err(|e| EngineError::io("open", path, e))?.is_file() {
            let kind = std::io::Error::other("not a regular file");
            return Err(EngineError::io("map", path, kind));
        }
        let file = File::open(path).map_err(|e| EngineError::io("open", path, e))?;
        let meta = file.metadata().map_err(|e| EngineError::io("read the size of", path, e))?;
        let content = match meta.len() {
            0 => Content::Static(&[]),
            _ => Content::Mapped(map_read_only(&file).map_err(|e| EngineError::io("map", path, e))?),
        };
        Ok(MappedFile { path: path.to_path_buf(), modified: meta.modified().ok(), content })
    }

    /// A file whose bytes are part of the program; `path` names it in error texts.
    pub fn embedded(path: impl Into<PathBuf>, bytes: &'static [u8]) -> MappedFile {
        MappedFile { path: path.into(), modified: None, content: Content::Static(bytes) }
    }

    /// The file's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it had been written last, as it was mapped; nothing where that is not known.
    pub(crate) fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped(map) => map,
            Content::Static(bytes) => bytes,
        }
    }

    /// Asks the system to read a byte range ahead. A hint: failure is not reported, a range past the end is cut.
    pub fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some((map, range)) = self.clip(range) {
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Gives the resident pages of a byte range back to the system; reading the range again reads the file again.
    ///
    /// Works on whole pages, so the pages at the two ends, shared with neighbours, go as well. A hint: failure is not reported.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some((map, range)) = self.clip(range) {
            release_pages(map, range);
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    #[cfg(unix)]
    fn clip(&self, range: Range<usize>) -> Option<(&memmap2::Mmap, Range<usize>)> {
        let Content::Mapped(map) = &self.content else { return None };
        let end = range.end.min(map.len());
        (range.start < end).then_some((map, range.start..end))
    }
}

#[allow(unsafe_code, reason = "mapping a file is unsafe by nature: another process may write to it")]
fn map_read_only(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is read-only and private. That nobody rewrites the file while it is mapped is the contract that
    // `MappedFile` states; no Rust code here writes to it.
    unsafe { memmap2::Mmap::map(file) }
}

#[cfg(unix)]
#[allow(unsafe_code, reason = "memmap2 has no safe form of MADV_DONTNEED")]
fn release_pages(map: &memmap2::Mmap, range: Range<usize>) {
    // SAFETY: on a read-only mapping of a file no page is dirty, so a dropped page is read again from the file with the same
    // contents; `clip` keeps the range inside the mapping.
    let result = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
    let _ = result;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_read_back_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        let content: Vec<u8> = (0..3 * 4096 + 17).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = MappedFile::open(&path).unwrap();
        assert_eq!(file.bytes(), content);
        file.release(100..9000);
        file.will_need(0..usize::MAX);
        file.release(5..5);
        file.release(content.len()..usize::MAX);
        assert_eq!(file.bytes(), content);
    }

    #[test]
    fn an_empty_file_maps_to_no_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, []).unwrap();
        assert!(MappedFile::open(&path).unwrap().bytes().is_empty());
    }

    #[test]
    fn a_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let message = MappedFile::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("cannot"), "{message}");
    }
}
