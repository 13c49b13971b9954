//! The vector operations on codes.

use crate::simd::Simd;

/// Vectors of 32-bit words, and of the four bytes in each.
pub(crate) trait Lookup: Simd {
    /// As many 32-bit words as `V` has lanes.
    type I: Copy;
    /// A table of 16 bytes, ready to be looked up.
    type T: Copy;

    /// Makes a table ready.
    fn table(self, table: &[u8; 16]) -> Self::T;

    /// Loads `LANES` words.
    ///
    /// # Safety
    /// `4 * LANES` bytes are readable at `p`; no alignment is needed.
    unsafe fn load_words(self, p: *const u8) -> Self::I;

    /// The same word in every lane.
    fn words(self, x: i32) -> Self::I;

    /// What every byte, a number below 16, stands for.
    fn lookup(self, table: Self::T, words: Self::I) -> Self::I;

    /// Every word, `N` bits down.
    fn down<const N: u32>(self, words: Self::I) -> Self::I;

    /// Every word, `N` bits up.
    fn up<const N: u32>(self, words: Self::I) -> Self::I;

    /// `a`, and the bits of `b` where `mask` has ones.
    fn with(self, a: Self::I, mask: u32, b: Self::I) -> Self::I;

    /// The bits of each word where `mask` has ones.
    fn keep(self, mask: u32, words: Self::I) -> Self::I;

    /// `sum + byte 0 · x[0] + byte 2 · x[1] + byte 1 · x[2] + byte 3 · x[3]` of the unsigned bytes of each word.
    ///
    /// # Safety
    /// Four integers are readable at `x`; no alignment is needed.
    unsafe fn add_products(self, sum: Self::I, words: Self::I, x: *const i16) -> Self::I;

    /// Each signed word as f32, to nearest even.
    fn number(self, words: Self::I) -> Self::V;

    /// `a * b + c`, with one rounding on every tier.
    fn fused(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// Byte `N` of each word, 0 to 3 from the lowest.
    fn byte<const N: u32>(self, words: Self::I) -> Self::V;

    /// Loads signed bytes.
    ///
    /// # Safety
    /// `LANES` bytes are readable at `p`.
    unsafe fn load_i8(self, p: *const u8) -> Self::V;

    /// Loads unsigned bytes.
    ///
    /// # Safety
    /// `LANES` bytes are readable at `p`.
    unsafe fn load_u8(self, p: *const u8) -> Self::V;

    /// Loads fp8 1-4-3; the largest magnitude is NaN.
    ///
    /// # Safety
    /// `LANES` bytes are readable at `p`.
    unsafe fn load_e4m3(self, p: *const u8) -> Self::V;

    /// Loads fp8 1-5-2.
    ///
    /// # Safety
    /// `LANES` bytes are readable at `p`.
    unsafe fn load_e5m2(self, p: *const u8) -> Self::V;
}
