//! Composite operators as smaller ones. One function per decomposition named in the op list; each gives the function
//! that appends to a graph the nodes which compute the same outputs, or `None` for an operator that is not composite.
//!
//! Intermediate values are f32, so that a decomposition rounds where its composite rounds.

use crate::attrs::*;
use crate::dtype::DType;
use crate::error::Result;
use crate::for_each_op;
use crate::graph::{Graph, TensorId};
use crate::op::{Op, OpKind};

/// Appends nodes to the graph that read `inputs` and write `outputs`. `false`, with the graph untouched, when this
/// instance has no decomposition.
pub type Decompose = fn(&Op, &mut Graph, &[Option<TensorId>], &[TensorId]) -> Result<bool>;

/// Appends the decomposition of an operator to a graph; `false` when it has none.
///
/// # Errors
/// The operands do not fit the operator.
pub fn decompose(op: &Op, graph: &mut Graph, inputs: &[Option<TensorId>], outputs: &[TensorId]) -> Result<bool> {
    decomposition(op.kind()).map_or(Ok(false), |f| f(op, graph, inputs, outputs))
}

const PLAIN: NoAttrs = NoAttrs {};

const fn none() -> Option<Decompose> {
    None
}

const fn silu_mul() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::SiluMul(attrs) = op else { return Ok(false) };
        if attrs.clamp != 0.0 {
            return Ok(false);
        }
        let x = inputs[0];
        let (gate, up) = match inputs.get(1).copied().flatten() {
            Some(up) => (x, Some(up)),
            None => {
                let shape = g.desc(x.expect("silu_mul has its first operand")).shape;
                let half = (shape.last_dim() / 2) as u32;
                let axis = shape.len() as u32 - 1;
                let mut part = |start| g.add(Op::Slice(SliceAttrs { axis, start, len: half }), &[x]).map(|v| v[0]);
                let (first, second) = (part(0)?, part(half)?);
                if attrs.gate_second { (Some(second), Some(first)) } else { (Some(first), Some(second)) }
            }
        };
        let silu = g.add_as(Op::Silu(PLAIN), &[gate], DType::F32)?[0];
        g.add_into(Op::Mul(PLAIN), &[Some(silu), up], outputs)?;
        Ok(true)
    })
}

/// Appends what follows a plain product `c` (f32): bias, residual, activation.
fn epilogue(
    g: &mut Graph,
    epilogue: Epilogue,
    mut c: TensorId,
    bias: Option<TensorId>,
    residual: Option<TensorId>,
    outputs: &[TensorId],
) -> Result<bool> {
    let last_is_bias = epilogue == Epilogue::Bias || epilogue == Epilogue::BiasResidual && residual.is_none();
    if let (Some(b), false) = (bias, last_is_bias) {
        c = g.add(Op::Add(PLAIN), &[Some(c), Some(b)])?[0];
    }
    match epilogue {
        Epilogue::None => g.add_into(Op::Cast(PLAIN), &[Some(c)], outputs)?,
        Epilogue::Bias => g.add_into(Op::Add(PLAIN), &[Some(c), bias], outputs)?,
        Epilogue::BiasResidual => g.add_into(Op::Add(PLAIN), &[Some(c), residual], outputs)?,
        Epilogue::SiluMul => g.add_into(Op::SiluMul(SiluMulAttrs::default()), &[Some(c), None], outputs)?,
        Epilogue::Gelu => g.add_into(Op::Gelu(GeluAttrs::default()), &[Some(c)], outputs)?,
    };
    Ok(true)
}

const fn matmul() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Matmul(attrs) = op else { return Ok(false) };
        if attrs.epilogue == Epilogue::None {
            return Ok(false);
        }
        let plain = Op::Matmul(MatmulAttrs { epilogue: Epilogue::None, ..*attrs });
        let at = |i: usize| inputs.get(i).copied().flatten();
        let c = g.add_as(plain, &[at(0), at(1)], DType::F32)?[0];
        epilogue(g, attrs.epilogue, c, at(2), at(3), outputs)
    })
}

