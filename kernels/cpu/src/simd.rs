//! The handful of vector operations that the shared algorithms are written in.
//!
//! A tier is a zero-sized token. Having the token proves that the processor has the tier, so the
//! arithmetic is safe; only loads and stores through pointers are not. Every method is
//! `#[inline(always)]`: the algorithms inline whole into entry points that enable the
//! instructions, which is what makes the intrinsics inline too.

use half::{bf16, f16};

/// The most lanes that a tier has.
pub(crate) const MAX_LANES: usize = 16;

/// One tier's vectors: `V` holds [`LANES`](Self::LANES) f32, `D` as many f64.
pub trait Simd: Copy {
    /// f32 in one vector; divides 16.
    const LANES: usize;
    /// A vector of f32.
    type V: Copy;
    /// A vector of f64 with as many lanes as `V`.
    type D: Copy;

    /// The token.
    ///
    /// # Safety
    /// The processor has the instructions of the tier.
    unsafe fn new() -> Self;

    /// Loads a vector.
    ///
    /// # Safety
    /// `LANES` elements are readable at `p`; no alignment is needed.
    unsafe fn load_ptr(self, p: *const f32) -> Self::V;

    /// Stores a vector.
    ///
    /// # Safety
    /// `LANES` elements are writable at `p`; no alignment is needed.
    unsafe fn store_ptr(self, p: *mut f32, v: Self::V);

    /// Loads and widens f16.
    ///
    /// # Safety
    /// `LANES` elements are readable at `p`.
    unsafe fn load_f16_ptr(self, p: *const f16) -> Self::V;

    /// Loads and widens bf16.
    ///
    /// # Safety
    /// `LANES` elements are readable at `p`.
    unsafe fn load_bf16_ptr(self, p: *const bf16) -> Self::V;

    /// Loads pairs of bf16 and widens the first of each pair.
    ///
    /// # Safety
    /// `2 * LANES` elements are readable at `p`.
    unsafe fn load_bf16_first(self, p: *const bf16) -> Self::V;

    /// Loads pairs of bf16 and widens the second of each pair.
    ///
    /// # Safety
    /// `2 * LANES` elements are readable at `p`.
    unsafe fn load_bf16_second(self, p: *const bf16) -> Self::V;

    /// Loads and widens two vectors of bf16.
    ///
    /// # Safety
    /// `2 * LANES` elements are readable at `p`.
    #[inline(always)]
    unsafe fn load_bf16_two(self, p: *const bf16) -> [Self::V; 2] {
        // SAFETY: as the caller vouches.
        unsafe { [self.load_bf16_ptr(p), self.load_bf16_ptr(p.add(Self::LANES))] }
    }

    /// Rounds to f16 and stores.
    ///
    /// # Safety
    /// `LANES` elements are writable at `p`.
    unsafe fn store_f16_ptr(self, p: *mut f16, v: Self::V);

    /// Rounds to bf16 and stores.
    ///
    /// # Safety
    /// `LANES` elements are writable at `p`.
    unsafe fn store_bf16_ptr(self, p: *mut bf16, v: Self::V);

    /// Rounds two vectors to bf16 and stores them.
    ///
    /// # Safety
    /// `2 * LANES` elements are writable at `p`.
    #[inline(always)]
    unsafe fn store_bf16_two(self, p: *mut bf16, [a, b]: [Self::V; 2]) {
        // SAFETY: as the caller vouches.
        unsafe {
            self.store_bf16_ptr(p, a);
            self.store_bf16_ptr(p.add(Self::LANES), b);
        }
    }

    /// As [`store_ptr`](Self::store_ptr), past the caches where the tier can.
    ///
    /// # Safety
    /// `LANES` elements are writable at `p`, a multiple of their bytes.
    #[inline(always)]
    unsafe fn stream_ptr(self, p: *mut f32, v: Self::V) {
        // SAFETY: as the caller vouches.
        unsafe { self.store_ptr(p, v) }
    }

