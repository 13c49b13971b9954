//! In which form a projection's weights are given to operators, and what its parts are called.

use qiao_core::DType;

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
