//! Plugins built by the C compiler of this machine.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of this process's libraries. It goes with the process: a library is never unloaded, but its file may go.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder for libraries")).path()
}

/// Builds one C file as a plugin.
pub(crate) fn c_plugin(source: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let library = folder().join(format!("lib{name}.so"));
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-g", "-fPIC", "-shared", "-fvisibility=hidden"]);
    cc.args(["-Wall", "-Wextra", "-Werror"]).arg("-I").arg(root().join("crates/plugin/include"));
    let out = cc.args(flags).arg(source).arg("-o").arg(&library).arg("-lm").output().expect("a C compiler");
    assert!(out.status.success(), "{cc:?}\n{}", String::from_utf8_lossy(&out.stderr));
    library
}

/// The vendor's example.
pub(crate) fn acme() -> &'static Path {
    static ACME: OnceLock<PathBuf> = OnceLock::new();
    ACME.get_or_init(|| c_plugin(&root().join("examples/vendor-c/acme_npu.c"), "acme_npu", &[]))
}
