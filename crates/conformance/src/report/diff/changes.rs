//! What changed between two runs of one chip.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::Figures;
use crate::verdict::{Record, Status};

use super::super::digest::why_of;
use super::super::facts::{ModelPoint, Path, Report};
use super::super::levels::{Standing, Verdict};
use super::super::show::{clipped, percent, seconds};
use super::sides::figures;

/// What kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A level was reached in a dtype and is missed.
    LevelLost,
    /// A case passed and fails.
    Fails,
    /// A case fails that was not there, or was not run, before.
    NewFailure,
    /// A case passed and the device no longer runs it, or its failure is now expected.
    SupportLost,
    /// A case passed and has no record although the same was asked.
    Gone,
    /// A case passed by a kernel and now passes as smaller operators.
    NowDecomposed,
    /// A passed case's error has grown past twice its share of the limit.
    MarginGrown,
    /// An operator's median time grew beyond noise.
    Slower,
    /// A model became slower beyond noise.
    ModelSlower,
    /// A model says other tokens, or its results are no longer verified.
    ModelWrong,
    /// More nodes of the model run on the host.
    MoreOnHost,
    /// A level is reached in a dtype and was not.
    LevelGained,
    /// A case failed and passes.
    Mended,
    /// A case was not run by the device and passes.
    SupportGained,
    /// A case passed as smaller operators and now passes by a kernel.
    NowNative,
    /// An operator's median time fell beyond noise.
    Faster,
    /// A model became faster beyond noise.
    ModelFaster,
}

/// One change from before to after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What kind.
    pub kind: ChangeKind,
    /// Whether it is for the worse.
    pub worse: bool,
    /// The case, level, operator or model.
    pub what: String,
    /// What was.
    pub before: String,
    /// What is.
    pub after: String,
}

/// A share of the limit below which growth is no news: rounding moves small errors by more than twice.
const NOTABLE_MARGIN: f64 = 0.1;

/// The least relative difference of medians that is beyond noise.
const LEAST_NOISE: f64 = 0.05;

impl Change {
    fn new(kind: ChangeKind, what: &str, before: impl Into<String>, after: impl Into<String>) -> Change {
        let worse = kind < ChangeKind::LevelGained;
        Change { kind, worse, what: what.into(), before: before.into(), after: after.into() }
    }
}

/// Every change, the worst kind first.
pub(super) fn between(before: &Report, after: &Report) -> Vec<Change> {
    let mut changes = levels(before, after);
    changes.extend(cases(before, after));
    changes.extend(operators(before, after));
    changes.extend(model(before, after));
    changes.extend(host(before, after));
    changes.sort_by_key(|c| c.kind);
    changes
}

fn levels(before: &Report, after: &Report) -> Vec<Change> {
    let (old, new) = (Verdict::of(before), Verdict::of(after));
    let mut changes = Vec::new();
    for level in &old.levels {
        let now = new.at(level.level);
        for d in &level.dtypes {
            // A device that is gone has no dtypes left; its levels have one entry without a name.
            let Some(then) = now.dtypes.iter().find(|n| n.dtype == d.dtype).or(now.dtypes.first()) else { continue };
            let what = format!("{} {}", level.level.name(), d.dtype);
            let word = |s: Standing| match s {
                Standing::Reached => "reached",
                Standing::NotAsked => "not asked in full",
                Standing::Missed => "not reached",
            };
            let why = then.missing.first().map_or(String::new(), |m| format!(": {} {}", m.what, clipped(&m.why, 200)));
            match (d.standing, then.standing) {
                (Standing::Reached, Standing::Missed) => {
                    changes.push(Change::new(
                        ChangeKind::LevelLost,
                        what.trim(),
                        "reached",
                        format!("not reached{why}"),
                    ));
                }
                (was, Standing::Reached) if was != Standing::Reached => {
                    changes.push(Change::new(ChangeKind::LevelGained, what.trim(), word(was), "reached"));
                }
                _ => {}
            }
        }
    }
    changes
}

