//! Attention on pairs of bf16 with `vdpbf16ps`, for processors where it is faster than widening to f32.

use std::arch::x86_64::*;

use half::bf16;

use super::dot::as_bf16;
use crate::attention::{Ahead, AttentionPairs, KEY_BLOCK, KEYS, PackKeys, Wanted, WeighPairs};
use crate::isa::Features;
use crate::table::Entry;

/// Words of a vector.
const LANES: usize = 16;

/// The kernels of this tier, where they exist and are worth it.
pub(super) fn attention_pairs(features: &Features) -> Option<AttentionPairs> {
    // SAFETY: only handed out where the processor has the instructions.
    let run = |scores: &mut [f32], q: (&[u32], usize), k: &[u32], pairs: usize, ahead: Ahead<'_>| unsafe {
        qk(scores, q, k, pairs, ahead);
    };
    // SAFETY: as above.
    let round = |row: &mut [u32], first: usize, end: usize| unsafe { round_weights(row, first, end) };
    let ((pack_keys_e4m3, pv_e4m3), (pack_keys_e5m2, pv_e5m2)) = super::fp8::pairs();
    (features.avx512_bf16 && features.avx512_vbmi && features.bf16_dot_is_fast).then_some(AttentionPairs {
        pack_keys_e4m3,
        pack_keys_e5m2,
        pv_e4m3,
        pv_e5m2,
        pack_keys: Entry { name: "pack_key_pairs.avx512", run: pack_keys },
        qk: Entry { name: "qk_pairs_6x32.avx512", run },
        round_weights: Entry { name: "round_weights.avx512", run: round },
        pv: Entry { name: "pv_pairs_12x32.avx512", run: pv },
    })
}

/// See [`PackPairs`](crate::attention::PackPairs).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and BF16; each of the keys holds `dim` elements.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_keys(out: &mut [u32], block: &PackKeys<'_, bf16>) {
    let keys = &block.keys[..KEY_BLOCK];
    // SAFETY: a key holds as many bytes.
    unsafe { turn_rows::<false>(out, |i| keys[i].cast(), block.dim * size_of::<bf16>(), block.ahead) };
}

/// Turns [`KEY_BLOCK`] rows of bytes around, word by word: `out[w * KEY_BLOCK + i]` = bytes `4w` to `4w + 3` of row i, zeros past
/// its end; every byte with its highest bit turned over where asked, those past the end maybe.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL; `bytes` bytes are readable in each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn turn_rows<const RAISE: bool>(
    out: &mut [u32],
    row: impl Fn(usize) -> *const u8,
    bytes: usize,
    ahead: Ahead<'_>,
) {
    let words = bytes.div_ceil(4);
    let out = &mut out[..words * KEY_BLOCK];
    let whole = bytes / (4 * LANES) * LANES;
    let mut wanted = Wanted::new(ahead, KEY_BLOCK / LANES * whole / LANES * 4);
    for first in (0..KEY_BLOCK).step_by(LANES) {
        let rows: [*const u8; LANES] = std::array::from_fn(|r| row(first + r));
        for w in (0..whole).step_by(LANES) {
            // SAFETY: the rows hold the words w to w + 16, and the block has as many of each.
            unsafe {
                let rows = rows.map(|row| row.add(4 * w));
                turn::<RAISE>(out.as_mut_ptr().add(w * KEY_BLOCK + first), KEY_BLOCK, &rows, &mut wanted);
            }
        }
        if whole < words {
            let mut rest = [[0u32; LANES]; LANES];
            for (rest, row) in rest.iter_mut().zip(rows) {
                // SAFETY: the row has as many bytes left, fewer than an array has.
                unsafe {
                    let bytes = bytes - 4 * whole;
                    std::ptr::copy_nonoverlapping(row.add(4 * whole), rest.as_mut_ptr().cast::<u8>(), bytes);
                }
            }
            let rows: [*const u8; LANES] = std::array::from_fn(|r| rest[r].as_ptr().cast());
            let mut turned = [0u32; LANES * LANES];
            // SAFETY: rows of 64 bytes, and room for as many.
            unsafe { turn::<RAISE>(turned.as_mut_ptr(), LANES, &rows, &mut wanted) };
            for w in whole..words {
                out[w * KEY_BLOCK + first..][..LANES].copy_from_slice(&turned[(w - whole) * LANES..][..LANES]);
            }
        }
    }
}

