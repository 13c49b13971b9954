//! Attributes of operators: plain structs whose every field is one 32-bit word, so that they print, hash, compare and
//! cross the C ABI alike. In every field the value 0 is the oldest meaning.

use std::fmt;
use std::hash::{Hash, Hasher};

/// A field of an attribute struct, carried as one 32-bit word.
pub trait Word: Sized + Copy {
    /// The type of a field of this kind in C.
    const C: &'static str = "uint32_t";
    /// The word that stands for this value.
    fn to_word(self) -> u32;
    /// The value that a word stands for, if it stands for one.
    fn from_word(word: u32) -> Option<Self>;
}

impl Word for u32 {
    fn to_word(self) -> u32 {
        self
    }
    fn from_word(word: u32) -> Option<Self> {
        Some(word)
    }
}

impl Word for f32 {
    const C: &'static str = "float";
    fn to_word(self) -> u32 {
        self.to_bits()
    }
    fn from_word(word: u32) -> Option<Self> {
        Some(f32::from_bits(word))
    }
}

impl Word for bool {
    fn to_word(self) -> u32 {
        self as u32
    }
    fn from_word(word: u32) -> Option<Self> {
        match word {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// What every attribute struct can do.
pub trait Attrs: Sized + Clone + fmt::Debug {
    /// Field names, in the order of [`Attrs::words`].
    const FIELDS: &'static [&'static str];
    /// The fields' types in C, in the same order.
    const C_TYPES: &'static [&'static str];
    /// What each field says, in the same order.
    const DOCS: &'static [&'static str];
    /// The struct's own name.
    const NAME: &'static str;
    /// The fields as words, in order.
    fn words(&self) -> Vec<u32>;
    /// The struct of these words; a missing tail is 0. `None` when a word stands for no value or the tail is longer
    /// than the fields known here and not all 0.
    fn from_words(words: &[u32]) -> Option<Self>;
}

/// An attribute that is one of a few values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordEnum {
    /// Its type's name.
    pub name: &'static str,
    /// Its values, each with its name.
    pub values: &'static [(&'static str, u32)],
}

macro_rules! word_enum {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal $text:literal,)* })*) => {
        /// Every attribute that is one of a few values.
        pub const WORD_ENUMS: &[WordEnum] =
            &[$(WordEnum { name: stringify!($name), values: &[$(($text, $value),)*] },)*];
    $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
        #[repr(u32)]
        pub enum $name { #[default] $($(#[$vdoc])* $variant = $value,)* }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
        }

        impl Word for $name {
            fn to_word(self) -> u32 { self as u32 }
            fn from_word(word: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| *v as u32 == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $text,)* })
            }
        }
    )*};
}

word_enum! {
    /// What a matmul does with its result before the one rounding.
    Epilogue {
        /// Nothing.
        None = 0 "none",
        /// `+ bias[N]`.
        Bias = 1 "bias",
        /// `+ bias[N]` where a bias is given, `+ residual[.., M, N]`.
        BiasResidual = 2 "bias_residual",
        /// `silu(c[.., :N/2]) · c[.., N/2:]`, after the bias where one is given; the output has N/2 columns.
        SiluMul = 3 "silu_mul",
        /// `gelu(c)` with erf, after the bias where one is given.
        Gelu = 4 "gelu",
    }
    /// How f32 products are formed.
    Precision {
        /// In f32.
        Ieee = 0 "ieee",
        /// Operands may be rounded to 11 significant bits first.
        Tf32 = 1 "tf32",
    }
    /// Which form of GELU.
    GeluForm {
        /// `x·Φ(x)` with erf.
        Erf = 0 "erf",
        /// `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
        Tanh = 1 "tanh",
    }
    /// How rope pairs the elements of a head.
    RopeStyle {
        /// Pairs (i, i + d/2), as in NeoX and the Llama family of Hugging Face.
        HalfSplit = 0 "half_split",
        /// Pairs (2i, 2i + 1), as in GPT-J.
        Interleaved = 1 "interleaved",
    }
    /// What a reduction computes.
    ReduceKind {
        /// The sum.
        Sum = 0 "sum",
        /// The arithmetic mean.
        Mean = 1 "mean",
        /// The largest value; NaN is larger than all.
        Max = 2 "max",
    }
    /// How the pages of a KV cache are laid out.
    KvLayout {
        /// `[blocks, block_size, Hkv, D]`.
        BlockTokenHead = 0 "block_token_head",
        /// `[blocks, Hkv, block_size, D]`.
        BlockHeadToken = 1 "block_head_token",
    }
}

