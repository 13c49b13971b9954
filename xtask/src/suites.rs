//! The workspace's test programs, several at a time: many of them wait more than they work.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use serde_json::Value;

use crate::tally::Tally;
use crate::workspace::cargo;

/// Programs that have the machine for themselves: they hold clocks to clocks.
const ALONE: &[&str] = &["qiao-conformance::measurement_is_honest"];

/// Packages whose programs take longest, and so start first.
const FIRST: &[&str] = &["qiao-simnpu", "qiao-conformance", "qiao-opencl", "qiao-ascend"];

/// A test program that cargo has built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Package and target: `qiao-core::graph`.
    name: String,
    executable: PathBuf,
    /// The package's folder, where its tests run.
    folder: PathBuf,
    /// What its environment has beside this one's.
    variables: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl Program {
    /// It, with a variable of its environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Program {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// It, with these arguments.
    pub(crate) fn asked(mut self, arguments: &[&str]) -> Program {
        self.arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        self
    }
}

/// What cargo has built.
pub(crate) struct Built {
    /// Every test program, those that take longest first.
    pub(crate) programs: Vec<Program>,
    /// What is no test: examples and commands.
    pub(crate) others: Vec<Program>,
    /// The `qiao` command. Built by itself it would have other features of its dependencies, and be built anew.
    pub(crate) command: PathBuf,
}

/// Runs programs to their end, then the tests of the documentation.
///
/// # Errors
/// The programs that failed, by name, when all have ended.
pub(crate) fn run(programs: Vec<Program>) -> Result<Tally, String> {
    let (alone, together): (Vec<_>, Vec<_>) = programs.into_iter().partition(|p| ALONE.contains(&p.name.as_str()));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let done = Mutex::new(Done::default());
    // One more than there are cores: some programs sleep.
    lanes(together, cores.clamp(1, 4) + 1, &done);
    lanes(alone, 1, &done);
    let Done { mut tally, mut failed } = done.into_inner().expect("no lane panics");
    let documented = documentation()?;
    tally.add(&documented.0);
    failed.extend((!documented.1).then(|| "the tests of the documentation".to_string()));
    if !failed.is_empty() || tally.failed > 0 {
        return Err(format!("these failed: {}\n{} passed, {} failed", failed.join(", "), tally.passed, tally.failed));
    }
    if tally.passed == 0 {
        return Err("no test was run".into());
    }
    Ok(tally)
}

/// The program of this name.
///
/// # Errors
/// There is none.
pub(crate) fn named(programs: &[Program], name: &str) -> Result<Program, String> {
    programs.iter().find(|p| p.name == name).cloned().ok_or_else(|| format!("no test program is called {name}"))
}

#[derive(Default)]
struct Done {
    tally: Tally,
    failed: Vec<String>,
}

/// Every test program of the workspace, and the `qiao` command beside them.
///
/// # Errors
/// What does not build.
pub(crate) fn build() -> Result<Built, String> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("cargo test does not start: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo test --no-run: {}", output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let artifacts: Vec<Artifact> = messages.lines().filter_map(artifact).collect();
    let command = artifacts.iter().find(|a| !a.test && a.program.name == "qiao-cli::qiao");
    let command = command.ok_or("cargo built no qiao command")?.program.executable.clone();
    let (tests, others): (Vec<_>, Vec<_>) = artifacts.into_iter().partition(|a| a.test);
    let programs = |all: Vec<Artifact>| all.into_iter().map(|a| a.program).collect::<Vec<_>>();
    let (mut programs, others) = (programs(tests), programs(others));
    programs.sort_by_key(|p| {
        let package = p.name.split("::").next();
        FIRST.iter().position(|first| Some(*first) == package).unwrap_or(FIRST.len())
    });
    Ok(Built { programs, others, command })
}

/// An executable, and whether it is a test program.
#[derive(Debug, PartialEq, Eq)]
struct Artifact {
    program: Program,
    test: bool,
}

