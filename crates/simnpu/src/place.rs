//! Where the built library and the device program lie.

use std::path::{Path, PathBuf};
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

/// Whether a file was built no earlier than the plugin, which cargo does build for the tests of other crates.
fn is_fresh(path: &Path) -> bool {
    let built = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let plugin = beside(&library_name()).and_then(|plugin| built(&plugin));
    plugin.zip(built(path)).is_some_and(|(plugin, program)| program >= plugin)
}

fn library_name() -> String {
    format!("{}qiao_simnpu{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// The file beside the running program. Where the tests of another crate run under cargo, which builds no programs for
/// them, it is built first unless it is fresh; `target` says how.
fn built(name: &str, target: Option<&[&str]>) -> Result<PathBuf> {
    let missing = |found: String| Error::invalid(name, found, "build it with `cargo build -p qiao-simnpu`");
    let guest = std::env::var("CARGO_PKG_NAME").is_ok_and(|package| package != env!("CARGO_PKG_NAME"));
    let (Some(target), Ok(cargo), true) = (target, std::env::var("CARGO"), guest) else {
        return beside(name).ok_or_else(|| missing("it is not beside this program".into()));
    };
    if let Some(fresh) = beside(name).filter(|path| is_fresh(path)) {
        return Ok(fresh);
    }
    let program = std::env::current_exe().map_err(|e| missing(e.to_string()))?;
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
    if !status.success() {
        return Err(missing(format!("building it ended with {status}")));
    }
    beside(name).ok_or_else(|| missing("it is not beside this program, though it was built".into()))
}

/// Where the built plugin `libqiao_simnpu.so` lies: for tests of other crates, which have this one as a dependency.
///
/// # Errors
/// It is not beside the running program.
pub fn library() -> Result<PathBuf> {
    built(&library_name(), None)
}

/// Where the program of a device's process lies, likewise. Cargo builds no programs of dependencies, so that it is built
/// here where the tests of another crate ask for it.
///
/// # Errors
/// It is not beside the running program, or could not be built.
pub fn device_program() -> Result<PathBuf> {
    let name = format!("qiao-simnpu-device{}", std::env::consts::EXE_SUFFIX);
    built(&name, Some(&["--bin", "qiao-simnpu-device"]))
}
