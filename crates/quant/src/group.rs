//! Groups of plain integer codes, and fp8 codes, with scales beside them: what `matmul_quant` and `scaled_matmul` take.
//!
//! An element is `(code − zero)·scale`, its group along K. Scales are rounded to the dtype in which they will be stored
//! before codes are chosen for them.

use qiao_core::{DType, Error, Result};

use crate::encode::{Block, Levels, Linear, check_row, weigh};
use crate::minifloat::F8E4M3;
use crate::nibble;

/// A group quantisation of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// 4 or 8.
    pub bits: u32,
    /// Signed codes (i4, i8) without zero points; else unsigned codes (u4, u8) with them.
    pub symmetric: bool,
    /// Elements along K under one scale; 0 = the whole row. The last group may be shorter.
    pub group_size: usize,
    /// What scales are stored in: f32, f16 or bf16.
    pub scales: DType,
}

/// A row in codes.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Codes in [`Grouping::codes`], 4-bit ones two a byte.
    pub codes: Vec<u8>,
    /// One scale per group, exact in [`Grouping::scales`]. Never negative.
    pub scales: Vec<f32>,
    /// One zero point per group, a byte each; empty if symmetric.
    pub zeros: Vec<u8>,
}

/// Ratios of the peak that starts lay on the ends of the levels.
const RATIOS_4: [f32; 10] = [1.0, 0.94, 0.97, 1.04, 1.08, 1.13, 1.19, 1.27, 1.38, 1.55];
const RATIOS_8: [f32; 6] = [1.0, 0.996, 0.998, 1.002, 1.005, 1.01];
/// Shares of the range that starts cut off.
const CUTS_4: [f32; 4] = [0.0, 0.035, 0.07, 0.12];
const CUTS_8: [f32; 3] = [0.0, 0.002, 0.006];

impl Grouping {
    /// The dtype of codes.
    ///
    /// # Errors
    /// Bits other than 4 and 8.
    pub fn codes(&self) -> Result<DType> {
        match (self.bits, self.symmetric) {
            (4, true) => Ok(DType::I4),
            (4, false) => Ok(DType::U4),
            (8, true) => Ok(DType::I8),
            (8, false) => Ok(DType::U8),
            (bits, _) => Err(Error::invalid("group quantisation", format!("{bits} bits"), "ask for 4 or 8")),
        }
    }

    /// Groups of a row of `k` elements.
    pub fn groups(&self, k: usize) -> usize {
        if self.group_size == 0 { 1 } else { k.div_ceil(self.group_size) }
    }

    /// Refuses what can not be, for rows of `k` elements.
    pub(crate) fn check(&self, what: &str, k: usize) -> Result<()> {
        let dtype = self.codes()?;
        if !self.scales.is_activation() {
            return Err(Error::invalid(what, format!("scales in {}", self.scales), "store them in f32, f16 or bf16"));
        }
        if dtype.bytes_for(k).is_none() {
            return Err(Error::invalid(what, format!("{k} codes of {dtype}"), "give an even number"));
        }
        Ok(())
    }

    /// Quantises a row: per group the scale (and zero point) of the least squared error, each element's weighed by its
    /// importance where that is given.
    ///
    /// # Errors
    /// Bits other than 4 and 8, an odd number of 4-bit codes, scales in no floating point dtype of activations, an
    /// element that is not finite, an importance that is negative, not finite or missing.
    pub fn encode_row(&self, x: &[f32], importance: Option<&[f32]>) -> Result<Row> {
        let what = "quantising a row in groups";
        self.check(what, x.len())?;
        check_row(what, x, importance)?;
        let size = if self.group_size == 0 { x.len().max(1) } else { self.group_size };
        let (mut codes, mut scales, mut zeros) = (Vec::with_capacity(x.len()), Vec::new(), Vec::new());
        let mut weights = vec![1f32; size.min(x.len())];
        for (i, x) in x.chunks(size).enumerate() {
            let w = &mut weights[..x.len()];
            weigh(importance.map(|all| &all[i * size..][..x.len()]), w);
            let (scale, zero) = self.settle(x, w);
            scales.push(scale);
            if !self.symmetric {
                zeros.push(zero as u8);
            }
            codes.extend(x.iter().map(|&v| self.code(v, scale, zero)));
        }
        Ok(Row { codes: if self.bits == 4 { nibble::pack(&codes) } else { codes }, scales, zeros })
    }