    /// As [`store_f16_ptr`](Self::store_f16_ptr), past the caches where the tier can.
    ///
    /// # Safety
    /// `LANES` elements are writable at `p`, a multiple of their bytes.
    #[inline(always)]
    unsafe fn stream_f16_ptr(self, p: *mut f16, v: Self::V) {
        // SAFETY: as the caller vouches.
        unsafe { self.store_f16_ptr(p, v) }
    }

    /// As [`store_bf16_ptr`](Self::store_bf16_ptr), past the caches where the tier can.
    ///
    /// # Safety
    /// `LANES` elements are writable at `p`, a multiple of their bytes.
    #[inline(always)]
    unsafe fn stream_bf16_ptr(self, p: *mut bf16, v: Self::V) {
        // SAFETY: as the caller vouches.
        unsafe { self.store_bf16_ptr(p, v) }
    }

    /// Two vectors as [`stream_f16_ptr`](Self::stream_f16_ptr) has them.
    ///
    /// # Safety
    /// `2 * LANES` elements are writable at `p`, a multiple of their bytes.
    #[inline(always)]
    unsafe fn stream_f16_two(self, p: *mut f16, [a, b]: [Self::V; 2]) {
        // SAFETY: as the caller vouches.
        unsafe {
            self.stream_f16_ptr(p, a);
            self.stream_f16_ptr(p.add(Self::LANES), b);
        }
    }

    /// Two vectors as [`stream_bf16_ptr`](Self::stream_bf16_ptr) has them.
    ///
    /// # Safety
    /// `2 * LANES` elements are writable at `p`, a multiple of their bytes.
    #[inline(always)]
    unsafe fn stream_bf16_two(self, p: *mut bf16, [a, b]: [Self::V; 2]) {
        // SAFETY: as the caller vouches.
        unsafe {
            self.stream_bf16_ptr(p, a);
            self.stream_bf16_ptr(p.add(Self::LANES), b);
        }
    }

    /// The same vector. A tier that is short of registers makes it a point that the compiler does
    /// not move the second half of a step across.
    #[inline(always)]
    fn settle(self, v: Self::V) -> Self::V {
        v
    }

    /// Stores the lanes of four vectors as columns: lane `k` of the first `width` of them goes side by side to
    /// `out + k * pitch`.
    ///
    /// # Safety
    /// `width` elements, 2 or 4, are writable at each of those places.
    #[inline(always)]
    unsafe fn store_columns(self, rows: [Self::V; 4], out: *mut f32, pitch: usize, width: usize) {
        let rows = rows.map(|row| self.lanes(row));
        for k in 0..Self::LANES {
            for (i, row) in rows.iter().enumerate().take(width) {
                // SAFETY: as the caller vouches.
                unsafe { *out.add(k * pitch + i) = row[k] };
            }
        }
    }

