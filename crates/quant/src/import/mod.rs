//! Packed tensors of checkpoints, brought into the one form that operators take.
//!
//! - A [`Scheme`] says how a checkpoint packs; [`Scheme::linear`] reads the headers of one module's tensors and says what
//!   the layer will be as a [`Linear`]; [`Linear::unpack`] makes its parts.
//! - Codes become `[N, K]` row-major, scales and zeros `[rows, groups]`: an element is `(code − zero)·scale`. No code,
//!   zero or scale is rounded on the way.
//! - 4-bit codes stay 4 bits (`i4` where the scheme is symmetric, else `u4`); 2 and 3 bits become 4, 5 to 8 become 8.
//! - A header is believed only after its tensor's bytes were counted; nothing is allocated for a claim alone.

mod tensors;

mod fields;

mod recipe;

mod gptq;

mod awq;
mod compressed;
mod fp8;

mod ascend;

use qiao_core::{DType, Result};

use recipe::Recipe;
use tensors::Module;
pub use tensors::Tensors;

/// How a checkpoint packs its linear layers.
#[derive(Clone, Debug, PartialEq)]
pub enum Scheme {
    /// GPTQ: `qweight`, `qzeros`, `scales`, and `g_idx` where input channels are not in the order of their groups.
    Gptq {
        /// 2, 3, 4 or 8.
        bits: u32,
        /// Input channels to a scale; `None` = all of them.
        group_size: Option<usize>,
        /// Every zero point is 2^(bits − 1), so that none is read.
        symmetric: bool,
        /// How zero points are stored.
        zeros: GptqZeros,
    },
    /// AWQ, 4 bits: `qweight`, `qzeros`, `scales`.
    Awq {
        /// Which way it is packed.
        version: AwqVersion,
        /// Input channels to a scale; `None` = all of them.
        group_size: Option<usize>,
    },
    /// compressed-tensors `pack-quantized`: `weight_packed`, `weight_scale`, `weight_shape`, and, where they apply,
    /// `weight_zero_point` and `weight_g_idx`.
    Packed {
        /// 2 to 8.
        bits: u32,
        /// Input channels to a scale; `None` = one scale per output channel or one for all, by its shape.
        group_size: Option<usize>,
        /// There are no zero points.
        symmetric: bool,
    },
    /// compressed-tensors `int-quantized`, 8 bits: `weight`, `weight_scale`, and, where they apply,
    /// `weight_zero_point`, `input_scale`, `input_zero_point`.
    Int8 {
        /// What activations are multiplied as.
        activations: Activations,
        /// Weights have no zero points.
        symmetric: bool,
    },
    /// fp8 e4m3: `weight` and `weight_scale` or `weight_scale_inv`, both of which multiply; one scale in all, one per
    /// output channel, or one per block.
    Fp8 {
        /// Output and input channels to a block; `None` = there are no blocks.
        block: Option<[usize; 2]>,
    },
    /// Ascend's msmodelslim.
    Ascend {
        /// The type that its description gives the module.
        kind: AscendKind,
    },
}

/// How GPTQ stores zero points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GptqZeros {
    /// One less than they are, modulo 2^bits: `checkpoint_format` `gptq`, or none.
    OneLess,
    /// As they are: `gptq_v2`.
    Plain,
}

/// The ways in which AutoAWQ packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwqVersion {
    /// Along N, in the order 0 2 4 6 1 3 5 7.
    Gemm,
    /// Along K, in order.
    Gemv,
}

/// What the activations of an int8 layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Floats: weights alone are quantised.
    Float,
    /// int8 with a scale per row, found as it runs.
    Int8Dynamic,
    /// int8 with the scale and zero point of the checkpoint.
    Int8Static,
}

/// The types of msmodelslim that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AscendKind {
    /// int8 activations by a fixed scale and offset.
    W8A8,
    /// int8 activations by a scale per row.
    W8A8Dynamic,
    /// Weights alone.
    W8A16,
}

/// A linear layer in the form that operators take, `y = x·Wᵀ (+ bias)`. Read from headers, and from the little tensors
/// that decide a form (`weight_shape`, `g_idx`, offsets) where their bytes are at hand.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Output channels.
    pub n: usize,
    /// Input channels.
    pub k: usize,
    /// The dtype of the codes `[n, k]`.
    pub codes: DType,
    /// What stands beside the codes.
    pub form: Form,
    /// The dtype of a bias `[n]` that is added to the product, unless what joins an integer sum holds it.
    pub bias: Option<DType>,
    recipe: Recipe,
}

