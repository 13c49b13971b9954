//! Rotary positions.

use qiao_core::{RopeAttrs, RopeStyle};

use super::{Outputs, one};
use crate::args::Args;

/// Rotates each pair (a, b) of a head to `(a·cos − b·sin, b·cos + a·sin)` by the token's row of the tables. Elements
/// outside the rotated span pass; a position without a row makes the rotated ones NaN.
pub(crate) fn rope(attrs: &RopeAttrs, args: &Args<'_>) -> Outputs {
    let (mut x, positions) = (args.value(0)?, args.value(1)?);
    let (cos, sin) = (args.value(2)?, args.value(3)?);
    let [_, heads, d] = x.shape[..] else { unreachable!("the rule asks for [T, H, D]") };
    let rotary = if attrs.rotary_dim == 0 { d } else { attrs.rotary_dim as usize };
    let (half, start) = (rotary / 2, attrs.offset as usize);
    if heads * d == 0 {
        return one(x.data);
    }
    for (token, &position) in x.data.chunks_exact_mut(heads * d).zip(&positions.data) {
        let row = (0.0..cos.shape[0] as f64).contains(&position).then_some(position as usize * half);
        for head in token.chunks_exact_mut(d) {
            for i in 0..half {
                let (a, b) = match attrs.style {
                    RopeStyle::HalfSplit => (start + i, start + i + half),
                    RopeStyle::Interleaved => (start + 2 * i, start + 2 * i + 1),
                };
                let (c, s) = row.map_or((f64::NAN, f64::NAN), |r| (cos.data[r + i], sin.data[r + i]));
                (head[a], head[b]) = (head[a] * c - head[b] * s, head[b] * c + head[a] * s);
            }
        }
    }
    one(x.data)
}
