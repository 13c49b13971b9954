//! Replay files: one failing case, to be run alone.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::save;
use crate::verdict::Record;

/// The schema of the files.
const SCHEMA: &str = "qiao.replay/1";

/// One failing case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// `qiao.replay/1`.
    pub schema: String,
    /// The version of Qiao that wrote it.
    pub qiao: String,
    /// The device on which it failed.
    pub device: String,
    /// The case: the smallest that was found to fail.
    pub id: String,
    /// The run's seed: data follow from it and the case's path.
    pub seed: u64,
    /// The case from which it was made smaller.
    pub found_as: String,
    /// What it came to.
    pub record: Record,
}

/// Why a replay file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It can't be read.
    #[error("{path} can't be read: {why}; give a file that 'qiao check' wrote")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Its schema is another.
    #[error(
        "{path} has schema '{found}', this version reads '{SCHEMA}'; use the version of Qiao that wrote it, {qiao}"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// The schema found.
        found: String,
        /// The version that wrote it.
        qiao: String,
    },
}

impl Replay {
    /// The replay of a record.
    pub fn of(device: &str, seed: u64, found_as: &str, record: &Record) -> Replay {
        Replay {
            schema: SCHEMA.into(),
            qiao: env!("CARGO_PKG_VERSION").into(),
            device: device.into(),
            id: record.id.clone(),
            seed,
            found_as: found_as.into(),
            record: record.clone(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It is none, or of another schema.
    pub fn read(path: &Path) -> Result<Replay, ReplayError> {
        let unreadable = |why: String| ReplayError::Unreadable { path: path.into(), why };
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
        let word = |name: &str| value[name].as_str().unwrap_or_default().to_string();
        if word("schema") != SCHEMA {
            return Err(ReplayError::Schema { path: path.into(), found: word("schema"), qiao: word("qiao") });
        }
        serde_json::from_value(value).map_err(|e| unreadable(e.to_string()))
    }

    /// Writes it into a folder under the name of its case; the file's path.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn write(&self, folder: &Path) -> std::io::Result<PathBuf> {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._=-,".contains(c) { c } else { '_' };
        let name: String = self.id.chars().map(safe).take(160).collect();
        let path = folder.join(format!("{name}.replay.json"));
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        save::whole(&path, text.as_bytes())?;
        Ok(path)
    }
}
