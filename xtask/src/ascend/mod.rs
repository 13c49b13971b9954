//! `cargo xtask ascend`: what the Ascend backend declares is held to what Huawei's own Python wheel carries.
//!
//! - Functions of the run time, and of the operators' base, by their whole signature: result, arguments, pointers, `const`.
//! - Error codes by name and number.
//! - Operators by name alone: no header of theirs is in the wheel, but its library asks for them by name.
//!
//! The wheel is one release, told by its hash; it is kept in the target folder. What was not seen is named.

mod c;
mod declared;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace::{root, target_folder};
use c::Headers;
use declared::Declared;

/// The release, and the hash of its wheel for CPython 3.11 on x86-64.
const WHEEL: &str = "torch-npu==2.14.0";
const HASH: &str = "7736f7d82cf9f16c7dfc4537f7e7c638153da760273a193455e70857f912189e";
const BUILT_FOR: [&str; 8] =
    ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--platform", "manylinux_2_28_x86_64"];

/// Where the backend declares what it calls.
const LISTS: [&str; 2] = ["crates/ascend/src/sys.rs", "crates/ascend/src/operators.rs"];

/// Where it names error codes.
const CODES: &str = "crates/ascend/src/codes.rs";

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Functions whose signature is that of the headers.
    signatures: usize,
    /// Codes whose number is that of the headers.
    codes: usize,
    /// Operators whose name the library asks for.
    names: usize,
    /// What no header declares and no library asks for.
    unseen: Vec<String>,
}

/// Holds the declarations to the wheel, and says what was seen.
pub(crate) fn run() -> Result<(), String> {
    println!("{}", gate()??);
    Ok(())
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { signatures, codes, names, unseen } = self;
        write!(
            f,
            "{WHEEL}: {signatures} signatures, {codes} error codes and {names} names of operators are as declared"
        )?;
        if unseen.is_empty() { Ok(()) } else { write!(f, "; not seen: {}", unseen.join(", ")) }
    }
}

/// The check; what it found, or the mismatches.
///
/// # Errors
/// The outer: the wheel can't be had, and why.
pub(crate) fn gate() -> Result<Result<Found, String>, String> {
    let wheel = wheel()?;
    let (mut headers, mut names) = (Vec::new(), HashSet::new());
    for file in files(&wheel)? {
        let ends = |end: &str| file.extension().is_some_and(|e| e == end);
        let path = file.to_string_lossy();
        if ends("h") && (path.contains("third_party/acl") || path.ends_with("op_api_common_base.h")) {
            headers.push(fs::read_to_string(&file).map_err(|e| format!("{path}: {e}"))?);
        } else if ends("so") {
            names.extend(asked_for(&fs::read(&file).map_err(|e| format!("{path}: {e}"))?));
        }
    }
    Ok(check(&headers, &names))
}

/// Everything that differs, or what was found.
fn check(headers: &[String], names: &HashSet<String>) -> Result<Found, String> {
    let parsed = Headers::read(headers);
    let (mut found, mut faults) = (Found::default(), Vec::new());
    for list in LISTS {
        for declared in declared::functions(&text_of(list)?)? {
            match parsed.signature(&declared.name) {
                Some(there) => match differences(&declared, &there) {
                    differs if differs.is_empty() => found.signatures += 1,
                    differs => faults.extend(differs),
                },
                None if names.contains(&declared.name) => found.names += 1,
                None => found.unseen.push(declared.name),
            }
        }
    }
    for (number, name) in declared::numbers(&text_of(CODES)?) {
        match Headers::number(headers, &name) {
            Some(there) if there == number => found.codes += 1,
            Some(there) => faults.push(format!("{name} is {number} in {CODES}, and {there} in the headers")),
            None => found.unseen.push(name),
        }
    }
    if faults.is_empty() { Ok(found) } else { Err(faults.join("\n")) }
}

