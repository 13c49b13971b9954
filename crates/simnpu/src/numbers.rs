//! Numbers as the chip holds them: bytes to f32, sums in 16 bits, subnormals.

use qiao_core::DType;

use crate::limits::Accumulate;

/// f16 bits as f32, exactly.
#[inline(always)]
fn half_to_f32(bits: u16) -> f32 {
    let (sign, magnitude) = ((bits as u32 & 0x8000) << 16, (bits as u32 & 0x7fff) << 13);
    // The exponent is moved to that of f32 by a product, which makes subnormals right, too.
    let value = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    // Where the exponent is all ones it stays so.
    let special = if magnitude as i32 >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(value | special | sign)
}

/// The value of each element of f32, f16 or bf16, side by side, as f32.
///
/// # Panics
/// Another dtype.
pub(crate) fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(o, b)| *o = f32::from_le_bytes(*b)),
        DType::BF16 => out
            .iter_mut()
            .zip(bytes.as_chunks::<2>().0)
            .for_each(|(o, b)| *o = f32::from_bits((u16::from_le_bytes(*b) as u32) << 16)),
        DType::F16 => {
            out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(o, b)| *o = half_to_f32(u16::from_le_bytes(*b)))
        }
        other => unreachable!("{other} is no activation dtype"),
    }
}

/// x rounded to f16, half to even, as f32.
fn to_half(x: f32) -> f32 {
    let magnitude = x.abs();
    let rounded = if magnitude < f32::from_bits(0x3880_0000) {
        // Below 2^−14 the numbers of f16 are the multiples of 2^−24, as those of f32 are around 0.75.
        (magnitude + 0.75) - 0.75
    } else {
        let even = (magnitude.to_bits() >> 13) & 1;
        f32::from_bits((magnitude.to_bits() + 0xfff + even) & !0x1fff)
    };
    let rounded = if rounded >= 65520.0 { f32::INFINITY } else { rounded };
    if x.is_nan() { x } else { rounded.copysign(x) }
}

/// x rounded to bf16, half to even, as f32.
fn to_brain(x: f32) -> f32 {
    let even = (x.to_bits() >> 16) & 1;
    if x.is_nan() { x } else { f32::from_bits((x.to_bits() + 0x7fff + even) & 0xffff_0000) }
}

impl Accumulate {
    /// x as an accumulator holds it.
    pub(crate) fn round(self, x: f32) -> f32 {
        match self {
            Accumulate::F32 => x,
            Accumulate::F16 => to_half(x),
            Accumulate::BF16 => to_brain(x),
        }
    }
}

/// Products that are added before a narrow accumulator takes them; the lanes of a wide one.
pub(crate) const LANES: usize = 16;

/// Sixteen sums of products side by side. Apart from what is made of them, so that the compiler keeps them in vectors.
#[inline(never)]
fn side_by_side(a: &[[f32; LANES]], b: &[[f32; LANES]]) -> [f32; LANES] {
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    sums
}

/// `Σ a·b`. In f32 sixteen sums run side by side and are added in the end; a narrow accumulator takes sixteen products at
/// a time.
pub(crate) fn dot(accumulate: Accumulate, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    if accumulate == Accumulate::F32 {
        return folded(side_by_side(a, b)) + rest;
    }
    let mut sum = 0.0;
    for (a, b) in a.chunks(1).zip(b.chunks(1)) {
        sum = accumulate.round(sum + folded(side_by_side(a, b)));
    }
    accumulate.round(sum + rest)
}

fn folded(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

/// `Σ a·b` of integers, exact.
pub(crate) fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| a as i32 * b as i32).sum()
}

/// Makes zeros of numbers below the smallest normal f32; their signs stay.
pub(crate) fn flush(values: &mut [f32]) {
    for x in values.iter_mut().filter(|x| x.is_subnormal()) {
        *x = 0f32.copysign(*x);
    }
}

/// As [`flush`], for elements in bytes that stand side by side; whether there were any. Dtypes with no such numbers stay
/// as they are.
pub(crate) fn flush_bytes(dtype: DType, bytes: &mut [u8]) -> bool {
    let mut found = false;
    match dtype {
        DType::F32 => {
            for b in bytes.as_chunks_mut::<4>().0 {
                let x = f32::from_le_bytes(*b);
                if x.is_subnormal() {
                    (*b, found) = (0f32.copysign(x).to_le_bytes(), true);
                }
            }
        }
        DType::BF16 => {
            for b in bytes.as_chunks_mut::<2>().0 {
                let x = u16::from_le_bytes(*b);
                if x & 0x7f80 == 0 && x & 0x7f != 0 {
                    (*b, found) = ((x & 0x8000).to_le_bytes(), true);
                }
            }
        }
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiao_reference::round;

    #[test]
    fn every_half_widens_as_the_reference_decodes_it() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            let mut out = [0f32];
            for dtype in [DType::F16, DType::BF16] {
                widen(dtype, &bytes, &mut out);
                let want = round::decode(dtype, &bytes) as f32;
                assert!(out[0].to_bits() == want.to_bits() || out[0].is_nan() && want.is_nan(), "{dtype} {bits:#x}");
            }
        }
    }

    #[test]
    fn sums_round_as_the_reference_does() {
        let mut state = 1u32;
        for _ in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(state);
            for (accumulate, dtype) in [(Accumulate::F16, DType::F16), (Accumulate::BF16, DType::BF16)] {
                let (got, want) = (accumulate.round(x), round::round(dtype, x as f64) as f32);
                assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{dtype} {x}: {got} {want}");
            }
        }
        for x in [65519.99, 65520.0, -65520.0, 6e-8, 2.98e-8, 2.99e-8, 6.1e-5, 0.0, -0.0] {
            assert_eq!(to_half(x).to_bits(), (round::round(DType::F16, x as f64) as f32).to_bits(), "{x}");
        }
    }

    #[test]
    fn a_narrow_sum_loses_what_a_wide_one_keeps() {
        let ones = vec![1f32; 16 * 4096];
        assert_eq!(dot(Accumulate::F32, &ones, &ones), 65536.0);
        assert_eq!(dot(Accumulate::F16, &ones, &ones), 32768.0, "16 is half a step above 32768");
        assert_eq!(dot(Accumulate::BF16, &ones, &ones), 4096.0);
        assert_eq!(dot(Accumulate::F32, &ones[..19], &ones[..19]), 19.0);
    }

    #[test]
    fn only_subnormals_are_flushed() {
        let mut values = [1e-40, -1e-40, f32::MIN_POSITIVE, 0.0, f32::NAN];
        flush(&mut values);
        assert_eq!(values[..4], [0.0, -0.0, f32::MIN_POSITIVE, 0.0]);
        assert!(values[1].is_sign_negative() && values[4].is_nan());
        let mut bytes = [0x01, 0x80, 0x80, 0x00];
        assert!(flush_bytes(DType::BF16, &mut bytes));
        assert_eq!(bytes, [0x00, 0x80, 0x80, 0x00]);
        assert!(!flush_bytes(DType::F16, &mut [1, 0]));
    }
}
