//! Instructions of hot kernels, counted and compared with a record: a regression shows on the busiest machine.
//!
//! callgrind counts the tiers that it knows; it shows a program no AVX-512, so those are counted by the processor itself, where
//! `perf stat` may ask it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::workspace::{cargo, root};

/// Counts by kernel, in one tier.
type Counts = BTreeMap<String, u64>;

/// Tiers that callgrind knows.
const EMULATED: [&str; 2] = ["scalar", "avx2"];
/// Tiers that only the processor can count.
const NATIVE: [&str; 2] = ["avx512", "amx"];
/// What a count may grow by.
const SHARE: f64 = 0.03;
/// A growth that is too small to tell of.
const FEW: u64 = 64;

const RECORD: &str = "benches/instructions.json";
const MEND: &str = "'cargo xtask instructions --bless' writes the new figures";

/// Compares with the record.
///
/// # Errors
/// A kernel that takes more than 3 % more, one that the record lacks, one that is gone; tools that fail.
pub(crate) fn check() -> Result<(), String> {
    let (found, skipped) = count()?;
    let record = read()?;
    let mut faults = Vec::new();
    for (tier, counts) in &found {
        faults.extend(differences(tier, counts, record.get(tier).unwrap_or(&Counts::new())));
    }
    println!("{} kernels counted", found.values().map(Counts::len).sum::<usize>());
    for what in skipped {
        println!("skipped: {what}");
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("{}\n{MEND}", faults.join("\n"))) }
}

/// Writes the record; tiers that can't be counted here keep what it has.
///
/// # Errors
/// Tools that fail; a record that can't be written.
pub(crate) fn bless() -> Result<(), String> {
    let (found, skipped) = count()?;
    let mut record = if root().join(RECORD).exists() { read()? } else { BTreeMap::new() };
    for (tier, counts) in found {
        println!("{tier}: {} kernels", counts.len());
        record.insert(tier, counts);
    }
    for what in skipped {
        println!("kept as it was: {what}");
    }
    let text = serde_json::to_string_pretty(&json!(record)).map_err(|e| e.to_string())?;
    fs::write(root().join(RECORD), text + "\n").map_err(|e| format!("{RECORD}: {e}"))
}

fn read() -> Result<BTreeMap<String, Counts>, String> {
    let text = fs::read_to_string(root().join(RECORD)).map_err(|e| format!("{RECORD}: {e}; {MEND}"))?;
    serde_json::from_str(&text).map_err(|e| format!("{RECORD}: {e}; {MEND}"))
}

/// What is not as it was, a line each; what became less is printed only.
fn differences(tier: &str, found: &Counts, record: &Counts) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, &now) in found {
        let Some(&then) = record.get(name) else {
            faults.push(format!("{tier}: {name} takes {now} instructions and is not in the record"));
            continue;
        };
        let change = 100.0 * (now as f64 / then as f64 - 1.0);
        let line = format!("{tier}: {name} takes {now} instructions, {change:+.1} % beside {then}");
        if now as f64 > then as f64 * (1.0 + SHARE) && now > then + FEW {
            faults.push(line);
        } else if (now as f64) < then as f64 * (1.0 - SHARE) && now + FEW < then {
            println!("{line}");
        }
    }
    let gone = record.keys().filter(|name| !found.contains_key(*name));
    faults.extend(gone.map(|name| format!("{tier}: {name} is in the record and was not counted")));
    faults
}

/// Counts every tier that can be counted here; the others with the reason.
fn count() -> Result<(BTreeMap<String, Counts>, Vec<String>), String> {
    let program = build()?;
    let mut found = BTreeMap::new();
    let mut skipped = Vec::new();
    match Command::new("valgrind").arg("--version").output() {
        Ok(output) if output.status.success() => {
            for tier in EMULATED {
                found.insert(tier.to_string(), by_callgrind(&program, tier)?);
            }
        }
        _ => skipped.push(format!("{}: valgrind is not installed", EMULATED.join(", "))),
    }
    for tier in NATIVE {
        match by_perf(&program, tier) {
            Ok(counts) => _ = found.insert(tier.to_string(), counts),
            Err(why) => skipped.push(format!("{tier}: {why}")),
        }
    }
    if found.is_empty() {
        return Err(format!("nothing can be counted here: {}", skipped.join("; ")));
    }
    Ok((found, skipped))
}

