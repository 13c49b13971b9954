//! Thousands of records in a few tables: the support matrix, the largest margins, reasons with their counts.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::platform::DeviceFacts;
use crate::profile::Profile;
use crate::run::Run;
use crate::verdict::{Measured, Record, Status};

use super::facts::Report;
use super::suite::{dtype_of, dtype_rank};

/// What the cases of one operator family in one dtype came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Cases of the suite.
    pub cases: usize,
    /// Passed by a kernel of the device.
    pub native: usize,
    /// Passed as smaller operators on the device.
    pub decomposed: usize,
    /// Passed, and nothing ran on the way: bad input that was refused, clauses of the device contract.
    pub other: usize,
    /// Failed.
    pub failed: usize,
    /// Failed as expected.
    pub expected: usize,
    /// Not run by the device.
    pub unsupported: usize,
    /// The largest error/limit of those that passed.
    pub margin: Option<f64>,
    /// Why cases are unsupported, failed, or failed as expected, and how many; the most frequent first.
    pub reasons: Vec<(String, usize)>,
}

/// What a cell comes to in one word, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Some case failed.
    Failed,
    /// Some case failed as expected.
    Expected,
    /// No case that was asked is run by the device.
    Unsupported,
    /// Some cases passed and others are not run by the device.
    Partial,
    /// Every case that was asked passed, some as smaller operators.
    Decomposed,
    /// Every case that was asked passed by kernels of the device.
    Native,
    /// Every case that was asked passed, and none of them needs a kernel: the device contract, refusals.
    Holds,
    /// No case was asked.
    NotAsked,
}

impl Mark {
    /// Every mark, best first.
    pub const ALL: [Mark; 8] = [
        Mark::Holds,
        Mark::Native,
        Mark::Decomposed,
        Mark::Partial,
        Mark::Unsupported,
        Mark::Expected,
        Mark::Failed,
        Mark::NotAsked,
    ];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Mark::Failed => "failed",
            Mark::Expected => "expected_failure",
            Mark::Unsupported => "unsupported",
            Mark::Partial => "partial",
            Mark::Decomposed => "decomposed",
            Mark::Native => "native",
            Mark::Holds => "holds",
            Mark::NotAsked => "not_asked",
        }
    }

    /// A letter that stands for it where colours can't be told apart.
    pub const fn letter(self) -> char {
        match self {
            Mark::Failed => 'F',
            Mark::Expected => 'E',
            Mark::Unsupported => 'U',
            Mark::Partial => 'P',
            Mark::Decomposed => 'D',
            Mark::Native => 'N',
            Mark::Holds => '✓',
            Mark::NotAsked => '·',
        }
    }
}

/// How many records of a run have a status.
pub fn count_of(run: &Run, status: Status) -> usize {
    run.of(status).count()
}

impl Cell {
    /// Cases that passed.
    pub fn passed(&self) -> usize {
        self.native + self.decomposed + self.other
    }

    /// Cases that have a record.
    pub fn walked(&self) -> usize {
        self.passed() + self.failed + self.expected + self.unsupported
    }

    /// The cell in one word.
    pub fn mark(&self) -> Mark {
        match self {
            c if c.failed > 0 => Mark::Failed,
            c if c.expected > 0 => Mark::Expected,
            c if c.unsupported > 0 && c.passed() == 0 => Mark::Unsupported,
            c if c.unsupported > 0 => Mark::Partial,
            c if c.decomposed > 0 => Mark::Decomposed,
            c if c.native > 0 => Mark::Native,
            c if c.other > 0 => Mark::Holds,
            _ => Mark::NotAsked,
        }
    }

    fn add(&mut self, record: &Record, why: &mut HashMap<String, usize>) {
        match record.status {
            Status::Passed if record.way.starts_with("native") => self.native += 1,
            Status::Passed if record.way.starts_with("decomposed") => self.decomposed += 1,
            Status::Passed => self.other += 1,
            Status::Failed => self.failed += 1,
            Status::ExpectedFailure => self.expected += 1,
            Status::Unsupported => self.unsupported += 1,
            Status::NotPresent => return,
        }
        match record.status {
            Status::Passed => {
                let margins = record.margin().into_iter().chain(self.margin);
                self.margin = margins.reduce(f64::max);
            }
            _ => *why.entry(why_of(record)).or_default() += 1,
        }
    }
}

