//! The rows, a file for each family.

mod attention;
mod elementwise;
mod moves;
mod product;

use crate::kernel::Kernel;

/// Every kernel, by family.
pub const UNITS: &[&[Kernel]] = &[moves::KERNELS, elementwise::KERNELS, product::KERNELS, attention::KERNELS];
