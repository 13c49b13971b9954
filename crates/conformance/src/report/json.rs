//! A report as versioned JSON, and back. `docs/report-schema.json` describes the file.

use std::path::Path;

use serde_json::{Value, json};

use crate::run::{self, Run};

use super::facts::{Report, SCHEMA};
use super::levels::Verdict;

/// The report as JSON. The verdict stands in it for readers that do not know its rules; whoever reads a report with [`read`]
/// works it out again.
///
/// # Panics
/// Never: every part of a report is plain data.
pub fn write(report: &Report) -> String {
    let mut value = serde_json::to_value(report).expect("a report is plain data");
    let verdict = Verdict::of(report);
    let levels = verdict.levels.iter().map(|level| {
        let dtypes =
            level.dtypes.iter().map(|d| json!({ "dtype": d.dtype, "standing": d.standing, "missing": d.missing }));
        json!({
            "level": level.level,
            "standing": level.standing,
            "asks": level.asks,
            "walked": level.walked,
            "dtypes": dtypes.collect::<Vec<_>>(),
        })
    });
    value["verdict"] = json!({
        "reached": verdict.reached().map(|l| l.level),
        "reached_in": verdict.reached().map(|l| l.reached_in()).unwrap_or_default(),
        "levels": levels.collect::<Vec<_>>(),
    });
    let mut text = String::new();
    lines(&value, 0, &mut text);
    text.push('\n');
    text
}

/// Levels of a report that stand on lines of their own: its parts, their fields, the items of their lists.
const LINES: usize = 3;

/// Writes a value so that every record stands on one line: readable, comparable line by line, and without the bulk of blanks.
fn lines(value: &Value, depth: usize, out: &mut String) {
    let indent = |out: &mut String, depth: usize| {
        out.push('\n');
        (0..depth).for_each(|_| out.push(' '));
    };
    match value {
        Value::Object(map) if depth < LINES && !map.is_empty() => {
            out.push('{');
            for (i, (key, inner)) in map.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                indent(out, depth + 1);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                lines(inner, depth + 1, out);
            }
            indent(out, depth);
            out.push('}');
        }
        Value::Array(list) if depth < LINES && list.iter().any(|v| v.is_object() || v.is_array()) => {
            out.push('[');
            for (i, inner) in list.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                indent(out, depth + 1);
                lines(inner, LINES, out);
            }
            indent(out, depth);
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// Why a file is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It can't be read.
    #[error("{path} can't be read: {why}; give a file that 'qiao adapt' or 'qiao check --json' wrote")]
    Unreadable {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// It ends too early.
    #[error("{path} is cut off after {bytes} bytes: {why}; write it again, its run can't be judged by a part of it")]
    Truncated {
        /// The file.
        path: String,
        /// Its size.
        bytes: usize,
        /// What is wrong.
        why: String,
    },
    /// It is something else.
    #[error(
        "{path} has schema {found}, a report has '{SCHEMA}' or '{}'; give a file that 'qiao adapt' or 'qiao check --json' wrote",
        run::SCHEMA
    )]
    Foreign {
        /// The file.
        path: String,
        /// Its schema, in quotes, or `none`.
        found: String,
    },
    /// Its schema is right and its content is not.
    #[error(
        "{path} says that it is '{schema}' and is not: {why}; it was changed, or another version of Qiao wrote it ({qiao})"
    )]
    Malformed {
        /// The file.
        path: String,
        /// The schema that it claims.
        schema: String,
        /// What is wrong.
        why: String,
        /// The version that wrote it.
        qiao: String,
    },
    /// Its verdict does not follow from its facts.
    #[error(
        "{path} says that '{said}' is reached, and its records show '{found}'; it was changed after it was written: trust the \
         run, not the file"
    )]
    Altered {
        /// The file.
        path: String,
        /// The level in the file.
        said: String,
        /// The level by its facts.
        found: String,
    },
}

/// Reads a report, or a conformance run alone.
///
/// # Errors
/// The file can't be read, is cut off, is no report, or contradicts itself.
pub fn read(path: &Path) -> Result<Report, ReadError> {
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|e| ReadError::Unreadable { path: name.clone(), why: e.to_string() })?;
    parse(&name, &text)
}

/// The report in a text; `name` stands in errors.
///
/// # Errors
/// As [`read`].
pub fn parse(name: &str, text: &str) -> Result<Report, ReadError> {
    let path = name.to_string();
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(e) if e.is_eof() => return Err(ReadError::Truncated { path, bytes: text.len(), why: e.to_string() }),
        Err(e) => return Err(ReadError::Unreadable { path, why: e.to_string() }),
    };
    let schema = value["schema"].as_str().unwrap_or_default().to_string();
    let qiao = value["platform"]["qiao"].as_str().unwrap_or("unknown").to_string();
    let malformed = |e: serde_json::Error| ReadError::Malformed {
        path: path.clone(),
        schema: schema.clone(),
        why: e.to_string(),
        qiao: qiao.clone(),
    };
    match schema.as_str() {
        SCHEMA => {
            let said = value["verdict"]["reached"].clone();
            let report: Report = serde_json::from_value(value).map_err(malformed)?;
            let found = serde_json::to_value(Verdict::of(&report).reached().map(|l| l.level)).unwrap_or_default();
            let word = |v: &Value| v.as_str().unwrap_or("nothing").to_string();
            match said != found && qiao == env!("CARGO_PKG_VERSION") {
                true => Err(ReadError::Altered { path, said: word(&said), found: word(&found) }),
                false => Ok(report),
            }
        }
        run::SCHEMA => serde_json::from_value::<Run>(value).map(Report::of_run).map_err(malformed),
        other => {
            let found = if other.is_empty() { "none".into() } else { format!("'{}'", super::show::clipped(other, 80)) };
            Err(ReadError::Foreign { path, found })
        }
    }
}
