//! `cargo xtask cuda`: every unit of `kernels/cuda` goes through the compilers that can be had on a machine without a card. The
//! tests take nvcc for the newest card of the list alone, since the whole takes a quarter of an hour on two cores.
//!
//! - nvcc of pinned Python wheels, by way of PTX for three architectures; a register that is spilled is an error.
//! - NVRTC of the same release, called as the backend calls it.
//! - hipcc and hipRTC for gfx906, where they are installed. (The tests run the latter too.)
//!
//! The kernels that come out are those of the rows, with their threads. What was compiled is kept by its content, so that a
//! second run only compiles what changed. What is not here is named and skipped; `target/cuda/kernels.txt` has a table of
//! registers, shared memory and spills.

mod wheels;

mod job;
mod log;

mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use qiao_kernels_cuda::{HEADERS, UNITS, Unit};

use crate::workspace::{cargo, target_folder};
use job::{Done, Job, Target};
use wheels::Wheels;

/// What nvcc compiles for; the PTX of the first is for every newer card.
const ARCHITECTURES: &[&str] = &["sm_80", "sm_89", "sm_90a"];

/// What NVRTC compiles for: it reads a text as nvcc does, so that one will do.
const AT_RUN_TIME: &[&str] = &["sm_90a"];

/// The HIP target that Hygon's cards grew from.
pub(crate) const HIP: &str = "gfx906";

const HIP_MEND: &str = "apt-get install --no-install-recommends hipcc libamdhip64-dev rocm-device-libs";

/// How much is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Every text once, by nvcc for the last of [`ARCHITECTURES`].
    Once,
    /// Every text by every compiler for every target.
    Whole,
}

/// Compiles everything and says what was skipped.
pub(crate) fn run() -> Result<(), String> {
    for what in gate(Reach::Whole)? {
        println!("skipped: {what}");
    }
    Ok(())
}

/// Compiles every text; what was skipped, and why.
///
/// # Errors
/// What a compiler does not take, a spilled register, a kernel without a row or a row without its kernel.
pub(crate) fn gate(reach: Reach) -> Result<Vec<String>, String> {
    let start = Instant::now();
    let folder = target_folder().join("cuda");
    let text = write_texts(&folder)?;
    let mut skipped = Vec::new();
    let mut targets = Vec::new();
    let wheels = Wheels::ready(&folder);
    match &wheels {
        Ok(wheels) => {
            let (last, others) = ARCHITECTURES.split_last().expect("there is one");
            let others = if reach == Reach::Whole { others } else { &[] };
            targets.extend(others.iter().chain([last]).map(|arch| Target::Cuda(wheels.nvcc(), arch)));
        }
        Err(why) => skipped.push(format!("nvcc and NVRTC: {why}")),
    }
    let has_hip =
        reach == Reach::Whole && Command::new("hipcc").arg("--version").output().is_ok_and(|o| o.status.success());
    if has_hip {
        targets.push(Target::Hip(HIP));
    } else if reach == Reach::Once {
        skipped
            .push("nvcc for sm_80 and sm_89, NVRTC, hipcc: cargo xtask cuda has them, for a quarter of an hour".into());
    } else {
        skipped.push(format!("hipcc and hipRTC: hipcc is not here: {HIP_MEND}"));
    }
    let jobs: Vec<Job> = UNITS.iter().flat_map(|unit| targets.iter().map(move |t| Job::new(unit, t.clone()))).collect();
    let done = job::run_all(&jobs, &text, &folder)?;
    let faults: Vec<String> = done.iter().flat_map(|d| d.faults()).collect();
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    report(&folder, &done, start)?;
    if let (Ok(wheels), Reach::Whole) = (&wheels, reach) {
        at_run_time(&text, "nvrtc", &[wheels.libraries().display().to_string()], AT_RUN_TIME)?;
    }
    if has_hip && !at_run_time(&text, "hiprtc", &[], &[HIP])? {
        skipped.push("hipRTC: libamdhip64 does not open".into());
    }
    println!("CUDA and HIP texts: {} s", start.elapsed().as_secs());
    Ok(skipped)
}

fn report(folder: &Path, done: &[Done<'_>], start: Instant) -> Result<(), String> {
    let table = folder.join("kernels.txt");
    fs::write(&table, table::write(done)).map_err(|e| format!("{}: {e}", table.display()))?;
    let fresh = done.iter().filter(|d| d.fresh).count();
    let kernels: usize = UNITS.iter().map(|u| u.kernels.len()).sum();
    println!(
        "{kernels} kernels of {} units: {} compilations, {fresh} of them new, {} s; {}",
        UNITS.len(),
        done.len(),
        start.elapsed().as_secs(),
        table.display()
    );
    Ok(())
}

/// Runs a run-time compiler over these texts in a program of the backend's; false where there is none. What it took before
/// is marked beside the texts.
fn at_run_time(text: &Path, compiler: &str, folder: &[String], targets: &[&str]) -> Result<bool, String> {
    /// What the program answers where the compiler does not open.
    const ABSENT: i32 = 3;
    let program = include_str!("../../../crates/cuda/examples/compile_units.rs");
    let mark = text.join(format!("{compiler}-{}", job::hash(&(program, folder, targets))));
    if mark.is_file() {
        return Ok(true);
    }
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "qiao-cuda", "--example", "compile_units", "--", compiler]);
    let status = command.args(folder).args(targets).status().map_err(|e| format!("{command:?} does not start: {e}"))?;
    match status.code() {
        Some(0) => fs::write(&mark, "").map(|()| true).map_err(|e| format!("{}: {e}", mark.display())),
        Some(ABSENT) if compiler == "hiprtc" => Ok(false),
        _ => Err(format!("{compiler} does not take every unit: {status}")),
    }
}

/// Puts all texts into one folder, named by what they say.
fn write_texts(folder: &Path) -> Result<PathBuf, String> {
    let file = |unit: &Unit| (format!("{}.cu", unit.name), unit.text);
    let headers = HEADERS.iter().map(|(name, text)| (name.to_string(), *text));
    let files: Vec<(String, &str)> = headers.chain(UNITS.iter().map(file)).collect();
    let text = folder.join(format!("text-{}", job::hash(&files)));
    let written = fs::create_dir_all(&text)
        .and_then(|()| files.iter().try_for_each(|(name, words)| fs::write(text.join(name), words)));
    written.map(|()| text.clone()).map_err(|e| format!("{}: {e}", text.display()))
}
