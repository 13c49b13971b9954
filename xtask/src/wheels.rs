//! Vendors' libraries from Python wheels, each set in a Python environment of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The environment in `folder` with exactly these wheels (`name==version`), fetched if they are not there; gives the folder.
///
/// # Errors
/// Why they can't be had, and how to mend it.
pub(crate) fn ready(folder: &Path, pinned: &[&str]) -> Result<PathBuf, String> {
    let mark = folder.join("ready.txt");
    if fs::read_to_string(&mark).is_ok_and(|text| text == pinned.join("\n")) {
        return Ok(folder.into());
    }
    fs::remove_dir_all(folder).ok();
    let name = folder.display().to_string();
    quiet(Command::new("python3").args(["-m", "venv", &name]), "apt-get install python3-venv")?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
    let mut install = Command::new(folder.join("bin/python"));
    quiet(install.args(pip).args(pinned), "the wheels come from the Python package index")?;
    fs::write(&mark, pinned.join("\n")).map_err(|e| format!("{}: {e}", mark.display()))?;
    Ok(folder.into())
}

fn quiet(command: &mut Command, mend: &str) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?} does not start ({e}): {mend}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = words.lines().last().unwrap_or_default();
    Err(format!("{command:?}: {last}: {mend}"))
}
