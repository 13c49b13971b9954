//! A plugin tried in another process, before it is let into this one: its constructors, its driver and its queries may crash,
//! hang or end the process that runs them.
//!
//! The caller gives a program that ends up in [`answer`], such as its own with a hidden subcommand; [`in_child`] runs it and
//! reads what it writes.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use qiao_core::{Backend, Error, Result};
use serde::{Deserialize, Serialize};

use super::backend::{Plugin, PluginBackend};
use super::options::Options;
use super::{rules, words};

/// What a plugin said in another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The name of its backend.
    pub name: String,
    /// Who made it.
    pub vendor: String,
    /// Its version.
    pub version: String,
    /// The minor of the header that it was built with.
    pub abi_minor: u32,
    /// The names of its devices.
    pub devices: Vec<String>,
    /// What the user should know, as [`PluginBackend::notes`].
    pub notes: Vec<String>,
}

/// Lines of the child begin so, whatever the plugin writes in between.
const MARK: &str = "qiao-probe ";

/// No more of what the child writes is kept.
const MOST: usize = 1 << 20;

/// A line of the child.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// What happens next.
    Phase(Phase),
    /// The plugin works.
    Report(Report),
    /// [`Error::NotPresent`].
    NotPresent(String, String),
    /// [`Error::Invalid`].
    Invalid(String, String, String),
    /// Any other error.
    Failed(String),
    /// What is tried next, of the rules.
    Trying(String),
    /// How the plugin breaks a rule.
    Broken(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Begin,
    Load,
    Devices,
    Rules,
    Shutdown,
    End,
}

impl Phase {
    fn words(self) -> &'static str {
        match self {
            Phase::Begin => "before it was loaded",
            Phase::Load => "while it was loaded and started",
            Phase::Devices => "while it was asked for its devices",
            Phase::Rules => "while it was held to rule R2",
            Phase::Shutdown => "while it was shut down",
            Phase::End => "after it was shut down",
        }
    }
}

fn write(line: &Line) {
    let text = serde_json::to_string(line).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    // A parent that is gone reads nothing, and nobody else does.
    let _ = write!(out, "\n{MARK}{text}\n").and_then(|()| out.flush());
}

fn told(error: Error) -> Line {
    match error {
        Error::NotPresent { what, why } => Line::NotPresent(what, why),
        Error::Invalid { what, found, mend } => Line::Invalid(what, found, mend),
        other => Line::Failed(other.to_string()),
    }
}

/// The child's part: loads a plugin, starts it, asks for its devices, shuts it down, and writes to stdout what it finds.
pub fn answer(path: &Path, options: &Options) {
    leave_no_core();
    write(&Line::Phase(Phase::Load));
    let mut options = options.clone();
    options.before = None;
    match Plugin::load(path, &options) {
        Err(error) => write(&told(error)),
        Ok(plugin) => {
            write(&Line::Phase(Phase::Devices));
            write(&report(&plugin).unwrap_or_else(told));
            write(&Line::Phase(Phase::Shutdown));
            drop(plugin);
        }
    }
    write(&Line::Phase(Phase::End));
}

/// The child's part of [`broken_rules`]: gives the plugin structs of other sizes, and writes to stdout what it makes of them.
pub fn answer_rules(path: &Path, options: &Options) {
    leave_no_core();
    write(&Line::Phase(Phase::Rules));
    match rules::broken(path, options, &|what| write(&Line::Trying(what.into()))) {
        Ok(broken) => broken.into_iter().for_each(|how| write(&Line::Broken(how))),
        Err(error) => write(&told(error)),
    }
    write(&Line::Phase(Phase::End));
}

/// A crash that is expected needs no core file.
fn leave_no_core() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is borrowed for the call.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
}

fn report(plugin: &PluginBackend) -> Result<Line> {
    let devices = plugin.devices()?.into_iter().map(|d| d.name).collect();
    Ok(Line::Report(Report {
        name: plugin.name().into(),
        vendor: plugin.vendor().into(),
        version: plugin.version().into(),
        abi_minor: plugin.abi_minor(),
        devices,
        notes: plugin.notes(),
    }))
}

/// Runs `command` with the plugin's path as its last argument, and reads what [`answer`] writes there.
///
/// # Errors
/// What the plugin said of itself; a crash, an exit or a hang, each with what was going on.
pub fn in_child(command: Command, path: &Path, timeout: Duration) -> Result<Report> {
    for line in lines(command, path, timeout)? {
        match line {
            Line::Report(report) => return Ok(report),
            Line::NotPresent(..) | Line::Invalid(..) | Line::Failed(_) => return Err(error(line, path)),
            Line::Phase(_) | Line::Trying(_) | Line::Broken(_) => {}
        }
    }
    Err(silent(path))
}