/// Turns a square of words around: `out[w * stride + r]` = word w of row r, its highest bits turned over where asked.
///
/// # Safety
/// The processor has AVX-512 F; 64 bytes are readable in each row, and 16 words writable at each of 16 strides.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn turn<const RAISE: bool>(out: *mut u32, stride: usize, rows: &[*const u8; LANES], wanted: &mut Wanted<'_>) {
    for c in 0..4 {
        wanted.step();
        // Four words of four rows each: quarter L of vector r has those of row 4L + r.
        let mut z = [_mm512_setzero_si512(); 4];
        for (r, z) in z.iter_mut().enumerate() {
            // SAFETY: the caller vouches for 64 bytes in each row.
            let four = |row: usize| unsafe { _mm_loadu_si128(rows[row].add(16 * c).cast()) };
            let v = _mm512_castsi128_si512(four(r));
            let v = _mm512_mask_broadcast_i32x4(v, 0x00f0, four(4 + r));
            let v = _mm512_mask_broadcast_i32x4(v, 0x0f00, four(8 + r));
            *z = _mm512_mask_broadcast_i32x4(v, 0xf000, four(12 + r));
            if RAISE {
                *z = _mm512_xor_si512(*z, _mm512_set1_epi8(-128));
            }
        }
        let (a, b) = (_mm512_unpacklo_epi32(z[0], z[1]), _mm512_unpackhi_epi32(z[0], z[1]));
        let (c2, d) = (_mm512_unpacklo_epi32(z[2], z[3]), _mm512_unpackhi_epi32(z[2], z[3]));
        let turned = [
            _mm512_unpacklo_epi64(a, c2),
            _mm512_unpackhi_epi64(a, c2),
            _mm512_unpacklo_epi64(b, d),
            _mm512_unpackhi_epi64(b, d),
        ];
        for (e, v) in turned.into_iter().enumerate() {
            // SAFETY: the caller vouches for the room.
            unsafe { _mm512_storeu_si512(out.add((4 * c + e) * stride).cast(), v) };
        }
    }
}

/// See [`QkPairs`](crate::attention::QkPairs).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn qk(scores: &mut [f32], (q, rows): (&[u32], usize), k: &[u32], pairs: usize, ahead: Ahead<'_>) {
    /// Rows of a tile, at most.
    const ROWS: usize = 6;
    assert!(q.len() >= rows * pairs && k.len() >= pairs * KEY_BLOCK, "{rows} rows and a block of {pairs} pairs");
    assert!(rows == 0 || scores.len() >= (rows - 1) * KEYS + KEY_BLOCK, "{rows} rows of scores");
    let tiles = rows.div_ceil(ROWS);
    let mut wanted = Wanted::new(ahead, tiles * pairs.div_ceil(2));
    let mut r = 0;
    for tile in 0..tiles {
        let next = rows * (tile + 1) / tiles;
        let (scores, q) = (&mut scores[r * KEYS..], &q[r * pairs..]);
        // SAFETY: the lengths were checked for all rows.
        unsafe {
            match next - r {
                1 => qk_tile::<1>(scores, q, k, pairs, &mut wanted),
                2 => qk_tile::<2>(scores, q, k, pairs, &mut wanted),
                3 => qk_tile::<3>(scores, q, k, pairs, &mut wanted),
                4 => qk_tile::<4>(scores, q, k, pairs, &mut wanted),
                5 => qk_tile::<5>(scores, q, k, pairs, &mut wanted),
                _ => qk_tile::<6>(scores, q, k, pairs, &mut wanted),
            }
        }
        r = next;
    }
}

/// `R` rows by the keys of a block, even and odd pairs in chains of their own.
///
/// # Safety
/// As for [`qk`], whose checks were made for these rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn qk_tile<const R: usize>(scores: &mut [f32], q: &[u32], k: &[u32], pairs: usize, wanted: &mut Wanted<'_>) {
    let mut acc = [[[_mm512_setzero_ps(); 2]; 2]; R];
    let add = |acc: &mut [[[__m512; 2]; 2]; R], w: usize, chain: usize| {
        // SAFETY: w is below the pairs, for which the slices were checked.
        unsafe {
            let k = k.as_ptr().add(w * KEY_BLOCK);
            let keys = [as_bf16(_mm512_loadu_si512(k.cast())), as_bf16(_mm512_loadu_si512(k.add(LANES).cast()))];
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = as_bf16(_mm512_set1_epi32(*q.get_unchecked(i * pairs + w) as i32));
                acc[chain][0] = _mm512_dpbf16_ps(acc[chain][0], x, keys[0]);
                acc[chain][1] = _mm512_dpbf16_ps(acc[chain][1], x, keys[1]);
            }
        }
    };
    for w in (0..pairs / 2 * 2).step_by(2) {
        wanted.step();
        add(&mut acc, w, 0);
        add(&mut acc, w + 1, 1);
    }
    if pairs % 2 == 1 {
        add(&mut acc, pairs - 1, 0);
    }
    for (i, acc) in acc.iter().enumerate() {
        for (n, (even, odd)) in acc[0].iter().zip(&acc[1]).enumerate() {
            let sum = _mm512_add_ps(*even, *odd);
            // SAFETY: the caller checked the rows of scores.
            unsafe { _mm512_storeu_ps(scores.as_mut_ptr().add(i * KEYS + n * LANES), sum) };
        }
    }
}