fn cases(before: &Report, after: &Report) -> Vec<Change> {
    let (Some(old), Some(new)) = (&before.check, &after.check) else { return Vec::new() };
    let same_asked = (old.profile, &old.filter) == (new.profile, &new.filter);
    fn by_id(records: &[Record]) -> BTreeMap<&str, &Record> {
        records.iter().map(|r| (r.id.as_str(), r)).collect()
    }
    let (olds, news) = (by_id(&old.records), by_id(&new.records));
    let mut changes = Vec::new();
    for (id, was) in &olds {
        match news.get(id) {
            None if same_asked && was.status == Status::Passed => {
                changes.push(Change::new(ChangeKind::Gone, id, "passed", "no record"));
            }
            Some(is) => changes.extend(case(was, is)),
            None => {}
        }
    }
    let fresh = news.iter().filter(|(id, r)| r.status == Status::Failed && !olds.contains_key(*id));
    changes.extend(fresh.map(|(id, r)| Change::new(ChangeKind::NewFailure, id, "no record", told(r))));
    changes
}

fn told(record: &Record) -> String {
    match record.status {
        Status::Passed => "passed".into(),
        status => format!("{status}: {}", clipped(&why_of(record), 300)),
    }
}

fn case(was: &Record, is: &Record) -> Option<Change> {
    let change = |kind| Some(Change::new(kind, &is.id, told(was), told(is)));
    match (was.status, is.status) {
        (Status::Passed, Status::Passed) => passed(was, is),
        (Status::Passed, Status::Failed) => change(ChangeKind::Fails),
        (Status::Passed, _) => change(ChangeKind::SupportLost),
        (Status::Failed, Status::Failed) => None,
        (_, Status::Failed) => change(ChangeKind::NewFailure),
        (Status::Failed | Status::ExpectedFailure, Status::Passed) => change(ChangeKind::Mended),
        (_, Status::Passed) => change(ChangeKind::SupportGained),
        _ => None,
    }
}

fn passed(was: &Record, is: &Record) -> Option<Change> {
    let native = |r: &Record| r.way.starts_with("native");
    let decomposed = |r: &Record| r.way.starts_with("decomposed");
    if native(was) && decomposed(is) {
        return Some(Change::new(ChangeKind::NowDecomposed, &is.id, &was.way, &is.way));
    }
    if decomposed(was) && native(is) {
        return Some(Change::new(ChangeKind::NowNative, &is.id, &was.way, &is.way));
    }
    let (old, new) = (was.margin()?, is.margin()?);
    let grown = new > 2.0 * old && new >= NOTABLE_MARGIN;
    let of = |m: f64| format!("{} of the limit", percent(m));
    grown.then(|| Change::new(ChangeKind::MarginGrown, &is.id, of(old), of(new)))
}

/// How much the ratio of two medians may differ from 1 by noise alone: two standard deviations of the difference of single
/// measurements (√(cv₁² + cv₂²)), and at least 5 %. Medians vary less than single measurements; what varies between runs, such
/// as clocks and memory placement, is not in either cv, so the larger figure stands in for it.
fn noise(before: &Figures, after: &Figures) -> f64 {
    (2.0 * before.cv.hypot(after.cv)).max(LEAST_NOISE)
}

/// −1 where the value fell beyond noise, 1 where it grew, else 0.
fn moved(before: &Figures, after: &Figures) -> i8 {
    let ratio = after.p50 / before.p50;
    let limit = 1.0 + noise(before, after);
    match ratio {
        r if !r.is_finite() || r <= 0.0 => 0,
        r if r > limit => 1,
        r if r < 1.0 / limit => -1,
        _ => 0,
    }
}

