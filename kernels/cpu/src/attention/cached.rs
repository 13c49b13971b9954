//! What keys and values are stored as, and what a tier adds to its vectors for attention.

use half::{bf16, f16};

use crate::layout::Sealed as _;
use crate::quant::Lookup;
use crate::simd::MAX_LANES;

/// A stored fp8 number of one sign, four exponent and three mantissa bits, without infinities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct E4m3(pub u8);

/// A stored fp8 number of one sign, five exponent and two mantissa bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct E5m2(pub u8);

/// What attention asks of a tier beside [`Simd`](crate::simd::Simd).
#[allow(private_bounds, reason = "only this crate has tiers")]
pub trait Lanes: Lookup {
    /// Turns the square of the first `LANES` vectors around.
    fn transpose(self, m: &mut [Self::V; MAX_LANES]);

    /// The largest lane; NaN where there is one.
    #[inline(always)]
    fn max_lanes(self, v: Self::V) -> f32 {
        let larger = |a: f32, b: f32| if a.is_nan() || a > b { a } else { b };
        self.lanes(v)[..Self::LANES].iter().copied().fold(f32::NEG_INFINITY, |a, b| larger(b, a))
    }

    /// Vectors whose words are two bf16 each, the first of each widened, and the second.
    fn bf16_pairs(self, words: Self::V) -> [Self::V; 2];

    /// Widens `2 * LANES` bf16, in an order that [`in_order`](Self::in_order) undoes.
    ///
    /// # Safety
    /// `2 * LANES` elements are readable at `p`.
    #[inline(always)]
    unsafe fn load_two_bf16(self, p: *const bf16) -> [Self::V; 2] {
        // SAFETY: as the caller vouches.
        unsafe { [self.load_bf16_ptr(p), self.load_bf16_ptr(p.add(Self::LANES))] }
    }

    /// Two neighbouring vectors in the order of [`load_two_bf16`](Self::load_two_bf16).
    #[inline(always)]
    fn out_of_order(self, v: [Self::V; 2]) -> [Self::V; 2] {
        v
    }

    /// What [`out_of_order`](Self::out_of_order) was given.
    #[inline(always)]
    fn in_order(self, v: [Self::V; 2]) -> [Self::V; 2] {
        v
    }
}

/// A dtype that cached keys and values can have; closed to other crates.
pub trait Cached: Copy + Default + Send + Sync + Stored + 'static {}

/// What the kernels need to know of a cached dtype.
#[doc(hidden)]
pub trait Stored: Copy + Default {
    /// Whether this is bf16, whose pairs are taken apart in registers.
    const PAIRS: bool = false;

    /// Loads and widens one vector.
    ///
    /// # Safety
    /// `LANES` elements are readable at `p`.
    unsafe fn load<S: Lanes>(s: S, p: *const Self) -> S::V;

    /// Loads and widens two neighbouring vectors.
    ///
    /// # Safety
    /// `2 * LANES` elements are readable at `p`.
    #[inline(always)]
    unsafe fn load_two<S: Lanes>(s: S, p: *const Self) -> [S::V; 2] {
        // SAFETY: as the caller vouches.
        unsafe { [Self::load(s, p), Self::load(s, p.add(S::LANES))] }
    }

    /// Loads and widens fewer elements than a vector holds; the other lanes are zero.
    ///
    /// # Safety
    /// `count` elements are readable at `p`, and `count` is at most `LANES`.
    #[inline(always)]
    unsafe fn load_few<S: Lanes>(s: S, p: *const Self, count: usize) -> S::V {
        let mut lanes = [Self::default(); MAX_LANES];
        // SAFETY: the caller vouches for the elements; the array holds as many as any tier reads.
        unsafe {
            lanes[..count].copy_from_slice(std::slice::from_raw_parts(p, count));
            Self::load(s, lanes.as_ptr())
        }
    }
}

macro_rules! cached {
    ($($t:ty: |$s:ident, $p:ident| $load:expr;)+) => {$(
        impl Cached for $t {}
        impl Stored for $t {
            #[inline(always)]
            unsafe fn load<S: Lanes>($s: S, $p: *const $t) -> S::V {
                // SAFETY: the caller vouches for LANES elements.
                unsafe { $load }
            }
        }
    )+};
}

cached! {
    f32: |s, p| f32::load_row(s, p);
    f16: |s, p| f16::load_row(s, p);
    i8: |s, p| s.load_i8(p.cast());
    E4m3: |s, p| s.load_e4m3(p.cast());
    E5m2: |s, p| s.load_e5m2(p.cast());
}

impl Cached for bf16 {}

impl Stored for bf16 {
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn load<S: Lanes>(s: S, p: *const bf16) -> S::V {
        // SAFETY: as the caller vouches.
        unsafe { s.load_bf16_ptr(p) }
    }

    #[inline(always)]
    unsafe fn load_two<S: Lanes>(s: S, p: *const bf16) -> [S::V; 2] {
        // SAFETY: as the caller vouches.
        unsafe { s.load_two_bf16(p) }
    }
}