/// Builds the program in release; gives its path.
fn build() -> Result<PathBuf, String> {
    let args = ["build", "--release", "-p", "qiao-benches", "--example", "instructions", "--message-format=json"];
    let output = cargo().args(args).output().map_err(|e| format!("cargo build does not start: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo build failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = messages.filter(|m| m["target"]["name"] == "instructions").find_map(|m| {
        let path = m["executable"].as_str()?;
        Some(PathBuf::from(path))
    });
    program.ok_or_else(|| "cargo build names no program".into())
}

/// What is inside `measured`, a dump after each call of it.
fn by_callgrind(program: &Path, tier: &str) -> Result<Counts, String> {
    let folder = program.with_file_name(format!("callgrind-{tier}"));
    _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let inside = "instructions::measured";
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .args([format!("--toggle-collect={inside}"), format!("--dump-after={inside}")])
        .arg(format!("--callgrind-out-file={}", folder.join("out").display()))
        .arg(program)
        .args(["--tier", tier])
        .output()
        .map_err(|e| format!("valgrind does not start: {e}"))?;
    if !output.status.success() {
        return Err(format!("valgrind failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut counts = Counts::new();
    for (at, name) in names.lines().enumerate() {
        let path = folder.join(format!("out.{}", at + 1));
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let total = total(&text).ok_or_else(|| format!("{} has no count of {name}", path.display()))?;
        counts.insert(name.to_string(), total);
    }
    _ = fs::remove_dir_all(&folder);
    Ok(counts)
}

/// The count of a dump.
fn total(dump: &str) -> Option<u64> {
    let line = dump.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")))?;
    line.split_whitespace().next()?.parse().ok().filter(|count| *count > 0)
}

/// Whole processes of two lengths, whose difference is that of so many runs. What this machine can't count is an error.
fn by_perf(program: &Path, tier: &str) -> Result<Counts, String> {
    const ROUNDS: u64 = 20;
    let stat = |args: &[&str]| -> Result<(u64, String), String> {
        let output = Command::new("perf")
            .args(["stat", "-x,", "-e", "instructions:u"])
            .arg(program)
            .args(["--tier", tier])
            .args(args)
            .output()
            .map_err(|e| format!("perf does not start: {e}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(text.lines().next().unwrap_or("perf failed").to_string());
        }
        let line = text.lines().find(|line| line.contains("instructions"));
        let count = line.and_then(|line| line.split(',').next()?.parse().ok());
        let count = count.ok_or_else(|| format!("perf counts no instructions here: {}", text.trim()))?;
        Ok((count, String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let mut counts = Counts::new();
    for name in stat(&[])?.1.lines() {
        let runs = |rounds: u64| stat(&["--only", name, "--rounds", &rounds.to_string()]).map(|(count, _)| count);
        let difference = runs(1 + ROUNDS)?.saturating_sub(runs(1)?);
        counts.insert(name.to_string(), difference / ROUNDS);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> Counts {
        of.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    }

    #[test]
    fn more_than_three_percent_is_a_fault_and_less_is_none() {
        let record = counts(&[("a", 10_000), ("b", 10_000), ("c", 10_000), ("tiny", 100)]);
        let found = counts(&[("a", 10_301), ("b", 10_300), ("c", 5_000), ("tiny", 160)]);
        let faults = differences("avx2", &found, &record);
        assert_eq!(faults, ["avx2: a takes 10301 instructions, +3.0 % beside 10000"]);
    }

    #[test]
    fn what_only_one_side_has_is_a_fault() {
        let faults = differences("scalar", &counts(&[("new", 5)]), &counts(&[("old", 5)]));
        assert!(faults[0].contains("new takes 5 instructions and is not in the record"), "{faults:?}");
        assert!(faults[1].contains("old is in the record and was not counted"), "{faults:?}");
    }

    #[test]
    fn a_dump_has_its_count_in_the_line_of_totals() {
        assert_eq!(total("events: Ir\nfn=(1)\n0 5\n\ntotals: 4711\n"), Some(4711));
        assert_eq!(total("summary: 12 3\n"), Some(12));
        assert_eq!(total("totals: 0\n"), None);
        assert_eq!(total("events: Ir\n"), None);
    }
}