/// Why a case is not a plain pass.
pub fn why_of(record: &Record) -> String {
    let failure = record.failure.as_ref().map(|f| format!("{}: {}", f.check, f.why));
    match record.status {
        Status::Failed => failure.or_else(|| record.reason.clone()),
        _ => record.reason.clone().or(failure),
    }
    .unwrap_or_default()
}

/// One operator family, or one kind of clauses of the device contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name: `rms_norm`, `device/memory`.
    pub name: String,
    /// The smallest profile that asks for it; empty where the suite does not know it.
    pub tier: String,
    /// Dtype and cell, activation dtypes first. The device contract has one cell without a name.
    pub cells: Vec<(String, Cell)>,
}

impl Row {
    /// The cell of a dtype.
    pub fn cell(&self, dtype: &str) -> Option<&Cell> {
        self.cells.iter().find(|(d, _)| d == dtype).map(|(_, cell)| cell)
    }
}

/// The support matrix: the device contract, then operators in the order of the list.
pub fn matrix(report: &Report) -> Vec<Row> {
    let mut order: Vec<String> = Vec::new();
    let mut cells: HashMap<String, (String, Cell, HashMap<String, usize>)> = HashMap::new();
    for group in &report.suite.groups {
        let cases = group.plain.len() + group.standard.len() + group.deep.len();
        for path in &group.paths {
            order.push(path.clone());
            let cell = Cell { cases, ..Default::default() };
            cells.insert(path.clone(), (group.tier.name().into(), cell, HashMap::new()));
        }
    }
    for record in report.check.iter().flat_map(|run| &run.records).filter(|r| r.status != Status::NotPresent) {
        let path = family_of(&record.id);
        if !cells.contains_key(path) {
            order.push(path.into());
            cells.insert(path.into(), Default::default());
        }
        let (_, cell, why) = cells.get_mut(path).expect("it is there");
        cell.add(record, why);
    }
    let mut rows: Vec<Row> = Vec::new();
    for path in order {
        let Some((tier, mut cell, why)) = cells.remove(&path) else { continue };
        cell.reasons = most_frequent(why);
        let dtype = dtype_of(&path).to_string();
        let name = match dtype.is_empty() {
            true => path,
            false => path.split('/').nth(1).unwrap_or_default().into(),
        };
        match rows.iter_mut().find(|r| r.name == name) {
            Some(row) => row.cells.push((dtype, cell)),
            None => rows.push(Row { name, tier, cells: vec![(dtype, cell)] }),
        }
    }
    rows.iter_mut().for_each(|row| row.cells.sort_by_key(|(dtype, _)| dtype_rank(dtype)));
    rows
}

/// What stands before the last part of a case's path.
pub fn family_of(id: &str) -> &str {
    // Parameters hold no '/', whatever else they hold.
    id.rsplit_once('/').map_or(id, |(family, _)| family)
}

fn most_frequent(counts: HashMap<String, usize>) -> Vec<(String, usize)> {
    let mut sorted: Vec<(String, usize)> = counts.into_iter().collect();
    sorted.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
    sorted
}

/// Cases that share status and reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shared<'a> {
    /// The reason.
    pub reason: String,
    /// How many.
    pub count: usize,
    /// How many of each family in a dtype, in the order of the records.
    pub families: Vec<(&'a str, usize)>,
    /// The first of them.
    pub example: &'a str,
}

/// The cases of a status by their reasons, the most frequent first.
pub fn by_reason(run: &Run, status: Status) -> Vec<Shared<'_>> {
    let mut shared: BTreeMap<String, Shared<'_>> = BTreeMap::new();
    for record in run.of(status) {
        let reason = why_of(record);
        let new = || Shared { reason: reason.clone(), count: 0, families: Vec::new(), example: &record.id };
        let entry = shared.entry(reason.clone()).or_insert_with(new);
        entry.count += 1;
        let family = family_of(&record.id);
        match entry.families.last_mut() {
            Some((last, count)) if *last == family => *count += 1,
            _ => entry.families.push((family, 1)),
        }
    }
    let mut sorted: Vec<Shared<'_>> = shared.into_values().collect();
    sorted.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.reason.cmp(&b.reason)));
    sorted
}

