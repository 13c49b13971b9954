//! fp8 caches with AVX-512 VBMI: both bytes of the bf16 that a code stands for are looked up, 64 codes at a time.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::attention::turn_quarters;
use super::dot::as_bf16;
use super::pairs::turn_rows;
use crate::attention::{E4m3, E5m2, KEY_BLOCK, KEYS, PackKeys, PackPairs, PvPairs, Wanted, WeighPairs, WeighValues};
use crate::isa::Features;
use crate::table::{Entry, Kernels};

/// Lanes of f32.
const LANES: usize = 16;

/// Elements that are taken together.
const WIDTH: usize = 64;

/// Packing of keys as pairs of bf16, and weighted sums of values.
pub(super) type Pairs<T> = (Entry<PackPairs<T>>, Entry<PvPairs<T>>);

/// The kernels on pairs of bf16, for the processors that have the instructions.
pub(super) fn pairs() -> (Pairs<E4m3>, Pairs<E5m2>) {
    (
        (
            Entry { name: "pack_key_pairs_e4m3.avx512", run: pack_key_pairs::<E4m3> },
            Entry { name: "pv_pairs_e4m3_8x32.avx512", run: pv_pairs::<E4m3> },
        ),
        (
            Entry { name: "pack_key_pairs_e5m2.avx512", run: pack_key_pairs::<E5m2> },
            Entry { name: "pv_pairs_e5m2_8x32.avx512", run: pv_pairs::<E5m2> },
        ),
    )
}

/// Puts the kernels of this file into the table where the processor has the instructions.
pub(super) fn refine(table: &mut Kernels, features: &Features) {
    if !features.avx512_vbmi {
        return;
    }
    table.pack_keys_e4m3 = Entry { name: "pack_keys_e4m3.avx512", run: pack_keys::<E4m3> };
    table.pack_keys_e5m2 = Entry { name: "pack_keys_e5m2.avx512", run: pack_keys::<E5m2> };
    table.pv_e4m3 = Entry { name: "pv_e4m3.avx512", run: pv::<E4m3> };
    table.pv_e5m2 = Entry { name: "pv_e5m2.avx512", run: pv::<E5m2> };
}

/// The bytes of the bf16 of each magnitude: the lower, and the upper without a sign.
type Table = [[u8; 128]; 2];

/// The bytes of an fp8 of so many bits of mantissa, whose codes from `nan` on are NaN.
const fn table(mantissa: u32, bias: u32, infinity: u32, nan: u32) -> Table {
    let mut bytes = [[0; 128]; 2];
    let mut code = 1;
    while code < 128 {
        let (e, f) = (code >> mantissa, code & ((1 << mantissa) - 1));
        let bits = if code >= nan {
            0x7fc0
        } else if code == infinity {
            0x7f80
        } else if e == 0 {
            // The leading bit of a subnormal number becomes the hidden one.
            let lead = 31 - f.leading_zeros();
            (lead + 1 + 127 - bias - mantissa) << 7 | (f << (7 - lead)) & 0x7f
        } else {
            (e + 127 - bias) << 7 | f << (7 - mantissa)
        };
        bytes[0][code as usize] = bits as u8;
        bytes[1][code as usize] = (bits >> 8) as u8;
        code += 1;
    }
    bytes
}

/// An fp8 format.
trait Fp8: Copy {
    const TABLE: &'static Table;
}

impl Fp8 for E4m3 {
    const TABLE: &'static Table = &table(3, 7, 0x7f, 0x7f);
}

impl Fp8 for E5m2 {
    const TABLE: &'static Table = &table(2, 15, 0x7c, 0x7d);
}

/// A table in registers.
#[derive(Clone, Copy)]
struct Bytes {
    low: [__m512i; 2],
    high: [__m512i; 2],
}

