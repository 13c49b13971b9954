//! Small floating point formats by one rule: f16, bf16, fp8 in its variants, fp4.
//!
//! A code is sign, exponent field and mantissa field. With the exponent field 0 the value is `m·2^(1−bias−M)`, else
//! `(2^M + m)·2^(e−bias−M)`. Encoding rounds once, half to even, straight from f64. f16 and bf16 overflow to ∞; the fp8
//! and fp4 formats saturate, ∞ included.

/// Which codes are not numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Specials {
    /// The highest exponent holds ∞ and NaN.
    Ieee,
    /// Only the all-ones magnitude is NaN.
    AllOnes,
    /// Only the code of −0 is NaN; there is no −0.
    NegativeZero,
    /// Every code is a number.
    None,
}

/// A small floating point format with a sign bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    exp_bits: u32,
    man_bits: u32,
    bias: i32,
    specials: Specials,
    saturates: bool,
}

/// IEEE binary16.
pub const F16: Format = Format { exp_bits: 5, man_bits: 10, bias: 15, specials: Specials::Ieee, saturates: false };
/// The upper half of binary32.
pub const BF16: Format = Format { exp_bits: 8, man_bits: 7, bias: 127, specials: Specials::Ieee, saturates: false };
/// OCP fp8 1-4-3; the largest value is 448.
pub const F8E4M3: Format = Format { exp_bits: 4, man_bits: 3, bias: 7, specials: Specials::AllOnes, saturates: true };
/// OCP fp8 1-5-2; the largest finite value is 57344.
pub const F8E5M2: Format = Format { exp_bits: 5, man_bits: 2, bias: 15, specials: Specials::Ieee, saturates: true };
/// fp8 1-4-3 with bias 8; the largest value is 240.
pub const F8E4M3FNUZ: Format =
    Format { exp_bits: 4, man_bits: 3, bias: 8, specials: Specials::NegativeZero, saturates: true };
/// fp8 1-5-2 with bias 16; the largest value is 57344.
pub const F8E5M2FNUZ: Format =
    Format { exp_bits: 5, man_bits: 2, bias: 16, specials: Specials::NegativeZero, saturates: true };
/// fp4 1-2-1: 0, 0.5, 1, 1.5, 2, 3, 4, 6. NaN encodes as 6, for want of a code of its own.
pub const F4E2M1: Format = Format { exp_bits: 2, man_bits: 1, bias: 1, specials: Specials::None, saturates: true };

/// 2^n as f64, for every n that an f64 can hold.
fn pow2(n: i32) -> f64 {
    if n >= -1022 { f64::from_bits(((n + 1023) as u64) << 52) } else { f64::from_bits(1 << (n + 1074)) }
}

/// ⌊log2 |x|⌋ of a finite x that is not 0, and never below `lowest`.
fn exponent(x: f64, lowest: i32) -> i32 {
    ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(lowest)
}

impl Format {
    fn sign_bit(self) -> u32 {
        1 << (self.exp_bits + self.man_bits)
    }

    /// The code of the largest finite magnitude.
    fn max_code(self) -> u32 {
        let all = self.sign_bit() - 1;
        match self.specials {
            Specials::Ieee => all - (1 << self.man_bits),
            Specials::AllOnes => all - 1,
            Specials::NegativeZero | Specials::None => all,
        }
    }

    fn nan(self) -> u32 {
        match self.specials {
            // The quiet NaN with no payload.
            Specials::Ieee if !self.saturates => self.max_code() + 1 + (1 << (self.man_bits - 1)),
            Specials::Ieee | Specials::AllOnes => self.sign_bit() - 1,
            Specials::NegativeZero => self.sign_bit(),
            Specials::None => self.max_code(),
        }
    }

    /// The largest finite value.
    pub fn max(self) -> f64 {
        self.decode(self.max_code())
    }

