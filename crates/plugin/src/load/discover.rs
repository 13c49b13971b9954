//! Plugins that are installed on this machine.
//!
//! Looked for in this order: `QIAO_PLUGIN`, a list of `.so` files and folders with colons in between; then the manifests in
//! `$XDG_DATA_HOME/qiao/plugins.d` (`~/.local/share/qiao/plugins.d`), `/usr/local/lib/qiao/plugins.d` and
//! `/etc/qiao/plugins.d`. A process with elevated rights, such as one that is set-user-id, looks into the last two alone.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qiao_core::{Backend, Error, Result};

use super::backend::Plugin;
use super::lazy::LazyBackend;
use super::manifest::Manifest;
use super::options::Options;

/// The variable that lists plugins.
pub const VARIABLE: &str = "QIAO_PLUGIN";

/// Where plugins are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Plugins, and folders of plugins and manifests, that somebody named.
    pub named: Vec<PathBuf>,
    /// Folders of manifests.
    pub manifests: Vec<PathBuf>,
    /// What is not looked into, and why.
    pub ignored: Vec<String>,
}

impl Places {
    /// The places of this process.
    pub fn of_process() -> Places {
        // SAFETY: a look-up in what the system told the process at its start.
        let elevated = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
        Places::of(|name| std::env::var_os(name), elevated)
    }

    /// The places that variables name.
    pub fn of(variable: impl Fn(&str) -> Option<OsString>, elevated: bool) -> Places {
        let mut places = Places::default();
        let named = variable(VARIABLE).filter(|v| !v.is_empty());
        if elevated {
            places.ignored.extend(named.map(|_| format!("{VARIABLE} is ignored: this process has elevated rights")));
        } else {
            let list = named.iter().flat_map(std::env::split_paths);
            places.named.extend(list.filter(|p| !p.as_os_str().is_empty()));
            let data = variable("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
            let home = || variable("HOME").map(|home| Path::new(&home).join(".local/share"));
            places.manifests.extend(data.or_else(home).map(|data| data.join("qiao/plugins.d")));
        }
        places.manifests.extend(["/usr/local/lib/qiao/plugins.d", "/etc/qiao/plugins.d"].map(PathBuf::from));
        places
    }
}

/// Something that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The file or folder.
    pub place: PathBuf,
    /// What it is.
    pub what: Finding,
}

/// What a file turned out to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Finding {
    /// A manifest of a plugin for this host.
    Manifest(Manifest),
    /// A library that somebody named.
    Library,
    /// Passed by, and why.
    Skipped(String),
    /// Broken, and how to mend it.
    Broken(Error),
}

impl Found {
    /// The backend: that of a manifest is loaded when it is first asked for something, that of a library now.
    ///
    /// # Errors
    /// What is broken or was passed by; as [`Plugin::load`].
    pub fn backend(&self, options: &Options) -> Result<Arc<dyn Backend>> {
        match &self.what {
            Finding::Manifest(manifest) => Ok(Arc::new(LazyBackend::new(manifest.clone(), options)?)),
            Finding::Library => Ok(Plugin::load(&self.place, options)?),
            Finding::Skipped(why) => Err(Error::not_present(format!("plugin {}", self.place.display()), why)),
            Finding::Broken(error) => Err(error.clone()),
        }
    }
}

/// What is installed where this process looks.
pub fn discover() -> Vec<Found> {
    discover_in(&Places::of_process())
}

/// What is installed at some places. Of several plugins of one name, or in one file, the first counts.
pub fn discover_in(places: &Places) -> Vec<Found> {
    let mut search = Search::default();
    for why in &places.ignored {
        search.add(Path::new(VARIABLE), Finding::Skipped(why.clone()));
    }
    for path in &places.named {
        search.named(path);
    }
    for folder in &places.manifests {
        search.manifests(folder);
    }
    search.found
}

#[derive(Default)]
struct Search {
    found: Vec<Found>,
}

impl Search {
    fn add(&mut self, place: &Path, what: Finding) {
        self.found.push(Found { place: place.into(), what });
    }

    fn named(&mut self, path: &Path) {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {
                self.manifests(path);
                for library in self.files(path, "so") {
                    self.library(&library);
                }
            }
            Ok(_) => self.library(path),
            Err(e) => {
                let mend = format!("name files and folders that are there in {VARIABLE}");
                let error = Error::invalid(format!("plugin {}", path.display()), e.to_string(), mend);
                self.add(path, Finding::Broken(error));
            }
        }
    }

    /// Files of a folder that end so, in order of their names.
    fn files(&mut self, folder: &Path, end: &str) -> Vec<PathBuf> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => {
                let what = format!("folder of plugins {}", folder.display());
                let error = Error::invalid(what, e.to_string(), "make it readable, or a folder");
                self.add(folder, Finding::Broken(error));
                return Vec::new();
            }
        };
        let mut files: Vec<_> =
            entries.flatten().map(|e| e.path()).filter(|p| p.extension() == Some(OsStr::new(end))).collect();
        files.sort();
        files
    }

    fn library(&mut self, path: &Path) {
        let finding = match self.twin(path) {
            Some(place) => Finding::Skipped(format!("{} names it already", place.display())),
            None => Finding::Library,
        };
        self.add(path, finding);
    }

    fn manifests(&mut self, folder: &Path) {
        for path in self.files(folder, "json") {
            let finding = match Manifest::read(&path) {
                Err(error) => Finding::Broken(error),
                Ok(manifest) => self.manifest(manifest),
            };
            self.add(&path, finding);
        }
    }

    fn manifest(&self, manifest: Manifest) -> Finding {
        if let Some(why) = manifest.foreign() {
            return Finding::Skipped(why);
        }
        let namesake = self.found.iter().find(|f| matches!(&f.what, Finding::Manifest(m) if m.name == manifest.name));
        if let Some(first) = namesake {
            return Finding::Skipped(format!("{} was found in {} already", manifest.name, first.place.display()));
        }
        match self.twin(&manifest.library) {
            Some(place) => Finding::Skipped(format!("its library was found as {} already", place.display())),
            None => Finding::Manifest(manifest),
        }
    }

    /// What was found of the same library before.
    fn twin(&self, library: &Path) -> Option<&Path> {
        let same = |other: &Path| match (library.canonicalize(), other.canonicalize()) {
            (Ok(a), Ok(b)) => a == b,
            _ => library == other,
        };
        let twin = self.found.iter().find(|f| match &f.what {
            Finding::Manifest(manifest) => same(&manifest.library),
            Finding::Library => same(&f.place),
            _ => false,
        });
        twin.map(|f| f.place.as_path())
    }
}
