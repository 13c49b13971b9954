//! A source file fits a sitting: about 500 lines, 800 at most.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// More lines than this are a fault.
pub(crate) const MOST: usize = 800;
/// More lines than this are worth a look.
pub(crate) const LONG: usize = 500;

const SOURCES: &[&str] = &["rs", "py", "sh", "c", "h", "cu", "cuh", "cl"];

/// A source file with more than [`LONG`] lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Length {
    pub(crate) file: PathBuf,
    pub(crate) lines: usize,
}

/// The long source files under `root`, the longest first. Build outputs and hidden folders are left out.
pub(crate) fn long(root: &Path) -> io::Result<Vec<Length>> {
    let mut found = Vec::new();
    walk(root, &mut |file| {
        let lines = fs::read_to_string(file)?.lines().count();
        if lines > LONG {
            found.push(Length { file: file.strip_prefix(root).unwrap_or(file).into(), lines });
        }
        Ok(())
    })?;
    found.sort_by_key(|l| std::cmp::Reverse(l.lines));
    Ok(found)
}

/// Calls `each` for every source file under `folder`.
pub(crate) fn walk(folder: &Path, each: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or(".");
        let generated = name.starts_with('.') || matches!(name, "target" | "__pycache__" | "node_modules");
        if path.is_dir() && !path.is_symlink() {
            if !generated {
                walk(&path, each)?;
            }
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| SOURCES.contains(&e)) {
            each(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn no_source_file_is_longer_than_a_sitting() {
        let long = long(&workspace::root()).unwrap();
        let faults: Vec<_> = long.iter().filter(|l| l.lines > MOST).collect();
        assert!(faults.is_empty(), "{faults:?}");
    }

    #[test]
    fn long_files_are_found_wherever_they_stand() {
        let root = std::env::temp_dir().join(format!("qiao-lengths-{}", std::process::id()));
        for folder in ["src/deep", "target", ".hidden"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let text = |lines: usize| "x\n".repeat(lines);
        for (file, lines) in
            [("src/deep/a.rs", 801), ("src/b.py", 501), ("src/c.rs", 500), ("src/d.txt", 999), ("target/e.rs", 999)]
        {
            fs::write(root.join(file), text(lines)).unwrap();
        }
        let found = long(&root);
        fs::remove_dir_all(&root).unwrap();
        let want = [("src/deep/a.rs", 801), ("src/b.py", 501)].map(|(f, lines)| Length { file: f.into(), lines });
        assert_eq!(found.unwrap(), want);
    }
}