/// The passed cases that came closest to their limits, with the output that did: the closest of each family and dtype, so that
/// one of them does not hide the others; the closest first.
pub fn largest_margins(run: &Run, most: usize) -> Vec<(&Record, &Measured)> {
    let outputs = run.of(Status::Passed).filter_map(|r| {
        let worst = r.measured.iter().max_by(|a, b| margin(a).total_cmp(&margin(b)))?;
        Some((r, worst))
    });
    let mut sorted: Vec<(&Record, &Measured)> = outputs.filter(|(_, m)| margin(m) > 0.0).collect();
    sorted.sort_by(|(a, m), (b, n)| margin(n).total_cmp(&margin(m)).then_with(|| a.id.cmp(&b.id)));
    let mut seen = HashSet::new();
    sorted.retain(|(r, _)| seen.insert(family_of(&r.id)));
    sorted.truncate(most);
    sorted
}

fn margin(m: &Measured) -> f64 {
    m.margin.unwrap_or(f64::INFINITY)
}

/// How far the worst element was from the truth; `None` where that is beyond all.
pub fn error_of(m: &Measured) -> Option<f64> {
    Some(m.margin? * m.limit?)
}

/// The command that asks for all of a profile.
pub fn profile_command(device: &DeviceFacts, profile: Profile) -> String {
    format!("qiao check{} --profile {profile}", named(device))
}

/// A device and its plugins, each after a blank, as `qiao check` takes them.
fn named(device: &DeviceFacts) -> String {
    let plugins = device.plugins.iter().map(|word| match word.split_once('=') {
        Some((option, value)) if option.starts_with("--") => format!(" {option}={}", quoted(value)),
        _ => format!(" {}", quoted(word)),
    });
    plugins.collect::<String>() + " --device " + &quoted(&device.opened_as)
}

/// The command that repeats a case alone.
pub fn replay_command(run: &Run, record: &Record) -> String {
    let device = named(&run.device);
    match &record.replay {
        Some(file) => format!("qiao check{device} --replay {}", quoted(file)),
        None => {
            let (id, seed) = (quoted(&record.id), run.seed);
            format!("qiao check{device} --profile full --filter {id} --seed {seed}")
        }
    }
}

/// A word as a POSIX shell takes it; control characters, which no path or name of ours has, are left out.
fn quoted(word: &str) -> String {
    let word: String = word.chars().filter(|c| !c.is_control()).collect();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    match !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Check, Failure, Outcome};

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quoted("op/rope/f16/rows=7,cols=1"), "op/rope/f16/rows=7,cols=1");
        assert_eq!(quoted("it's; rm -rf $HOME"), r"'it'\''s; rm -rf $HOME'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("-x"), "'-x'");
        assert_eq!(quoted("a\nb"), "ab");
    }

    #[test]
    fn a_cell_is_named_by_its_worst_case() {
        let mut cell = Cell::default();
        let mut why = HashMap::new();
        assert_eq!(cell.mark(), Mark::NotAsked);
        let with = |way: &str, outcome| Record { way: way.into(), ..Record::of("op/add/f32/x=1", outcome) };
        cell.add(&with("native add_f32.avx2", Outcome::Passed), &mut why);
        assert_eq!(cell.mark(), Mark::Native);
        cell.add(&with("decomposed: silu + mul", Outcome::Passed), &mut why);
        assert_eq!(cell.mark(), Mark::Decomposed);
        cell.add(&with("", Outcome::Unsupported("no f16".into())), &mut why);
        assert_eq!(cell.mark(), Mark::Partial);
        cell.add(&with("", Outcome::Failed(Failure::new(Check::Limit, "far off"))), &mut why);
        assert_eq!((cell.mark(), cell.walked(), cell.passed()), (Mark::Failed, 4, 2));
        assert_eq!(why["limit: far off"], 1);
    }
}
