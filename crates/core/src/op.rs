//! THE op list. Ids, names, attributes, operands, shape rules, costs and decompositions are read from
//! [`for_each_op!`](crate::for_each_op) and from nowhere else.

use std::fmt;
use std::str::FromStr;

use crate::attrs::*;
use crate::error::Error;

/// The profile that an operator belongs to, smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Tier 0: what a language model needs to produce a token.
    LlmCore,
    /// Tier 1: what serving needs on top.
    LlmServing,
    /// Tier 2: everything else.
    Full,
}

impl Tier {
    /// The profile's name.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::LlmCore => "llm-core",
            Tier::LlmServing => "llm-serving",
            Tier::Full => "full",
        }
    }
}

/// One operand of an operator, as the list names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Its name.
    pub name: &'static str,
    /// Whether it may be left out (`?` in the list).
    pub optional: bool,
    /// Whether any number of operands stand in its place (`*` in the list); only the last can.
    pub variadic: bool,
}

impl Operand {
    const fn parse(text: &'static str) -> Self {
        let bytes = text.as_bytes();
        let optional = bytes[bytes.len() - 1] == b'?';
        let variadic = bytes[bytes.len() - 1] == b'*';
        let name = if optional || variadic { text.split_at(bytes.len() - 1).0 } else { text };
        Operand { name, optional, variadic }
    }
}

