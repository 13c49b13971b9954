//! What attention on pairs of bf16 takes: queries, keys, values and weights stay bf16, two of them to a word, and products are
//! added up pair by pair in f32. Half the work of widening, where a tier has an instruction for it. Keys and values in fp8 become
//! bf16, which is exact.
//!
//! The order of every sum is that of the pairs, which lie at even positions of a head and of a chunk: as in the wider way, a
//! result does not depend on what is computed beside it.

use half::bf16;

use super::{Ahead, Cached, E4m3, E5m2, PackKeys};
use crate::table::Entry;

/// `out[w * KEY_BLOCK + j]` = elements `2w` and `2w + 1` of key j, the first in the lower half; 0 past the head's end.
///
/// # Safety
/// Each of the keys holds `dim` elements.
pub type PackPairs<T> = unsafe fn(out: &mut [u32], keys: &PackKeys<'_, T>);

/// `scores[r * KEYS + j] = Σ_w q[r * pairs + w] · k[w * KEY_BLOCK + j]` for the keys of a block: `(scores, (q, rows), k, pairs,
/// ahead)`.
pub type QkPairs = fn(scores: &mut [f32], q: (&[u32], usize), k: &[u32], pairs: usize, ahead: Ahead<'_>);

/// Rounds a row of weights (bits of `KEYS` f32) to pairs of bf16 in its first half; weights outside `first..end` become 0.
pub type RoundWeights = fn(row: &mut [u32], first: usize, end: usize);

/// # Safety
/// Each of the values `first..end` holds `dim` elements.
pub type PvPairs<T> = unsafe fn(values: &mut WeighPairs<'_, T>);

/// Weighted values to add up, as [`WeighValues`](super::WeighValues) says, of weights in pairs.
#[derive(Debug)]
pub struct WeighPairs<'a, T> {
    /// `[rows, dim]`; read and written.
    pub acc: &'a mut [f32],
    /// One factor a row.
    pub alpha: &'a [f32],
    /// `[rows, KEYS]` words, of which the first half of each row holds pairs of weights; 0 where a row does not see the token.
    pub p: &'a [u32],
    /// Where each of [`KEYS`](super::KEYS) values starts.
    pub values: &'a [*const T],
    /// The first token that counts.
    pub first: usize,
    /// The token after the last that counts.
    pub end: usize,
    /// Elements of a value.
    pub dim: usize,
    /// What is asked for on the way.
    pub ahead: Ahead<'a>,
}

/// The kernels of attention on pairs of bf16, which go together.
#[derive(Clone, Copy, Debug)]
pub struct AttentionPairs {
    /// Turns bf16 keys around.
    pub pack_keys: Entry<PackPairs<bf16>>,
    /// Turns fp8 1-4-3 keys around.
    pub pack_keys_e4m3: Entry<PackPairs<E4m3>>,
    /// Turns fp8 1-5-2 keys around.
    pub pack_keys_e5m2: Entry<PackPairs<E5m2>>,
    /// Scores.
    pub qk: Entry<QkPairs>,
    /// Weights to pairs.
    pub round_weights: Entry<RoundWeights>,
    /// Weighted bf16 values.
    pub pv: Entry<PvPairs<bf16>>,
    /// Weighted fp8 1-4-3 values.
    pub pv_e4m3: Entry<PvPairs<E4m3>>,
    /// Weighted fp8 1-5-2 values.
    pub pv_e5m2: Entry<PvPairs<E5m2>>,
}

/// A dtype of keys and values that meet queries in pairs: lets a caller be generic over those that there are.
pub trait PairElement: Cached {
    /// Turns keys of this dtype around.
    fn pack_key_pairs(k: &AttentionPairs) -> &Entry<PackPairs<Self>>;
    /// Weighted sum of values of this dtype.
    fn pv_pairs(k: &AttentionPairs) -> &Entry<PvPairs<Self>>;
}

macro_rules! pair_element {
    ($($t:ty, $pack:ident, $pv:ident;)+) => {$(
        impl PairElement for $t {
            fn pack_key_pairs(k: &AttentionPairs) -> &Entry<PackPairs<Self>> {
                &k.$pack
            }
            fn pv_pairs(k: &AttentionPairs) -> &Entry<PvPairs<Self>> {
                &k.$pv
            }
        }
    )+};
}

pair_element! {
    bf16, pack_keys, pv;
    E4m3, pack_keys_e4m3, pv_e4m3;
    E5m2, pack_keys_e5m2, pv_e5m2;
}