    /// The code of one element.
    pub(crate) fn code(&self, v: f32, scale: f32, zero: f32) -> u8 {
        let levels = self.levels(zero);
        let level = levels.nearest(v * if scale == 0.0 { 0.0 } else { 1.0 / scale });
        (level + zero) as i32 as u8
    }

    /// The levels `code − zero`.
    fn levels(&self, zero: f32) -> Linear {
        let top = if self.bits == 4 { 15.0 } else { 255.0 };
        match (self.symmetric, self.bits) {
            (true, 4) => Linear { lo: -8.0, hi: 7.0 },
            (true, _) => Linear { lo: -127.0, hi: 127.0 },
            (false, _) => Linear { lo: -zero, hi: top - zero },
        }
    }

    /// Scale and zero point of a group, the scale as it is stored.
    pub(crate) fn settle(&self, x: &[f32], w: &[f32]) -> (f32, f32) {
        let peak = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        if peak == 0.0 {
            return (0.0, 0.0);
        }
        // Squares of what is searched over stay within f32 for any finite input.
        let unit = 2f32.powi((peak.to_bits() >> 23) as i32 - 127);
        let scaled: Vec<f32> = x.iter().map(|v| v / unit).collect();
        let b = Block { x: &scaled, w };
        let mut best = (f32::INFINITY, 0.0, 0.0);
        for (start, zero) in self.starts(b) {
            let levels = self.levels(zero);
            let mut scale = start;
            for _ in 0..3 {
                let kept = self.stored(scale * unit);
                let s = b.step(levels, kept / unit);
                if s.error < best.0 {
                    best = (s.error, kept, zero);
                }
                scale = s.refit.abs();
            }
        }
        (best.1, best.2)
    }

    /// Scales, not yet rounded, and zero points to try.
    fn starts(&self, b: Block<'_>) -> Vec<(f32, f32)> {
        let fold = |f: fn(f32, f32) -> f32| b.x.iter().copied().fold(0.0, f);
        let (lo, hi) = (fold(f32::min), fold(f32::max));
        if self.symmetric {
            let levels = self.levels(0.0);
            let ratios: &[f32] = if self.bits == 4 { &RATIOS_4 } else { &RATIOS_8 };
            return vec![(b.fit_positive(levels, ratios), 0.0), (hi.max(-lo) / levels.hi, 0.0)];
        }
        let (top, cuts): (f32, &[f32]) = if self.bits == 4 { (15.0, &CUTS_4) } else { (255.0, &CUTS_8) };
        let mut starts = Vec::new();
        for (scale, offset) in [b.fit_affine(top, true, cuts), ((hi - lo) / top, lo)] {
            let zero = if scale == 0.0 { top } else { (-offset / scale).round().clamp(0.0, top) };
            let scale = if scale == 0.0 { -offset / top } else { scale };
            for near in [zero, zero - 1.0, zero + 1.0] {
                if (0.0..=top).contains(&near) {
                    starts.push((scale, near));
                }
            }
        }
        starts
    }

    /// What is stored of a scale: finite, and not 0 for what is not 0.
    fn stored(&self, scale: f32) -> f32 {
        round_scale(self.scales, scale)
    }
}

/// The number of a dtype nearest to a scale of at least 0: finite, and above 0 for what is above 0.
pub(crate) fn round_scale(dtype: DType, scale: f32) -> f32 {
    match dtype {
        DType::F16 => {
            let near = half::f16::from_f32(scale.min(65504.0));
            if scale > 0.0 && near.to_bits() == 0 { half::f16::from_bits(1).to_f32() } else { near.to_f32() }
        }
        DType::BF16 => half::bf16::from_f32(scale.min(half::bf16::MAX.to_f32())).to_f32(),
        _ => scale.min(f32::MAX),
    }
}

