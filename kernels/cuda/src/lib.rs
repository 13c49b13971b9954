//! The text of the CUDA kernels, and a row for every symbol in it.
//!
//! The text includes nothing but the headers beside it, so that a run-time compiler needs no toolkit. `vendor.cuh` is the
//! one file that knows compilers and chips apart: the same text compiles for CUDA, for HIP and for the processor.
#![forbid(unsafe_code)]

mod kernel;

mod units;

pub use kernel::{HEADERS, Kernel, Unit};
pub use units::UNITS;

/// The kernel of this name and the unit that holds it.
pub fn find(symbol: &str) -> Option<(&'static Unit, &'static Kernel)> {
    UNITS.iter().find_map(|unit| Some((unit, unit.kernels.iter().find(|k| k.symbol == symbol)?)))
}
