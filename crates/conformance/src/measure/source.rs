//! Operands too large to be held on the host: bytes that are made where they are read.
//!
//! Random elements come from a pool whose length is a prime number of elements, read over and over: rows of any width start
//! at other places of it, so that no two rows of a matrix in use are the same.

use std::collections::HashMap;
use std::sync::Arc;

use qiao_core::{DType, Error, Result, TensorDesc};
use qiao_reference::data::{Fill, Rng, block_bytes, to_bytes, values};

use crate::make::Data;

/// Elements of a pool of numbers; prime.
const NUMBERS: usize = 262_139;

/// Blocks of a pool of a block format; prime.
const BLOCKS: usize = 16_381;

/// What a pool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Standard normal numbers, or random codes and blocks of a dtype that holds no such numbers.
    Normal,
    /// Normal numbers of deviation 1/32, for sums that would leave the range of f16.
    Small,
}

/// The bytes of an operand.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A pool over and over, from this byte of it on.
    Pool(Arc<[u8]>, usize),
    /// These.
    Given(Arc<[u8]>),
}

impl Source {
    /// Fills `out` with the bytes from `offset` on.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        match self {
            Source::Given(bytes) => out.copy_from_slice(&bytes[offset..offset + out.len()]),
            Source::Pool(pool, start) => {
                let (mut at, mut done) = ((start + offset) % pool.len(), 0);
                while done < out.len() {
                    let part = (pool.len() - at).min(out.len() - done);
                    out[done..done + part].copy_from_slice(&pool[at..at + part]);
                    (at, done) = (0, done + part);
                }
            }
        }
    }
}

/// An operand of a measured operator.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    /// What it is; contiguous.
    pub(crate) desc: TensorDesc,
    /// Its bytes.
    pub(crate) source: Source,
}

impl Operand {
    /// An operand of given bytes.
    pub(crate) fn given((desc, bytes): Data) -> Operand {
        Operand { desc, source: Source::Given(bytes.into()) }
    }

    /// The operand marked as constant.
    pub(crate) fn constant(self) -> Operand {
        Operand { desc: self.desc.as_constant(), ..self }
    }

    /// A part of it.
    ///
    /// # Errors
    /// As [`take`].
    pub(crate) fn take(&self, axes: &Axes) -> Result<Data> {
        take(&self.desc, axes, |offset, out| self.source.read(offset, out))
    }
}

/// Makes operands; every pool is made once.
#[derive(Debug)]
pub(crate) struct Pools {
    seed: u64,
    pools: HashMap<(Kind, DType), Arc<[u8]>>,
    made: usize,
}

impl Pools {
    /// Pools of a seed.
    pub(crate) fn new(seed: u64) -> Pools {
        Pools { seed, pools: HashMap::new(), made: 0 }
    }

    /// A contiguous tensor of random elements. No two in a row start at the same place of a pool.
    ///
    /// # Errors
    /// A shape that no tensor of the dtype has.
    pub(crate) fn random(&mut self, kind: Kind, dtype: DType, shape: &[usize]) -> Result<Operand> {
        let desc = TensorDesc::new(dtype, shape)?;
        let size = dtype.block_bytes();
        let seed = self.seed;
        let pool = self.pools.entry((kind, dtype)).or_insert_with(|| pool(seed, kind, dtype)).clone();
        self.made += 1;
        let start = self.made.wrapping_mul(7919) % (pool.len() / size) * size;
        Ok(Operand { desc, source: Source::Pool(pool, start) })
    }
}

fn pool(seed: u64, kind: Kind, dtype: DType) -> Arc<[u8]> {
    let mut rng = Rng::new(seed ^ dtype as u64);
    if dtype.is_block() {
        return block_bytes(&mut rng, dtype, BLOCKS).into();
    }
    if !dtype.is_float() || dtype.is_packed() {
        return (0..NUMBERS * dtype.block_bytes()).map(|_| rng.bits() as u8).collect();
    }
    let mut numbers = values(&mut rng, Fill::Normal, DType::F64, NUMBERS);
    if kind == Kind::Small {
        numbers.iter_mut().for_each(|x| *x /= 32.0);
    }
    to_bytes(dtype, &numbers).into()
}

/// The axes along which a part of a tensor is taken, each with the indices that are kept, in order.
pub(crate) type Axes = Vec<(usize, Vec<usize>)>;

