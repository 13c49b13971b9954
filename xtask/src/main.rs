//! `cargo xtask <command>`: checks of the tree, and the run of everything.
#![forbid(unsafe_code)]

mod workspace;

mod arrows;
mod lengths;
mod unsafety;

mod wheels;

mod ascend;
mod cuda;

mod instructions;

mod tally;

mod suites;

mod opencl;

mod everything;

use std::process::ExitCode;

/// A command, what it does, and its code.
type Command = (&'static str, &'static str, fn() -> Result<(), String>);

const COMMANDS: &[Command] = &[
    (
        "test",
        "everything: format, tree, clippy, tests, documentation, demo; ends with 'N passed, N failed'",
        everything::run,
    ),
    ("arrows", "hold the crates to the floor table", arrows),
    ("lengths", "list source files over 500 lines; over 800 fail", lengths),
    ("cuda", "compile the CUDA texts: nvcc, NVRTC, hipcc, hipRTC; spills, and kernels without a row, fail", cuda::run),
    ("ascend", "hold the Ascend backend's declarations to the headers of Huawei's own wheel", ascend::run),
    ("instructions", "count the instructions of hot kernels; 3 % more than the record fail", instructions::check),
    ("instructions --bless", "write the record of instructions", instructions::bless),
    ("unsafe", "hold crate roots to the law of unsafe", unsafety),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let found = COMMANDS.iter().find(|(name, ..)| args.join(" ") == *name);
    let Some((_, _, run)) = found else {
        eprintln!("usage: cargo xtask <command>\n");
        for (name, what, _) in COMMANDS {
            eprintln!("  {name:20} {what}");
        }
        return ExitCode::from(2);
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn report(faults: &[String]) -> Result<(), String> {
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

fn arrows() -> Result<(), String> {
    report(&arrows::check(&workspace::members()?))
}

fn unsafety() -> Result<(), String> {
    report(&unsafety::check(&workspace::members()?)?)
}

fn lengths() -> Result<(), String> {
    let long = lengths::long(&workspace::root()).map_err(|e| e.to_string())?;
    for l in &long {
        println!("{:5} {}", l.lines, l.file.display());
    }
    match long.iter().filter(|l| l.lines > lengths::MOST).count() {
        0 => Ok(()),
        n => Err(format!("{n} files have more than {} lines", lengths::MOST)),
    }
}
