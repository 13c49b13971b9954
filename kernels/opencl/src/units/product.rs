//! Products: a family of kernels for every format of weights.

use crate::kernel::{Group, Kernel};

const PRODUCT: &str = include_str!("../../text/product.cl");
const MINIFLOATS: &str = include_str!("../../text/minifloats.cl");
const WEIGHTS: &str = include_str!("../../text/weights.cl");
const INPUTS: &str = include_str!("../../text/inputs.cl");
const FEW: &[&str] = &[PRODUCT, MINIFLOATS, WEIGHTS, INPUTS, include_str!("../../text/product_few.cl")];
const MANY: &[&str] = &[PRODUCT, MINIFLOATS, WEIGHTS, include_str!("../../text/product_many.cl")];
const TEAM: &[&str] = &[PRODUCT, MINIFLOATS, WEIGHTS, INPUTS, include_str!("../../text/product_team.cl")];
const TILE: &[&str] = &[PRODUCT, MINIFLOATS, WEIGHTS, include_str!("../../text/product_tile.cl")];
const STAGE: &[&str] = &[PRODUCT, include_str!("../../text/product_stage.cl")];

/// A product: weights, their scales and zeros, activations, bias, residual, result, and what it is.
const fn row(symbol: &'static str, texts: &'static [&'static str], options: &'static str, items: u32) -> Kernel {
    Kernel { symbol, texts, options, group: Group::Fixed(items), params: "ppppppps" }
}

/// Products with weights of each format, in a name's two spellings: for processors `few` and `many` rows, for chips that run
/// many work-items side by side a `team` for few rows and a `tile` of many.
macro_rules! products {
    ($($format:literal $define:literal),*) => {
        &[
            Kernel {
                symbol: "product_stage",
                texts: STAGE,
                options: "",
                group: Group::Walk,
                params: "pps",
            },
            $(
                row(concat!("product_few_", $format, "_1"), FEW, concat!("-DFORMAT_", $define, " -DROWS=1"), 1),
                row(concat!("product_few_", $format, "_4"), FEW, concat!("-DFORMAT_", $define, " -DROWS=4"), 1),
                row(concat!("product_many_", $format), MANY, concat!("-DFORMAT_", $define), 1),
                row(concat!("product_team_", $format, "_1"), TEAM, concat!("-DFORMAT_", $define, " -DROWS=1"), 64),
                row(concat!("product_team_", $format, "_8"), TEAM, concat!("-DFORMAT_", $define, " -DROWS=8"), 64),
                row(concat!("product_tile_", $format), TILE, concat!("-DFORMAT_", $define), 256),
            )*
        ]
    };
}

pub(crate) const KERNELS: &[Kernel] = products!(
    "f32" "F32", "f16" "F16", "bf16" "BF16",
    "q4_0" "Q4_0", "q8_0" "Q8_0", "q4_k" "Q4_K", "q6_k" "Q6_K",
    "i4" "I4", "u4" "U4", "i8" "I8", "u8" "U8", "f8_e4m3" "F8_E4M3"
);
