//! The two products of attention and the softmax between them, for a few query rows that share keys and values.
//!
//! Tokens are taken [`KEYS`] at a time and named by their addresses, so where they lie (pages of any size, packed rows)
//! changes nothing. Every key and value is read once for all rows, in its stored dtype, and decoded in registers:
//!
//! - [`pack_keys`] turns [`KEY_BLOCK`] keys around, so that a vector holds one element of neighbouring keys;
//! - [`qk`] makes their scores, each one chain of multiply-adds in the order of the head's elements;
//! - [`soften`] makes weights of a row of scores, each sum in lanes that the key's place among the [`KEYS`] chooses;
//! - [`pv`] adds the weighted values, each element one chain of multiply-adds in the order of the keys.
//!
//! Where queries are bf16, keys and values bf16 or fp8, and a tier has an instruction for it, [`AttentionPairs`] does the same
//! without widening; where keys and values are i8, [`AttentionDigits`] does it in integers.
//!
//! So an element of a result does not depend on the rows and keys that are computed beside it, and a key that a row does
//! not see is not read for it at all.

mod ahead;
mod cached;
mod digits;
mod pairs;
mod pv;
mod qk;
mod soften;

pub(crate) use ahead::Wanted;
pub use ahead::{Ahead, fetch_ahead};
pub(crate) use cached::Lanes;
pub use cached::{Cached, E4m3, E5m2};
pub use digits::{
    AttentionDigits, DIGIT_DIM, DigitRows, DigitUnit, PackDigits, PvDigits, QkDigits, SplitDigits, WeighDigits,
};
pub(crate) use digits::{check_digits, digit_unit};
pub use pairs::{AttentionPairs, PackPairs, PairElement, PvPairs, QkPairs, RoundWeights, WeighPairs};
pub(crate) use pv::pv;
pub(crate) use qk::{pack_keys, qk};
pub(crate) use soften::soften;

/// Keys that are scored together; the scores of a row are this far apart.
pub const KEYS: usize = 128;

/// Keys that are packed together; divides [`KEYS`].
pub const KEY_BLOCK: usize = 32;

/// Keys to pack: the addresses of [`KEY_BLOCK`] rows of `dim` elements each.
#[derive(Clone, Copy, Debug)]
pub struct PackKeys<'a, T> {
    /// Where each key starts.
    pub keys: &'a [*const T],
    /// Elements of a key.
    pub dim: usize,
    /// What is asked for on the way.
    pub ahead: Ahead<'a>,
}

/// Weighted values to add up: `acc[r] = alpha[r]·acc[r] + Σ_j p[r][j]·v[j]` for the tokens `first..end`, in their order.
#[derive(Debug)]
pub struct WeighValues<'a, T> {
    /// `[rows, dim]`; read and written.
    pub acc: &'a mut [f32],
    /// One factor a row.
    pub alpha: &'a [f32],
    /// `[rows, KEYS]`, of which `first..end` is read.
    pub p: &'a [f32],
    /// Where each of [`KEYS`] values starts.
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

/// A row of scores to make weights of.
#[derive(Debug)]
pub struct Soften<'a> {
    /// [`KEYS`] scores. Of the result only `first..end` means anything.
    pub row: &'a mut [f32],
    /// The first key that the row sees.
    pub first: usize,
    /// The key after the last that it sees; more than `first`.
    pub end: usize,
    /// What multiplies every score.
    pub scale: f32,
    /// What multiplies each score beside that, [`KEYS`] of them, or none.
    pub key_scales: &'a [f32],
    /// What multiplies each weight once the sum is made, [`KEYS`] of them, or none.
    pub value_scales: &'a [f32],
    /// `c·tanh(score / c)` where not 0.
    pub softcap: f32,
    /// The largest score of the row so far.
    pub max: f32,
}
