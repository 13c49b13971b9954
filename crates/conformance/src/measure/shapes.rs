//! Shapes of operators as records name them, in the words that case families use, and the operators themselves.

use qiao_core::{DType, KvLayout, OpKind, Result};
use qiao_reference::data::Rng;

use super::attention::{self, Heads};
use super::products::{self, Mnk};
use super::rowwise;
use super::source::Pools;
use super::work::Work;

/// An operator at one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `[M, K]·[N, K]ᵀ`, with a bias or without; the dtype of the result where it is another one.
    Matmul { dtype: DType, mnk: Mnk, bias: bool, out: Option<DType> },
    /// The same with weights in a block format or as codes with scales, and activations of another dtype.
    MatmulQuant { format: DType, act: DType, mnk: Mnk, out: Option<DType> },
    /// The same of i8 operands, scaled into another dtype.
    ScaledMatmul { mnk: Mnk, out: DType },
    /// Rows and columns.
    Rows { kind: OpKind, dtype: DType, rows: usize, cols: usize },
    /// Ids, and rows and columns of the table.
    Gather { dtype: DType, ids: usize, rows: usize, cols: usize },
    /// Tokens, heads, head size.
    Rope { dtype: DType, tokens: usize, heads: usize, d: usize },
    /// Tokens, key heads, head size, pages.
    KvWrite { dtype: DType, tokens: usize, heads: usize, d: usize, layout: KvLayout, block: usize },
    /// Sequences and their length.
    Decode { dtype: DType, heads: Heads, batch: usize, context: usize },
    /// Tokens, and tokens before them.
    Prefill { dtype: DType, heads: Heads, tokens: usize, past: usize },
}

impl Shape {
    /// The operator.
    pub(crate) fn kind(&self) -> OpKind {
        match self {
            Shape::Matmul { .. } => OpKind::Matmul,
            Shape::MatmulQuant { .. } => OpKind::MatmulQuant,
            Shape::ScaledMatmul { .. } => OpKind::ScaledMatmul,
            Shape::Rows { kind, .. } => *kind,
            Shape::Gather { .. } => OpKind::GatherRows,
            Shape::Rope { .. } => OpKind::Rope,
            Shape::KvWrite { .. } => OpKind::KvWrite,
            Shape::Decode { .. } => OpKind::AttentionDecode,
            Shape::Prefill { .. } => OpKind::AttentionPrefill,
        }
    }

    /// The dtype in its path: that of activations.
    pub(crate) fn dtype(&self) -> DType {
        match *self {
            Shape::MatmulQuant { act, .. } => act,
            Shape::ScaledMatmul { out, .. } => out,
            Shape::Matmul { dtype, .. }
            | Shape::Rows { dtype, .. }
            | Shape::Gather { dtype, .. }
            | Shape::Rope { dtype, .. }
            | Shape::KvWrite { dtype, .. }
            | Shape::Decode { dtype, .. }
            | Shape::Prefill { dtype, .. } => dtype,
        }
    }

    /// The dtype of its weights, where it is another one.
    pub(crate) fn format(&self) -> Option<DType> {
        match *self {
            Shape::MatmulQuant { format, .. } => Some(format),
            Shape::ScaledMatmul { .. } => Some(DType::I8),
            _ => None,
        }
    }

