//! `qiao bench model`: a model's latency and throughput, as tables or as one JSON object.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use qiao::bench::{self, Event, ModelReport, Options, Settings, Sweep, Tell};

use crate::args::{BenchModel, Dtype};
use crate::exit::Exit;
use crate::interrupt::Guard;
use crate::load::present;
use crate::terminal::tell_line;

pub(crate) fn model(args: &BenchModel, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let options = options(args)?;
    present(&options.device)?;
    let cancel = qiao::Canceller::default();
    let _guard = Guard::new(cancel.clone());
    let bar = ProgressBar::no_length();
    let report = bench::run(&options, &cancel, tell(bar.clone()));
    bar.finish_and_clear();
    let report = report?;
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write!(out, "{report}")?,
    }
    out.flush()?;
    Ok(exit(&report))
}

fn options(args: &BenchModel) -> anyhow::Result<Options> {
    let sizes = |counts: &[u32]| counts.iter().map(|&count| count as usize).collect::<Vec<_>>();
    let sweep = Sweep {
        prompts: sizes(&args.prompt),
        depths: sizes(&args.depth),
        batches: sizes(&args.batch),
        tokens: args.tokens as usize,
        repeat: args.repeat as usize,
        warm_up: args.warm_up as usize,
        seed: args.seed,
    };
    let peaks = args.peaks.as_ref().map(qiao::read_peaks).transpose().map_err(qiao::Error::from)?;
    Ok(Options {
        model: args.model.clone(),
        device: args.device.clone(),
        split: args.split.clone(),
        dtype: args.dtype.map(Dtype::into),
        host_fallback: args.fallback.to_host(),
        threads: sizes(&args.threads),
        settings: Settings { sweep, slos: args.slo.clone(), peaks, soak: args.soak },
    })
}

/// A run that was ended early is an interrupted one; one whose results do not hold, or that could not measure a point, failed.
fn exit(report: &ModelReport) -> Exit {
    if !report.holds() {
        tell_line("error: a point could not be measured, or its tokens differ from run to run; see the report");
        return Exit::Failure;
    }
    if report.interrupted { Exit::Interrupted } else { Exit::Ok }
}

const READING: u8 = 1;
const MEASURING: u8 = 2;
const SOAKING: u8 = 3;

/// Moves a bar on standard error, which draws itself on a terminal only.
fn tell(bar: ProgressBar) -> Tell {
    let shown = AtomicU8::new(0);
    let style = move |bar: &ProgressBar, kind: u8, template: &str| {
        if shown.swap(kind, Ordering::Relaxed) != kind {
            bar.reset();
            bar.set_style(ProgressStyle::with_template(template).expect("the template is well formed"));
        }
    };
    Arc::new(move |event: &Event| match event {
        Event::Loading(progress) => {
            style(&bar, READING, "loading {bar:40} {bytes} / {total_bytes}  {bytes_per_sec}  {eta}");
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
        Event::Rounds { done, total, point, threads } => {
            style(&bar, MEASURING, "{bar:40} {pos} / {len} rounds  {eta} left  {msg}");
            let threads = threads.map_or(String::new(), |threads| format!(", {threads} threads"));
            bar.set_length(*total as u64);
            bar.set_position(*done as u64);
            bar.set_message(format!("{point}{threads}"));
        }
        Event::Soak { done, total } => {
            style(&bar, SOAKING, "soak {bar:40} {msg}");
            bar.set_length(total.as_millis() as u64);
            bar.set_position(done.as_millis() as u64);
            bar.set_message(format!("{:.0} of {:.0} s", done.as_secs_f64(), total.as_secs_f64()));
        }
    })
}
