//! Runs hot kernels of a tier one after the other, each once inside [`measured`], for a tool that counts instructions there.
//!
//!     cargo xtask instructions
//!
//! It prints a name per line, in the order of the runs. `--tier avx2` is required; `--only NAME --rounds N` runs one of them
//! so many times, for counters of whole processes.

#![forbid(unsafe_code)]

use qiao_benches::kernels::{Sizes, Timed, device, nodes, rows, tiny_plan};
use qiao_kernels_cpu::{Isa, detect, kernels};

/// Operators of the plan of tiny ones.
const TINY: usize = 400;

/// What a tool looks for.
#[inline(never)]
fn measured(run: &mut dyn FnMut()) {
    run();
    // Keeps this a call of its own, which nothing is merged with.
    std::hint::black_box(());
}

fn all(isa: Isa) -> Result<Vec<Timed>, Box<dyn std::error::Error>> {
    let device = device(isa)?;
    let mut all = rows(&kernels(isa, &detect())?);
    all.extend(nodes(&device, Sizes::COUNTED)?);
    let mut plan = tiny_plan(&device, TINY)?;
    let run = Box::new(move || plan.run());
    all.push(Timed { name: format!("plan of {TINY} tiny operators"), bytes: 0, ops: 0, run });
    Ok(all)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1));
    let tier = option("--tier").ok_or("usage: instructions --tier TIER [--only NAME --rounds N]")?;
    let rounds: u64 = option("--rounds").map_or(Ok(1), |n| n.parse())?;
    for timed in &mut all(tier.parse()?)? {
        if option("--only").is_some_and(|only| *only != timed.name) {
            continue;
        }
        // What is made at first use is not counted.
        (timed.run)();
        for _ in 0..rounds {
            measured(&mut *timed.run);
        }
        println!("{}", timed.name);
    }
    Ok(())
}
