//! Attention on digits with `vpdpbusd`: codes raised to unsigned bytes, digits signed.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::attention::turn_quarters;
use super::pairs::turn_rows;
use crate::attention::{
    Ahead, AttentionDigits, DIGIT_DIM, DigitRows, DigitUnit, KEY_BLOCK, KEYS, PackKeys, Wanted, WeighDigits,
    check_digits, digit_unit,
};
use crate::isa::Features;
use crate::table::Entry;

/// Words of a vector.
const LANES: usize = 16;

/// Words of the digits of a row of weights.
const ROW: usize = KEYS / 2;

/// The kernels of this tier, where they exist.
pub(super) fn attention_digits(features: &Features) -> Option<AttentionDigits> {
    // SAFETY: only handed out where the processor has the instructions.
    let split = |out: &mut [u32], x: &[f32], first: usize, end: usize| unsafe { split(out, x, first, end) };
    // SAFETY: as above.
    let run = |scores: &mut [f32], q: &DigitRows<'_>, k: &[u32], words: usize, ahead: Ahead<'_>| unsafe {
        qk(scores, q, k, words, ahead);
    };
    features.avx512_vnni.then_some(AttentionDigits {
        split: Entry { name: "split_digits.avx512", run: split },
        pack_keys: Entry { name: "pack_key_digits.avx512", run: pack_keys },
        qk: Entry { name: "qk_digits_6x32.avx512", run },
        pv: Entry { name: "pv_digits_7x32.avx512", run: pv },
    })
}

/// The mask of the lanes `first..end`, which are counted from `at` on.
#[inline(always)]
fn lanes(first: usize, end: usize, at: usize) -> __mmask16 {
    let below = |n: usize| (1u32 << n.saturating_sub(at).min(LANES)) - 1;
    (below(end) & !below(first)) as __mmask16
}

/// See [`SplitDigits`](crate::attention::SplitDigits).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn split(out: &mut [u32], x: &[f32], first: usize, end: usize) -> DigitUnit {
    assert!(first <= end && end <= x.len(), "numbers {first} to {end} of {}", x.len());
    let words = x.len().div_ceil(4);
    let (high, low) = out[..2 * words].split_at_mut(words);
    // SAFETY: lanes outside the row are masked.
    let load = |at: usize| unsafe { _mm512_maskz_loadu_ps(lanes(first, end, at), x.as_ptr().wrapping_add(at)) };
    let mut most = _mm512_setzero_si512();
    for at in (0..x.len()).step_by(LANES) {
        let bits = _mm512_and_si512(_mm512_castps_si512(load(at)), _mm512_set1_epi32(0x7fff_ffff));
        most = _mm512_max_epi32(most, bits);
    }
    let largest = _mm512_reduce_max_epi32(most) as u32;
    let Some(unit) = digit_unit(largest) else {
        high.fill(0);
        low.fill(0);
        return DigitUnit { unit: if largest == 0 { 0.0 } else { f32::NAN }, sum: 0 };
    };
    let (inverse, half) = (_mm512_set1_ps(1.0 / unit), _mm512_set1_epi32(128));
    let mut sum = _mm512_setzero_si512();
    for at in (0..x.len()).step_by(LANES) {
        let a = _mm512_cvtps_epi32(_mm512_mul_ps(load(at), inverse));
        sum = _mm512_add_epi32(sum, a);
        let digits = [_mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(a, half), 8)), _mm512_cvtepi32_epi8(a)];
        let (at, count) = (at / 4, (words - at / 4).min(4));
        for (out, digits) in [&mut *high, &mut *low].into_iter().zip(digits) {
            // SAFETY: as many words are left in the row.
            unsafe { _mm_mask_storeu_epi32(out.as_mut_ptr().add(at).cast(), (1 << count) - 1, digits) };
        }
    }
    DigitUnit { unit, sum: _mm512_reduce_add_epi32(sum) }
}

/// See [`PackDigits`](crate::attention::PackDigits).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL; each of the keys holds `dim` elements.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pack_keys(out: &mut [u32], block: &PackKeys<'_, i8>) {
    let keys = &block.keys[..KEY_BLOCK];
    // SAFETY: a key holds as many bytes.
    unsafe { turn_rows::<true>(out, |i| keys[i].cast(), block.dim, block.ahead) };
}

