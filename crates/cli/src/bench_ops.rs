//! `qiao bench ops`: what a device reaches operator by operator, beside what it can reach.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use qiao_conformance::Glob;
use qiao_conformance::measure::{
    Limits, OpFigure, OpsBench, OpsProgress, OpsSelection, Set, bench, paths, some_measured,
};
use serde_json::{Map, Value, json};

use crate::args::BenchOps;
use crate::exit::{Exit, Usage};
use crate::files::write_file;
use crate::interrupt;
use crate::load::{present, require_one};
use crate::terminal::tell_line;

pub(crate) fn ops(args: &BenchOps, out: &mut dyn Write) -> anyhow::Result<Exit> {
    require_one(&args.device, "bench ops")?;
    present(&args.device)?;
    let device = qiao::open(&args.device, None)?;
    let selection = selection(args);
    let shapes = paths(&selection, device.info()).map_err(|e| Usage(e.to_string()))?;
    if args.list {
        for (path, origin) in shapes {
            writeln!(out, "{path}  {origin}")?;
        }
        return Ok(Exit::Ok);
    }
    if cfg!(debug_assertions) {
        tell_line("warning: this is a debug build: no figure of it is a speed; use cargo run --release");
    }
    let patient = interrupt::Patient::new();
    let bar = bar(shapes.len() as u64);
    let found = bench(&device, &selection, |progress| step(&bar, &progress));
    bar.finish_and_clear();
    drop(patient);
    let found = found?;
    let json = serde_json::to_string(&found)? + "\n";
    match &args.json {
        Some(path) if path == Path::new("-") => write!(out, "{json}")?,
        Some(path) => {
            write!(out, "{}", to_text(&found))?;
            out.flush()?;
            write_file(path, &json)?;
        }
        None => write!(out, "{}", to_text(&found))?,
    }
    if let Some(path) = &args.peaks_out {
        write_file(path, &(peaks_json(&found.measured)? + "\n"))?;
    }
    if found.interrupted {
        return Ok(Exit::Interrupted);
    }
    some_measured(&found)?;
    Ok(if found.failures().next().is_some() { Exit::Failure } else { Exit::Ok })
}

fn selection(args: &BenchOps) -> OpsSelection {
    let set = match (args.quick, args.full) {
        (true, _) => Set::Quick,
        (_, true) => Set::Full,
        _ => Set::Standard,
    };
    OpsSelection {
        models: args.model.clone(),
        dtypes: args.dtype.clone(),
        filter: args.filter.iter().map(Glob::new).collect(),
        seed: args.seed,
        opened_as: args.device.clone(),
        ..OpsSelection::new(set)
    }
}

/// The measured limits as `--peaks` reads them.
fn peaks_json(limits: &Limits) -> anyhow::Result<String> {
    let ops: Map<String, Value> = limits.ops_per_s.iter().map(|(dtype, ops)| (dtype.clone(), json!(ops))).collect();
    if limits.bytes_per_s == 0.0 && ops.is_empty() {
        anyhow::bail!("no limit could be measured, so there is nothing for --peaks-out: {}", limits.source);
    }
    let mut peaks = Map::new();
    if limits.bytes_per_s > 0.0 {
        peaks.insert("bytes_per_s".into(), json!(limits.bytes_per_s));
    }
    peaks.insert("ops_per_s".into(), Value::Object(ops));
    peaks.insert("source".into(), json!(limits.source));
    peaks.insert("measured".into(), json!(true));
    Ok(serde_json::to_string_pretty(&Value::Object(peaks))?)
}

fn bar(shapes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} shapes  {eta}  {wide_msg}")
        .expect("the template is well formed");
    // Draws on standard error, and only on a terminal.
    ProgressBar::new(shapes).with_style(style)
}

fn step(bar: &ProgressBar, progress: &OpsProgress<'_>) -> bool {
    bar.set_position(progress.done as u64);
    bar.set_message(match progress.done {
        done if done == 0 || done == progress.all => format!("limits and shapes: {}", progress.next),
        _ => progress.next.to_string(),
    });
    if let Some(figure) = progress.last.filter(|f| f.failure.is_some()) {
        bar.suspend(|| tell_line(&format!("wrong: {}: {}", figure.id, figure.failure.as_deref().unwrap_or_default())));
    }
    !interrupt::pressed()
}

/// The head, a table for each operator and dtype, and the counts.
fn to_text(found: &OpsBench) -> String {
    let mut text = head(found);
    let width = |family: &str| {
        let shapes = found.figures.iter().map(|f| parts(&f.id)).filter(|(f, _)| *f == family);
        shapes.map(|(_, shape)| shape.chars().count()).max().unwrap_or(0).max(family.chars().count())
    };
    let declared = found.declared.is_some();
    let mut last = "";
    for figure in &found.figures {
        let (family, shape) = parts(&figure.id);
        if family != last {
            text.push_str(&columns(family, width(family) + 2, declared));
            last = family;
        }
        text.push_str(&line(figure, shape, width(family), declared));
    }
    text.push_str(&tail(found));
    text
}