/// A permutation of up to eight axes, four bits an axis, axis 0 lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Perm(pub u32);

impl Perm {
    /// The permutation that puts input axis `axes[i]` at output axis `i`. `None` unless `axes` is a permutation of
    /// `0..axes.len()` with at most eight axes.
    pub fn new(axes: &[usize]) -> Option<Self> {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if axes.len() > 8 || sorted.iter().enumerate().any(|(i, &a)| i != a) {
            return None;
        }
        Some(Perm(axes.iter().enumerate().fold(0, |w, (i, &a)| w | (a as u32) << (4 * i))))
    }

    /// The first `rank` axes; `None` unless they are a permutation.
    pub fn axes(self, rank: usize) -> Option<Vec<usize>> {
        let axes: Vec<usize> = (0..rank.min(8)).map(|i| (self.0 >> (4 * i) & 15) as usize).collect();
        Perm::new(&axes).filter(|p| *p == self).map(|_| axes)
    }
}

impl Word for Perm {
    fn to_word(self) -> u32 {
        self.0
    }
    fn from_word(word: u32) -> Option<Self> {
        Some(Perm(word))
    }
}

macro_rules! attrs {
    ($($(#[$doc:meta])* $name:ident { $($(#[doc = $fdoc:literal])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name { $($(#[doc = $fdoc])* pub $field: $ty,)* }

        impl Attrs for $name {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field),)*];
            const C_TYPES: &'static [&'static str] = &[$(<$ty as Word>::C,)*];
            const DOCS: &'static [&'static str] = &[$(concat!($($fdoc),*),)*];
            const NAME: &'static str = stringify!($name);

            fn words(&self) -> Vec<u32> { vec![$(self.$field.to_word(),)*] }

            fn from_words(words: &[u32]) -> Option<Self> {
                #[allow(unused_mut, reason = "a struct with no fields reads no word")]
                let mut words = words.iter().copied();
                let out = $name { $($field: <$ty>::from_word(words.next().unwrap_or(0))?,)* };
                words.all(|w| w == 0).then_some(out)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool { self.words() == other.words() }
        }
        impl Eq for $name {}
        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) { self.words().hash(state) }
        }
        impl fmt::Display for $name {
            #[allow(unused_variables, unused_mut, unused_assignments, reason = "a struct with no fields prints nothing")]
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut sep = "";
                $(
                    write!(f, "{sep}{}={:?}", stringify!($field), self.$field)?;
                    sep = ",";
                )*
                Ok(())
            }
        }
    )*};
}

