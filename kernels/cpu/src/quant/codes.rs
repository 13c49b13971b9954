//! Codes of a chunk as vectors of bytes: vector `v` of 8 holds, for each of 16 outputs, the four inputs that
//! [`QuantFormat::order`](crate::QuantFormat::order) names at `4v`.

use super::words::Lookup;

/// How the codes of a chunk are unpacked.
pub(crate) trait Code: Copy {
    /// Bytes of a chunk.
    const BYTES: usize;
    /// Whether the inputs of a half share a scale, instead of those of the whole chunk.
    const HALVES: bool = false;
    /// Whether so little unpacks them that it may be done for every few rows.
    const CHEAP: bool = true;

    /// Calls `f(v, bytes)` for the vectors 0 to 3 of the chunk at `p`, which hold its first 16 inputs, or for the others.
    ///
    /// # Safety
    /// The chunk is readable.
    unsafe fn half<S: Lookup, const NV: usize>(
        s: S,
        table: S::T,
        p: *const u8,
        second: bool,
        f: impl FnMut(usize, [S::I; NV]),
    );
}

/// Bytes of one word for all outputs.
const WORD: usize = 64;

/// Word `at` of each of 16 outputs.
///
/// # Safety
/// It lies in the chunk.
#[inline(always)]
unsafe fn load<S: Lookup, const NV: usize>(s: S, p: *const u8, at: usize) -> [S::I; NV] {
    // SAFETY: as the caller vouches; `NV` vectors hold 16 words.
    unsafe {
        each(
            #[inline(always)]
            |v| s.load_words(p.add(at * WORD + 4 * v * S::LANES)),
        )
    }
}

/// What `f` says of each vector.
#[inline(always)]
fn each<T: Copy, const NV: usize>(mut f: impl FnMut(usize) -> T) -> [T; NV] {
    let mut out = [f(0); NV];
    for (v, out) in out.iter_mut().enumerate().skip(1) {
        *out = f(v);
    }
    out
}

/// Nibble `odd` of each byte.
#[inline(always)]
fn nibbles<S: Lookup, const NV: usize>(s: S, words: [S::I; NV], odd: bool) -> [S::I; NV] {
    each(
        #[inline(always)]
        |v| s.keep(0x0f0f_0f0f, if odd { s.down::<4>(words[v]) } else { words[v] }),
    )
}

/// Two bits of each byte, from bit `2 · j` on.
#[inline(always)]
fn pairs<S: Lookup>(s: S, words: S::I, j: usize) -> S::I {
    let words = match j {
        0 => words,
        1 => s.down::<2>(words),
        2 => s.down::<4>(words),
        _ => s.down::<6>(words),
    };
    s.keep(0x0303_0303, words)
}

/// Bit `v` of each byte moved to bit `to`, 2 or 4, beside others.
#[inline(always)]
fn bit<S: Lookup>(s: S, words: S::I, v: usize, to: usize) -> S::I {
    match to as isize - v as isize {
        4 => s.up::<4>(words),
        3 => s.up::<3>(words),
        2 => s.up::<2>(words),
        1 => s.up::<1>(words),
        0 => words,
        -1 => s.down::<1>(words),
        -2 => s.down::<2>(words),
        -3 => s.down::<3>(words),
        -4 => s.down::<4>(words),
        _ => s.down::<5>(words),
    }
}

/// Calls a closure for four vectors in a row, without a loop that would have to be unrolled.
macro_rules! four {
    ($first:expr, |$v:ident| $body:expr) => {{
        let first = $first;
        four!(@one first, 0, $v, $body);
        four!(@one first, 1, $v, $body);
        four!(@one first, 2, $v, $body);
        four!(@one first, 3, $v, $body);
    }};
    (@one $first:ident, $j:literal, $v:ident, $body:expr) => {{
        let $v = $first + $j;
        $body
    }};
}

/// Codes of 4 bits, looked up in a table where `TABLE`.
#[derive(Clone, Copy)]
pub(crate) struct Four<const TABLE: bool>;

impl<const TABLE: bool> Code for Four<TABLE> {
    const BYTES: usize = 4 * WORD;

    #[inline(always)]
    unsafe fn half<S: Lookup, const NV: usize>(
        s: S,
        table: S::T,
        p: *const u8,
        second: bool,
        mut f: impl FnMut(usize, [S::I; NV]),
    ) {
        four!(if second { 4 } else { 0 }, |v| {
            // SAFETY: a chunk has four words.
            let bytes = nibbles(s, unsafe { load::<S, NV>(s, p, v / 2) }, v % 2 == 1);
            f(
                v,
                if TABLE {
                    each(
                        #[inline(always)]
                        |i| s.lookup(table, bytes[i]),
                    )
                } else {
                    bytes
                },
            );
        });
    }
}