/// See [`QkDigits`](crate::attention::QkDigits).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn qk(scores: &mut [f32], q: &DigitRows<'_>, k: &[u32], words: usize, ahead: Ahead<'_>) {
    /// Rows of a tile, at most.
    const ROWS: usize = 6;
    let rows = q.units.len();
    assert!(words <= DIGIT_DIM / 4, "{words} words of four codes");
    assert!(
        q.words.len() >= 2 * rows * words && k.len() >= words * KEY_BLOCK,
        "{rows} rows and a block of {words} words"
    );
    assert!(rows == 0 || scores.len() >= (rows - 1) * KEYS + KEY_BLOCK, "{rows} rows of scores");
    let tiles = rows.div_ceil(ROWS);
    let mut wanted = Wanted::new(ahead, tiles * words);
    let mut r = 0;
    for tile in 0..tiles {
        let next = rows * (tile + 1) / tiles;
        let scores = &mut scores[r * KEYS..];
        let q = DigitRows { words: &q.words[2 * r * words..], units: &q.units[r..next] };
        // SAFETY: the lengths were checked for all rows.
        unsafe {
            match next - r {
                1 => qk_tile::<1>(scores, &q, k, words, &mut wanted),
                2 => qk_tile::<2>(scores, &q, k, words, &mut wanted),
                3 => qk_tile::<3>(scores, &q, k, words, &mut wanted),
                4 => qk_tile::<4>(scores, &q, k, words, &mut wanted),
                5 => qk_tile::<5>(scores, &q, k, words, &mut wanted),
                _ => qk_tile::<6>(scores, &q, k, words, &mut wanted),
            }
        }
        r = next;
    }
}

/// `R` rows by the keys of a block, high and low digits apart.
///
/// # Safety
/// As for [`qk`], whose checks were made for `R` rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn qk_tile<const R: usize>(
    scores: &mut [f32],
    q: &DigitRows<'_>,
    k: &[u32],
    words: usize,
    wanted: &mut Wanted<'_>,
) {
    let mut acc = [[[_mm512_setzero_si512(); 2]; 2]; R];
    for w in 0..words {
        wanted.step();
        // SAFETY: the caller checked the lengths for R rows, both digits, and all words of the block.
        unsafe {
            let k = k.as_ptr().add(w * KEY_BLOCK);
            let keys = [_mm512_loadu_si512(k.cast()), _mm512_loadu_si512(k.add(LANES).cast())];
            for (i, acc) in acc.iter_mut().enumerate() {
                for (digit, acc) in acc.iter_mut().enumerate() {
                    let a = _mm512_set1_epi32(*q.words.get_unchecked((2 * i + digit) * words + w) as i32);
                    acc[0] = _mm512_dpbusd_epi32(acc[0], keys[0], a);
                    acc[1] = _mm512_dpbusd_epi32(acc[1], keys[1], a);
                }
            }
        }
    }
    for (i, [high, low]) in acc.iter().enumerate() {
        for n in 0..2 {
            let score = whole(high[n], low[n], &q.units[i]);
            // SAFETY: the caller checked the rows of scores.
            unsafe { _mm512_storeu_ps(scores.as_mut_ptr().add(i * KEYS + n * LANES), score) };
        }
    }
}

/// What the sums of both digits' products with raised codes stand for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn whole(high: __m512i, low: __m512i, unit: &DigitUnit) -> __m512 {
    let raised = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
    let sum = _mm512_sub_epi32(raised, _mm512_set1_epi32(unit.sum.wrapping_mul(128)));
    _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(unit.unit))
}

/// Elements that are taken together.
const WIDTH: usize = 64;

/// The words of a strip of [`WIDTH`] elements: of every four tokens and each quarter of the strip's quarters a vector.
type Strip = [MaybeUninit<[__m512i; 4]>; KEYS / 4];

/// See [`PvDigits`](crate::attention::PvDigits).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and VNNI; each of [`KEYS`] values holds `dim` elements.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn pv(b: &mut WeighDigits<'_>) {
    /// Rows of a tile, at most.
    const ROWS: usize = 7;
    check_digits(b);
    let rows = b.alpha.len();
    let mut strip: Strip = [MaybeUninit::uninit(); KEYS / 4];
    let words = b.end.div_ceil(4) - b.first / 4;
    let mut wanted = Wanted::new(b.ahead, b.dim.div_ceil(WIDTH) * words);
    for d in (0..b.dim).step_by(WIDTH) {
        // SAFETY: the lengths were checked, the strip starts before dim; the caller vouches for the values.
        unsafe {
            match rows {
                1 => few::<1>(b, d, &mut wanted),
                2 => few::<2>(b, d, &mut wanted),
                3 => few::<3>(b, d, &mut wanted),
                _ => {
                    for (w, words) in (b.first / 4..b.end.div_ceil(4)).zip(&mut strip) {
                        wanted.step();
                        words.write(four_tokens(b, w, d));
                    }
                    let (tiles, mut r) = (rows.div_ceil(ROWS), 0);
                    for tile in 0..tiles {
                        let next = rows * (tile + 1) / tiles;
                        match next - r {
                            1 => many::<1>(b, &strip, r, d),
                            2 => many::<2>(b, &strip, r, d),
                            3 => many::<3>(b, &strip, r, d),
                            4 => many::<4>(b, &strip, r, d),
                            5 => many::<5>(b, &strip, r, d),
                            6 => many::<6>(b, &strip, r, d),
                            _ => many::<7>(b, &strip, r, d),
                        }
                        r = next;
                    }
                }
            }
        }
    }
}

/// The elements of a strip that exist.
#[inline(always)]
fn exist(dim: usize, d: usize) -> __mmask64 {
    u64::MAX >> (WIDTH - (dim - d).min(WIDTH))
}

