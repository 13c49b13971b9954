//! Codes of a chunk as f32, input by input.

use crate::simd::Simd;

/// The vector operations that turn codes into f32.
pub(crate) trait Lookup: Simd {
    /// As many 32-bit words as `V` has lanes.
    type I: Copy;
    /// A table of 16 f32, ready to be looked up.
    type T: Copy;

    /// Makes a table ready.
    fn table(self, table: &[f32; 16]) -> Self::T;

    /// Loads `LANES` words.
    ///
    /// # Safety
    /// `4 * LANES` bytes are readable at `p`; no alignment is needed.
    unsafe fn load_words(self, p: *const u8) -> Self::I;

    /// What the lowest four bits of each word stand for.
    fn lookup(self, table: Self::T, words: Self::I) -> Self::V;

    /// The first number of a table, in every lane.
    fn first(self, table: Self::T) -> Self::V;

    /// What the lowest bits of each word stand for, of a table that repeats after 8 numbers or fewer.
    #[inline(always)]
    fn lookup_few(self, table: Self::T, words: Self::I) -> Self::V {
        self.lookup(table, words)
    }

    /// Every word, `N` bits down.
    fn down<const N: u32>(self, words: Self::I) -> Self::I;

    /// Every word, `N` bits up.
    fn up<const N: u32>(self, words: Self::I) -> Self::I;

    /// The bits of `a` where `mask` has ones, else those of `b`.
    fn select(self, mask: u32, a: Self::I, b: Self::I) -> Self::I;

    /// The bits of each word where `mask` has ones.
    fn keep(self, mask: u32, words: Self::I) -> Self::I;

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

/// How the codes of a chunk are read.
pub(crate) trait Code: Copy {
    /// Bytes of a chunk.
    const BYTES: usize;
    /// Whether codes are decoded in so few registers that four chunks go well together.
    const SMALL: bool;

    /// Calls `f(input, codes)` for 16 inputs, the first or the second half of those of each chunk in `p`. `NV` vectors
    /// hold the 16 outputs of a chunk; `input` takes each number from 0 to 15 once.
    ///
    /// # Safety
    /// A whole chunk is readable at each pointer.
    unsafe fn half<S: Lookup, const NV: usize, const P: usize>(
        s: S,
        tables: [S::T; 2],
        p: [*const u8; P],
        second: bool,
        f: impl FnMut(usize, [[S::V; NV]; P]),
    );
}

/// Planes of `L` low and `H` high bits: 2 or 4, and 0 to 2 that are 0 or 1 beside 2 low ones.
#[derive(Clone, Copy)]
pub(crate) struct Bits<const L: u32, const H: u32>;

/// Bytes of one plane's word for all outputs.
const WORD: usize = 64;

impl<const L: u32, const H: u32> Code for Bits<L, H> {
    const BYTES: usize = (L + H) as usize * WORD;
    const SMALL: bool = H == 0;

