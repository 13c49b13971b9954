//! Codes to f32 in portable Rust.

use half::f16;

use super::{N, Scalar};
use crate::layout;
use crate::quant::Lookup;

/// Applies a function to the bytes at `p`.
///
/// # Safety
/// As many bytes as lanes are readable at `p`.
#[inline(always)]
unsafe fn each(p: *const u8, f: impl Fn(u8) -> f32) -> [f32; N] {
    // SAFETY: as the caller vouches.
    unsafe { p.cast::<[u8; N]>().read_unaligned() }.map(f)
}

impl Lookup for Scalar {
    type I = [u32; N];
    type T = [u8; 16];

    #[inline(always)]
    fn table(self, table: &[u8; 16]) -> [u8; 16] {
        *table
    }

    #[inline(always)]
    unsafe fn load_words(self, p: *const u8) -> [u32; N] {
        // SAFETY: the caller vouches for the bytes.
        unsafe { p.cast::<[[u8; 4]; N]>().read_unaligned() }.map(u32::from_le_bytes)
    }

    #[inline(always)]
    fn words(self, x: i32) -> [u32; N] {
        [x as u32; N]
    }

    #[inline(always)]
    fn lookup(self, table: [u8; 16], words: [u32; N]) -> [u32; N] {
        words.map(|w| u32::from_le_bytes(w.to_le_bytes().map(|byte| table[usize::from(byte & 15)])))
    }

    #[inline(always)]
    fn down<const B: u32>(self, words: [u32; N]) -> [u32; N] {
        words.map(|w| w >> B)
    }

    #[inline(always)]
    fn up<const B: u32>(self, words: [u32; N]) -> [u32; N] {
        words.map(|w| w << B)
    }

    #[inline(always)]
    fn with(self, a: [u32; N], mask: u32, b: [u32; N]) -> [u32; N] {
        std::array::from_fn(|i| a[i] | b[i] & mask)
    }

    #[inline(always)]
    fn keep(self, mask: u32, words: [u32; N]) -> [u32; N] {
        words.map(|w| w & mask)
    }

    #[inline(always)]
    unsafe fn add_products(self, sum: [u32; N], words: [u32; N], x: *const i16) -> [u32; N] {
        // SAFETY: the caller vouches for four integers.
        let x = unsafe { x.cast::<[i16; 4]>().read_unaligned() };
        std::array::from_fn(|i| {
            let [a, b, c, d] = words[i].to_le_bytes();
            let products = [a, c, b, d].into_iter().zip(x).map(|(byte, x)| i32::from(byte) * i32::from(x));
            sum[i].wrapping_add(products.sum::<i32>() as u32)
        })
    }

    #[inline(always)]
    fn number(self, words: [u32; N]) -> [f32; N] {
        words.map(|w| w as i32 as f32)
    }

    #[inline(always)]
    fn fused(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn byte<const B: u32>(self, words: [u32; N]) -> [f32; N] {
        words.map(|w| f32::from((w >> (8 * B)) as u8))
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> [f32; N] {
        // SAFETY: the caller vouches for the bytes.
        unsafe { each(p, |x| f32::from(x as i8)) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> [f32; N] {
        // SAFETY: the caller vouches for the bytes.
        unsafe { each(p, f32::from) }
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> [f32; N] {
        let value = |x: u8| {
            let magnitude = u32::from(x & 0x7f);
            // The bits of an f32 whose exponent lacks 120; NaN is the largest magnitude.
            let value = f32::from_bits(magnitude << 20) * f32::from_bits((127 + 120) << 23);
            let value = if magnitude == 0x7f { f32::NAN } else { value };
            if x & 0x80 == 0 { value } else { -value }
        };
        // SAFETY: the caller vouches for the bytes.
        unsafe { each(p, value) }
    }

    #[inline(always)]
    unsafe fn load_e5m2(self, p: *const u8) -> [f32; N] {
        // The upper half of an f16.
        // SAFETY: the caller vouches for the bytes.
        unsafe { each(p, |x| layout::f16_to_f32(f16::from_bits(u16::from(x) << 8))) }
    }
}
