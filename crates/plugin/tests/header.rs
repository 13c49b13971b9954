//! The header holds what `core` says, is clean C and C++, and lies in memory as its mirror does.

use std::path::{Path, PathBuf};
use std::process::Command;

use qiao_plugin::{abi, header};

fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

#[test]
fn the_lists_in_the_header_are_those_of_core() {
    let renewed = header::renewed(header::TEXT);
    if std::env::var_os("QIAO_BLESS").is_some() {
        std::fs::write(include().join("qiao_plugin.h"), &renewed).unwrap();
        return;
    }
    assert!(
        renewed == header::TEXT,
        "run QIAO_BLESS=1 cargo test -p qiao-plugin --test header, and look at the change"
    );
}

/// The C name of a struct of [`abi`].
fn c_name(name: &str) -> String {
    match name {
        "ErrorRecord" => "qiao_error".into(),
        _ => {
            let mut out = String::from("qiao");
            for c in name.chars() {
                if c.is_ascii_uppercase() {
                    out.push('_');
                }
                out.push(c.to_ascii_lowercase());
            }
            out
        }
    }
}

/// One line a struct and one a field, as `name size align` and `name.field offset size`.
fn layout_in_rust() -> String {
    let mut text = String::new();
    for s in abi::LAYOUT {
        let name = c_name(s.name);
        text.push_str(&format!("{name} {} {}\n", s.size, s.align));
        for (field, offset, size) in s.fields {
            let field = if *field == "ty" { "type" } else { field };
            text.push_str(&format!("{name}.{field} {offset} {size}\n"));
        }
    }
    text
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn structs_lie_in_c_as_they_lie_in_rust() {
    let dir = tempfile::tempdir().unwrap();
    let mut program =
        String::from("#include \"qiao_plugin.h\"\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n");
    for line in layout_in_rust().lines() {
        let name = line.split(' ').next().unwrap();
        let print = match name.split_once('.') {
            None => format!("printf(\"{name} %zu %zu\\n\", sizeof({name}), _Alignof({name}));"),
            Some((of, field)) => {
                format!("printf(\"{name} %zu %zu\\n\", offsetof({of}, {field}), sizeof((({of}*)0)->{field}));")
            }
        };
        program.push_str(&format!("  {print}\n"));
    }
    program.push_str("  return 0;\n}\n");
    let (source, binary) = (dir.path().join("layout.c"), dir.path().join("layout"));
    std::fs::write(&source, program).unwrap();
    run(Command::new("cc").arg("-std=c11").arg("-I").arg(include()).arg(&source).arg("-o").arg(&binary));
    assert_eq!(run(&mut Command::new(&binary)), layout_in_rust());
}

const WARNINGS: &[&str] =
    &["-Wall", "-Wextra", "-Wpedantic", "-Wpadded", "-Wshadow", "-Wundef", "-Werror", "-fsyntax-only"];

#[test]
fn the_header_is_clean_in_every_c_and_cpp_and_has_no_padding() {
    let dir = tempfile::tempdir().unwrap();
    // Twice, and first in the file.
    let text = "#include \"qiao_plugin.h\"\n#include \"qiao_plugin.h\"\nint qiao_header_test;\n";
    let mut tried = 0;
    for (compilers, file, standards) in [
        (["cc", "clang"], "first.c", ["c11", "c17", "c2x"].as_slice()),
        (["c++", "clang++"], "first.cpp", ["c++11", "c++14", "c++17", "c++20", "c++2b"].as_slice()),
    ] {
        let source = dir.path().join(file);
        std::fs::write(&source, text).unwrap();
        for compiler in compilers {
            if Command::new(compiler).arg("--version").output().is_err() {
                println!("skipped: no {compiler} on this machine");
                continue;
            }
            for standard in standards {
                let mut command = Command::new(compiler);
                run(command.args(WARNINGS).arg(format!("-std={standard}")).arg("-I").arg(include()).arg(&source));
                tried += 1;
            }
        }
    }
    assert!(tried >= 3, "a C compiler is needed");
}

/// Lines of the record that the present layout breaks. Offsets never change and fields are never dropped; a struct may grow.
fn broken(record: &str, now: &str) -> Vec<String> {
    let now: Vec<&str> = now.lines().collect();
    let grown = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        !words[0].contains('.')
            && now.iter().map(|l| l.split(' ').collect::<Vec<_>>()).any(|l| {
                l[0] == words[0] && l[2] == words[2] && l[1].parse::<usize>().unwrap() >= words[1].parse().unwrap()
            })
    };
    record.lines().filter(|line| !now.contains(line) && !grown(line)).map(String::from).collect()
}

#[test]
fn the_layout_only_grows_at_the_tail() {
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layout-0.1.txt");
    if std::env::var_os("QIAO_BLESS").is_some() && !record.exists() {
        std::fs::write(&record, layout_in_rust()).unwrap();
    }
    let record = std::fs::read_to_string(record).unwrap();
    assert_eq!(broken(&record, &layout_in_rust()), [""; 0]);
    let moved = layout_in_rust().replace("qiao_tensor.layout 144 8", "qiao_tensor.layout 152 8");
    assert_eq!(broken(&record, &moved).len(), 1, "a moved field is noticed");
    let shrunk = layout_in_rust().replace(&format!("qiao_api {}", size_of::<abi::Api>()), "qiao_api 8");
    assert_eq!(broken(&record, &shrunk).len(), 1, "a struct that shrinks is noticed");
}
