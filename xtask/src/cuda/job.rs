//! One unit for one target: a run of a compiler, kept by what went into it.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use qiao_kernels_cuda::{HEADERS, Unit};

use super::log::{self, Kernel};

/// What a unit is compiled for.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Target {
    /// Code of an architecture and the PTX that it comes from, by this nvcc.
    Cuda(PathBuf, &'static str),
    /// Code of a HIP target, by hipcc.
    Hip(&'static str),
}

impl Target {
    /// The name of the architecture.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Target::Cuda(_, name) | Target::Hip(name) => name,
        }
    }
}

/// A unit and a target.
pub(crate) struct Job {
    unit: &'static Unit,
    target: Target,
}

/// A job that the compiler took.
pub(crate) struct Done<'a> {
    job: &'a Job,
    /// The kernels that came out.
    pub(crate) kernels: Vec<Kernel>,
    /// Whether it was compiled now.
    pub(crate) fresh: bool,
}

impl Job {
    pub(crate) fn new(unit: &'static Unit, target: Target) -> Job {
        Job { unit, target }
    }

    /// The job's place in the folder: what all that goes into it hashes to.
    fn place(&self, folder: &Path) -> PathBuf {
        let mut names = Vec::new();
        included(self.unit.text, &mut names);
        let headers: Vec<&str> = names.iter().filter_map(|name| header(name)).collect();
        let command = format!("{:?}", self.command(Path::new("text"), Path::new("out")));
        let key = hash(&(self.unit.text, headers, command));
        folder.join("done").join(format!("{}-{}-{key}", self.unit.name, self.target.name()))
    }

    fn command(&self, text: &Path, out: &Path) -> Command {
        let source = text.join(format!("{}.cu", self.unit.name));
        let mut command = match &self.target {
            Target::Cuda(program, arch) => {
                let mut command = Command::new(program);
                command.args(["-cubin", &format!("-arch={arch}"), "-std=c++17"]);
                command.args(["-Xptxas", "-v,--warn-on-spills,-Werror", "--keep", "--keep-dir"]).arg(out);
                command
            }
            Target::Hip(arch) => {
                let mut command = Command::new("hipcc");
                command.args(["-x", "hip", "--genco", "-O3", "-std=c++17", &format!("--offload-arch={arch}")]);
                command.arg("-Rpass-analysis=kernel-resource-usage");
                command
            }
        };
        command.arg("-I").arg(text).arg(source).arg("-o").arg(out.join("code"));
        command
    }

    /// Runs the compiler, unless what it said is there; the words from which the kernels are read.
    fn words(&self, text: &Path, folder: &Path) -> Result<(String, bool), String> {
        let place = self.place(folder);
        let kept = place.with_extension("txt");
        if let Ok(words) = fs::read_to_string(&kept) {
            return Ok((words, false));
        }
        let out = place.with_extension("out");
        fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
        let mut command = self.command(text, &out);
        let output = command.output().map_err(|e| format!("{command:?} does not start: {e}"))?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !output.status.success() {
            let errors: Vec<&str> = said.lines().filter(|l| l.contains("error")).take(20).collect();
            let errors = if errors.is_empty() { said.lines().take(40).collect() } else { errors };
            return Err(format!("{}.cu for {}:\n{}", self.unit.name, self.target.name(), errors.join("\n")));
        }
        let words = match self.target {
            Target::Cuda(..) => {
                let ptx = out.join(format!("{}.ptx", self.unit.name));
                said + &log::entries(&fs::read_to_string(&ptx).map_err(|e| format!("{}: {e}", ptx.display()))?)
            }
            Target::Hip(_) => said,
        };
        let part = place.with_extension(format!("part{}", std::process::id()));
        let written = fs::write(&part, &words).and_then(|()| fs::rename(&part, &kept));
        written.map_err(|e| format!("{}: {e}", kept.display()))?;
        fs::remove_dir_all(&out).ok();
        Ok((words, true))
    }

    fn run(&self, text: &Path, folder: &Path) -> Result<Done<'_>, String> {
        let (words, fresh) = self.words(text, folder)?;
        let kernels = match self.target {
            Target::Cuda(..) => log::nvcc(&words),
            Target::Hip(_) => log::hipcc(&words),
        };
        Ok(Done { job: self, kernels, fresh })
    }
}

impl Done<'_> {
    /// The unit's name and the target's.
    pub(crate) fn names(&self) -> (&'static str, &'static str) {
        (self.job.unit.name, self.job.target.name())
    }

    /// Every way in which what came out differs from the rows.
    pub(crate) fn faults(&self) -> Vec<String> {
        let (unit, target) = self.names();
        let rows = self.job.unit.kernels;
        let mut faults = Vec::new();
        for kernel in &self.kernels {
            match rows.iter().find(|row| row.symbol == kernel.name) {
                None => faults.push(format!("{unit}.cu for {target} has {}, which no row names", kernel.name)),
                Some(row) if kernel.threads.is_some_and(|threads| threads != row.threads) => faults.push(format!(
                    "{} is compiled for {} threads, its row says {}",
                    kernel.name,
                    kernel.threads.unwrap_or(0),
                    row.threads
                )),
                Some(_) => {}
            }
        }
        for row in rows.iter().filter(|row| self.kernels.iter().all(|k| k.name != row.symbol)) {
            faults.push(format!("{} has a row, and {unit}.cu for {target} has no such kernel", row.symbol));
        }
        faults
    }
}

/// Runs every job, as many at once as the machine has threads.
///
/// # Errors
/// What the compilers did not take, all of it.
pub(crate) fn run_all<'a>(jobs: &'a [Job], text: &Path, folder: &Path) -> Result<Vec<Done<'a>>, String> {
    fs::create_dir_all(folder.join("done")).map_err(|e| format!("{}: {e}", folder.display()))?;
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = job.run(text, folder);
                    results.lock().expect("no thread panics").push(result);
                }
            });
        }
    });
    let (done, faults): (Vec<_>, Vec<_>) =
        results.into_inner().expect("no thread panics").into_iter().partition(Result::is_ok);
    let faults: Vec<String> = faults.into_iter().filter_map(Result::err).collect();
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    let mut done: Vec<Done<'a>> = done.into_iter().filter_map(Result::ok).collect();
    done.sort_by_key(Done::names);
    Ok(done)
}

fn header(name: &str) -> Option<&'static str> {
    HEADERS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Adds the headers that a text includes, and those that they include.
fn included<'a>(text: &'a str, names: &mut Vec<&'a str>) {
    for name in text.lines().filter_map(|l| l.trim_start().strip_prefix("#include \"")?.split('"').next()) {
        if !names.contains(&name) {
            names.push(name);
            included(header(name).unwrap_or_default(), names);
        }
    }
}

/// What something hashes to, of 128 bits in hexadecimal.
pub(crate) fn hash(what: &impl Hash) -> String {
    let one = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        (seed, what).hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", one(0), one(1))
}
