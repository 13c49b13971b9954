//! Manifests: small files that say where a plugin is, so that nothing of it runs before it is needed.
//!
//! `NAME.json` is `{"qiao_plugin": {"name": "acme", "library": "libacme.so", "abi_major": 0, "arch": "x86_64",
//! "options": {"key": "value"}}}`; `library` is relative to the manifest, and `options` may be left out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use qiao_core::{Error, Result};
use serde::Deserialize;

use super::options::Options;
use super::query::is_name;
use crate::abi;

/// No manifest is larger.
const MOST: u64 = 64 << 10;

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The name of the backend.
    pub name: String,
    /// The plugin's file.
    pub library: PathBuf,
    /// The major of the ABI that it speaks.
    pub abi_major: u32,
    /// The architecture that it is built for, as Rust names it.
    pub arch: String,
    /// Options for the plugin. What the user says goes before them.
    pub options: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Whole {
    qiao_plugin: Parts,
}

#[derive(Deserialize)]
struct Parts {
    name: String,
    library: PathBuf,
    abi_major: u32,
    arch: String,
    #[serde(default)]
    options: BTreeMap<String, Value>,
}

/// What an option may be written as.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Bool(bool),
    Number(serde_json::Number),
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// A file that can't be read, or is no manifest.
    pub fn read(path: &Path) -> Result<Manifest> {
        let wrong = |found: String| {
            let mend = "write {\"qiao_plugin\": {\"name\", \"library\", \"abi_major\", \"arch\", \"options\"}}";
            Error::invalid(format!("plugin manifest {}", path.display()), found, mend)
        };
        let mut text = Vec::new();
        let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
        file.take(MOST + 1).read_to_end(&mut text).map_err(|e| wrong(e.to_string()))?;
        if text.len() as u64 > MOST {
            return Err(wrong(format!("it has more than {MOST} bytes")));
        }
        let Whole { qiao_plugin: parts } = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        if !is_name(&parts.name) {
            return Err(wrong(format!("the name {:?} is not 1 to 31 of a-z, 0-9, '-' and '_'", parts.name)));
        }
        if parts.library.as_os_str().is_empty() {
            return Err(wrong("its library is empty".into()));
        }
        let mut options = Options::default();
        for (key, value) in &parts.options {
            let value = match value {
                Value::Text(text) => text.clone(),
                Value::Bool(b) => b.to_string(),
                Value::Number(n) => n.to_string(),
            };
            options.set(key, &value).map_err(|e| wrong(e.to_string()))?;
        }
        Ok(Manifest {
            name: parts.name,
            library: path.parent().unwrap_or(Path::new("")).join(parts.library),
            abi_major: parts.abi_major,
            arch: parts.arch,
            options: options.pairs().map(|(k, v)| (k.into(), v.into())).collect(),
        })
    }

    /// Why this host passes it by, if it does.
    pub fn foreign(&self) -> Option<String> {
        let here = std::env::consts::ARCH;
        if self.arch != here {
            return Some(format!("{} is for {}, and this process is {here}", self.name, self.arch));
        }
        let major = abi::MAJOR;
        (self.abi_major != major)
            .then(|| format!("{} speaks ABI major {}, and this host {major}", self.name, self.abi_major))
    }

    /// The manifest's options, those of the user before them.
    ///
    /// # Errors
    /// An option that can't be one.
    pub(super) fn options(&self, user: &Options) -> Result<Options> {
        let mut options = user.clone();
        for (key, value) in self.options.iter().filter(|(key, _)| user.get(key).is_none()) {
            options.set(key, value)?;
        }
        Ok(options)
    }
}
