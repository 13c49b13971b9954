//! Products of digits with codes on tiles: signed digits, high and low ones apart, by unsigned bytes. Integers of 8 bits are one
//! digit.
//!
//! Codes are unpacked with AVX-512 into a tile of weights, for all rows at once. For each scale, four tiles hold the sums
//! of the high and of the low digits of 32 rows. They are stored, and scaled with AVX-512 while the next are multiplied.
//! Few rows are not worth a tile: they take the kernels of AVX-512, and the same sums.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::avx512::{Avx512, BYTES, DIGITS};
use crate::layout::NR;
use crate::quant::{
    CHUNK, Code, Eight, Five, Four, IntegerRows, Lookup, MIN, NONE, QuantBlock, QuantDot, QuantKernel, Six, Three, Two,
    ZERO,
};
use crate::simd::{Simd, prefetch};

use super::tiles::{Shapes, release};

/// The most rows that are multiplied together.
const MOST: usize = 64;

/// The numbers of rows that are: up to [`FEW`] as on AVX-512, then whole tiles.
const HEIGHTS: &[usize] = &[1, 2, 3, 4, 6, 8, 16, 32, MOST];

/// The most rows that AVX-512 multiplies.
const FEW: usize = 8;

/// Sums of 32 rows: the high digits of the first 16, their low ones, then those of the other 16; of one digit those of the first
/// 16 and those of the others.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Sums([[[i32; NR]; 16]; 4]);

/// Bytes of a tile of weights: of a scale's inputs four to a row, for each of 16 outputs.
#[repr(C, align(64))]
struct Bytes([[u8; 4 * NR]; CHUNK / 4]);

/// What a product keeps in the first-level cache.
struct Room {
    bytes: [Bytes; 2],
    sums: [Sums; 2],
    totals: [[f32; NR]; MOST],
}

/// The kernels of this tier: those of AVX-512, with tiles where there are rows for them.
macro_rules! kernels {
    ($few:ident, $digits:literal, $($at:literal $name:ident $code:ident $(<$table:literal>)? $mode:ident,)+) => {
        $(
            fn $name(y: &mut [f32], stride: usize, rows: &IntegerRows<'_>, blocks: &[QuantBlock<'_>]) {
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
                unsafe fn tiled(y: &mut [f32], stride: usize, rows: &IntegerRows<'_>, block: &QuantBlock<'_>) {
                    // SAFETY: the table is only handed out on machines that have the tier.
                    unsafe { dot::<$code $(<$table>)?, { $mode }, $digits>(y, stride, rows, block) };
                }
                match $few[$at].dot {
                    QuantDot::Integers(few) if rows.rows <= FEW => few(y, stride, rows, blocks),
                    _ => {
                        for (i, block) in blocks.iter().enumerate() {
                            // SAFETY: as above.
                            unsafe { tiled(&mut y[i * NR..], stride, rows, block) };
                        }
                    }
                }
            }
        )+

        /// One for every row of the list of AVX-512, in its order.
        pub(in crate::amx) const KERNELS: &[QuantKernel] = &[
            $(QuantKernel {
                name: concat!("gemv_", stringify!($name), ".amx"),
                heights: HEIGHTS,
                dot: QuantDot::Integers($name),
                decode: $few[$at].decode,
            },)+
            $few[FLOATS],
            $few[FLOATS + 1],
        ];
    };
}

/// Where the kernels of floats begin.
const FLOATS: usize = 12;

/// A module with the kernels for so many digits; few rows take those of a list of AVX-512.
macro_rules! list {
    ($module:ident, $few:ident, $digits:literal) => {
        mod $module {
            use super::*;

            kernels! {
                $few, $digits,
                0 q4 Four<false> NONE,
                1 q4_min Four<false> MIN,
                2 q4_zero Four<false> ZERO,
                3 t4 Four<true> NONE,
                4 t4_zero Four<true> ZERO,
                5 q5 Five NONE,
                6 q5_min Five MIN,
                7 q6 Six NONE,
                8 q2_min Two MIN,
                9 q3 Three NONE,
                10 q8 Eight NONE,
                11 q8_zero Eight ZERO,
            }
        }
    };
}

list!(two, DIGITS, 2);
list!(one, BYTES, 1);

pub(super) use one::KERNELS as BYTE_KERNELS;
pub(super) use two::KERNELS;