/// See [`RoundWeights`](crate::attention::RoundWeights).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn round_weights(row: &mut [u32], first: usize, end: usize) {
    assert!(first <= end && end <= KEYS, "keys {first} to {end} of {KEYS}");
    let row = row[..KEYS].as_mut_ptr();
    for at in (0..KEYS).step_by(2 * LANES) {
        // SAFETY: two vectors from `at` on lie in the row; the words go where was read before.
        unsafe {
            let two = [at, at + LANES]
                .map(|at| _mm512_maskz_loadu_ps(lanes(first.max(at) - at, end.max(at) - at), row.add(at).cast()));
            let words = _mm512_cvtne2ps_pbh(two[1], two[0]);
            _mm512_storeu_si512(row.add(at / 2).cast(), std::mem::transmute::<__m512bh, __m512i>(words));
        }
    }
}

/// The mask of the lanes `first..end`, either past the vector's end maybe.
#[inline(always)]
fn lanes(first: usize, end: usize) -> __mmask16 {
    let below = |n: usize| (1u32 << n.min(LANES)) - 1;
    (below(end) & !below(first)) as __mmask16
}

/// See [`PvPairs`](crate::attention::PvPairs).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and BF16; each of the values `first..end` holds `dim` elements.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pv(b: &mut WeighPairs<'_, bf16>) {
    /// Rows of a tile, at most.
    const ROWS: usize = 12;
    let (rows, dim) = (b.alpha.len(), b.dim);
    assert!(b.acc.len() >= rows * dim && b.p.len() >= rows * KEYS, "{rows} rows of {dim} elements");
    assert!(b.first <= b.end && b.end <= KEYS && b.values.len() >= KEYS, "tokens of a chunk");
    let tiles = rows.div_ceil(ROWS);
    // Tiles of the largest number of rows take the fewest elements at a time.
    let strips = dim.div_ceil(if rows.div_ceil(tiles) > 6 { 2 } else { 4 } * LANES);
    let mut wanted = Wanted::new(b.ahead, strips * (b.end - b.first).div_ceil(2));
    let mut nothing = Wanted::none();
    let mut r = 0;
    for tile in 0..tiles {
        let next = rows * (tile + 1) / tiles;
        let wanted = if tile == 0 { &mut wanted } else { &mut nothing };
        // SAFETY: the lengths were checked; the caller vouches for the values.
        unsafe {
            match next - r {
                1 => pv_rows::<1, 8>(b, r, wanted),
                2 => pv_rows::<2, 8>(b, r, wanted),
                3 => pv_rows::<3, 4>(b, r, wanted),
                4 => pv_rows::<4, 4>(b, r, wanted),
                5 => pv_rows::<5, 4>(b, r, wanted),
                6 => pv_rows::<6, 4>(b, r, wanted),
                7 => pv_rows::<7, 2>(b, r, wanted),
                8 => pv_rows::<8, 2>(b, r, wanted),
                9 => pv_rows::<9, 2>(b, r, wanted),
                10 => pv_rows::<10, 2>(b, r, wanted),
                11 => pv_rows::<11, 2>(b, r, wanted),
                _ => pv_rows::<12, 2>(b, r, wanted),
            }
        }
        r = next;
    }
}

/// `R` rows from row `r` on, `N` vectors (an even number) of a head's elements at a time.
///
/// # Safety
/// As for [`pv`], whose checks were made.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pv_rows<const R: usize, const N: usize>(b: &mut WeighPairs<'_, bf16>, r: usize, wanted: &mut Wanted<'_>) {
    let mut d = 0;
    // SAFETY: the tiles end at dim; the rest is the caller's word.
    unsafe {
        while d + N * LANES <= b.dim {
            pv_tile::<R, N>(b, r, d, u32::MAX, wanted);
            d += N * LANES;
        }
        while d < b.dim {
            let left = (b.dim - d).min(2 * LANES);
            pv_tile::<R, 2>(b, r, d, (u64::MAX >> (64 - left)) as u32, wanted);
            d += 2 * LANES;
        }
    }
}