/// What stands beside the codes of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For `matmul_quant`: scales `[⌈n/group_rows⌉, ⌈k/group_size⌉]`.
    Grouped {
        /// Input channels to a scale; 0 = all of K.
        group_size: usize,
        /// Output channels to a row of scales.
        group_rows: usize,
        /// The dtype of scales, as the checkpoint stores them.
        scales: DType,
        /// The dtype of zero points, of the shape of the scales; `None` = there are none.
        zeros: Option<DType>,
        /// Whether a table names each input channel's group.
        g_idx: bool,
    },
    /// For `scaled_matmul` on int8 activations: weight scales f32 `[n]`.
    Int8 {
        /// Scale and zero point of the activations stand in the checkpoint. With the integer sum taken over
        /// `xq = clamp(rint(x/input_scale + input_zero), −128, 127)` it is
        /// `y = input_scale·scale·(sum + sum_bias) (+ bias)`. Else each row of activations has a scale of its own.
        is_static: bool,
        /// What joins the integer sum holds the bias, so that none is added to the product. [`Part::Bias`] is then for those who
        /// multiply floats.
        bias_in_sum: bool,
    },
}

/// A tensor of a [`Linear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The codes `[n, k]`.
    Codes,
    /// Grouped: scales `[⌈n/group_rows⌉, ⌈k/group_size⌉]`. Int8: f32 `[n]`.
    Scales,
    /// Zero points, of the shape of the scales.
    Zeros,
    /// The group of each input channel, i32 `[k]`.
    GroupIndex,
    /// The bias `[n]`; of a layer whose integer sum holds it, as far as it can be told from there.
    Bias,
    /// The scale of static activations, f32 `[1]`.
    InputScale,
    /// The zero point of static activations, f32 `[1]`.
    InputZero,
    /// What joins the integer sum of static activations, i32 `[n]`: the correction for their zero point, and for
    /// Ascend's files the bias.
    SumBias,
}

impl Scheme {
    /// What a module's tensors are as a linear layer. Checks every tensor's presence, dtype and shape.
    ///
    /// # Errors
    /// A tensor that is missing or of another dtype or shape than the scheme has, and bits, group sizes and layouts that
    /// are not read.
    pub fn linear(&self, tensors: &dyn Tensors) -> Result<Linear> {
        let m = |scheme| Module::new(tensors, scheme);
        match *self {
            Scheme::Gptq { bits, group_size, symmetric, zeros } => {
                gptq::linear(&m("GPTQ"), bits, group_size, symmetric, zeros)
            }
            Scheme::Awq { version, group_size } => awq::linear(&m("AWQ"), version, group_size),
            Scheme::Packed { bits, group_size, symmetric } => {
                compressed::packed(&m("compressed-tensors packed"), bits, group_size, symmetric)
            }
            Scheme::Int8 { activations, symmetric } => {
                compressed::int8(&m("compressed-tensors int8"), activations, symmetric)
            }
            Scheme::Fp8 { block } => fp8::linear(&m("fp8"), block),
            Scheme::Ascend { kind } => ascend::linear(&m("Ascend"), kind),
        }
    }
}

impl Linear {
    /// Dtype and shape of a part, or `None` where the layer has no such part.
    pub fn part(&self, part: Part) -> Option<(DType, Vec<usize>)> {
        let table = |rows: usize, size: usize| {
            let groups = if size == 0 { 1 } else { self.k.div_ceil(size) };
            vec![self.n.div_ceil(rows), groups]
        };
        match (part, self.form) {
            (Part::Codes, _) => Some((self.codes, vec![self.n, self.k])),
            (Part::Bias, _) => self.bias.map(|dtype| (dtype, vec![self.n])),
            (Part::Scales, Form::Grouped { group_size, group_rows, scales, .. }) => {
                Some((scales, table(group_rows, group_size)))
            }
            (Part::Zeros, Form::Grouped { group_size, group_rows, zeros, .. }) => {
                zeros.map(|dtype| (dtype, table(group_rows, group_size)))
            }
            (Part::GroupIndex, Form::Grouped { g_idx, .. }) => g_idx.then(|| (DType::I32, vec![self.k])),
            (Part::Scales, Form::Int8 { .. }) => Some((DType::F32, vec![self.n])),
            (Part::InputScale | Part::InputZero, Form::Int8 { is_static: true, .. }) => Some((DType::F32, vec![1])),
            (Part::SumBias, Form::Int8 { is_static: true, .. }) => Some((DType::I32, vec![self.n])),
            _ => None,
        }
    }

    /// The bytes of a part, little-endian, of the dtype and shape that [`Linear::part`] gives.
    ///
    /// # Errors
    /// A part that the layer has not; tensors whose bytes are missing or of another length than their headers say; a
    /// scale that is NaN or infinite, a group index or zero point out of range, a scheme that is called symmetric and is
    /// not.
    pub fn unpack(&self, part: Part, tensors: &dyn Tensors) -> Result<Vec<u8>> {
        let module = Module::new(tensors, self.recipe.scheme);
        let Some((dtype, shape)) = self.part(part) else {
            let found = format!("the layer has none ({:?})", self.form);
            return Err(module.refuse(format!("unpacking {part:?}"), found, "ask `part` first"));
        };
        self.recipe.unpack(part, dtype, &shape, self, &module)
    }
}
