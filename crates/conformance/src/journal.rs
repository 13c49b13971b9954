//! Records kept as they come, one JSON object a line, so that a run that was cut off goes on where it stopped.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use qiao_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::platform::DeviceFacts;
use crate::select::Selection;
use crate::verdict::Record;

/// What must be equal for a journal to be of the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    journal: u32,
    qiao: String,
    device: DeviceFacts,
    profile: String,
    #[serde(default)]
    required: Vec<String>,
    filter: Vec<String>,
    seed: u64,
    expectations: String,
}

/// The journal of a run, or none.
pub(crate) struct Journal {
    open: Option<(PathBuf, File)>,
    done: HashMap<String, Record>,
}

fn unwritable(path: &std::path::Path) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::invalid(format!("journal {}", path.display()), e.to_string(), "free some room or give another path")
}

impl Journal {
    /// Opens the journal that a selection asks for. One of another run is begun anew; a last line cut short is dropped.
    pub(crate) fn open(selection: &Selection, device: &DeviceFacts) -> Result<Journal> {
        let Some(path) = &selection.journal else { return Ok(Journal { open: None, done: HashMap::new() }) };
        let head = Head {
            journal: 1,
            qiao: env!("CARGO_PKG_VERSION").into(),
            device: device.clone(),
            profile: selection.profile.to_string(),
            required: selection.required.iter().map(|k| k.name().into()).collect(),
            filter: selection.filter.iter().map(|g| g.text().to_string()).collect(),
            seed: selection.seed,
            expectations: format!("{:?}", selection.expectations),
        };
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let same = lines.next().and_then(|l| serde_json::from_str::<Head>(l).ok()).is_some_and(|h| h == head);
        let records: Vec<Record> = match same {
            true => lines.map_while(|l| serde_json::from_str(l).ok()).collect(),
            false => Vec::new(),
        };
        let unwritable = unwritable(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(&unwritable)?;
        }
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path).map_err(&unwritable)?;
        let mut journal = Journal { open: Some((path.clone(), file)), done: HashMap::new() };
        journal.line(&head)?;
        for record in records {
            journal.line(&record)?;
            journal.done.insert(record.id.clone(), record);
        }
        Ok(journal)
    }

    /// The record of a case that an earlier part of the run has done.
    pub(crate) fn done(&mut self, id: &str) -> Option<Record> {
        self.done.remove(id)
    }

    /// Keeps a record.
    pub(crate) fn keep(&mut self, record: &Record) -> Result<()> {
        self.line(record)
    }

    fn line(&mut self, of: &impl Serialize) -> Result<()> {
        let Some((path, file)) = &mut self.open else { return Ok(()) };
        let mut text = serde_json::to_string(of).map_err(|e| Error::internal("journal", e.to_string()))?;
        text.push('\n');
        file.write_all(text.as_bytes()).map_err(unwritable(path))
    }

    /// Ends it: a run that is over has nothing to go on with.
    pub(crate) fn close(self) -> Result<()> {
        let Some((path, file)) = self.open else { return Ok(()) };
        drop(file);
        std::fs::remove_file(&path).map_err(unwritable(&path))
    }
}
