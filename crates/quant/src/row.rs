//! The door to the block formats: which decoder reads which dtype.

use qiao_core::{DType, Error, Result};

use crate::{iq4, kquant, mxfp4, q32};

/// Decodes one block: its bytes to its elements.
type Decode = fn(&[u8], &mut [f32]);

fn decoder(dtype: DType) -> Option<Decode> {
    Some(match dtype {
        DType::Q4_0 => q32::q4_0,
        DType::Q4_1 => q32::q4_1,
        DType::Q5_0 => q32::q5_0,
        DType::Q5_1 => q32::q5_1,
        DType::Q8_0 => q32::q8_0,
        DType::Q2K => kquant::q2_k,
        DType::Q3K => kquant::q3_k,
        DType::Q4K => kquant::q4_k,
        DType::Q5K => kquant::q5_k,
        DType::Q6K => kquant::q6_k,
        DType::Iq4Nl => iq4::iq4_nl,
        DType::Iq4Xs => iq4::iq4_xs,
        DType::Mxfp4 => mxfp4::mxfp4,
        _ => return None,
    })
}

/// Where in a block its f16 scales and minima stand, in bytes; those of a dtype that is no block format mean nothing.
pub const fn scale_offsets(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        // Every exponent of MXFP4 is a number.
        DType::Mxfp4 => &[],
        _ => &[0],
    }
}

/// The first of consecutive blocks of a block format with a scale that is NaN or infinite, counted from 0. An incomplete block at
/// the end is not looked at; a dtype that is no block format has none.
pub fn first_bad_scale(dtype: DType, bytes: &[u8]) -> Option<usize> {
    // The exponent of all ones.
    let bad = |block: &[u8]| scale_offsets(dtype).iter().any(|&at| block[at + 1] & 0x7c == 0x7c);
    if !dtype.is_block() {
        return None;
    }
    bytes.chunks_exact(dtype.block_bytes()).position(bad)
}

