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

    /// Calls `f(input, part, codes)` for 16 inputs of the chunk at `p`, the first or the second half of them. `NV`
    /// vectors hold the 16 outputs; `input` counts from 0 to 15, `part` from 0 within each step.
    ///
    /// # Safety
    /// A whole chunk is readable at `p`.
    unsafe fn half<S: Lookup, const NV: usize>(
        s: S,
        tables: [S::T; 2],
        p: *const u8,
        second: bool,
        f: impl FnMut(usize, usize, [S::V; NV]),
    );
}

/// Planes of `L` low and `H` high bits: 2 or 4, and 0 to 2 that are 0 or 1 beside 2 low ones.
#[derive(Clone, Copy)]
pub(crate) struct Bits<const L: u32, const H: u32>;

/// Bytes of one plane's word for all outputs.
const WORD: usize = 64;

impl<const L: u32, const H: u32> Code for Bits<L, H> {
    const BYTES: usize = (L + H) as usize * WORD;

    #[inline(always)]
    unsafe fn half<S: Lookup, const NV: usize>(
        s: S,
        tables: [S::T; 2],
        p: *const u8,
        second: bool,
        mut f: impl FnMut(usize, usize, [S::V; NV]),
    ) {
        let (words, inputs) = (L as usize / 2, 32 / L as usize);
        // SAFETY: the words of both planes lie within the chunk.
        unsafe {
            let plane = p.wrapping_add(L as usize * WORD);
            if L == 4 && H > 0 {
                let high = load::<S, NV>(s, if H == 2 && second { plane.wrapping_add(WORD) } else { plane });
                let base = s.first(tables[1]);
                let p = if second { p.wrapping_add(2 * WORD) } else { p };
                let first = load::<S, NV>(s, p);
                quarter::<S, H, NV>(s, first, high, base, second, 0, &mut f);
                quarter::<S, H, NV>(s, first, high, base, second, 1, &mut f);
                let last = load::<S, NV>(s, p.wrapping_add(WORD));
                quarter::<S, H, NV>(s, last, high, base, second, 2, &mut f);
                quarter::<S, H, NV>(s, last, high, base, second, 3, &mut f);
                return;
            }
            let mut high = load::<S, NV>(s, if H == 0 { p } else { plane });
            if H > 0 && second {
                for high in &mut high {
                    *high = s.down::<16>(*high);
                }
            }
            for word in 0..words {
                let at = if second { words + word } else { word };
                let mut low = load::<S, NV>(s, p.wrapping_add(at * WORD));
                for j in 0..inputs {
                    let mut codes = [s.splat(0.0); NV];
                    for v in 0..NV {
                        codes[v] = if L < 4 { s.lookup_few(tables[0], low[v]) } else { s.lookup(tables[0], low[v]) };
                        low[v] = s.down::<L>(low[v]);
                        if H > 0 {
                            codes[v] = s.add(codes[v], s.lookup_few(tables[1], high[v]));
                            high[v] = s.down::<H>(high[v]);
                        }
                    }
                    f(word * inputs + j, j, codes);
                }
            }
        }
    }
}

/// Codes of 5 or 6 bits of four inputs: `c` is even or odd nibbles of the first or the second word of a half. The high
/// bits of the inputs `8·(c/2) + 2·b + c%2` lie in byte `b` of their word, for 5 bits those of both halves in one.
#[inline(always)]
fn quarter<S: Lookup, const H: u32, const NV: usize>(
    s: S,
    low: [S::I; NV],
    high: [S::I; NV],
    base: S::V,
    second: bool,
    c: usize,
    f: &mut impl FnMut(usize, usize, [S::V; NV]),
) {
    let mut codes = [[base; NV]; 4];
    for v in 0..NV {
        let low = if c.is_multiple_of(2) { low[v] } else { s.down::<4>(low[v]) };
        // The lowest of the high bits comes to bit 4 of each byte.
        let high = match (H, c, second) {
            (1, 0, false) | (2, 0, _) => s.up::<4>(high[v]),
            (1, 1, false) => s.up::<3>(high[v]),
            (1, 2, false) | (2, 1, _) => s.up::<2>(high[v]),
            (1, 3, false) => s.up::<1>(high[v]),
            (1, 0, true) | (2, 2, _) => high[v],
            (1, 1, true) => s.down::<1>(high[v]),
            (1, 2, true) | (2, 3, _) => s.down::<2>(high[v]),
            _ => s.down::<3>(high[v]),
        };
        let both = s.select(0x0f0f_0f0f, low, high);
        let bytes = s.keep(if H == 1 { 0x1f1f_1f1f } else { 0x3f3f_3f3f }, both);
        codes[0][v] = s.add(base, s.byte::<0>(bytes));
        codes[1][v] = s.add(base, s.byte::<1>(bytes));
        codes[2][v] = s.add(base, s.byte::<2>(bytes));
        codes[3][v] = s.add(base, s.byte::<3>(bytes));
    }
    for (b, codes) in codes.into_iter().enumerate() {
        f(8 * (c / 2) + 2 * b + c % 2, b, codes);
    }
}

/// The word of each of 16 outputs.
///
/// # Safety
/// 64 bytes are readable at `p`.
#[inline(always)]
unsafe fn load<S: Lookup, const NV: usize>(s: S, p: *const u8) -> [S::I; NV] {
    // SAFETY: as the caller vouches; `NV` vectors hold 16 words.
    unsafe {
        let mut out = [s.load_words(p); NV];
        for (v, out) in out.iter_mut().enumerate() {
            *out = s.load_words(p.add(4 * v * S::LANES));
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

            #[inline(always)]
            unsafe fn half<S: Lookup, const NV: usize>(
                s: S,
                _: [S::T; 2],
                p: *const u8,
                second: bool,
                mut f: impl FnMut(usize, usize, [S::V; NV]),
            ) {
                let p = if second { p.wrapping_add(256) } else { p };
                for j in 0..16 {
                    let mut codes = [s.splat(0.0); NV];
                    for (v, codes) in codes.iter_mut().enumerate() {
                        // SAFETY: each of 16 inputs has 16 bytes in its half of the chunk.
                        *codes = unsafe { s.$load(p.add(16 * j + v * S::LANES)) };
                    }
                    f(j, j, codes);
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