/// See [`QuantDot::Integers`]: 16, 32 or 64 rows.
///
/// # Safety
/// The processor has the tier.
#[inline(always)]
unsafe fn dot<C: Code, const MODE: u8, const DIGITS: usize>(
    y: &mut [f32],
    stride: usize,
    rows: &IntegerRows<'_>,
    block: &QuantBlock<'_>,
) {
    let per_chunk = if C::HALVES { 2 } else { 1 };
    let (count, cells) = (rows.rows, block.chunks * rows.rows);
    assert!(count == 16 || count.is_multiple_of(32) && count <= MOST, "{count} rows are not multiplied together");
    block.check(C::BYTES, per_chunk, MODE);
    assert!(y.len() >= (count - 1) * stride + NR, "results are too short");
    assert!(rows.digits.len() >= 64 * cells && rows.scales.len() >= cells, "digits are too short");
    assert!(rows.starts.len() >= per_chunk * cells, "starts are too short");
    assert!(MODE == NONE || rows.sums.len() >= per_chunk * cells, "sums are too short");
    if block.chunks == 0 {
        return;
    }
    let mut room = Room {
        bytes: [const { Bytes([[0; 4 * NR]; CHUNK / 4]) }; 2],
        sums: [Sums([[[0; NR]; 16]; 4]); 2],
        totals: [[0.0; NR]; MOST],
    };
    for (total, y) in room.totals.iter_mut().zip(y.chunks(stride.max(NR))).take(count) {
        total.copy_from_slice(&y[..NR]);
    }
    let height = count.min(32);
    // SAFETY: the slices were held to the counts, and the caller vouches for the tier.
    unsafe {
        Shapes::of_digits(CHUNK / per_chunk).set();
        let groups = count / height;
        let all = block.chunks * per_chunk * groups;
        for at in 0..all {
            let (scale, group) = (at / groups, at % groups);
            let bytes = &mut room.bytes[scale % 2];
            if group == 0 {
                unpack::<C>(bytes, block, scale);
            }
            let digits = rows.digits.as_ptr().add((scale / per_chunk * count + group * 32) * 64);
            let digits = digits.add(scale % per_chunk * (CHUNK / 2));
            multiply::<DIGITS>(&mut room.sums[at % 2], digits, bytes, height);
            if at > 0 {
                add_scaled::<MODE, DIGITS>(&mut room.totals, &room.sums[(at - 1) % 2], rows, block, per_chunk, at - 1);
            }
        }
        release();
        add_scaled::<MODE, DIGITS>(&mut room.totals, &room.sums[(all - 1) % 2], rows, block, per_chunk, all - 1);
    }
    for (total, y) in room.totals.iter().zip(y.chunks_mut(stride.max(NR))).take(count) {
        y[..NR].copy_from_slice(total);
    }
}

/// Unpacks the codes that share scale `scale` of the block.
///
/// # Safety
/// The processor has AVX-512, and the block has the scale.
#[inline(always)]
unsafe fn unpack<C: Code>(bytes: &mut Bytes, block: &QuantBlock<'_>, scale: usize) {
    // SAFETY: as the caller vouches; a chunk has eight vectors, half a chunk four.
    unsafe {
        let s = Avx512::new();
        let table = s.table(block.format.table());
        let (chunk, halves) = if C::HALVES { (scale / 2, scale % 2..scale % 2 + 1) } else { (scale, 0..2) };
        let codes = block.codes.as_ptr().add(chunk * C::BYTES);
        let first = 4 * halves.start;
        if first == 0 {
            prefetch(block.codes.as_ptr().wrapping_add(block.ahead.0 + chunk * block.ahead.1), C::BYTES + 64);
        }
        for half in halves {
            C::half::<_, 1>(
                s,
                table,
                codes,
                half == 1,
                #[inline(always)]
                |v, [words]| _mm512_store_si512(bytes.0[v - first].as_mut_ptr().cast(), words),
            );
        }
    }
}

