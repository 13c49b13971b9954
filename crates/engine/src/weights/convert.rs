//! Dtypes into floats on the host, for a device that does not store a weight's own dtype: floats into one another, block formats
//! into floats.

use half::{bf16, f16};
use qiao_core::DType;

/// Whether [`floats`] reads or [`blocks`] decodes the dtype.
pub fn is_convertible(dtype: DType) -> bool {
    is_float(dtype) || dtype.is_block()
}

/// Decodes a block format, whole blocks in order, to another float dtype, appending to `out`; each value is rounded once.
///
/// Returns false, with `out` unchanged, when `from` is no block format, `to` not one of f64, f32, f16, bf16, or the bytes are no
/// whole number of blocks.
pub fn blocks(from: DType, bytes: &[u8], to: DType, out: &mut Vec<u8>) -> bool {
    if !from.is_block() || !is_float(to) || !bytes.len().is_multiple_of(from.block_bytes()) {
        return false;
    }
    out.reserve(bytes.len() / from.block_bytes() * from.block_elems() * to.block_bytes());
    let mut values = vec![0.0; from.block_elems()];
    for block in bytes.chunks_exact(from.block_bytes()) {
        qiao_quant::decode_row(from, block, &mut values).expect("a whole block of a block format");
        write(values.iter().map(|&v| f64::from(v)), to, out);
    }
    true
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
}

/// Converts little-endian floats from one dtype to another, rounding to nearest even, appending to `out`.
///
/// `bytes` need not be aligned; a trailing part of an element is dropped. A value beyond the target's range becomes infinite.
/// Returns false, with `out` unchanged, when either dtype is not one of f64, f32, f16, bf16.
pub fn floats(from: DType, bytes: &[u8], to: DType, out: &mut Vec<u8>) -> bool {
    if !is_float(from) || !is_float(to) {
        return false;
    }
    if from == to {
        let width = from.block_bytes();
        out.extend_from_slice(&bytes[..bytes.len() / width * width]);
        return true;
    }
    out.reserve(bytes.len() / from.block_bytes() * to.block_bytes());
    match from {
        DType::F64 => write(bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)), to, out),
        DType::F32 => write(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()), to, out),
        DType::F16 => write(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).into()), to, out),
        _ => write(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).into()), to, out),
    }
    true
}

/// The first value that a conversion by [`floats`] would turn from a finite into an infinite one.
pub fn first_overflow(from: DType, bytes: &[u8], to: DType) -> Option<f64> {
    let most = match to {
        // What is at least half way from the largest value to the next power of two rounds up to it.
        DType::F16 => 65_520.0,
        DType::BF16 => f64::from_bits(0x47EF_F000_0000_0000),
        DType::F32 if from == DType::F64 => f64::from_bits(0x47EF_FFFF_F000_0000),
        _ => return None,
    };
    let beyond = |v: &f64| v.is_finite() && v.abs() >= most;
    match from {
        DType::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).find(beyond),
        DType::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).find(beyond),
        DType::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).into()).find(beyond),
        DType::BF16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).into()).find(beyond),
        _ => None,
    }
}

/// f64 holds every value of the narrower dtypes, so going through it rounds once.
fn write(values: impl Iterator<Item = f64>, to: DType, out: &mut Vec<u8>) {
    match to {
        DType::F64 => values.for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        DType::F32 => values.for_each(|v| out.extend_from_slice(&(v as f32).to_le_bytes())),
        DType::F16 => values.for_each(|v| out.extend_from_slice(&f16::from_f64(v).to_le_bytes())),
        _ => values.for_each(|v| out.extend_from_slice(&bf16::from_f64(v).to_le_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(from: DType, bytes: &[u8], to: DType) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(floats(from, bytes, to, &mut out));
        out
    }

    #[test]
    fn every_half_survives_a_trip_through_f32() {
        for bits in 0..=u16::MAX {
            for dtype in [DType::F16, DType::BF16] {
                let nan = match dtype {
                    DType::F16 => f16::from_bits(bits).is_nan(),
                    _ => bf16::from_bits(bits).is_nan(),
                };
                let wide = through(dtype, &bits.to_le_bytes(), DType::F32);
                if nan {
                    assert!(f32::from_le_bytes(wide[..4].try_into().unwrap()).is_nan());
                } else {
                    assert_eq!(through(DType::F32, &wide, dtype), bits.to_le_bytes());
                }
            }
        }
    }

    #[test]
    fn narrowing_rounds_to_nearest_even() {
        let halfway = f32::from_bits(0x3F80_8000).to_le_bytes();
        assert_eq!(through(DType::F32, &halfway, DType::BF16), 0x3F80u16.to_le_bytes());
        let above = f32::from_bits(0x3F81_8000).to_le_bytes();
        assert_eq!(through(DType::F32, &above, DType::BF16), 0x3F82u16.to_le_bytes());
        assert_eq!(through(DType::F32, &1e6f32.to_le_bytes(), DType::F16), f16::INFINITY.to_le_bytes());
    }

    #[test]
    fn values_that_become_infinite_are_found_and_no_others() {
        for (to, largest) in
            [(DType::F16, 65504.0), (DType::BF16, f64::from(bf16::MAX)), (DType::F32, f64::from(f32::MAX))]
        {
            let step = largest - f64::from_bits(largest.to_bits() & !0xfff_ffff_ffff);
            assert!(step >= 0.0);
            for factor in [0.999, 1.0, 1.0001, 1.000_244, 1.000_245, 1.001, 1.01] {
                for sign in [1.0, -1.0] {
                    let value = sign * largest * factor;
                    let bytes = f64::to_le_bytes(value);
                    let converted = through(DType::F64, &bytes, to);
                    let wide = through(to, &converted, DType::F64);
                    let infinite = f64::from_le_bytes(wide[..8].try_into().unwrap()).is_infinite();
                    assert_eq!(first_overflow(DType::F64, &bytes, to).is_some(), infinite, "{value} to {to}");
                }
            }
        }
        assert_eq!(first_overflow(DType::F32, &f32::INFINITY.to_le_bytes(), DType::F16), None);
        let both: Vec<u8> = [1.0f32, -7e4].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(first_overflow(DType::F32, &both, DType::F16), Some(-7e4));
    }

    #[test]
    fn blocks_become_the_floats_that_they_decode_to() {
        let block: Vec<u8> = [0x00, 0x38].into_iter().chain(0..32).collect();
        let mut values = [0.0; 32];
        qiao_quant::decode_row(DType::Q8_0, &block, &mut values).unwrap();
        let mut out = Vec::new();
        assert!(blocks(DType::Q8_0, &block.repeat(2), DType::F16, &mut out));
        let expected: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        assert_eq!(out, expected.repeat(2));
        assert!(!blocks(DType::Q8_0, &block[..33], DType::F16, &mut out));
        assert!(!blocks(DType::Q8_0, &block, DType::I8, &mut out));
        assert!(!blocks(DType::F32, &block[..32], DType::F16, &mut out));
    }

    #[test]
    fn integers_are_not_converted() {
        let mut out = vec![1];
        assert!(!floats(DType::I32, &[0; 8], DType::F32, &mut out));
        assert_eq!(out, [1]);
    }
}
