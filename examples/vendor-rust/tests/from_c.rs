//! The plugin as a host in C meets it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The library that cargo has built for this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    test.with_file_name(format!("{}acme_npu_rust{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX))
}

#[test]
fn a_c_program_walks_through_a_run() {
    let house = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = std::env::temp_dir().join(format!("qiao-walk-{}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror"])
        .arg("-I")
        .arg(house.join("../../crates/plugin/include"));
    run(cc.arg(house.join("tests/walk.c")).arg("-o").arg(&program).arg("-ldl"));
    let said = run(Command::new(&program).arg(library()));
    std::fs::remove_file(&program).unwrap();
    assert_eq!(said, "walked\n");
}

#[test]
fn one_symbol_is_exported() {
    let symbols = run(Command::new("nm").args(["-D", "--defined-only", "-j"]).arg(library()));
    assert_eq!(symbols.lines().collect::<Vec<_>>(), ["qiao_plugin_query_v0"]);
}