#[inline]
#[target_feature(enable = "avx512f")]
fn bytes<T: Fp8>() -> Bytes {
    // SAFETY: both halves of 128 bytes.
    let halves = |bytes: &[u8; 128]| unsafe {
        [_mm512_loadu_si512(bytes.as_ptr().cast()), _mm512_loadu_si512(bytes.as_ptr().add(64).cast())]
    };
    Bytes { low: halves(&T::TABLE[0]), high: halves(&T::TABLE[1]) }
}

/// The lower and the upper bytes of the bf16 of 64 codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn look_up(t: &Bytes, codes: __m512i) -> [__m512i; 2] {
    let low = _mm512_permutex2var_epi8(t.low[0], codes, t.low[1]);
    let high = _mm512_permutex2var_epi8(t.high[0], codes, t.high[1]);
    // 0xf8 is `first | second & third`.
    [low, _mm512_ternarylogic_epi32::<0xf8>(high, codes, _mm512_set1_epi8(-128))]
}

/// The first two and the last two elements of each word of four codes, as pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn pairs_of_words(t: &Bytes, words: __m512i) -> [__m512i; 2] {
    let order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
    let [low, high] = look_up(t, _mm512_shuffle_epi8(words, order));
    let lower = _mm512_set1_epi16(0xff);
    // 0xca is `first ? second : third`.
    [
        _mm512_ternarylogic_epi32::<0xca>(lower, low, _mm512_slli_epi16(high, 8)),
        _mm512_ternarylogic_epi32::<0xca>(lower, _mm512_srli_epi16(low, 8), high),
    ]
}

/// The first and the second bf16 of each word, widened.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen(words: __m512i) -> [__m512; 2] {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    [_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), _mm512_castsi512_ps(_mm512_and_si512(words, upper))]
}

/// See [`Pack`](crate::table::Pack).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and VBMI; each of the keys holds `dim` elements.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
unsafe fn pack_keys<T: Fp8>(out: &mut [f32], block: &PackKeys<'_, T>) {
    let (keys, dim) = (&block.keys[..KEY_BLOCK], block.dim);
    let out = &mut out[..dim * KEY_BLOCK];
    // SAFETY: both are 32 bits, aligned alike; any bits are a value of either.
    let words = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u32>(), out.len()) };
    // SAFETY: a key holds as many bytes.
    unsafe { turn_rows::<false>(words, |i| keys[i].cast(), dim, block.ahead) };
    let (t, out) = (bytes::<T>(), out.as_mut_ptr());
    // From the last word to the first: what is written lies behind what is still to be read.
    for w in (0..dim.div_ceil(4)).rev() {
        for at in [0, LANES] {
            // SAFETY: word w of every key was written, and elements below dim have room.
            unsafe {
                let words = _mm512_loadu_si512(out.add(w * KEY_BLOCK + at).cast());
                let [a, b] = pairs_of_words(&t, words).map(|words| widen(words));
                for (e, v) in [a[0], a[1], b[0], b[1]].into_iter().enumerate() {
                    if 4 * w + e < dim {
                        _mm512_storeu_ps(out.add((4 * w + e) * KEY_BLOCK + at), v);
                    }
                }
            }
        }
    }
}

/// See [`PackPairs`](crate::attention::PackPairs).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and VBMI; each of the keys holds `dim` elements.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
unsafe fn pack_key_pairs<T: Fp8>(out: &mut [u32], block: &PackKeys<'_, T>) {
    let (keys, pairs) = (&block.keys[..KEY_BLOCK], block.dim.div_ceil(2));
    let out = &mut out[..pairs * KEY_BLOCK];
    // SAFETY: a key holds as many bytes.
    unsafe { turn_rows::<false>(out, |i| keys[i].cast(), block.dim, block.ahead) };
    let (t, out) = (bytes::<T>(), out.as_mut_ptr());
    for w in (0..pairs.div_ceil(2)).rev() {
        for at in [0, LANES] {
            // SAFETY: as in pack_keys, with two words for one.
            unsafe {
                let [a, b] = pairs_of_words(&t, _mm512_loadu_si512(out.add(w * KEY_BLOCK + at).cast()));
                if 2 * w + 1 < pairs {
                    _mm512_storeu_si512(out.add((2 * w + 1) * KEY_BLOCK + at).cast(), b);
                }
                _mm512_storeu_si512(out.add(2 * w * KEY_BLOCK + at).cast(), a);
            }
        }
    }
}

