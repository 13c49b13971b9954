//! Products: a family of kernels for every format of weights.

use crate::kernel::{Group, Kernel};
use crate::size::Size;

const PRODUCT: &str = include_str!("../../text/product.cl");
const MINIFLOATS: &str = include_str!("../../text/minifloats.cl");
const BLOCKS: &str = include_str!("../../text/blocks.cl");
const WEIGHTS: &str = include_str!("../../text/weights.cl");
const INPUTS: &str = include_str!("../../text/inputs.cl");
const FEW: &[&str] = &[PRODUCT, MINIFLOATS, BLOCKS, WEIGHTS, INPUTS, include_str!("../../text/product_few.cl")];
const ACROSS: &[&str] = &[PRODUCT, MINIFLOATS, BLOCKS, WEIGHTS, INPUTS, include_str!("../../text/product_across.cl")];
const MANY: &[&str] = &[PRODUCT, MINIFLOATS, BLOCKS, WEIGHTS, include_str!("../../text/product_many.cl")];
const TEAM: &[&str] = &[PRODUCT, MINIFLOATS, BLOCKS, WEIGHTS, INPUTS, include_str!("../../text/product_team.cl")];
const TILE: &[&str] = &[PRODUCT, MINIFLOATS, BLOCKS, WEIGHTS, include_str!("../../text/product_tile.cl")];
const STAGE: &[&str] = &[PRODUCT, include_str!("../../text/product_stage.cl")];

/// A product: weights, their scales and zeros, activations, bias, residual, result, and what it is.
const fn row(
    symbol: &'static str,
    texts: &'static [&'static str],
    options: &'static str,
    group: Group,
    sizes: &'static [Size],
) -> Kernel {
    Kernel { symbol, texts, options, sizes, group, params: "ppppppps" }
}

const ALONE_SIZES: &[Size] = &[Size::FewColumns];
const FEW_SIZES: &[Size] = &[Size::FewRows, Size::FewColumns];
const ALONE_ACROSS_SIZES: &[Size] = &[Size::AcrossColumns];
const FEW_ACROSS_SIZES: &[Size] = &[Size::FewRows, Size::AcrossColumns];
const MANY_SIZES: &[Size] = &[Size::ManyRows, Size::ManyColumns, Size::ManyInputs, Size::BlockRows, Size::BlockColumns];
const TEAM_SIZES: &[Size] = &[Size::TeamColumns];
const TILE_SIZES: &[Size] = &[Size::Tile, Size::TileInputs];

/// Products with weights of each format, by its name and what makes its text: for processors `few` and `many` rows, for chips that run
/// many work-items side by side a `team` for few rows and a `tile` of many.
macro_rules! products {
    ($($format:literal $option:literal),*) => {
        &[
            Kernel {
                symbol: "product_stage",
                texts: STAGE,
                options: "",
                sizes: &[],
                group: Group::Walk,
                params: "pps",
            },
            $(
                row(concat!("product_few_", $format, "_1"), FEW, concat!("-D", $option, " -DROWS=1"), Group::One, ALONE_SIZES),
                row(concat!("product_few_", $format, "_n"), FEW, concat!("-D", $option), Group::One, FEW_SIZES),
                row(concat!("product_many_", $format), MANY, concat!("-D", $option), Group::One, MANY_SIZES),
                row(concat!("product_team_", $format, "_1"), TEAM, concat!("-D", $option, " -DROWS=1"), Group::Team, TEAM_SIZES),
                row(concat!("product_team_", $format, "_8"), TEAM, concat!("-D", $option, " -DROWS=8"), Group::Team, TEAM_SIZES),
                row(concat!("product_tile_", $format), TILE, concat!("-D", $option), Group::Tile, TILE_SIZES),
            )*
        ]
    };
}

/// Products of few rows on a processor with weights of these formats whose columns lie side by side.
macro_rules! across {
    ($($format:literal $option:literal),*) => {
        &[$(
            row(
                concat!("product_across_", $format, "_1"),
                ACROSS,
                concat!("-D", $option, " -DROWS=1"),
                Group::One,
                ALONE_ACROSS_SIZES,
            ),
            row(concat!("product_across_", $format, "_n"), ACROSS, concat!("-D", $option), Group::One, FEW_ACROSS_SIZES),
        )*]
    };
}

pub(crate) const ACROSS_KERNELS: &[Kernel] = across!("f32" "FORMAT_F32", "f16" "FORMAT_F16", "bf16" "FORMAT_BF16");

pub(crate) const KERNELS: &[Kernel] = products!(
    "f32" "FORMAT_F32", "f16" "FORMAT_F16", "bf16" "FORMAT_BF16",
    "q4_0" "FORMAT_Q4_0", "q8_0" "FORMAT_Q8_0", "q4_k" "FORMAT_Q4_K", "q6_k" "FORMAT_Q6_K",
    "i4" "FORMAT_I4", "u4" "FORMAT_U4", "i8" "FORMAT_I8", "u8" "FORMAT_U8", "f8_e4m3" "FORMAT_F8_E4M3",
    "q4_1" "BLOCK_Q4_1", "q5_0" "BLOCK_Q5_0", "q5_1" "BLOCK_Q5_1", "q2_k" "BLOCK_Q2_K", "q3_k" "BLOCK_Q3_K",
    "q5_k" "BLOCK_Q5_K", "iq4_nl" "BLOCK_IQ4_NL", "iq4_xs" "BLOCK_IQ4_XS", "mxfp4" "BLOCK_MXFP4"
);
