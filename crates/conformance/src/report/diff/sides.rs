//! What each report of a comparison shows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::OpFigure;
use crate::verdict::Status;

use super::super::digest::{Cell, Mark, count_of, matrix};
use super::super::facts::Report;
use super::super::levels::{Level, Standing, Verdict};

/// How one report stands to a level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideLevel {
    /// The level.
    pub level: Level,
    /// How it stands.
    pub standing: Standing,
    /// The dtypes in which it is reached.
    pub reached_in: Vec<String>,
}

/// One report of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// The name by which the device was opened.
    pub opened_as: String,
    /// The device's name.
    pub name: String,
    /// Its architecture.
    pub arch: String,
    /// Its driver.
    pub driver: String,
    /// The version of Qiao.
    pub qiao: String,
    /// When the run began, seconds since 1970-01-01 UTC.
    pub started: u64,
    /// The profile that was run; empty without a run.
    pub profile: String,
    /// Every level, lowest first.
    pub levels: Vec<SideLevel>,
    /// The highest level that is reached.
    pub reached: Option<Level>,
    /// Cases that passed, failed, are unsupported, failed as expected.
    pub counts: [usize; 4],
    /// Generated tokens per second of the model's first point.
    pub decode_tokens_per_s: Option<f64>,
    /// Time to first token of the model's first point, median, in seconds.
    pub ttft: Option<f64>,
}

impl Side {
    /// What a report shows.
    pub fn of(report: &Report) -> Side {
        let verdict = Verdict::of(report);
        let levels = verdict.levels.iter().map(|l| SideLevel {
            level: l.level,
            standing: l.standing,
            reached_in: l.reached_in().iter().map(|d| d.to_string()).collect(),
        });
        let statuses = [Status::Passed, Status::Failed, Status::Unsupported, Status::ExpectedFailure];
        let point = report.model.as_ref().and_then(|m| m.points.first());
        Side {
            opened_as: report.device.opened_as.clone(),
            name: report.device.name.clone(),
            arch: report.device.arch.clone(),
            driver: report.device.driver.clone(),
            qiao: report.platform.qiao.clone(),
            started: report.platform.started,
            profile: report.check.as_ref().map_or(String::new(), |r| r.profile.name().into()),
            levels: levels.collect(),
            reached: verdict.reached().map(|l| l.level),
            counts: statuses.map(|s| report.check.as_ref().map_or(0, |run| count_of(run, s))),
            decode_tokens_per_s: point.and_then(|p| p.decode_tokens_per_s).map(|f| f.p50),
            ttft: point.and_then(|p| p.ttft).map(|f| f.p50),
        }
    }
}

/// What each side makes of an operator in a dtype.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SupportRow {
    /// The operator family, or the kind of clauses.
    pub name: String,
    /// The dtype; empty where there is none.
    pub dtype: String,
    /// One for each side.
    pub marks: Vec<Mark>,
    /// Cases that passed, and that were walked.
    pub passed: Vec<(usize, usize)>,
}

/// What the sides support, in the order of the first suite; rows that no side walked are left out.
pub(super) fn support(reports: &[Report]) -> Vec<SupportRow> {
    let tables: Vec<BTreeMap<(String, String), Cell>> = reports
        .iter()
        .map(|r| {
            let cells = matrix(r).into_iter().flat_map(|row| {
                let name = row.name;
                row.cells.into_iter().map(move |(dtype, cell)| ((name.clone(), dtype), cell))
            });
            cells.collect()
        })
        .collect();
    let mut keys: Vec<(String, String)> = Vec::new();
    for report in reports {
        for row in matrix(report) {
            keys.extend(row.cells.iter().map(|(dtype, _)| (row.name.clone(), dtype.clone())));
        }
    }
    let mut seen = std::collections::HashSet::new();
    keys.retain(|key| seen.insert(key.clone()));
    let none = Cell::default();
    let row = |key: (String, String)| {
        let cells: Vec<&Cell> = tables.iter().map(|t| t.get(&key).unwrap_or(&none)).collect();
        SupportRow {
            marks: cells.iter().map(|c| c.mark()).collect(),
            passed: cells.iter().map(|c| (c.passed(), c.walked())).collect(),
            name: key.0,
            dtype: key.1,
        }
    };
    keys.into_iter().map(row).filter(|r| r.marks.iter().any(|m| *m != Mark::NotAsked)).collect()
}

/// How fast each side runs an operator at a shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedRow {
    /// The operator and its shape.
    pub id: String,
    /// Median times in seconds.
    pub p50: Vec<Option<f64>>,
    /// Shares of the side's own measured limit.
    pub of_measured: Vec<Option<f64>>,
}

/// The figures of a report that may be compared: verified, and of no debug build.
pub(super) fn figures(report: &Report) -> BTreeMap<&str, &OpFigure> {
    let bench = report.bench.iter().filter(|b| !b.platform.debug_build && !report.platform.debug_build);
    let list = bench.flat_map(|b| &b.figures).filter(|f| f.verified && f.measured() && f.judged().p50 > 0.0);
    list.map(|f| (f.id.as_str(), f)).collect()
}

/// Speeds that at least two sides have.
pub(super) fn speeds(reports: &[Report]) -> Vec<SpeedRow> {
    let tables: Vec<BTreeMap<&str, &OpFigure>> = reports.iter().map(figures).collect();
    let mut ids: Vec<&str> = tables.iter().flat_map(|t| t.keys().copied()).collect();
    ids.sort_unstable();
    ids.dedup();
    let row = |id: &str| SpeedRow {
        id: id.into(),
        p50: tables.iter().map(|t| t.get(id).map(|f| f.judged().p50)).collect(),
        of_measured: tables.iter().map(|t| t.get(id).and_then(|f| f.of_measured)).collect(),
    };
    ids.into_iter().map(row).filter(|r| r.p50.iter().flatten().count() > 1).collect()
}
