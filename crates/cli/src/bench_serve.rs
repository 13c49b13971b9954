//! `qiao bench serve`: a model under many requests, as tables, as one JSON object and as a page.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use qiao::bench::serve::{self, Arriving, Event, Mix, Options, ServeReport, Settings, Tell, Until};
use qiao::{Balance, ServeOptions};

use crate::args::{BenchServe, Dtype, ServerArgs};
use crate::exit::Exit;
use crate::files::write_file;
use crate::interrupt::Guard;
use crate::load::present;
use crate::terminal::tell_line;

pub(crate) fn serve(args: &BenchServe, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let options = options(args);
    args.device.iter().try_for_each(|device| present(device))?;
    let cancel = qiao::Canceller::default();
    let _guard = Guard::new(cancel.clone());
    let bar = ProgressBar::no_length();
    let report = serve::run(&options, &cancel, tell(bar.clone()));
    bar.finish_and_clear();
    let report = report?;
    match &args.json {
        Some(path) if path == Path::new("-") => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        Some(path) => {
            write!(out, "{report}")?;
            out.flush()?;
            write_file(path, &(serde_json::to_string(&report)? + "\n"))?;
        }
        None => write!(out, "{report}")?,
    }
    out.flush()?;
    if let Some(path) = &args.html {
        write_file(path, &report.to_html())?;
    }
    Ok(exit(&report))
}

fn options(args: &BenchServe) -> Options {
    let (load, mix) = (&args.load, &args.mix);
    let mut arriving: Vec<Arriving> = Vec::new();
    arriving.extend(load.concurrency.iter().map(|&n| Arriving::Closed { clients: n as usize }));
    arriving.extend(load.rate.iter().map(|&rate| Arriving::Open { rate }));
    arriving.extend(load.together.iter().map(|&n| Arriving::Together { size: n as usize }));
    if arriving.is_empty() {
        arriving = [1, 2, 4, 8, 16].map(|clients| Arriving::Closed { clients }).into();
    }
    let settings = Settings {
        arriving,
        mix: Mix {
            prompt: mix.prompt,
            output: mix.output,
            prefix: mix.prefix as usize,
            shared: mix.shared,
            samples: mix.samples as usize,
            priorities: mix.priority.clone(),
        },
        until: load.duration.map_or(Until::Requests(load.requests as usize), Until::Time),
        warm_up: load.warm_up as usize,
        seed: load.seed,
        slos: args.slo.clone(),
    };
    let mut devices = args.device.clone();
    let balance = if args.round_robin { Balance::RoundRobin } else { Balance::LeastLoaded };
    Options {
        model: args.model.clone(),
        device: devices.remove(0),
        more_devices: devices,
        speeds: args.speed.clone(),
        split: args.split.clone(),
        dtype: args.dtype.map(Dtype::into),
        host_fallback: args.fallback.to_host(),
        threads: args.threads.map(|threads| threads as usize),
        serve: server(&args.server).balance(balance).affinity(!args.no_affinity),
        settings,
    }
}

fn server(args: &ServerArgs) -> ServeOptions {
    let bytes = |mib: u32| u64::from(mib) << 20;
    let mut serve = ServeOptions::new()
        .batch_tokens(args.batch_tokens as usize)
        .queue(args.queue as usize)
        .sharing(!args.no_sharing);
    if let Some(mib) = args.cache_mib {
        serve = serve.cache_bytes(bytes(mib));
    }
    if let Some(tokens) = args.block_size {
        serve = serve.block_size(tokens as usize);
    }
    if let Some(sequences) = args.sequences {
        serve = serve.sequences(sequences as usize);
    }
    if let Some(tokens) = args.chunk {
        serve = serve.chunk(tokens as usize);
    }
    if let Some(mib) = args.swap_mib {
        serve = serve.swap(bytes(mib));
    }
    if let Some(tokens) = args.prompt_lookup {
        serve = serve.prompt_lookup(tokens as usize);
    }
    serve
}

/// A run that was ended early is an interrupted one; one whose requests met errors failed.
fn exit(report: &ServeReport) -> Exit {
    if !report.holds() {
        tell_line("error: requests failed; see the report");
        return Exit::Failure;
    }
    if report.interrupted { Exit::Interrupted } else { Exit::Ok }
}

const READING: usize = usize::MAX - 1;

/// Moves a bar on standard error, which draws itself on a terminal only.
fn tell(bar: ProgressBar) -> Tell {
    let shown = AtomicUsize::new(usize::MAX);
    let style = move |bar: &ProgressBar, kind: usize, template: &str| {
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
        Event::Point { arriving, number, of, done, total } => {
            match total {
                Some(total) => {
                    style(&bar, *number, "{bar:40} {pos} / {len} requests  {msg}");
                    bar.set_length(*total as u64);
                }
                None => style(&bar, *number, "{spinner} {pos} requests in {elapsed}  {msg}"),
            }
            bar.set_position(*done as u64);
            bar.set_message(format!("{arriving}, point {} of {of}", number + 1));
        }
    })
}
