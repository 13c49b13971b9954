//! Plugins built by the C compiler of this machine.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of these tests' libraries.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(concat!("plugin-", env!("CARGO_CRATE_NAME")));
        std::fs::create_dir_all(&folder).expect("a folder for libraries");
        folder
    })
}

/// Builds one C file as a plugin, once for each name and process. It is put in its place when it is whole: what another process has
/// loaded from there must not be written again.
pub(crate) fn c_plugin(source: &Path, name: &str, flags: &[&str]) -> PathBuf {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let library = folder().join(format!("lib{name}.so"));
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if built.contains(name) {
        return library;
    }
    let part = folder().join(format!("{name}.part{}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-g", "-fPIC", "-shared", "-fvisibility=hidden"]);
    cc.args(["-Wall", "-Wextra", "-Werror"])
        .args(flags.iter().filter(|f| !f.starts_with("-l")))
        .arg("-I")
        .arg(root().join("crates/plugin/include"));
    let out = cc
        .arg(source)
        .args(flags.iter().filter(|f| f.starts_with("-l")))
        .arg("-o")
        .arg(&part)
        .arg("-lm")
        .output()
        .expect("a C compiler");
    assert!(out.status.success(), "{cc:?}\n{}", String::from_utf8_lossy(&out.stderr));
    std::fs::rename(&part, &library).expect("the library is put in its place");
    built.insert(name.into());
    library
}

/// The vendor's example.
pub(crate) fn acme() -> &'static Path {
    static ACME: OnceLock<PathBuf> = OnceLock::new();
    ACME.get_or_init(|| c_plugin(&root().join("examples/vendor-c/acme_npu.c"), "acme_npu", &[]))
}

/// The vendor's example with altered answers, as `variants.c` names them.
pub(crate) fn variant(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/variants.c");
    c_plugin(&source, &name.to_lowercase(), &[&format!("-DVARIANT={name}")])
}

/// The vendor's example, built with another header than this one.
pub(crate) fn acme_with(header: &str, name: &str) -> PathBuf {
    let include = folder().join(name);
    std::fs::create_dir_all(&include).expect("a folder for the header");
    std::fs::write(include.join("qiao_plugin.h"), header).expect("the header is written");
    let first = format!("-I{}", include.display());
    c_plugin(&root().join("examples/vendor-c/acme_npu.c"), name, &[&first])
}

/// Fails unless an error says each of these.
#[track_caller]
pub(crate) fn says(error: &qiao_core::Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "the error does not say {part:?}: {text}");
    }
}
