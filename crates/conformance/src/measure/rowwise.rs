//! Everything of a layer that is neither a product nor attention, as it is measured: row by row.

use qiao_core::{Cost, DType, KvLayout, KvWriteAttrs, NoAttrs, NormAttrs, Op, Result, RopeAttrs, SiluMulAttrs};
use qiao_reference::data::Rng;

use super::products::{all, list, rows, some_rows};
use super::source::{Kind, Operand, Pools};
use super::work::{Pick, Sample, Work};

/// Positions in the tables of a measured rope.
const POSITIONS: usize = 4096;

/// `x[rows, cols]` through an operator with one output row for each of its own.
fn by_row(rng: &mut Rng, op: Op, operands: Vec<Option<Operand>>, cut: &[bool], outputs: usize, count: usize) -> Work {
    let kept = some_rows(rng, count);
    let picks = cut.iter().map(|&cut| if cut { rows(&kept) } else { all() }).collect();
    let outputs = vec![vec![(0, kept)]; outputs];
    Work { op, operands, out: None, cost: None, samples: vec![Sample { operands: picks, outputs }] }
}

pub(crate) fn rms_norm(pools: &mut Pools, rng: &mut Rng, dtype: DType, [r, c]: [usize; 2]) -> Result<Work> {
    let x = pools.random(Kind::Normal, dtype, &[r, c])?;
    let w = pools.random(Kind::Normal, dtype, &[c])?.constant();
    let op = Op::RmsNorm(NormAttrs { eps: 1e-6, ..Default::default() });
    Ok(by_row(rng, op, vec![Some(x), Some(w)], &[true, false], 1, r))
}

pub(crate) fn add_rms_norm(pools: &mut Pools, rng: &mut Rng, dtype: DType, [r, c]: [usize; 2]) -> Result<Work> {
    let (a, b) = (pools.random(Kind::Normal, dtype, &[r, c])?, pools.random(Kind::Normal, dtype, &[r, c])?);
    let w = pools.random(Kind::Normal, dtype, &[c])?.constant();
    let op = Op::AddRmsNorm(NormAttrs { eps: 1e-6, ..Default::default() });
    Ok(by_row(rng, op, vec![Some(a), Some(b), Some(w)], &[true, true, false], 2, r))
}

/// Gate and up as two tensors.
pub(crate) fn silu_mul(pools: &mut Pools, rng: &mut Rng, dtype: DType, [r, c]: [usize; 2]) -> Result<Work> {
    let (gate, up) = (pools.random(Kind::Normal, dtype, &[r, c])?, pools.random(Kind::Normal, dtype, &[r, c])?);
    let op = Op::SiluMul(SiluMulAttrs::default());
    Ok(by_row(rng, op, vec![Some(gate), Some(up)], &[true, true], 1, r))
}

pub(crate) fn quantize_dynamic(pools: &mut Pools, rng: &mut Rng, dtype: DType, [r, c]: [usize; 2]) -> Result<Work> {
    let x = pools.random(Kind::Normal, dtype, &[r, c])?;
    Ok(by_row(rng, Op::QuantizeDynamic(NoAttrs {}), vec![Some(x)], &[true], 2, r))
}

pub(crate) fn argmax(pools: &mut Pools, rng: &mut Rng, [r, c]: [usize; 2]) -> Result<Work> {
    let x = pools.random(Kind::Normal, DType::F32, &[r, c])?;
    Ok(by_row(rng, Op::Argmax(NoAttrs {}), vec![Some(x)], &[true], 1, r))
}

/// The largest value of each row, all of which are read.
pub(crate) fn largest(pools: &mut Pools, rng: &mut Rng, dtype: DType, [r, c]: [usize; 2]) -> Result<Work> {
    let x = pools.random(Kind::Normal, dtype, &[r, c])?;
    let op = Op::Reduce(qiao_core::ReduceAttrs { kind: qiao_core::ReduceKind::Max, axis: 1, keep_dim: false });
    Ok(by_row(rng, op, vec![Some(x)], &[true], 1, r))
}

pub(crate) fn copy(pools: &mut Pools, rng: &mut Rng, dtype: DType, [r, c]: [usize; 2]) -> Result<Work> {
    let x = pools.random(Kind::Normal, dtype, &[r, c])?;
    Ok(by_row(rng, Op::Copy(NoAttrs {}), vec![Some(x)], &[true], 1, r))
}

/// Temperature 0.8, top-k 40, top-p 0.95, no min-p.
pub(crate) fn sample(pools: &mut Pools, rng: &mut Rng, [r, c]: [usize; 2]) -> Result<Work> {
    let logits = pools.random(Kind::Normal, DType::F32, &[r, c])?;
    let u: Vec<f64> = (0..r).map(|_| rng.uniform()).collect();
    let column = |dtype, data: &[f64]| list(dtype, &[r], data).map(|d| Some(Operand::given(d)));
    let operands = vec![
        Some(logits),
        column(DType::F32, &u)?,
        column(DType::F32, &vec![0.8; r])?,
        column(DType::I32, &vec![40.0; r])?,
        column(DType::F32, &vec![0.95; r])?,
        column(DType::F32, &vec![0.0; r])?,
    ];
    Ok(by_row(rng, Op::Sample(NoAttrs {}), operands, &[true; 6], 1, r))
}

