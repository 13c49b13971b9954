//! How far the results of a token are apart.

use qiao_core::DType;

use crate::weights::convert::floats;

/// The numbers of a result; `None` where its dtype is no float.
pub(super) fn numbers(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    let mut wide = Vec::new();
    floats(dtype, bytes, DType::F32, &mut wide)
        .then(|| wide.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
}

/// The largest `|x − trusted|`, over the largest `|trusted|`; infinite where only one side is a number, or where they are infinite
/// in different ways. A trusted row of zeros allows no error.
pub(super) fn relative(found: &[f32], trusted: &[f32]) -> f64 {
    let (mut error, mut size) = (0.0f64, 0.0f64);
    for (&x, &t) in found.iter().zip(trusted) {
        let same = x == t || x.is_nan() && t.is_nan();
        if !(x.is_finite() && t.is_finite()) {
            if !same {
                return f64::INFINITY;
            }
            continue;
        }
        error = error.max((f64::from(x) - f64::from(t)).abs());
        size = size.max(f64::from(t).abs());
    }
    if error == 0.0 { 0.0 } else { error / size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_relative_to_the_row() {
        assert_eq!(relative(&[1.0, -3.5], &[1.0, -4.0]), 0.125);
        assert_eq!(relative(&[f32::NAN, f32::INFINITY], &[f32::NAN, f32::INFINITY]), 0.0);
        assert_eq!(relative(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(relative(&[f32::INFINITY], &[f32::NEG_INFINITY]), f64::INFINITY);
        assert_eq!(relative(&[0.0], &[0.0]), 0.0);
        assert_eq!(relative(&[1e-9], &[0.0]), f64::INFINITY);
    }

    #[test]
    fn numbers_are_those_of_the_dtype() {
        assert_eq!(numbers(DType::BF16, &[0x80, 0x3f, 0x00, 0xc0]), Some(vec![1.0, -2.0]));
        assert_eq!(numbers(DType::I32, &[0; 4]), None);
    }
}
