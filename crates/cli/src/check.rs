//! `qiao check`: a device held to the conformance suite.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use qiao::core::Error;
use qiao_conformance::run::by_family;
use qiao_conformance::{
    Case, Executor, Expectations, Glob, Progress, Record, Run, Selection, Status, Subject, replay, run, worker,
};

use crate::args::{Check, device_given};
use crate::exit::{Exit, NotPresent, Usage};
use crate::files::write_file;
use crate::interrupt;
use crate::load::{listings, present, require_one};
use crate::plugins;
use crate::terminal::tell_line;

/// Failures that are printed; the others stand in the JSON.
const SHOWN: usize = 20;

pub(crate) fn check(args: &Check, out: &mut dyn Write) -> anyhow::Result<Exit> {
    if args.worker {
        return work(args);
    }
    let selection = selection(args)?;
    let cases = selection.cases();
    if cases.is_empty() {
        let filter = args.filter.join("', '");
        let profile = selection.profile;
        let why = format!("no case of profile {profile} matches '{filter}'; see 'qiao check --list' for their paths");
        return Err(Usage(why).into());
    }
    if args.list {
        for case in cases {
            writeln!(out, "{}", case.id())?;
        }
        return Ok(Exit::Ok);
    }
    if let Some(file) = &args.replay {
        return again(args, file, out);
    }
    require_one(&args.device, "check")?;
    let required = required(&args.device);
    if let Err(absent) = present(&args.device) {
        // A device that was asked for and is not there is no pass; a required one is a failure.
        return if required { Err(anyhow::anyhow!("QIAO_REQUIRE asks for it: {absent}")) } else { Err(absent) };
    }
    let patient = interrupt::Patient::new();
    let bar = bar(cases.len() as u64);
    let mut told = 0;
    let found = run(&selection, &mut executor(args)?, |progress| step(&bar, &progress, &mut told));
    bar.finish_and_clear();
    drop(patient);
    let mut found = found?;
    found.device.plugins = plugins::named();
    if !found.interrupted {
        found.faults.extend(plugins::broken_rules(&args.device));
    }
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
    Ok(match found.passes() {
        _ if found.interrupted => Exit::Interrupted,
        true => Exit::Ok,
        false => Exit::Failure,
    })
}

fn selection(args: &Check) -> anyhow::Result<Selection> {
    let mut selection = Selection::new(args.profile.into());
    selection.seed = args.seed;
    let required = args.require.iter().map(|name| name.trim().parse().map_err(|e: Error| Usage(e.to_string())));
    selection.required = required.collect::<Result<_, _>>()?;
    selection.filter = args.filter.iter().map(Glob::new).collect();
    selection.replays = Some(args.replays.clone());
    if args.journal.is_some() {
        selection.journal.clone_from(&args.journal);
        selection.setup = plugins::setup();
        selection.tell = tell_line;
    }
    if let Some(path) = &args.expectations {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Usage(format!("expectations file {} can't be read: {e}", path.display())))?;
        selection.expectations = Expectations::parse(&text).map_err(|e| Usage(format!("{}: {e}", path.display())))?;
    }
    Ok(selection)
}