/// `matmul/bf16` and `m=1,n=896,k=896` of a path.
fn parts(id: &str) -> (&str, &str) {
    let id = id.strip_prefix("op/").unwrap_or(id);
    id.rsplit_once('/').unwrap_or(("", id))
}

fn head(found: &OpsBench) -> String {
    let device = &found.device;
    let mut text = format!("{}  {} ({}; {})\n", device.opened_as, device.name, device.arch, device.driver);
    let mut line = |what: &str, value: String| _ = writeln!(text, "  {what:10} {value}");
    line("measured", rates(&found.measured));
    match &found.declared {
        Some(limits) => line("declared", format!("{}; {}", rates(limits), limits.source)),
        None => line("declared", "not declared by the device".into()),
    }
    line("caches", format!("{} MiB to outgrow ({})", found.cache_bytes >> 20, found.cache_source));
    line("clock", found.timer.source.clone());
    text
}

fn rates(limits: &Limits) -> String {
    let bytes = match limits.bytes_per_s {
        0.0 => "bytes not known".into(),
        bytes => format!("{} GB/s", giga(bytes)),
    };
    let ops: Vec<String> = limits.ops_per_s.iter().map(|(dtype, ops)| format!("{dtype} {}", giga(*ops))).collect();
    if ops.is_empty() { bytes } else { format!("{bytes}; GFLOP/s: {}", ops.join(", ")) }
}

fn columns(family: &str, width: usize, declared: bool) -> String {
    let declared = if declared { format!(" {:>10}", "% declared") } else { String::new() };
    let times = format!("{:>9} {:>9} {:>5}", "median", "p99", "cv %");
    format!(
        "\n{family:width$} {times} {:>8} {:>9} {:>8} {:>10}{declared}\n",
        "GB/s", "GFLOP/s", "bound by", "% measured"
    )
}

fn line(figure: &OpFigure, shape: &str, width: usize, declared: bool) -> String {
    let shape = format!("  {shape:width$}");
    if let Some(why) = &figure.unsupported {
        return format!("{shape} not run by the device: {why}\n");
    }
    if let Some(why) = &figure.skipped {
        return format!("{shape} skipped: {why}\n");
    }
    let failure = figure.failure.as_ref().map_or(String::new(), |why| format!("    WRONG: {why}\n"));
    if !figure.measured() {
        return format!("{}\n{failure}", shape.trim_end());
    }
    let times = figure.judged();
    let percent = |of: Option<f64>| of.map_or("-".into(), |of| format!("{:.0}", of * 100.0));
    let declared = if declared { format!(" {:>10}", percent(figure.of_declared)) } else { String::new() };
    // Operations of what is no product stand beside no limit.
    let ops = if figure.dtype.is_empty() { "-".into() } else { giga(figure.ops_per_s) };
    let (median, p99, cv) = (seconds(times.p50), seconds(times.p99), times.cv * 100.0);
    let (bytes, measured) = (giga(figure.bytes_per_s), percent(figure.of_measured));
    let right = if figure.verified { "✓" } else { "✗" };
    let rates = format!("{bytes:>8} {ops:>9} {:>8} {measured:>10}{declared}", figure.bound);
    let way = figure.way.strip_prefix("decomposed: ").map_or(String::new(), |pieces| format!(" (as {pieces})"));
    format!("{shape} {median:>9} {p99:>9} {cv:>5.0} {rates} {right} {}{way}\n{failure}", figure.origin)
}

fn tail(found: &OpsBench) -> String {
    let count = |of: fn(&OpFigure) -> bool| found.figures.iter().filter(|f| of(f)).count();
    let mut text = format!(
        "\n{} shapes in {:.0} s: {} measured and right, {} wrong, {} not run by the device, {} skipped\n",
        found.figures.len(),
        found.seconds,
        count(|f| f.verified),
        count(|f| f.failure.is_some()),
        count(|f| f.unsupported.is_some()),
        count(|f| f.skipped.is_some()),
    );
    let above = count(|f| f.of_measured.is_some_and(|of| of > 1.05));
    if above > 0 {
        _ = writeln!(
            text,
            "{above} above the measured limits: the machine was busy while they were measured; run again"
        );
    }
    if found.interrupted {
        text.push_str("interrupted: what was measured until then\n");
    }
    if found.platform.debug_build {
        text.push_str("a debug build: no figure is a speed\n");
    }
    text
}

