//! What holds of encoding and decoding whatever the input: finite, no worse than nothing, within a step of the range.

use proptest::prelude::*;
use qiao_core::DType;
use qiao_quant::{decode_row, encode_row};

/// The block formats, and the step between neighbouring codes as a share of the largest magnitude at worst.
const STEPS: [(DType, f64); 13] = [
    (DType::Q4_0, 1.0 / 8.0),
    (DType::Q4_1, 2.0 / 15.0),
    (DType::Q5_0, 1.0 / 16.0),
    (DType::Q5_1, 2.0 / 31.0),
    (DType::Q8_0, 1.0 / 127.0),
    (DType::Q2K, 2.0 / 3.0),
    (DType::Q3K, 1.0 / 4.0),
    (DType::Q4K, 2.0 / 15.0),
    (DType::Q5K, 2.0 / 31.0),
    (DType::Q6K, 1.0 / 32.0),
    (DType::Iq4Nl, 24.0 / 113.0),
    (DType::Iq4Xs, 24.0 / 113.0),
    (DType::Mxfp4, 1.0 / 2.0),
];

fn around(dtype: DType, x: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut bytes = vec![0xa5; dtype.bytes_for(x.len()).unwrap()];
    encode_row(dtype, x, importance, &mut bytes).unwrap();
    let mut back = vec![f32::NAN; x.len()];
    decode_row(dtype, &bytes, &mut back).unwrap();
    back
}

fn squares(x: &[f32], back: &[f32]) -> f64 {
    x.iter().zip(back).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn ordinary_rows_lose_less_than_a_step(
        x in prop::collection::vec(-1f32..1.0, 256),
        exponent in -8i32..12,
        shift in -1f32..1.0,
    ) {
        let x: Vec<f32> = x.iter().map(|v| (v + shift) * 2f32.powi(exponent)).collect();
        for (dtype, step) in STEPS {
            let back = around(dtype, &x, None);
            let peak = x.iter().fold(0f32, |m, v| m.max(v.abs())) as f64;
            let rms = (squares(&x, &back) / 256.0).sqrt();
            prop_assert!(rms <= step * peak, "{dtype}: {rms} of {peak}");
        }
    }

    #[test]
    fn any_finite_row_decodes_finite_and_no_worse_than_zeros(
        bits in prop::collection::vec(any::<u32>(), 256),
        keep in any::<u32>(),
        weights in prop::option::of(prop::collection::vec(prop_oneof![Just(0f32), 0f32..1e30, 0f32..1e-30], 256)),
    ) {
        // Exponents near one another are as frequent as ones far apart.
        let x: Vec<f32> = bits.iter().map(|b| f32::from_bits(b & (0x807f_ffff | keep & 0x7f80_0000)))
            .map(|v| if v.is_finite() { v } else { 0.0 }).collect();
        for (dtype, _) in STEPS {
            let back = around(dtype, &x, weights.as_deref());
            prop_assert!(back.iter().all(|v| v.is_finite()), "{dtype}");
            if weights.is_none() {
                let (ours, nothing) = (squares(&x, &back), squares(&x, &[0.0; 256]));
                prop_assert!(ours <= nothing * 1.0001 + 1e-20, "{dtype}: {ours:e} against {nothing:e}");
            }
        }
    }

    #[test]
    fn weights_matter_by_their_ratios_alone(x in prop::collection::vec(-1f32..1.0, 256), weight in 0.1f32..10.0) {
        for (dtype, _) in STEPS {
            let back = around(dtype, &x, None);
            for all in [vec![0f32; 256], vec![weight; 256]] {
                prop_assert_eq!(&around(dtype, &x, Some(&all)), &back, "{}", dtype);
            }
        }
    }
}

#[test]
fn bad_input_is_refused_with_its_place() {
    let mut out = [0u8; 18];
    let refused = |dtype, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]| {
        encode_row(dtype, x, importance, out).unwrap_err().to_string()
    };
    let mut x = [0f32; 32];
    assert!(refused(DType::F32, &x, None, &mut [0; 128]).contains("no block format"));
    assert!(refused(DType::Q4_0, &x[..31], None, &mut out).contains("18 bytes for 31 elements"));
    assert!(refused(DType::Q4_0, &x, None, &mut out[..17]).contains("17 bytes for 32 elements"));
    assert!(refused(DType::Q4_0, &x, Some(&[1.0; 31]), &mut out).contains("31 importances for 32 elements"));
    assert!(refused(DType::Q4_0, &x, Some(&[-1.0; 32]), &mut out).contains("importance of element 0 is -1"));
    x[7] = f32::INFINITY;
    assert!(refused(DType::Q4_0, &x, None, &mut out).contains("element 7 is inf"));
    x[7] = f32::NAN;
    assert!(refused(DType::Q4_0, &x, None, &mut out).contains("element 7 is NaN"));
    encode_row(DType::Q4_0, &[], None, &mut []).unwrap();
}

#[test]
fn rows_that_fill_the_codes_stay_exact() {
    for (dtype, levels) in [(DType::Q4_0, 16), (DType::Q5_0, 32), (DType::Q4_1, 16), (DType::Q5_1, 32)] {
        let x: Vec<f32> = (0..256).map(|i| ((i * 7) % levels - levels / 2) as f32).collect();
        assert_eq!(around(dtype, &x, None), x, "{dtype}");
    }
    let zeros = [0f32; 256];
    for (dtype, _) in STEPS {
        assert_eq!(around(dtype, &zeros, None), zeros, "{dtype}");
    }
}
