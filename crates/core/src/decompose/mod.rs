//! Composite operators as smaller ones. One function per decomposition named in the op list; each gives the function
//! that appends to a graph the nodes which compute the same outputs, or `None` for an operator that is not composite.
//!
//! Values between the pieces are f32, so that a decomposition rounds where its composite rounds, and NaN, ∞ and masked
//! rows come out as the truth has them. An operator is made of what stands lower in this table or is not taken apart, so that
//! taking apart ends.
//!
//! | operator | is made of | not taken apart |
//! |---|---|---|
//! | `scaled_matmul` | `cast`, `slice`, `matmul` over parts of K whose integer sums f32 holds, `sub`, `mul`, `add` | |
//! | `matmul_quant` | `cast`, `copy`, `slice`, `transpose`, `gather_rows`, `sub`, `mul`, `matmul` | |
//! | `quantize_static` | `div`, `add`, `cast` | |
//! | `quantize_dynamic` | `reduce`, `concat`, `div`, `mul`, `cast` | |
//! | `matmul` | with an epilogue: `matmul`, `add`, `silu_mul`, `gelu`; in tf32: in ieee; `A·B`: `transpose`, `A·Bᵀ` | `A·Bᵀ` in f32 with nothing after it |
//! | `silu_mul` | `slice`, `silu`, `mul`; with a clamp also `concat`, `reduce` | |
//! | `softmax` | `mul`, `add`, `reduce`, `sub`, `exp`, `concat`, `div`; causal: also `fill` and `copy` | |
//! | `rope` | `gather_rows`, `slice`, `mul`, `sub`, `add`, `cast`, `concat` | |
//! | `layer_norm` | `reduce`, `sub`, `rms_norm`, `add` | |
//! | `add_rms_norm` | `add`, `cast`, `rms_norm` | |
//! | `silu`, `sigmoid` | `mul`, `exp`, `add`, `div` | |
//! | `gelu` | `mul`, `exp`, `add`, `div` | the form with erf, which the list can't compute within its tolerance |
//! | `relu` | `concat`, `reduce` | |
//! | `sub` | `mul`, `add` | |
//! | `reduce` | mean: `reduce`, `div`; sum: `transpose`, `matmul`; largest: `transpose`, `top_k` | |
//! | `argmax` | `top_k` | |
//! | `split` | `slice` | |
//! | `slice`, `concat`, `transpose` | `copy` | |
//!
//! The others are primitive:
//!
//! | operator | why |
//! |---|---|
//! | `copy`, `fill`, `add`, `mul` | nothing is smaller |
//! | `cast` | nothing else changes a dtype from or to an integer or a block format |
//! | `div`, `exp` | nothing else divides or grows so fast; a logistic would, and it is made of them |
//! | `tanh` | near 0 its relative error is bounded, and there every way through `exp` cancels |
//! | `rms_norm` | nothing else takes a root, but for `layer_norm`, which is made of it |
//! | `gather_rows`, `kv_write` | which rows are read or written is data |
//! | `top_k` | which columns are taken is data; `argmax` finds the first, and nothing takes it away for the next |
//! | `sample` | how many tokens each filter keeps is data, and the list compares nothing |
//! | `attention_prefill`, `attention_decode` | lengths and pages are data; and 0·NaN is NaN, so that a weight of 0 does not hide what a query must not see |
//!
//! An instance is not taken apart either where an operand has a private layout (but for a matmul's, whose pieces take it as
//! it is), or where f64 or a size beyond 32 bits would pass through f32 or an attribute.

mod elementwise;
mod movement;
mod pieces;
mod products;
mod rows;

use elementwise::*;
use movement::*;
use products::*;
use rows::*;

use crate::attrs::FillAttrs;
use crate::dtype::DType;
use crate::error::Result;
use crate::for_each_op;
use crate::graph::{Graph, TensorId};
use crate::op::{Op, OpKind};
use pieces::Pieces;

/// Appends nodes to the graph that read `inputs` and write `outputs`. `false`, with the graph untouched, when this
/// instance has no decomposition.
pub type Decompose = fn(&Op, &mut Graph, &[Option<TensorId>], &[TensorId]) -> Result<bool>;