/// One row in int8 by its largest magnitude: `scale = max abs / 127`, codes rounded half to even. A row of zeros has
/// scale 0.
///
/// # Errors
/// An element that is not finite.
pub fn int8_channel(x: &[f32]) -> Result<(Vec<i8>, f32)> {
    check_row("quantising a row to int8", x, None)?;
    let scale = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    let code = |v: &f32| (*v as f64 / scale as f64).round_ties_even().clamp(-127.0, 127.0) as i8;
    Ok((if scale == 0.0 { vec![0; x.len()] } else { x.iter().map(code).collect() }, scale))
}

/// One row in fp8 e4m3 by its largest magnitude: `scale = max abs / 448`, codes rounded half to even. A row of zeros
/// has scale 0.
///
/// # Errors
/// An element that is not finite.
pub fn fp8_channel(x: &[f32]) -> Result<(Vec<u8>, f32)> {
    let (codes, scales) = fp8_blocks(x, x.len(), [1, x.len().max(1)])?;
    Ok((codes, scales.first().copied().unwrap_or(0.0)))
}

/// A matrix `[x.len() / k, k]` in fp8 e4m3 with one f32 scale per block of `block` rows and columns (128×128 as a
/// rule), `scale = max abs / 448`; blocks at the far ends may be smaller. Gives codes, row-major, and scales
/// `[⌈n/rows⌉, ⌈k/columns⌉]`.
///
/// # Errors
/// A length that is no whole number of rows, a block side of 0, an element that is not finite.
pub fn fp8_blocks(x: &[f32], k: usize, block: [usize; 2]) -> Result<(Vec<u8>, Vec<f32>)> {
    let what = "quantising a matrix to fp8";
    if !x.is_empty() && (k == 0 || !x.len().is_multiple_of(k)) || block.contains(&0) {
        let found = format!("{} elements in rows of {k}, blocks of {block:?}", x.len());
        return Err(Error::invalid(what, found, "give whole rows, and blocks with sides above 0"));
    }
    check_row(what, x, None)?;
    if x.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let across = k.div_ceil(block[1]);
    let mut scales = vec![0f32; (x.len() / k).div_ceil(block[0]) * across];
    let at = |i: usize| i / k / block[0] * across + i % k / block[1];
    for (i, v) in x.iter().enumerate() {
        scales[at(i)] = scales[at(i)].max(v.abs());
    }
    scales.iter_mut().for_each(|s| *s /= 448.0);
    let code = |(i, v): (usize, &f32)| match scales[at(i)] {
        0.0 => 0,
        s => F8E4M3.encode(*v as f64 / s as f64) as u8,
    };
    Ok((x.iter().enumerate().map(code).collect(), scales))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(g: &Grouping, row: &Row, k: usize) -> Vec<f32> {
        (0..k)
            .map(|j| {
                let group = j.checked_div(g.group_size).unwrap_or(0);
                let zero = row.zeros.get(group).copied().unwrap_or(0) as f32;
                let code = match (g.bits, g.symmetric) {
                    (4, true) => nibble::i4(&row.codes, j) as f32,
                    (4, false) => nibble::u4(&row.codes, j) as f32,
                    (_, true) => row.codes[j] as i8 as f32,
                    (_, false) => row.codes[j] as f32,
                };
                (code - zero) * row.scales[group]
            })
            .collect()
    }

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.7).sin() * (1.0 + (i % 13) as f32) + 0.3).collect()
    }

    fn grouping(bits: u32, symmetric: bool) -> Grouping {
        Grouping { bits, symmetric, group_size: 32, scales: DType::F16 }
    }

    #[test]
    fn the_search_loses_less_than_plain_rounding() {
        let x = wave(512);
        for (bits, symmetric) in [(4, true), (4, false), (8, true), (8, false)] {
            let g = grouping(bits, symmetric);
            let back = decode(&g, &g.encode_row(&x, None).unwrap(), x.len());
            let ours: f32 = x.iter().zip(&back).map(|(a, b)| (a - b) * (a - b)).sum();
            let plain: f32 = x
                .chunks(32)
                .map(|c| {
                    let (lo, hi) = c.iter().fold((0f32, 0f32), |(l, h), v| (l.min(*v), h.max(*v)));
                    let half = (1 << (bits - 1)) as f32 - 1.0;
                    let s = if symmetric { hi.max(-lo) / half } else { (hi - lo) / (2.0 * half + 1.0) };
                    let z = (lo / s).round() * s;
                    c.iter()
                        .map(|v| v - if symmetric { (v / s).round() * s } else { ((v - z) / s).round() * s + z })
                        .map(|e| e * e)
                        .sum::<f32>()
                })
                .sum();
            assert!(ours < plain, "{bits} bits, symmetric {symmetric}: {ours} against {plain}");
        }
    }

    #[test]
    fn a_weighed_element_is_met_better() {
        let x = wave(32);
        let mut importance = vec![1e-3; 32];
        importance[5] = 1000.0;
        let g = grouping(4, true);
        let error = |i: Option<&[f32]>| (decode(&g, &g.encode_row(&x, i).unwrap(), 32)[5] - x[5]).abs();
        assert!(error(Some(&importance)) < error(None));
        assert!(error(Some(&importance)) < 0.01);
    }

    #[test]
    fn extremes_and_zeros_stay_finite() {
        for x in [vec![0.0; 32], vec![f32::MAX; 32], vec![-f32::MAX; 32], vec![1e-40; 32], vec![-3.0; 32]] {
            for (bits, symmetric) in [(4, true), (4, false), (8, true), (8, false)] {
                let g = grouping(bits, symmetric);
                let row = g.encode_row(&x, None).unwrap();
                assert!(row.scales.iter().all(|s| s.is_finite() && *s >= 0.0));
                assert!(decode(&g, &row, 32).iter().all(|v| v.is_finite()));
            }
        }
        let g = grouping(4, false);
        assert!(decode(&g, &g.encode_row(&[-3.0; 32], None).unwrap(), 32).iter().all(|v| (v + 3.0).abs() < 2e-3));
    }

    #[test]
    fn a_short_last_group_and_one_group_for_a_row_work() {
        let x = wave(40);
        assert_eq!(grouping(8, true).encode_row(&x, None).unwrap().scales.len(), 2);
        let g = Grouping { group_size: 0, ..grouping(8, true) };
        assert_eq!((g.groups(40), g.encode_row(&x, None).unwrap().scales.len()), (1, 1));
    }

    #[test]
    fn what_can_not_be_is_refused() {
        assert!(grouping(5, true).encode_row(&[0.0; 32], None).is_err());
        assert!(grouping(4, true).encode_row(&[0.0; 3], None).is_err());
        assert!(Grouping { scales: DType::I8, ..grouping(4, true) }.encode_row(&[0.0; 32], None).is_err());
        let e = grouping(8, true).encode_row(&[0.0, f32::NAN], None).unwrap_err().to_string();
        assert!(e.contains("element 1 is NaN"), "{e}");
        assert!(fp8_blocks(&[0.0; 6], 4, [128, 128]).is_err() && fp8_blocks(&[0.0; 6], 3, [0, 1]).is_err());
    }

    #[test]
    fn channels_are_laid_on_their_largest_magnitude() {
        let (codes, scale) = int8_channel(&[127.0, -63.5, 0.5, 1.5, 0.0]).unwrap();
        assert_eq!((codes, scale), (vec![127, -64, 0, 2, 0], 1.0));
        assert_eq!(int8_channel(&[0.0; 3]).unwrap(), (vec![0; 3], 0.0));
        let (codes, scale) = fp8_channel(&[448.0, -1.0, 0.0]).unwrap();
        assert_eq!((codes, scale), (vec![0x7e, 0xb8, 0], 1.0));
    }

    #[test]
    fn fp8_blocks_have_a_scale_each_and_smaller_ones_at_the_ends() {
        let mut x = vec![448.0; 15];
        x[14] = 896.0;
        let (codes, scales) = fp8_blocks(&x, 5, [2, 4]).unwrap();
        assert_eq!(scales, [1.0, 1.0, 1.0, 2.0]);
        assert!(codes.iter().all(|c| *c == 0x7e));
    }
}