/// Runs `command` with the plugin's path as its last argument, and reads what [`answer_rules`] writes there: how the plugin
/// breaks rule R2, a line each.
///
/// # Errors
/// As [`in_child`]; a plugin that reads behind a struct may crash.
pub fn broken_rules(command: Command, path: &Path, timeout: Duration) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for line in lines(command, path, timeout)? {
        match line {
            Line::Broken(how) => broken.push(how),
            Line::NotPresent(..) | Line::Invalid(..) | Line::Failed(_) => return Err(error(line, path)),
            Line::Phase(_) | Line::Trying(_) | Line::Report(_) => {}
        }
    }
    Ok(broken)
}

fn silent(path: &Path) -> Error {
    Error::internal(format!("plugin {}", path.display()), "the process that tried it did not answer")
}

/// The error that a child tells of.
fn error(line: Line, path: &Path) -> Error {
    match line {
        Line::NotPresent(what, why) => Error::NotPresent { what, why },
        Line::Invalid(what, found, mend) => Error::Invalid { what, found, mend },
        Line::Failed(why) => Error::internal(format!("plugin {}", path.display()), why),
        _ => silent(path),
    }
}

/// What a child writes until it has ended as it should.
fn lines(mut command: Command, path: &Path, timeout: Duration) -> Result<Vec<Line>> {
    let what = format!("plugin {}", path.display());
    command.arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let started = command.spawn();
    let mut child =
        started.map_err(|e| Error::internal(&what, format!("it can't be tried in a process of its own: {e}")))?;
    let (out, err) = (Pipe::new(child.stdout.take()), Pipe::new(child.stderr.take()));
    let status = wait(&mut child, timeout);
    let (out, err) = (out.text(), err.text());
    let (mut phase, mut trying) = (Phase::Begin, String::new());
    let mut found = Vec::new();
    for line in out.lines().filter_map(|l| l.find(MARK).and_then(|at| serde_json::from_str(&l[at + MARK.len()..]).ok()))
    {
        match line {
            Line::Phase(next) => phase = next,
            Line::Trying(what) => trying = format!(", {what}"),
            line => found.push(line),
        }
    }
    match status {
        None => {
            let what = format!("{what}, {}{trying}", phase.words());
            Err(Error::Timeout { what, millis: timeout.as_millis().try_into().unwrap_or(u64::MAX) })
        }
        Some(status) if phase != Phase::End || status.signal().is_some() => {
            Err(Error::internal(what, format!("{} {}{trying}{}", fate(status), phase.words(), last_words(&err))))
        }
        Some(_) => Ok(found),
    }
}

/// How long the last bytes of a child that has ended may take.
const END: Duration = Duration::from_secs(1);

/// What a pipe has given so far, read to its end on a thread of its own; no more than [`MOST`] of it is kept.
struct Pipe {
    kept: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

impl Pipe {
    fn new(pipe: Option<impl Read + Send + 'static>) -> Pipe {
        let (done, ended) = channel();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = kept.clone();
        let read = move || {
            let mut part = [0; 4096];
            let Some(mut pipe) = pipe else { return };
            while let Ok(n @ 1..) = pipe.read(&mut part) {
                let mut kept = keep.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MOST - kept.len();
                kept.extend_from_slice(&part[..n.min(room)]);
            }
            // Nobody may wait for the end any more.
            let _ = done.send(());
        };
        thread::spawn(read);
        Pipe { kept, ended }
    }

    /// What came, once it has ended or its time is over: what the child started may hold its pipes open.
    fn text(self) -> String {
        let _ = self.ended.recv_timeout(END);
        String::from_utf8_lossy(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// Waits for a child; one that takes too long is ended, with all that it started, and has no status.
fn wait(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if start.elapsed() >= timeout {
            if let Ok(group) = libc::pid_t::try_from(child.id()) {
                // SAFETY: the child leads a group of its own and was not waited for, so that the number is still its own.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
            // Both can only fail where it has ended already.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(10));
    }
}

/// How a child came to its end.
fn fate(status: ExitStatus) -> String {
    let names = [
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    match (status.signal(), status.code()) {
        (Some(signal), _) => match names.iter().find(|(n, _)| *n == signal) {
            Some((_, name)) => format!("the plugin crashed with {name}"),
            None => format!("the plugin crashed with signal {signal}"),
        },
        (None, code) => format!("the plugin ended the process with code {}", code.unwrap_or_default()),
    }
}

/// The last line that a child wrote to stderr, if it wrote any.
fn last_words(err: &str) -> String {
    let last = err.lines().map(|l| words::line(l.as_bytes())).rfind(|l| !l.is_empty());
    last.map_or(String::new(), |l| format!("; its last words: {}", l.chars().take(300).collect::<String>()))
}