/// The elements of a strip that exist.
#[inline(always)]
fn exist(dim: usize, d: usize) -> __mmask64 {
    u64::MAX >> (WIDTH - (dim - d).min(WIDTH))
}

/// A strip of a row, four vectors in order.
///
/// # Safety
/// The elements of the mask are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn load_strip(p: *const f32, mask: __mmask64) -> [__m512; 4] {
    let mut v = [_mm512_setzero_ps(); 4];
    for (n, v) in v.iter_mut().enumerate() {
        // SAFETY: as the caller vouches.
        *v = unsafe { _mm512_maskz_loadu_ps((mask >> (n * LANES)) as __mmask16, p.wrapping_add(n * LANES)) };
    }
    v
}

/// Writes what [`load_strip`] reads.
///
/// # Safety
/// The elements of the mask are writable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn store_strip(p: *mut f32, mask: __mmask64, v: [__m512; 4]) {
    for (n, v) in v.into_iter().enumerate() {
        // SAFETY: as the caller vouches.
        unsafe { _mm512_mask_storeu_ps(p.wrapping_add(n * LANES), (mask >> (n * LANES)) as __mmask16, v) };
    }
}

/// See [`Pv`](crate::table::Pv).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and VBMI; each of the values `first..end` holds `dim` elements.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
unsafe fn pv<T: Fp8>(b: &mut WeighValues<'_, T>) {
    /// Rows of a tile, at most.
    const ROWS: usize = 4;
    let (rows, dim) = (b.alpha.len(), b.dim);
    assert!(b.acc.len() >= rows * dim && b.p.len() >= rows * KEYS, "{rows} rows of {dim} elements");
    assert!(b.first <= b.end && b.end <= KEYS && b.values.len() >= KEYS, "tokens of a chunk");
    let tiles = rows.div_ceil(ROWS);
    let mut wanted = Wanted::new(b.ahead, dim.div_ceil(WIDTH) * (b.end - b.first));
    let mut nothing = Wanted::none();
    for d in (0..dim).step_by(WIDTH) {
        let mut r = 0;
        for tile in 0..tiles {
            let next = rows * (tile + 1) / tiles;
            let wanted = if tile == 0 { &mut wanted } else { &mut nothing };
            // SAFETY: the lengths were checked; the caller vouches for the values.
            unsafe {
                match next - r {
                    1 => pv_tile::<T, 1>(b, r, d, wanted),
                    2 => pv_tile::<T, 2>(b, r, d, wanted),
                    3 => pv_tile::<T, 3>(b, r, d, wanted),
                    _ => pv_tile::<T, 4>(b, r, d, wanted),
                }
            }
            r = next;
        }
    }
}

