//! Libraries where vendors install them, opened when they are first asked for.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::Library;
use qiao_core::Result;

/// A library of a vendor, and where it may lie.
pub(crate) struct Installed {
    /// What it is called in errors.
    pub(crate) what: &'static str,
    /// Its file names, those of development packages first.
    pub(crate) files: &'static [&'static str],
    /// Variables that name the folder of an installation.
    pub(crate) homes: &'static [&'static str],
    /// Folders that are looked into before those of the system's loader.
    pub(crate) folders: &'static [&'static str],
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
        here.filter(|path| path.is_file()).chain(self.files.iter().map(PathBuf::from)).collect()
    }

    /// The first library that opens and has what `load` looks for; it stays open.
    ///
    /// # Errors
    /// What was not found, in words.
    pub(crate) fn open<T>(
        &self,
        load: impl Fn(&Library) -> std::result::Result<T, &'static str>,
    ) -> std::result::Result<T, String> {
        let mut lacking = None;
        for place in self.places() {
            // SAFETY: a library of the vendor's, whose initialisers are made to run wherever it is linked.
            let Ok(library) = (unsafe { Library::new(&place) }) else { continue };
            match load(&library) {
                Ok(table) => {
                    std::mem::forget(library);
                    return Ok(table);
                }
                Err(symbol) => lacking = lacking.or(Some((place, symbol))),
            }
        }
        Err(match lacking {
            Some((place, symbol)) => format!("{} has no {symbol}: {}", place.display(), self.mend),
            None => format!("{} was not found ({}): {}", self.what, self.files.join(", "), self.mend),
        })
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