/// Calls `$callback!` with one row per operator:
///
/// `Variant(Attrs) = opcode, "name", Tier, [inputs] => [outputs], rule, cost, decomposition;`
///
/// An operand `x?` may be left out; `xs*` stands for any number. An output that carries the name of an input is that
/// input written in place. `rule` is a function of `rules`, `cost` of `cost`, `decomposition` of `decompose`; those
/// modules read their column of the list themselves.
#[macro_export]
macro_rules! for_each_op {
    ($callback:ident) => {
        $callback! {
            /// `y = x`, bit for bit; any strides on either side.
            Copy(NoAttrs) = 1, "copy", LlmCore, ["x"] => ["y"], same, moves, none;
            /// `y = x` in another dtype: round half to even; fp8 saturates, f16 overflows to ∞, integers saturate and
            /// NaN becomes 0. In its own dtype, bit for bit. A block format decodes to any float.
            Cast(NoAttrs) = 2, "cast", LlmCore, ["x"] => ["y"], cast, moves, none;
            /// Every element is `value`.
            Fill(FillAttrs) = 3, "fill", LlmCore, [] => ["y"], fill, moves, none;
            /// `out[i] = table[ids[i]]`. A row whose id is out of range is NaN, or 0 in integers.
            GatherRows(NoAttrs) = 4, "gather_rows", LlmCore, ["table", "ids"] => ["y"], gather_rows, gather_rows, none;
            /// `y = a + b`, the two broadcast to one shape.
            Add(NoAttrs) = 16, "add", LlmCore, ["a", "b"] => ["y"], broadcast, elementwise, none;
            /// `y = a − b`, the two broadcast to one shape.
            Sub(NoAttrs) = 17, "sub", LlmCore, ["a", "b"] => ["y"], broadcast, elementwise, sub;
            /// `y = a · b`, the two broadcast to one shape.
            Mul(NoAttrs) = 18, "mul", LlmCore, ["a", "b"] => ["y"], broadcast, elementwise, none;
            /// `y = a / b`, the two broadcast to one shape.
            Div(NoAttrs) = 19, "div", LlmCore, ["a", "b"] => ["y"], broadcast, elementwise, none;
            /// `y = x / (1 + e^−x)`.
            Silu(NoAttrs) = 24, "silu", LlmCore, ["x"] => ["y"], unary, elementwise, silu;
            /// `y = x·Φ(x)`.
            Gelu(GeluAttrs) = 25, "gelu", LlmCore, ["x"] => ["y"], unary, elementwise, gelu;
            /// `y = max(x, 0)`; NaN stays.
            Relu(NoAttrs) = 26, "relu", LlmCore, ["x"] => ["y"], unary, elementwise, relu;
            /// `y = 1 / (1 + e^−x)`.
            Sigmoid(NoAttrs) = 27, "sigmoid", LlmCore, ["x"] => ["y"], unary, elementwise, sigmoid;
            /// `y = tanh x`.
            Tanh(NoAttrs) = 28, "tanh", LlmCore, ["x"] => ["y"], unary, elementwise, none;
            /// `y = e^x`.
            Exp(NoAttrs) = 29, "exp", LlmCore, ["x"] => ["y"], unary, elementwise, none;
            /// `y = silu(gate) · up` with one rounding. One operand `[.., 2d]` holds both halves; with two, x is the
            /// gate.
            SiluMul(SiluMulAttrs) = 32, "silu_mul", LlmCore, ["x", "up?"] => ["y"], silu_mul, elementwise, silu_mul;
            /// `c = a · b`, with the epilogue, rounded once. a `[.., M, K]`; b `[N, K]` or `[K, N]`, or with a's batch
            /// dims in front.
            Matmul(MatmulAttrs) = 48, "matmul", LlmCore, ["a", "b", "bias?", "residual?"] => ["c"], matmul, matmul, matmul;
            /// `y = x·(w + weight_offset) / √(mean(x²) + eps)` over the last axis.
            RmsNorm(NormAttrs) = 64, "rms_norm", LlmCore, ["x", "w?"] => ["y"], norm, norm, none;
            /// `sum = a + b`, rounded; `y = rms_norm(a + b)` from the unrounded sum.
            AddRmsNorm(NormAttrs) = 65, "add_rms_norm", LlmCore, ["a", "b", "w?"] => ["sum", "y"], add_norm, norm, add_rms_norm;
            /// `y = (x − mean)·w / √(var + eps) + b` over the last axis, with the population variance.
            LayerNorm(LayerNormAttrs) = 66, "layer_norm", LlmCore, ["x", "w?", "b?"] => ["y"], layer_norm, norm, layer_norm;
            /// Rotates pairs of x `[T, H, D]` by the row of cos and sin `[max_pos, rotary_dim/2]` that `positions[T]`
            /// names. The other elements pass. A position out of range gives NaN in what it rotates.
            Rope(RopeAttrs) = 80, "rope", LlmCore, ["x", "positions", "cos", "sin"] => ["y"], rope, elementwise, rope;
            /// Row-wise softmax of `scale·x + mask`; a fully masked row gives zeros. Causal: columns beyond a row's own are
            /// zeros whatever they hold; a NaN or +∞ that the row sees makes all that it sees NaN.
            Softmax(SoftmaxAttrs) = 96, "softmax", LlmCore, ["x", "mask?"] => ["y"], softmax, norm, softmax;
            /// Sum, mean or largest value along one axis.
            Reduce(ReduceAttrs) = 97, "reduce", LlmCore, ["x"] => ["y"], reduce, elementwise, reduce;
            /// The index of the largest value of each row; ties to the lower index, NaN is larger than all.
            Argmax(NoAttrs) = 98, "argmax", LlmCore, ["x"] => ["y"], argmax, elementwise, argmax;
            /// The k largest values of each row and their indices, in descending order; ties to the lower index, NaN is
            /// larger than all.
            TopK(TopKAttrs) = 99, "top_k", LlmServing, ["x"] => ["values", "indices"], top_k, elementwise, none;
            /// Writes row t of k and v `[T, Hkv, D]` to slot `slots[t]` of the caches; slot −1 is skipped. A quantised
            /// cache takes one scale per token and head: max abs / 127 for i8, / 448 for fp8; fp8 without scales
            /// saturates.
            KvWrite(KvWriteAttrs) = 112, "kv_write", LlmServing,
                ["k", "v", "slots", "k_cache", "v_cache", "k_scale?", "v_scale?"]
                => ["k_cache", "v_cache", "k_scale?", "v_scale?"], kv_write, kv_write, none;
            /// Attention of packed queries q `[ΣT, H, D]`, `cu_q[B+1]`, `kv_len[B]`. Without a block table k and v are
            /// packed `[Σkv_len, Hkv, D]`; with `block_table[B, maxb]` they are caches of pages. Rows of q from `cu_q[B]` on
            /// belong to no sequence: they give zeros.
            AttentionPrefill(AttentionAttrs) = 113, "attention_prefill", LlmServing,
                ["q", "k", "v", "cu_q", "kv_len", "block_table?", "sinks?", "k_scale?", "v_scale?"]
                => ["y"], attention_prefill, attention, none;
            /// Attention of one query per sequence, q `[B, H, D]`, over the pages that `block_table[B, maxb]` names;
            /// `kv_len[B]`.
            AttentionDecode(AttentionAttrs) = 114, "attention_decode", LlmServing,
                ["q", "k", "v", "kv_len", "block_table", "sinks?", "k_scale?", "v_scale?"]
                => ["y"], attention_decode, attention, none;
            /// One token per row of logits `[B, V]` for the uniform `u[B]` in [0, 1): temperature, top-k, top-p, min-p
            /// (each `[B]`) in that order on logits sorted by (value descending, index ascending). Temperature 0 is
            /// argmax; top_k 0, top_p 1 and min_p 0 are off. top_p keeps the shortest prefix whose mass reaches it, min_p what
            /// has that share of the largest; the token is the first whose mass, summed up, exceeds u. A row with a NaN gives
            /// the first NaN; logits as large as the largest weigh alike, infinite ones too.
            Sample(NoAttrs) = 128, "sample", LlmCore,
                ["logits", "u", "temperature", "top_k", "top_p", "min_p"] => ["y"], sample, elementwise, none;
            /// `c = a · dequantise(w)ᵀ`, w `[N, K]` in a block format, or codes with scales `[⌈N/group_rows⌉, K/group]`:
            /// `(code − zero)·scale`; `g_idx[K]` names each input channel's group.
            MatmulQuant(MatmulQuantAttrs) = 144, "matmul_quant", LlmServing,
                ["a", "w", "scales?", "zeros?", "g_idx?", "bias?", "residual?"] => ["c"], matmul_quant, matmul, matmul_quant;
            /// Per row: `scale = max abs / 127`, `q = round half even(x / scale)`, saturating; a zero row has scale 0.
            QuantizeDynamic(NoAttrs) = 145, "quantize_dynamic", LlmServing, ["x"] => ["q", "scale"], quantize_dynamic, elementwise, quantize_dynamic;
            /// `c = (a·bᵀ + sum_bias)·sa·sb + bias` with an exact int32 sum; a `[M, K]`, b `[N, K]`, sa `[M]` or `[1]`, sb `[N]`
            /// or `[1]`, bias `[N]`, sum_bias i32 `[N]`.
            ScaledMatmul(NoAttrs) = 146, "scaled_matmul", LlmServing,
                ["a", "b", "sa", "sb", "bias?", "sum_bias?"] => ["c"], scaled_matmul, matmul, scaled_matmul;
            /// `q = round half even(x / scale + zero)` in int8, saturating; NaN becomes 0. scale and zero f32 `[1]`.
            QuantizeStatic(NoAttrs) = 147, "quantize_static", LlmServing, ["x", "scale", "zero?"] => ["q"], quantize_static, elementwise, quantize_static;
            /// Operands one after the other along an axis.
            Concat(ConcatAttrs) = 160, "concat", LlmServing, ["xs*"] => ["y"], concat, moves, concat;
            /// Equal parts along an axis.
            Split(SplitAttrs) = 161, "split", LlmServing, ["x"] => ["ys*"], split, moves, split;
            /// `len` indices from `start` along an axis.
            Slice(SliceAttrs) = 162, "slice", LlmServing, ["x"] => ["y"], slice, moves, slice;
            /// Axes in another order.
            Transpose(TransposeAttrs) = 163, "transpose", LlmServing, ["x"] => ["y"], transpose, moves, transpose;
        }
    };
}

