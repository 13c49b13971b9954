//! Matrix products, plain and quantised, and the quantisation of activations.

use super::pieces::{PLAIN, Pieces, given, required};
use super::{Decompose, in_strides};
use crate::attrs::*;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::op::Op;
use crate::shape::TensorDesc;

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

/// One step at a time towards `A·Bᵀ` in f32 with nothing after it.
pub(super) const fn matmul() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::Matmul(attrs) = *op else { return Ok(false) };
        let (a, b) = (required(inputs, 0), required(inputs, 1));
        if attrs.epilogue != Epilogue::None {
            let plain = Op::Matmul(MatmulAttrs { epilogue: Epilogue::None, ..attrs });
            let c = Pieces(g).f32(plain, &[a, b])?;
            return epilogue(g, attrs.epilogue, c, given(inputs, 2), given(inputs, 3), outputs);
        }
        if attrs.precision != Precision::Ieee {
            let exact = Op::Matmul(MatmulAttrs { precision: Precision::Ieee, ..attrs });
            g.add_into(exact, inputs, outputs)?;
            return Ok(true);
        }
        if attrs.trans_b || !in_strides(g, inputs) {
            return Ok(false);
        }
        let rank = g.desc(b).rank();
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 2, rank - 1);
        let perm = Perm::new(&axes).expect("two axes change places");
        let turned = g.op1(Op::Transpose(TransposeAttrs { perm }), &[b])?;
        let plain = Op::Matmul(MatmulAttrs { trans_b: true, ..attrs });
        g.add_into(plain, &[Some(a), Some(turned)], outputs)?;
        Ok(true)
    })
}

/// Codes `w[N, K]` in f32, `rows` output channels to each row of their tables `[⌈N/rows⌉, groups]`.
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
    /// Whether the last group of a row and the last row of a table are as large as the others.
    fn is_whole(&self) -> bool {
        self.n.is_multiple_of(self.rows) && (self.g_idx.is_some() || self.k.is_multiple_of(self.group))
    }

    /// The shape of the codes in which a table broadcasts.
    fn shape(&self) -> Vec<usize> {
        match (self.is_whole(), self.g_idx) {
            (false, _) => vec![self.n, self.k],
            (_, Some(_)) => vec![self.n / self.rows, self.rows, self.k],
            (_, None) => vec![self.n / self.rows, self.rows, self.k / self.group, self.group],
        }
    }

    /// A table in f32, in the shape that broadcasts over the codes.
    fn table(&self, p: &mut Pieces<'_>, id: TensorId) -> Result<TensorId> {
        let table = p.plain(id)?;
        let (tables, groups) = (p.shape(table)[0], p.shape(table)[1]);
        if self.is_whole() && self.g_idx.is_none() {
            return p.0.reshape(table, &[tables, 1, groups, 1]);
        }
        let by_row = match self.g_idx {
            Some(g_idx) => by_index(p, table, g_idx)?,
            None => repeated(p, table, [tables, groups, self.group], [groups, 1, 0], [tables, self.k])?,
        };
        if self.is_whole() {
            return p.0.reshape(by_row, &[tables, 1, self.k]);
        }
        repeated(p, by_row, [tables, self.rows, self.k], [self.k, 0, 1], [self.n, self.k])
    }

    /// `(code − zero)·scale`.
    fn dequantised(&self, p: &mut Pieces<'_>, scales: TensorId, zeros: Option<TensorId>) -> Result<TensorId> {
        let mut codes = p.0.reshape(self.w, &self.shape())?;
        if let Some(zeros) = zeros {
            let zeros = self.table(p, zeros)?;
            codes = p.sub(codes, zeros)?;
        }
        let scales = self.table(p, scales)?;
        let scaled = p.mul(codes, scales)?;
        p.0.reshape(scaled, &[self.n, self.k])
    }
}

/// The column of a table that each index names.
fn by_index(p: &mut Pieces<'_>, table: TensorId, index: TensorId) -> Result<TensorId> {
    let turned = Op::Transpose(TransposeAttrs { perm: Perm::new(&[1, 0]).expect("two axes change places") });
    let columns = p.0.op1(turned, &[table])?;
    let named = p.0.op1(Op::GatherRows(PLAIN), &[columns, index])?;
    p.0.op1(turned, &[named])
}

/// The elements of a table in these steps, their shape folded to two axes and cut to `to`.
fn repeated(
    p: &mut Pieces<'_>,
    table: TensorId,
    shape: [usize; 3],
    steps: [usize; 3],
    to: [usize; 2],
) -> Result<TensorId> {
    let view = p.0.view(table, TensorDesc::strided(DType::F32, &shape, &steps)?, 0)?;
    let all = p.0.op1(Op::Copy(PLAIN), &[view])?;
    let [a, b, c] = shape;
    let folded = if steps[2] == 0 { [a, b * c] } else { [a * b, c] };
    let all = p.0.reshape(all, &folded)?;
    let axis = usize::from(steps[2] == 0);
    if folded == to { Ok(all) } else { p.slice(all, axis, 0, to[axis]) }
}

pub(super) const fn matmul_quant() -> Option<Decompose> {
    Some(|op, g, inputs, outputs| {
        let Op::MatmulQuant(attrs) = op else { return Ok(false) };
        let p = &mut Pieces(g);
        let (w, desc) = (required(inputs, 1), p.desc(required(inputs, 1)));
        let (n, k) = (desc.shape[0], desc.shape[1]);
        let mut w = p.f32(Op::Cast(PLAIN), &[w])?;
        if !desc.dtype.is_block() && desc.elements() > 0 {
            let group = if attrs.group_size == 0 { k } else { k.min(attrs.group_size as usize) };
            let rows = n.min(attrs.group_rows as usize).max(1);
            let grouped = Grouped { w, n, k, group, rows, g_idx: given(inputs, 4) };
            w = grouped.dequantised(p, required(inputs, 2), given(inputs, 3))?;
        }
        let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue: attrs.epilogue, ..Default::default() });
        g.add_into(op, &[inputs[0], Some(w), given(inputs, 5), given(inputs, 6)], outputs)?;
        Ok(true)
    })
}

