//! One element between its bytes and f64: exact decoding, and one rounding (half to even) on the way back.

use qiao_core::DType;
use qiao_quant::minifloat::{self, Format};

/// The format of the small floats.
fn format(dtype: DType) -> Option<Format> {
    Some(match dtype {
        DType::F16 => minifloat::F16,
        DType::BF16 => minifloat::BF16,
        DType::F8E4M3 => minifloat::F8E4M3,
        DType::F8E5M2 => minifloat::F8E5M2,
        DType::F8E4M3Fnuz => minifloat::F8E4M3FNUZ,
        DType::F8E5M2Fnuz => minifloat::F8E5M2FNUZ,
        DType::F4E2M1 => minifloat::F4E2M1,
        _ => return None,
    })
}

macro_rules! le {
    ($t:ty, $bytes:expr) => {
        <$t>::from_le_bytes($bytes[..size_of::<$t>()].try_into().expect("the slice has this length"))
    };
}

/// The value of one element of a dtype that is not packed. 64-bit integers beyond 2^53 are rounded.
///
/// # Panics
/// `bytes` is shorter than the element, or the dtype is packed.
pub fn decode(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::F64 => le!(f64, bytes),
        DType::F32 => le!(f32, bytes) as f64,
        DType::F16 => half::f16::from_bits(le!(u16, bytes)).to_f64(),
        DType::BF16 => f32::from_bits((le!(u16, bytes) as u32) << 16) as f64,
        DType::F8E8M0 => minifloat::decode_e8m0(bytes[0]),
        DType::I64 => le!(i64, bytes) as f64,
        DType::I32 => le!(i32, bytes) as f64,
        DType::I16 => le!(i16, bytes) as f64,
        DType::I8 => bytes[0] as i8 as f64,
        DType::U64 => le!(u64, bytes) as f64,
        DType::U32 => le!(u32, bytes) as f64,
        DType::U16 => le!(u16, bytes) as f64,
        DType::U8 => bytes[0] as f64,
        DType::Bool => (bytes[0] != 0) as u8 as f64,
        _ => format(dtype).expect("packed dtypes are decoded by rows").decode(bytes[0] as u32),
    }
}

/// Writes `x`, rounded once to a dtype that is not packed: half to even; f16, bf16 and f32 overflow to ∞, fp8 and
/// integers saturate, NaN becomes 0 in an integer.
///
/// # Panics
/// `out` is shorter than the element, or the dtype is packed.
pub fn encode(dtype: DType, x: f64, out: &mut [u8]) {
    let whole = || x.round_ties_even();
    let mut put = |bytes: &[u8]| out[..bytes.len()].copy_from_slice(bytes);
    match dtype {
        DType::F64 => put(&x.to_le_bytes()),
        DType::F32 => put(&(x as f32).to_le_bytes()),
        DType::F16 | DType::BF16 => {
            put(&(format(dtype).expect("a small float has its format").encode(x) as u16).to_le_bytes());
        }
        DType::F8E8M0 => put(&[minifloat::encode_e8m0(x)]),
        DType::I64 => put(&(whole() as i64).to_le_bytes()),
        DType::I32 => put(&(whole() as i32).to_le_bytes()),
        DType::I16 => put(&(whole() as i16).to_le_bytes()),
        DType::I8 => put(&(whole() as i8).to_le_bytes()),
        DType::U64 => put(&(whole() as u64).to_le_bytes()),
        DType::U32 => put(&(whole() as u32).to_le_bytes()),
        DType::U16 => put(&(whole() as u16).to_le_bytes()),
        DType::U8 => put(&[whole() as u8]),
        DType::Bool => put(&[(whole() >= 1.0) as u8]),
        _ => put(&[format(dtype).expect("packed dtypes are written by blocks").encode(x) as u8]),
    }
}

/// `x` as the dtype holds it.
///
/// # Panics
/// The dtype is packed.
pub fn round(dtype: DType, x: f64) -> f64 {
    let mut bytes = [0; 8];
    encode(dtype, x, &mut bytes);
    decode(dtype, &bytes)
}

/// The distance between neighbouring numbers around `x`, taken at the lower end of its binade: for a zero or a
/// subnormal that of the subnormals; 1 for an integer dtype.
pub fn ulp(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F64 => {
            let x = x.abs().min(f64::MAX / 2.0);
            x.next_up() - x
        }
        DType::F32 => {
            let exponent = (x.abs().to_bits() >> 52) as i32 - 1023;
            2f64.powi(exponent.clamp(-126, 127) - 23)
        }
        DType::F8E8M0 => x.abs(),
        _ => format(dtype).map_or(1.0, |f| f.ulp(x)),
    }
}

/// The unit roundoff: half the relative distance between neighbouring normal numbers; 0 for integers.
pub fn unit(dtype: DType) -> f64 {
    if dtype.is_float() && !dtype.is_packed() { ulp(dtype, 1.0) / 2.0 } else { 0.0 }
}

/// The smallest positive normal number; 0 for integers.
pub fn min_normal(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::MIN_POSITIVE,
        DType::F32 => f32::MIN_POSITIVE as f64,
        _ => format(dtype).map_or(0.0, |f| f.min_normal()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_saturate_and_round_half_to_even() {
        for (dtype, x, want) in [
            (DType::I8, 300.0, 127.0),
            (DType::I8, -300.0, -128.0),
            (DType::I8, 2.5, 2.0),
            (DType::I8, 3.5, 4.0),
            (DType::U8, -1.0, 0.0),
            (DType::I32, f64::NAN, 0.0),
            (DType::I32, 1e20, i32::MAX as f64),
            (DType::Bool, 7.0, 1.0),
            (DType::Bool, -7.0, 0.0),
        ] {
            assert_eq!(round(dtype, x), want, "{dtype} {x}");
        }
    }

    #[test]
    fn floats_overflow_to_infinity_and_fp8_saturates() {
        assert_eq!(round(DType::F16, 1e6), f64::INFINITY);
        assert_eq!(round(DType::BF16, -1e39), f64::NEG_INFINITY);
        assert_eq!(round(DType::F32, 1e39), f64::INFINITY);
        assert_eq!(round(DType::F8E4M3, -1e6), -448.0);
        assert!(round(DType::F16, f64::NAN).is_nan());
    }

    #[test]
    fn units_are_those_of_the_formats() {
        let units = [DType::F32, DType::F16, DType::BF16, DType::F8E4M3, DType::F8E5M2].map(unit);
        assert_eq!(units, [-24, -11, -8, -4, -3].map(|n| 2f64.powi(n)));
        assert_eq!(ulp(DType::F32, 3.0), 2f64.powi(-22));
        assert_eq!(ulp(DType::F16, 0.0), 2f64.powi(-24));
        assert_eq!(ulp(DType::I32, 5.0), 1.0);
    }
}