/// Decodes consecutive blocks of a block format: `out` takes a whole number of blocks, and `bytes` holds exactly those.
///
/// # Errors
/// A dtype that is no block format, or sizes that do not belong together.
pub fn decode_row(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let what = || format!("decoding a row of {dtype}");
    let decode =
        decoder(dtype).ok_or_else(|| Error::invalid(what(), "it is no block format", "give a block format"))?;
    if dtype.bytes_for(out.len()) != Some(bytes.len()) {
        return Err(Error::invalid(
            what(),
            format!("{} bytes for {} elements", bytes.len(), out.len()),
            format!("give {} bytes for every {} elements", dtype.block_bytes(), dtype.block_elems()),
        ));
    }
    for (block, x) in bytes.chunks_exact(dtype.block_bytes()).zip(out.chunks_exact_mut(dtype.block_elems())) {
        decode(block, x);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `37·i + 11`, modulo 256.
    fn pat(n: usize) -> Vec<u8> {
        (0..n).map(|i| (37 * i + 11) as u8).collect()
    }

    const H: [u8; 2] = [0x00, 0x38];
    const Q: [u8; 2] = [0x00, 0x34];

    struct Golden {
        dtype: DType,
        bytes: Vec<u8>,
        first: [f32; 4],
        last: [f32; 2],
        sum: f64,
        weighted: f64,
    }

    fn golden(dtype: DType, parts: &[&[u8]], first: [f32; 4], last: [f32; 2], sum: f64, weighted: f64) -> Golden {
        Golden { dtype, bytes: parts.concat(), first, last, sum, weighted }
    }

    fn goldens() -> Vec<Golden> {
        let p = pat;
        vec![
            golden(DType::Q4_0, &[&H, &p(16)], [1.5, -4.0, -1.5, 1.0], [-3.5, -2.5], -15.5, -303.5),
            golden(DType::Q4_1, &[&H, &Q, &p(16)], [5.75, 0.25, 2.75, 5.25], [0.75, 1.75], 120.5, 1940.5),
            golden(DType::Q5_0, &[&H, &p(20)], [7.5, 2.0, -3.5, 7.0], [5.0, -2.0], -21.5, -168.5),
            golden(DType::Q5_1, &[&H, &Q, &p(20)], [15.75, 10.25, 4.75, 15.25], [13.25, 6.25], 242.5, 4187.5),
            golden(DType::Q8_0, &[&H, &p(32)], [5.5, 24.0, 42.5, 61.0], [48.5, -61.0], 8.0, -1944.0),
            golden(DType::Q2K, &[&p(80), &H, &Q], [16.5, 0.0, 5.5, 11.0], [2.25, 2.25], 1029.5, 121565.0),
            golden(DType::Q3K, &[&p(108), &H], [40.5, -54.0, 13.5, -27.0], [-14.0, 21.0], 479.0, 88572.5),
            golden(DType::Q4K, &[&H, &Q, &p(140)], [30.75, 58.25, -2.25, 25.25], [132.5, 15.5], 22252.0, 2566624.0),
            golden(DType::Q5K, &[&H, &Q, &p(172)], [118.75, 58.25, 85.75, 25.25], [78.5, 105.5], 46164.0, 5348296.0),
            golden(DType::Q6K, &[&p(208), &H], [-715.5, 848.0, 291.5, -265.0], [-20.0, -30.0], 2306.0, 392210.0),
            golden(DType::Iq4Nl, &[&H, &p(16)], [19.0, -63.5, -17.5, 12.5], [-52.0, -32.5], -207.5, -4108.5),
            golden(DType::Iq4Xs, &[&H, &p(134)], [136.5, 934.5, -682.5, 10.5], [1040.0, 490.0], 7933.0, 1760417.5),
            golden(DType::Mxfp4, &[&[0x82], &p(16)], [-12.0, 0.0, 24.0, -8.0], [4.0, 12.0], 76.0, 2052.0),
        ]
    }

    #[test]
    fn every_block_format_decodes_to_its_golden_values() {
        for g in goldens() {
            let mut x = vec![f32::NAN; g.dtype.block_elems()];
            decode_row(g.dtype, &g.bytes, &mut x).unwrap();
            let n = x.len();
            assert_eq!(x[..4], g.first, "{}", g.dtype);
            assert_eq!(x[n - 2..], g.last, "{}", g.dtype);
            assert_eq!(x.iter().map(|&v| v as f64).sum::<f64>(), g.sum, "{}", g.dtype);
            assert_eq!((1..).zip(&x).map(|(j, &v)| j as f64 * v as f64).sum::<f64>(), g.weighted, "{}", g.dtype);
        }
    }

    #[test]
    fn every_block_format_has_a_decoder_and_golden_values() {
        let goldens = goldens();
        for &d in DType::ALL {
            assert_eq!(decoder(d).is_some(), d.is_block(), "{d}");
            assert_eq!(goldens.iter().any(|g| g.dtype == d), d.is_block(), "{d}");
        }
    }

    #[test]
    fn blocks_of_a_row_are_decoded_one_after_the_other() {
        for g in goldens() {
            let mut row = vec![0.0; 2 * g.dtype.block_elems()];
            decode_row(g.dtype, &g.bytes.repeat(2), &mut row).unwrap();
            let (a, b) = row.split_at(g.dtype.block_elems());
            assert_eq!(a, b);
            assert_eq!(a[..4], g.first);
        }
    }

    #[test]
    fn a_scale_that_is_no_number_is_found_wherever_the_decoder_reads_one() {
        for g in goldens() {
            let good = g.bytes.repeat(3);
            assert_eq!(first_bad_scale(g.dtype, &good), None, "{}", g.dtype);
            let mut x = vec![0.0; 3 * g.dtype.block_elems()];
            for at in 0..g.bytes.len() {
                let mut bytes = good.clone();
                bytes[g.bytes.len() + at] = 0xff;
                decode_row(g.dtype, &bytes, &mut x).unwrap();
                let finite = x.iter().all(|v| v.is_finite()) || g.dtype == DType::Mxfp4;
                assert_eq!(first_bad_scale(g.dtype, &bytes), (!finite).then_some(1), "{} byte {at}", g.dtype);
            }
        }
        assert_eq!(first_bad_scale(DType::F16, &[0xff; 8]), None);
    }

    #[test]
    fn sizes_that_do_not_belong_together_are_an_error() {
        let mut x = [0.0; 32];
        assert!(decode_row(DType::Q4_0, &[0; 17], &mut x).is_err());
        assert!(decode_row(DType::Q4_0, &[0; 18], &mut x[..31]).is_err());
        assert!(decode_row(DType::F32, &[0; 128], &mut x).is_err());
        assert!(decode_row(DType::Q4_0, &[], &mut []).is_ok());
    }
}
