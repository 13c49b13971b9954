//! Scales of a panel as f32.

use std::ops::Range;

use half::f16;

use super::CHUNK;
use super::form::{QuantFormat, ScaleForm};
use super::words::Lookup;
use crate::layout::NR;
use crate::simd::{Simd, prefetch};

/// Makes f32 of the scales that a panel holds: `(scales, offsets, format, panel, k, first, chunks)`.
///
/// Writes `[chunks · scales_per_chunk][16]` scales for the chunks from `first` on, and as many offsets where the format
/// has minima; `offsets` may be empty where it has none. `panel` is a whole panel of `k` inputs.
pub type QuantScales = fn(
    scales: &mut [f32],
    offsets: &mut [f32],
    format: QuantFormat,
    panel: &[u8],
    k: usize,
    first: usize,
    chunks: usize,
);

/// 16 numbers.
type Row = [f32; NR];

/// 16 f16 at the start of `bytes`.
#[inline(always)]
fn halves<S: Simd>(s: S, bytes: &[u8]) -> Row {
    let bytes = &bytes[..2 * NR];
    let mut out = [0.0; NR];
    for (i, out) in out.chunks_exact_mut(S::LANES).enumerate() {
        // SAFETY: the bytes hold 16 f16, and loads need no alignment.
        s.store(out, unsafe { s.load_f16_ptr(bytes.as_ptr().add(2 * i * S::LANES).cast::<f16>()) });
    }
    out
}

/// `2^(e − 128)`, subnormal for the two lowest.
#[inline(always)]
fn power(e: u8) -> f32 {
    f32::from_bits(if e > 1 { (u32::from(e) - 1) << 23 } else { 0x0020_0000 << e })
}

/// 16 small integers at the start of `bytes`, times `factor`.
#[inline(always)]
fn product<S: Lookup, const SIGNED: bool>(s: S, bytes: &[u8; NR], factor: &Row) -> Row {
    let mut out = [0.0; NR];
    for (i, out) in out.chunks_exact_mut(S::LANES).enumerate() {
        let at = bytes[i * S::LANES..].as_ptr();
        // SAFETY: the bytes hold a number for each lane.
        let x = unsafe { if SIGNED { s.load_i8(at) } else { s.load_u8(at) } };
        s.store(out, s.mul(x, s.load(&factor[i * S::LANES..])));
    }
    out
}

/// The units of a list that hold scales `range`, each with the scales of it that are wanted and where they go.
#[inline(always)]
fn units<const COUNT: usize, const BYTES: usize>(
    data: &[u8],
    range: Range<usize>,
    mut f: impl FnMut(&[[u8; NR]], Range<usize>, usize),
) {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min((at / COUNT + 1) * COUNT);
        let (rows, _) = data[at / COUNT * BYTES * NR..][..BYTES * NR].as_chunks::<NR>();
        f(rows, at % COUNT..at % COUNT + end - at, at - range.start);
        at = end;
    }
}

/// See [`QuantScales`].
#[inline(always)]
pub(crate) fn expand<S: Lookup>(
    s: S,
    scales: &mut [f32],
    offsets: &mut [f32],
    format: QuantFormat,
    panel: &[u8],
    k: usize,
    chunks: Range<usize>,
) {
    assert!(chunks.end <= k.div_ceil(CHUNK), "chunks beyond the panel");
    let data = &panel[format.codes_len(k)..];
    // The same scales of the panel that lies behind this one, which is likely to be next.
    let share = |chunk: usize| data.len() * chunk / k.div_ceil(CHUNK).max(1);
    let (start, end) = (share(chunks.start), share(chunks.end));
    prefetch(data.as_ptr().wrapping_add(panel.len() + start), end - start);
    let per_chunk = format.scales_per_chunk();
    let range = chunks.start * per_chunk..chunks.end * per_chunk;
    let (scales, _) = scales.as_chunks_mut::<NR>();
    let (offsets, _) = offsets.as_chunks_mut::<NR>();
    let scales = &mut scales[..range.len()];
    match format.scale_form() {
        ScaleForm::Beside => {}
        ScaleForm::F16 => {
            for (out, bytes) in scales.iter_mut().zip(data[range.start * 2 * NR..].chunks_exact(2 * NR)) {
                *out = halves(s, bytes);
            }
        }
        ScaleForm::F16Min => {
            let rows = data[range.start * 4 * NR..].chunks_exact(4 * NR);
            for ((out, offset), bytes) in scales.iter_mut().zip(offsets).zip(rows) {
                *out = halves(s, bytes);
                *offset = halves(s, &bytes[2 * NR..]);
            }
        }
        ScaleForm::E8 => {
            for (out, bytes) in scales.iter_mut().zip(data[range.start * NR..].chunks_exact(NR)) {
                out.iter_mut().zip(bytes).for_each(|(x, e)| *x = power(*e));
            }
        }
        ScaleForm::Super8 => units::<8, 10>(
            data,
            range,
            #[inline(always)]
            |rows, wanted, at| plain(s, rows, wanted, &mut scales[at..]),
        ),
        ScaleForm::Super16 => units::<16, 18>(
            data,
            range,
            #[inline(always)]
            |rows, wanted, at| plain(s, rows, wanted, &mut scales[at..]),
        ),
        ScaleForm::Super8Min => units::<8, 20>(
            data,
            range,
            #[inline(always)]
            |rows, wanted, at| {
                let (d, min) = (halves(s, rows[..2].as_flattened()), minus(halves(s, rows[2..4].as_flattened())));
                for (i, sub) in wanted.enumerate() {
                    scales[at + i] = product::<S, false>(s, &rows[4 + sub], &d);
                    offsets[at + i] = product::<S, false>(s, &rows[12 + sub], &min);
                }
            },
        ),
        ScaleForm::Super16Nibbles => units::<16, 20>(
            data,
            range,
            #[inline(always)]
            |rows, wanted, at| {
                let (d, min) = (halves(s, rows[..2].as_flattened()), minus(halves(s, rows[2..4].as_flattened())));
                for (i, sub) in wanted.enumerate() {
                    let (mut low, mut high) = (rows[4 + sub], rows[4 + sub]);
                    for lane in 0..NR {
                        low[lane] &= 15;
                        high[lane] >>= 4;
                    }
                    scales[at + i] = product::<S, false>(s, &low, &d);
                    offsets[at + i] = product::<S, false>(s, &high, &min);
                }
            },
        ),
    }
}

/// Every number with the other sign.
#[inline(always)]
fn minus(mut row: Row) -> Row {
    for x in &mut row {
        *x = -*x;
    }
    row
}

/// f16 scales times signed factors.
#[inline(always)]
fn plain<S: Lookup>(s: S, rows: &[[u8; NR]], wanted: Range<usize>, scales: &mut [Row]) {
    let d = halves(s, rows[..2].as_flattened());
    for (out, factors) in scales.iter_mut().zip(&rows[2..][wanted]) {
        *out = product::<S, true>(s, factors, &d);
    }
}
