//! `qiao adapt`: everything that a report says about a device, unattended.
//!
//! Each step leaves its result in the report's folder before the next begins, so that a run that was cut off goes on where it
//! stopped. Speeds and the model are measured by this program in a process of their own: a backend that ends it costs a step.

mod model;
mod steps;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use qiao_conformance::measure::OpsBench;
use qiao_conformance::report::{self, Mode, Report, Step, StepOutcome, Verdict};
use qiao_conformance::{
    DeviceFacts, Executor, Expectations, Platform, Profile, Run, Selection, run, run::not_present, save,
};
use serde_json::{Value, json};

use crate::args::Adapt;
use crate::check::{bar, step, worker_for};
use crate::exit::{Exit, Usage, told};
use crate::interrupt;
use crate::load::{present, require_one};
use crate::plugins;
use crate::terminal::tell_line;

use model::ModelStep;
use steps::Steps;

pub(crate) fn adapt(args: &Adapt, out: &mut dyn Write) -> anyhow::Result<Exit> {
    if let Some(file) = &args.model_step {
        return model::step(args, file).inspect_err(|error| {
            // Where even this can't be written, standard error has it alone.
            let _ = save::whole(file, json!({ "error": told(error, !args.fallback.to_host()) }).to_string().as_bytes());
        });
    }
    require_one(&args.device, "adapt")?;
    if let Err(absent) = present(&args.device) {
        let report = Report::of_run(not_present(&args.device, Profile::Smoke, &absent.to_string()));
        write_forms(&report, &args.report)?;
        return Err(absent);
    }
    if let Some(model) = &args.model {
        // What is wrong with it is told before hours of other work.
        qiao::Checkpoint::open(model)?;
    }
    let expectations = expectations(args)?;
    let _patient = interrupt::Patient::new();
    let start = Instant::now();
    let mode = if args.full { Mode::Full } else { Mode::Quick };
    let mut steps = Steps::open(args, mode)?;
    let mut report = Report::new(mode, Platform::here(), DeviceFacts::default());
    check(args, expectations, &mut steps, &mut report)?;
    speeds(args, &mut steps, &mut report)?;
    the_model(args, &mut steps, &mut report)?;
    report.seconds = start.elapsed().as_secs_f64();
    let files = write_forms(&report, &args.report)?;
    if interrupt::pressed() {
        tell_line("interrupted; the same command goes on where this one stopped");
        return Ok(Exit::Interrupted);
    }
    steps.close()?;
    write!(out, "{}", summary(&report, &files))?;
    Ok(if faults(&report).is_empty() { Exit::Ok } else { Exit::Failure })
}