/// Rows of an embedding table, at random.
pub(crate) fn gather_rows(
    pools: &mut Pools,
    rng: &mut Rng,
    dtype: DType,
    ids: usize,
    [r, c]: [usize; 2],
) -> Result<Work> {
    let table = pools.random(Kind::Normal, dtype, &[r, c])?.constant();
    let chosen: Vec<usize> = (0..ids).map(|_| rng.below(r)).collect();
    let as_numbers = |ids: &[usize]| ids.iter().map(|&i| i as f64).collect::<Vec<_>>();
    let kept = some_rows(rng, ids);
    // A table of the rows that are asked for, in the order in which they are.
    let of_kept: Vec<usize> = kept.iter().map(|&i| chosen[i]).collect();
    let counted: Vec<usize> = (0..kept.len()).collect();
    let picks = vec![rows(&of_kept), Pick::Give(list(DType::I32, &[kept.len()], &as_numbers(&counted))?)];
    let operands = vec![Some(table), Some(Operand::given(list(DType::I32, &[ids], &as_numbers(&chosen))?))];
    let sample = Sample { operands: picks, outputs: vec![vec![(0, kept)]] };
    Ok(Work { op: Op::GatherRows(NoAttrs {}), operands, out: None, cost: None, samples: vec![sample] })
}

/// x `[T, H, D]`, every token at a random position.
pub(crate) fn rope(pools: &mut Pools, rng: &mut Rng, dtype: DType, [t, h, d]: [usize; 3]) -> Result<Work> {
    let x = pools.random(Kind::Normal, dtype, &[t, h, d])?;
    let positions: Vec<usize> = (0..t).map(|_| rng.below(POSITIONS)).collect();
    // Any angle will do: what it costs does not depend on it.
    let angles: Vec<f64> = (0..POSITIONS * d / 2).map(|i| (i % 6283) as f64 / 1000.0).collect();
    let table = |f: fn(f64) -> f64| {
        let data: Vec<f64> = angles.iter().map(|&a| f(a)).collect();
        list(DType::F32, &[POSITIONS, d / 2], &data).map(|d| Operand::given(d).constant())
    };
    let kept = some_rows(rng, t);
    let of_kept: Vec<usize> = kept.iter().map(|&i| positions[i]).collect();
    let counted: Vec<f64> = (0..kept.len()).map(|i| i as f64).collect();
    let numbers: Vec<f64> = positions.iter().map(|&p| p as f64).collect();
    let bytes = dtype.bytes_for(t * h * d).unwrap_or(0) as u64;
    let tables = (t * d / 2 * 2 * 4 + t * 4) as u64;
    // Two products and a sum for each element; of the tables only the rows that are asked for are read.
    let cost = Cost { flops: 3 * (t * h * d) as u64, read: bytes + tables, written: bytes };
    let operands = vec![
        Some(x),
        Some(Operand::given(list(DType::I32, &[t], &numbers)?)),
        Some(table(f64::cos)?),
        Some(table(f64::sin)?),
    ];
    let ids = Pick::Give(list(DType::I32, &[kept.len()], &counted)?);
    let picks = vec![rows(&kept), ids, rows(&of_kept), rows(&of_kept)];
    let sample = Sample { operands: picks, outputs: vec![vec![(0, kept)]] };
    Ok(Work { op: Op::Rope(RopeAttrs::default()), operands, out: None, cost: Some(cost), samples: vec![sample] })
}

/// k and v `[T, Hkv, D]` into pages, each token into a block of its own: a decode step of T sequences.
pub(crate) fn kv_write(
    pools: &mut Pools,
    rng: &mut Rng,
    dtype: DType,
    [t, h, d]: [usize; 3],
    (layout, block): (KvLayout, usize),
) -> Result<Work> {
    let dims = |blocks: usize| match layout {
        KvLayout::BlockTokenHead => [blocks, block, h, d],
        KvLayout::BlockHeadToken => [blocks, h, block, d],
    };
    let (k, v) = (pools.random(Kind::Normal, dtype, &[t, h, d])?, pools.random(Kind::Normal, dtype, &[t, h, d])?);
    let caches = (pools.random(Kind::Normal, dtype, &dims(t))?, pools.random(Kind::Normal, dtype, &dims(t))?);
    let blocks = rng.permutation(t);
    let within: Vec<usize> = (0..t).map(|_| rng.below(block)).collect();
    let slots: Vec<f64> = (0..t).map(|i| (blocks[i] * block + within[i]) as f64).collect();
    let kept = some_rows(rng, t);
    let of_kept: Vec<usize> = kept.iter().map(|&i| blocks[i]).collect();
    let slot = |(at, &i): (usize, &usize)| (at * block + within[i]) as f64;
    let their_slots: Vec<f64> = kept.iter().enumerate().map(slot).collect();
    let given = Pick::Give(list(DType::I32, &[kept.len()], &their_slots)?);
    let picks = vec![rows(&kept), rows(&kept), given, rows(&of_kept), rows(&of_kept)];
    let slots = Operand::given(list(DType::I32, &[t], &slots)?);
    let operands = [k, v, slots, caches.0, caches.1].map(Some).into();
    let sample = Sample { operands: picks, outputs: vec![vec![(0, of_kept)]; 2] };
    let op = Op::KvWrite(KvWriteAttrs { kv_layout: layout });
    Ok(Work { op, operands, out: None, cost: None, samples: vec![sample] })
}
