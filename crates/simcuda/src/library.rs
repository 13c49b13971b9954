//! Builds the libraries, once for each content: objects and libraries are kept by the hash of what they are made of, and
//! processes that want the same wait for each other.

use std::collections::VecDeque;
use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use qiao_kernels_cuda::Unit;

use crate::families::Family;
use crate::{generated, sources, symbols};

/// What the kernels are compiled with beside the flags of all.
const KERNEL_FLAGS: &[&str] = &[
    "-O1",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fstack-clash-protection",
    "-Wno-attributes",
];

const FLAGS: &[&str] = &["-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread"];

/// Where the two libraries lie, and the names that answer to the numbered ones.
pub(crate) struct Built {
    pub(crate) driver: PathBuf,
    pub(crate) compiler: PathBuf,
    /// Libraries that lead to the driver and the compiler by their numbered names.
    pub(crate) aliases: Vec<PathBuf>,
    /// One that leads to the driver, which has cuBLASLt's functions, for those cards that have it.
    pub(crate) blas: Option<PathBuf>,
    /// The compiler as a program, for the vendor that has no library of one.
    pub(crate) program: Option<PathBuf>,
}

/// A text to compile.
struct Source<'a> {
    name: String,
    text: String,
    flags: Vec<String>,
    /// The unit that it holds.
    unit: Option<&'a Unit>,
}

/// The compiler and where everything is kept.
struct Shop {
    cxx: String,
    version: String,
    root: PathBuf,
    /// Where all headers and units lie.
    headers: PathBuf,
}

/// Builds the libraries with these units for this width of a warp under a vendor's names, unless they are there.
///
/// # Errors
/// There is no C++ compiler, a text does not compile, or a text and its rows differ.
pub(crate) fn build(units: &[&Unit], warp: u32, family: Family) -> Result<Built, String> {
    let root = target_folder().join("simcuda");
    fs::create_dir_all(root.join("objects")).map_err(|e| format!("{}: {e}", root.display()))?;
    let lock = File::create(root.join("lock")).map_err(|e| format!("{}: {e}", root.display()))?;
    lock.lock().map_err(|e| format!("{}: {e}", root.display()))?;
    let shop = Shop::new(root, units)?;
    let mut sources = driver_sources(units, warp);
    let compiler_at = sources.len();
    sources.extend(plain(sources::COMPILER));
    let texts = Source { name: "texts".into(), text: generated::texts(units), flags: opt("-O0"), unit: None };
    sources.push(texts);
    let program_at = sources.len();
    sources.extend(plain(sources::PROGRAM).into_iter().filter(|_| family == Family::Corex));
    let objects = shop.compile_all(&sources)?;
    let (libraries, program) = objects.split_at(program_at);
    let (driver, compiler) = libraries.split_at(compiler_at);
    shop.link(family, &Objects { driver, compiler, program })
}

fn opt(level: &str) -> Vec<String> {
    vec![level.to_string()]
}

fn plain(files: &[(&str, &str)]) -> Vec<Source<'static>> {
    let source = |(name, text): &(&str, &str)| Source {
        name: name.to_string(),
        text: text.to_string(),
        flags: opt("-O2"),
        unit: None,
    };
    files.iter().map(source).collect()
}

fn driver_sources<'a>(units: &[&'a Unit], warp: u32) -> Vec<Source<'a>> {
    let mut flags: Vec<String> = KERNEL_FLAGS.iter().map(|f| f.to_string()).collect();
    flags.extend(["-DQIAO_SIMT".to_string(), format!("-DSIMT_WARP={warp}")]);
    if has_fma() {
        flags.push("-mfma".into());
    }
    let mut all = plain(sources::DRIVER);
    all.extend(units.iter().map(|unit| Source {
        name: unit.name.to_string(),
        text: generated::unit(unit),
        flags: flags.clone(),
        unit: Some(unit),
    }));
    all
}

fn has_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The folder that cargo builds into: that of this program, or the environment's, or the system's for temporary files.
fn target_folder() -> PathBuf {
    let mine = env::current_exe().ok();
    let tagged = mine.as_deref().and_then(|exe| exe.ancestors().find(|a| a.join("CACHEDIR.TAG").is_file()));
    tagged
        .map(Path::to_path_buf)
        .or_else(|| env::var_os("CARGO_TARGET_DIR").map(PathBuf::from))
        .unwrap_or_else(env::temp_dir)
}

