//! Conversion of slices between f32 and the two half precisions, and from f32 to fp8; the bits are the same on every tier.

use half::{bf16, f16};

use crate::attention::{E4m3, E5m2};
use crate::layout::Weight;
use crate::simd::{MAX_LANES, Simd};

/// `out = x`, exactly.
#[inline(always)]
pub(crate) fn widen<S: Simd, T: Weight>(s: S, out: &mut [f32], x: &[T]) {
    assert_eq!(out.len(), x.len(), "conversion: lengths of output and input");
    let mut from = x.chunks_exact(S::LANES);
    let mut to = out.chunks_exact_mut(S::LANES);
    for (to, from) in to.by_ref().zip(from.by_ref()) {
        // SAFETY: the chunk holds LANES elements.
        s.store(to, unsafe { T::load_row(s, from.as_ptr()) });
    }
    let v = s.load_row_tail(from.remainder());
    s.store_tail(to.into_remainder(), v);
}

/// `out = x`, rounded to nearest even.
#[inline(always)]
pub(crate) fn to_f16<S: Simd>(s: S, out: &mut [f16], x: &[f32]) {
    assert_eq!(out.len(), x.len(), "conversion: lengths of output and input");
    let mut from = x.chunks_exact(S::LANES);
    let mut to = out.chunks_exact_mut(S::LANES);
    for (to, from) in to.by_ref().zip(from.by_ref()) {
        // SAFETY: the chunk holds LANES elements.
        unsafe { s.store_f16_ptr(to.as_mut_ptr(), s.load(from)) };
    }
    let rest = to.into_remainder();
    let mut lanes = [f16::ZERO; MAX_LANES];
    // SAFETY: the array holds MAX_LANES elements, as many as any tier writes.
    unsafe { s.store_f16_ptr(lanes.as_mut_ptr(), s.load_tail(from.remainder(), 0.0)) };
    rest.copy_from_slice(&lanes[..rest.len()]);
}

/// `out = x`, rounded to nearest even.
#[inline(always)]
pub(crate) fn to_bf16<S: Simd>(s: S, out: &mut [bf16], x: &[f32]) {
    assert_eq!(out.len(), x.len(), "conversion: lengths of output and input");
    let mut from = x.chunks_exact(2 * S::LANES);
    let mut to = out.chunks_exact_mut(2 * S::LANES);
    for (to, from) in to.by_ref().zip(from.by_ref()) {
        // SAFETY: the chunk holds 2 * LANES elements.
        unsafe { s.store_bf16_two(to.as_mut_ptr(), [s.load(from), s.load(&from[S::LANES..])]) };
    }
    let (mut from, mut to) = (from.remainder().chunks_exact(S::LANES), to.into_remainder().chunks_exact_mut(S::LANES));
    for (to, from) in to.by_ref().zip(from.by_ref()) {
        // SAFETY: the chunk holds LANES elements.
        unsafe { s.store_bf16_ptr(to.as_mut_ptr(), s.load(from)) };
    }
    let rest = to.into_remainder();
    let mut lanes = [bf16::ZERO; MAX_LANES];
    // SAFETY: the array holds MAX_LANES elements, as many as any tier writes.
    unsafe { s.store_bf16_ptr(lanes.as_mut_ptr(), s.load_tail(from.remainder(), 0.0)) };
    rest.copy_from_slice(&lanes[..rest.len()]);
}

/// A float of eight bits, one of them a sign.
pub(crate) trait Fp8: Copy {
    /// Bits of the mantissa.
    const MANTISSA: u32;
    /// What the exponent is stored with on top.
    const BIAS: u32;
    /// The largest finite number, at which rounding saturates.
    const MAX: f64;

    /// The number with this code.
    fn of(code: u8) -> Self;
}

impl Fp8 for E4m3 {
    const MANTISSA: u32 = 3;
    const BIAS: u32 = 7;
    const MAX: f64 = 448.0;

    #[inline(always)]
    fn of(code: u8) -> Self {
        E4m3(code)
    }
}

impl Fp8 for E5m2 {
    const MANTISSA: u32 = 2;
    const BIAS: u32 = 15;
    const MAX: f64 = 57344.0;

    #[inline(always)]
    fn of(code: u8) -> Self {
        E5m2(code)
    }
}

/// `out = x / divisor`, rounded to nearest even from the quotient in f64; zeros where the divisor is 0.
#[inline(always)]
pub(crate) fn to_fp8<T: Fp8>(out: &mut [T], x: &[f32], divisor: f32) {
    assert_eq!(out.len(), x.len(), "conversion: lengths of output and input");
    if divisor == 0.0 {
        return out.fill(T::of(0));
    }
    let divisor = f64::from(divisor);
    for (out, x) in out.iter_mut().zip(x) {
        *out = T::of(fp8_code::<T>(f64::from(*x) / divisor));
    }
}

/// The code of the number nearest to `x`, half to even; one without a sign for NaN. Without branches and checks, for vectors.
#[inline(always)]
fn fp8_code<T: Fp8>(x: f64) -> u8 {
    const { assert!(T::BIAS < 1023 && T::MANTISSA < 7) };
    let drop = 52 - T::MANTISSA;
    let magnitude = x.abs();
    let held = if magnitude > T::MAX { T::MAX } else { magnitude };
    let bits = held.to_bits();
    // A carry out of the mantissa is the next exponent by itself.
    let rounded = bits.wrapping_add((1 << (drop - 1)) - 1).wrapping_add(bits >> drop & 1);
    let normal = (rounded >> drop).wrapping_sub(u64::from(1023 - T::BIAS) << T::MANTISSA);
    // A unit in the last place of this number is the smallest subnormal.
    let unit = f64::from_bits(u64::from(1023 + 53 - T::BIAS - T::MANTISSA) << 52);
    let steps = (held + unit).to_bits().wrapping_sub(unit.to_bits());
    let least = f64::from_bits(u64::from(1024 - T::BIAS) << 52);
    let code = if held < least { steps } else { normal } as u8;
    let signed = code | (x.to_bits() >> 56) as u8 & 0x80;
    // All bits but the sign are one in a NaN of either format.
    if x.is_nan() { 0x7f } else { signed }
}
