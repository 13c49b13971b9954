//! Expected failures: a backend's own exceptions, each with a reason.
//!
//! One row a line, `glob = reason`; `#` begins a comment. A row is temporary: a case that it names and that passes fails
//! the run, and so does a row that names no case at all.

use qiao_core::{Error, Result};

use crate::glob::Glob;
use crate::verdict::{Check, Failure, Record, Status};

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Which cases.
    pub cases: Glob,
    /// Why they fail for now.
    pub reason: String,
    /// The line in its file, from 1.
    pub line: usize,
}

/// The rows of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectations {
    rows: Vec<Expectation>,
}

impl Expectations {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// A row without a pattern or without a reason, with its line.
    pub fn parse(text: &str) -> Result<Expectations> {
        let mut rows = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let row = line.split('#').next().unwrap_or_default().trim();
            if row.is_empty() {
                continue;
            }
            // A path holds '=' without blanks around it; the one that parts row and reason has them.
            let (cases, reason) = row.split_once(" = ").map(|(c, r)| (c.trim(), r.trim())).unwrap_or((row, ""));
            if cases.is_empty() || reason.is_empty() {
                let what = format!("expectations, line {}", index + 1);
                return Err(Error::invalid(what, format!("'{row}'"), "write it as 'glob = reason', blanks around '='"));
            }
            rows.push(Expectation { cases: Glob::new(cases), reason: reason.into(), line: index + 1 });
        }
        Ok(Expectations { rows })
    }

    /// The first row that names a case.
    pub fn of(&self, id: &str) -> Option<&Expectation> {
        self.rows.iter().find(|r| r.cases.matches(id))
    }

    /// Turns a failure that was expected into one, and a pass that was not expected into a failure.
    pub fn judge(&self, mut record: Record) -> Record {
        let Some(row) = self.of(&record.id) else { return record };
        match record.status {
            Status::Failed => {
                record.status = Status::ExpectedFailure;
                record.reason = Some(row.reason.clone());
            }
            Status::Passed | Status::Unsupported => {
                let why = format!(
                    "line {} of the expectations says that it fails ('{}'), yet it {}; take the row away",
                    row.line,
                    row.reason,
                    if record.status == Status::Passed { "passes" } else { "is unsupported" }
                );
                record.status = Status::Failed;
                record.failure = Some(Failure::new(Check::UnexpectedPass, why));
            }
            Status::ExpectedFailure | Status::NotPresent => {}
        }
        record
    }

    /// Rows that name none of all cases there are: each is a failure of the run.
    pub fn stale<'a>(&self, all: impl Iterator<Item = &'a str> + Clone) -> Vec<&Expectation> {
        self.rows.iter().filter(|row| !all.clone().any(|id| row.cases.matches(id))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Outcome;

    fn failed(id: &str) -> Record {
        Record::of(id, Outcome::Failed(Failure::new(Check::Limit, "it is off")))
    }

    #[test]
    fn an_expected_failure_keeps_its_reason() {
        let rows = Expectations::parse("# driver 1\nop/exp/f16/* = rounds twice # ticket 5\n").unwrap();
        let record = rows.judge(failed("op/exp/f16/rows=1"));
        assert_eq!((record.status, record.reason.as_deref()), (Status::ExpectedFailure, Some("rounds twice")));
        assert_eq!(rows.judge(failed("op/exp/f32/rows=1")).status, Status::Failed);
    }

    #[test]
    fn an_unexpected_pass_fails() {
        let rows = Expectations::parse("op/exp/f16/rows=1,fill=zero = rounds twice").unwrap();
        let record = rows.judge(Record::of("op/exp/f16/rows=1,fill=zero", Outcome::Passed));
        assert_eq!(record.status, Status::Failed);
        assert_eq!(record.failure.unwrap().check, Check::UnexpectedPass);
        let record = rows.judge(Record::of("op/exp/f16/rows=1,fill=zero", Outcome::Unsupported("no".into())));
        assert_eq!(record.status, Status::Failed);
    }

    #[test]
    fn a_row_that_names_nothing_is_stale() {
        let rows = Expectations::parse("op/exp/* = a\nop/exq/* = b").unwrap();
        let all = ["op/exp/f32/rows=1", "op/add/f32/rows=1"];
        let stale = rows.stale(all.iter().copied());
        assert_eq!(stale.len(), 1);
        assert_eq!((stale[0].line, stale[0].reason.as_str()), (2, "b"));
    }

    #[test]
    fn a_row_without_a_reason_is_refused() {
        for text in ["op/exp/*", "op/exp/* =", " = why", "op/exp/f32/rows=1"] {
            let error = Expectations::parse(&format!("\n{text}")).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
    }
}