/// `R` rows by a strip from element `d` on.
///
/// # Safety
/// As for [`pv`], whose checks were made; the rows exist, and `d` is below dim.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
unsafe fn pv_tile<T: Fp8, const R: usize>(b: &mut WeighValues<'_, T>, r: usize, d: usize, wanted: &mut Wanted<'_>) {
    let (t, mask) = (bytes::<T>(), exist(b.dim, d));
    let out = b.acc.as_mut_ptr().wrapping_add(r * b.dim + d);
    let mut acc = [[_mm512_setzero_ps(); 4]; R];
    for (i, acc) in acc.iter_mut().enumerate() {
        let alpha = _mm512_set1_ps(b.alpha[r + i]);
        // SAFETY: the elements of the mask are in the row.
        let q = turn_quarters(unsafe { load_strip(out.wrapping_add(i * b.dim), mask) });
        // Even and odd elements apart, as values are taken apart.
        let parted = [
            _mm512_shuffle_ps(q[0], q[1], 0x88),
            _mm512_shuffle_ps(q[0], q[1], 0xdd),
            _mm512_shuffle_ps(q[2], q[3], 0x88),
            _mm512_shuffle_ps(q[2], q[3], 0xdd),
        ];
        for (acc, v) in acc.iter_mut().zip(parted) {
            *acc = _mm512_mul_ps(alpha, v);
        }
    }
    let (p, values) = (b.p.as_ptr().wrapping_add(r * KEYS), b.values.as_ptr());
    for j in b.first..b.end {
        wanted.step();
        // SAFETY: the caller vouches for the values that count, whose elements the mask admits; the rows of weights were checked.
        unsafe {
            let codes = _mm512_maskz_loadu_epi8(mask, (*values.add(j)).cast::<i8>().add(d));
            let [low, high] = look_up(&t, codes);
            let (a, c) = (widen(_mm512_unpacklo_epi8(low, high)), widen(_mm512_unpackhi_epi8(low, high)));
            let values = [a[0], a[1], c[0], c[1]];
            for (i, acc) in acc.iter_mut().enumerate() {
                let p = _mm512_set1_ps(*p.add(i * KEYS + j));
                for (acc, value) in acc.iter_mut().zip(&values) {
                    *acc = _mm512_fmadd_ps(p, *value, *acc);
                }
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        let q = [
            _mm512_unpacklo_ps(acc[0], acc[1]),
            _mm512_unpackhi_ps(acc[0], acc[1]),
            _mm512_unpacklo_ps(acc[2], acc[3]),
            _mm512_unpackhi_ps(acc[2], acc[3]),
        ];
        // SAFETY: as where it was loaded.
        unsafe { store_strip(out.wrapping_add(i * b.dim), mask, turn_quarters(q)) };
    }
}

/// The words of a strip: of every two tokens four vectors, in the order of [`two_tokens`].
type Strip = [MaybeUninit<[__m512i; 4]>; KEYS / 2];

/// See [`PvPairs`](crate::attention::PvPairs).
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL, BF16 and VBMI; each of the values `first..end` holds `dim` elements.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi")]
unsafe fn pv_pairs<T: Fp8>(b: &mut WeighPairs<'_, T>) {
    /// Rows of a tile, at most.
    const ROWS: usize = 8;
    let (rows, dim) = (b.alpha.len(), b.dim);
    assert!(b.acc.len() >= rows * dim && b.p.len() >= rows * KEYS, "{rows} rows of {dim} elements");
    assert!(b.first <= b.end && b.end <= KEYS && b.values.len() >= KEYS, "tokens of a chunk");
    let mut strip: Strip = [MaybeUninit::uninit(); KEYS / 2];
    let mut wanted = Wanted::new(b.ahead, dim.div_ceil(WIDTH) * (b.end - b.first).div_ceil(2));
    for d in (0..dim).step_by(WIDTH) {
        // SAFETY: the lengths were checked, the strip starts before dim; the caller vouches for the values.
        unsafe {
            let t = bytes::<T>();
            let (first, end) = pairs_that_count(b);
            for (i, words) in (first..end).zip(&mut strip) {
                wanted.step();
                words.write(two_tokens(&t, b, i, d));
            }
            let (tiles, mut r) = (rows.div_ceil(ROWS), 0);
            for tile in 0..tiles {
                let next = rows * (tile + 1) / tiles;
                match next - r {
                    1 => pairs_tile::<T, 1, 4>(b, &strip, r, d),
                    2 => pairs_tile::<T, 2, 4>(b, &strip, r, d),
                    3 => pairs_tile::<T, 3, 4>(b, &strip, r, d),
                    4 => pairs_tile::<T, 4, 4>(b, &strip, r, d),
                    5 => pairs_tile::<T, 5, 2>(b, &strip, r, d),
                    6 => pairs_tile::<T, 6, 2>(b, &strip, r, d),
                    7 => pairs_tile::<T, 7, 2>(b, &strip, r, d),
                    _ => pairs_tile::<T, 8, 2>(b, &strip, r, d),
                }
                r = next;
            }
        }
    }
}

/// The pairs of tokens of which one counts.
#[inline(always)]
fn pairs_that_count<T>(b: &WeighPairs<'_, T>) -> (usize, usize) {
    (b.first / 2, if b.first < b.end { b.end.div_ceil(2) } else { b.first / 2 })
}

/// Pairs of the values of tokens `2i` and `2i + 1`, those that count: in quarter L of vector m, elements `16L + 4m` to
/// `16L + 4m + 3` of the strip.
///
/// # Safety
/// As for [`pv_pairs`], whose checks were made; one of the tokens counts.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi")]
unsafe fn two_tokens<T: Fp8>(t: &Bytes, b: &WeighPairs<'_, T>, i: usize, d: usize) -> [__m512i; 4] {
    let mask = exist(b.dim, d);
    let row = |j: usize| {
        let mask = if (b.first..b.end).contains(&j) { mask } else { 0 };
        // SAFETY: the caller vouches for the values that count, whose elements the mask admits.
        unsafe { _mm512_maskz_loadu_epi8(mask, (*b.values.get_unchecked(j)).cast::<i8>().wrapping_add(d)) }
    };
    let rows = [row(2 * i), row(2 * i + 1)];
    let [low, high] = look_up(t, _mm512_unpacklo_epi8(rows[0], rows[1]));
    let [low2, high2] = look_up(t, _mm512_unpackhi_epi8(rows[0], rows[1]));
    [
        _mm512_unpacklo_epi8(low, high),
        _mm512_unpackhi_epi8(low, high),
        _mm512_unpacklo_epi8(low2, high2),
        _mm512_unpackhi_epi8(low2, high2),
    ]
}

/// `R` rows by a strip of words, `N` of its four vectors at a time.
///
/// # Safety
/// As for [`pv_pairs`], whose checks were made; the rows exist, `d` is below dim, and the strip begins with the words of the tokens
/// that count.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi")]
unsafe fn pairs_tile<T: Fp8, const R: usize, const N: usize>(
    b: &mut WeighPairs<'_, T>,
    strip: &Strip,
    r: usize,
    d: usize,
) {
    let mask = exist(b.dim, d);
    let out = b.acc.as_mut_ptr().wrapping_add(r * b.dim + d);
    let mut all = [[_mm512_setzero_ps(); 4]; R];
    for (i, all) in all.iter_mut().enumerate() {
        let alpha = _mm512_set1_ps(b.alpha[r + i]);
        // SAFETY: the elements of the mask are in the row.
        let q = turn_quarters(unsafe { load_strip(out.wrapping_add(i * b.dim), mask) });
        for (all, v) in all.iter_mut().zip(q) {
            *all = _mm512_mul_ps(v, alpha);
        }
    }
    let (first, end) = pairs_that_count(b);
    let p = b.p.as_ptr().wrapping_add(r * KEYS + first);
    for part in 0..4 / N {
        let strip = strip.as_ptr().cast::<[__m512i; N]>().wrapping_add(part);
        let mut acc = [[_mm512_setzero_ps(); N]; R];
        for i in 0..R {
            for n in 0..N {
                acc[i][n] = all[i][part * N + n];
            }
        }
        for w in 0..end - first {
            // SAFETY: as many words of the strip were written; the rows of weights were checked.
            unsafe {
                let values = *strip.add(4 / N * w);
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = as_bf16(_mm512_set1_epi32(*p.add(i * KEYS + w) as i32));
                    for (acc, values) in acc.iter_mut().zip(&values) {
                        *acc = _mm512_dpbf16_ps(*acc, x, as_bf16(*values));
                    }
                }
            }
        }
        for i in 0..R {
            for n in 0..N {
                all[i][part * N + n] = acc[i][n];
            }
        }
    }
    for (i, all) in all.into_iter().enumerate() {
        // SAFETY: as where it was loaded.
        unsafe { store_strip(out.wrapping_add(i * b.dim), mask, turn_quarters(all)) };
    }
}
