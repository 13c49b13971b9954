//! Products as they are measured: matmul, matmul_quant, scaled_matmul.

use qiao_core::{DType, Epilogue, MatmulAttrs, MatmulQuantAttrs, NoAttrs, Op, Result};
use qiao_reference::data::{Rng, to_bytes};

use super::source::{Axes, Kind, Operand, Pools};
use super::work::{Pick, Sample, Work};
use crate::make::Data;
use qiao_core::TensorDesc;

/// Columns of a product that are compared with the truth.
const COLUMNS: usize = 40;

/// Rows of anything that are compared with the truth.
const ROWS: usize = 4;

/// M, N and K of a product `[M, K]·[N, K]ᵀ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mnk {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// Indices of 0..n: the first, the last ones, where a tile may end in the middle, and random ones; in order.
pub(crate) fn some(rng: &mut Rng, n: usize, most: usize) -> Vec<usize> {
    if n <= most {
        return (0..n).collect();
    }
    let mut kept: Vec<usize> = (0..most.div_ceil(4)).map(|i| n - 1 - i).collect();
    kept.push(0);
    while kept.len() < most {
        let index = rng.below(n);
        if !kept.contains(&index) {
            kept.push(index);
        }
    }
    kept.sort_unstable();
    kept.dedup();
    kept
}

/// Rows to compare.
pub(crate) fn some_rows(rng: &mut Rng, n: usize) -> Vec<usize> {
    some(rng, n, ROWS)
}

/// The whole of an operand.
pub(crate) fn all() -> Pick {
    Pick::Take(Vec::new())
}

/// These indices along the first axis.
pub(crate) fn rows(kept: &[usize]) -> Pick {
    Pick::Take(vec![(0, kept.to_vec())])
}

/// A contiguous tensor of given values.
pub(crate) fn list(dtype: DType, shape: &[usize], data: &[f64]) -> Result<Data> {
    Ok((TensorDesc::new(dtype, shape)?, to_bytes(dtype, data)))
}

/// `a·bᵀ`, with a bias where asked for; b is constant.
pub(crate) fn matmul(
    pools: &mut Pools,
    rng: &mut Rng,
    dtype: DType,
    Mnk { m, n, k }: Mnk,
    bias: bool,
    out: Option<DType>,
) -> Result<Work> {
    let epilogue = if bias { Epilogue::Bias } else { Epilogue::None };
    let mut operands = vec![
        Some(pools.random(Kind::Normal, dtype, &[m, k])?),
        Some(pools.random(Kind::Normal, dtype, &[n, k])?.constant()),
    ];
    let (r, c) = (some_rows(rng, m), some(rng, n, COLUMNS));
    let mut picks = vec![rows(&r), rows(&c)];
    if bias {
        operands.push(Some(pools.random(Kind::Normal, dtype, &[n])?.constant()));
        picks.push(rows(&c));
    }
    let outputs: Vec<Axes> = vec![vec![(0, r), (1, c)]];
    let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() });
    Ok(Work { op, operands, out, cost: None, samples: vec![Sample { operands: picks, outputs }] })
}

/// Inputs to a scale of codes that are no block format.
pub(crate) const GROUP: usize = 128;

/// `a·dequantise(w)ᵀ`, w in a block format, or codes with an f16 scale for each [`GROUP`] inputs.
pub(crate) fn matmul_quant(
    pools: &mut Pools,
    rng: &mut Rng,
    format: DType,
    act: DType,
    Mnk { m, n, k }: Mnk,
    out: Option<DType>,
) -> Result<Work> {
    let mut operands = vec![
        Some(pools.random(Kind::Small, act, &[m, k])?),
        Some(pools.random(Kind::Normal, format, &[n, k])?.constant()),
    ];
    let (r, c) = (some_rows(rng, m), some(rng, n, COLUMNS));
    let mut picks = vec![rows(&r), rows(&c)];
    let mut attrs = MatmulQuantAttrs::default();
    if !format.is_block() {
        attrs.group_size = GROUP as u32;
        operands.push(Some(pools.random(Kind::Small, DType::F16, &[n, k / GROUP])?.constant()));
        picks.push(rows(&c));
    }
    let sample = Sample { operands: picks, outputs: vec![vec![(0, r), (1, c)]] };
    let op = Op::MatmulQuant(attrs);
    Ok(Work { op, operands, out, cost: None, samples: vec![sample] })
}

/// `(a·bᵀ)·sa·sb` of i8 operands, b constant.
pub(crate) fn scaled_matmul(
    pools: &mut Pools,
    rng: &mut Rng,
    Mnk { m, n, k }: Mnk,
    out: Option<DType>,
) -> Result<Work> {
    let scales = |rng: &mut Rng, n: usize| {
        let data: Vec<f64> = (0..n).map(|_| (rng.uniform() + 0.5) / 1024.0).collect();
        list(DType::F32, &[n], &data).map(Operand::given)
    };
    let operands = vec![
        Some(pools.random(Kind::Normal, DType::I8, &[m, k])?),
        Some(pools.random(Kind::Normal, DType::I8, &[n, k])?.constant()),
        Some(scales(rng, m)?),
        Some(scales(rng, n)?.constant()),
    ];
    let (r, c) = (some_rows(rng, m), some(rng, n, COLUMNS));
    let picks = vec![rows(&r), rows(&c), rows(&r), rows(&c)];
    let sample = Sample { operands: picks, outputs: vec![vec![(0, r), (1, c)]] };
    Ok(Work { op: Op::ScaledMatmul(NoAttrs {}), operands, out, cost: None, samples: vec![sample] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_holds_both_ends_and_no_index_twice() {
        let mut rng = Rng::new(1);
        let kept = some(&mut rng, 1000, 40);
        assert_eq!(kept.len(), 40);
        assert_eq!((kept[0], kept[39], kept[38]), (0, 999, 998));
        assert!(kept.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(some(&mut rng, 3, 40), [0, 1, 2]);
        assert_eq!(some(&mut rng, 5, 4).len(), 4);
    }
}