/// Appends the decomposition of an operator to a graph; `false` when it has none.
///
/// # Errors
/// The operands do not fit the operator.
pub fn decompose(op: &Op, graph: &mut Graph, inputs: &[Option<TensorId>], outputs: &[TensorId]) -> Result<bool> {
    let kind = op.kind();
    let Some(apart) = decomposition(kind) else { return Ok(false) };
    let moves = matches!(kind, OpKind::Concat | OpKind::Split | OpKind::Slice | OpKind::Transpose);
    let all = || inputs.iter().flatten().chain(outputs).map(|&id| graph.desc(id));
    let small = |d: &usize| u32::try_from(*d).is_ok();
    let fits = all().all(|d| d.shape.iter().all(small) && (moves || d.dtype != DType::F64));
    if !fits || !in_strides(graph, inputs) && kind != OpKind::Matmul {
        return Ok(false);
    }
    if !moves && outputs.iter().all(|&id| graph.desc(id).elements() == 0) {
        // Nothing is written, and the graph is told so.
        for &output in outputs {
            Pieces(graph).write(Op::Fill(FillAttrs { value: 0.0 }), &[], output)?;
        }
        return Ok(true);
    }
    apart(op, graph, inputs, outputs)
}

/// Whether some instances of an operator have a decomposition.
pub fn is_composite(kind: OpKind) -> bool {
    decomposition(kind).is_some()
}

/// Whether all operands lie in strides, none in a private layout.
fn in_strides(graph: &Graph, inputs: &[Option<TensorId>]) -> bool {
    inputs.iter().flatten().all(|&id| graph.desc(id).layout == 0)
}

const fn none() -> Option<Decompose> {
    None
}

macro_rules! decomposition_table {
    ($($(#[doc = $doc:literal])* $variant:ident($attrs:ident) = $code:literal, $name:literal, $tier:ident,
       [$($input:literal),*] => [$($output:literal),*], $rule:ident, $cost:ident, $decompose:ident;)*) => {
        fn decomposition(kind: OpKind) -> Option<Decompose> {
            match kind { $(OpKind::$variant => $decompose(),)* }
        }
    };
}

for_each_op!(decomposition_table);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::*;
    use crate::shape::TensorDesc;

    fn bound(g: &mut Graph, dtype: DType, shape: &[usize]) -> TensorId {
        g.bind("x", TensorDesc::new(dtype, shape).unwrap())
    }

    /// Whether a node comes apart; the graph is untouched where it does not.
    fn comes_apart(op: Op, mut g: Graph, inputs: &[TensorId], dtype: DType, shape: &[usize]) -> bool {
        let y = bound(&mut g, dtype, shape);
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let before = g.clone();
        let apart = decompose(&op, &mut g, &inputs, &[y]).unwrap();
        assert!(apart || g == before, "{op}:\n{g}");
        apart
    }

    #[test]
    fn what_is_not_taken_apart_leaves_the_graph_as_it_was() {
        let mut g = Graph::new();
        let [x, wide] = [DType::F32, DType::F64].map(|dtype| bound(&mut g, dtype, &[2, 4]));
        let gelu = |form| Op::Gelu(GeluAttrs { form });
        let product = |trans_b| Op::Matmul(MatmulAttrs { trans_b, ..Default::default() });
        for (op, inputs, dtype, shape, apart) in [
            (gelu(GeluForm::Tanh), vec![x], DType::F32, [2, 4], true),
            (gelu(GeluForm::Erf), vec![x], DType::F32, [2, 4], false),
            (Op::Silu(NoAttrs {}), vec![wide], DType::F32, [2, 4], false),
            (Op::Silu(NoAttrs {}), vec![x], DType::F64, [2, 4], false),
            (Op::Transpose(TransposeAttrs { perm: Perm(0x01) }), vec![wide], DType::F64, [4, 2], true),
            (Op::Exp(NoAttrs {}), vec![x], DType::F32, [2, 4], false),
            (product(true), vec![x, x], DType::F32, [2, 2], false),
        ] {
            assert_eq!(comes_apart(op, g.clone(), &inputs, dtype, &shape), apart, "{op}");
        }
    }

    #[test]
    fn a_constant_in_a_private_layout_is_read_by_no_piece_but_a_product() {
        let mut g = Graph::new();
        let x = bound(&mut g, DType::F32, &[2, 4]);
        let w = g.bind("w", TensorDesc { layout: 7, ..TensorDesc::new(DType::F32, &[4, 4]).unwrap() }.as_constant());
        let product = |epilogue, trans_b| Op::Matmul(MatmulAttrs { trans_b, epilogue, ..Default::default() });
        assert!(comes_apart(product(Epilogue::Gelu, true), g.clone(), &[x, w], DType::F32, &[2, 4]));
        assert!(!comes_apart(product(Epilogue::None, false), g.clone(), &[x, w], DType::F32, &[2, 4]));
        assert!(!comes_apart(Op::Relu(NoAttrs {}), g, &[w], DType::F32, &[4, 4]));
    }

    #[test]
    fn sizes_beyond_an_attribute_are_not_taken_apart() {
        let mut g = Graph::new();
        let x = bound(&mut g, DType::F16, &[1, 1 << 33]);
        let y = comes_apart(Op::Softmax(SoftmaxAttrs::default()), g, &[x], DType::F16, &[1, 1 << 33]);
        assert!(!y);
    }
}