/// Three digits of a number of 10⁹.
fn giga(value: f64) -> String {
    match value / 1e9 {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Three digits and a unit.
fn seconds(value: f64) -> String {
    let (value, unit) = match value {
        v if v < 1e-3 => (v * 1e6, "µs"),
        v if v < 1.0 => (v * 1e3, "ms"),
        v => (v, "s"),
    };
    match value {
        v if v >= 100.0 => format!("{v:.0} {unit}"),
        v if v >= 10.0 => format!("{v:.1} {unit}"),
        v => format!("{v:.2} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use qiao_conformance::measure::Figures;

    use super::*;

    fn figure(id: &str) -> OpFigure {
        let wall = Figures { count: 9, p50: 3.456e-4, p99: 0.0123, cv: 0.031, ..Figures::default() };
        OpFigure {
            id: id.into(),
            origin: "Tiny up, 1 token".into(),
            wall,
            dtype: "bf16".into(),
            bytes_per_s: 2.489e10,
            ops_per_s: 1.5e11,
            of_measured: Some(0.987),
            bound: "memory".into(),
            verified: true,
            ..OpFigure::default()
        }
    }

    #[test]
    fn a_figure_is_one_line_with_units_and_a_reason_stands_in_its_place() {
        let text = line(&figure("op/matmul/bf16/m=1"), "m=1", 5, false);
        assert_eq!(
            text,
            "  m=1      346 µs   12.3 ms     3     24.9       150   memory         99 ✓ Tiny up, 1 token\n"
        );
        let declared = OpFigure { of_declared: Some(0.5), ..figure("") };
        assert!(line(&declared, "m=1", 5, true).contains("         99         50 ✓"));
        let refused = OpFigure { unsupported: Some("no kernel".into()), ..figure("") };
        assert_eq!(line(&refused, "m=1", 5, false), "  m=1   not run by the device: no kernel\n");
        let skipped = OpFigure { skipped: Some("needs 9 GiB".into()), ..figure("") };
        assert_eq!(line(&skipped, "m=1", 5, false), "  m=1   skipped: needs 9 GiB\n");
        let pieces = OpFigure { way: "decomposed: cast + matmul".into(), ..figure("") };
        assert!(line(&pieces, "m=1", 5, false).ends_with("Tiny up, 1 token (as cast + matmul)\n"));
        let wrong = OpFigure { verified: false, failure: Some("off by one".into()), ..figure("") };
        assert!(line(&wrong, "m=1", 5, false).ends_with("✗ Tiny up, 1 token\n    WRONG: off by one\n"));
        let other = OpFigure { dtype: String::new(), ..figure("") };
        assert!(line(&other, "m=1", 5, false).contains("24.9         -"), "operations that stand beside no limit");
    }

    #[test]
    fn figures_of_one_operator_and_dtype_share_a_heading() {
        let ids = ["op/matmul/bf16/m=1", "op/matmul/bf16/m=2", "op/rms_norm/bf16/rows=1,cols=8"];
        let figures = ids.map(figure).into();
        let text = to_text(&OpsBench { figures, ..OpsBench::default() });
        assert_eq!(text.matches("\nmatmul/bf16 ").count(), 1);
        assert_eq!(text.matches("\nrms_norm/bf16 ").count(), 1);
        assert!(text.contains("declared   not declared by the device"), "{text}");
        assert!(text.contains("3 shapes in 0 s: 3 measured and right, 0 wrong"), "{text}");
        assert!(!text.contains("% declared") && !text.contains("above the measured limits"));
        let figures = vec![OpFigure { of_measured: Some(1.4), ..figure("op/matmul/bf16/m=1") }];
        assert!(to_text(&OpsBench { figures, ..OpsBench::default() }).contains("1 above the measured limits"));
    }

    #[test]
    fn measured_limits_are_written_as_peaks() {
        let limits = Limits {
            kind: "measured".into(),
            source: "a copy".into(),
            bytes_per_s: 2e10,
            ops_per_s: vec![("bf16".into(), 1e12)],
        };
        let value: Value = serde_json::from_str(&peaks_json(&limits).unwrap()).unwrap();
        let want = json!({"bytes_per_s": 2e10, "ops_per_s": {"bf16": 1e12}, "source": "a copy", "measured": true});
        assert_eq!(value, want);
        assert!(peaks_json(&Limits::default()).unwrap_err().to_string().contains("--peaks-out"));
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([1.5e-7, 2.5e-5, 0.5, 12.0].map(seconds), ["0.15 µs", "25.0 µs", "500 ms", "12.0 s"]);
        assert_eq!([1e6, 1.234e9, 25.04e9, 1.2345e12].map(giga), ["0.00", "1.23", "25.0", "1234"]);
    }
}
