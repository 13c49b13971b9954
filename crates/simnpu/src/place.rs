//! Where the built library and the device program lie.

use std::path::PathBuf;
use std::process::Command;

use qiao_core::{Error, Result};

/// The file from which this code was loaded as a plugin, as Linux tells it.
fn loaded_from() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    paths.filter(|path| path.ends_with("libqiao_simnpu.so")).map(PathBuf::from).next()
}

/// A file of this name beside the loaded plugin or the running program, or in a folder above either, where cargo puts what
/// it builds.
pub(crate) fn beside(name: &str) -> Option<PathBuf> {
    let origins = [loaded_from(), std::env::current_exe().ok()];
    let places = origins.iter().flatten().flat_map(|origin| {
        let folders = origin.ancestors().skip(1).take(3);
        folders.flat_map(|folder| [folder.join(name), folder.join("deps").join(name)])
    });
    places.into_iter().find(|path| path.is_file())
}

/// The file beside the running program; where a test runs under cargo, it is built first if it is not there.
fn built(name: &str, target: &[&str]) -> Result<PathBuf> {
    if let Some(path) = beside(name) {
        return Ok(path);
    }
    let command = format!("cargo build -p qiao-simnpu {}", target.join(" "));
    let missing = |found: String| Error::invalid(name, found, format!("build it with `{command}`"));
    let (Ok(cargo), Ok(program)) = (std::env::var("CARGO"), std::env::current_exe()) else {
        return Err(missing("it is not beside this program".into()));
    };
    // .../<target>/<profile>/deps/<program>
    let profile = program.ancestors().find(|p| p.ends_with("debug") || p.ends_with("release"));
    let Some((profile, folder)) = profile.and_then(|p| Some((p, p.parent()?))) else {
        return Err(missing(format!("{} lies in no folder of cargo's", program.display())));
    };
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "-p", "qiao-simnpu"]).args(target).arg("--target-dir").arg(folder);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().map_err(|e| missing(e.to_string()))?;
    beside(name).ok_or_else(|| missing(format!("building it ended with {status}")))
}

/// Where the built plugin `libqiao_simnpu.so` lies: for tests of other crates, which have this one as a dependency.
///
/// # Errors
/// It is not beside the running program, and could not be built.
pub fn library() -> Result<PathBuf> {
    let name = format!("{}qiao_simnpu{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    built(&name, &["--lib"])
}

/// Where the program of a device's process lies, likewise.
///
/// # Errors
/// As [`library`].
pub fn device_program() -> Result<PathBuf> {
    let name = format!("qiao-simnpu-device{}", std::env::consts::EXE_SUFFIX);
    built(&name, &["--bin", "qiao-simnpu-device"])
}
