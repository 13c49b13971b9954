//! nvcc and NVRTC of one release, from Python wheels, in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All of one release: a wheel that is not pinned brings a newer one, whose PTX the others do not read.
const PINNED: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-nvrtc==13.0.88",
];

/// The wheels, unpacked.
pub(crate) struct Wheels {
    /// The folder with `bin`, `include` and `lib`.
    home: PathBuf,
}

impl Wheels {
    /// The wheels, fetched if they are not there.
    ///
    /// # Errors
    /// Why they can't be had, and how to mend it.
    pub(crate) fn ready(folder: &Path) -> Result<Wheels, String> {
        let venv = folder.join("wheels");
        let mark = venv.join("ready.txt");
        if fs::read_to_string(&mark).is_ok_and(|text| text == PINNED.join("\n")) {
            return find(&venv);
        }
        fs::remove_dir_all(&venv).ok();
        let venv_name = venv.display().to_string();
        quiet(Command::new("python3").args(["-m", "venv", &venv_name]), "apt-get install python3-venv")?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
        let mut install = Command::new(venv.join("bin/python"));
        quiet(install.args(pip).args(PINNED), "the wheels come from the Python package index")?;
        let wheels = find(&venv)?;
        fs::write(&mark, PINNED.join("\n")).map_err(|e| format!("{}: {e}", mark.display()))?;
        Ok(wheels)
    }

    /// The compiler.
    pub(crate) fn nvcc(&self) -> PathBuf {
        self.home.join("bin/nvcc")
    }

    /// The folder of the shared libraries.
    pub(crate) fn libraries(&self) -> PathBuf {
        self.home.join("lib")
    }
}

/// Looks for the folder below `lib/python3.x`.
fn find(venv: &Path) -> Result<Wheels, String> {
    let pythons = fs::read_dir(venv.join("lib")).map_err(|e| format!("{}: {e}", venv.display()))?;
    let homes = pythons.filter_map(|entry| Some(entry.ok()?.path().join("site-packages/nvidia/cu13")));
    let home = homes.into_iter().find(|home| home.join("bin/nvcc").is_file());
    home.map(|home| Wheels { home }).ok_or_else(|| format!("the wheels in {} hold no nvcc", venv.display()))
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
