//! The rows, a file for each family.

mod attention;
mod casts;
mod choose;
mod elementwise;
mod kv;
mod moves;
mod norms;
mod product;
mod quantize;
mod rope;
mod rows;
mod sample;
mod scaled;
mod unpack;

use crate::kernel::Kernel;

/// Every kernel, by family.
pub const UNITS: &[&[Kernel]] = &[
    moves::KERNELS,
    casts::KERNELS,
    unpack::KERNELS,
    elementwise::KERNELS,
    norms::KERNELS,
    rows::KERNELS,
    quantize::KERNELS,
    rope::KERNELS,
    kv::KERNELS,
    choose::KERNELS,
    sample::KERNELS,
    product::KERNELS,
    product::ACROSS_KERNELS,
    attention::KERNELS,
    scaled::KERNELS,
];