    /// The distance between neighbouring values around `x`, taken at the lower end of its binade; that of the
    /// subnormals around 0.
    pub fn ulp(self, x: f64) -> f64 {
        let lowest = 1 - self.bias;
        let e = if x == 0.0 { lowest } else { exponent(x.abs().min(self.max()), lowest) };
        pow2(e - self.man_bits as i32)
    }

    /// The smallest positive normal value.
    pub fn min_normal(self) -> f64 {
        pow2(1 - self.bias)
    }

    /// The value of a code; bits above the format's width are ignored.
    pub fn decode(self, code: u32) -> f64 {
        let magnitude = code & (self.sign_bit() - 1);
        let negative = code & self.sign_bit() != 0;
        let is_nan = match self.specials {
            Specials::Ieee => magnitude > self.max_code() + 1,
            Specials::AllOnes => magnitude == self.sign_bit() - 1,
            Specials::NegativeZero => negative && magnitude == 0,
            Specials::None => false,
        };
        if is_nan {
            return f64::NAN;
        }
        let (field, m) = ((magnitude >> self.man_bits) as i32, magnitude & ((1 << self.man_bits) - 1));
        let value = if self.specials == Specials::Ieee && magnitude > self.max_code() {
            f64::INFINITY
        } else if field == 0 {
            m as f64 * pow2(1 - self.bias - self.man_bits as i32)
        } else {
            ((1 << self.man_bits) + m) as f64 * pow2(field - self.bias - self.man_bits as i32)
        };
        if negative { -value } else { value }
    }

    /// The code of the value nearest to `x`, half to even.
    pub fn encode(self, x: f64) -> u32 {
        if x.is_nan() {
            return self.nan();
        }
        let lowest = 1 - self.bias;
        let beyond = if self.saturates { self.max_code() } else { self.max_code() + 1 };
        let magnitude = if x.is_infinite() {
            beyond
        } else if x == 0.0 {
            0
        } else {
            let e = exponent(x, lowest);
            // Exact: a division by a power of two. A carry out of the mantissa is the next exponent by itself.
            let steps = (x.abs() / pow2(e - self.man_bits as i32)).round_ties_even();
            let code = ((e - lowest) as u64) << self.man_bits;
            (code + steps as u64).min(beyond as u64) as u32
        };
        let signed = x.is_sign_negative() && (magnitude != 0 || self.specials != Specials::NegativeZero);
        if signed { magnitude | self.sign_bit() } else { magnitude }
    }
}

/// The value of an e8m0 code: 2^(code − 127), and NaN for 255.
pub fn decode_e8m0(code: u8) -> f64 {
    if code == 255 { f64::NAN } else { pow2(code as i32 - 127) }
}