/// The sums of products of a scale's inputs: up to 16 rows of digits, or 32.
///
/// # Safety
/// The processor has tiles, shaped by [`Shapes::of_digits`] for the scale's inputs. Rows of 64 bytes are
/// readable at `digits`.
#[inline(always)]
unsafe fn multiply<const DIGITS: usize>(sums: &mut Sums, digits: *const u8, bytes: &Bytes, height: usize) {
    // SAFETY: as the caller vouches; all that is written is named.
    unsafe {
        if DIGITS == 1 && height > 16 {
            asm!(
                "tileloadd tmm7, [{bytes} + {row}*1]",
                "tileloadd tmm4, [{digits} + {row}*1]",
                "tilezero tmm0",
                "tdpbsud tmm0, tmm4, tmm7",
                "tileloadd tmm5, [{digits} + {row}*1 + 1024]",
                "tilezero tmm1",
                "tdpbsud tmm1, tmm5, tmm7",
                "tilestored [{sums} + {row}*1], tmm0",
                "tilestored [{sums} + {row}*1 + 1024], tmm1",
                bytes = in(reg) bytes,
                digits = in(reg) digits,
                sums = in(reg) sums,
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        } else if DIGITS == 1 {
            asm!(
                "tileloadd tmm7, [{bytes} + {row}*1]",
                "tileloadd tmm4, [{digits} + {row}*1]",
                "tilezero tmm0",
                "tdpbsud tmm0, tmm4, tmm7",
                "tilestored [{sums} + {row}*1], tmm0",
                bytes = in(reg) bytes,
                digits = in(reg) digits,
                sums = in(reg) sums,
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm4") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        } else if height > 16 {
            asm!(
                "tileloadd tmm7, [{bytes} + {row}*1]",
                "tileloadd tmm4, [{digits} + {row}*1]",
                "tilezero tmm0",
                "tdpbsud tmm0, tmm4, tmm7",
                "tileloadd tmm5, [{digits} + {row}*1 + 32]",
                "tilezero tmm1",
                "tdpbsud tmm1, tmm5, tmm7",
                "tileloadd tmm6, [{digits} + {row}*1 + 1024]",
                "tilezero tmm2",
                "tdpbsud tmm2, tmm6, tmm7",
                "tileloadd tmm4, [{digits} + {row}*1 + 1056]",
                "tilezero tmm3",
                "tdpbsud tmm3, tmm4, tmm7",
                "tilestored [{sums} + {row}*1], tmm0",
                "tilestored [{sums} + {row}*1 + 1024], tmm1",
                "tilestored [{sums} + {row}*1 + 2048], tmm2",
                "tilestored [{sums} + {row}*1 + 3072], tmm3",
                bytes = in(reg) bytes,
                digits = in(reg) digits,
                sums = in(reg) sums,
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        } else {
            asm!(
                "tileloadd tmm7, [{bytes} + {row}*1]",
                "tileloadd tmm4, [{digits} + {row}*1]",
                "tilezero tmm0",
                "tdpbsud tmm0, tmm4, tmm7",
                "tileloadd tmm5, [{digits} + {row}*1 + 32]",
                "tilezero tmm1",
                "tdpbsud tmm1, tmm5, tmm7",
                "tilestored [{sums} + {row}*1], tmm0",
                "tilestored [{sums} + {row}*1 + 1024], tmm1",
                bytes = in(reg) bytes,
                digits = in(reg) digits,
                sums = in(reg) sums,
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Adds scaled sums, and their minima, to the totals: item `at` of scales times groups of 32 rows.
///
/// # Safety
/// The processor has AVX-512; the slices hold what [`dot`] checks, item `at` among them.
#[inline(always)]
unsafe fn add_scaled<const MODE: u8, const DIGITS: usize>(
    totals: &mut [[f32; NR]; MOST],
    sums: &Sums,
    rows: &IntegerRows<'_>,
    block: &QuantBlock<'_>,
    per_chunk: usize,
    at: usize,
) {
    let height = rows.rows.min(32);
    let groups = rows.rows / height;
    let (scale, first) = (at / groups, at % groups * 32);
    // SAFETY: as the caller vouches.
    unsafe {
        let factor = _mm512_loadu_ps(block.scales.as_ptr().add(scale * NR));
        let offset = if MODE == NONE { factor } else { _mm512_loadu_ps(block.offsets.as_ptr().add(scale * NR)) };
        let beside = scale * rows.rows + first;
        let starts = rows.starts.as_ptr().add(beside);
        let inputs = rows.sums.as_ptr().wrapping_add(beside);
        let steps = rows.scales.as_ptr().add(scale / per_chunk * rows.rows + first);
        for r in 0..height {
            let of = |digit: usize| {
                let tile = sums.0.as_ptr().add(r / 16 * DIGITS + digit);
                _mm512_load_si512(tile.cast::<[i32; NR]>().add(r % 16).cast())
            };
            let mut sum = _mm512_add_epi32(of(DIGITS - 1), _mm512_set1_epi32(*starts.add(r)));
            if DIGITS == 2 {
                sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(of(0)), sum);
            }
            let mut sum = _mm512_cvtepi32_ps(sum);
            if MODE == ZERO {
                sum = _mm512_fmadd_ps(offset, _mm512_set1_ps(*inputs.add(r)), sum);
            }
            sum = _mm512_mul_ps(sum, _mm512_set1_ps(*steps.add(r)));
            let to = totals.as_mut_ptr().add(first + r).cast::<f32>();
            let mut total = _mm512_fmadd_ps(factor, sum, _mm512_loadu_ps(to));
            if MODE == MIN {
                total = _mm512_fmadd_ps(offset, _mm512_set1_ps(*inputs.add(r)), total);
            }
            _mm512_storeu_ps(to, total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_those_of_avx512_in_their_order() {
        assert_eq!([KERNELS.len(), BYTE_KERNELS.len()], [DIGITS.len(), BYTES.len()]);
        for (own, few) in KERNELS.iter().zip(DIGITS).chain(BYTE_KERNELS.iter().zip(BYTES)) {
            assert_eq!(own.name.split_once('.').unwrap().0, few.name.split_once('.').unwrap().0);
            assert_eq!(few.most().min(FEW), FEW);
        }
    }
}
