//! Conversion of slices between f32 and the two half precisions; the bits are the same on every tier.

use half::{bf16, f16};

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