/// Words of neighbouring tokens: the elements of two vectors, quarter by quarter.
const FIRST_HALVES: [i32; LANES] = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
const FIRST_BACK: [i32; LANES] = [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23];

/// `R` rows by `N` vectors from element `d` on, of which those in the mask exist, kept in registers over all tokens.
///
/// # Safety
/// As for [`pv_rows`]; the elements of the mask are below dim, in each 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pv_tile<const R: usize, const N: usize>(
    b: &mut WeighPairs<'_, bf16>,
    r: usize,
    d: usize,
    mask: u32,
    wanted: &mut Wanted<'_>,
) {
    let halves = [mask as __mmask16, (mask >> LANES) as __mmask16];
    // SAFETY: an array of 64 bytes.
    let (order, back) =
        unsafe { (_mm512_loadu_si512(FIRST_HALVES.as_ptr().cast()), _mm512_loadu_si512(FIRST_BACK.as_ptr().cast())) };
    let (order2, back2) = (_mm512_add_epi32(order, _mm512_set1_epi32(4)), _mm512_add_epi32(back, _mm512_set1_epi32(8)));
    let out = b.acc.as_mut_ptr().wrapping_add(r * b.dim + d);
    let mut acc = [[_mm512_setzero_ps(); N]; R];
    for (i, acc) in acc.iter_mut().enumerate() {
        let alpha = _mm512_set1_ps(b.alpha[r + i]);
        for n in (0..N).step_by(2) {
            // SAFETY: the elements of the mask are in the row.
            let two = unsafe {
                let at = out.add(i * b.dim + n * LANES);
                [_mm512_maskz_loadu_ps(halves[0], at), _mm512_maskz_loadu_ps(halves[1], at.wrapping_add(LANES))]
            };
            let two = two.map(|v| _mm512_mul_ps(v, alpha));
            acc[n] = _mm512_permutex2var_ps(two[0], order, two[1]);
            acc[n + 1] = _mm512_permutex2var_ps(two[0], order2, two[1]);
        }
    }
    let p = b.p.as_ptr().wrapping_add(r * KEYS);
    let mut add = |i: usize, first: bool, second: bool| {
        let mut values = [_mm512_setzero_si512(); N];
        for n in (0..N).step_by(2) {
            let load = |j: usize, wanted: bool| {
                if !wanted {
                    return _mm512_setzero_si512();
                }
                // SAFETY: the caller vouches for the values that count, j among them.
                unsafe { _mm512_maskz_loadu_epi16(mask, b.values.get_unchecked(j).add(d + n * LANES).cast()) }
            };
            let two = [load(2 * i, first), load(2 * i + 1, second)];
            values[n] = _mm512_unpacklo_epi16(two[0], two[1]);
            values[n + 1] = _mm512_unpackhi_epi16(two[0], two[1]);
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the rows of weights were checked, and i is below half of KEYS.
            unsafe {
                let x = as_bf16(_mm512_set1_epi32(*p.add(row * KEYS + i) as i32));
                for (acc, values) in acc.iter_mut().zip(&values) {
                    *acc = _mm512_dpbf16_ps(*acc, x, as_bf16(*values));
                }
            }
        }
    };
    let (whole, end) = (b.first.div_ceil(2), b.end / 2);
    if b.first % 2 == 1 && b.first < b.end {
        add(b.first / 2, false, true);
    }
    for i in whole..end {
        wanted.step();
        add(i, true, true);
    }
    if b.end % 2 == 1 && b.end > b.first && whole <= end {
        add(end, true, false);
    }
    for (i, acc) in acc.iter().enumerate() {
        for n in (0..N).step_by(2) {
            // SAFETY: as where it was loaded.
            unsafe {
                let at = out.add(i * b.dim + n * LANES);
                _mm512_mask_storeu_ps(at, halves[0], _mm512_permutex2var_ps(acc[n], back, acc[n + 1]));
                let second = _mm512_permutex2var_ps(acc[n], back2, acc[n + 1]);
                _mm512_mask_storeu_ps(at.wrapping_add(LANES), halves[1], second);
            }
        }
    }
}