macro_rules! define_ops {
    ($($(#[doc = $doc:literal])* $variant:ident($attrs:ident) = $code:literal, $name:literal, $tier:ident,
       [$($input:literal),*] => [$($output:literal),*], $rule:ident, $cost:ident, $decompose:ident;)*) => {
        /// An operator of the list, without its attributes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum OpKind { $($(#[doc = $doc])* $variant = $code,)* }

        impl OpKind {
            /// Every operator, in the order of the list.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$variant,)*];

            /// The operator's name in case ids, reports and files.
            pub const fn name(self) -> &'static str { match self { $(OpKind::$variant => $name,)* } }

            /// The smallest profile that holds the operator.
            pub const fn tier(self) -> Tier { match self { $(OpKind::$variant => Tier::$tier,)* } }

            /// The operands, in order.
            pub const fn inputs(self) -> &'static [Operand] {
                match self { $(OpKind::$variant => const { &[$(Operand::parse($input)),*] },)* }
            }

            /// The results, in order. One that carries an input's name is that input written in place.
            pub const fn outputs(self) -> &'static [Operand] {
                match self { $(OpKind::$variant => const { &[$(Operand::parse($output)),*] },)* }
            }

            /// The names of the attributes, in the order of their words.
            pub const fn attr_names(self) -> &'static [&'static str] {
                match self { $(OpKind::$variant => <$attrs as Attrs>::FIELDS,)* }
            }

            /// The attribute struct's name, and for each field its name, its type in C and what it says.
            pub fn attr_fields(self) -> (&'static str, Vec<[&'static str; 3]>) {
                fn of<A: Attrs>() -> (&'static str, Vec<[&'static str; 3]>) {
                    (A::NAME, (0..A::FIELDS.len()).map(|i| [A::FIELDS[i], A::C_TYPES[i], A::DOCS[i].trim()]).collect())
                }
                match self { $(OpKind::$variant => of::<$attrs>(),)* }
            }

            /// What the operator computes, in a sentence or two.
            pub const fn meaning(self) -> &'static str {
                match self { $(OpKind::$variant => concat!($($doc),*).trim_ascii_start(),)* }
            }
        }

        /// An operator with its attributes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Op { $($(#[doc = $doc])* $variant($attrs),)* }

        impl Op {
            /// The operator without its attributes.
            pub const fn kind(&self) -> OpKind { match self { $(Op::$variant(_) => OpKind::$variant,)* } }

            /// The attributes as 32-bit words, in the order of [`OpKind::attr_names`].
            pub fn attr_words(&self) -> Vec<u32> { match self { $(Op::$variant(a) => a.words(),)* } }

            /// The operator of a kind with these attribute words, if they stand for one.
            pub fn from_words(kind: OpKind, words: &[u32]) -> Option<Op> {
                match kind { $(OpKind::$variant => $attrs::from_words(words).map(Op::$variant),)* }
            }
        }

        impl fmt::Display for Op {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.kind().name())?;
                match self { $(Op::$variant(a) => if !<$attrs as Attrs>::FIELDS.is_empty() { write!(f, "({a})")? },)* }
                Ok(())
            }
        }
    };
}