fn operators(before: &Report, after: &Report) -> Vec<Change> {
    let (old, new) = (figures(before), figures(after));
    let pairs = old.iter().filter_map(|(id, was)| Some((*id, *was, *new.get(id)?)));
    let changed = pairs.filter_map(|(id, was, is)| {
        // A time of the device is not compared with one that the host saw.
        if was.device.is_some() != is.device.is_some() {
            return None;
        }
        let (a, b) = (was.judged(), is.judged());
        let kind = match moved(a, b) {
            1 => ChangeKind::Slower,
            -1 => ChangeKind::Faster,
            _ => return None,
        };
        let by =
            format!("{} ({:+.1} %, noise {})", seconds(b.p50), (b.p50 / a.p50 - 1.0) * 100.0, percent(noise(a, b)));
        Some(Change::new(kind, id, seconds(a.p50), by))
    });
    changed.collect()
}

fn model(before: &Report, after: &Report) -> Vec<Change> {
    let (Some(old), Some(new)) = (&before.model, &after.model) else { return Vec::new() };
    let mut changes = Vec::new();
    let right = |m: &super::super::facts::ModelRun| m.greedy.as_ref().and_then(|g| g.equal);
    if old.name != new.name || old.compute_dtype != new.compute_dtype {
        return changes;
    }
    if old.verified && !new.verified {
        changes.push(Change::new(ChangeKind::ModelWrong, &new.name, "verified", "not verified"));
    }
    if right(old) == Some(true) && right(new) == Some(false) {
        changes.push(Change::new(ChangeKind::ModelWrong, &new.name, "the same tokens", "other tokens"));
    }
    if before.platform.debug_build || after.platform.debug_build {
        return changes;
    }
    let key = |p: &ModelPoint| (p.batch, p.prompt, p.depth, p.tokens);
    for is in &new.points {
        let Some(was) = old.points.iter().find(|p| key(p) == key(is)) else { continue };
        let what = format!("{}: {} × {} + {}", new.name, is.batch, is.prompt, is.tokens);
        let rates = [
            ("prompt", was.prompt_tokens_per_s, is.prompt_tokens_per_s),
            ("decode", was.decode_tokens_per_s, is.decode_tokens_per_s),
        ];
        for (name, a, b) in rates {
            let (Some(a), Some(b)) = (a, b) else { continue };
            let kind = match moved(&a, &b) {
                -1 => ChangeKind::ModelSlower,
                1 => ChangeKind::ModelFaster,
                _ => continue,
            };
            let rate = |f: &Figures| format!("{name} {:.1} tokens/s", f.p50);
            changes.push(Change::new(kind, &what, rate(&a), rate(&b)));
        }
    }
    changes
}

fn host(before: &Report, after: &Report) -> Option<Change> {
    let of = |r: &Report| r.account.iter().filter(|l| l.path == Path::Host).map(|l| l.count).sum::<usize>();
    let (old, new) = (of(before), of(after));
    let comparable = !before.account.is_empty() && !after.account.is_empty();
    let text = |n: usize| format!("{n} nodes");
    (comparable && new > old).then(|| Change::new(ChangeKind::MoreOnHost, "host fallback", text(old), text(new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_the_noise_of_both_runs_is_no_change() {
        let f = |p50: f64, cv: f64| Figures { p50, cv, ..Default::default() };
        assert_eq!(moved(&f(1.0, 0.01), &f(1.04, 0.01)), 0);
        assert_eq!(moved(&f(1.0, 0.01), &f(1.06, 0.01)), 1);
        assert_eq!(moved(&f(1.0, 0.01), &f(0.94, 0.01)), -1);
        assert_eq!(moved(&f(1.0, 0.2), &f(1.5, 0.2)), 0);
        assert_eq!(moved(&f(1.0, 0.2), &f(1.6, 0.2)), 1);
        assert_eq!((moved(&f(0.0, 0.0), &f(1.0, 0.0)), moved(&f(1.0, 0.0), &f(0.0, 0.0))), (0, 0));
    }
}