/// A hash of these words, of 128 bits in hexadecimal.
fn hash(words: &[&str]) -> String {
    let one = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        words.hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", one(0), one(1))
}

/// Writes a file so that who reads it sees all of it or nothing.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    let written = fs::write(&part, text).and_then(|()| fs::rename(&part, path));
    written.map_err(|e| format!("{}: {e}", path.display()))
}

impl Shop {
    fn new(root: PathBuf, units: &[&Unit]) -> Result<Self, String> {
        let cxx = env::var("CXX").ok().filter(|c| !c.is_empty()).unwrap_or_else(|| "g++".into());
        let version = Command::new(&cxx).arg("--version").output().map_err(|e| {
            format!("the simulated card is built by a C++ compiler; {cxx} does not start ({e}): install g++, or name one in CXX")
        })?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let words: Vec<&str> = headers().flat_map(|(name, text)| [*name, *text]).chain(texts(units)).collect();
        let folder = root.join(format!("text-{}", hash(&words)));
        if !folder.is_dir() {
            let part = root.join(format!("text.part{}", std::process::id()));
            fs::create_dir_all(&part).map_err(|e| format!("{}: {e}", part.display()))?;
            for (name, text) in headers() {
                write(&part.join(name), text)?;
            }
            for unit in units {
                write(&part.join(format!("{}.cu", unit.name)), unit.text)?;
            }
            fs::rename(&part, &folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        }
        Ok(Shop { cxx, version, root, headers: folder })
    }

    /// Compiles what is not there, as many at once as the machine has threads. Objects in the order of their sources.
    fn compile_all(&self, sources: &[Source<'_>]) -> Result<Vec<PathBuf>, String> {
        let objects: Vec<PathBuf> = sources.iter().map(|s| self.object(s)).collect();
        let queue: Mutex<VecDeque<usize>> =
            Mutex::new((0..sources.len()).filter(|i| !objects[*i].is_file()).rev().collect());
        let faults = Mutex::new(Vec::new());
        let hands = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..hands {
                scope.spawn(|| {
                    while let Some(i) = { queue.lock().expect("no hand panics").pop_front() } {
                        if let Err(why) = self.compile(&sources[i], &objects[i]) {
                            faults.lock().expect("no hand panics").push(why);
                        }
                    }
                });
            }
        });
        let faults = faults.into_inner().expect("no hand panics");
        if faults.is_empty() { Ok(objects) } else { Err(faults.join("\n")) }
    }

    fn object(&self, source: &Source<'_>) -> PathBuf {
        let flags = [source.flags.join(" "), FLAGS.join(" ")];
        let mut words = vec![self.version.as_str(), &flags[0], &flags[1], &source.name, &source.text];
        words.extend(source.unit.map(|u| u.text));
        let texts = source.unit.map_or_else(|| source.text.as_str(), |u| u.text);
        let mut seen = vec!["registry.h", "simt.h"];
        included(texts, &mut seen);
        words.extend(seen.iter().filter_map(|name| header(name)));
        self.root.join("objects").join(format!("{}-{}.o", source.name, hash(&words)))
    }

    fn command(&self, source: &Source<'_>) -> Command {
        let mut command = Command::new(&self.cxx);
        command.args(FLAGS).args(&source.flags).arg("-I").arg(&self.headers);
        command
    }

    /// Compiles a source, unless what it comes to after preprocessing was compiled before.
    fn compile(&self, source: &Source<'_>, object: &Path) -> Result<(), String> {
        let text = object.with_extension("cpp");
        write(&text, &source.text)?;
        let preprocessed = run(self.command(source).args(["-E", "-P"]).arg(&text))?;
        if let Some(unit) = source.unit {
            let faults = symbols::differences(unit, &symbols::read(&preprocessed));
            if !faults.is_empty() {
                return Err(faults.join("\n"));
            }
        }
        let same = format!("{}.o", hash(&[&self.version, &source.flags.join(" "), &FLAGS.join(" "), &preprocessed]));
        let same = object.with_file_name(same);
        let failed = |e: std::io::Error| format!("{}: {e}", object.display());
        if !same.is_file() {
            let part = object.with_extension(format!("part{}", std::process::id()));
            run(self.command(source).arg("-c").arg(&text).arg("-o").arg(&part))?;
            fs::rename(&part, &same).map_err(failed)?;
        }
        fs::hard_link(&same, object).or_else(|_| fs::copy(&same, object).map(drop)).map_err(failed)
    }

