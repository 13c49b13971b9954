//! Libraries where vendors install them, opened when they are first asked for.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::Library;
use qiao_core::Result;

/// A library of a vendor, and where it may lie.
pub(crate) struct Installed {
    /// What it is called in errors.
    pub(crate) what: &'static str,
    /// Its file names, in the order in which they are tried.
    pub(crate) files: &'static [&'static str],
    /// Variables that name the folder of an installation.
    pub(crate) homes: &'static [&'static str],
    /// Folders where installations lie.
    pub(crate) folders: &'static [&'static str],
    /// Whether the system's loader is asked before homes and folders are looked into.
    pub(crate) loader_first: bool,
    /// How the names of libraries begin that lie in its folder and that it finds only where they are open; nothing where it
    /// has none.
    pub(crate) beside: &'static str,
    /// What mends that it is not there, or too old.
    pub(crate) mend: &'static str,
}

impl Installed {
    /// Every path that is tried, in order.
    fn places(&self) -> Vec<PathBuf> {
        let homes = self.homes.iter().filter_map(std::env::var_os).filter(|home| !home.is_empty());
        let of_home = |home: std::ffi::OsString| ["lib", "lib64"].map(|folder| Path::new(&home).join(folder));
        let folders = homes.flat_map(of_home).chain(self.folders.iter().map(PathBuf::from));
        let here = folders.flat_map(|folder| self.files.iter().map(move |file| folder.join(file)));
        let (here, named) = (here.filter(|path| path.is_file()), self.files.iter().map(PathBuf::from));
        if self.loader_first { named.chain(here).collect() } else { here.chain(named).collect() }
    }

    /// The first library that opens, has what `load` looks for and fits; where none fits, the first that has it. It stays open.
    ///
    /// # Errors
    /// What was not found, in words.
    pub(crate) fn open<T>(
        &self,
        load: impl Fn(&Library) -> std::result::Result<T, &'static str>,
        fits: impl Fn(&T) -> bool,
    ) -> std::result::Result<T, String> {
        let (mut lacking, mut other) = (None, None);
        for place in self.places() {
            let Some(opened) = Opened::new(&place, self.beside) else { continue };
            match load(&opened.library) {
                Ok(table) if fits(&table) => return Ok(opened.keep(table)),
                Ok(table) => other = other.or(Some((opened, table))),
                Err(symbol) => lacking = lacking.or(Some((place, symbol))),
            }
        }
        if let Some((opened, table)) = other {
            return Ok(opened.keep(table));
        }
        Err(match lacking {
            Some((place, symbol)) => format!("{} has no {symbol}: {}", place.display(), self.mend),
            None => format!("{} was not found ({}): {}", self.what, self.files.join(", "), self.mend),
        })
    }
}

/// A library, and those of its folder that it needs.
pub(crate) struct Opened {
    pub(crate) library: Library,
    beside: Vec<Library>,
}

impl Opened {
    /// Opens a library, after those of its folder whose names begin with `beside`, unless that is empty.
    pub(crate) fn new(place: &Path, beside: &str) -> Option<Opened> {
        let folder = place.parent().filter(|folder| !beside.is_empty() && !folder.as_os_str().is_empty());
        let entries = folder.and_then(|folder| folder.read_dir().ok()).into_iter().flatten().flatten();
        let needed = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(beside));
        // SAFETY: libraries of the vendor's, whose initialisers are made to run wherever they are linked.
        let open = |path: &Path| unsafe { Library::new(path) }.ok();
        let beside = needed.filter_map(|entry| open(&entry.path())).collect();
        Some(Opened { library: open(place)?, beside })
    }

    /// Leaves it open, for what was looked up in it.
    pub(crate) fn keep<T>(self, found: T) -> T {
        std::mem::forget((self.library, self.beside));
        found
    }
}

/// What was found for each vendor, by the name of its backend.
pub(crate) struct Kept<T: 'static>(Mutex<Vec<(&'static str, &'static T)>>);

impl<T> Kept<T> {
    pub(crate) const fn new() -> Self {
        Kept(Mutex::new(Vec::new()))
    }

    /// What was found before, or what is found now.
    ///
    /// # Errors
    /// Those of `find`, of which nothing is kept.
    pub(crate) fn get(&self, name: &'static str, find: impl FnOnce() -> Result<T>) -> Result<&'static T> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = kept.iter().find(|(known, _)| *known == name) {
            return Ok(found);
        }
        let found: &'static T = Box::leak(Box::new(find()?));
        kept.push((name, found));
        Ok(found)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use super::*;

    type Number = unsafe extern "C" fn() -> i32;

    /// A library whose `number` answers an expression of C.
    fn build(path: &Path, number: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = path.with_extension("cpp");
        let code = format!("#include <dlfcn.h>\nextern \"C\" int number() {{ return {number}; }}\n");
        std::fs::write(&text, code).unwrap();
        let name = format!("-Wl,-soname,{}", path.file_name().unwrap().to_string_lossy());
        let compiler = std::env::var("CXX").ok().filter(|c| !c.is_empty()).unwrap_or_else(|| "g++".into());
        let status = Command::new(compiler).args(["-shared", "-fPIC", &name, "-o"]).arg(path).arg(&text).status();
        assert!(status.unwrap().success());
    }

    fn number(library: &Library) -> std::result::Result<i32, &'static str> {
        // SAFETY: the type is that of the text above.
        unsafe { library.get::<Number>(b"number").map(|f| f()) }.map_err(|_| "number")
    }

    fn leaked(path: &Path) -> &'static [&'static str] {
        let path: &'static str = path.to_string_lossy().into_owned().leak();
        vec![path].leak()
    }

    #[test]
    fn the_first_that_fits_is_taken_and_else_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let installed = Installed {
            what: "libqiao-first",
            files: &["libqiao-first.so.13", "libqiao-first.so.12", "libqiao-first.so"],
            homes: &[],
            folders: leaked(folder.path()),
            loader_first: true,
            beside: "",
            mend: "build it",
        };
        let absent = installed.open(number, |_| true).unwrap_err();
        assert!(absent.contains("libqiao-first was not found (libqiao-first.so.13, "), "{absent}");
        for (file, answer) in [("libqiao-first.so.13", "13"), ("libqiao-first.so.12", "12"), ("libqiao-first.so", "11")]
        {
            build(&folder.path().join(file), answer);
        }
        assert_eq!(installed.open(number, |_| true), Ok(13));
        assert_eq!(installed.open(number, |&major| major <= 12), Ok(12));
        assert_eq!(installed.open(number, |&major| major <= 10), Ok(13));
        let lacks = installed.open(|_| Err::<(), _>("number"), |_| true).unwrap_err();
        assert!(lacks.contains("libqiao-first.so.13 has no number: build it"), "{lacks}");
    }

    #[test]
    fn what_lies_beside_is_open_before() {
        let folder = tempfile::tempdir().unwrap();
        build(&folder.path().join("libqiao-part.so.1.2"), "0");
        build(&folder.path().join("libqiao-whole.so"), "dlopen(\"libqiao-part.so.1.2\", RTLD_LAZY | RTLD_NOLOAD) != 0");
        let path = folder.path().join("libqiao-whole.so");
        assert_eq!(number(&Opened::new(&path, "").unwrap().library), Ok(0));
        assert_eq!(number(&Opened::new(&path, "libqiao-part.so").unwrap().library), Ok(1));
    }
}