const fn add_rms_norm() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::AddRmsNorm(attrs) = op else { return Ok(false) };
        let sum = g.add_as(Op::Add(PLAIN), &inputs[..2], DType::F32)?[0];
        let w = inputs.get(2).copied().flatten();
        // `sum` may be written in place of an operand, so it is written once nothing reads that operand any more.
        g.add_into(Op::Cast(PLAIN), &[Some(sum)], &outputs[..1])?;
        g.add_into(Op::RmsNorm(*attrs), &[Some(sum), w], &outputs[1..])?;
        Ok(true)
    })
}

/// Codes `w[N, K]` in f32, `rows` output channels to each row of their tables `[N/rows, groups]`.
struct Grouped {
    w: TensorId,
    n: usize,
    k: usize,
    /// Input channels to a group, where no index says it.
    group: usize,
    rows: usize,
    g_idx: Option<TensorId>,
}

impl Grouped {
    /// The shape of the codes in which a table broadcasts.
    fn shape(&self) -> Vec<usize> {
        match self.g_idx {
            Some(_) => vec![self.n / self.rows, self.rows, self.k],
            None => vec![self.n / self.rows, self.rows, self.k / self.group, self.group],
        }
    }

    /// A table in f32, in the shape that broadcasts over the codes.
    fn table(&self, g: &mut Graph, id: Option<TensorId>) -> Result<TensorId> {
        let table = g.add_as(Op::Cast(PLAIN), &[id], DType::F32)?[0];
        let (rows, groups) = (self.n / self.rows, g.desc(table).shape[1]);
        let Some(g_idx) = self.g_idx else { return g.reshape(table, &[rows, 1, groups, 1]) };
        let turned = Op::Transpose(TransposeAttrs { perm: Perm::new(&[1, 0]).expect("two axes change places") });
        let by_group = g.op1(turned, &[table])?;
        let by_channel = g.op1(Op::GatherRows(PLAIN), &[by_group, g_idx])?;
        let by_row = g.op1(turned, &[by_channel])?;
        g.reshape(by_row, &[rows, 1, self.k])
    }

    /// `(code − zero)·scale`.
    fn dequantised(&self, g: &mut Graph, scales: Option<TensorId>, zeros: Option<TensorId>) -> Result<TensorId> {
        let mut codes = g.reshape(self.w, &self.shape())?;
        if zeros.is_some() {
            let zeros = self.table(g, zeros)?;
            codes = g.op1(Op::Sub(PLAIN), &[codes, zeros])?;
        }
        let scales = self.table(g, scales)?;
        let scaled = g.op1(Op::Mul(PLAIN), &[codes, scales])?;
        g.reshape(scaled, &[self.n, self.k])
    }
}

const fn matmul_quant() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::MatmulQuant(attrs) = op else { return Ok(false) };
        let at = |i: usize| inputs.get(i).copied().flatten();
        let desc = g.desc(at(1).expect("matmul_quant has its weights")).clone();
        let (n, k) = (desc.shape[0], desc.shape[1]);
        let group = if attrs.group_size == 0 { k } else { attrs.group_size as usize };
        let rows = (attrs.group_rows as usize).max(1);
        let grouped = !desc.dtype.is_block();
        let whole_groups = at(4).is_some() || group > 0 && k.is_multiple_of(group);
        if grouped && !(whole_groups && n.is_multiple_of(rows)) {
            return Ok(false);
        }
        let mut w = g.add_as(Op::Cast(PLAIN), &[at(1)], DType::F32)?[0];
        if grouped {
            w = Grouped { w, n, k, group, rows, g_idx: at(4) }.dequantised(g, at(2), at(3))?;
        }
        let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue: attrs.epilogue, ..Default::default() });
        g.add_into(op, &[at(0), Some(w), at(5), at(6)], outputs)?;
        Ok(true)
    })
}

const fn split() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Split(attrs) = op else { return Ok(false) };
        for (i, &out) in outputs.iter().enumerate() {
            let len = g.desc(out).shape[attrs.axis as usize] as u32;
            let slice = Op::Slice(SliceAttrs { axis: attrs.axis, start: i as u32 * len, len });
            g.add_into(slice, inputs, &[out])?;
        }
        Ok(true)
    })
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