    /// The same value in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, with one rounding where the tier has FMA.
    fn madd(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; NaN where either is NaN.
    fn max_nan(self, a: Self::V, b: Self::V) -> Self::V;
    /// `|a|`
    fn abs(self, a: Self::V) -> Self::V;
    /// `2^(n - 127)` where the lowest 8 bits of a lane hold `n`, 1 ..= 254; 0 where they hold 0.
    fn pow2(self, bits: Self::V) -> Self::V;

    /// The lanes of `V` as f64.
    fn widen(self, v: Self::V) -> Self::D;
    /// The lanes of `D`, rounded to f32.
    fn narrow(self, d: Self::D) -> Self::V;
    /// The same value in every lane.
    fn d_splat(self, x: f64) -> Self::D;
    /// `a + b`
    fn d_add(self, a: Self::D, b: Self::D) -> Self::D;
    /// `a - b`
    fn d_sub(self, a: Self::D, b: Self::D) -> Self::D;
    /// `a * b`
    fn d_mul(self, a: Self::D, b: Self::D) -> Self::D;
    /// `a / b`
    fn d_div(self, a: Self::D, b: Self::D) -> Self::D;
    /// `a * b + c`, with one rounding where the tier has FMA.
    fn d_madd(self, a: Self::D, b: Self::D, c: Self::D) -> Self::D;
    /// The larger; `b` where either is NaN.
    fn d_max(self, a: Self::D, b: Self::D) -> Self::D;
    /// The smaller; `b` where either is NaN.
    fn d_min(self, a: Self::D, b: Self::D) -> Self::D;
    /// `yes` where `x < 0`, else `no`.
    fn d_if_negative(self, x: Self::D, yes: Self::D, no: Self::D) -> Self::D;
    /// `2^n` where the lowest 12 bits of a lane hold `n`, -1022 ..= 1023, in two's complement.
    fn d_pow2(self, bits: Self::D) -> Self::D;

    /// See [`exp_below`](crate::math::exp_below).
    #[inline(always)]
    fn exp_below(self, x: Self::V) -> Self::V {
        crate::math::exp_below_by_polynomial(self, x)
    }

    /// Loads a vector from the start of `x`.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.load_ptr(x.as_ptr()) }
    }

    /// Stores a vector at the start of `out`.
    #[inline(always)]
    fn store(self, out: &mut [f32], v: Self::V) {
        assert!(out.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.store_ptr(out.as_mut_ptr(), v) }
    }

    /// Loads fewer elements than a vector holds; the other lanes are `fill`.
    #[inline(always)]
    fn load_tail(self, x: &[f32], fill: f32) -> Self::V {
        let mut lanes = [fill; MAX_LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// Loads and widens fewer elements than a vector holds; the other lanes are `fill`.
    #[inline(always)]
    fn load_tail_of<T: crate::layout::Weight>(self, x: &[T], fill: f32) -> Self::V {
        let mut lanes = [fill; MAX_LANES];
        lanes.iter_mut().zip(x).for_each(|(lane, x)| *lane = x.widen());
        self.load(&lanes)
    }

    /// Stores the first lanes of a vector, fewer than it holds.
    #[inline(always)]
    fn store_tail(self, out: &mut [f32], v: Self::V) {
        let lanes = self.lanes(v);
        out.copy_from_slice(&lanes[..out.len()]);
    }

    /// The lanes of a vector, then zeros.
    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; MAX_LANES] {
        let mut lanes = [0.0; MAX_LANES];
        self.store(&mut lanes, v);
        lanes
    }

    /// The sum of the lanes, as a balanced tree of halves.
    #[inline(always)]
    fn sum_lanes(self, v: Self::V) -> f32 {
        let mut lanes = self.lanes(v);
        let mut half = Self::LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// [`sum_lanes`](Self::sum_lanes) of four vectors, to the bit.
    #[inline(always)]
    fn sum_lanes_of_four(self, v: [Self::V; 4]) -> [f32; 4] {
        [self.sum_lanes(v[0]), self.sum_lanes(v[1]), self.sum_lanes(v[2]), self.sum_lanes(v[3])]
    }

    /// Loads and widens fewer elements than a vector holds; the other lanes are zero.
    #[inline(always)]
    fn load_row_tail<T: crate::layout::Weight>(self, x: &[T]) -> Self::V {
        let mut lanes = [T::default(); MAX_LANES];
        lanes[..x.len()].copy_from_slice(x);
        // SAFETY: the array holds MAX_LANES elements, as many as any tier reads.
        unsafe { T::load_row(self, lanes.as_ptr()) }
    }
}

/// Asks for `bytes` bytes from `p` on to be in the caches soon. A hint: the address may be anything.
#[inline(always)]
pub(crate) fn prefetch(p: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        // SAFETY: the instruction never faults.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.wrapping_add(line).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, bytes);
}

/// Asks for the line at `p` to be in the second-level cache soon. A hint: the address may be anything.
#[inline(always)]
pub(crate) fn prefetch_line(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}