/// How a declaration differs from a prototype.
fn differences(declared: &Declared, there: &c::Signature) -> Vec<String> {
    let (name, here) = (&declared.name, &declared.signature);
    let mut faults = Vec::new();
    if here.result != there.result {
        faults
            .push(format!("{name}: the result is {} in the backend, and {} in the headers", here.result, there.result));
    }
    if here.arguments.len() != there.arguments.len() {
        let (ours, theirs) = (here.arguments.len(), there.arguments.len());
        faults.push(format!("{name} has {ours} arguments in the backend, and {theirs} in the headers"));
    }
    for (i, (ours, theirs)) in here.arguments.iter().zip(&there.arguments).enumerate() {
        if ours != theirs {
            faults.push(format!("{name}: argument {i} is {ours} in the backend, and {theirs} in the headers"));
        }
    }
    faults
}

/// The names that a library asks for: texts of its own that begin as AscendCL's do.
fn asked_for(library: &[u8]) -> impl Iterator<Item = String> {
    let texts = library.split(|b| *b == 0).filter(|t| t.starts_with(b"acl") && t.len() < 256);
    texts.filter_map(|t| Some(std::str::from_utf8(t).ok()?.to_string()))
}

fn text_of(path: &str) -> Result<String, String> {
    fs::read_to_string(root().join(path)).map_err(|e| format!("{path}: {e}"))
}

/// Every file below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let path = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

/// The wheel, unpacked; fetched if it is not there.
fn wheel() -> Result<PathBuf, String> {
    let folder = target_folder().join("ascend");
    let (mark, inside) = (folder.join("ready.txt"), folder.join("wheel"));
    if fs::read_to_string(&mark).is_ok_and(|text| text == HASH) {
        return Ok(inside);
    }
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(&folder).map_err(failed)?;
    let wanted = folder.join("wanted.txt");
    fs::write(&wanted, format!("{WHEEL} --hash=sha256:{HASH}\n")).map_err(failed)?;
    let mut fetch = Command::new("python3");
    fetch.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]);
    fetch.args(BUILT_FOR).args(["--require-hashes", "-d"]).arg(&folder).arg("-r").arg(&wanted);
    quiet(&mut fetch, "the wheel comes from the Python package index, by pip")?;
    let found = fs::read_dir(&folder).map_err(failed)?.filter_map(|e| Some(e.ok()?.path()));
    let file = found.into_iter().find(|p| p.extension().is_some_and(|e| e == "whl"));
    let file = file.ok_or_else(|| format!("pip left no wheel in {}", folder.display()))?;
    quiet(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(file).arg(&inside), "python3 unpacks it")?;
    fs::write(&mark, HASH).map_err(failed)?;
    Ok(inside)
}

fn quiet(command: &mut Command, mend: &str) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?} does not start ({e}): {mend}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?}: {}: {mend}", words.lines().last().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The backend's own declarations, as headers would have them, with one word changed.
    fn headers(change: (&str, &str)) -> Vec<String> {
        let mut text = String::from("typedef void *aclrtStream;\n#define ACL_ERROR_RT_CONTEXT_NULL 107002\n");
        text.push_str("int aclrtFree(void *devPtr);\nint aclrtStreamQuery(aclrtStream stream, int32_t *status);\n");
        text.push_str("const char *aclGetRecentErrMsg();\n");
        vec![text.replace(change.0, change.1)]
    }

    #[test]
    fn what_is_declared_as_in_the_headers_passes_and_the_rest_is_named() {
        let names = asked_for(b"\0aclnnAdd\0aclnnMulti\0").collect();
        let found = check(&headers(("none", "none")), &names).unwrap();
        assert_eq!((found.signatures, found.codes, found.names), (3, 1, 1));
        let unseen = |name: &str| found.unseen.iter().any(|n| n == name);
        assert!(unseen("aclnnMul") && unseen("aclrtMalloc") && unseen("ACL_ERROR_RT_NO_DEVICE"));
    }

    #[test]
    fn a_word_that_differs_is_told_with_its_line() {
        for (change, words) in [
            (("int32_t *status", "int64_t *status"), "aclrtStreamQuery: argument 1 is i32* in the backend, and i64*"),
            (("void *devPtr", "const void *devPtr"), "aclrtFree: argument 0 is void* in the backend, and const void*"),
            (("void *devPtr", "void *devPtr, int how"), "aclrtFree has 1 arguments in the backend, and 2"),
            (("const char *acl", "void acl"), "aclGetRecentErrMsg: the result is const char*"),
            (("107002", "107003"), "ACL_ERROR_RT_CONTEXT_NULL is 107002"),
        ] {
            let why = check(&headers(change), &HashSet::new()).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}
