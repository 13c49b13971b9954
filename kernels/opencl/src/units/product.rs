//! Products: a family of kernels for every format of weights.

use crate::kernel::{Group, Kernel};

const PRODUCT: &str = include_str!("../../text/product.cl");
const MINIFLOATS: &str = include_str!("../../text/minifloats.cl");
const BLOCKS: &str = include_str!("../../text/blocks.cl");
const WEIGHTS: &str = include_str!("../../text/weights.cl");
const INPUTS: &str = include_str!("../../text/inputs.cl");
const FEW: &[&str] = &[PRODUCT, MINIFLOATS, BLOCKS, WEIGHTS, INPUTS, include_str!("../../text/product_few.cl")];
const MANY: &[&str] = &[PRODUCT, MINIFLOATS, BLOCKS, WEIGHTS, include_str!("../../text/product_many.cl")];
const TEAM: &[&str] = &[PRODUCT, MINIFLOATS, BLOCKS, WEIGHTS, INPUTS, include_str!("../../text/product_team.cl")];
const TILE: &[&str] = &[PRODUCT, MINIFLOATS, BLOCKS, WEIGHTS, include_str!("../../text/product_tile.cl")];
const STAGE: &[&str] = &[PRODUCT, include_str!("../../text/product_stage.cl")];

/// A product: weights, their scales and zeros, activations, bias, residual, result, and what it is.
const fn row(symbol: &'static str, texts: &'static [&'static str], options: &'static str, items: u32) -> Kernel {
    Kernel { symbol, texts, options, group: Group::Fixed(items), params: "ppppppps" }
}

/// Products with weights of each format, by its name and what makes its text: for processors `few` and `many` rows, for chips that run
/// many work-items side by side a `team` for few rows and a `tile` of many.
macro_rules! products {
    ($($format:literal $option:literal),*) => {
        &[
            Kernel {
                symbol: "product_stage",
                texts: STAGE,
                options: "",
                group: Group::Walk,
                params: "pps",
            },
            $(
                row(concat!("product_few_", $format, "_1"), FEW, concat!("-D", $option, " -DROWS=1"), 1),
                row(concat!("product_few_", $format, "_4"), FEW, concat!("-D", $option, " -DROWS=4"), 1),
                row(concat!("product_many_", $format), MANY, concat!("-D", $option), 1),
                row(concat!("product_team_", $format, "_1"), TEAM, concat!("-D", $option, " -DROWS=1"), 64),
                row(concat!("product_team_", $format, "_8"), TEAM, concat!("-D", $option, " -DROWS=8"), 64),
                row(concat!("product_tile_", $format), TILE, concat!("-D", $option), 256),
            )*
        ]
    };
}

pub(crate) const KERNELS: &[Kernel] = products!(
    "f32" "FORMAT_F32", "f16" "FORMAT_F16", "bf16" "FORMAT_BF16",
    "q4_0" "FORMAT_Q4_0", "q8_0" "FORMAT_Q8_0", "q4_k" "FORMAT_Q4_K", "q6_k" "FORMAT_Q6_K",
    "i4" "FORMAT_I4", "u4" "FORMAT_U4", "i8" "FORMAT_I8", "u8" "FORMAT_U8", "f8_e4m3" "FORMAT_F8_E4M3",
    "q4_1" "BLOCK_Q4_1", "q5_0" "BLOCK_Q5_0", "q5_1" "BLOCK_Q5_1", "q2_k" "BLOCK_Q2_K", "q3_k" "BLOCK_Q3_K",
    "q5_k" "BLOCK_Q5_K", "iq4_nl" "BLOCK_IQ4_NL", "iq4_xs" "BLOCK_IQ4_XS", "mxfp4" "BLOCK_MXFP4"
);