attrs! {
    /// No attributes.
    NoAttrs {}
    /// Attributes of `fill`.
    FillAttrs {
        /// The value, rounded to the output dtype.
        value: f32,
    }
    /// Attributes of `gelu`.
    GeluAttrs {
        /// erf or tanh.
        form: GeluForm,
    }
    /// Attributes of `silu_mul`.
    SiluMulAttrs {
        /// For one `[.., 2d]` operand: the gate is the second half.
        gate_second: bool,
        /// 0 = off; else gate is cut to at most this and up to ± this first.
        clamp: f32,
    }
    /// Attributes of `matmul`.
    MatmulAttrs {
        /// Whether b is `[N, K]`.
        trans_b: bool,
        /// What follows the product.
        epilogue: Epilogue,
        /// How f32 products are formed.
        precision: Precision,
    }
    /// Attributes of `rms_norm` and `add_rms_norm`.
    NormAttrs {
        /// Added to the mean square, inside the root.
        eps: f32,
        /// 1 for weights stored minus one (Gemma), else 0.
        weight_offset: u32,
        /// Whether the normalised value is rounded to the dtype of y before × w.
        round_before_weight: bool,
    }
    /// Attributes of `layer_norm`.
    LayerNormAttrs {
        /// Added to the variance, inside the root.
        eps: f32,
    }
    /// Attributes of `rope`.
    RopeAttrs {
        /// How elements pair.
        style: RopeStyle,
        /// How many elements of a head are rotated; 0 = all.
        rotary_dim: u32,
        /// The first rotated element.
        offset: u32,
    }
    /// Attributes of `softmax`.
    SoftmaxAttrs {
        /// Multiplies x before the mask is added; 0 = 1.
        scale: f32,
        /// Row i of the last two axes `[Tq, Tk]` sees columns j ≤ Tk − Tq + i.
        causal: bool,
    }
    /// Attributes of `reduce`.
    ReduceAttrs {
        /// What is computed.
        kind: ReduceKind,
        /// The axis that is reduced.
        axis: u32,
        /// Whether the axis stays, with size 1.
        keep_dim: bool,
    }
    /// Attributes of `top_k`.
    TopKAttrs {
        /// How many of the largest values.
        k: u32,
    }
    /// Attributes of `kv_write`.
    KvWriteAttrs {
        /// How pages are laid out.
        kv_layout: KvLayout,
    }
    /// Attributes of `attention_prefill` and `attention_decode`.
    AttentionAttrs {
        /// Query i of a sequence sees keys j ≤ kv_len − q_len + i. A decode query sees all its keys either way.
        causal: bool,
        /// 0 = 1/√D.
        scale: f32,
        /// 0 = off; else scores become `softcap·tanh(score/softcap)`.
        softcap: f32,
        /// 0 = unlimited; else a query sees only its last `window` keys, itself included, and none behind it, causal or not.
        window: u32,
        /// How pages are laid out; unused without a block table.
        kv_layout: KvLayout,
    }
    /// Attributes of `matmul_quant`.
    MatmulQuantAttrs {
        /// Input channels per scale; 0 = all of K. Unused for block formats.
        group_size: u32,
        /// Output channels per row of scales; 0 = 1. 128 for fp8 in 128×128 blocks.
        group_rows: u32,
        /// What follows the product.
        epilogue: Epilogue,
    }
    /// Attributes of `concat`.
    ConcatAttrs {
        /// The axis along which operands follow each other.
        axis: u32,
    }
    /// Attributes of `split`.
    SplitAttrs {
        /// The axis that is cut.
        axis: u32,
        /// Into how many equal parts.
        parts: u32,
    }
    /// Attributes of `slice`.
    SliceAttrs {
        /// The axis that is cut.
        axis: u32,
        /// The first index kept.
        start: u32,
        /// How many indices are kept.
        len: u32,
    }
    /// Attributes of `transpose`.
    TransposeAttrs {
        /// Input axis `perm[i]` becomes output axis `i`.
        perm: Perm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_way_through_words() {
        let a =
            AttentionAttrs { causal: true, scale: 0.5, softcap: 30.0, window: 7, kv_layout: KvLayout::BlockHeadToken };
        assert_eq!(AttentionAttrs::from_words(&a.words()), Some(a));
        assert_eq!(AttentionAttrs::from_words(&[]), Some(AttentionAttrs::default()));
    }

    #[test]
    fn a_used_unknown_tail_or_an_unknown_value_is_refused() {
        assert_eq!(GeluAttrs::from_words(&[1, 0, 0]), Some(GeluAttrs { form: GeluForm::Tanh }));
        assert_eq!(GeluAttrs::from_words(&[1, 0, 9]), None);
        assert_eq!(GeluAttrs::from_words(&[7]), None);
    }

    #[test]
    fn only_permutations_are_permutations() {
        assert_eq!(Perm::new(&[2, 0, 1]).unwrap().axes(3), Some(vec![2, 0, 1]));
        assert!(Perm::new(&[0, 0]).is_none());
        assert!(Perm(0x11).axes(2).is_none());
    }
}
