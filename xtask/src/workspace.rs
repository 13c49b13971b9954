//! What `cargo metadata` says of the workspace's members.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What a dependency is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// The crate itself, or its build script.
    Code,
    /// Its tests, examples and benchmarks.
    Tests,
}

/// A line of a member's `[dependencies]`, `[build-dependencies]` or `[dev-dependencies]`.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) purpose: For,
    /// Whether it is a member of this workspace too.
    pub(crate) inside: bool,
}

/// A crate root: `lib.rs`, `main.rs`, an example.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: String,
    pub(crate) path: PathBuf,
}

/// A member of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// The root of the workspace that this program was built in.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in a folder of the root").into()
}

/// The folder that cargo builds in.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// The cargo that runs this program, else the one on the path.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The members of the workspace at `root`.
pub(crate) fn members() -> Result<Vec<Member>, String> {
    let args = ["metadata", "--no-deps", "--format-version", "1"];
    let output = cargo().args(args).output().map_err(|e| format!("cargo metadata does not start: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    read(&output.stdout)
}

/// Reads the output of `cargo metadata --no-deps`.
pub(crate) fn read(json: &[u8]) -> Result<Vec<Member>, String> {
    let json: Value = serde_json::from_slice(json).map_err(|e| format!("cargo metadata is no JSON: {e}"))?;
    list(&json, "packages")?.iter().map(member).collect()
}

fn member(package: &Value) -> Result<Member, String> {
    let folder = Path::new(text(package, "manifest_path")?).parent().ok_or("a manifest without a folder")?.into();
    let dependency = |d: &Value| {
        let purpose = if d["kind"] == "dev" { For::Tests } else { For::Code };
        Ok(Dependency { name: text(d, "name")?.into(), purpose, inside: d["path"].is_string() })
    };
    let target = |t: &Value| {
        let kind = t["kind"][0].as_str().ok_or("a target without a kind")?.into();
        Ok(Target { kind, path: text(t, "src_path")?.into() })
    };
    Ok(Member {
        name: text(package, "name")?.into(),
        folder,
        dependencies: list(package, "dependencies")?.iter().map(dependency).collect::<Result<_, String>>()?,
        targets: list(package, "targets")?.iter().map(target).collect::<Result<_, String>>()?,
    })
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    value[key].as_array().ok_or_else(|| format!("cargo metadata has no list '{key}'"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, String> {
    value[key].as_str().ok_or_else(|| format!("cargo metadata has no text '{key}'"))
}