for_each_op!(define_ops);

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for OpKind {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        OpKind::ALL.iter().copied().find(|k| k.name() == s).ok_or_else(|| {
            let names: Vec<_> = OpKind::ALL.iter().map(|k| k.name()).collect();
            Error::invalid(
                "operator",
                format!("'{s}' is not in the op list"),
                format!("use one of {}", names.join(", ")),
            )
        })
    }
}

impl OpKind {
    /// The operator with this opcode.
    pub fn from_opcode(code: u32) -> Option<OpKind> {
        OpKind::ALL.iter().copied().find(|k| *k as u32 == code)
    }

    /// The input that output `index` is written in place of, if it is one.
    pub fn in_place_of(self, index: usize) -> Option<usize> {
        let name = self.outputs().get(index)?.name;
        self.inputs().iter().position(|i| i.name == name)
    }

    /// Whether output `index` may be the very tensor that is given as operand `input`.
    pub fn may_be_in_place(self, index: usize, input: usize) -> bool {
        // The residual stream of add_rms_norm is updated where it stands.
        self.in_place_of(index).is_some() && self.outputs().iter().any(|o| o.name == self.inputs()[input].name)
            || matches!((self, index, input), (OpKind::AddRmsNorm, 0, 0 | 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_opcodes_are_unique() {
        for (i, a) in OpKind::ALL.iter().enumerate() {
            for b in &OpKind::ALL[i + 1..] {
                assert_ne!(a.name(), b.name());
                assert_ne!(*a as u32, *b as u32);
            }
            assert_eq!(a.name().parse::<OpKind>().unwrap(), *a);
            assert!(!a.meaning().is_empty());
        }
    }

    #[test]
    fn operands_written_in_place_are_found_by_name() {
        assert_eq!(OpKind::KvWrite.in_place_of(0), Some(3));
        assert_eq!(OpKind::Matmul.in_place_of(0), None);
        assert!(OpKind::Matmul.inputs()[2].optional);
        assert!(OpKind::Concat.inputs()[0].variadic);
    }

    #[test]
    fn every_operator_reads_back_from_its_words() {
        for &kind in OpKind::ALL {
            let op = Op::from_words(kind, &[]).unwrap();
            assert_eq!(op.kind(), kind);
            assert_eq!(Op::from_words(kind, &op.attr_words()), Some(op));
            assert_eq!(op.attr_words().len(), kind.attr_names().len());
        }
    }
}