    #[inline(always)]
    unsafe fn half<S: Lookup, const NV: usize, const P: usize>(
        s: S,
        tables: [S::T; 2],
        p: [*const u8; P],
        second: bool,
        mut f: impl FnMut(usize, [[S::V; NV]; P]),
    ) {
        let (words, inputs) = (L as usize / 2, 32 / L as usize);
        // SAFETY: the words of both planes lie within the chunks.
        unsafe {
            let plane = L as usize * WORD;
            if L == 4 && H > 0 {
                let high = load::<S, NV, P>(s, p, if H == 2 && second { plane + WORD } else { plane });
                let base = s.first(tables[1]);
                for word in 0..2 {
                    let low = load::<S, NV, P>(s, p, if second { 2 + word } else { word } * WORD);
                    quarter::<S, H, NV, P>(s, low, high, base, second, 2 * word, &mut f);
                    quarter::<S, H, NV, P>(s, low, high, base, second, 2 * word + 1, &mut f);
                }
                return;
            }
            let mut high = load::<S, NV, P>(s, p, if H == 0 { 0 } else { plane });
            if H > 0 && second {
                for high in high.as_flattened_mut() {
                    *high = s.down::<16>(*high);
                }
            }
            for word in 0..words {
                let at = if second { words + word } else { word };
                let mut low = load::<S, NV, P>(s, p, at * WORD);
                for j in 0..inputs {
                    let mut codes = [[s.splat(0.0); NV]; P];
                    let all = codes.as_flattened_mut().iter_mut().zip(low.as_flattened_mut());
                    for ((codes, low), high) in all.zip(high.as_flattened_mut()) {
                        *codes = if L < 4 { s.lookup_few(tables[0], *low) } else { s.lookup(tables[0], *low) };
                        *low = s.down::<L>(*low);
                        if H > 0 {
                            *codes = s.add(*codes, s.lookup_few(tables[1], *high));
                            *high = s.down::<H>(*high);
                        }
                    }
                    f(word * inputs + j, codes);
                }
            }
        }
    }
}

/// Codes of 5 or 6 bits of four inputs: `c` is even or odd nibbles of the first or the second word of a half. The high
/// bits of the inputs `8·(c/2) + 2·b + c%2` lie in byte `b` of their word, for 5 bits those of both halves in one.
#[inline(always)]
fn quarter<S: Lookup, const H: u32, const NV: usize, const P: usize>(
    s: S,
    low: [[S::I; NV]; P],
    high: [[S::I; NV]; P],
    base: S::V,
    second: bool,
    c: usize,
    f: &mut impl FnMut(usize, [[S::V; NV]; P]),
) {
    let mut codes = [[[base; NV]; P]; 4];
    for i in 0..NV * P {
        let (low, high) = (low.as_flattened()[i], high.as_flattened()[i]);
        let low = if c.is_multiple_of(2) { low } else { s.down::<4>(low) };
        // The lowest of the high bits comes to bit 4 of each byte.
        let high = match (H, c, second) {
            (1, 0, false) | (2, 0, _) => s.up::<4>(high),
            (1, 1, false) => s.up::<3>(high),
            (1, 2, false) | (2, 1, _) => s.up::<2>(high),
            (1, 3, false) => s.up::<1>(high),
            (1, 0, true) | (2, 2, _) => high,
            (1, 1, true) => s.down::<1>(high),
            (1, 2, true) | (2, 3, _) => s.down::<2>(high),
            _ => s.down::<3>(high),
        };
        let both = s.select(0x0f0f_0f0f, low, high);
        let bytes = s.keep(if H == 1 { 0x1f1f_1f1f } else { 0x3f3f_3f3f }, both);
        codes[0].as_flattened_mut()[i] = s.add(base, s.byte::<0>(bytes));
        codes[1].as_flattened_mut()[i] = s.add(base, s.byte::<1>(bytes));
        codes[2].as_flattened_mut()[i] = s.add(base, s.byte::<2>(bytes));
        codes[3].as_flattened_mut()[i] = s.add(base, s.byte::<3>(bytes));
    }
    for (b, codes) in codes.into_iter().enumerate() {
        f(8 * (c / 2) + 2 * b + c % 2, codes);
    }
}

/// The word of each of 16 outputs, `at` bytes behind each pointer.
///
/// # Safety
/// 64 bytes are readable there.
#[inline(always)]
unsafe fn load<S: Lookup, const NV: usize, const P: usize>(s: S, p: [*const u8; P], at: usize) -> [[S::I; NV]; P] {
    // SAFETY: as the caller vouches; `NV` vectors hold 16 words.
    unsafe {
        let mut out = [[s.load_words(p[0].add(at)); NV]; P];
        for (p, out) in p.iter().zip(&mut out) {
            for (v, out) in out.iter_mut().enumerate() {
                *out = s.load_words(p.add(at + 4 * v * S::LANES));
            }
        }
        out
    }
}

macro_rules! bytes {
    ($($(#[$doc:meta])* $name:ident $load:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl Code for $name {
            const BYTES: usize = 512;
            const SMALL: bool = true;

            #[inline(always)]
            unsafe fn half<S: Lookup, const NV: usize, const P: usize>(
                s: S,
                _: [S::T; 2],
                p: [*const u8; P],
                second: bool,
                mut f: impl FnMut(usize, [[S::V; NV]; P]),
            ) {
                let half = if second { 256 } else { 0 };
                for j in 0..16 {
                    let mut codes = [[s.splat(0.0); NV]; P];
                    for (p, codes) in p.iter().zip(&mut codes) {
                        for (v, codes) in codes.iter_mut().enumerate() {
                            // SAFETY: each of 16 inputs has 16 bytes in its half of the chunk.
                            *codes = unsafe { s.$load(p.add(half + 16 * j + v * S::LANES)) };
                        }
                    }
                    f(j, codes);
                }
            }
        }
    )+};
}

bytes! {
    /// Signed bytes.
    Int8 load_i8;
    /// Unsigned bytes.
    Uint8 load_u8;
    /// fp8 1-4-3.
    E4m3 load_e4m3;
    /// fp8 1-5-2.
    E5m2 load_e5m2;
}
