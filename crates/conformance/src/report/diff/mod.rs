//! Several reports beside each other: what became worse and better between two runs of one chip, or how chips compare.
//!
//! Two reports of one device name and architecture are *before* and *after*: every change is listed, and whether it is for the
//! worse. Everything else stands side by side.

mod changes;
mod forms;
mod sides;

use serde::{Deserialize, Serialize};

use super::facts::Report;

pub use changes::{Change, ChangeKind};
pub use forms::{headline, html, json, kind, markdown, text};
pub use sides::{Side, SideLevel, SpeedRow, SupportRow};

/// The schema of a comparison's JSON.
pub const SCHEMA: &str = "qiao.comparison/1";

/// Reports beside each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: String,
    /// Whether there are two runs of one chip, before and after.
    pub same_chip: bool,
    /// The reports, in the order in which they were given.
    pub sides: Vec<Side>,
    /// What changed from before to after; empty for different chips.
    pub changes: Vec<Change>,
    /// What each side supports; for one chip only what differs.
    pub support: Vec<SupportRow>,
    /// Speeds that at least two sides have; for one chip every one of them.
    pub speeds: Vec<SpeedRow>,
    /// What hinders a fair comparison.
    pub notes: Vec<String>,
}

impl Comparison {
    /// Whether anything became worse.
    pub fn regressed(&self) -> bool {
        self.changes.iter().any(|c| c.worse)
    }
}

/// Compares reports, in the order in which they are given.
pub fn diff(reports: &[Report]) -> Comparison {
    let chip = |r: &Report| (r.device.name.clone(), r.device.arch.clone());
    let same_chip = reports.len() == 2 && chip(&reports[0]) == chip(&reports[1]);
    let changes = if same_chip { changes::between(&reports[0], &reports[1]) } else { Vec::new() };
    let mut support = sides::support(reports);
    if same_chip {
        support.retain(|row| row.marks[0] != row.marks[1]);
    }
    Comparison {
        schema: SCHEMA.into(),
        same_chip,
        sides: reports.iter().map(Side::of).collect(),
        changes,
        support,
        speeds: sides::speeds(reports),
        notes: notes(reports, same_chip),
    }
}

/// What hinders a fair comparison.
fn notes(reports: &[Report], same_chip: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let differ = |of: fn(&Report) -> String| reports.iter().any(|r| of(r) != of(&reports[0]));
    if reports.iter().any(|r| r.platform.debug_build) {
        notes.push("a debug build is among them: its times are no speeds and were not compared".into());
    }
    if differ(|r| r.suite.qiao.clone()) {
        notes
            .push("the suites are those of different versions of Qiao: a level may ask for more in one of them".into());
    }
    let asked =
        |r: &Report| r.check.as_ref().map_or(String::new(), |c| format!("{} {}", c.profile, c.filter.join(" ")));
    if differ(asked) {
        notes.push("the runs walked different cases: what one of them did not walk is not compared".into());
    }
    if same_chip && differ(|r| r.platform.cpu.clone()) {
        notes.push("the hosts have different processors: times that the host took may differ for that alone".into());
    }
    if same_chip && differ(|r| r.device.driver.clone()) {
        notes.push(format!("the driver was {} and is {}", reports[0].device.driver, reports[1].device.driver));
    }
    notes
}
