//! nvcc and NVRTC of one release, from Python wheels, in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::wheels;

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
        find(&wheels::ready(&folder.join("wheels"), PINNED)?)
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