/// The words of tokens `4w` to `4w + 3`: in quarter L of vector m, elements `16L + 4m` to `16L + 4m + 3` of the strip.
///
/// # Safety
/// As for [`pv`], whose checks were made; `w` is below a quarter of [`KEYS`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn four_tokens(b: &WeighDigits<'_>, w: usize, d: usize) -> [__m512i; 4] {
    let mask = exist(b.dim, d);
    let row = |i: usize| {
        // SAFETY: the caller vouches for the values, whose elements the mask admits.
        let row = unsafe { _mm512_maskz_loadu_epi8(mask, b.values.get_unchecked(4 * w + i).add(d)) };
        _mm512_xor_si512(row, _mm512_set1_epi8(-128))
    };
    let rows = [row(0), row(1), row(2), row(3)];
    let (a, b) = (_mm512_unpacklo_epi8(rows[0], rows[1]), _mm512_unpackhi_epi8(rows[0], rows[1]));
    let (c, d) = (_mm512_unpacklo_epi8(rows[2], rows[3]), _mm512_unpackhi_epi8(rows[2], rows[3]));
    [_mm512_unpacklo_epi16(a, c), _mm512_unpackhi_epi16(a, c), _mm512_unpacklo_epi16(b, d), _mm512_unpackhi_epi16(b, d)]
}

/// All of a few rows by a strip, straight from the values.
///
/// # Safety
/// As for [`pv`], whose checks were made; there are `R` rows, and `d` is below dim.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn few<const R: usize>(b: &mut WeighDigits<'_>, d: usize, wanted: &mut Wanted<'_>) {
    let mut acc = [[[_mm512_setzero_si512(); 4]; 2]; R];
    let p = b.p.words.as_ptr();
    for w in b.first / 4..b.end.div_ceil(4) {
        wanted.step();
        // SAFETY: as the caller vouches; the rows of weights were checked.
        unsafe {
            let values = four_tokens(b, w, d);
            for (i, acc) in acc.iter_mut().enumerate() {
                for (digit, acc) in acc.iter_mut().enumerate() {
                    let a = _mm512_set1_epi32(*p.add(i * ROW + digit * ROW / 2 + w) as i32);
                    for (acc, values) in acc.iter_mut().zip(&values) {
                        *acc = _mm512_dpbusd_epi32(*acc, *values, a);
                    }
                }
            }
        }
    }
    for (i, [high, low]) in acc.iter().enumerate() {
        let unit = b.p.units[i];
        let sums = [0, 1, 2, 3].map(|m| whole(high[m], low[m], &unit));
        // SAFETY: as the caller vouches.
        unsafe { take(b, i, d, sums) };
    }
}

/// Rows `r` to `r + R` by a strip of words, half of it at a time.
///
/// # Safety
/// As for [`pv`], whose checks were made; there are `r + R` rows, `d` is below dim, and the strip begins with the words of the
/// tokens that count.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn many<const R: usize>(b: &mut WeighDigits<'_>, strip: &Strip, r: usize, d: usize) {
    let mut sums = [[_mm512_setzero_ps(); 4]; R];
    let (first, end) = (b.first / 4, b.end.div_ceil(4));
    let p = b.p.words.as_ptr().wrapping_add(r * ROW + first);
    for half in 0..2 {
        let strip = strip.as_ptr().cast::<[__m512i; 2]>().wrapping_add(half);
        let mut acc = [[[_mm512_setzero_si512(); 2]; 2]; R];
        for w in 0..end - first {
            // SAFETY: as many words of the strip were written; the rows of weights were checked.
            unsafe {
                let values = *strip.add(2 * w);
                for (i, acc) in acc.iter_mut().enumerate() {
                    for (digit, acc) in acc.iter_mut().enumerate() {
                        let a = _mm512_set1_epi32(*p.add(i * ROW + digit * ROW / 2 + w) as i32);
                        acc[0] = _mm512_dpbusd_epi32(acc[0], values[0], a);
                        acc[1] = _mm512_dpbusd_epi32(acc[1], values[1], a);
                    }
                }
            }
        }
        for (i, [high, low]) in acc.iter().enumerate() {
            for n in 0..2 {
                sums[i][2 * half + n] = whole(high[n], low[n], &b.p.units[r + i]);
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        // SAFETY: as the caller vouches.
        unsafe { take(b, r + i, d, sums) };
    }
}

/// Takes the sums of a strip, in the order of [`four_tokens`], into a row.
///
/// # Safety
/// As for [`pv`], whose checks were made; the row exists, and `d` is below dim.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn take(b: &mut WeighDigits<'_>, r: usize, d: usize, m: [__m512; 4]) {
    let alpha = _mm512_set1_ps(b.alpha[r]);
    let sums = turn_quarters(m);
    let mask = exist(b.dim, d);
    for (n, sum) in sums.into_iter().enumerate() {
        let mask = (mask >> (n * LANES)) as __mmask16;
        let at = b.acc.as_mut_ptr().wrapping_add(r * b.dim + d + n * LANES);
        // SAFETY: the elements of the mask are in the row.
        unsafe { _mm512_mask_storeu_ps(at, mask, _mm512_fmadd_ps(alpha, _mm512_maskz_loadu_ps(mask, at), sum)) };
    }
}