/// As many products of int8 codes, at most 2^14 each, as an f32 sums without rounding.
const EXACT_CODES: usize = 1 << 10;

/// The sum of integers, each at most 2^24, as `4096·high + low`, two sums that f32 holds; one rounding joins them.
fn sum_of(p: &mut Pieces<'_>, parts: &[TensorId]) -> Result<TensorId> {
    const BASE: f32 = 4096.0;
    let [first] = parts else {
        let mut sums: [Option<TensorId>; 2] = [None; 2];
        for &part in parts {
            let share = p.scaled(part, 1.0 / BASE)?;
            let whole = p.0.add_as(Op::Cast(PLAIN), &[Some(share)], DType::I32)?[0];
            let high = p.f32(Op::Cast(PLAIN), &[whole])?;
            let above = p.scaled(high, BASE)?;
            let low = p.sub(part, above)?;
            for (sum, term) in sums.iter_mut().zip([high, low]) {
                *sum = Some(match *sum {
                    Some(sum) => p.add(sum, term)?,
                    None => term,
                });
            }
        }
        let [Some(high), Some(low)] = sums else { unreachable!("there are parts") };
        let above = p.scaled(high, BASE)?;
        return p.add(above, low);
    };
    Ok(*first)
}

/// Products of f32 over parts of K that are exact, their exact sum, then the scales and the bias.
pub(super) const fn scaled_matmul() -> Option<Decompose> {
    Some(|_, g, inputs, outputs| {
        let (p, out) = (&mut Pieces(g), outputs[0]);
        let [a, b, sa, sb] = [0, 1, 2, 3].map(|i| required(inputs, i));
        let (a, b) = (p.f32(Op::Cast(PLAIN), &[a])?, p.f32(Op::Cast(PLAIN), &[b])?);
        let product = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
        let k = p.shape(a)[1];
        let mut sums = Vec::with_capacity(k / EXACT_CODES + 1);
        if k <= EXACT_CODES {
            sums.push(p.f32(product, &[a, b])?);
        } else {
            for start in (0..k).step_by(EXACT_CODES) {
                let len = EXACT_CODES.min(k - start);
                let (a, b) = (p.slice(a, 1, start, len)?, p.slice(b, 1, start, len)?);
                sums.push(p.f32(product, &[a, b])?);
            }
        }
        let mut sum = sum_of(p, &sums)?;
        if let Some(joins) = given(inputs, 5) {
            let joins = p.f32(Op::Cast(PLAIN), &[joins])?;
            sum = p.add(sum, joins)?;
        }
        let sa = p.plain(sa)?;
        let column = [p.shape(sa)[0], 1];
        let sa = p.0.reshape(sa, &column)?;
        let scaled = p.mul(sum, sa)?;
        match given(inputs, 4) {
            None => p.write(Op::Mul(PLAIN), &[scaled, sb], out)?,
            Some(bias) => {
                let scaled = p.mul(scaled, sb)?;
                p.write(Op::Add(PLAIN), &[scaled, bias], out)?;
            }
        }
        Ok(true)
    })
}

/// The cast rounds half to even, saturates and makes 0 of NaN.
pub(super) const fn quantize_static() -> Option<Decompose> {
    Some(|_, g, inputs, outputs| {
        let p = &mut Pieces(g);
        let mut steps = p.div(required(inputs, 0), required(inputs, 1))?;
        if let Some(zero) = given(inputs, 2) {
            steps = p.add(steps, zero)?;
        }
        p.write(Op::Cast(PLAIN), &[steps], outputs[0])?;
        Ok(true)
    })
}

/// `max |x|` as the larger of `max x` and `max −x`; the scale; the codes by a cast, which rounds half to even, saturates
/// and makes 0 of the NaN that a row of zeros gives.
///
/// A row whose scale vanishes though its numbers do not has codes 0 as well: its quotients are infinite, and ∞·0 is NaN.
pub(super) const fn quantize_dynamic() -> Option<Decompose> {
    Some(|_, g, inputs, outputs| {
        let (p, x) = (&mut Pieces(g), required(inputs, 0));
        let (rank, row) = (p.shape(x).len(), p.shape(x).last_dim());
        if row == 0 {
            for &output in outputs {
                p.write(Op::Fill(FillAttrs { value: 0.0 }), &[], output)?;
            }
            return Ok(true);
        }
        let above = p.reduce(ReduceKind::Max, x)?;
        let negative = p.scaled(x, -1.0)?;
        let below = p.reduce(ReduceKind::Max, negative)?;
        let both = p.concat(&[above, below], rank - 1)?;
        let most = p.reduce(ReduceKind::Max, both)?;
        let largest = p.scalar(127.0)?;
        let scale = p.div(most, largest)?;
        // 1, or 0 where the scale is: the smallest scale there is times 2^254 is above 1.
        let once = p.scaled(scale, 2f32.powi(127))?;
        let twice = p.scaled(once, 2f32.powi(127))?;
        let there = p.at_most(twice, 1.0)?;
        let steps = p.div(x, scale)?;
        let steps = p.mul(steps, there)?;
        p.write(Op::Cast(PLAIN), &[steps], outputs[0])?;
        let shape = p.shape(outputs[1]);
        let scale = p.0.reshape(scale, &shape)?;
        p.write(Op::Copy(PLAIN), &[scale], outputs[1])?;
        Ok(true)
    })
}
