//! A plugin's file: looked at, then loaded.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use qiao_core::{Error, Result};

use super::elf::{self, Elf};
use super::query;
use crate::abi::{self, QueryFn};

/// The names that this host looks for, one for each major that it speaks, the newest first.
pub const QUERY_SYMBOLS: &[&str] = &[abi::QUERY_SYMBOL];

/// What the query functions of all majors begin with.
const QUERY_PREFIX: &str = "qiao_plugin_query_v";

fn wrong(path: &Path, found: impl Into<String>, mend: impl Into<String>) -> Error {
    Error::invalid(format!("plugin {}", path.display()), found, mend)
}

/// A library that was loaded.
pub(super) struct Library {
    pub(super) path: PathBuf,
    pub(super) query: QueryFn,
    /// What is odd about it.
    pub(super) notes: Vec<String>,
}

/// Loads a library, for good, and finds its query.
///
/// # Errors
/// What is wrong with the file and how to mend it.
pub(super) fn open(path: &Path) -> Result<Library> {
    let full = path.canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => wrong(path, "there is no such file", "give the path of the plugin's .so"),
        _ => wrong(path, e.to_string(), "make it readable for this user"),
    })?;
    let elf = Elf::read(&full).map_err(|e| match e {
        elf::Trouble::Unreadable(e) => wrong(&full, e, "give a file that this user may read"),
        elf::Trouble::NoElf(found) => wrong(&full, found, "give the .so that the plugin's build made"),
    })?;
    machine(&full, &elf)?;
    sanitizer(&full, &elf)?;
    let name = CString::new(full.as_os_str().as_bytes())
        .map_err(|_| wrong(&full, "its path holds a NUL", "move it somewhere else"))?;
    // SAFETY: `name` is a text that ends with a NUL. What the library does when it is loaded is the plugin's.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NODELETE) };
    if handle.is_null() {
        return Err(unloadable(&full, &elf));
    }
    for symbol in QUERY_SYMBOLS {
        let Ok(symbol) = CString::new(*symbol) else { continue };
        // SAFETY: the library is loaded and stays so; the name ends with a NUL.
        let found = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
        if !found.is_null() {
            // SAFETY: the header gives the function of this name this type.
            let query = unsafe { std::mem::transmute::<*mut libc::c_void, QueryFn>(found) };
            return Ok(Library { query, notes: exports(&elf), path: full });
        }
    }
    Err(no_query(&full, &elf))
}

/// What a library exports beside its query: harmless here, since every library's names are its own, but a sign that it was
/// built without hidden visibility.
fn exports(elf: &Elf) -> Vec<String> {
    let others: Vec<&str> = elf.gives.iter().map(String::as_str).filter(|s| !s.starts_with(QUERY_PREFIX)).collect();
    let Some(first) = others.first() else { return Vec::new() };
    vec![format!(
        "it exports {} more symbols, such as {first}: build it with -fvisibility=hidden (rule R1)",
        others.len()
    )]
}

fn machine(path: &Path, elf: &Elf) -> Result<()> {
    let here = elf::Machine::here();
    if elf.machine != here {
        let found = format!("it is for {}, and this process is {here}", elf.machine);
        return Err(wrong(path, found, format!("get the plugin's build for {here}")));
    }
    if !elf.is_shared {
        return Err(wrong(path, "it is an ELF file, but no shared library", "link the plugin with -shared"));
    }
    Ok(())
}

/// A library built with a sanitizer ends a process that was not, as soon as it is loaded.
fn sanitizer(path: &Path, elf: &Elf) -> Result<()> {
    let runtimes = [
        ("__asan_init", abi::SANITIZER_ADDRESS, "address"),
        ("__msan_init", abi::SANITIZER_MEMORY, "memory"),
        ("__tsan_init", abi::SANITIZER_THREAD, "thread"),
    ];
    let here = query::sanitizer_here();
    for (symbol, number, name) in runtimes {
        if number != here && elf.wants.iter().any(|w| w == symbol) {
            let found = format!("it was built with the {name} sanitizer, and this process was not");
            return Err(wrong(path, found, "load a build without a sanitizer"));
        }
    }
    Ok(())
}

/// The error of a library that can't be loaded, from what the loader says.
fn unloadable(path: &Path, elf: &Elf) -> Error {
    // SAFETY: the text of this thread's last failure, valid until its next call of the kind.
    let text = unsafe {
        let text = libc::dlerror();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    let needs = elf.needs.iter().find(|lib| text.starts_with(&format!("{lib}:")));
    match needs {
        Some(lib) => wrong(
            path,
            format!("it needs {lib}, which is not found here ({text})"),
            format!(
                "install {lib} or name its folder in LD_LIBRARY_PATH; better: open drivers with dlopen in backend_init"
            ),
        ),
        None if text.contains("undefined symbol") => {
            wrong(path, text, "link the plugin with what defines the symbol (-Wl,-z,defs finds it at build time)")
        }
        None => wrong(path, text, "see what `ldd` says of the file"),
    }
}

/// The error of a library without a query that this host knows.
fn no_query(path: &Path, elf: &Elf) -> Error {
    let others: Vec<&str> = elf.gives.iter().map(String::as_str).filter(|s| s.starts_with(QUERY_PREFIX)).collect();
    let looked = QUERY_SYMBOLS.join(", ");
    if others.is_empty() {
        let found = format!("it does not export {looked}");
        return wrong(path, found, "give a Qiao plugin; declare its query with QIAO_EXPORT, as in qiao_plugin.h");
    }
    let found = format!("this host looks for {looked}; it exports {}", others.join(", "));
    wrong(
        path,
        found,
        format!("get the plugin's build for ABI major {}, or use a Qiao that speaks its major", abi::MAJOR),
    )
}