/// The e8m0 code of the power of two nearest to `x`, halves upward; beyond the range it saturates, 0 included. NaN and
/// negative numbers, which have no code, give 255.
pub fn encode_e8m0(x: f64) -> u8 {
    if x.is_nan() || x < 0.0 {
        return 255;
    }
    if x == 0.0 {
        return 0;
    }
    let e = exponent(x.min(pow2(128)), -127);
    let up = x / pow2(e) >= 1.5;
    (e + 127 + up as i32).clamp(0, 254) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Format; 7] = [F16, BF16, F8E4M3, F8E5M2, F8E4M3FNUZ, F8E5M2FNUZ, F4E2M1];

    #[test]
    fn fp8_codes_stand_for_their_golden_values() {
        assert_eq!([0x38, 0x7e, 0x01, 0x08].map(|c| F8E4M3.decode(c)), [1.0, 448.0, pow2(-9), pow2(-6)]);
        assert!(F8E4M3.decode(0x7f).is_nan() && F8E4M3.decode(0xff).is_nan());
        assert_eq!([0x3c, 0x7b, 0x01, 0xfc].map(|c| F8E5M2.decode(c)), [1.0, 57344.0, pow2(-16), f64::NEG_INFINITY]);
        assert!([0x7d, 0x7e, 0x7f].iter().all(|&c| F8E5M2.decode(c).is_nan()));
        assert_eq!([F8E4M3FNUZ.max(), F8E5M2FNUZ.max()], [240.0, 57344.0]);
        assert!(F8E4M3FNUZ.decode(0x80).is_nan() && F8E5M2FNUZ.decode(0x80).is_nan());
        assert_eq!([0x7f, 0x00].map(decode_e8m0), [1.0, pow2(-127)]);
        let fp4: Vec<f64> = (0..8).map(|c| F4E2M1.decode(c)).collect();
        assert_eq!(fp4, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(F4E2M1.decode(15), -6.0);
    }

    #[test]
    fn sixteen_bit_codes_agree_with_the_half_crate() {
        for code in 0..=u16::MAX {
            for (ours, theirs) in [
                (F16.decode(code as u32), half::f16::from_bits(code).to_f64()),
                (BF16.decode(code as u32), half::bf16::from_bits(code).to_f64()),
            ] {
                assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{code:#x}");
            }
        }
    }

    #[test]
    fn every_number_encodes_to_its_own_code() {
        for f in ALL {
            for code in 0..2 * f.sign_bit() {
                let x = f.decode(code);
                if x.is_nan() {
                    assert!(f.decode(f.encode(x)).is_nan());
                } else if x.is_finite() || !f.saturates {
                    assert_eq!(f.encode(x), code, "{f:?} {x}");
                }
            }
        }
        assert!((0..255).all(|c| encode_e8m0(decode_e8m0(c)) == c));
    }

    #[test]
    fn a_midpoint_goes_to_the_even_code_and_its_neighbours_to_the_nearer() {
        for f in ALL {
            for code in 0..f.max_code() {
                let mid = (f.decode(code) + f.decode(code + 1)) / 2.0;
                assert_eq!(f.encode(mid), code + (code & 1), "{f:?} {mid}");
                assert_eq!(f.encode(mid.next_down()), code);
                assert_eq!(f.encode(-mid.next_up()), (code + 1) | f.sign_bit());
            }
        }
    }

    #[test]
    fn rounding_happens_once() {
        // A hair above a midpoint that f32 can't tell from it.
        let above = 1.0 + pow2(-11) + pow2(-40);
        assert_eq!(F16.encode(above), 0x3c01);
        assert_eq!(F16.encode((above as f32) as f64), 0x3c00);
    }

    #[test]
    fn overflow_is_infinite_in_f16_and_saturates_in_fp8() {
        assert_eq!(F16.encode(65519.9), 0x7bff);
        assert_eq!(F16.encode(65520.0), 0x7c00);
        assert_eq!(F8E4M3.encode(1e9), 0x7e);
        assert_eq!(F8E4M3.encode(f64::NEG_INFINITY), 0xfe);
        assert_eq!(F8E5M2.encode(f64::INFINITY), 0x7b);
        assert_eq!(F8E4M3.encode(f64::NAN), 0x7f);
        assert_eq!(F8E4M3FNUZ.encode(-0.0), 0);
        assert_eq!(F8E4M3.encode(-0.0), 0x80);
        assert_eq!(F4E2M1.encode(-100.0), 15);
    }

    #[test]
    fn e8m0_takes_the_nearest_power_of_two() {
        assert_eq!([1.0, 1.4, 1.5, 3.0, 0.0, 1e300].map(encode_e8m0), [127, 127, 128, 129, 0, 254]);
        assert_eq!([f64::NAN, -1.0].map(encode_e8m0), [255, 255]);
    }

    #[test]
    fn an_ulp_is_the_distance_to_the_next_code() {
        for f in ALL {
            for code in 0..f.max_code() {
                assert_eq!(f.ulp(f.decode(code)), f.decode(code + 1) - f.decode(code));
            }
        }
    }
}
