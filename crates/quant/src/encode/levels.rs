//! What the codes of a format stand for before a scale multiplies them, and which of them is nearest.

use crate::iq4;

/// 1.5·2^23: adding and subtracting it rounds an f32 below 2^22 to the nearest integer, half to even.
const ROUNDER: f32 = 12_582_912.0;

/// The levels of one format.
pub(crate) trait Levels: Copy {
    /// The most negative and the most positive level.
    fn ends(self) -> (f32, f32);
    /// The code of the level nearest to `v`.
    fn code(self, v: f32) -> u8;
    /// The level of a code.
    fn level(self, code: u8) -> f32;
    /// The level nearest to `v`.
    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        self.level(self.code(v))
    }
}

/// The integers from `lo` to `hi`; the code of `lo` is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Linear {
    pub(crate) lo: f32,
    pub(crate) hi: f32,
}

impl Levels for Linear {
    fn ends(self) -> (f32, f32) {
        (self.lo, self.hi)
    }

    #[inline(always)]
    fn code(self, v: f32) -> u8 {
        (self.nearest(v) - self.lo) as u8
    }

    #[inline(always)]
    fn level(self, code: u8) -> f32 {
        code as f32 + self.lo
    }

    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        let v = if v < self.lo { self.lo } else { v };
        let v = if v > self.hi { self.hi } else { v };
        (v + ROUNDER) - ROUNDER
    }
}

/// The table of the IQ4 formats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Iq4;

/// The nearest code for v in [i/2 − 128, i/2 − 127.5): every midpoint of the table is a multiple of a half.
const IQ4_CODES: [u8; 512] = {
    let mut codes = [0u8; 512];
    let mut i = 0;
    while i < 512 {
        // Four times the middle of the interval.
        let v = 2 * (i as i32 - 256) + 1;
        let mut c = 0;
        while c < 15 && v > 2 * (iq4::TABLE[c] as i32 + iq4::TABLE[c + 1] as i32) {
            c += 1;
        }
        codes[i] = c as u8;
        i += 1;
    }
    codes
};

/// The nearest level, by the same intervals.
static IQ4_LEVELS: [f32; 512] = {
    let mut levels = [0f32; 512];
    let mut i = 0;
    while i < 512 {
        levels[i] = iq4::TABLE[IQ4_CODES[i] as usize];
        i += 1;
    }
    levels
};

/// The interval of v.
#[inline(always)]
fn interval(v: f32) -> usize {
    (2.0 * v.clamp(-127.0, 113.0) + 256.0) as i32 as usize & 511
}

impl Levels for Iq4 {
    fn ends(self) -> (f32, f32) {
        (iq4::TABLE[0], iq4::TABLE[15])
    }

    #[inline(always)]
    fn code(self, v: f32) -> u8 {
        IQ4_CODES[interval(v)]
    }

    #[inline(always)]
    fn level(self, code: u8) -> f32 {
        iq4::TABLE[code as usize & 15]
    }

    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        IQ4_LEVELS[interval(v)]
    }
}

/// The numbers of fp4: sign, then 0, 0.5, 1, 1.5, 2, 3, 4, 6.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fp4;

const FP4: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

impl Levels for Fp4 {
    fn ends(self) -> (f32, f32) {
        (-6.0, 6.0)
    }

    #[inline(always)]
    fn code(self, v: f32) -> u8 {
        let a = v.abs();
        let above = |limit: f32| (a > limit) as u8;
        let magnitude = above(0.25) + above(0.75) + above(1.25) + above(1.75) + above(2.5) + above(3.5) + above(5.0);
        magnitude | ((v < 0.0 && magnitude > 0) as u8) << 3
    }

    #[inline(always)]
    fn level(self, code: u8) -> f32 {
        let magnitude = FP4[code as usize & 7];
        if code & 8 == 0 { magnitude } else { -magnitude }
    }
}

/// The levels of any format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Integers.
    Linear(Linear),
    /// The IQ4 table.
    Iq4,
    /// fp4.
    Fp4,
}

impl Kind {
    /// The code of the level nearest to `v`.
    #[inline(always)]
    pub(crate) fn code(self, v: f32) -> u8 {
        match self {
            Kind::Linear(l) => l.code(v),
            Kind::Iq4 => Iq4.code(v),
            Kind::Fp4 => Fp4.code(v),
        }
    }

    /// The level of a code.
    pub(crate) fn level(self, code: u8) -> f32 {
        match self {
            Kind::Linear(l) => l.level(code),
            Kind::Iq4 => Iq4.level(code),
            Kind::Fp4 => Fp4.level(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_finds_the_nearest_of_its_levels() {
        fn walk<L: Levels + std::fmt::Debug>(levels: L) {
            for i in -3000..3000 {
                let v = i as f32 / 20.0 + 0.003;
                let best = (0..16).map(|c| (levels.level(c) - v).abs()).fold(f32::MAX, f32::min);
                assert_eq!((levels.level(levels.code(v)) - v).abs(), best, "{levels:?} {v}");
                assert_eq!(levels.nearest(v), levels.level(levels.code(v)), "{levels:?} {v}");
            }
        }
        walk(Linear { lo: -8.0, hi: 7.0 });
        walk(Iq4);
        walk(Fp4);
    }
}
