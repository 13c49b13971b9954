//! Records kept as they come, one JSON object a line, so that a run that was cut off goes on where it stopped.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use qiao_core::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use crate::platform::{self, DeviceFacts};
use crate::select::Selection;
use crate::verdict::Record;

/// What must be equal for a journal to be of the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Head {
    journal: u32,
    qiao: String,
    device: DeviceFacts,
    setup: Vec<String>,
    environment: Vec<(String, String)>,
    profile: String,
    required: Vec<String>,
    filter: Vec<String>,
    seed: u64,
    expectations: String,
}

/// What the first line of every journal begins with.
const BEGIN: &str = "{\"journal\":";

/// The journal of a run, or none.
pub(crate) struct Journal {
    open: Option<(PathBuf, File)>,
    done: HashMap<String, Record>,
}

fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::invalid(format!("journal {}", path.display()), e.to_string(), "free some room or give another path")
}

/// What stands in a file that is a journal or is to become one.
fn text_of(path: &Path) -> Result<String> {
    let refused = |found: &str| Err(Error::invalid(format!("journal {}", path.display()), found, "give another path"));
    match std::fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Ok(found) if !found.is_file() => return refused("it is no file"),
        _ => {}
    }
    let bytes = std::fs::read(path).map_err(unwritable(path))?;
    if !bytes.is_empty() && !bytes.starts_with(BEGIN.as_bytes()) {
        return refused("it is no journal of qiao");
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What parts two heads that are written as JSON objects.
pub fn differing(one: &Value, other: &Value) -> Vec<String> {
    let keys = [one, other].into_iter().filter_map(Value::as_object).flat_map(|head| head.keys());
    let keys: BTreeSet<&String> = keys.filter(|key| one.get(key) != other.get(key)).collect();
    keys.into_iter().cloned().collect()
}

impl Journal {
    /// Opens the journal that a selection asks for. One of another run is begun anew; a last line cut short is dropped.
    ///
    /// # Errors
    /// The file holds something else, or it can't be written.
    pub(crate) fn open(selection: &Selection, device: &DeviceFacts) -> Result<Journal> {
        let Some(path) = &selection.journal else { return Ok(Journal { open: None, done: HashMap::new() }) };
        let head = Head {
            journal: 1,
            qiao: env!("CARGO_PKG_VERSION").into(),
            device: device.clone(),
            setup: selection.setup.clone(),
            environment: platform::environment(),
            profile: selection.profile.to_string(),
            required: selection.required.iter().map(|k| k.name().into()).collect(),
            filter: selection.filter.iter().map(|g| g.text().to_string()).collect(),
            seed: selection.seed,
            expectations: format!("{:?}", selection.expectations),
        };
        let text = text_of(path)?;
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        // As text, since a number that is read back may part from the one that was written.
        let same = first == json(&head)?;
        let mut records: Vec<Record> = Vec::new();
        let place = path.display();
        if same {
            records.extend(lines.map_while(|l| serde_json::from_str(l).ok()));
            (selection.tell)(&format!("going on with the journal {place}: {} records kept", records.len()));
        } else if !first.is_empty() {
            let other = differing(&value(first), &value(&json(&head)?)).join(", ");
            (selection.tell)(&format!("the journal {place} is begun anew: it is of a run with another {other}"));
        }
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
        let text = json(of)? + "\n";
        file.write_all(text.as_bytes()).map_err(unwritable(path))
    }

    /// Ends it: a run that is over has nothing to go on with.
    pub(crate) fn close(self) -> Result<()> {
        let Some((path, file)) = self.open else { return Ok(()) };
        drop(file);
        std::fs::remove_file(&path).map_err(unwritable(&path))
    }
}

fn json(of: &impl Serialize) -> Result<String> {
    serde_json::to_string(of).map_err(|e| Error::internal("journal", e.to_string()))
}

fn value(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_default()
}