/// Codes of 5 bits.
#[derive(Clone, Copy)]
pub(crate) struct Five;

impl Code for Five {
    const BYTES: usize = 5 * WORD;
    const CHEAP: bool = false;

    #[inline(always)]
    unsafe fn half<S: Lookup, const NV: usize>(
        s: S,
        _: S::T,
        p: *const u8,
        second: bool,
        mut f: impl FnMut(usize, [S::I; NV]),
    ) {
        // SAFETY: a chunk has four words of low bits, then one of high bits.
        let high = unsafe { load::<S, NV>(s, p, 4) };
        four!(if second { 4 } else { 0 }, |v| {
            // SAFETY: as above.
            let low = nibbles(s, unsafe { load::<S, NV>(s, p, v / 2) }, v % 2 == 1);
            f(
                v,
                each(
                    #[inline(always)]
                    |i| s.with(low[i], 0x1010_1010, bit(s, high[i], v, 4)),
                ),
            );
        });
    }
}

/// Codes of 6 bits.
#[derive(Clone, Copy)]
pub(crate) struct Six;

impl Code for Six {
    const BYTES: usize = 6 * WORD;
    const HALVES: bool = true;
    const CHEAP: bool = false;

    #[inline(always)]
    unsafe fn half<S: Lookup, const NV: usize>(
        s: S,
        _: S::T,
        p: *const u8,
        second: bool,
        mut f: impl FnMut(usize, [S::I; NV]),
    ) {
        // SAFETY: a chunk has four words of low bits, then one of high bits for each half.
        let high = unsafe { load::<S, NV>(s, p, if second { 5 } else { 4 }) };
        four!(if second { 4 } else { 0 }, |v| {
            // SAFETY: as above.
            let low = nibbles(s, unsafe { load::<S, NV>(s, p, v / 2) }, v % 2 == 1);
            f(
                v,
                each(
                    #[inline(always)]
                    |i| s.with(low[i], 0x3030_3030, bit(s, high[i], 2 * (v % 4), 4)),
                ),
            );
        });
    }
}

/// Codes of 2 bits.
#[derive(Clone, Copy)]
pub(crate) struct Two;

impl Code for Two {
    const BYTES: usize = 2 * WORD;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn half<S: Lookup, const NV: usize>(
        s: S,
        _: S::T,
        p: *const u8,
        second: bool,
        mut f: impl FnMut(usize, [S::I; NV]),
    ) {
        // SAFETY: a chunk has a word for each half.
        let words = unsafe { load::<S, NV>(s, p, if second { 1 } else { 0 }) };
        four!(if second { 4 } else { 0 }, |v| f(
            v,
            each(
                #[inline(always)]
                |i| pairs(s, words[i], v % 4)
            )
        ));
    }
}

/// Codes of 3 bits.
#[derive(Clone, Copy)]
pub(crate) struct Three;

impl Code for Three {
    const BYTES: usize = 3 * WORD;
    const HALVES: bool = true;
    const CHEAP: bool = false;

    #[inline(always)]
    unsafe fn half<S: Lookup, const NV: usize>(
        s: S,
        _: S::T,
        p: *const u8,
        second: bool,
        mut f: impl FnMut(usize, [S::I; NV]),
    ) {
        // SAFETY: a chunk has a word of low bits for each half, then one of high bits.
        let (low, high) = unsafe { (load::<S, NV>(s, p, if second { 1 } else { 0 }), load::<S, NV>(s, p, 2)) };
        four!(if second { 4 } else { 0 }, |v| {
            f(
                v,
                each(
                    #[inline(always)]
                    |i| s.with(pairs(s, low[i], v % 4), 0x0404_0404, bit(s, high[i], v, 2)),
                ),
            );
        });
    }
}

/// Codes of 8 bits.
#[derive(Clone, Copy)]
pub(crate) struct Eight;

impl Code for Eight {
    const BYTES: usize = 8 * WORD;

    #[inline(always)]
    unsafe fn half<S: Lookup, const NV: usize>(
        s: S,
        _: S::T,
        p: *const u8,
        second: bool,
        mut f: impl FnMut(usize, [S::I; NV]),
    ) {
        // SAFETY: a chunk has eight words.
        four!(if second { 4 } else { 0 }, |v| f(v, unsafe { load::<S, NV>(s, p, v) }));
    }
}
