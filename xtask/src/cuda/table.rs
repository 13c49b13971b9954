//! The table of what kernels take of a multiprocessor.

use std::fmt::Write;

use super::job::Done;

/// A line for each kernel and target.
pub(crate) fn write(done: &[Done<'_>]) -> String {
    let mut out = format!(
        "{:40} {:14} {:10} {:>9} {:>7} {:>6} {:>7}\n",
        "kernel", "unit", "target", "registers", "shared", "stack", "spilled"
    );
    for (kernel, (unit, target)) in done.iter().flat_map(|d| d.kernels.iter().map(|k| (k, d.names()))) {
        let Some(registers) = kernel.registers else { continue };
        let _ = writeln!(
            out,
            "{:40} {unit:14} {target:10} {registers:>9} {:>7} {:>6} {:>7}",
            kernel.name, kernel.shared, kernel.stack, kernel.spilled
        );
    }
    out
}
