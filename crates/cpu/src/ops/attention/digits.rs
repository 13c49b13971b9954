//! Attention on i8 caches in integers: what a tile does in its own way there.
//!
//! A row of queries or weights that holds what is not finite has no digits; it takes the wider way, alone.

use std::ops::Range;

use qiao_kernels_cpu::{Ahead, AttentionDigits, DigitRows, DigitUnit, KEY_BLOCK, KEYS, Kernels, PackKeys, WeighDigits};

use super::Attention;
use super::tile::{Scratch, State};
use super::typed::{Weights, pack, typed, weigh, words};
use super::walk::Chunk;

/// A tile's digits, in a thread's scratch.
pub(super) struct Digits<'a> {
    /// Queries, `2 · ⌈D/4⌉` words a row.
    q: &'a mut [u32],
    q_units: &'a mut [DigitUnit],
    /// Weights, `KEYS / 2` words a row.
    p: &'a mut [u32],
    p_units: &'a mut [DigitUnit],
}

/// Words of the digits of a row.
fn row_words(n: usize) -> usize {
    2 * n.div_ceil(4)
}

impl<'a> Digits<'a> {
    /// Floats of scratch for this many rows of queries with heads of `dk` elements.
    pub(super) fn floats(rows: usize, dk: usize) -> usize {
        rows * (row_words(dk) + KEYS / 2 + 4)
    }

    /// The digits of a tile, and the rest of the scratch.
    pub(super) fn new(buf: &'a mut [f32], rows: usize, dk: usize) -> (Self, &'a mut [f32]) {
        let (q, buf) = buf.split_at_mut(rows * row_words(dk));
        let (p, buf) = buf.split_at_mut(rows * KEYS / 2);
        let (q_units, buf) = buf.split_at_mut(2 * rows);
        let (p_units, buf) = buf.split_at_mut(2 * rows);
        (Digits { q: words(q), q_units: units(q_units), p: words(p), p_units: units(p_units) }, buf)
    }
}

/// Room for units: two floats each.
fn units(floats: &mut [f32]) -> &mut [DigitUnit] {
    // SAFETY: a unit is an f32 and an i32, and any bits are a value of either.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), size_of_val(floats) / size_of::<DigitUnit>()) }
}

impl Attention {
    /// Splits the queries of a tile.
    pub(super) fn split_queries(&self, k: &AttentionDigits, s: &mut Scratch<'_>) {
        let (d, dk) = (&mut s.digits, self.k.pages.head_dim);
        for (i, unit) in d.q_units.iter_mut().enumerate() {
            let out = &mut d.q[i * row_words(dk)..][..row_words(dk)];
            *unit = (k.split.run)(out, &s.q[i * dk..][..dk], 0, dk);
        }
    }

    /// Scores of a block of keys.
    ///
    /// # Safety
    /// The addresses are those of keys, whose memory is live and not written meanwhile.
    pub(super) unsafe fn score_digits(
        &self,
        k: &AttentionDigits,
        s: &mut Scratch<'_>,
        first: usize,
        keys: &[*const u8],
        ahead: [Ahead<'_>; 2],
    ) {
        let dim = self.k.pages.head_dim;
        // SAFETY: as the caller vouches; keys are i8 here.
        unsafe { (k.pack_keys.run)(words(s.packed), &PackKeys { keys: typed(keys), dim, ahead: ahead[0] }) };
        let q = DigitRows { words: s.digits.q, units: s.digits.q_units };
        (k.qk.run)(&mut s.scores[first..], &q, words(s.packed), dim.div_ceil(4), ahead[1]);
    }

    /// Scores of the rows that have no digits.
    ///
    /// # Safety
    /// As [`score_digits`](Attention::score_digits), for the keys of a chunk.
    pub(super) unsafe fn score_rest(&self, k: &Kernels, s: &mut Scratch<'_>, blocks: Range<usize>, chunk: &Chunk) {
        let dk = self.k.pages.head_dim;
        for i in (0..s.digits.q_units.len()).filter(|&i| s.digits.q_units[i].unit.is_nan()) {
            for first in blocks.clone().map(|block| block * KEY_BLOCK) {
                let keys = &chunk.keys.at[first..first + KEY_BLOCK];
                // SAFETY: as the caller vouches; keys are i8 here.
                unsafe { pack::<i8>(k, s.packed, keys, dk, Ahead::default()) };
                let q = (&s.q[i * dk..][..dk], 1);
                (k.qk.run)(&mut s.scores[i * KEYS + first..], q, s.packed, dk, Ahead::default());
            }
        }
    }

    /// Splits the weights of a row, which counts the keys that it sees.
    pub(super) fn split_weights(&self, k: &AttentionDigits, s: &mut Scratch<'_>, row: usize, seen: Range<usize>) {
        let out = &mut s.digits.p[row * KEYS / 2..][..KEYS / 2];
        let weights = &s.scores[row * KEYS..][..KEYS];
        s.digits.p_units[row] = (k.split.run)(out, weights, seen.start, seen.end);
    }

    /// Adds the weighted values of a chunk: the integers of a row are the same whatever it does not see.
    ///
    /// # Safety
    /// The addresses in the chunk are those of tokens in the caches, which nothing writes meanwhile.
    #[allow(clippy::too_many_arguments, reason = "as for a chunk")]
    pub(super) unsafe fn weigh_digits(
        &self,
        (k, digits): (&Kernels, &AttentionDigits),
        count: usize,
        s: &mut Scratch<'_>,
        state: &mut State<'_>,
        seen: &dyn Fn(usize) -> Range<usize>,
        chunk: &Chunk,
        ahead: Ahead<'_>,
    ) {
        let (group, dim) = (self.group(), self.v.pages.head_dim);
        for i in 0..count * group {
            if !s.digits.p_units[i].unit.is_nan() {
                continue;
            }
            let w = Weights {
                acc: &mut state.acc[i * dim..][..dim],
                alpha: &s.alpha[i..=i],
                p: &s.scores[i * KEYS..][..KEYS],
                tokens: seen(i / group),
                dim,
                ahead: Ahead::default(),
            };
            // SAFETY: as the caller vouches; values are i8 here.
            unsafe { weigh::<i8>(k, w, &chunk.values.at) };
            (s.alpha[i], s.digits.p_units[i]) = (1.0, DigitUnit::default());
        }
        let (mut first, mut end) = (KEYS, 0);
        for range in (0..count).map(seen).filter(|range| !range.is_empty()) {
            (first, end) = (first.min(range.start), end.max(range.end));
        }
        if first < end {
            let p = DigitRows { words: s.digits.p, units: s.digits.p_units };
            let values = typed(&chunk.values.at);
            let mut block = WeighDigits { acc: state.acc, alpha: s.alpha, p, values, first, end, dim, ahead };
            // SAFETY: as the caller vouches; values are i8 here.
            unsafe { (digits.pv.run)(&mut block) };
        }
    }
}