    /// What stands behind operator and dtype in its path.
    pub(crate) fn parameters(&self) -> String {
        let product = |Mnk { m, n, k }: &Mnk| format!("m={m},n={n},k={k}");
        let out = |out: &Option<DType>| out.map_or(String::new(), |d| format!(",out={d}"));
        let heads = |h: &Heads| {
            let (gqa, pages) = (h.heads / h.kv_heads, pages(h.layout));
            format!("kv={},gqa={gqa},d={},block={}{pages}", h.kv_heads, h.d, h.block)
        };
        match self {
            Shape::Matmul { mnk, bias, out: o, .. } => {
                format!("{}{}{}", product(mnk), if *bias { ",epilogue=bias" } else { "" }, out(o))
            }
            Shape::MatmulQuant { format, mnk, out: o, .. } if !format.is_block() => {
                format!("{},codes={format},group={}{}", product(mnk), products::GROUP, out(o))
            }
            Shape::MatmulQuant { format, mnk: Mnk { m, n, k }, out: o, .. } => {
                format!("m={m},n={n},blocks={},format={format}{}", k / format.block_elems(), out(o))
            }
            Shape::ScaledMatmul { mnk, .. } => product(mnk),
            Shape::Rows { kind: OpKind::SiluMul, rows, cols, .. } => format!("rows={rows},cols={cols},gate=two"),
            Shape::Rows { kind: OpKind::Sample, rows, cols, .. } => format!("rows={rows},vocab={cols}"),
            Shape::Rows { rows, cols, .. } => format!("rows={rows},cols={cols}"),
            Shape::Gather { ids, rows, cols, .. } => format!("ids={ids},rows={rows},cols={cols},table=constant"),
            Shape::Rope { tokens, heads, d, .. } => format!("tokens={tokens},heads={heads},pairs={}", d / 2),
            Shape::KvWrite { tokens, heads, d, layout, block, .. } => {
                format!("tokens={tokens},heads={heads},d={d},block={block}{}", pages(*layout))
            }
            Shape::Decode { heads: h, batch, context, .. } => format!("batch={batch},keys={context},{}", heads(h)),
            Shape::Prefill { heads: h, tokens, past, .. } => {
                format!("queries={tokens},keys={},{}", past + tokens, heads(h))
            }
        }
    }

    /// Its path.
    pub(crate) fn id(&self) -> String {
        format!("op/{}/{}/{}", self.kind(), self.dtype(), self.parameters())
    }

    /// The operator with its operands.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub(crate) fn work(&self, pools: &mut Pools, rng: &mut Rng) -> Result<Work> {
        match *self {
            Shape::Matmul { dtype, mnk, bias, out } => products::matmul(pools, rng, dtype, mnk, bias, out),
            Shape::MatmulQuant { format, act, mnk, out } => products::matmul_quant(pools, rng, format, act, mnk, out),
            Shape::ScaledMatmul { mnk, out } => products::scaled_matmul(pools, rng, mnk, Some(out)),
            Shape::Rows { kind, dtype, rows, cols } => {
                let shape = [rows, cols];
                match kind {
                    OpKind::RmsNorm => rowwise::rms_norm(pools, rng, dtype, shape),
                    OpKind::AddRmsNorm => rowwise::add_rms_norm(pools, rng, dtype, shape),
                    OpKind::SiluMul => rowwise::silu_mul(pools, rng, dtype, shape),
                    OpKind::QuantizeDynamic => rowwise::quantize_dynamic(pools, rng, dtype, shape),
                    OpKind::Argmax => rowwise::argmax(pools, rng, shape),
                    OpKind::Sample => rowwise::sample(pools, rng, shape),
                    OpKind::Reduce => rowwise::largest(pools, rng, dtype, shape),
                    OpKind::Copy => rowwise::copy(pools, rng, dtype, shape),
                    other => unreachable!("the list measures no {other} by rows"),
                }
            }
            Shape::Gather { dtype, ids, rows, cols } => rowwise::gather_rows(pools, rng, dtype, ids, [rows, cols]),
            Shape::Rope { dtype, tokens, heads, d } => rowwise::rope(pools, rng, dtype, [tokens, heads, d]),
            Shape::KvWrite { dtype, tokens, heads, d, layout, block } => {
                rowwise::kv_write(pools, rng, dtype, [tokens, heads, d], (layout, block))
            }
            Shape::Decode { dtype, heads, batch, context } => {
                attention::decode(pools, rng, dtype, heads, [batch, context])
            }
            Shape::Prefill { dtype, heads, tokens, past } => {
                attention::prefill(pools, rng, dtype, heads, [tokens, past])
            }
        }
    }
}

/// The order of a page's dims, where it is not tokens before heads.
fn pages(layout: KvLayout) -> &'static str {
    match layout {
        KvLayout::BlockTokenHead => "",
        KvLayout::BlockHeadToken => ",pages=head_token",
    }
}
