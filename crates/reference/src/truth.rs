//! From the op list to the truths. An operator of the list without an arm here does not compile.

use qiao_core::{Error, NodeView, Op, OpKind, Result, for_each_op};

use crate::args::Args;
use crate::class::Class;
use crate::ops;
use crate::value::Output;

/// The truth of an operator and the class of its tolerance.
macro_rules! truth {
    (Copy) => {
        (ops::copy, Class::Exact)
    };
    (Cast) => {
        (ops::cast, Class::Exact)
    };
    (Fill) => {
        (ops::fill, Class::Exact)
    };
    (GatherRows) => {
        (ops::gather_rows, Class::Exact)
    };
    (Add) => {
        (ops::add, Class::Rounding)
    };
    (Sub) => {
        (ops::sub, Class::Rounding)
    };
    (Mul) => {
        (ops::mul, Class::Rounding)
    };
    (Div) => {
        (ops::div, Class::Rounding)
    };
    (Silu) => {
        (ops::silu, Class::Rounding)
    };
    (Gelu) => {
        (ops::gelu, Class::Rounding)
    };
    (Relu) => {
        (ops::relu, Class::Rounding)
    };
    (Sigmoid) => {
        (ops::sigmoid, Class::Rounding)
    };
    (Tanh) => {
        (ops::tanh, Class::Rounding)
    };
    (Exp) => {
        (ops::exp, Class::Rounding)
    };
    (SiluMul) => {
        (ops::silu_mul, Class::Rounding)
    };
    (Matmul) => {
        (ops::matmul, Class::Contract)
    };
    (RmsNorm) => {
        (ops::rms_norm, Class::Reduce)
    };
    (AddRmsNorm) => {
        (ops::add_rms_norm, Class::Reduce)
    };
    (LayerNorm) => {
        (ops::layer_norm, Class::Reduce)
    };
    (Rope) => {
        (ops::rope, Class::Reduce)
    };
    (Softmax) => {
        (ops::softmax, Class::Reduce)
    };
    (Reduce) => {
        (ops::reduce, Class::Reduce)
    };
    (Argmax) => {
        (ops::argmax, Class::Exact)
    };
    (TopK) => {
        (ops::top_k, Class::Discrete)
    };
    (KvWrite) => {
        (ops::kv_write, Class::Quantised)
    };
    (AttentionPrefill) => {
        (ops::attention_prefill, Class::Contract)
    };
    (AttentionDecode) => {
        (ops::attention_decode, Class::Contract)
    };
    (Sample) => {
        (ops::sample, Class::Discrete)
    };
    (MatmulQuant) => {
        (ops::matmul_quant, Class::Quantised)
    };
    (QuantizeDynamic) => {
        (ops::quantize_dynamic, Class::Quantised)
    };
    (QuantizeStatic) => {
        (ops::quantize_static, Class::Quantised)
    };
    (ScaledMatmul) => {
        (ops::scaled_matmul, Class::Quantised)
    };
    (Concat) => {
        (ops::concat, Class::Exact)
    };
    (Split) => {
        (ops::split, Class::Exact)
    };
    (Slice) => {
        (ops::slice, Class::Exact)
    };
    (Transpose) => {
        (ops::transpose, Class::Exact)
    };
}

macro_rules! dispatch {
    ($($(#[$doc:meta])* $variant:ident($attrs:ident) = $code:literal, $name:literal, $tier:ident,
       [$($input:literal),*] => [$($output:literal),*], $rule:ident, $cost:ident, $decompose:ident;)*) => {
        /// What a node's outputs are, in order, not yet rounded. `bytes` holds one entry per input of the node.
        ///
        /// # Errors
        /// Operands that are too short, or data that breaks the operator's meaning, such as a slot written twice.
        pub fn eval(node: NodeView<'_>, bytes: &[Option<&[u8]>]) -> Result<Vec<Output>> {
            let args = Args::new(node, bytes);
            match node.op() {
                $(Op::$variant(attrs) => (truth!($variant).0)(attrs, &args),)*
                #[allow(unreachable_patterns, reason = "the enum may be open to crates other than core")]
                _ => Err(unknown(node.kind())),
            }
        }

        /// The class of an operator's tolerance.
        pub fn class(kind: OpKind) -> Class {
            match kind {
                $(OpKind::$variant => truth!($variant).1,)*
                _ => unreachable!("the list holds every operator"),
            }
        }
    };
}

for_each_op!(dispatch);

fn unknown(kind: OpKind) -> Error {
    Error::internal(format!("truth of {kind}"), "the op list does not hold it")
}