fn expectations(args: &Adapt) -> anyhow::Result<Expectations> {
    let Some(path) = &args.expectations else { return Ok(Expectations::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|e| Usage(format!("expectations file {} can't be read: {e}", path.display())))?;
    Ok(Expectations::parse(&text).map_err(|e| Usage(format!("{}: {e}", path.display())))?)
}

/// The conformance run.
fn check(args: &Adapt, expectations: Expectations, steps: &mut Steps, report: &mut Report) -> anyhow::Result<()> {
    let begun = Instant::now();
    let usual = if args.full { Profile::Full } else { Profile::LlmServing };
    let profile = args.profile.map_or(usual, Profile::from);
    let run = match steps.done::<Run>(Step::CHECK) {
        Some(run) => run,
        None => {
            let mut selection = Selection::new(profile);
            selection.seed = args.seed;
            selection.expectations = expectations;
            selection.replays = Some(args.report.join("replays"));
            selection.journal = Some(args.report.join("check.journal"));
            selection.setup = plugins::setup();
            selection.tell = tell_line;
            let count = selection.cases().len();
            steps.tell(&format!("conformance: {count} cases of profile {profile}"));
            let shown = bar(count as u64);
            let mut on = Executor::Worker(worker_for(&args.device, Duration::from_secs_f64(args.timeout))?);
            let mut told = 0;
            let run = run(&selection, &mut on, |progress| step(&shown, &progress, &mut told));
            shown.finish_and_clear();
            let mut run = run?;
            run.device.plugins = plugins::named();
            // Some devices are for one process at a time.
            drop(on);
            if !run.interrupted {
                run.faults.extend(plugins::broken_rules(&args.device));
                steps.keep(Step::CHECK, &run)?;
            }
            run
        }
    };
    report.platform = run.platform.clone();
    report.device = run.device.clone();
    report.steps.push(Step::done(Step::OPEN, 0.0));
    report.steps.push(match run.interrupted {
        true => Step::broken(Step::CHECK, "stopped before its last case", begun.elapsed().as_secs_f64()),
        false => Step::done(Step::CHECK, run.seconds),
    });
    report.check = Some(run);
    Ok(())
}

/// The speeds of operators, and the device's limits.
fn speeds(args: &Adapt, steps: &mut Steps, report: &mut Report) -> anyhow::Result<()> {
    let file = args.report.join("bench.json");
    let set = if args.full { "--full" } else { "--quick" };
    let bench =
        ["bench", "ops", "--device", &args.device, set, "--json", &file.display().to_string()].map(String::from);
    let what = "speeds of operators, beside the limits of the device";
    if let Some(bench) = child::<OpsBench>(steps, report, Step::BENCH, what, &bench, &file)? {
        let peaks = json!({
            "bytes_per_s": bench.measured.bytes_per_s,
            "ops_per_s": bench.measured.ops_per_s.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "source": bench.measured.source,
            "measured": true,
        });
        save::whole(&peaks_file(args), peaks.to_string().as_bytes())?;
        report.bench = Some(bench);
    }
    Ok(())
}

fn peaks_file(args: &Adapt) -> PathBuf {
    args.report.join("peaks.json")
}

/// The model: how its operators run on the device, what it says, and how fast.
fn the_model(args: &Adapt, steps: &mut Steps, report: &mut Report) -> anyhow::Result<()> {
    let file = args.report.join("model.json");
    let mut command = vec!["adapt".to_string(), "--device".into(), args.device.clone()];
    if args.full {
        command.push("--full".into());
    }
    command.extend(args.fallback.words());
    if let Some(model) = &args.model {
        command.extend(["--model".into(), model.display().to_string()]);
    }
    if peaks_file(args).exists() {
        command.extend(["--peaks".into(), peaks_file(args).display().to_string()]);
    }
    command.extend(["--model-step".into(), file.display().to_string()]);
    let what = match &args.model {
        Some(model) => format!("the model {}", model.display()),
        None => "the embedded demo model".into(),
    };
    if let Some(step) = child::<ModelStep>(steps, report, Step::MODEL, &what, &command, &file)? {
        report.account = step.account;
        report.model = Some(step.model);
    }
    Ok(())
}

/// Runs a step as this program in a process of its own, which leaves its result in a file.
fn child<T: serde::de::DeserializeOwned + serde::Serialize>(
    steps: &mut Steps,
    report: &mut Report,
    name: &str,
    what: &str,
    arguments: &[String],
    file: &Path,
) -> anyhow::Result<Option<T>> {
    if interrupt::pressed() {
        report.steps.push(Step::skipped(name, "the run was interrupted before it"));
        return Ok(None);
    }
    if let Some(done) = steps.done::<(f64, T)>(name) {
        report.steps.push(Step::done(name, done.0));
        return Ok(Some(done.1));
    }
    steps.tell(what);
    let begun = Instant::now();
    // What an earlier run left must not be taken for this one's.
    let _ = std::fs::remove_file(file);
    let status = plugins::again()?.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    let seconds = begun.elapsed().as_secs_f64();
    let left = std::fs::read_to_string(file).unwrap_or_default();
    let read = serde_json::from_str::<T>(&left).ok();
    let _ = std::fs::remove_file(file);
    if interrupt::pressed() {
        report.steps.push(Step::broken(name, "interrupted", seconds));
        return Ok(read);
    }
    match read {
        Some(read) => {
            let pair = (seconds, read);
            steps.keep(name, &pair)?;
            report.steps.push(Step::done(name, seconds));
            Ok(Some(pair.1))
        }
        None => {
            let left: Value = serde_json::from_str(&left).unwrap_or_default();
            let why = left["error"].as_str().map_or_else(|| format!("it left no result; {status}"), String::from);
            report.steps.push(Step::broken(name, why, seconds));
            Ok(None)
        }
    }
}

/// Writes the report in every form; what was written.
fn write_forms(report: &Report, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    report::save(report, folder)
        .map_err(|e| anyhow::anyhow!("the report can't be written to {}: {e}; give another --report", folder.display()))
}

/// What speaks against the device in what was asked.
fn faults(report: &Report) -> Vec<String> {
    let mut faults: Vec<String> = undone(report).map(|(step, _)| format!("'{step}' was not done")).collect();
    faults.extend(report.check.iter().flat_map(|run| run.faults.clone()));
    let wrong: Vec<_> = report.bench.iter().flat_map(|b| &b.figures).filter(|f| f.failure.is_some()).collect();
    if let Some(first) = wrong.first() {
        faults.push(format!("{} shapes were wrong when measured, the first of them {}", wrong.len(), first.id));
    }
    if let Some(model) = report.model.as_ref().filter(|model| !model.verified) {
        let other = model.greedy.as_ref().filter(|g| g.equal == Some(false)).and_then(|g| g.compared_with.clone());
        let other = other.map(|device| format!("it says something else than {device}"));
        let why: Vec<_> = other.into_iter().chain(model.notes.iter().cloned()).collect();
        faults.push(format!("the model's run is not verified: {}", why.join("; ")));
    }
    faults
}

/// Steps that did not come to their end, and why.
fn undone(report: &Report) -> impl Iterator<Item = (String, &str)> {
    report.steps.iter().filter_map(|step| {
        let why = match &step.outcome {
            StepOutcome::Done => return None,
            StepOutcome::Skipped(why) | StepOutcome::Broken(why) => why,
        };
        Some((report::words::step(&step.name).text(report::Language::English).to_string(), why.as_str()))
    })
}

/// What a reader must know at once, and where the rest is.
fn summary(report: &Report, files: &[PathBuf]) -> String {
    let verdict = Verdict::of(report);
    let mut text = format!(
        "{}  {}\n{}\n",
        report.device.opened_as,
        report.device.name,
        report::words::headline(&verdict).text(report::Language::English)
    );
    if let Some(next) = verdict.next() {
        text.push_str(&format!("{}\n", report::words::next_line(next).text(report::Language::English)));
    }
    if let Some(run) = &report.check {
        let c = &run.counts;
        text.push_str(&format!(
            "conformance: {} passed, {} failed, {} unsupported, {} failed as expected\n",
            c.passed, c.failed, c.unsupported, c.expected_failures
        ));
    }
    if let Some(bench) = &report.bench {
        let wrong = bench.figures.iter().filter(|f| f.failure.is_some()).count();
        let right = bench.figures.iter().filter(|f| f.verified).count();
        text.push_str(&format!(
            "operators: {right} shapes measured and verified, {wrong} wrong; limit measured: {:.1} GB/s\n",
            bench.measured.bytes_per_s / 1e9
        ));
    }
    if let Some(model) = &report.model {
        let rate = model.points.first().and_then(|p| p.decode_tokens_per_s);
        let rate = rate.map_or(String::new(), |r| format!(", decode {:.1} tokens/s", r.p50));
        let right = if model.verified { "verified" } else { "NOT verified" };
        text.push_str(&format!("model: {} in {}{rate}, {right}\n", model.name, model.compute_dtype));
    }
    for (step, why) in undone(report) {
        text.push_str(&format!("not done: {step}: {why}\n"));
    }
    for file in files {
        text.push_str(&format!("    {}\n", file.display()));
    }
    match faults(report) {
        none if none.is_empty() => text.push_str("verdict: passed\n"),
        faults => text.push_str(&format!("verdict: failed: {}\n", faults.join("; "))),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_not_done_has_a_line_and_fails_the_run() {
        let mut report = Report::new(Mode::Quick, Platform::default(), DeviceFacts::default());
        report.steps.push(Step::done(Step::OPEN, 0.0));
        assert!(summary(&report, &[]).ends_with("\nverdict: passed\n"));
        report.steps.push(Step::broken(Step::MODEL, "no kernel for rope", 1.0));
        report.steps.push(Step::skipped(Step::BENCH, "it was interrupted"));
        let text = summary(&report, &[]);
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        assert_eq!(lines[2], "not done: run the model: no kernel for rope");
        assert_eq!(lines[1], "not done: speed of operators: it was interrupted");
        assert_eq!(lines[0], "verdict: failed: 'run the model' was not done; 'speed of operators' was not done");
    }
}
