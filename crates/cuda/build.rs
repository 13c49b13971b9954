//! With the feature `prebuilt`, compiles every unit by nvcc into images that the crate embeds; else does nothing.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use qiao_kernels_cuda::{HEADERS, UNITS, Unit};

/// What nvcc compiles for, with the option that says so: code of three architectures, and text that the driver of a
/// newer card translates.
const TARGETS: &[(&str, &str)] =
    &[("sm_80", "-cubin"), ("sm_89", "-cubin"), ("sm_90a", "-cubin"), ("compute_90", "-ptx")];

const MEND: &str =
    "install the CUDA toolkit 12.0 or newer and name its compiler by QIAO_NVCC, or build without the feature prebuilt";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_PREBUILT").is_none() {
        return ExitCode::SUCCESS;
    }
    println!("cargo::rerun-if-env-changed=QIAO_NVCC");
    match prebuild() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            why.lines().for_each(|line| println!("cargo::error={line}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes the images and `prebuilt.rs`, the table that includes them.
fn prebuild() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: cargo runs this program")?);
    let nvcc = Nvcc::find()?;
    println!("cargo::rerun-if-changed={}", nvcc.program.display());
    let text = out.join("text");
    write_texts(&text).map_err(|e| format!("{}: {e}", text.display()))?;
    let jobs: Vec<Job> =
        UNITS.iter().flat_map(|unit| TARGETS.iter().map(move |&(name, kind)| Job { unit, name, kind })).collect();
    let images = run_all(&jobs, &nvcc, &text, &out)?;
    remove_old(&out, &images);
    let mut table = String::from("const IMAGES: &[Image] = &[\n");
    for (job, image) in jobs.iter().zip(&images) {
        let (unit, target) = (job.unit.name, job.name);
        table += &format!(
            "    Image {{ unit: {unit:?}, target: {target:?}, bytes: &Aligned(*include_bytes!({image:?})) }},\n"
        );
    }
    table += "];\n";
    let path = out.join("prebuilt.rs");
    fs::write(&path, table).map_err(|e| format!("{}: {e}", path.display()))
}

fn write_texts(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    HEADERS.iter().try_for_each(|(name, text)| fs::write(folder.join(name), text))?;
    UNITS.iter().try_for_each(|unit| fs::write(folder.join(format!("{}.cu", unit.name)), unit.text))
}

/// NVIDIA's compiler.
struct Nvcc {
    program: PathBuf,
    /// What it says of itself.
    version: String,
}

impl Nvcc {
    /// That of `QIAO_NVCC`, of `PATH`, or of the toolkit's usual place.
    fn find() -> Result<Nvcc, String> {
        if let Some(named) = env::var_os("QIAO_NVCC").filter(|n| !n.is_empty()) {
            return Nvcc::ask(PathBuf::from(&named)).map_err(|e| format!("QIAO_NVCC: {e}: {MEND}"));
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let mut places = env::split_paths(&path).map(|folder| folder.join("nvcc")).collect::<Vec<_>>();
        places.push("/usr/local/cuda/bin/nvcc".into());
        let found = places.into_iter().find(|p| p.is_file());
        let found = found.ok_or_else(|| {
            format!("the feature prebuilt needs nvcc, which is neither in PATH nor in /usr/local/cuda/bin: {MEND}")
        })?;
        Nvcc::ask(found).map_err(|e| format!("{e}: {MEND}"))
    }

    fn ask(program: PathBuf) -> Result<Nvcc, String> {
        let output = Command::new(&program).arg("--version").output();
        let output = output.map_err(|e| format!("{} does not start: {e}", program.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && version.contains("NVIDIA") {
            return Ok(Nvcc { program, version });
        }
        Err(format!("{} --version does not answer as nvcc does ({})", program.display(), output.status))
    }
}

/// A unit for a target.
struct Job {
    unit: &'static Unit,
    name: &'static str,
    kind: &'static str,
}

impl Job {
    /// Where the image stands: named by all that goes into it, so that what is there need not be made again.
    fn place(&self, nvcc: &Nvcc, out: &Path) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (self.unit.text, HEADERS, &nvcc.version, self.kind).hash(&mut hasher);
        out.join(format!("{}-{}-{:016x}.fatbin", self.unit.name, self.name, hasher.finish()))
    }

    /// The image, compiled with the options of run-time compilation and then compressed, unless it is there.
    fn run(&self, nvcc: &Nvcc, text: &Path, out: &Path) -> Result<PathBuf, String> {
        let place = self.place(nvcc, out);
        if place.is_file() {
            return Ok(place);
        }
        let source = text.join(format!("{}.cu", self.unit.name));
        let code = place.with_extension(self.kind.trim_start_matches('-'));
        let part = place.with_extension("part");
        let mut compile = Command::new(&nvcc.program);
        compile.args([self.kind, &format!("-arch={}", self.name), "-std=c++17", "-I"]).arg(text).arg(source);
        self.pass(compile.arg("-o").arg(&code))?;
        self.check(&code)?;
        let real = self.name.replace("sm_", "compute_");
        let target = format!("-gencode=arch={real},code={}", self.name);
        let mut compress = Command::new(&nvcc.program);
        compress.args(["-fatbin", &target, "-Xfatbin", "-compress-all"]).arg(&code);
        self.pass(compress.arg("-o").arg(&part))?;
        let renamed = fs::rename(&part, &place).and_then(|()| fs::remove_file(&code));
        renamed.map(|()| place).map_err(|e| format!("{}: {e}", part.display()))
    }

    fn pass(&self, command: &mut Command) -> Result<(), String> {
        let output = command.output().map_err(|e| format!("{command:?} does not start: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let first = said.lines().take(20).collect::<Vec<_>>().join("\n");
        Err(format!("nvcc does not compile {}.cu for {}:\n{first}\n{MEND}", self.unit.name, self.name))
    }

    /// Looks for the symbol of every row in what came out.
    fn check(&self, code: &Path) -> Result<(), String> {
        let bytes = fs::read(code).map_err(|e| format!("{}: {e}", code.display()))?;
        let words: HashSet<&[u8]> = bytes.split(|b| !b.is_ascii_alphanumeric() && *b != b'_').collect();
        match self.unit.kernels.iter().find(|kernel| !words.contains(kernel.symbol.as_bytes())) {
            None => Ok(()),
            Some(kernel) => Err(format!("{}.cu for {} has no {}", self.unit.name, self.name, kernel.symbol)),
        }
    }
}

/// Runs every job, as many at once as cargo has threads; the images in the order of the jobs.
fn run_all(jobs: &[Job], nvcc: &Nvcc, text: &Path, out: &Path) -> Result<Vec<PathBuf>, String> {
    let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at) else { break };
                    let result = job.run(nvcc, text, out);
                    if result.is_err() {
                        next.store(jobs.len(), Ordering::Relaxed);
                    }
                    results.lock().expect("no thread panics").push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no thread panics");
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Removes images of texts and compilers that are no more.
fn remove_old(out: &Path, images: &[PathBuf]) {
    let kept: HashSet<&PathBuf> = images.iter().collect();
    for entry in fs::read_dir(out).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| ["fatbin", "cubin", "ptx", "part"].iter().any(|kind| e == *kind))
            && !kept.contains(&path)
        {
            fs::remove_file(path).ok();
        }
    }
}