/// A part of a contiguous tensor whose bytes `read` tells: the indices of `axes`, and everything along all other axes.
///
/// # Errors
/// A strided tensor, or an axis or an index that it has not; the innermost axis of one whose elements share bytes.
pub(crate) fn take(desc: &TensorDesc, axes: &Axes, mut read: impl FnMut(usize, &mut [u8])) -> Result<Data> {
    let rank = desc.rank();
    let there = |(axis, kept): &(usize, Vec<usize>)| {
        *axis < rank && kept.iter().all(|&i| i < desc.shape[*axis]) && !(*axis + 1 == rank && desc.dtype.is_packed())
    };
    if !desc.is_contiguous() || !axes.iter().all(there) {
        return Err(Error::invalid("part of a tensor", format!("{axes:?} of {desc}"), "name indices that it has"));
    }
    let mut shape = desc.shape.to_vec();
    axes.iter().for_each(|(axis, kept)| shape[*axis] = kept.len());
    let part = TensorDesc::new(desc.dtype, &shape)?;
    let part = if desc.constant { part.as_constant() } else { part };
    let mut bytes = vec![0; part.bytes()?];
    // Everything behind the last axis that is cut lies together.
    let outer = axes.iter().map(|(axis, _)| axis + 1).max().unwrap_or(0);
    let run = desc.shape[outer..].iter().product::<usize>() / desc.dtype.block_elems() * desc.dtype.block_bytes();
    if run == 0 {
        return Ok((part, bytes));
    }
    for (number, out) in bytes.chunks_exact_mut(run).enumerate() {
        let (mut rest, mut offset, mut step) = (number, 0, run);
        for axis in (0..outer).rev() {
            let kept = axes.iter().find(|(a, _)| *a == axis).map(|(_, kept)| kept);
            let index = rest % shape[axis];
            rest /= shape[axis];
            offset += kept.map_or(index, |kept| kept[index]) * step;
            step *= desc.shape[axis];
        }
        read(offset, out);
    }
    Ok((part, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(operand: &Operand) -> Vec<u8> {
        let mut bytes = vec![0; operand.desc.bytes().unwrap()];
        operand.source.read(0, &mut bytes);
        bytes
    }

    #[test]
    fn a_pool_reads_the_same_in_one_piece_and_in_many() {
        let mut pools = Pools::new(1);
        let operand = pools.random(Kind::Normal, DType::BF16, &[3, NUMBERS]).unwrap();
        let whole = bytes_of(&operand);
        let mut pieces = vec![0; whole.len()];
        for (i, piece) in pieces.chunks_mut(1001).enumerate() {
            operand.source.read(i * 1001, piece);
        }
        assert!(whole == pieces);
        assert!(whole[..2 * NUMBERS] == whole[2 * NUMBERS..4 * NUMBERS]);
        let other = pools.random(Kind::Normal, DType::BF16, &[NUMBERS]).unwrap();
        assert_ne!(bytes_of(&other)[..64], whole[..64]);
    }

    #[test]
    fn a_part_holds_the_rows_and_columns_that_were_asked_for() {
        let data: Vec<f64> = (0..24).map(f64::from).collect();
        let desc = TensorDesc::new(DType::F32, &[2, 3, 4]).unwrap();
        let operand = Operand::given((desc, to_bytes(DType::F32, &data))).constant();
        let got = |axes: Axes| {
            let (desc, bytes) = operand.take(&axes).unwrap();
            assert!(desc.constant);
            (desc.shape.to_vec(), qiao_reference::Value::load(&desc, &bytes).unwrap().data)
        };
        assert_eq!(got(vec![(1, vec![2])]).1, [8., 9., 10., 11., 20., 21., 22., 23.]);
        assert_eq!(got(vec![(0, vec![1]), (2, vec![3, 0])]), (vec![1, 3, 2], vec![15., 12., 19., 16., 23., 20.]));
        assert_eq!(got(Vec::new()).1, data);
        assert!(got(vec![(0, Vec::new())]).1.is_empty());
        for wrong in [vec![(3, vec![0])], vec![(0, vec![2])]] {
            assert!(operand.take(&wrong).is_err());
        }
    }

    #[test]
    fn blocks_are_taken_by_rows_and_never_cut() {
        let operand = Pools::new(2).random(Kind::Normal, DType::Q4_0, &[4, 64]).unwrap();
        let whole = bytes_of(&operand);
        assert_eq!(operand.take(&vec![(0, vec![3])]).unwrap().1, whole[3 * 36..]);
        assert!(operand.take(&vec![(1, vec![0])]).is_err());
    }
}