/// Whether `QIAO_REQUIRE` names the device's backend.
fn required(device: &str) -> bool {
    let backend = device.split(':').next().unwrap_or(device);
    std::env::var("QIAO_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name.trim() == backend))
}

/// Opens the device under test, with the host's kernels beside it.
pub(crate) fn open(name: &str) -> Result<Subject, Error> {
    let registry = qiao::registry();
    let device = name.to_string();
    let mut subject = Subject::open(move || registry.open(&device))?;
    if !name.starts_with("cpu") && !name.starts_with("reference") {
        subject.host = qiao::registry().open("cpu").ok();
    }
    Ok(subject)
}

fn executor(args: &Check) -> anyhow::Result<Executor> {
    if args.in_process {
        return Ok(Executor::Here(args.device.clone(), Box::new(open(&args.device)?)));
    }
    Ok(Executor::Worker(worker_for(&args.device, Duration::from_secs_f64(args.timeout))?))
}

/// Cases on a device in a process of their own: this program, as a worker.
pub(crate) fn worker_for(device: &str, timeout: Duration) -> anyhow::Result<worker::Worker> {
    let device = device.to_string();
    plugins::again()?;
    let start = move || {
        let mut command = plugins::again().expect("this program was found when the run began");
        command.args(["check", "--worker", "--device", &device]);
        // Ctrl-C is for the run, which lets the case end. The worker ends by itself when the run is gone.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    };
    Ok(worker::Worker::new(start, timeout))
}

/// Ends this process, in whatever call it hangs, soon after the one that started it is gone: a worker that stays holds its
/// device.
#[cfg(unix)]
fn end_with_parent() {
    use std::os::unix::process::parent_id;
    let parent = parent_id();
    std::thread::spawn(move || {
        while parent_id() == parent {
            std::thread::sleep(Duration::from_millis(500));
        }
        // Not by exit, whose handlers may hang in the same call.
        std::process::abort();
    });
}

fn work(args: &Check) -> anyhow::Result<Exit> {
    #[cfg(unix)]
    end_with_parent();
    let output = std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned()?);
    worker::serve(&args.device, || open(&args.device), std::io::stdin().lock(), output)?;
    Ok(Exit::Ok)
}

fn again(args: &Check, file: &Path, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let saved = replay::Replay::read(file)?;
    let device = if device_given() { args.device.clone() } else { saved.device.clone() };
    require_one(&device, "check")?;
    present(&device).map_err(|absent| of_a_plugin(absent, &device))?;
    let case = Case::parse(&saved.id)?;
    let on = Check { device: device.clone(), ..args.clone() };
    let record = executor(&on)?.run(&case, saved.seed);
    if args.json.is_some() {
        writeln!(out, "{}", serde_json::to_string(&record)?)?;
    } else {
        writeln!(out, "{device}  {}  seed {}", saved.id, saved.seed)?;
        write!(out, "{}", details(&record))?;
    }
    Ok(if record.status == Status::Passed { Exit::Ok } else { Exit::Failure })
}

/// Says how a device of a replay file comes here that no backend has: it may be a plugin's.
fn of_a_plugin(absent: anyhow::Error, device: &str) -> anyhow::Error {
    let backend = device.split(':').next().unwrap_or(device);
    if listings().iter().any(|listing| listing.backend == backend) {
        return absent;
    }
    match absent.downcast::<NotPresent>() {
        Ok(NotPresent { name, why }) => {
            let why = format!("{why}; where the case is of a plugin, give the plugin with --plugin FILE");
            NotPresent { name, why }.into()
        }
        Err(other) => other,
    }
}

/// Everything that a record says, a line each.
fn details(record: &Record) -> String {
    let mut text = format!("{} in {:.1} ms\n", record.status, record.millis);
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("    {name:10} {value}\n"));
        }
    };
    line("ran as", record.way.clone());
    line("failed", record.failure.as_ref().map_or(String::new(), |f| format!("{}: {}", f.check, f.why)));
    line("reason", record.reason.clone().unwrap_or_default());
    for m in &record.measured {
        let figure = |x: Option<f64>| x.map_or("beyond all".into(), |x| format!("{x:.3e}"));
        line(
            &format!("output {}", m.output),
            format!(
                "{} elements, max error {:.3e} ({:.1} ulp), limit {}, error/limit {}, smallest tolerance {}",
                m.elements,
                m.max_abs,
                m.max_ulp,
                figure(m.limit),
                figure(m.margin),
                figure(m.smallest_tolerance)
            ),
        );
    }
    text
}

/// A bar on standard error.
pub(crate) fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("checking {bar:40} {pos} / {len}  {eta} left  {msg}")
        .expect("the template is well formed");
    ProgressBar::new(length).with_style(style)
}

/// Shows a step, and the first failures, of which so many were told before; false once Ctrl-C was pressed.
pub(crate) fn step(bar: &ProgressBar, progress: &Progress<'_>, told: &mut usize) -> bool {
    bar.set_position(progress.done as u64);
    bar.set_message(progress.last.id.chars().take(60).collect::<String>());
    if progress.last.status == Status::Failed {
        *told += 1;
        match *told {
            ..=SHOWN => bar.suspend(|| tell_line(&one_line(progress.last))),
            n if n == SHOWN + 1 => bar.suspend(|| tell_line("further failures are only counted here")),
            _ => {}
        }
    }
    !interrupt::pressed()
}