/// The executable that a line of cargo's messages tells of.
fn artifact(line: &str) -> Option<Artifact> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let executable = message["executable"].as_str()?.into();
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    // path+file:///…/crates/core#qiao-core@0.1.0, or …/crates/qiao#0.1.0 where the folder has the package's name.
    let (place, version) = message["package_id"].as_str()?.rsplit_once('#')?;
    let package = version.split_once('@').map_or_else(|| place.rsplit('/').next(), |(name, _)| Some(name))?;
    let name = format!("{package}::{}", message["target"]["name"].as_str()?);
    let program =
        Program { name, executable, folder: manifest.parent()?.into(), variables: Vec::new(), arguments: Vec::new() };
    Some(Artifact { program, test: message["profile"]["test"] == true })
}

/// Runs programs, so many at a time.
fn lanes(programs: Vec<Program>, count: usize, done: &Mutex<Done>) {
    let queue = Mutex::new(VecDeque::from(programs));
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                loop {
                    let Some(next) = queue.lock().expect("no lane panics").pop_front() else { return };
                    one(&next, done);
                }
            });
        }
    });
}

/// Runs one program, prints what it printed and counts it.
fn one(program: &Program, done: &Mutex<Done>) {
    let start = Instant::now();
    let mut command = Command::new(&program.executable);
    command.args(&program.arguments).current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
    command.envs(program.variables.iter().map(|(name, value)| (name, value)));
    command.env("CARGO", cargo().get_program());
    let output = command.stdin(Stdio::null()).output();
    let mut done = done.lock().expect("no lane panics");
    let (ended, text) = match output {
        Ok(output) => {
            let ended = (!output.status.success()).then(|| output.status.to_string());
            (ended, [output.stdout, output.stderr].concat())
        }
        Err(e) => (Some(format!("does not start: {e}")), Vec::new()),
    };
    let text = String::from_utf8_lossy(&text);
    let mut out = std::io::stdout().lock();
    let variables = program.variables.iter().map(|(name, value)| format!(" {name}={value}"));
    let beside: String = program.arguments.iter().map(|argument| format!(" {argument}")).chain(variables).collect();
    let head = format!("\n{}{beside} ({} s)", program.name, start.elapsed().as_secs());
    // A closed standard output is no reason to stop testing.
    writeln!(out, "{head}{}\n{}", ended.as_ref().map_or(String::new(), |e| format!(": {e}")), text.trim_end()).ok();
    text.lines().for_each(|line| done.tally.line(line));
    done.failed.extend(ended.map(|_| program.name.clone()));
}

/// The tests of the documentation, and whether all of them passed.
fn documentation() -> Result<(Tally, bool), String> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--doc", "--no-fail-fast"]).stderr(Stdio::inherit());
    let output = command.output().map_err(|e| format!("cargo test --doc does not start: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    let mut tally = Tally::default();
    text.lines().for_each(|line| tally.line(line));
    Ok((tally, output.status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_all_else_that_is_built() {
        let line = |test: bool, id: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"{id}","manifest_path":"/a/crates/core/Cargo.toml",
                "target":{{"name":"graph"}},"profile":{{"test":{test}}},"executable":"/t/graph-1"}}"#
            )
            .replace('\n', " ")
        };
        let found = artifact(&line(true, "path+file:///a/crates/core#qiao-core@0.1.0")).unwrap();
        let program = Program {
            name: "qiao-core::graph".into(),
            executable: "/t/graph-1".into(),
            folder: "/a/crates/core".into(),
            variables: Vec::new(),
            arguments: Vec::new(),
        };
        assert_eq!(found, Artifact { program, test: true });
        assert_eq!(artifact(&line(true, "path+file:///a/crates/qiao#0.1.0")).unwrap().program.name, "qiao::graph");
        assert!(!artifact(&line(false, "path+file:///a/crates/core#qiao-core@0.1.0")).unwrap().test);
        assert_eq!(artifact("   Compiling qiao-core"), None);
    }

    #[test]
    fn a_program_that_fails_is_named() {
        let program = |name: &str, executable: &str| Program {
            name: name.into(),
            executable: executable.into(),
            folder: std::env::temp_dir(),
            variables: Vec::new(),
            arguments: Vec::new(),
        };
        let done = Mutex::new(Done::default());
        let programs = vec![program("good", "true"), program("bad", "false"), program("lost", "/no/such/program")];
        lanes(programs, 2, &done);
        let mut failed = done.into_inner().unwrap().failed;
        failed.sort();
        assert_eq!(failed, ["bad", "lost"]);
    }
}
