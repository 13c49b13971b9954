//! In which form a projection's weights are given to operators, and what its parts are called.

use qiao_core::DType;
use qiao_quant::import::{Activations, AscendKind, Form, Linear, Scheme};

/// What a weight is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightForm {
    /// One tensor: floats, or a block format with its scales inside.
    Plain(DType),
    /// Codes with a table of scales: `(code − zero)·scale`.
    Grouped(GroupForm),
    /// int8 codes with one f32 scale per output, for activations that are quantised to int8 on the way.
    Int8 {
        /// Whether scale and zero point of the activations stand in the checkpoint; else every row has its own scale.
        is_static: bool,
        /// Whether what joins the integer sum holds the bias, so that none is added to the product.
        bias_in_sum: bool,
    },
}

/// Codes with a table of scales `[⌈N/group_rows⌉, ⌈K/group_size⌉]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupForm {
    /// The dtype of the codes `[N, K]`.
    pub codes: DType,
    /// The dtype of the scales.
    pub scales: DType,
    /// The dtype of the zero points, which have the shape of the scales; `None` = there are none.
    pub zeros: Option<DType>,
    /// Input channels to a scale; 0 = all of K.
    pub group_size: usize,
    /// Output channels to a row of scales.
    pub group_rows: usize,
    /// Whether a table names each input channel's group.
    pub g_idx: bool,
}

impl GroupForm {
    /// The dims of the table of scales of codes `[n, k]`.
    pub fn table(&self, n: usize, k: usize) -> [usize; 2] {
        let group = if self.group_size == 0 { k } else { self.group_size };
        [n.div_ceil(self.group_rows.max(1)), k.div_ceil(group.max(1))]
    }
}

impl WeightForm {
    /// The dtype of the codes, or of the floats.
    pub fn dtype(&self) -> DType {
        match self {
            WeightForm::Plain(dtype) => *dtype,
            WeightForm::Grouped(form) => form.codes,
            WeightForm::Int8 { .. } => DType::I8,
        }
    }

    /// Whether what joins an integer sum holds the bias.
    pub(crate) fn has_bias_in_sum(&self) -> bool {
        matches!(self, WeightForm::Int8 { bias_in_sum: true, .. })
    }
}

impl From<&Linear> for WeightForm {
    fn from(linear: &Linear) -> WeightForm {
        match linear.form {
            Form::Int8 { is_static, bias_in_sum } => WeightForm::Int8 { is_static, bias_in_sum },
            Form::Grouped { group_size, group_rows, scales, zeros, g_idx } => {
                WeightForm::Grouped(GroupForm { codes: linear.codes, scales, zeros, group_size, group_rows, g_idx })
            }
        }
    }
}

/// The form that a scheme usually gives, before any tensor is seen: scales in f16, or f32 where the scheme knows no other; groups
/// in order.
pub(crate) fn expected(scheme: &Scheme) -> Option<WeightForm> {
    let grouped = |codes, group_size: Option<usize>, zeros| {
        let (scales, group_size) = (DType::F16, group_size.unwrap_or(0));
        Some(WeightForm::Grouped(GroupForm { codes, scales, zeros, group_size, group_rows: 1, g_idx: false }))
    };
    match scheme {
        Scheme::Gptq { bits, group_size, symmetric, .. } | Scheme::Packed { bits, group_size, symmetric } => {
            let codes = match (*bits > 4, symmetric) {
                (true, true) => DType::I8,
                (true, false) => DType::U8,
                (false, true) => DType::I4,
                (false, false) => DType::U4,
            };
            grouped(codes, *group_size, (!symmetric).then_some(DType::U8))
        }
        Scheme::Awq { group_size, .. } => grouped(DType::U4, *group_size, Some(DType::U8)),
        Scheme::Int8 { activations: Activations::Float, .. } | Scheme::Ascend { kind: AscendKind::W8A16 } => {
            grouped(DType::I8, None, None)
        }
        Scheme::Int8 { activations, .. } => {
            Some(WeightForm::Int8 { is_static: matches!(activations, Activations::Int8Static), bias_in_sum: false })
        }
        Scheme::Ascend { kind } => {
            let is_static = matches!(kind, AscendKind::W8A8);
            Some(WeightForm::Int8 { is_static, bias_in_sum: is_static })
        }
        Scheme::Fp8 { block } => {
            let [group_rows, group_size] = block.unwrap_or([1, 0]);
            let (codes, scales) = (DType::F8E4M3, DType::F32);
            Some(WeightForm::Grouped(GroupForm { codes, scales, zeros: None, group_size, group_rows, g_idx: false }))
        }
    }
}

/// A tensor that belongs to a weight beside its codes. It is called as the weight is, with this after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Companion {
    /// The scales.
    Scales,
    /// The zero points.
    Zeros,
    /// The group of each input channel, i32 `[K]`.
    GroupIndex,
    /// The scale of the activations, f32 `[1]`.
    InputScale,
    /// The zero point of the activations, f32 `[1]`.
    InputZero,
    /// What joins the integer sum, i32 `[N]`.
    SumBias,
}

impl Companion {
    /// All of them.
    pub const ALL: [Companion; 6] = [
        Companion::Scales,
        Companion::Zeros,
        Companion::GroupIndex,
        Companion::InputScale,
        Companion::InputZero,
        Companion::SumBias,
    ];

    /// Whether a tensor's name is that of some weight's companion.
    pub fn is_name(name: &str) -> bool {
        Companion::ALL.iter().any(|companion| name.ends_with(&companion.of(".weight")))
    }

    /// The name of this companion of a weight.
    pub fn of(self, weight: &str) -> String {
        let end = match self {
            Companion::Scales => "scales",
            Companion::Zeros => "zeros",
            Companion::GroupIndex => "group_index",
            Companion::InputScale => "input_scale",
            Companion::InputZero => "input_zero",
            Companion::SumBias => "sum_bias",
        };
        format!("{weight}.{end}")
    }
}