fn one_line(record: &Record) -> String {
    let why = record.failure.as_ref().map_or(String::new(), |f| format!("{}: {}", f.check, f.why));
    format!("failed  {}  {}", record.id, why.chars().take(240).collect::<String>())
}

fn to_text(found: &Run) -> String {
    let mut text = format!(
        "{}  {}  profile {}, seed {}\n\n",
        found.device.opened_as, found.device.name, found.profile, found.seed
    );
    text.push_str(&table(found));
    let failed: Vec<&Record> = found.of(Status::Failed).collect();
    for record in failed.iter().take(SHOWN) {
        text.push_str(&format!("\n{}\n", one_line(record)));
        if let Some(file) = &record.replay {
            let plugins: String = found.device.plugins.iter().map(|word| format!(" {word}")).collect();
            text.push_str(&format!("        qiao check{plugins} --replay {file}\n"));
        }
    }
    if failed.len() > SHOWN {
        text.push_str(&format!("\n… and {} more failures; --json has them all\n", failed.len() - SHOWN));
    }
    let c = &found.counts;
    text.push_str(&format!(
        "\n{} passed, {} failed, {} unsupported, {} failed as expected; {:.1} s\n",
        c.passed, c.failed, c.unsupported, c.expected_failures, found.seconds
    ));
    for held in &found.held {
        let gaps: Vec<_> = held.gaps.iter().map(|g| g.what.as_str()).collect();
        let how = if gaps.is_empty() { "held".into() } else { format!("not held, lacks {}", gaps.join(", ")) };
        let place = if held.dtype.is_empty() { String::new() } else { format!(" in {}", held.dtype) };
        text.push_str(&format!("{}{place}: {how}\n", held.profile));
    }
    if found.held.is_empty() {
        text.push_str(&format!("{}: not judged, only a part of it ran\n", found.profile));
    }
    for required in &found.required {
        let gap = required.gaps.first().map_or("", |g| g.why.as_str());
        let how = match required.held.is_empty() {
            true => format!("not held: {gap}"),
            false => format!("held in {}", required.held.join(", ")),
        };
        text.push_str(&format!("required {}: {how}\n", required.op));
    }
    match found.passes() {
        true if found.demands_nothing() => {
            text.push_str(
                "verdict: passed: the device contract only; no operator was demanded (--require names some)\n",
            );
        }
        true => text.push_str("verdict: passed\n"),
        false => text.push_str(&format!("verdict: failed: {}\n", found.faults.join("; "))),
    }
    text
}

/// One line for each operator or kind of clause: counts, the worst margin, and the first reason for what is unsupported.
fn table(found: &Run) -> String {
    let mut families: Vec<(String, HashMap<Status, usize>)> = by_family(&found.records).into_iter().collect();
    families.sort_by_key(|(family, _)| found.records.iter().position(|r| r.id.starts_with(family.as_str())));
    let mut text = format!("{:34} {:>7} {:>7} {:>7}  {:>11}\n", "", "passed", "failed", "unsupp.", "error/limit");
    for (family, counts) in &families {
        let of = |status: Status| counts.get(&status).copied().unwrap_or(0);
        let within = |r: &&Record| r.id.rsplit_once('/').is_some_and(|(f, _)| f == family);
        let worst = found.records.iter().filter(within).filter_map(Record::margin).reduce(f64::max);
        let reason = found.records.iter().filter(within).find(|r| r.status == Status::Unsupported);
        let reason = reason.and_then(|r| r.reason.as_deref()).unwrap_or_default();
        let number = |n: usize| if n == 0 { "·".to_string() } else { n.to_string() };
        let line = format!(
            "{family:34} {:>7} {:>7} {:>7}  {:>11}  {}",
            number(of(Status::Passed)),
            number(of(Status::Failed) + of(Status::ExpectedFailure)),
            number(of(Status::Unsupported)),
            worst.map_or(String::new(), |w| if w.is_finite() { format!("{w:.3}") } else { "∞".into() }),
            reason.chars().take(80).collect::<String>()
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
