//! The project's tests in one run, from formatting to the demo; the last line counts them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::workspace::{cargo, root, target_folder};
use crate::{arrows, ascend, cuda, lengths, opencl, suites, unsafety, workspace};

/// A part of the machine that some tests need, and how its presence is seen.
struct Part {
    name: &'static str,
    present: fn() -> bool,
    without: &'static str,
}

/// Where distributions put HIP's libraries.
const HIP_FOLDERS: &[&str] = &["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/opt/rocm/lib"];

fn has_hip() -> bool {
    HIP_FOLDERS.iter().any(|folder| Path::new(folder).join("libamdhip64.so.5").exists())
}

/// What tests walk where the machine has it.
const PARTS: &[Part] = &[
    Part { name: "AVX2 kernels", present: || has_flags(&["avx2", "fma"]), without: "this processor has no AVX2" },
    Part {
        name: "AVX-512 kernels",
        present: || has_flags(&["avx512f", "avx512bw", "avx512vl"]),
        without: "this processor has no AVX-512",
    },
    Part {
        name: "AVX-512 BF16 kernels",
        present: || has_flags(&["avx512_bf16"]),
        without: "this processor has no AVX512-BF16",
    },
    Part {
        name: "AVX-512 VNNI kernels",
        present: || has_flags(&["avx512_vnni"]),
        without: "this processor has no AVX512-VNNI",
    },
    Part {
        name: "AMX",
        present: || has_flags(&["amx_tile", "amx_bf16", "amx_int8"]),
        without: "this processor has none; kernels ran on emulated tiles where it has AVX-512",
    },
    Part {
        name: "OpenCL",
        present: || Path::new("/etc/OpenCL/vendors").read_dir().is_ok_and(|mut list| list.next().is_some()),
        without: "no driver is listed in /etc/OpenCL/vendors: apt-get install pocl-opencl-icd ocl-icd-libopencl1",
    },
    Part {
        name: "HIP's run-time library",
        present: has_hip,
        without: "Hygon's row was held to nothing real: apt-get install libamdhip64-5 libhiprtc-builtins5",
    },
    Part {
        name: "NVIDIA GPU",
        present: || Path::new("/dev/nvidiactl").exists(),
        without: "this machine has none; kernels ran on the simulated card",
    },
];

/// Whether the processor has all these features, by the names of Linux.
fn has_flags(names: &[&str]) -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find_map(|l| l.strip_prefix("flags")?.split_once(':').map(|f| f.1)).unwrap_or("");
    names.iter().all(|name| flags.split_whitespace().any(|f| f == *name))
}

/// Runs everything; what was skipped and how many tests passed are the last lines.
///
/// # Errors
/// The first part that fails; what follows it is not run.
pub(crate) fn run() -> Result<(), String> {
    let start = Instant::now();
    let mut skipped = Vec::new();
    tool(&mut skipped, "rustfmt", &["fmt", "--all", "--check"])?;
    step("the tree: floors, lengths, unsafe");
    tree()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    tool(&mut skipped, "clippy", &clippy)?;
    step("CUDA: every text is compiled");
    skipped.extend(cuda::gate(cuda::Reach::Once)?);
    step("Ascend: declarations are held to the vendor's headers");
    match ascend::gate() {
        Ok(found) => println!("{}", found?),
        Err(why) => skipped.push(format!("the signatures of AscendCL: {why}")),
    }
    step("cargo test, several programs at a time");
    let built = suites::build()?;
    let mut programs = built.programs.clone();
    // The other width that chips have; the card is built for it by a variable.
    programs.push(suites::named(&programs, "qiao-cuda::norms")?.with("QIAO_SIMCUDA_WARP", "64"));
    skipped.push("waves of 64 beyond norms: QIAO_SIMCUDA_WARP=64 cargo test -p qiao-cuda -p qiao-simcuda".into());
    if has_hip() {
        // Two minutes that nothing waits for.
        programs.insert(0, suites::named(&built.others, "qiao-cuda::compile_units")?.asked(&["hiprtc", cuda::HIP]));
    }
    match opencl::on_every_path(suites::named(&programs, "qiao-opencl::paths")?, &target_folder()) {
        Ok(program) => programs.push(program),
        Err(why) => skipped.push(format!("OpenCL's paths sub-groups, fp16 and dot: {why}")),
    }
    let tally = suites::run(programs)?;
    step("documentation");
    pass(cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    demo(&built.command)?;
    println!("\n-- done in {} s", start.elapsed().as_secs());
    skipped.extend(tally.ignored.iter().map(|name| format!("test {name}")));
    skipped.extend(PARTS.iter().filter(|p| !(p.present)()).map(|p| format!("{}: {}", p.name, p.without)));
    for what in skipped {
        println!("skipped: {what}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(())
}

fn step(name: &str) {
    println!("\n-- {name}");
}

/// Checks the tree against the floor table, the lengths and the law of unsafe.
pub(crate) fn tree() -> Result<(), String> {
    let members = workspace::members()?;
    let mut faults = arrows::check(&members);
    faults.extend(unsafety::check(&members)?);
    for long in lengths::long(&root()).map_err(|e| e.to_string())? {
        let line = format!("{} has {} lines", long.file.display(), long.lines);
        if long.lines > lengths::MOST {
            faults.push(format!("{line}, {} at most", lengths::MOST));
        } else {
            println!("{line}, worth a look");
        }
    }
    println!("{} crates keep to their floors and to the law of unsafe: {}", members.len(), faults.is_empty());
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// A step by a part of the toolchain that a minimal one lacks.
fn tool(skipped: &mut Vec<String>, name: &str, args: &[&str]) -> Result<(), String> {
    step(&format!("cargo {}", args[0]));
    let there = cargo().args([args[0], "--version"]).output().is_ok_and(|o| o.status.success());
    if !there {
        skipped.push(format!("cargo {}: add it with 'rustup component add {name}'", args[0]));
        return Ok(());
    }
    pass(cargo().args(args))
}

fn pass(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?} does not start: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}")) }
}

/// What follows the demo's prompt in every edition of the poem.
const NEXT_VERSE: &str = "疑是地上霜";

/// Runs the demo model, which must continue its poem.
fn demo(qiao: &Path) -> Result<(), String> {
    step("demo: qiao run");
    let args = ["run", "--max-tokens", "24", "--temperature", "0"];
    let output =
        Command::new(qiao).args(args).stderr(Stdio::inherit()).output().map_err(|e| format!("the demo: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{}", text.trim_end());
    if output.status.success() && text.contains(NEXT_VERSE) {
        return Ok(());
    }
    Err(format!("the demo ended with {} and did not go on with {NEXT_VERSE}", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_processor_has_is_not_found() {
        assert!(!has_flags(&["no_such_feature"]));
        assert!(PARTS.iter().all(|p| !p.without.is_empty()));
    }
}
