//! Conversions: the bits, on every tier.

mod oracle;

use half::{bf16, f16};
use oracle::{Guarded, Random, output, tables};
use qiao_kernels_cpu::{E4m3, E5m2, Kernels};
use qiao_quant::minifloat::{F8E4M3, F8E5M2, Format};

/// f32 bit patterns: every exponent with mantissas around each rounding border.
fn patterns() -> Vec<u32> {
    let mut bits = Vec::new();
    for exponent in 0..=255u32 {
        for mantissa in [0, 1, 0xfff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001] {
            bits.extend(
                [0x1_7fff, 0x1_8000, 0x7f_efff, 0x7f_f000, 0x7f_ffff, 0x40_0000, 0x5a_5a5a, mantissa]
                    .map(|m| exponent << 23 | m),
            );
        }
    }
    bits.extend((0..=u32::MAX / 65_521).map(|i| i * 65_521));
    let negative: Vec<u32> = bits.iter().map(|b| b ^ 0x8000_0000).collect();
    bits.extend(negative);
    bits
}

#[test]
fn narrowing_rounds_to_nearest_even_with_the_same_bits_on_every_tier() {
    let x: Vec<f32> = patterns().into_iter().map(f32::from_bits).collect();
    for k in tables() {
        let mut h = Guarded::new(x.len(), f16::ONE, f16::MAX);
        let mut b = Guarded::new(x.len(), bf16::ONE, bf16::MAX);
        (k.f32_to_f16.run)(h.inside(), &x);
        (k.f32_to_bf16.run)(b.inside(), &x);
        for (i, x) in x.iter().enumerate() {
            let (h, b) = (h.checked()[i].to_bits(), b.checked()[i].to_bits());
            let bits = x.to_bits();
            if x.is_nan() {
                assert_eq!(h, (bits >> 16 & 0x8000 | 0x7e00 | bits >> 13 & 0x3ff) as u16);
                assert_eq!(b, (bits >> 16 | 0x40) as u16);
            } else {
                let name = k.f32_to_f16.name;
                assert_nearest(name, *x, h, 0x7c00, |h| f16::from_bits(h).to_f64());
                let name = k.f32_to_bf16.name;
                assert_nearest(name, *x, b, 0x7f80, |b| bf16::from_bits(b).to_f64());
            }
        }
    }
}

/// Holds `half` to be the nearest to x, and even where its neighbour is as near.
///
/// `value` grows with the magnitude bits; infinity, for rounding, stands where the next number
/// would be.
fn assert_nearest(what: &str, x: f32, half: u16, infinity: u16, value: fn(u16) -> f64) {
    let negative = half >> 15 == 1;
    assert_eq!(negative, x.is_sign_negative(), "{what}: sign of {x:e}");
    let half = half & 0x7fff;
    if x.is_infinite() {
        assert_eq!(half, infinity, "{what} of {x}");
        return;
    }
    let x = f64::from(x.abs());
    let distance = |h: u16| match h {
        h if h > infinity => f64::INFINITY,
        h if h == infinity => (2.0 * value(h - 1) - value(h - 2) - x).max(0.0),
        h => (value(h) - x).abs(),
    };
    let error = distance(half);
    for neighbour in [half.saturating_sub(1), half + 1] {
        let other = distance(neighbour);
        assert!(
            error < other || error == other && (half.is_multiple_of(2) || half == neighbour),
            "{what} of {x:e}: {half:#06x}, but {neighbour:#06x} is nearer or even"
        );
    }
}

#[test]
fn widening_is_exact_for_every_half_there_is() {
    let h: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let b: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    for k in tables() {
        let mut out = output(h.len());
        (k.f16_to_f32.run)(out.inside(), &h);
        for (h, got) in h.iter().zip(out.checked()) {
            if h.is_nan() {
                let bits = u32::from(h.to_bits());
                let want = (bits & 0x8000) << 16 | 0x7fc0_0000 | (bits & 0x3ff) << 13;
                assert_eq!(got.to_bits(), want, "{}", k.f16_to_f32.name);
            } else {
                assert_eq!(got.to_bits(), (h.to_f64() as f32).to_bits(), "{}", k.f16_to_f32.name);
            }
        }
        let mut out = output(b.len());
        (k.bf16_to_f32.run)(out.inside(), &b);
        for (b, got) in b.iter().zip(out.checked()) {
            assert_eq!(got.to_bits(), u32::from(b.to_bits()) << 16, "{}", k.bf16_to_f32.name);
        }
    }
}

