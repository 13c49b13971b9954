//! `qiao new-backend`: the example backends under the vendor's own name.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::args::{Lang, NewBackend};
use crate::exit::{Exit, Usage};

/// The longest name: what the ABI has room for.
const LONGEST: usize = 31;

/// The C example, file by file.
const C: &[(&str, &str)] = &[
    ("NAME.c", include_str!("../../../examples/vendor-c/acme_npu.c")),
    ("Makefile", include_str!("../../../examples/vendor-c/Makefile")),
    ("qiao_plugin.h", include_str!("../../plugin/include/qiao_plugin.h")),
    ("NAME.json", include_str!("../../../examples/vendor-c/acme_npu.json")),
];

/// The Rust example, file by file.
const RUST: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../examples/vendor-rust/Cargo.toml")),
    ("README.md", include_str!("../../../examples/vendor-rust/README.md")),
    ("src/lib.rs", include_str!("../../../examples/vendor-rust/src/lib.rs")),
    ("src/memory.rs", include_str!("../../../examples/vendor-rust/src/memory.rs")),
    ("src/ops.rs", include_str!("../../../examples/vendor-rust/src/ops.rs")),
    ("src/device.rs", include_str!("../../../examples/vendor-rust/src/device.rs")),
    ("tests/conformance.rs", include_str!("../../../examples/vendor-rust/tests/conformance.rs")),
];

pub(crate) fn new_backend(args: &NewBackend, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let name = checked(&args.name)?;
    if qiao::registry().names().any(|known| known == name) {
        return Err(Usage(format!("qiao has a backend '{name}' already; give another name")).into());
    }
    let folder = args.folder.clone().unwrap_or_else(|| PathBuf::from(name));
    if folder.exists() {
        return Err(Usage(format!("{} is there already; give another name, or --folder", folder.display())).into());
    }
    let files = match args.lang {
        Lang::C => C.to_vec(),
        Lang::Rust => RUST.to_vec(),
    };
    let house = match args.lang {
        Lang::C => PathBuf::new(),
        Lang::Rust => house(args.qiao.as_deref())?,
    };
    for (path, text) in files {
        let path = folder.join(path.replace("NAME", name));
        let write = || {
            std::fs::create_dir_all(path.parent().unwrap_or(&folder))?;
            std::fs::write(&path, renamed(text, name, &house))
        };
        write().map_err(|e| anyhow::anyhow!("{} can't be written: {e}", path.display()))?;
        writeln!(out, "{}", path.display())?;
    }
    let (at, library) = (quoted(&folder), quoted(&folder.join(format!("lib{name}.so"))));
    match args.lang {
        Lang::C => writeln!(
            out,
            "\nbuild and check it:\n  make -C {at}\n  qiao check --plugin {library} --profile device\nthen: PORTING.md"
        )?,
        Lang::Rust => writeln!(
            out,
            "\nbuild and check it:\n  cd {at} && cargo test --release\n  qiao check --plugin target/release/lib{name}.so --profile device\nthen: PORTING.md"
        )?,
    }
    Ok(Exit::Ok)
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    match path.chars().all(plain) && !path.is_empty() {
        true => path,
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

/// A name that is good for a file, a crate and a device alike.
fn checked(name: &str) -> Result<&str, Usage> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain) && name.len() <= LONGEST {
        return Ok(name);
    }
    Err(Usage(format!("'{name}' is no name for a backend; use a-z, 0-9 and _, a letter first, at most {LONGEST}")))
}

/// The checkout of Qiao that a Rust backend builds against.
fn house(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let house = given.unwrap_or(&built_from);
    let house = house.canonicalize().ok().filter(|h| h.join("crates/plugin/Cargo.toml").exists());
    house.ok_or_else(|| {
        let found = given.map_or("the checkout that this program was built from is gone".into(), |g| {
            format!("{} holds no crates/plugin", g.display())
        });
        Usage(format!("{found}; give the checkout of Qiao with --qiao")).into()
    })
}

/// An example's text under another name.
fn renamed(text: &str, name: &str, house: &Path) -> String {
    let upper = name.to_uppercase();
    text.replace("../../crates/plugin/include", ".")
        .replace("../../crates", &house.join("crates").display().to_string())
        .replace("acme_npu_rust", name)
        .replace("acme-npu-rust", name)
        .replace("acme_npu", name)
        .replace("acme", name)
        .replace("ACME NPU", &upper)
        .replace("ACME", &upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_good_for_files_and_devices() {
        assert!(checked("tianshu_150").is_ok());
        for bad in ["", "7a", "Acme", "a-b", "../x", "a.b", &"x".repeat(32)] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        for (path, word) in [("a/b-1.c", "a/b-1.c"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("$x", "'$x'")] {
            assert_eq!(quoted(Path::new(path)), word);
        }
    }

    #[test]
    fn nothing_of_the_example_s_name_is_left() {
        for (path, text) in C.iter().chain(RUST) {
            let text = renamed(text, "tianshu", Path::new("/house"));
            assert!(!text.to_lowercase().contains("acme"), "{path}");
            assert!(!text.contains("../.."), "{path}");
        }
    }
}