    /// Links the libraries under the names that are looked for first, with the symbols that the vendor has, and what only leads
    /// to them.
    fn link(&self, family: Family, objects: &Objects<'_>) -> Result<Built, String> {
        let all = [objects.driver, objects.compiler, objects.program].concat();
        let words: Vec<String> = all.iter().map(|o| o.display().to_string()).collect();
        let aliases: Vec<String> = family.aliases().iter().map(|(name, of)| format!("{name}={of}")).collect();
        let named: Vec<&str> = words.iter().chain(&aliases).map(String::as_str).chain([family.name()]).collect();
        let folder = self.root.join(format!("card-{}", hash(&named)));
        let (driver, compiler) = family.files();
        let at = |folder: &Path| Built {
            driver: folder.join(driver),
            compiler: folder.join(compiler.unwrap_or(driver)),
            aliases: numbered(family).iter().map(|name| folder.join(name)).collect(),
            blas: (family == Family::Cuda).then(|| folder.join("libcublasLt.so")),
            program: (family == Family::Corex).then(|| folder.join("clang")),
        };
        if folder.is_dir() {
            return Ok(at(&folder));
        }
        let part = self.root.join(format!("card.part{}", std::process::id()));
        fs::create_dir_all(&part).map_err(|e| format!("{}: {e}", part.display()))?;
        let built = at(&part);
        let mut libraries = vec![(&built.driver, objects.driver.to_vec())];
        match compiler {
            Some(_) => libraries.push((&built.compiler, objects.compiler.to_vec())),
            None => libraries[0].1.extend(objects.compiler.to_vec()),
        }
        for (library, objects) in libraries {
            let is_driver = *library == built.driver;
            let own = |of: &&(String, String)| compiler.is_none() || is_driver != is_of_compiler(&of.1);
            let names = family.aliases();
            let symbols = names.iter().filter(own).map(|(name, of)| format!("-Wl,--defsym={name}={of}"));
            run(self.shared(library).args(objects).args(symbols))?;
        }
        for (alias, library) in
            built.aliases.iter().chain(&built.blas).zip([&built.driver, &built.compiler, &built.driver])
        {
            run(self.shared(alias).arg("-Wl,--no-as-needed").arg(library))?;
        }
        if let Some(program) = &built.program {
            let mut command = Command::new(&self.cxx);
            run(command.args(objects.program).args(objects.compiler).arg("-pthread").arg("-o").arg(program))?;
        }
        fs::rename(&part, &folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(at(&folder))
    }

    fn shared(&self, library: &Path) -> Command {
        let name = library.file_name().unwrap_or_default().to_string_lossy();
        let mut command = Command::new(&self.cxx);
        command.args(["-shared", "-pthread", &format!("-Wl,-soname,{name}"), "-o"]).arg(library);
        command
    }
}

/// What is linked: the driver with the kernels, the run-time compiler, and what makes a program of it.
struct Objects<'a> {
    driver: &'a [PathBuf],
    compiler: &'a [PathBuf],
    program: &'a [PathBuf],
}

/// The names by which programs ask for a certain release.
fn numbered(family: Family) -> &'static [&'static str] {
    match family {
        Family::Cuda => &["libcuda.so.1", "libnvrtc.so.13"],
        _ => &[],
    }
}

fn is_of_compiler(symbol: &str) -> bool {
    symbol.starts_with("nvrtc")
}

fn headers() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    sources::SEEN_BY_KERNELS.iter().chain(sources::HEADERS).chain(qiao_kernels_cuda::HEADERS)
}

fn header(name: &str) -> Option<&'static str> {
    headers().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Adds the headers that a text includes, and those that they include.
fn included(text: &str, seen: &mut Vec<&'static str>) {
    for name in text.lines().filter_map(|l| l.trim_start().strip_prefix("#include \"")?.split('"').next()) {
        let Some((known, inner)) = headers().find(|(known, _)| *known == name) else { continue };
        if !seen.contains(known) {
            seen.push(known);
            included(inner, seen);
        }
    }
}

fn texts<'a>(units: &[&'a Unit]) -> impl Iterator<Item = &'a str> {
    units.iter().flat_map(|u| [u.name, u.text])
}

/// Runs a compiler; what it printed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?} does not start: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr)))
}