#[test]
fn tails_of_conversions_stay_within_their_slices() {
    for len in 0..40 {
        let x: Vec<f32> = (0..len).map(|i| i as f32 * 0.75).collect();
        for k in tables() {
            let mut h = Guarded::new(len, f16::NAN, f16::MAX);
            (k.f32_to_f16.run)(h.inside(), &x);
            let mut back = output(len);
            (k.f16_to_f32.run)(back.inside(), h.checked());
            assert_eq!(back.checked(), x, "{}", k.f32_to_f16.name);
            let mut b = Guarded::new(len, bf16::NAN, bf16::MAX);
            (k.f32_to_bf16.run)(b.inside(), &x);
            let mut back = output(len);
            (k.bf16_to_f32.run)(back.inside(), b.checked());
            assert_eq!(back.checked(), x, "{}", k.f32_to_bf16.name);
        }
    }
}

/// Holds the codes of quotients to those of the format.
fn check_fp8(k: &Kernels, x: &[f32], divisor: f32) {
    let (mut e4m3, mut e5m2) =
        (Guarded::new(x.len(), E4m3(0xaa), E4m3(0x55)), Guarded::new(x.len(), E5m2(0xaa), E5m2(0x55)));
    (k.f32_to_e4m3.run)(e4m3.inside(), x, divisor);
    (k.f32_to_e5m2.run)(e5m2.inside(), x, divisor);
    let code = |format: Format, x: f32| match divisor {
        0.0 => 0,
        _ => format.encode(f64::from(x) / f64::from(divisor)) as u8,
    };
    for (x, (a, b)) in x.iter().zip(e4m3.checked().iter().zip(e5m2.checked())) {
        assert_eq!((a.0, b.0), (code(F8E4M3, *x), code(F8E5M2, *x)), "{}: {x:e} / {divisor:e}", k.f32_to_e4m3.name);
    }
}

#[test]
fn fp8_codes_are_those_of_the_format_on_every_tier() {
    // Every number of f32 that is near a border of either format, and both its neighbours.
    let mut near = Vec::new();
    for format in [F8E4M3, F8E5M2] {
        for code in 0..0x7f {
            let (low, high) = (format.decode(code), format.decode(code + 1));
            let middle = if high.is_finite() { (low + high) / 2.0 } else { low * 1.0625 };
            for x in [low, middle].map(|x| x as f32) {
                near.extend([x, x.next_down(), x.next_up(), -x, -x.next_down(), -x.next_up()]);
            }
        }
    }
    let strange = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::MAX, 1e-45, -1e-45];
    near.extend(strange);
    let all: Vec<f32> = patterns().into_iter().map(f32::from_bits).collect();
    let mut random = Random::new(22);
    for k in tables() {
        check_fp8(&k, &all, 1.0);
        for divisor in [1.0, 3.0, 0.1, 448.0, 1e-45, f32::MIN_POSITIVE, f32::MAX, 0.0, f32::INFINITY, f32::NAN] {
            check_fp8(&k, &near, divisor);
        }
        // Quotients at a border or a hair beside it.
        for _ in 0..200 {
            let divisor = f32::from_bits((random.bits() as u32 & 0x7f_ffff) | 0x3000_0000);
            let scaled: Vec<f32> = near.iter().map(|x| x * divisor).collect();
            check_fp8(&k, &scaled, divisor);
        }
        for len in 0..70 {
            check_fp8(&k, &near[100..100 + len], 0.7);
        }
    }
}

#[test]
fn the_largest_magnitude_is_found_wherever_it_is_and_nan_wins() {
    for k in tables() {
        assert_eq!((k.largest.run)(&[]), 0.0);
        for len in [1, 2, 15, 16, 17, 63, 64, 65, 200] {
            for at in 0..len {
                let mut x = vec![2.5; len];
                x[at] = -7.25;
                assert_eq!((k.largest.run)(&x), 7.25, "{} {at} of {len}", k.largest.name);
                x[at] = f32::NAN;
                assert!((k.largest.run)(&x).is_nan(), "{} {at} of {len}", k.largest.name);
            }
        }
    }
}
