//! The portable tier: vectors are arrays of four, which the compiler may or may not put in registers.

mod attention;
mod attention_digits;
mod codes;
mod dot;
mod int8;
mod pairs;

use half::{bf16, f16};

use crate::isa::Features;
use crate::layout;
use crate::simd::Simd;
use crate::table::{IntegerKernels, Kernels};

use attention_digits::attention_digits;
use dot::{gemm_bf16_dot, gemv_bf16_dot};
pub(crate) use int8::larger;
use int8::{int8, quantize_row_i8};
use pairs::attention_pairs;

/// No other products of digits than those of pairs.
fn digits(_: &Features) -> Option<IntegerKernels> {
    None
}

/// No other products of bytes than those of pairs.
fn bytes(_: &Features) -> Option<IntegerKernels> {
    None
}

crate::entry::entry_points! {
    token: Scalar, isa: Scalar "scalar", features: [],
    tile: 4 x 16 (4, 4), few: 4, gemv: 16 (4), qk: 2 x 2, pv: 2 x 2, digits: 2
}

/// All of the table is as shared algorithms have it.
fn refine(_: &mut Kernels, _: &Features) {}

/// The token of the portable tier.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

const N: usize = 4;

/// Applies an expression to every lane.
macro_rules! each {
    ($i:ident => $e:expr) => {
        std::array::from_fn(
            #[inline(always)]
            |$i| $e,
        )
    };
}

impl Simd for Scalar {
    const LANES: usize = N;
    type V = [f32; N];
    type D = [f64; N];

    #[inline(always)]
    unsafe fn new() -> Self {
        Scalar
    }

    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> [f32; N] {
        // SAFETY: the caller vouches for N elements.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: [f32; N]) {
        // SAFETY: the caller vouches for N elements.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn load_f16_ptr(self, p: *const f16) -> [f32; N] {
        // SAFETY: the caller vouches for N elements.
        let x = unsafe { p.cast::<[f16; N]>().read_unaligned() };
        each!(i => layout::f16_to_f32(x[i]))
    }

    #[inline(always)]
    unsafe fn load_bf16_ptr(self, p: *const bf16) -> [f32; N] {
        // SAFETY: the caller vouches for N elements.
        let x = unsafe { p.cast::<[bf16; N]>().read_unaligned() };
        each!(i => layout::bf16_to_f32(x[i]))
    }

    #[inline(always)]
    unsafe fn load_bf16_first(self, p: *const bf16) -> [f32; N] {
        // SAFETY: the caller vouches for 2 * N elements.
        let x = unsafe { p.cast::<[bf16; 2 * N]>().read_unaligned() };
        each!(i => layout::bf16_to_f32(x[2 * i]))
    }

    #[inline(always)]
    unsafe fn load_bf16_second(self, p: *const bf16) -> [f32; N] {
        // SAFETY: the caller vouches for 2 * N elements.
        let x = unsafe { p.cast::<[bf16; 2 * N]>().read_unaligned() };
        each!(i => layout::bf16_to_f32(x[2 * i + 1]))
    }

    #[inline(always)]
    unsafe fn store_f16_ptr(self, p: *mut f16, v: [f32; N]) {
        let out: [f16; N] = each!(i => layout::f32_to_f16(v[i]));
        // SAFETY: the caller vouches for N elements.
        unsafe { p.cast::<[f16; N]>().write_unaligned(out) }
    }

    #[inline(always)]
    unsafe fn store_bf16_ptr(self, p: *mut bf16, v: [f32; N]) {
        let out: [bf16; N] = each!(i => layout::f32_to_bf16(v[i]));
        // SAFETY: the caller vouches for N elements.
        unsafe { p.cast::<[bf16; N]>().write_unaligned(out) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; N] {
        [x; N]
    }

    #[inline(always)]
    fn add(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(i => a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(i => a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(i => a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(i => a[i] / b[i])
    }

    #[inline(always)]
    fn madd(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        each!(i => a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn max_nan(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each!(i => if a[i] > b[i] || a[i].is_nan() { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn pow2(self, bits: [f32; N]) -> [f32; N] {
        each!(i => f32::from_bits(bits[i].to_bits() << 23))
    }

    #[inline(always)]
    fn abs(self, a: [f32; N]) -> [f32; N] {
        each!(i => a[i].abs())
    }

    #[inline(always)]
    fn widen(self, v: [f32; N]) -> [f64; N] {
        each!(i => f64::from(v[i]))
    }

    #[inline(always)]
    fn narrow(self, d: [f64; N]) -> [f32; N] {
        each!(i => d[i] as f32)
    }

    #[inline(always)]
    fn d_splat(self, x: f64) -> [f64; N] {
        [x; N]
    }

    #[inline(always)]
    fn d_add(self, a: [f64; N], b: [f64; N]) -> [f64; N] {
        each!(i => a[i] + b[i])
    }

    #[inline(always)]
    fn d_sub(self, a: [f64; N], b: [f64; N]) -> [f64; N] {
        each!(i => a[i] - b[i])
    }

    #[inline(always)]
    fn d_mul(self, a: [f64; N], b: [f64; N]) -> [f64; N] {
        each!(i => a[i] * b[i])
    }

    #[inline(always)]
    fn d_div(self, a: [f64; N], b: [f64; N]) -> [f64; N] {
        each!(i => a[i] / b[i])
    }

    #[inline(always)]
    fn d_madd(self, a: [f64; N], b: [f64; N], c: [f64; N]) -> [f64; N] {
        each!(i => a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn d_max(self, a: [f64; N], b: [f64; N]) -> [f64; N] {
        each!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn d_min(self, a: [f64; N], b: [f64; N]) -> [f64; N] {
        each!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn d_if_negative(self, x: [f64; N], yes: [f64; N], no: [f64; N]) -> [f64; N] {
        each!(i => if x[i] < 0.0 { yes[i] } else { no[i] })
    }

    #[inline(always)]
    fn d_pow2(self, bits: [f64; N]) -> [f64; N] {
        each!(i => f64::from_bits(bits[i].to_bits().wrapping_add(1023) << 52))
    }
}
